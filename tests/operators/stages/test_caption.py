"""Captions of a small real video: measured with the real detectors, and asked of a server that speaks OpenAI's protocol."""

from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from operators.models.prompts import load_prompt
from operators.stage import Context
from operators.stages.caption import STAGE
from operators.store import Store
from schemas.config import BuildConfig, CaptionConfig
from schemas.tables import Annotation, Boundary, Caption, CaptionStatus, Clip, Cut, Reject, Video
from tests.support.rows import make_video

SECOND = 1_000_000
FPS = 5
PORTRAIT = Path(__file__).parents[1] / "measure" / "astronaut.jpg"


def film_frame(seconds: float) -> np.ndarray:
    """BGR. A title from 6 to 14 s, a sign from 16 to 18 s, a face from 20 s on; blue, from 20 s on white."""
    picture = np.full((360, 640, 3), (180, 90, 30) if seconds < 20 else (250, 250, 250), np.uint8)
    if 6 <= seconds < 14:
        cv2.putText(picture, "WELCOME HOME", (180, 60), cv2.FONT_HERSHEY_SIMPLEX, 1.1, (255, 255, 255), 2)
    if 16 <= seconds < 18:
        cv2.putText(picture, "EXIT 42", (480, 330), cv2.FONT_HERSHEY_SIMPLEX, 1.1, (255, 255, 255), 2)
    if seconds >= 20:
        picture[52:308, 192:448] = cv2.imread(str(PORTRAIT))
    return picture


@pytest.fixture(scope="module")
def film(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 640, 360, "yuv420p"
        for number in range(24 * FPS):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(film_frame(number / FPS), format="bgr24")))
        container.mux(stream.encode(None))
    return path


def make_clip(index: int, start: int, end: int, *shots: int) -> Clip:
    return Clip(
        clip_id=f"film_{start * SECOND:012d}",
        video_id="film",
        index=index,
        start_us=start * SECOND,
        end_us=end * SECOND,
        boundary=Boundary.SHOT,
        shot_starts_us=tuple(shot * SECOND for shot in shots),
        cut=Cut.NONE,
        uri=None,
        frame_count=(end - start) * FPS,
        motion=0.0,
        sharpness=100.0,
        brightness=0.4,
    )


CLIPS = [make_clip(0, 0, 10, 0), make_clip(1, 10, 16), make_clip(2, 16, 24, 20)]


def make_source(path: Path, *annotations: Annotation) -> Video:
    return make_video("film").model_copy(update={"uri": str(path), "annotations": annotations})


def note(kind: str, start: int, end: int, text: str) -> Annotation:
    return Annotation(kind=kind, start_us=start * SECOND, end_us=end * SECOND, text=text)


@pytest.fixture
def caption(tmp_path):
    """Runs the stage on one video: `caption(video, clips, models)` gives rows and rejects."""

    def run(video: Video, clips: list[Clip], models=None, **settings) -> list:
        config = BuildConfig(source=str(tmp_path), out=str(tmp_path), caption=CaptionConfig(**settings))
        scratch = tmp_path / "scratch"
        scratch.mkdir()
        prompts = {name: load_prompt(name) for name in STAGE.prompts}
        files = Store(str(tmp_path / "store"))
        return list(
            STAGE.run(Context("caption", "film", config, prompts, models or {}, files, scratch), [video], clips)
        )

    return run


def test_measured_captions_say_what_is_seen_and_when(film, caption):
    first, second, third = caption(make_source(film), CLIPS)
    assert first.text == (
        "From 00:00 to 00:10: a scene, mostly blue, still; one shot. "
        "The text 'WELCOME HOME' appears at the top centre from 00:06 to 00:10."
    )
    assert [(t.text, t.start_us // SECOND, t.end_us // SECOND) for t in second.screen_texts] == [
        ("WELCOME HOME", 10, 14)
    ]
    assert [(t.text, t.start_us // SECOND, t.end_us // SECOND) for t in third.screen_texts] == [("EXIT 42", 16, 18)]
    assert "two shots, the picture cuts at 00:20. A face is visible." in third.text
    assert [thing.label for thing in third.objects] == ["face"]
    assert third.objects[0].time_us in third.frame_times_us
    assert (second.colours, third.colours[0]) == (("blue",), "blue")


def test_a_text_across_a_clips_boundary_touches_it_from_both_sides(film, caption):
    first, second, _ = caption(make_source(film), CLIPS)
    assert first.screen_texts[0].end_us == second.screen_texts[0].start_us == 10 * SECOND
    assert first.screen_texts[0].text == second.screen_texts[0].text


def test_measured_captions_have_the_times_of_their_frames_and_no_model(film, caption):
    for clip, row in zip(CLIPS, caption(make_source(film), CLIPS, text_fps=2.0), strict=True):
        assert isinstance(row, Caption)
        assert len(row.frame_times_us) == 2 * (clip.end_us - clip.start_us) // SECOND
        assert all(clip.start_us <= time < clip.end_us for time in row.frame_times_us)
        assert row.status is CaptionStatus.OK
        assert row.provenance.model == "measured"


def test_speech_that_reaches_into_a_clip_is_heard_in_it(film, caption):
    video = make_source(film, note("speech", 8, 11, "Come in!"), note("caption", 0, 24, "A house."))
    assert [row.speech for row in caption(video, CLIPS)] == ["Come in!", "Come in!", ""]


def test_the_same_video_gives_the_same_captions(film, caption, tmp_path):
    once = caption(make_source(film), CLIPS)
    (tmp_path / "scratch").rmdir()
    assert caption(make_source(film), CLIPS) == once


def test_a_video_that_cannot_be_decoded_is_one_reject(film, caption, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"\0" * 4096)
    (row,) = caption(make_source(broken), CLIPS)
    assert isinstance(row, Reject)
    assert row.key == "film"
    assert "broken.mp4" in row.message

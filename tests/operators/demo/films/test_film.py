"""Films are rendered for real and read back with another decoder (PyAV) and with OCR."""

import resource
import shutil
import subprocess
import sys
from itertools import pairwise

import av
import numpy as np
import pytest

from operators.demo.films.film import FilmRenderError, render_film, truth_path_of
from operators.demo.films.script import FRAME_US, FilmTruth


@pytest.fixture(scope="session")
def frames(short_film) -> list[np.ndarray]:
    with av.open(str(short_film.path)) as container:
        return [frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)]


@pytest.fixture(scope="session")
def read_texts():
    from rapidocr import RapidOCR

    options = {"Global.log_level": "error", "Det.limit_type": "max", "Det.limit_side_len": 480, "Global.use_cls": False}
    engine = RapidOCR(params=options)
    return lambda frame: list(engine(frame).txts or ())


def test_the_file_has_the_frames_the_times_and_the_codecs_of_its_truth(short_film):
    truth = short_film.truth
    with av.open(str(short_film.path)) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        times = [round(frame.pts * frame.time_base * 1_000_000) for frame in container.decode(video=0)]
        assert (video.codec_context.name, video.format.name, audio.codec_context.name) == ("h264", "yuv420p", "aac")
        assert (video.width, video.height, video.average_rate) == (truth.width, truth.height, truth.fps)
        assert round(audio.duration * audio.time_base * 1_000_000) == pytest.approx(truth.duration_us, abs=FRAME_US)
    assert times == [frame * FRAME_US for frame in range(truth.frame_count)]
    assert truth.duration_us == 8_800_000
    assert short_film.path.read_bytes().index(b"moov") < short_film.path.read_bytes().index(b"mdat")


def test_pictures_jump_exactly_at_the_hard_cuts_and_nowhere_else(short_film, frames):
    small = [frame[::8, ::8].astype(int) for frame in frames]
    jumps = [np.abs(after - before).mean() for before, after in pairwise(small)]
    cuts = {shot.start_us // FRAME_US for shot in short_film.truth.shots[1:] if shot.transition == "cut"}
    (flash,) = short_film.truth.distractors
    flashing = range(flash.start_us // FRAME_US, flash.end_us // FRAME_US + 1)
    assert {frame for frame, jump in enumerate(jumps, 1) if jump > 25 and frame not in flashing} == cuts
    assert jumps[flashing[0] - 1] > 25


def test_a_dissolve_runs_over_its_span_and_only_there(short_film, frames):
    shot = short_film.truth.shots[2]
    start, end = shot.transition_start_us // FRAME_US, shot.transition_end_us // FRAME_US
    before, after = frames[start - 1].astype(float), frames[end].astype(float)
    way = after - before
    share = [((frames[n] - before) * way).sum() / (way * way).sum() for n in range(start, end)]
    assert share == pytest.approx([(n + 0.5) / (end - start) for n in range(end - start)], abs=0.04)
    assert (start, end) == (100, 120)
    assert np.abs(frames[end].astype(float) - frames[end + 8]).mean() < 2


def test_a_fade_is_darkest_at_the_shot_boundary(short_film, frames):
    shot = short_film.truth.shots[3]
    start, end = shot.transition_start_us // FRAME_US, shot.transition_end_us // FRAME_US
    light = [frame.mean() for frame in frames[start:end]]
    boundary = shot.start_us // FRAME_US - start
    assert max(light[boundary - 1], light[boundary]) < 0.08 * frames[end].mean()
    assert light[:boundary] == sorted(light[:boundary], reverse=True)
    assert light[boundary:] == sorted(light[boundary:])


def test_texts_can_be_read_in_their_first_and_last_frame_and_not_outside(short_film, frames, read_texts):
    for text in short_film.truth.texts:
        first, end = text.start_us // FRAME_US, text.end_us // FRAME_US
        assert text.text in read_texts(frames[first])
        assert text.text in read_texts(frames[end - 1])
        assert text.text not in read_texts(frames[first - 1]) + read_texts(frames[end])


def test_the_letters_fill_their_box(short_film, frames):
    sign = short_film.truth.texts[1]
    with_sign, without = (
        frames[sign.start_us // FRAME_US].astype(int),
        frames[sign.start_us // FRAME_US - 1].astype(int),
    )
    rows, columns = np.nonzero(np.abs(with_sign - without).max(axis=2)[:180, :400] > 60)
    border = 12
    assert abs(columns.min() - sign.box.left) <= border
    assert abs(columns.max() + 1 - sign.box.right) <= border
    assert abs(rows.min() - sign.box.top) <= border
    assert abs(rows.max() + 1 - sign.box.bottom) <= border


def test_the_red_car_is_visible_when_and_where_the_truth_records_it(short_film, frames):
    shot = short_film.truth.shots[1]
    (car,) = shot.objects
    (span,) = car.visible
    road = frames[shot.start_us // FRAME_US][290:345]

    def changed_columns(frame: int) -> np.ndarray:
        return np.nonzero(np.abs(frames[frame][290:345].astype(int) - road).max(axis=2) > 60)[1]

    first, end = span.start_us // FRAME_US, span.end_us // FRAME_US
    assert not changed_columns(first - 2).size
    assert changed_columns(first + 2).size and changed_columns(first + 2).max() < 60
    assert changed_columns(end - 3).size and changed_columns(end - 3).min() > 560
    assert car.direction == "left_to_right"
    (event,) = short_film.truth.events
    assert (event.start_us, event.end_us) == (span.start_us, span.end_us)


def test_the_sound_is_silent_where_the_script_has_none_and_the_horn_sounds_with_its_event(short_film):
    with av.open(str(short_film.path)) as container:
        rate = container.streams.audio[0].rate
        parts = [frame.to_ndarray().mean(axis=0) for frame in container.decode(audio=0) if frame.pts >= 0]
    sound = np.concatenate(parts)

    def loudness(start_us: int, end_us: int) -> float:
        return float(np.sqrt(np.mean(sound[start_us * rate // 1_000_000 : end_us * rate // 1_000_000] ** 2)))

    (event,) = short_film.truth.events
    assert loudness(300_000, 1_700_000) > 0.02
    assert loudness(2_100_000, event.start_us - 50_000) < 0.002
    assert loudness(event.start_us + 50_000, event.start_us + 1_000_000) > 0.1


def test_a_second_rendering_is_the_same_byte_for_byte(short_script, short_film, tmp_path):
    again = render_film(short_script, tmp_path)
    assert again.path.read_bytes() == short_film.path.read_bytes()
    assert truth_path_of(again.path).read_bytes() == truth_path_of(short_film.path).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["short_film.mp4", "short_film.truth.json"]


def test_a_whole_film_is_reused_and_a_damaged_or_changed_one_is_not(short_script, short_film, tmp_path):
    brief = short_script.model_copy(update={"shots": short_script.shots[:1]})
    first = render_film(brief, tmp_path)
    assert not first.reused
    written = first.path.stat().st_mtime_ns
    assert render_film(brief, tmp_path).reused
    assert first.path.stat().st_mtime_ns == written

    whole = first.path.read_bytes()
    first.path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert not render_film(brief, tmp_path).reused
    assert first.path.read_bytes() == whole

    truth_path_of(first.path).write_text('{"film_id": "short_film"')
    assert not render_film(brief, tmp_path).reused
    assert not render_film(brief.model_copy(update={"title": "Another"}), tmp_path).reused


def test_the_truth_file_reads_back_as_it_was(short_film):
    text = truth_path_of(short_film.path).read_text(encoding="utf-8")
    assert FilmTruth.model_validate_json(text) == short_film.truth


@pytest.mark.parametrize(
    ("executable", "complaint"),
    [("/nowhere/ffmpeg", "No such file or directory"), (shutil.which("false"), "non-zero exit status 1")],
)
def test_a_missing_or_failing_ffmpeg_is_explained_and_leaves_nothing(short_script, tmp_path, executable, complaint):
    code = (
        "import sys; from pathlib import Path; from operators.demo.films.film import render_film\n"
        "from operators.demo.films.script import FilmScript\n"
        "render_film(FilmScript.model_validate_json(sys.argv[1]), Path(sys.argv[2]))"
    )
    environment = {"PATH": "", "IMAGEIO_FFMPEG_EXE": executable, "PYTHONPATH": ":".join(sys.path)}
    command = [sys.executable, "-c", code, short_script.model_dump_json(), str(tmp_path)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert f"FfmpegUnusable: {executable} cannot be started" in ended.stderr and complaint in ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_explained_and_leaves_nothing(short_script, tmp_path):
    """A limit on the file size replaces the full disk: it stops the same write."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(FilmRenderError, match=r"film short_film: cannot be rendered into .*File too large"):
            render_film(short_script, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []

"""The frames of each clip that `caption` sends or measures, from a small generated video."""

from fractions import Fraction
from itertools import pairwise

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.vision.frame_selection import sample_clip_frames, spread
from schemas.tables import Boundary, Clip, Cut

MILLISECOND = 1_000


def clip(start_ms: int, end_ms: int) -> Clip:
    return Clip(
        clip_id=f"v_{start_ms * MILLISECOND:012d}",
        video_id="v",
        index=0,
        start_us=start_ms * MILLISECOND,
        end_us=end_ms * MILLISECOND,
        boundary=Boundary.FIXED,
        shot_starts_us=(),
        cut=Cut.NONE,
        uri=None,
        frame_count=1,
        motion=0.0,
        sharpness=100.0,
        black=0.0,
        frozen=0.0,
        brightness=0.5,
    )


def write_video(path, starts_ms: list[int], end_ms: int) -> None:
    """Writes a video whose frames start at these times (ms). Their brightness identifies them: 20, 40, 60, ..."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 128, 72, "yuv420p"
        stream.codec_context.time_base = stream.time_base = Fraction(1, 1000)
        for index, (start, end) in enumerate(zip(starts_ms, [*starts_ms[1:], end_ms], strict=True)):
            frame = av.VideoFrame.from_ndarray(np.full((72, 128, 3), 20 * (index + 1), np.uint8), format="rgb24")
            frame.pts, frame.time_base, frame.duration = start, Fraction(1, 1000), end - start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


@given(start=st.integers(0, 10**10), length=st.integers(1, 10**8), count=st.integers(1, 64))
def test_cells_tile_the_span_evenly(start, length, count):
    cells = spread(start, start + length, count)
    assert len(cells) == min(count, length)
    assert (cells[0].start_us, cells[-1].end_us) == (start, start + length)
    assert all(a.end_us == b.start_us for a, b in pairwise(cells))
    lengths = {cell.end_us - cell.start_us for cell in cells}
    assert max(lengths) - min(lengths) <= 1


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    """Video of five images, the second of which is on screen for three seconds."""
    path = tmp_path_factory.mktemp("video") / "slides.mp4"
    write_video(path, [0, 1_000, 4_000, 5_000, 6_000], 7_000)
    return path


def test_each_clip_gets_the_frames_on_screen_in_the_middle_of_its_cells(slides):
    first, second = sample_clip_frames(slides, [clip(0, 4_000), clip(4_000, 7_000)], [4, 3], 128)
    assert [(each.time_us, each.cell.start_us, each.cell.end_us) for each in first] == [
        (0, 0, 1_000_000),
        (1_000_000, 1_000_000, 4_000_000),  # one image, three cells
    ]
    assert [each.time_us for each in second] == [4_000_000, 5_000_000, 6_000_000]
    assert [round(float(each.rgb.mean()), -1) for each in first + second] == [20, 40, 60, 80, 100]


def test_a_picture_that_was_there_before_counts_from_the_clips_start(slides):
    (samples,) = sample_clip_frames(slides, [clip(2_500, 3_500)], [2], 128)
    assert [each.time_us for each in samples] == [2_500_000]
    assert (samples[0].cell.start_us, samples[0].cell.end_us) == (2_500_000, 3_500_000)

"""The frames of each clip that `caption` sends or measures, from a small generated video."""

from fractions import Fraction
from itertools import pairwise

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.vision.frame_selection import FrameSampling, sample_clip_frames, spread, spread_over_shots
from schemas.tables import Boundary, Clip, Cut

MILLISECOND = 1_000


def clip(start_ms: int, end_ms: int, *shots_ms: int) -> Clip:
    return Clip(
        clip_id=f"v_{start_ms * MILLISECOND:012d}",
        video_id="v",
        index=0,
        start_us=start_ms * MILLISECOND,
        end_us=end_ms * MILLISECOND,
        boundary=Boundary.FIXED,
        shot_starts_us=tuple(shot * MILLISECOND for shot in shots_ms),
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
    cells = [spread(0, 4_000_000, 4), spread(4_000_000, 7_000_000, 3)]
    [first], [second] = sample_clip_frames(slides, [clip(0, 4_000), clip(4_000, 7_000)], [FrameSampling(cells, 128)])
    assert [(each.time_us, each.cell.start_us, each.cell.end_us) for each in first] == [
        (0, 0, 1_000_000),
        (1_000_000, 1_000_000, 4_000_000),  # one image, three cells
    ]
    assert [each.time_us for each in second] == [4_000_000, 5_000_000, 6_000_000]
    assert [round(float(each.rgb.mean()), -1) for each in first + second] == [20, 40, 60, 80, 100]


def test_a_picture_that_was_there_before_counts_from_the_clips_start(slides):
    cells = [spread(2_500_000, 3_500_000, 2)]
    [[samples]] = sample_clip_frames(slides, [clip(2_500, 3_500)], [FrameSampling(cells, 128)])
    assert [each.time_us for each in samples] == [2_500_000]
    assert (samples[0].cell.start_us, samples[0].cell.end_us) == (2_500_000, 3_500_000)


def test_two_samplings_of_one_decode_have_their_own_frames_and_sizes(slides):
    clips = [clip(0, 4_000), clip(4_000, 7_000)]
    few = FrameSampling([spread(each.start_us, each.end_us, 1) for each in clips], 56)
    many = FrameSampling([spread(each.start_us, each.end_us, 3) for each in clips], 128, multiple=2)
    alone = [list(sample_clip_frames(slides, clips, [sampling])) for sampling in (few, many)]
    both = list(sample_clip_frames(slides, clips, [few, many]))
    for index, sampling in enumerate((few, many)):
        for shared, own in zip(both, alone[index], strict=True):
            assert [(each.time_us, each.cell) for each in shared[index]] == [
                (each.time_us, each.cell) for each in own[0]
            ]
            assert {max(each.rgb.shape) for each in shared[index]} == {sampling.side}
            for one, other in zip(shared[index], own[0], strict=True):
                assert float(one.rgb.mean()) == pytest.approx(float(other.rgb.mean()), abs=3)


def test_every_shot_of_a_clip_has_a_cell_while_there_are_enough():
    cells = spread_over_shots(clip(0, 10_000, 0, 9_000, 9_500), 8)
    assert (cells[0].start_us, cells[-1].end_us) == (0, 10_000_000)
    assert [(each.start_us, each.end_us) for each in cells[-2:]] == [(9_000_000, 9_500_000), (9_500_000, 10_000_000)]
    assert len(cells) == 8 and all(each.end_us <= 9_000_000 for each in cells[:-2])


def test_more_shots_than_frames_are_sampled_evenly():
    crowded = clip(0, 10_000, *range(0, 10_000, 1_000))
    assert spread_over_shots(crowded, 4) == spread(0, 10_000_000, 4)
    assert spread_over_shots(clip(0, 10_000), 4) == spread(0, 10_000_000, 4)


@given(count=st.integers(1, 32), shots=st.lists(st.integers(1, 9_999), unique=True, max_size=12))
def test_cells_over_shots_tile_the_clip_and_cross_no_cut(count, shots):
    found = clip(0, 10_000, *sorted(shots))
    cells = spread_over_shots(found, count)
    assert (len(cells), cells[0].start_us, cells[-1].end_us) == (count, 0, 10_000_000)
    assert all(a.end_us == b.start_us for a, b in pairwise(cells))
    if len(shots) < count:
        assert {shot * MILLISECOND for shot in shots} <= {each.start_us for each in cells}

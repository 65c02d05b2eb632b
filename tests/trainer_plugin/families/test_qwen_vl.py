"""Positions and video tokens match Hugging Face's code where it is correct, and Qwen's original code elsewhere."""

import hashlib
from collections.abc import Sequence
from fractions import Fraction
from random import Random

import numpy as np
import pytest
import torch
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize as qwen2_size
from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor
from transformers.models.qwen3_vl.video_processing_qwen3_vl import smart_resize as qwen3_size
from transformers.video_utils import VideoMetadata

from schemas.frame_policy import frame_times
from tests.support.properties import given, settings, st
from tests.trainer_plugin.parity import (
    END_ID,
    START_ID,
    VIDEO_ID,
    Clip,
    Draft,
    Words,
    make_samples,
    positions_are_right,
    tiny_config,
    tiny_family,
    tiny_model,
)
from trainer_plugin.families.qwen_vl import SECOND_US, Qwen3VL, Qwen25VL
from trainer_plugin.types import Grid

models = {name: tiny_model(name) for name in ("qwen2_5_vl", "qwen3_vl")}
families = {name: tiny_family(name) for name in models}

steps = st.sampled_from([33_333, 40_000, 100_000, 500_000, 1_000_000])
clips = st.builds(Clip, st.integers(1, 6), st.integers(1, 4), st.integers(1, 4), steps)
drafts = st.lists(clips | st.integers(1, 6), min_size=1, max_size=5).map(lambda pieces: Draft((1, *pieces)))


def theirs(name, example):
    """Positions of the example from transformers, [3, tokens]."""
    grids = torch.tensor([[clip.grid.t, clip.grid.h, clip.grid.w] for clip in example.videos])
    seconds = [2 * clip.frame_times_us[1] / 1e6 for clip in example.videos]
    positions, _ = models[name].model.get_rope_index(
        example.input_ids[None],
        mm_token_type_ids=2 * (example.input_ids == VIDEO_ID).int()[None],
        video_grid_thw=grids,
        second_per_grid_ts=torch.tensor(seconds),
    )
    return positions[:, 0]


def of_vllm(patches: int, seconds: float, tokens_per_second: float) -> np.ndarray:
    """Time positions of a video as vLLM 0.26 computes them from `second_per_grid_ts`, with the same data types."""
    factor = torch.tensor([seconds], dtype=torch.float32).item() * tokens_per_second
    return (np.indices((patches, 1, 1))[0].ravel() * factor).astype(np.int64)


def time_positions(times: Sequence[int], tokens_per_second: float = 2) -> np.ndarray:
    """Time positions of a video with one token per temporal patch."""
    family = Qwen25VL(tiny_config("qwen2_5_vl"), {})
    family.tokens_per_second = tokens_per_second
    patches = len(times) // 2
    return family.positions(torch.tensor([VIDEO_ID] * patches), [(Grid(patches, 2, 2), times)])[0].numpy()


def positions_by_the_first_rule(example, tokens_per_second):
    """Positions by the original rule of Qwen2.5-VL: text continues after the largest position so far."""
    videos = iter(example.videos)
    positions, following, ids = [], 0, example.input_ids.tolist()
    while len(positions) < len(ids):
        if ids[len(positions)] != VIDEO_ID:
            positions.append([following] * 3)
        else:
            clip = next(videos)
            seconds = 2 * clip.frame_times_us[1] / 1e6
            positions += [
                [following + int(t * tokens_per_second * seconds + 1e-6), following + y, following + x]
                for t in range(clip.grid.t)
                for y in range(clip.grid.h // 2)
                for x in range(clip.grid.w // 2)
            ]
        following = max(map(max, positions)) + 1
    return torch.tensor(positions).T


@settings(deadline=None)
@given(drafts)
def test_positions_of_qwen2_5_are_transformers_where_those_are_right(draft):
    [sample] = make_samples(families["qwen2_5_vl"], [draft])
    assert torch.equal(sample.example.positions, positions_by_the_first_rule(sample.example, 2))
    if sample.example.videos and positions_are_right(models["qwen2_5_vl"], sample.example):
        assert torch.equal(sample.example.positions, theirs("qwen2_5_vl", sample.example))


@settings(deadline=None)
@given(drafts)
def test_positions_of_qwen3_are_transformers(draft):
    [sample] = make_samples(families["qwen3_vl"], [draft])
    if sample.example.videos:
        assert torch.equal(sample.example.positions, theirs("qwen3_vl", sample.example))


def test_a_time_that_float32_puts_below_a_whole_number_is_truncated_as_in_vllm():
    """Measured in vLLM 0.26 with 75 temporal patches of 1.4 s: 14 positions are one lower than the exact product."""
    found = time_positions([700_000 * number for number in range(150)])
    exact = np.array([14 * patch // 5 for patch in range(75)])
    assert found[:16].tolist() == [0, 2, 5, 8, 11, 13, 16, 19, 22, 25, 27, 30, 33, 36, 39, 41]
    assert np.flatnonzero(found != exact).tolist() == list(range(5, 75, 5))
    assert set(exact - found) == {0, 1}


@settings(deadline=None)
@given(
    st.integers(2, 1800),
    st.integers(1, 400).map(lambda hundredths: hundredths * 10_000) | st.integers(1, 4 * SECOND_US),
    st.integers(0, SECOND_US),
    st.sampled_from([1, 2, 4, 25, 1.5]),
)
def test_times_are_vllms_at_every_step_and_length(patches, step_us, first_us, tokens_per_second):
    times = [first_us + step_us * number for number in range(2 * patches)]
    expected = of_vllm(patches, 2 * step_us / SECOND_US, tokens_per_second)
    assert np.array_equal(time_positions(times, tokens_per_second), expected)


def test_times_of_long_videos_are_vllms():
    """Compare 100 videos of 1,200 to 3,600 frames, evenly spread over 10 to 60 minutes.

    The hash is that of the positions from vLLM's formula.
    """
    random, digest, unlike = Random(0), hashlib.sha256(), 0
    for _ in range(100):
        frames, duration_us = 2 * random.randint(600, 1800), random.randint(600 * SECOND_US, 3600 * SECOND_US)
        times = frame_times(duration_us, frames)
        found, seconds = time_positions(times), seconds_between(times)
        assert np.array_equal(found, of_vllm(frames // 2, seconds, 2))
        digest.update(found.astype("<i8").tobytes())
        unlike += not np.array_equal(found, (torch.arange(frames // 2) * (2 * seconds)).long().numpy())
    assert digest.hexdigest() == "3fe7acef08b7d67113e0d19c9febddfd82193465ecfbff1351a11abde7a996dc"
    assert unlike == 2  # positions from a product in float32 differ for two videos


def seconds_between(times: Sequence[int]) -> float:
    """Mean seconds between the starts of temporal patches, rounded once."""
    starts = times[::2]
    return float(Fraction(starts[-1] - starts[0], (len(starts) - 1) * SECOND_US))


@given(st.integers(1, 1800), st.integers(1, 3 * 3600 * SECOND_US))
def test_seconds_are_the_processors_to_a_microsecond(patches, duration_us):
    """Compare with `temporal_patch_size / sampled_fps` of the processor for evenly spread frames."""
    frames = 2 * patches
    metadata = VideoMetadata(
        total_num_frames=frames, fps=frames / (duration_us / SECOND_US), frames_indices=list(range(frames))
    )
    seconds = families["qwen2_5_vl"].seconds_per_temporal_patch(frame_times(duration_us, frames))
    assert seconds == pytest.approx(1.0 if patches == 1 else 2 / metadata.sampled_fps, abs=1e-6)


def test_time_counts_in_seconds_and_text_follows_the_longest_side():
    family = families["qwen2_5_vl"]
    ids = torch.tensor([1, START_ID, *[VIDEO_ID] * 6, END_ID, 2])
    positions = family.positions(ids, [(Grid(3, 2, 4), [0, 500_000, 1_000_000, 1_500_000, 2_000_000, 2_500_000])])
    assert positions.tolist() == [
        [0, 1, 2, 2, 4, 4, 6, 6, 7, 8],
        [0, 1, 2, 2, 2, 2, 2, 2, 7, 8],
        [0, 1, 2, 3, 2, 3, 2, 3, 7, 8],
    ]


def test_uneven_frame_times_count_with_their_mean_step():
    family = families["qwen2_5_vl"]
    assert family.seconds_per_temporal_patch([0, 400_000, 1_000_000, 1_100_000, 3_000_000, 3_500_000]) == 1.5
    assert family.seconds_per_temporal_patch([0, 0]) == 1.0


@pytest.mark.parametrize(
    ("count", "grids", "message"),
    [
        (5, [Grid(1, 4, 6)], "5 video tokens do not fit"),
        (7, [Grid(1, 4, 6)], "7 video tokens do not fit"),
        (6, [Grid(1, 4, 6), Grid(2, 2, 2)], r"there are no video tokens for \[Grid\(t=2, h=2, w=2\)\]"),
    ],
)
def test_video_tokens_that_do_not_fit_their_grids_are_refused(count, grids, message):
    ids = torch.tensor([1, START_ID, *[VIDEO_ID] * count, END_ID])
    with pytest.raises(ValueError, match=message):
        families["qwen2_5_vl"].positions(ids, [(grid, [0, 0] * grid.t) for grid in grids])


def test_a_video_of_qwen2_5_is_one_run_of_tokens():
    ids = families["qwen2_5_vl"].video_ids(Words(), Grid(2, 4, 6), [0, 1, 2, 3], 4)
    assert ids == [START_ID, *[VIDEO_ID] * 12, END_ID]


class Letters:
    """Tokenizer that returns every text unchanged as its only token."""

    def encode(self, text, add_special_tokens=False):
        return [text]


@given(st.integers(1, 30), st.sampled_from([1, 2, 2.5, 4, 5, 8, 10, 20, 25, 50, 29.97]), st.integers(1, 200))
def test_a_video_of_qwen3_has_the_timestamps_of_its_processor(patches, fps, every):
    indices = [every * number for number in range(2 * patches)]
    times = [round(index / fps * 1e6) for index in indices]
    ids = families["qwen3_vl"].video_ids(Letters(), Grid(patches, 2, 4), times, 2 * times[-1])
    seconds = Qwen3VLProcessor._calculate_timestamps(None, indices, fps, 2)
    if fps == 29.97:  # the frame times are not whole microseconds
        timestamps = [float(text.removeprefix("<").removesuffix(" seconds>")) for text in ids[::5]]
        assert timestamps == pytest.approx(seconds, abs=0.0501)
    else:
        assert ids[::5] == [f"<{second:.1f} seconds>" for second in seconds]
    assert ids[1:5] == [START_ID, VIDEO_ID, VIDEO_ID, END_ID]
    assert len(ids) == 5 * patches


def expand_as_vllm(name: str, ids: list[int], grid: Grid, timestamps: Sequence[float]) -> list[int | str]:
    """The prompt that vLLM 0.26 runs for ids with one video token, with transformers from 5.10 on.

    It replaces the token by what `_get_prompt_updates` of its `qwen2_vl.py` and `qwen3_vl.py` insert.
    """
    tokens = grid.t * grid.h * grid.w // 4
    inserted: list[int | str] = [VIDEO_ID] * tokens
    if name == "qwen3_vl":
        frame = [START_ID, *[VIDEO_ID] * (tokens // grid.t), END_ID]
        inserted = [id for seconds in timestamps for id in (f"<{seconds:.1f} seconds>", *frame)]
    [place] = [index for index, id in enumerate(ids) if id == VIDEO_ID]
    return [*ids[:place], *inserted, *ids[place + 1 :]]


@pytest.mark.parametrize("name", families)
@pytest.mark.parametrize("patches", [1, 3])
def test_vllm_expands_the_placeholder_to_the_trainers_ids(name, patches):
    grid, times = Grid(patches, 4, 6), [number * 500_000 for number in range(2 * patches)]
    expanded = families[name].video_ids(Letters(), grid, times, times[-1])
    timestamps = Qwen3VLProcessor._calculate_timestamps(None, list(range(2 * patches)), 2.0, 2)
    assert expand_as_vllm(name, [5, *families[name].placeholder_ids(), 6], grid, timestamps) == [5, *expanded, 6]


def test_only_the_placeholder_of_qwen2_5_has_markers_around_it():
    assert families["qwen2_5_vl"].placeholder_ids() == [START_ID, VIDEO_ID, END_ID]
    assert families["qwen3_vl"].placeholder_ids() == [VIDEO_ID]  # vLLM inserts those of each temporal patch


SIZE = {"shortest_edge": 4096, "longest_edge": 25_165_824}
"""Size of the published video processor of Qwen3-VL (video_preprocessor_config.json of Qwen/Qwen3-VL-8B-Instruct)."""
PIXELS = {"min_pixels": 3136, "max_pixels": 12_845_056}
"""Pixel limits per frame of Qwen2.5-VL (preprocessor_config.json of Qwen/Qwen2.5-VL-7B-Instruct)."""
OF_THE_CLASS = {"shortest_edge": 131_072, "longest_edge": 786_432}
"""Size defaults of the video processor class in transformers, used without a model folder."""
sides = st.integers(16, 2200)


def frame_size_or_zero(family, height: int, width: int, frames: int, max_tokens: int | None = None) -> tuple[int, int]:
    """Frame size (height, width); (0, 0) if one side is too long, which transformers refuses too."""
    try:
        return family.frame_size(height, width, frames, max_tokens)
    except ValueError:
        return 0, 0


def expected_size(resize, *sizes: int, **limits: int) -> tuple[int, int]:
    try:
        return resize(*sizes, **limits)
    except ValueError:
        return 0, 0


@settings(deadline=None)
@given(sides, sides, st.integers(2, 3600), st.sampled_from([{}, SIZE, OF_THE_CLASS]))
def test_frames_of_qwen3_are_as_large_as_its_processor_makes_them(height, width, frames, size):
    family = Qwen3VL(tiny_config("qwen3_vl"), {"size": size} if size else {})
    limits = {"min_pixels": (size or SIZE)["shortest_edge"], "max_pixels": (size or SIZE)["longest_edge"]}
    expected = expected_size(qwen3_size, frames, height, width, temporal_factor=2, factor=32, **limits)
    assert frame_size_or_zero(family, height, width, frames) == expected


@settings(deadline=None)
@given(sides, sides, st.integers(1, 3600), st.sampled_from([{}, PIXELS, {"size": SIZE}, {"size": SIZE, **PIXELS}]))
def test_frames_of_qwen2_5_are_as_large_as_its_processor_makes_them(height, width, frames, processor):
    family = Qwen25VL(tiny_config("qwen2_5_vl"), processor)
    size = processor.get("size", {"shortest_edge": 128 * 28**2, "longest_edge": 768 * 28**2})
    least, most = processor.get("min_pixels", size["shortest_edge"]), processor.get("max_pixels", size["longest_edge"])
    expected = expected_size(qwen2_size, height, width, factor=28, min_pixels=least, max_pixels=most)
    assert frame_size_or_zero(family, height, width, frames) == expected


def test_the_budget_of_qwen3_is_the_published_one_unless_a_setting_lowers_or_raises_it():
    family = families["qwen3_vl"]
    grids = {tokens: family.grid(*family.frame_size(1080, 1920, 512, tokens), 512) for tokens in (None, 4_096, 49_152)}
    tokens = {limit: grid.t * family.tokens_per_temporal_patch(grid) for limit, grid in grids.items()}
    assert tokens == {None: 11_520, 4_096: 3_840, 49_152: 46_080}


def test_a_cap_that_is_not_supported_is_refused():
    with pytest.raises(ValueError, match="asks for cap_pixels_per_frame, which is not supported; set that to false"):
        Qwen3VL(tiny_config("qwen3_vl"), {"cap_pixels_per_frame": True})


@pytest.mark.parametrize(("name", "factor"), [("qwen2_5_vl", 28), ("qwen3_vl", 32)])
@given(
    height=st.integers(40, 2200),
    width=st.integers(40, 2200),
    patches=st.integers(1, 400),
    max_tokens=st.none() | st.integers(400, 20_000),
)
def test_frames_fit_patches_and_the_token_budget(name, factor, height, width, patches, max_tokens):
    family = families[name]
    rows, columns = family.frame_size(height, width, 2 * patches, max_tokens)
    assert (rows % factor, columns % factor) == (0, 0)
    grid = family.grid(rows, columns, 2 * patches)
    tokens = grid.t * family.tokens_per_temporal_patch(grid)
    if max_tokens is not None and min(rows, columns) > factor:
        assert tokens <= max_tokens

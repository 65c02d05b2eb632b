from pathlib import Path

import pytest
import torch

from schemas.answer_format import Target
from schemas.frame_policy import FramePolicy
from schemas.tables import Split
from tests.support.videos import number_on
from tests.trainer_plugin.support import FPS, TinyFamily, byte_tokenizer, numbered_film, release_of
from trainer_plugin.data import row_loader as loader_module
from trainer_plugin.data.features import FeatureFolder
from trainer_plugin.data.packing import RowStream, mask_labels
from trainer_plugin.data.row_loader import RowLoader
from trainer_plugin.data.samples import ReleaseDataset
from trainer_plugin.types import Example, FrameRange, Grid, PackedRow, VideoClip, VideoSource

SECONDS = {"film0": 2.0, "film1": 3.0, "film2": 1.0}


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    folder = tmp_path_factory.mktemp("release")
    return release_of(folder, [numbered_film(folder, name, seconds) for name, seconds in SECONDS.items()])


def rows_of(url, **options) -> RowStream:
    policy = FramePolicy(fps=4.0)
    dataset = ReleaseDataset(url, Split.SFT, TinyFamily(), byte_tokenizer(), policy=policy, target=Target.ANSWER)
    return RowStream(dataset, 800, seed=3, **options)


def plan_of(rank: int, ranks: int):
    """Planner that assigns temporal patches round-robin to the ranks; the plan is their number."""

    def plan(row: PackedRow) -> tuple[int, list[FrameRange]]:
        clips = [clip for example in row.examples for clip in example.videos]
        ranges = [
            FrameRange(video, patch, patch + 1) for video, clip in enumerate(clips) for patch in range(clip.grid.t)
        ]
        return len(ranges), ranges[rank::ranks]

    return plan


def plan_all_frames(row: PackedRow) -> tuple[None, list[FrameRange]]:
    clips = [clip for example in row.examples for clip in example.videos]
    return None, [FrameRange(video, 0, clip.grid.t) for video, clip in enumerate(clips)]


def keys(loaded):
    return [example.key for example in loaded.packed.examples]


def test_a_rank_decodes_exactly_the_frames_that_it_encodes(url):
    for rank in range(2):
        with RowLoader(rows_of(url, epochs=1), plan_of(rank, 2), workers=0) as loader:
            for loaded in loader:
                clips = [clip for example in loaded.packed.examples for clip in example.videos]
                assert len(loaded.frame_ranges) == len(loaded.pixels) == (loaded.plan - rank + 1) // 2
                for frame_range, frames in zip(loaded.frame_ranges, loaded.pixels, strict=True):
                    clip = clips[frame_range.video]
                    times = clip.frame_times_us[2 * frame_range.first : 2 * frame_range.end]
                    assert frames.dtype == torch.uint8
                    assert [number_on(frame.numpy()) for frame in frames] == [time * FPS // 10**6 for time in times]
                assert not loaded.failed.any()


def test_rows_do_not_depend_on_workers_and_resume_from_any_row(url):
    with RowLoader(rows_of(url, epochs=2), plan_all_frames, workers=0) as loader:
        expected = [(keys(loaded), loaded.pixels, loader.state_dict()) for loaded in loader]
    assert len(expected) > 3
    for workers in (1, 2):
        with RowLoader(rows_of(url, epochs=2), plan_all_frames, workers=workers, ahead=workers) as loader:
            found = list(loader)
            assert [keys(loaded) for loaded in found] == [names for names, _, _ in expected]
            for loaded, (_, pixels, _) in zip(found, expected, strict=True):
                assert all(torch.equal(a, b) for a, b in zip(loaded.pixels, pixels, strict=True))
            for cut, (_, _, state) in enumerate(expected):
                loader.load_state_dict(state)
                assert [keys(loaded) for loaded in loader] == [names for names, _, _ in expected[cut + 1 :]]


def row_with(*sources: VideoSource) -> PackedRow:
    def example(source):
        clip = VideoClip(source, (0, 500_000), (64, 160), Grid(1, 4, 10))
        return Example(source.key, torch.zeros(4), torch.zeros(4), torch.zeros(1, 4), (clip,))

    return PackedRow(tuple(example(source) for source in sources), 0)


class FixedRows:
    def __init__(self, *rows):
        self.rows = iter(rows)

    def __next__(self):
        return next(self.rows)

    def state_dict(self):
        return {}


@pytest.fixture(scope="module")
def film(tmp_path_factory) -> VideoSource:
    return VideoSource("film", numbered_film(tmp_path_factory.mktemp("film"), "film", 1.0).uri)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_video_costs_its_own_example_only(film, tmp_path, workers, caplog):
    (tmp_path / "broken.mp4").write_bytes(Path(film.url).read_bytes()[:2000])
    row = row_with(film, VideoSource("broken", str(tmp_path / "broken.mp4")), film)
    with RowLoader(FixedRows(row), plan_all_frames, workers=workers) as loader:
        [loaded] = loader
    assert loaded.failed.tolist() == [False, True, False]
    assert {key: failure.reason for key, failure in loaded.failures.items()} == {"broken": "no_video_stream"}
    assert "masking example broken" in caplog.text
    assert [[number_on(frame.numpy()) for frame in frames] for frames in loaded.pixels] == [[0, 15], [0, 0], [0, 15]]
    left = mask_labels(loaded.packed, loaded.failed).examples
    assert [bool((example.labels == -100).all()) for example in left] == [False, True, False]


def test_frames_become_square_also_those_of_a_video_that_cannot_be_decoded(film, tmp_path):
    row = row_with(film, VideoSource("gone", str(tmp_path / "gone.mp4")))
    with RowLoader(FixedRows(row), plan_all_frames, square=(48, 48), workers=1) as loader:
        [loaded] = loader
    assert [frames.shape for frames in loaded.pixels] == [(2, 48, 48, 3)] * 2
    assert loaded.failed.tolist() == [False, True]


def test_a_video_that_crashes_its_decoder_is_masked_and_the_others_are_not(film, strange_decoders):
    deadly = VideoSource("deadly", film.url)
    rows = FixedRows(row_with(film, deadly), row_with(film), row_with(film))
    with RowLoader(rows, plan_all_frames, workers=1, ahead=1) as loader:
        found = list(loader)
    assert [loaded.failed.tolist() for loaded in found] == [[False, True], [False], [False]]
    assert found[0].failures["deadly"].reason == "crashed"
    assert [number_on(frame.numpy()) for frame in found[2].pixels[0]] == [0, 15]


def test_a_slow_video_is_named_in_the_log(film, monkeypatch, caplog):
    monkeypatch.setattr(loader_module, "_SLOW_SECONDS", 0.01)
    with RowLoader(FixedRows(row_with(film)), plan_all_frames, workers=1) as loader:
        [loaded] = loader
    assert "video film: still waiting for 2 frames after another 0.01 s" in caplog.text
    assert not loaded.failed.any()


def test_storage_that_fails_stops_the_training_instead_of_costing_examples(film, tmp_path):
    (tmp_path / "folder.mp4").mkdir()
    row = row_with(VideoSource("folder", str(tmp_path / "folder.mp4")))
    with RowLoader(FixedRows(row), plan_all_frames, workers=0) as loader, pytest.raises(IsADirectoryError):
        next(loader)


def test_features_take_the_place_of_frames(url, tmp_path):
    folder = FeatureFolder(str(tmp_path), "tower")
    policy = FramePolicy(fps=4.0)
    options = {"policy": policy, "target": Target.ANSWER, "features": folder}
    dataset = ReleaseDataset(url, Split.SFT, TinyFamily(), byte_tokenizer(), **options)
    [clip] = dataset.example(0, 800).videos
    features = torch.randn(clip.grid.t * clip.grid.h * clip.grid.w, 6)
    folder.write(clip, features)
    row = PackedRow((dataset.example(0, 800),), 0)
    with RowLoader(FixedRows(row), lambda row: (None, [FrameRange(0, 1, 2)]), workers=1) as loader:
        [loaded] = loader
    tokens = clip.grid.h * clip.grid.w
    assert torch.equal(loaded.pixels[0], features[tokens : 2 * tokens])

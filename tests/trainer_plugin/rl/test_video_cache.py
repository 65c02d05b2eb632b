"""The cache's features against the forward pass, what is decoded and when, bounds, bad videos, and the disk folder.

Videos are real, models are tiny versions of the three families in float32 under FSDP2, on 1 to 3 gloo ranks.
"""

import gc
import os
import resource
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from tests.support.properties import given, settings, st
from tests.support.videos import counting_video
from tests.trainer_plugin import parity
from tests.trainer_plugin.parity import FAMILIES, HEADS, OPTIONS, TEXT_IDS, Words
from trainer_plugin.atomic_files import locked
from trainer_plugin.data.features import FeatureFolder
from trainer_plugin.data.video_decode import read_frames
from trainer_plugin.distributed.sequence_plan import Layout, SequencePlan
from trainer_plugin.families.base import Family
from trainer_plugin.model import LongVideoModel, RankInput
from trainer_plugin.rl import video_cache
from trainer_plugin.rl.video_cache import CacheSettings, VideoCache, clip_key
from trainer_plugin.training.model_identity import tower_identity
from trainer_plugin.types import Example, FeatureRef, Grid, VideoClip, VideoSource

FPS = 30
LAYOUTS = {1: Layout(), 2: Layout(2, 1), 3: Layout(1, 3)}
SETTINGS = CacheSettings()
SHA = "0" * 64


@dataclass(frozen=True)
class Case:
    """What the ranks of a process group do."""

    family: str
    videos: tuple[VideoSource, ...]
    patches: tuple[int, ...] = (7, 2, 5)
    """Number of temporal patches of each video's clip."""
    settings: CacheSettings = SETTINGS
    workers: int = 0
    frozen: bool = True
    folders: tuple[Path, ...] = ()
    """Folder of each rank for its host's copy: ranks with different ones are as on different hosts."""

    @property
    def clips(self) -> list[VideoClip]:
        family = parity.tiny_family(self.family)
        return [clip_of(family, *each) for each in zip(self.videos, self.patches, strict=False)]


def clip_of(family: Family, video: VideoSource, patches: int, first_us: int = 0, scale: int = 1) -> VideoClip:
    """A clip of frames that are 70 ms apart, of 2 x 3 tokens for Qwen, times the square of `scale`."""
    size = parity._size(family, parity.Clip(patches, 2 * scale, 3 * scale))
    count = patches * family.temporal_patch
    times = tuple(first_us + number * 70_000 for number in range(count))
    return VideoClip(video, times, size, family.grid(*size, count))


def model_of(case: Case) -> LongVideoModel:
    layout = LAYOUTS[dist.get_world_size()]
    return parity._sharded_model(case.family, HEADS, layout, case.frozen, OPTIONS)


def cache_of(case: Case) -> VideoCache:
    folder = case.folders[dist.get_rank()] if case.folders else None
    return VideoCache(model_of(case), case.settings, workers=case.workers, folder=folder)


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> tuple[VideoSource, ...]:
    folder = tmp_path_factory.mktemp("films")
    return tuple(film_source(folder, number) for number in range(3))


def film_source(folder: Path, number: int) -> VideoSource:
    path = counting_video(folder / f"film{number}.mp4", "-movflags", "+faststart", seconds=1.5 + number / 2, fps=FPS)
    return VideoSource(path.stem, str(path), 0, path.stat().st_size, f"{number:064x}")


# --- features


def log_prob_differences(case: Case) -> tuple[float, list[Tensor]]:
    """Largest difference of log-probabilities from features and from frames, and the features of all clips."""
    model = model_of(case)
    example = example_of(model.family, case.clips)
    plan = SequencePlan([example], model.family, model.parallel.layout, model.costs)
    rank_plan = plan.rank_plan(model.parallel.sp_rank)
    decoded = [torch.from_numpy(frames_of(model.family, clip)) for clip in example.videos]
    step = model.family.temporal_patch
    frames = tuple(decoded[part.video][part.first * step : part.end * step] for part in rank_plan.frames)
    with cache_of(case) as cache, torch.no_grad():
        assert cache.load(example.videos) == {}
        held = tuple(cache.read(example.videos[part.video], part.first, part.end) for part in rank_plan.frames)
        expected, _ = model(RankInput(rank_plan, frames))
        found, _ = model(RankInput(rank_plan, held))
        features = [cache.read(clip, 0, clip.grid.t) for clip in example.videos]
        dist.barrier()  # until all ranks have read
    return max([0.0, *(found - expected).abs().tolist()]), features


def frames_of(family: Family, clip: VideoClip) -> Any:
    return read_frames(clip.video, clip.frame_times_us, clip.size, family.resample, family.square)


def example_of(family: Family, clips: list[VideoClip]) -> Example:
    ids = [id for clip in clips for id in (7, 8, *family.video_ids(Words(), clip.grid, clip.frame_times_us, 10**6))]
    tokens = torch.tensor([*ids, *range(10)])
    labels = torch.where(tokens < TEXT_IDS, tokens, -100)
    positions = family.positions(tokens, [(clip.grid, clip.frame_times_us) for clip in clips])
    return Example("s", tokens, labels, positions, tuple(clips))


@pytest.mark.parametrize("family", FAMILIES)
def test_features_are_those_of_the_forward_pass_on_any_number_of_ranks(ranks, films, family):
    case = Case(family, films)
    results = {world: ranks[world].run(log_prob_differences, case) for world in LAYOUTS}
    _, expected = results[1][0]
    assert all(float(each.std()) > 0.01 for each in expected)
    for found in results.values():
        for difference, features in found:
            assert difference < 1e-6
            torch.testing.assert_close(features, expected, rtol=0, atol=1e-6)


def test_each_of_several_hosts_holds_a_whole_copy(ranks, films, tmp_path):
    folders = tuple(tmp_path / name for name in ("host0", "host1", "host0"))
    for folder in set(folders):
        folder.mkdir()
    for frozen in (True, False):
        case = Case("qwen3_vl", films, frozen=frozen)
        [(_, expected)] = ranks[1].run(log_prob_differences, case)
        for _, features in ranks[3].run(log_prob_differences, replace(case, folders=folders)):
            torch.testing.assert_close(features, expected, rtol=0, atol=1e-6)
    assert [list(folder.iterdir()) for folder in set(folders)] == [[], []]


def read_held_frames(case: Case) -> bool:
    """Whether the frames of a trainable tower are held, on the number of ranks that share a host."""
    family = model_of(case).family
    with cache_of(case) as cache:
        assert cache.load(case.clips) == {}
        for clip in case.clips:
            expected = torch.from_numpy(frames_of(family, clip))
            assert torch.equal(cache.read(clip, 0, clip.grid.t), expected)
            assert torch.equal(cache.read(clip, 1, 2), expected[family.temporal_patch : 2 * family.temporal_patch])
        dist.barrier()
    return True


@pytest.mark.parametrize("family", ["qwen2_5_vl", "smolvlm"])
def test_of_a_trainable_tower_the_frames_are_held(ranks, films, family):
    assert all(ranks[2].run(read_held_frames, Case(family, films, frozen=False)))


def test_a_disk_folder_is_refused_for_a_trainable_tower(ranks, films, tmp_path):
    case = Case("smolvlm", films, settings=CacheSettings(disk=str(tmp_path)), frozen=False)
    errors, _ = ranks[2].outcomes(read_held_frames, case)
    assert set(errors) == {0, 1}
    assert all("set cache.disk to null, or freeze both" in error for error in errors.values())


def read_precomputed(case: Case) -> bool:
    model = model_of(case)
    [clip] = case.clips
    features = torch.randn(clip.grid.t * model.family.tokens_per_temporal_patch(clip.grid), model.feature_width)
    [folder] = case.folders
    ref = FeatureFolder(str(folder), "tower").write(clip, features)
    with cache_of(case) as cache:
        stored = replace(clip, features=ref)
        cache.prefetch([stored])
        return cache.load([stored]) == {} and torch.equal(cache.read(stored, 0, clip.grid.t), features)


def test_precomputed_features_are_read_and_their_video_is_not_opened(ranks, tmp_path):
    case = Case("qwen3_vl", (VideoSource("gone", str(tmp_path / "gone.mp4")),), folders=(tmp_path,))
    assert ranks[1].run(read_precomputed, case) == [True]


# --- keys


CLIP = VideoClip(VideoSource("film", "a.mp4", 0, 9, SHA), (0, 1, 2, 3), (32, 64), Grid(2, 2, 4))
OTHERS = (
    replace(CLIP, frame_times_us=(0, 1, 2, 4)),
    replace(CLIP, frame_times_us=(1, 0, 2, 3)),
    replace(CLIP, size=(64, 32)),
    replace(CLIP, grid=Grid(4, 2, 4)),
    replace(CLIP, video=replace(CLIP.video, sha256="1" * 64)),
    replace(CLIP, video=replace(CLIP.video, size=10)),
    replace(CLIP, video=VideoSource("film", "a.mp4")),
    replace(CLIP, video=VideoSource("film", "b.mp4")),
    replace(CLIP, video=VideoSource("film", "a.mp4", 3)),
)


def test_a_key_depends_on_content_frames_size_and_tower_alone():
    keys = [clip_key(clip, "tower") for clip in (CLIP, *OTHERS)]
    assert len({*keys, clip_key(CLIP, "other tower")}) == len(OTHERS) + 2
    moved = replace(CLIP, video=replace(CLIP.video, key="renamed", url="elsewhere.tar", offset=512))
    assert clip_key(moved, "tower") == keys[0]
    assert clip_key(replace(CLIP, features=FeatureRef("there", "tower")), "tower") == keys[0]


sources = st.builds(VideoSource, st.just("v"), st.sampled_from("ab"), st.integers(0, 2), st.none(), st.none())
hashed = st.builds(
    VideoSource, st.text(max_size=2), st.text(max_size=2), st.integers(0, 2), st.integers(1, 2), st.sampled_from("ab")
)
clips = st.builds(
    VideoClip,
    sources | hashed,
    st.lists(st.integers(0, 3), min_size=1, max_size=3).map(tuple),
    st.tuples(st.integers(1, 2), st.integers(1, 2)),
    st.builds(Grid, st.integers(1, 2), st.just(1), st.just(1)),
)


@settings(deadline=None, max_examples=300)
@given(clips, clips)
def test_clips_share_a_key_exactly_if_they_show_the_same_frames(one, other):
    def content(clip: VideoClip) -> object:
        video = clip.video
        bytes_of = (video.sha256, video.size) if video.sha256 else (video.url, video.offset, video.size)
        return bytes_of, clip.frame_times_us, clip.size, clip.grid

    assert (clip_key(one, "t") == clip_key(other, "t")) == (content(one) == content(other))


# --- what is decoded


LOGGED = """
import sys

if any("fork_server" in part for part in sys.orig_argv):
    import trainer_plugin.data.video_decode as decoding

    plain = decoding.read_frames

    def log_frames(source, times_us, *rest):
        with open({log!r}, "a") as file:
            file.write("".join(f"{{source.key}} {{time}}\\n" for time in times_us))
        return plain(source, times_us, *rest)

    decoding.read_frames = log_frames
"""


class DecodedFrames:
    """Frames that decoder processes decode, of all ranks, as a file to which they append."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.log = folder / "decoded.txt"
        (folder / "sitecustomize.py").write_text(LOGGED.format(log=str(self.log)))

    def run(self, ranks: Any, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        credentials = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
        return ranks.run(_with_variables, credentials | {"PYTHONPATH": str(self.folder)}, function, *arguments)

    def count(self) -> Counter[tuple[str, int]]:
        """Number of times that each frame was decoded since the last call."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return Counter((line.split()[0], int(line.split()[1])) for line in lines)


def _with_variables(variables: dict[str, str], function: Callable[..., Any], *arguments: Any) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        return function(*arguments)


@pytest.fixture
def decoded(tmp_path) -> DecodedFrames:
    return DecodedFrames(tmp_path / "decoded")


def frames_in(clips: list[VideoClip]) -> Counter[tuple[str, int]]:
    return Counter((clip.video.key, time) for clip in clips for time in clip.frame_times_us)


def load_twice(case: Case) -> bool:
    """Load clips, and again with others of the same frames."""
    with cache_of(case) as cache:
        assert cache.load(case.clips) == {}
        again = [replace(clip, video=replace(clip.video, key="other", url="gone.mp4")) for clip in case.clips]
        return cache.load([*again, *case.clips]) == {}


@pytest.mark.parametrize(("world", "frozen"), [(3, True), (1, False)])
def test_each_frame_is_decoded_once_over_all_ranks(ranks, films, decoded, world, frozen):
    case = Case("qwen2_5_vl", films, workers=1, frozen=frozen)
    assert decoded.run(ranks[world], load_twice, case) == [True] * world
    assert decoded.count() == frames_in(case.clips)


def prefetch_and_load(case: Case) -> list[int]:
    """Numbers of clips that are begun after each step."""
    one, two, three = case.clips
    with cache_of(case) as cache:
        begun = [len(cache._ahead._begun)]
        cache.prefetch([one, two])
        begun.append(len(cache._ahead._begun))
        assert cache.load([three]) == {}  # not prefetched, and loaded while others are
        begun.append(len(cache._ahead._begun))
        cache.prefetch([two, three])  # drops the first, and the third is held
        begun.append(len(cache._ahead._begun))
        assert cache.load([one, two]) == {}
        begun.append(len(cache._ahead._begun))
        cache.prefetch([one, two, three])
        return [*begun, len(cache._ahead._begun)]


def test_prefetched_frames_are_used_and_those_no_longer_expected_are_dropped(ranks, films, decoded):
    case = Case("smolvlm", films, workers=1)
    assert decoded.run(ranks[2], prefetch_and_load, case) == [[0, 2, 2, 1, 0, 0]] * 2
    counts = decoded.count()
    assert {key: counts[key] for key in frames_in(case.clips[1:])} == frames_in(case.clips[1:])


def prefetch_within(case: Case, limit: int) -> list[int]:
    before = video_cache._AHEAD_BYTES
    video_cache._AHEAD_BYTES = limit
    begun = []
    try:
        with cache_of(case) as cache:
            cache.prefetch(case.clips)
            begun.append(len(cache._ahead._begun))
            for clip in case.clips:
                assert cache.load([clip]) == {}
                begun.append(len(cache._ahead._begun))
        return begun
    finally:
        video_cache._AHEAD_BYTES = before


def test_decoding_ahead_stops_at_its_limit_and_continues(ranks, films):
    case = Case("smolvlm", films, patches=(6, 6, 6), workers=1)
    frame = 32 * 32 * 3
    assert ranks[1].run(prefetch_within, case, 12 * frame) == [[2, 2, 1, 0]]
    assert ranks[1].run(prefetch_within, case, 1) == [[1, 1, 1, 0]]


def load_on_ranks(case: Case, orders: tuple[tuple[int, ...], ...]) -> None:
    with cache_of(case) as cache:
        cache.load([case.clips[number] for number in orders[dist.get_rank()]])


def test_ranks_that_load_different_clips_are_refused(ranks, films):
    errors, _ = ranks[2].outcomes(load_on_ranks, Case("smolvlm", films), ((0, 1), (0, 2)))
    assert set(errors) == {0, 1}
    assert all("BadInput: ranks load different clips" in error for error in errors.values())


# --- the bound


def clip_bytes(case: Case, patches: int) -> int:
    family = parity.tiny_family(case.family)
    clip = clip_of(family, case.videos[0], patches)
    return patches * family.tokens_per_temporal_patch(clip.grid) * 16 * HEADS[0] * 4


def set_limit(case: Case, held: int) -> Case:
    """The case with room for `held` temporal patches."""
    return replace(case, settings=CacheSettings(host_gib=(clip_bytes(case, held) + 1) / 2**30))


def evict(case: Case) -> list[list[int]]:
    """Numbers of the clips that are held after each step; each takes 2 of 6 temporal patches."""
    family = model_of(case).family
    clips = [clip_of(family, case.videos[0], 2, first_us=number) for number in range(6)]
    found = []
    with cache_of(case) as cache:

        def record() -> None:
            held = []
            for number, clip in enumerate(clips):
                with suppress(ValueError):
                    assert len(cache.read(clip, 0, 2))
                    held.append(number)
            found.append(held)
            assert sum(path.stat().st_size for path in cache._host.path.iterdir()) == cache.held_bytes
            dist.barrier()

        for numbers in ((0, 1), (2,), (0, 3), (3, 4, 5), (0,)):
            cache.load([clips[number] for number in numbers])
            record()
        cache.prefetch([clips[4]])
        for number in (1, 2):
            cache.load([clips[number]])
            record()
    return found


def test_the_least_recently_loaded_are_removed_and_prefetched_ones_last(ranks, films):
    case = set_limit(Case("smolvlm", films), 6)
    expected = [[0, 1], [0, 1, 2], [0, 2, 3], [3, 4, 5], [0, 4, 5], [0, 1, 4], [1, 2, 4]]
    assert ranks[2].run(evict, case) == [expected] * 2


def read_wrongly(case: Case) -> list[str]:
    """Errors for a clip that is not held, and for temporal patches that a held one of 2 does not have."""
    held, other = case.clips[1], case.clips[0]
    errors = []
    with cache_of(case) as cache:
        cache.load([held])
        for clip, first, end in ((other, 0, 1), (held, 0, 3), (held, -1, 1), (held, 2, 1)):
            try:
                cache.read(clip, first, end)
            except ValueError as error:
                errors.append(str(error))
        assert len(cache.read(held, 1, 1)) == 0
    return errors


def test_what_is_not_held_is_refused_by_name(ranks, films):
    [(unheld, *ranges)] = ranks[1].run(read_wrongly, Case("smolvlm", films))
    assert unheld == "video film0 is not held; load all clips of a step before they are read"
    assert ranges == [f"temporal patches {part} of a clip that has 2" for part in ("0 to 3", "-1 to 1", "2 to 1")]


def test_clips_that_exceed_the_bound_are_refused_on_all_ranks(ranks, films):
    case = set_limit(Case("smolvlm", films), 13)
    errors, _ = ranks[2].outcomes(load_on_ranks, case, ((0, 1, 2),) * 2)
    assert set(errors) == {0, 1}
    for error in errors.values():
        assert "BadInput: the 3 videos that are in use take" in error
        assert "the largest, film0, takes" in error and "Raise cache.host_gib" in error
    assert ranks[2].run(load_on_ranks, set_limit(case, 14), ((0, 1, 2),) * 2) == [None, None]


def load_ahead(case: Case) -> list[bool]:
    """Whether each clip is held after a load of the first and of the others as far as there is room."""
    held = []
    with cache_of(case) as cache:
        assert cache.load(case.clips[:1], ahead=case.clips[1:]) == {}
        for clip in case.clips:
            try:
                held.append(bool(len(cache.read(clip, 0, 1))))
            except ValueError:
                held.append(False)
        dist.barrier()
    return held


@pytest.mark.parametrize(
    ("room", "expected"),
    [(7, [True, False, False]), (9, [True, True, False]), (13, [True, True, False]), (14, [True, True, True])],
)
def test_clips_are_loaded_ahead_in_order_as_far_as_there_is_room(ranks, films, room, expected):
    assert ranks[2].run(load_ahead, set_limit(Case("smolvlm", films), room)) == [expected] * 2


# --- bad videos


@dataclass(frozen=True)
class Loaded:
    """Results of two loads."""

    unusable: dict[str, str]
    """Reasons by key of the video."""
    held: list[str]
    begun: int
    """Number of clips whose decoding begins at a further prefetch."""


def load_bad(case: Case) -> Loaded:
    with cache_of(case) as cache:
        cache.prefetch(case.clips)
        bad = cache.load(case.clips)
        assert cache.load(case.clips) == bad
        held = []
        for clip in case.clips:
            with suppress(ValueError):
                assert cache.read(clip, 0, clip.grid.t).isfinite().all()
                held.append(clip.video.key)
        cache.prefetch(case.clips)
        assert len(list(cache._host.path.iterdir())) == len(held)
        dist.barrier()
        return Loaded({clip.video.key: reason for clip, reason in bad.items()}, held, len(cache._ahead._begun))


def cut_off(film: VideoSource, path: Path) -> VideoSource:
    """The first half of a film, in which later frames are missing."""
    content = Path(film.url).read_bytes()
    path.write_bytes(content[: (content.index(b"mdat") + len(content)) // 2])
    return VideoSource(path.stem, str(path), sha256="a" * 64)


@pytest.mark.parametrize(("world", "workers"), [(3, 0), (2, 1)])
def test_a_video_that_one_rank_cannot_decode_is_unusable_on_all(ranks, films, tmp_path, world, workers):
    late = cut_off(films[2], tmp_path / "late.mp4")
    gone = VideoSource("gone", str(tmp_path / "gone.mp4"), sha256="b" * 64)
    case = Case("smolvlm", (films[0], late, gone, films[1]), patches=(5, 30, 3, 4), workers=workers)
    with pytest.raises(ValueError, match="late"):
        frames_of(parity.tiny_family("smolvlm"), case.clips[1])
    early = clip_of(parity.tiny_family("smolvlm"), late, 5)
    assert len(frames_of(parity.tiny_family("smolvlm"), early))
    expected = Loaded({"late": "damaged", "gone": "missing"}, ["film0", "film1"], 0)
    assert ranks[world].run(load_bad, case) == [expected] * world


# --- the disk folder


def load_all(case: Case) -> tuple[dict[VideoClip, str], list[Tensor], str]:
    """Unusable clips, features of the others, and the identity of the tower."""
    with cache_of(case) as cache:
        cache.prefetch(case.clips)
        bad = cache.load(case.clips)
        features = [cache.read(clip, 0, clip.grid.t) for clip in case.clips if clip not in bad]
        dist.barrier()
        return bad, features, tower_identity(model_of(case))


@pytest.mark.parametrize(
    ("where", "disk_dtype", "world"), [("local", "model", 2), ("local", "float8", 1), ("s3", "float8", 2)]
)
def test_stored_features_are_read_without_a_decode(ranks, films, tmp_path, decoded, where, disk_dtype, world, request):
    disk = str(tmp_path / "disk") if where == "local" else request.getfixturevalue("s3_bucket") + "/disk"
    case = Case("qwen3_vl", films, workers=1, settings=CacheSettings(disk=disk, disk_dtype=disk_dtype))
    first = decoded.run(ranks[world], load_all, case)
    assert decoded.count() == frames_in(case.clips)
    second = decoded.run(ranks[world], load_all, case)
    assert not decoded.count()
    _, exact, tower = ranks[world].run(load_all, replace(case, settings=SETTINGS, workers=0))[0]
    for one, other in zip(first, second, strict=True):
        assert one[0] == other[0] == {}
        assert all(map(torch.equal, one[1], other[1]))
        difference = torch.cat(one[1]) - torch.cat(exact)
        relative = float(difference.norm() / torch.cat(exact).norm())
        assert relative == 0 if disk_dtype == "model" else 0.01 < relative < 0.04
    refs = [FeatureFolder(disk, tower).find(clip) for clip in case.clips]
    assert None not in refs  # a recipe can read them as `videos.features`
    if where == "local":
        sizes = [path.stat().st_size for path in sorted((tmp_path / "disk").glob("*.safetensors"))]
        elements = [each.numel() for each in exact]
        width = 4 if disk_dtype == "model" else 1
        assert all(
            width * count < size < width * count * 1.5 + 2000 for size, count in zip(sizes, elements, strict=True)
        )
        assert sorted(path.suffix for path in (tmp_path / "disk").iterdir()) == [".safetensors"] * 3


def refusal(ranks, case: Case) -> str:
    """The line of the error that all ranks raise."""
    errors, _ = ranks.outcomes(load_all, case)
    assert set(errors) == set(range(ranks.world))
    [line] = {line for error in errors.values() for line in error.splitlines() if "BadInput: " in line}
    return line


def test_a_folder_that_does_not_fit_is_refused_on_all_ranks(ranks, films, tmp_path):
    (tmp_path / "host").mkdir()
    disk = CacheSettings(disk=str(tmp_path / "disk"))
    case = Case("smolvlm", films, settings=disk, folders=(tmp_path / "host",) * 2)
    [(_, features, tower)] = ranks[1].run(load_all, case)

    other = FeatureFolder(str(tmp_path / "other"), "before")
    other.write(case.clips[0], features[0])
    message = refusal(ranks[2], replace(case, settings=CacheSettings(disk=str(tmp_path / "other"))))
    assert "other tower than requested" in message and f"(its tower is before, this model's is {tower})" in message

    changed = tuple(replace(film, sha256="f" * 64) for film in films)
    message = refusal(ranks[2], replace(case, videos=changed))
    assert "film0" in message and "other sha256 than requested" in message

    FeatureFolder(str(tmp_path / "float8"), tower).write(case.clips[0], features[0], float8=True)
    message = refusal(ranks[2], replace(case, settings=CacheSettings(disk=str(tmp_path / "float8"))))
    assert "its features are in float8, but cache.disk_dtype is model; set it to float8" in message

    (tmp_path / "file").touch()
    message = refusal(ranks[2], replace(case, settings=CacheSettings(disk=str(tmp_path / "file"))))
    assert "cannot be written" in message and "choose another folder" in message
    assert list((tmp_path / "host").iterdir()) == []


def test_a_video_without_a_hash_is_not_stored(ranks, films, tmp_path):
    unknown = tuple(replace(film, sha256=None) for film in films)
    ranks[1].run(load_all, Case("smolvlm", unknown, settings=CacheSettings(disk=str(tmp_path / "disk"))))
    assert list((tmp_path / "disk").iterdir()) == []


def test_a_folder_that_another_process_writes_is_only_read(ranks, films, tmp_path):
    disk = tmp_path / "disk"
    case = Case("smolvlm", films, settings=CacheSettings(disk=str(disk)))
    disk.mkdir()
    with locked(disk / "_lock", disk):
        assert ranks[2].run(load_all, case)[0][0] == {}
        assert [path.name for path in disk.iterdir()] == ["_lock"]
    ranks[2].run(load_all, replace(case, videos=films[:1]))
    (stored,) = disk.iterdir()
    with locked(disk / "_lock", disk):
        stored_at = stored.stat().st_mtime_ns
        assert len(ranks[2].run(load_all, case)[0][1]) == 3
        assert stored.stat().st_mtime_ns == stored_at and len(list(disk.glob("*.safetensors"))) == 1


def test_a_full_disk_ends_the_storing_and_not_the_run(ranks, films, small_disk):
    (small_disk / "others").write_bytes(bytes(2**20 - 3 * 4096))
    case = Case("qwen3_vl", films, settings=CacheSettings(disk=str(small_disk / "disk")))
    assert [len(features) for _, features, _ in ranks[2].run(load_all, case)] == [3, 3]
    assert list((small_disk / "disk").iterdir()) == []


# --- memory


SCALE = 2
"""For larger frames: 0.45 MB of them per load and rank."""


def load_often(case: Case, loads: int) -> tuple[list[int], list[int], list[int]]:
    """Measurements over loads of 2 of 20 clips.

    Returns:
        Resident memory after a third of the loads and after all; and for each load, bytes in the host's folder, and the
        number of open files.
    """
    family = model_of(case).family
    clips = [clip_of(family, case.videos[number % 3], 4, number, SCALE) for number in range(20)]
    memory, stored, files = [], [], []
    with cache_of(case) as cache:
        for number in range(loads):
            cache.prefetch([clips[(2 * number + ahead) % 20] for ahead in (2, 3)])
            assert cache.load([clips[(2 * number + now) % 20] for now in (0, 1)]) == {}
            for now in (0, 1):
                cache.read(clips[(2 * number + now) % 20], 0, 4)
            if number in (loads // 3, loads - 1):
                gc.collect()
                memory.append(int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize())
            stored.append(sum(path.stat().st_size for path in cache._host.path.iterdir()))
            files.append(len(list(Path("/proc/self/fd").iterdir())))
            dist.barrier()
    return memory, stored, files


def test_memory_does_not_grow(ranks, films):
    """Frames that were kept would take 15 MB in the second part of the run."""
    limit = 6 * SCALE**2 * clip_bytes(Case("qwen2_5_vl", films), 4)
    case = Case("qwen2_5_vl", films, workers=1, settings=CacheSettings(host_gib=(limit + 1) / 2**30))
    for memory, stored, files in ranks[2].run(load_often, case, 50):
        assert max(stored) == limit == stored[-1]
        assert max(files[5:]) == files[5]
        assert memory[1] - memory[0] < 6 * 2**20

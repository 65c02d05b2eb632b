from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch.distributed as dist

from schemas.errors import BadInput
from tests.trainer_plugin.parity import Clip, Draft, groups, make_samples, tiny_config
from tests.trainer_plugin.runs import collect_log
from tests.trainer_plugin.support import numbered_film
from trainer_plugin.data.packing import RowStream
from trainer_plugin.distributed.sequence_plan import Costs, Layout
from trainer_plugin.families import family_of
from trainer_plugin.training.optimizer_step import NotFinite
from trainer_plugin.training.step_feed import StepFeed
from trainer_plugin.types import Example

SUPERVISED = 3 + 4 + 2 - 1
"""Supervised tokens of each sample: words and the two markers of a video, without the first word."""
EVERYONE = frozenset({0, 1})
"""The ranks of a group of two."""


@dataclass(frozen=True)
class Films:
    """Samples `s0` to `s3`, as long as a row each, about videos in a folder.

    For ranks in `blind`, the video of `s2` is missing.
    """

    folder: Path
    blind: frozenset[int] = frozenset()

    def __len__(self) -> int:
        return 4

    def key(self, number: int) -> str:
        return f"s{number}"

    def length(self, number: int, max_tokens: int) -> int:
        return max_tokens

    def example(self, number: int, max_tokens: int) -> Example:
        drafts = [Draft((3, Clip(2), 4), 1.0, seed) for seed in range(4)]
        example = make_samples(family_of(tiny_config("qwen2_5_vl")), drafts)[number].example
        found = number != 2 or dist.get_rank() not in self.blind
        [clip] = example.videos
        source = replace(clip.video, url=str(self.folder / (f"{example.key}.mp4" if found else "nowhere.mp4")))
        return replace(example, videos=(replace(clip, video=source),))


@pytest.fixture
def folder(tmp_path) -> Path:
    """Folder with the videos of `Films`."""
    first = Path(numbered_film(tmp_path, "s0", 2.0).uri)
    for key in ("s1", "s2", "s3"):
        first.with_stem(key).hardlink_to(first)
    return tmp_path


@contextmanager
def feed_of(stream, sp: int = 1, rows_per_step: int = 1) -> Iterator[StepFeed]:
    config = tiny_config("qwen2_5_vl")
    family, costs = family_of(config), Costs.of(config.get_text_config())
    with StepFeed(stream, family, groups(Layout(sp)), costs, rows_per_step=rows_per_step, workers=0) as feed:
        yield feed


def stream_of(films: Films, sp: int, epochs: int | None = 1) -> RowStream:
    ranks = groups(Layout(sp))
    return RowStream(films, 30, seed=0, rank=ranks.dp_rank, ranks=ranks.dp, epochs=epochs)


Seen = tuple[list[str], int, int, int]
"""Samples with a loss in a step's rows of this rank; and over all ranks the supervised tokens, the samples with a loss,
and the targets of the rank inputs."""


def steps_of(feed: StepFeed, count: int = 100) -> list[Seen]:
    """Up to `count` further steps."""
    found: list[Seen] = []
    while len(found) < count and (step := feed.next_step(len(found) + 1)) is not None:
        keys = [example.key for row in step.rows for example in row.packed.examples if example.has_loss]
        targets = [0] * dist.get_world_size()
        dist.all_gather_object(targets, sum(len(row.plan.targets) for row in step.rank_inputs()))
        found.append((keys, step.supervised_tokens, step.samples, sum(targets)))
    return found


def all_steps(films: Films, sp: int, rows_per_step: int) -> tuple[list[Seen], dict[str, str], list[str]]:
    """All steps, the skipped samples, and the messages of this rank."""
    with (
        collect_log("trainer_plugin.training.step_feed") as messages,
        feed_of(stream_of(films, sp), sp, rows_per_step) as feed,
    ):
        steps = steps_of(feed)
        assert feed.next_step(len(steps) + 1) is None
    return steps, feed.skipped, messages


def test_step_feed_gives_every_sample_once_and_then_ends(ranks, folder):
    (one, _, _), (other, _, _) = ranks[2].run(all_steps, Films(folder), 2, 3)
    assert one == other
    assert [len(keys) for keys, *_ in one] == [3, 1]
    assert sorted(key for keys, *_ in one for key in keys) == ["s0", "s1", "s2", "s3"]
    assert [counts for _, *counts in one] == [[3 * SUPERVISED, 3, 3 * SUPERVISED], [SUPERVISED, 1, SUPERVISED]]


def test_step_feed_masks_a_sample_on_all_ranks_that_one_of_them_cannot_decode(ranks, folder):
    found = ranks[2].run(all_steps, Films(folder, blind=frozenset({1})), 2, 2)
    assert found[0] == found[1]
    steps, skipped, _ = found[0]
    assert skipped == {"s2": "missing"}
    assert sorted(key for keys, *_ in steps for key in keys) == ["s0", "s1", "s3"]
    assert sorted(counts for _, *counts in steps) == [[SUPERVISED, 1, SUPERVISED], [2 * SUPERVISED, 2, 2 * SUPERVISED]]


def test_step_feed_reports_on_all_ranks_what_one_skips(ranks, folder):
    (one, skipped, _), (other, also_skipped, _) = ranks[2].run(all_steps, Films(folder, EVERYONE), 1, 1)
    assert skipped == also_skipped == {"s2": "missing"}
    assert sorted(key for steps in (one, other) for keys, *_ in steps for key in keys) == ["s0", "s1", "s3"]
    assert [counts for _, *counts in one] == [counts for _, *counts in other]


def test_step_feed_skips_a_step_without_supervised_tokens_and_logs_it_once(ranks, folder):
    (steps, skipped, messages), (also_steps, _, silent) = ranks[2].run(all_steps, Films(folder, EVERYONE), 2, 1)
    assert steps == also_steps
    assert len(steps) == 3
    assert skipped == {"s2": "missing"}
    [message] = messages
    assert message.endswith(": no rank has supervised tokens in its rows; skipping them")
    assert silent == []


def refuse_all(films: Films) -> str:
    with feed_of(stream_of(films, 2, epochs=None), 2) as feed, pytest.raises(BadInput) as raised:
        feed.next_step(1)
    return str(raised.value)


def test_step_feed_refuses_data_of_which_nothing_can_be_decoded(ranks, tmp_path):
    message = "not one of the 4 samples can be trained on: {'missing': 4}; check the release and the location of "
    assert all(error.startswith(message) for error in ranks[2].run(refuse_all, Films(tmp_path)))


def interrupt_after_a_skip(films: Films) -> tuple[bool, int]:
    with feed_of(stream_of(films, 2), 2) as feed:
        return feed.next_step(1, lambda: True) is None, len(feed.skipped)


def test_step_feed_ends_when_it_is_interrupted_between_skipped_steps(ranks, tmp_path):
    assert ranks[2].run(interrupt_after_a_skip, Films(tmp_path)) == [(True, 1)] * 2


def skipped_after_each_epoch(films: Films) -> list[dict[str, str]]:
    """Skipped samples after each of two epochs; the video of `s2` appears after the first."""
    with feed_of(stream_of(films, 1, epochs=2), rows_per_step=2) as feed:
        feed.next_step(1)
        skipped = [feed.skipped]
        dist.barrier()
        if dist.get_rank() == 0:
            (films.folder / "s2.mp4").hardlink_to(films.folder / "s0.mp4")
        dist.barrier()
        feed.next_step(2)
        return [*skipped, feed.skipped]


def test_step_feed_forgets_a_skipped_sample_that_any_rank_trains_on(ranks, folder):
    (folder / "s2.mp4").unlink()
    assert ranks[2].run(skipped_after_each_epoch, Films(folder)) == [[{"s2": "missing"}, {}]] * 2


def run_straight_and_resumed(films: Films, sp: int) -> tuple[list[Seen], list[Seen], dict[str, str], dict[str, str]]:
    """The steps and skipped samples of two epochs, straight and with a resume after each step."""
    with feed_of(stream_of(films, sp, epochs=2), sp) as feed:
        straight, skipped = steps_of(feed), feed.skipped
    resumed: list[Seen] = []
    saved, unusable = None, {}
    while True:
        with feed_of(stream_of(films, sp, epochs=2), sp) as feed:
            if saved is not None:
                feed.resume(saved, unusable)
            step = steps_of(feed, 1)
            saved, unusable = feed.positions(), feed.unusable
        if not step:
            return straight, resumed, skipped, feed.skipped
        resumed += step


@pytest.mark.parametrize("sp", [1, 2])
def test_step_feed_resumes_with_the_same_steps(ranks, folder, sp):
    for straight, resumed, skipped, also_skipped in ranks[2].run(run_straight_and_resumed, Films(folder, EVERYONE), sp):
        assert len(straight) == (4 if sp == 1 else 6)
        assert resumed == straight
        assert also_skipped == skipped == {"s2": "missing"}


class OwnRows:
    """Rows that are separate for each data-parallel rank, like those of text data."""

    def __init__(self) -> None:
        self.state = {"of": dist.get_rank()}

    def state_dict(self) -> dict:
        return self.state

    def load_state_dict(self, state: dict) -> None:
        self.state = state


def positions_and_own(sp: int) -> tuple[tuple[dict, ...], dict]:
    """The saved positions, and the one that this rank resumes from."""
    with feed_of(OwnRows(), sp) as feed:
        saved = feed.positions()
        feed.resume(saved)
        return saved, feed.row_stream.state


def test_step_feed_saves_a_position_for_each_data_parallel_rank(ranks):
    both = ({"of": 0}, {"of": 1})
    assert ranks[2].run(positions_and_own, 1) == [(both, {"of": 0}), (both, {"of": 1})]
    assert ranks[2].run(positions_and_own, 2) == [(({"of": 0},), {"of": 0})] * 2


def resume_from(count: int) -> None:
    with feed_of(OwnRows()) as feed:
        feed.resume([{}] * count)


@pytest.mark.parametrize(("saved", "present"), [(2, 1), (1, 2)])
def test_step_feed_refuses_positions_of_another_number_of_ranks(ranks, saved, present):
    errors, _ = ranks[present].outcomes(resume_from, saved)
    message = f"written by {saved} data-parallel ranks that read text data; resume with as many, not {present}"
    assert len(errors) == present and all(message in error for error in errors.values())


def describe(films: Films) -> tuple[list[str], str, str]:
    """The samples of a step of two rows, and its descriptions if the second or neither loss is not finite."""
    with feed_of(stream_of(films, 1), rows_per_step=2) as feed:
        step = feed.next_step(1)
    keys = [example.key for row in step.rows for example in row.packed.examples]
    return keys, *(step.describe_samples(NotFinite(1.0, 1.0, rows)) for rows in ((1,), ()))


def test_step_names_the_samples_of_rows_that_are_not_finite(ranks, folder):
    for (first, second), of_row, of_step in ranks[2].run(describe, Films(folder)):
        assert of_row == f"samples of this rank's rows that are not finite: {second}"
        assert of_step == f"samples of this rank's rows (their loss is finite): {first}, {second}"

"""Finds what a new run would have to compute, by computing the keys of a build without running any stage."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from operators.execution.identity import WHOLE_BUILD, WorkItem, stage_key
from operators.execution.pipeline import BUILD_STAGES, VIDEO_STAGES, stage
from operators.execution.runner import video_input
from operators.execution.stage import SOURCE
from operators.models.session import resolve
from operators.sources.ids import read_given_ids
from operators.sources.listing import read_sources
from operators.speech.transcription import resolve_speech
from operators.store.content_store import Store
from operators.store.run_folder import RunFolder
from schemas.base import digest
from schemas.config import BuildConfig
from schemas.errors import Outage, SourceError
from schemas.run import Commit, StageKey
from schemas.tables import Reject, Source
from schemas.uri import shown_uri

_LOCKED = frozenset({"not_allowed", "unreadable_uri", "unreachable"})
"""Reasons of planning rejects whose video is still listed, but may not or cannot be opened now."""

CONCURRENT_VIDEOS = 32
"""Number of videos whose commits are looked up concurrently. On an object store, lookups mostly wait."""


@dataclass(frozen=True)
class Staleness:
    """Number of stale work items by stage, and the reasons, one line for each kind of change."""

    stale: Mapping[str, int]
    reasons: tuple[str, ...]


def find_stale(previous: RunFolder, config: BuildConfig, environ: Mapping[str, str] = os.environ) -> Staleness:
    """Compare the committed work items with those that `config` needs now.

    Current sources, prompts, code and models are taken into account. A work item that is stale in one stage is also
    stale in every stage that reads its rows, since those rows are not known yet.

    Raises:
        SourceError: the sources cannot be listed, or may not be opened any more.
        Outage: sources are unreachable.
    """
    resolved = config.model_copy(
        update={"models": resolve(config.models, environ), "caption": resolve_speech(config.caption, environ)}
    )
    given = read_given_ids(previous.store)
    listing = read_sources(config.source, config.media_root, config.allowed_roots, given)
    sources = listing.sources
    commits = {(record.stage, unit): commit for record in previous.records() for unit, commit in record.commits.items()}
    before = {place: commit.key for place, commit in commits.items()}
    known = {unit for name, unit in before if name == VIDEO_STAGES[0]}
    # A video that the previous run could not read is in no version that it could have published.
    readable = {unit for unit in known if commits[VIDEO_STAGES[0], unit].rows}
    needed = readable - {source.source_id for source in sources}
    _assert_open(previous, [reject for reject in listing.rejects if reject.key in needed])
    walk = partial(_walk_video, previous.store, resolved, before)
    with ThreadPoolExecutor(max_workers=CONCURRENT_VIDEOS) as pool:
        walked = list(pool.map(walk, sources))
    stale: Counter[str] = Counter(name for each in walked for name in each.stale)
    reasons: Counter[str] = Counter(reason for each in walked for reason in each.reasons)
    if gone := known - {source.source_id for source in sources}:
        reasons[f"{len(gone)} videos are gone from the source"] += 1
    known_stages = [name for name in VIDEO_STAGES if not stale[name]]
    tables = {name: {each.unit: each.tables[name] for each in walked} for name in known_stages}
    _walk_build(previous.store, resolved, before, sources, tables, stale, reasons)
    lines = [f"{text} ({count} videos)" if count > 1 else text for text, count in reasons.items()]
    return Staleness({name: stale[name] for name in (*VIDEO_STAGES, *BUILD_STAGES)}, tuple(lines))


def _assert_open(previous: RunFolder, rejects: Sequence[Reject]) -> None:
    """Check that no video that was built before and is still listed has become impossible to open.

    A change of permissions, settings or servers must not lead to a smaller published version by itself.

    Args:
        rejects: planning rejects of videos that were built before, for which the source lists no other file.

    Raises:
        Outage: such videos are unreachable, and none has another problem.
        SourceError: at least one of them may not or cannot be opened.
    """
    locked = [reject for reject in rejects if reject.reason in _LOCKED]
    if not locked:
        return
    first = locked[0]
    error = Outage if all(reject.reason == "unreachable" for reject in locked) else SourceError
    raise error(
        f"{len(locked)} videos of {shown_uri(previous.url)} are still listed, but cannot be opened, and the next "
        f"version would be without them; the first is {first.key} ({first.reason}: {first.message}); make "
        f"them readable, or take them out of the source"
    )


@dataclass(frozen=True)
class _Walk:
    """The committed tables of one video, and the stages in which it is stale."""

    unit: str
    tables: Mapping[str, str]
    """sha256 of the video's rows by stage, for committed stages."""
    stale: tuple[str, ...]
    """Stages that are not committed, and stages that read their rows."""
    reasons: tuple[str, ...]
    """One reason for each stage that is not committed although all of its inputs are."""


def _walk_video(store: Store, config: BuildConfig, before: Mapping[tuple[str, str], StageKey], source: Source) -> _Walk:
    unit = source.source_id
    commits: dict[str, Commit] = {}
    stale: list[str] = []
    reasons: list[str] = []
    for name in VIDEO_STAGES:
        if not commits.keys() >= set(stage(name).tables):
            stale.append(name)
            continue
        key = stage_key(stage(name), config, video_input(stage(name), source, commits))
        if commit := store.find_commit(name, digest(key)):
            commits[name] = commit
            continue
        stale.append(name)
        if stage(name).requires_rows_of not in stale:
            reasons.append(explain(before.get((name, unit)), key))
    tables = {name: commit.rows_sha256 for name, commit in commits.items()}
    return _Walk(unit, tables, tuple(stale), tuple(reasons))


def _walk_build(
    store: Store,
    config: BuildConfig,
    before: Mapping[tuple[str, str], StageKey],
    sources: tuple[Source, ...],
    tables: dict[str, dict[str, str]],
    stale: Counter[str],
    reasons: Counter[str],
) -> None:
    for name in BUILD_STAGES:
        if not tables.keys() >= set(stage(name).tables):
            stale[name] = 1
            continue
        read = {other: tuple(sha for _, sha in sorted(tables[other].items())) for other in stage(name).tables}
        key = stage_key(stage(name), config, WorkItem(WHOLE_BUILD, read, sources))
        if commit := store.find_commit(name, digest(key)):
            tables[name] = {WHOLE_BUILD: commit.rows_sha256}
        else:
            stale[name] = 1
            reasons[explain(before.get((name, WHOLE_BUILD)), key)] += 1


def explain(before: StageKey | None, now: StageKey) -> str:
    """Describe which parts of a stage's key have changed. `before` is None for a work item without an earlier key."""
    if before is None:
        return "a new video" if now.stage == VIDEO_STAGES[0] else f"{now.stage} has not run yet"
    changes = [f"prompt {prompt} changed" for prompt in _changed_prompts(before, now)]
    changes += _changed_models(before, now)
    if before.section != now.section:
        changes.append(f"settings changed from {before.section} to {now.section}")
    if before.version != now.version:
        changes.append(f"code changed from version {before.version} to {now.version}")
    if before.tools != now.tools:
        changes.append(f"made with {', '.join(now.tools)} instead of {', '.join(before.tools) or 'an unknown version'}")
    if before.seed != now.seed:
        changes.append(f"seed changed from {before.seed} to {now.seed}")
    for old_input, new_input in zip(before.inputs, now.inputs, strict=False):
        if old_input != new_input:
            changes.append(_changed_input(now.stage, new_input.stage))
    return f"{now.stage}: " + ("; ".join(changes) or "its commit was removed, or it could not be finished")


def _changed_input(stage: str, name: str) -> str:
    if name == SOURCE:
        return "source file changed" if stage == VIDEO_STAGES[0] else "metadata in the source list changed"
    return f"{name} rows changed"


def _changed_prompts(before: StageKey, now: StageKey) -> Iterator[str]:
    """Ids of the prompts that are in both keys and have changed.

    Added and removed prompts are not listed, because they come and go with the model that answers them.
    """
    known = {prompt.prompt_id: prompt for prompt in before.prompts}
    return (each.prompt_id for each in now.prompts if known.get(each.prompt_id, each) != each)


def _changed_models(before: StageKey, now: StageKey) -> Iterator[str]:
    known, asked = ({model.role: model for model in key.models} for key in (before, now))
    for role, model in asked.items():
        old = known.get(role)
        if old is None:
            yield f"a {role} is asked now: {model.model}"
        elif old.model != model.model:
            yield f"model of the {role} changed from {old.model} to {model.model}"
        elif old.vision != model.vision:
            yield f"the {role} {'sees frames now' if model.vision else 'sees no frames any more'}"
        elif old.settings != model.settings:
            yield f"settings of the {role} changed from {old.settings or 'none'} to {model.settings or 'none'}"
    yield from (f"no {role} is asked any more" for role in known.keys() - asked.keys())

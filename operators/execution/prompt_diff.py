"""Compares two versions of the prompts, in folders or as two runs used them, and counts the rows that become stale."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from operators.execution.identity import prompt_identity
from operators.execution.pipeline import BUILD_STAGES, VIDEO_STAGES
from operators.execution.pipeline import stage as stage_named
from operators.models.prompts import load_prompt, prompt_ids
from operators.store.run_folder import RunFolder
from schemas.run import Commit, PromptIdentity


@dataclass(frozen=True)
class PromptVersion:
    """A prompt as a folder has it or as a run used it."""

    identity: PromptIdentity
    source: str | None
    """The file with those that it includes; None if a run of an earlier version did not write it."""


@dataclass(frozen=True)
class PromptChange:
    """A prompt that is not the same in two places. None where a place does not have it."""

    prompt_id: str
    before: PromptVersion | None
    after: PromptVersion | None

    @property
    def what(self) -> str:
        """What happened to it: added, removed or changed."""
        if self.before is None:
            return "added"
        return "removed" if self.after is None else "changed"

    def unified_diff(self, before: str, after: str) -> str:
        """The change as unified diff. `before` and `after` name the two places."""
        sources = [version.source if version else "" for version in (self.before, self.after)]
        if None in sources:
            return "(a run of an earlier version did not write its text)\n"
        first, second = ((source or "").splitlines(keepends=True) for source in sources)
        old, new = (f"{place.rstrip('/')}/{self.prompt_id}.md" for place in (before, after))
        found = "".join(difflib.unified_diff(first, second, old, new))
        return found or "(the text is the same, the JSON schema of its answer is another)\n"


@dataclass(frozen=True)
class StaleRows:
    """Rows of one stage that become stale."""

    stage: str
    rows: int
    work_items: int
    prompts: tuple[str, ...]
    """The changed prompts that the stage uses. Empty if it only reads rows that may change."""

    def __str__(self) -> str:
        items = f"{self.rows} rows of {self.work_items} work items"
        if self.prompts:
            return f"stale: {self.stage}: {items} (uses {', '.join(self.prompts)})"
        return f"stale if the rows that it reads change: {self.stage}: {items}"


def versions_in_folder(folder: Path) -> dict[str, PromptVersion]:
    """All prompts of a folder by id.

    Raises:
        PromptError: the folder has no prompts, or one is malformed.
    """
    found = [load_prompt(prompt_id, folder) for prompt_id in prompt_ids(folder)]
    return {prompt.id: PromptVersion(prompt_identity(prompt), prompt.source) for prompt in found}


def versions_of_run(folder: RunFolder) -> dict[str, PromptVersion]:
    """The prompts that a run used, by id. If one changed while the run was built, the version of the last stage."""
    used = {
        each.prompt_id: each for commits in commits_by_stage(folder).values() for c in commits for each in c.key.prompts
    }
    return {name: PromptVersion(identity, folder.read_prompt(identity)) for name, identity in used.items()}


def diff_prompts(before: Mapping[str, PromptVersion], after: Mapping[str, PromptVersion]) -> list[PromptChange]:
    """The prompts that differ in what is sent or in the schema of the answer, sorted by id."""
    return [
        PromptChange(name, before.get(name), after.get(name))
        for name in sorted(before.keys() | after.keys())
        if name not in before or name not in after or before[name].identity != after[name].identity
    ]


def count_stale(folder: RunFolder, prompts: Collection[str]) -> Iterator[StaleRows]:
    """Yield the rows of a run that become stale when these prompts change, in the order of the stages."""
    stale: set[str] = set()
    for name, commits in commits_by_stage(folder).items():
        used = {each.prompt_id for commit in commits for each in commit.key.prompts} & set(prompts)
        stage = stage_named(name)
        if used or {*stage.tables, stage.requires_rows_of} & stale:
            stale.add(name)
            yield StaleRows(name, sum(commit.rows for commit in commits), len(commits), tuple(sorted(used)))


def commits_by_stage(folder: RunFolder) -> dict[str, list[Commit]]:
    """The commits of a run by stage, in the order of the stages. A stage that has not run has none."""
    found: dict[str, list[Commit]] = {name: [] for name in (*VIDEO_STAGES, *BUILD_STAGES)}
    for record in folder.records():
        found.setdefault(record.stage, []).extend(record.commits.values())
    return found

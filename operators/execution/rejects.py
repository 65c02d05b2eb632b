"""Summaries of a run's rejects for the terminal, and explanations of why a run has nothing to publish."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from operators.execution.pipeline import BUILD_STAGES, VIDEO_STAGES
from operators.models.session import MEASURED
from operators.store.content_store import Store
from operators.store.run_folder import RunFolder
from schemas.reject_reasons import find_reason
from schemas.run import Commit, Run
from schemas.tables import Caption, Reject

MAX_MESSAGES = 3
_ORDER = {name: index for index, name in enumerate(("plan", *VIDEO_STAGES, *BUILD_STAGES))}


@dataclass(frozen=True)
class RejectGroup:
    """Rejects of one stage for one reason."""

    stage: str
    reason: str
    count: int
    messages: tuple[str, ...]
    """Messages of the first rejects, at most `MAX_MESSAGES`."""

    @property
    def explanation(self) -> str:
        """What the reason means and what to do (`schemas.reject_reasons`). Empty for a reason of another version."""
        found = find_reason(self.stage, self.reason)
        return f"{found.meaning} {found.fix}" if found else ""

    def __str__(self) -> str:
        return f"{self.count} × {self.stage}: {self.reason}"


def group_rejects(folder: RunFolder) -> list[RejectGroup]:
    """Group all rejects of a run. The stage `plan` holds the sources that could not be used."""
    return group_by_reason((reject.stage, reject.reason, reject.message) for reject in _run_rejects(folder))


def group_by_reason(rejects: Iterable[tuple[str, str, str]]) -> list[RejectGroup]:
    """Group rejects by stage and reason, in the order of the stages, and of one stage the largest group first.

    Args:
        rejects: stage, reason and message of each reject.
    """
    messages: dict[tuple[str, str], list[str]] = {}
    for stage, reason, message in rejects:
        messages.setdefault((stage, reason), []).append(message)
    groups = [RejectGroup(*key, len(found), tuple(found[:MAX_MESSAGES])) for key, found in messages.items()]
    return sorted(groups, key=lambda group: (_ORDER.get(group.stage, -1), -group.count, group.reason))


def read_rejects(store: Store, commit: Commit) -> list[Reject]:
    """The rejects of a finished work item."""
    return list(store.get_rows(commit.rejects_sha256, Reject)) if commit.rejects else []


def describe_skipped(run: Run) -> str:
    """List what the search for videos skipped, the most frequent kind first. Empty when nothing was skipped."""
    counts = sorted(run.skipped.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count} {kind}" for kind, count in counts)


def temporary_rejects(folder: RunFolder) -> list[Reject]:
    """Temporary rejects of a run, in the order of the stages, without those of the plan.

    They are caused by faults of the machine, and the next run tries their work items again.
    """
    met = [reject for reject in _run_rejects(folder) if reject.is_temporary and reject.stage != "plan"]
    return sorted(met, key=lambda reject: _ORDER[reject.stage])


def explain_empty_release(folder: RunFolder) -> str:
    """Explain why a run has no samples and what to do. The first stage without any rows determines the explanation."""
    rows = Counter({record.stage: 0 for record in folder.records()})
    for record in folder.records():
        rows[record.stage] += sum(commit.rows for commit in record.commits.values())
    lost = ", ".join(map(str, group_rejects(folder))) or "nothing was rejected"
    if rows["assemble"]:
        return (
            f"none of {rows['assemble']} samples has a video that can be published ({lost}): fetch the videos again, "
            f"or publish the text alone (shard.media=none)"
        )
    if rows["question"]:
        return f"none of {rows['question']} questions became a sample ({lost}): {_explain_no_samples(folder)}"
    found = f"no question could be asked about {folder.run.videos} videos ({lost})"
    if not rows["ingest"]:
        return f"{found}: none of them can be read; fetch them again or name others"
    if not rows["caption"]:
        return f"{found}: no clip has a caption; see the rejects for the reasons, or name another captioner"
    return f"{found}: {_explain_no_questions(folder)}"


def _explain_no_samples(folder: RunFolder) -> str:
    stages = {group.stage for group in group_rejects(folder)}
    if "question" in stages:
        return "checks refused them; name better models (LVR_REASONER_URL, LVR_JUDGE_URL) or change verify's settings"
    if "reason" in stages:
        return "no chain of thought was accepted; name a better reasoner (LVR_REASONER_URL)"
    return "see the rejects for the reasons"


def _explain_no_questions(folder: RunFolder) -> str:
    config = folder.run.config
    if any(group.stage == "question" for group in group_rejects(folder)):
        return "what the reasoner wrote was refused; name a better one (LVR_REASONER_URL)"
    if config.models.captioner.model != MEASURED:
        return "the reasoner wrote none; name a better one (LVR_REASONER_URL)"
    if any(caption.screen_texts for caption in _captions(folder)):
        return "no question of these categories follows from the text on screen; name a reasoner (LVR_REASONER_URL)"
    return (
        "derived questions need text on screen, and none was read, or facts (docs/annotations.md); point "
        "LVR_CAPTIONER_URL and LVR_REASONER_URL to models that can describe and ask"
    )


def _captions(folder: RunFolder) -> Iterator[Caption]:
    for record in folder.records():
        if record.stage == "caption":
            for commit in record.commits.values():
                yield from folder.store.get_rows(commit.rows_sha256, Caption)


def _run_rejects(folder: RunFolder) -> Iterator[Reject]:
    yield from folder.store.get_rows(folder.run.plan_rejects_sha256, Reject)
    for record in folder.records():
        for commit in record.commits.values():
            yield from read_rejects(folder.store, commit)

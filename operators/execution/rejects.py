"""Summaries of a run's rejects for the terminal, and explanations of why a run has nothing to publish."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from operators.execution.pipeline import BUILD_STAGES, VIDEO_STAGES
from operators.models.session import MEASURED
from operators.store.run_folder import RunFolder
from schemas.run import Run
from schemas.tables import Caption, Reject

_ORDER = ("plan", *VIDEO_STAGES, *BUILD_STAGES)


@dataclass(frozen=True)
class RejectGroup:
    """Rejects of one stage for one reason."""

    stage: str
    reason: str
    count: int
    example: str
    """Message of the first reject."""

    def __str__(self) -> str:
        return f"{self.count} × {self.stage}: {self.reason}"


def group_rejects(folder: RunFolder) -> list[RejectGroup]:
    """Group all rejects of a run by stage and reason, in the order of the stages.

    The stage `plan` holds the sources that could not be used.
    """
    found: dict[tuple[str, str], list[Reject]] = {}
    for reject in _rejects(folder):
        found.setdefault((reject.stage, reject.reason), []).append(reject)
    ordered = sorted(found, key=lambda key: (_ORDER.index(key[0]), key[1]))
    return [RejectGroup(*key, len(found[key]), found[key][0].message) for key in ordered]


def describe_skipped(run: Run) -> str:
    """List what the search for videos skipped, the most frequent kind first. Empty when nothing was skipped."""
    counts = sorted(run.skipped.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count} {kind}" for kind, count in counts)


def temporary_rejects(folder: RunFolder) -> list[Reject]:
    """Temporary rejects of a run, in the order of the stages, without those of the plan.

    They are caused by faults of the machine, and the next run tries their work items again.
    """
    met = [reject for reject in _rejects(folder) if reject.is_temporary and reject.stage != "plan"]
    return sorted(met, key=lambda reject: _ORDER.index(reject.stage))


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
        return f"none of {rows['question']} questions became a sample ({lost}): {_why_refused(folder)}"
    found = f"no question could be asked about {folder.run.videos} videos ({lost})"
    if not rows["ingest"]:
        return f"{found}: none of them can be read; fetch them again or name others"
    if not rows["caption"]:
        return f"{found}: no clip has a caption; see the rejects for the reasons, or name another captioner"
    return f"{found}: {_why_unasked(folder)}"


def _why_refused(folder: RunFolder) -> str:
    stages = {loss.stage for loss in group_rejects(folder)}
    if "verify" in stages:
        return "checks refused them; name better models (LVR_REASONER_URL, LVR_JUDGE_URL) or change verify's settings"
    if "reason" in stages:
        return "no chain of thought was accepted; name a better reasoner (LVR_REASONER_URL)"
    return "see the rejects for the reasons"


def _why_unasked(folder: RunFolder) -> str:
    config = folder.run.config
    if any(loss.stage == "question" for loss in group_rejects(folder)):
        return "what the reasoner wrote was refused; name a better one (LVR_REASONER_URL)"
    if config.models.captioner.model != MEASURED:
        return "the reasoner wrote none; name a better one (LVR_REASONER_URL)"
    if any(caption.screen_texts for caption in _captions(folder)):
        return "no question of these categories follows from the text on screen; name a reasoner (LVR_REASONER_URL)"
    return (
        "derived questions need text on screen, and none was read; point LVR_CAPTIONER_URL and LVR_REASONER_URL to "
        "models that can describe and ask"
    )


def _captions(folder: RunFolder) -> Iterator[Caption]:
    for record in folder.records():
        if record.stage == "caption":
            for commit in record.commits.values():
                yield from folder.store.get_rows(commit.rows_sha256, Caption)


def _rejects(folder: RunFolder) -> Iterator[Reject]:
    yield from folder.store.get_rows(folder.run.plan_rejects_sha256, Reject)
    for record in folder.records():
        for commit in record.commits.values():
            if commit.rejects:
                yield from folder.store.get_rows(commit.rejects_sha256, Reject)

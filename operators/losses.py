"""What a run left out on its way, and why: told on the terminal, and when nothing is left to publish."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from operators.pipeline import BUILD_STAGES, VIDEO_STAGES
from operators.runs import RunFolder
from schemas.run import Run
from schemas.tables import Reject

_ORDER = ("plan", *VIDEO_STAGES, *BUILD_STAGES)


@dataclass(frozen=True)
class Loss:
    """Rejects of one stage for one reason."""

    stage: str
    reason: str
    count: int
    example: str
    """The first one's message."""

    def __str__(self) -> str:
        return f"{self.count} × {self.stage}: {self.reason}"


def losses(folder: RunFolder) -> list[Loss]:
    """All rejects of a run by stage and reason, in the order of the stages; `plan` are sources that were not usable."""
    found: dict[tuple[str, str], list[Reject]] = {}
    for reject in _rejects(folder):
        found.setdefault((reject.stage, reject.reason), []).append(reject)
    ordered = sorted(found, key=lambda key: (_ORDER.index(key[0]), key[1]))
    return [Loss(*key, len(found[key]), found[key][0].message) for key in ordered]


def skipped_in_words(run: Run) -> str:
    """What the search for videos has skipped, the most frequent kind first; empty when nothing was."""
    counts = sorted(run.skipped.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count} {kind}" for kind, count in counts)


def why_empty(folder: RunFolder) -> str:
    """Why a run has no sample, and the way out, in words."""
    records = [record for record in folder.records() if record.stage == "question"]
    asked = sum(commit.rows for record in records for commit in record.commits.values())
    lost = ", ".join(map(str, losses(folder)))
    if asked:
        return f"none of {asked} questions became a sample ({lost})"
    hint = (
        "derived questions need text on screen; point LVR_CAPTIONER_URL and LVR_REASONER_URL to models that can "
        "describe and ask"
    )
    return f"no question could be asked about {folder.run.videos} videos ({lost or 'nothing was rejected'}): {hint}"


def _rejects(folder: RunFolder) -> Iterator[Reject]:
    yield from folder.store.get_rows(folder.run.plan_rejects_sha256, Reject)
    for record in folder.records():
        for commit in record.commits.values():
            if commit.rejects:
                yield from folder.store.get_rows(commit.rejects_sha256, Reject)

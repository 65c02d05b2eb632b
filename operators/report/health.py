"""Checks of data quality. Each finding has its figure and is judged by a rule in this module."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from operators.report.collect import Numbers
from schemas.tables import Split

MAX_DEVIATION = 3.0
"""Standard errors above guessing from which a baseline is significant (one-sided p = 0.0013)."""

TRUNCATED_SHARE = 0.02
"""Maximum share of captions cut off by the token limit. Above it, the limit or the prompt should be changed."""

OF_A_SEGMENT = "annotation"
"""Reason of planning rejects that concern one segment of a video. The video itself may still be used."""


@dataclass(frozen=True)
class Finding:
    """The result of one check. `ok` is False if it needs attention."""

    ok: bool
    what: str
    figure: str


def findings(numbers: Numbers) -> tuple[Finding, ...]:
    """Findings about the results of the run so far. Those that need attention come first."""
    found = [*_progress(numbers), *_media(numbers), *_samples(numbers), *_baselines(numbers)]
    return tuple(sorted(found, key=lambda finding: finding.ok))


def _progress(numbers: Numbers) -> Iterator[Finding]:
    waiting = [each.stage for each in numbers.stages if each.partitions_done < each.partitions]
    ahead = "all have run" if not waiting else f"to come: {', '.join(waiting)}"
    yield Finding(not waiting, "Stages", ahead)
    if numbers.done("assemble"):
        if numbers.samples.empty:
            yield Finding(False, "Samples", "no question came through all checks")
        yield Finding(
            numbers.unaccounted == 0,
            "Questions accounted for",
            f"{numbers.unaccounted:,} are missing without a reject" if numbers.unaccounted else "all",
        )


def _media(numbers: Numbers) -> Iterator[Finding]:
    if numbers.done("ingest"):
        planning = [group for group in numbers.rejects if group.stage == "plan"]
        unusable = sum(group.count for group in planning if group.reason != OF_A_SEGMENT)
        readable, planned = len(numbers.videos), numbers.run.videos + unusable
        yield Finding(readable == planned, "Readable videos", f"{readable:,} of {planned:,}")
    if numbers.done("caption") and len(numbers.clip_seconds):
        clips = len(numbers.clip_seconds)
        yield Finding(numbers.captions >= clips, "Clips with a caption", f"{numbers.captions:,} of {clips:,}")
        yield Finding(
            numbers.truncated <= TRUNCATED_SHARE * numbers.captions,
            "Captions cut off at the token limit",
            f"{numbers.truncated:,} of {numbers.captions:,}",
        )


def _samples(numbers: Numbers) -> Iterator[Finding]:
    samples = numbers.samples
    if samples.empty:
        return
    shared = int((samples.groupby("video_id")["split"].nunique() > 1).sum())
    yield Finding(shared == 0, "Videos in more than one split", f"{shared:,}")
    rl = samples.loc[samples["split"] == Split.RL.value, "pass_rate"]
    flat = int(rl.isin([0.0, 1.0]).sum())
    yield Finding(flat == 0, "RL samples without a gradient (pass rate 0 or 1)", f"{flat:,} of {len(rl):,}")
    yield Finding(numbers.evidence_outside == 0, "Evidence outside its video", f"{numbers.evidence_outside:,} samples")
    missing = [split.value for split in Split if split.value not in set(samples["split"])]
    yield Finding(not missing, "Splits with samples", "all" if not missing else f"none in {', '.join(missing)}")


def _baselines(numbers: Numbers) -> Iterator[Finding]:
    for baseline in numbers.baselines:
        if baseline.of_samples:
            figure = f"{baseline.accuracy:.1%}, guessing {baseline.chance:.1%}"
            yield Finding(baseline.deviation < MAX_DEVIATION, baseline.name, figure)

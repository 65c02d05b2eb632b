"""Checks of data quality. Each finding has its figure and is judged by a rule in this module."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from operators.curation.balance import MAX_PROBABILITY
from operators.models.session import MEASURED
from operators.report.collect import Numbers
from schemas.config import Writer
from schemas.tables import Split

TRUNCATED_SHARE = 0.02
"""Maximum share of captions cut off by the token limit. Above it, the limit or the prompt should be changed."""

PLAN_SHARE = 0.8
"""Share of the planned questions that competent models fill."""

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
    found = [
        *_progress(numbers),
        *_media(numbers),
        *_questions(numbers),
        *_models(numbers),
        *_samples(numbers),
        *_baselines(numbers),
    ]
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


def _questions(numbers: Numbers) -> Iterator[Finding]:
    plan = numbers.plan
    if not numbers.done("question") or plan.empty:
        return
    missing = (plan["planned"] - plan["kept"]).clip(lower=0)
    planned, filled = int(plan["planned"].sum()), int((plan["planned"] - missing).sum())
    figure = f"{filled:,} of {planned:,}"
    if missing.any():
        worst = plan.loc[missing.idxmax()]
        figure += f"; most are missing of {worst['category']}, {worst['kind']}, {worst['reach']}"
    yield Finding(filled >= PLAN_SHARE * planned, "Planned questions that were kept", figure)


def _models(numbers: Numbers) -> Iterator[Finding]:
    """Whether the models that check are others than those that write."""
    models = numbers.run.config.models
    if Writer.MODEL not in numbers.run.config.question.writers or not models.reasoner.model:
        return
    families = _family(models.reasoner.model), _family(models.judge.model)
    yield Finding(families[0] != families[1], "Families of reasoner and judge", " and ".join(families))
    if models.captioner.model not in {"", MEASURED}:
        seen = models.viewer.model or "there is no viewer, so captions are not checked"
        is_other = models.viewer.model not in {"", models.captioner.model}
        yield Finding(is_other, "Viewer other than the captioner", seen)


def _family(model: str) -> str:
    """The family of a model by its name: the letters that it begins with, without its organization."""
    name = model.rsplit("/", 1)[-1].lower()
    found = re.match(r"[a-z]+", name)
    return found[0] if found else name


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
            yield Finding(baseline.guessing_probability >= MAX_PROBABILITY, baseline.name, figure)

"""The report's figures. Each is a plot of some of the numbers, with a table of the values that it shows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from operators.execution.rejects import RejectGroup
from operators.report.collect import Numbers
from operators.report.plots import Bar, Histogram, bars, bin_labels, columns, histogram, tally
from schemas.config import Media
from schemas.tables import Check, Packaging, QuestionCategory, QuestionKind, Split

_SPLITS = tuple(split.value for split in Split)
PACKAGING = {
    Packaging.KEEP: "kept byte for byte",
    Packaging.COPY: "copied into an MP4",
    Packaging.SOUND: "copied, sound encoded as AAC",
    Packaging.PICTURE: "picture encoded",
    Packaging.BOTH: "picture and sound encoded",
}
"""Text for each way in which a source video is converted for the release."""
MAX_REASONS = 3
"""Reasons of rejects that a breakdown names for each row."""
_CHAIN_CHECKS = {
    Check.CHAIN_READ: "a reader without the video arrives at the answer",
    Check.CHAIN_SUPPORT: "the captions support what it states",
    Check.CHAIN_SWAPPED: "another question's chain does not lead to the answer",
}
_PHASES = ("compute", "models", "write")


@dataclass(frozen=True)
class Figure:
    """A plot with its title, its message in one or two sentences, its legend, and its values as a table."""

    title: str
    text: str
    svg: Markup
    legend: tuple[str, ...]
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Outcome:
    """What became of the questions of one category, prompt or model."""

    name: str
    written: str
    samples: str
    share: float
    """Samples divided by written questions."""
    reasons: tuple[tuple[str, str], ...]
    """The most frequent reasons of rejects, with their numbers."""
    other_reasons: str
    """Number of rejects for other reasons; empty if there are none."""


@dataclass(frozen=True)
class Breakdown:
    """What became of the questions, by one of their properties."""

    by: str
    rows: tuple[Outcome, ...]


@dataclass(frozen=True)
class ChainTable:
    """How chains of thought were written, and what readers found."""

    written: tuple[tuple[str, str, str], ...]
    """Way, number and share of the chains."""
    checks: tuple[tuple[str, str, str], ...]
    """Check, number of chains that passed it, and answers that it took."""


def material_figures(numbers: Numbers) -> Iterator[Figure]:
    """Yield the figures about videos and clips."""
    minutes = numbers.videos["seconds"].to_numpy(float) / 60
    if len(minutes):
        text = f"Half of the videos are longer than {np.median(minutes):.1f} minutes."
        yield _columns("Length of videos in minutes", text, histogram([minutes]), ("minutes", "videos"))
        counts = numbers.videos["category"].value_counts()
        rows = [Bar(_words(str(name)), (float(count),), f"{count:,}") for name, count in counts.items()]
        yield _bars("Categories of videos", "What the source videos are about.", rows, ("category", "videos"))
        if numbers.run.config.shard.media is Media.ORIGINAL:
            yield _packaging(numbers)
    if len(numbers.clip_seconds):
        text = f"A clip lasts {numbers.clip_seconds.mean():.1f} s on average."
        yield _columns("Length of clips in seconds", text, histogram([numbers.clip_seconds]), ("seconds", "clips"))


def _packaging(numbers: Numbers) -> Figure:
    counts = numbers.videos["packaging"].value_counts()
    rows = [Bar(text, (float(counts.get(way, 0)),), f"{counts.get(way, 0):,}") for way, text in PACKAGING.items()]
    several = int((numbers.videos["other_pictures"] > 0).sum())
    text = "Copied where possible, encoded where MP4 players could not decode them."
    if several:
        text += f" {several:,} with more than one picture: the release holds the one that was captioned."
    return _bars("Videos in the release", text, rows, ("made by", "videos"))


def sample_figures(numbers: Numbers) -> Iterator[Figure]:
    """Yield the figures about the samples. There are none without samples."""
    samples = numbers.samples
    if samples.empty:
        return
    groups = samples.groupby(["problem_type", "kind", "split"]).size()
    rows = []
    for category in QuestionCategory:
        for kind in QuestionKind:
            parts = [float(groups.get((category.value, kind.value, split), 0)) for split in _SPLITS]
            rows.append(Bar(f"{category}, {kind}", tuple(parts), f"{sum(parts):,.0f}"))
    text = "Samples of each category and kind of question."
    yield _bars("Samples by category, kind and split", text, rows, ("category", *_SPLITS), _SPLITS)
    yield _pass_rates(numbers)
    yield from _letters(numbers)
    choices = numbers.choices
    if len(choices):
        options = tally(choices["options"].map(len))
        yield _columns("Options per question", "Choice questions only.", options, ("options", "samples"))
    spans = tally(samples["spans"])
    yield _columns("Evidence spans per sample", "Spans that an answer follows from.", spans, ("spans", "samples"))
    if len(numbers.evidence_seconds):
        text = f"Half of the spans are longer than {np.median(numbers.evidence_seconds):.1f} s."
        shape = histogram([numbers.evidence_seconds])
        yield _columns("Length of evidence spans in seconds", text, shape, ("seconds", "spans"))


def baseline_figure(numbers: Numbers) -> Figure | None:
    """Figure of the baselines: accuracies without the video, compared with guessing. None without baselines."""
    if not numbers.baselines:
        return None
    rows = [
        Bar(baseline.name, (baseline.accuracy,), f"{baseline.accuracy:.1%}", baseline.chance)
        for baseline in numbers.baselines
    ]
    table = [(f.name, f"{f.accuracy:.1%}", f"{f.chance:.1%}", f"{f.answers:,}") for f in numbers.baselines]
    text = "Accuracy on choice questions without the video. The tick marks random guessing."
    svg = bars("Baselines", text, rows, full=1.0)
    return Figure("Baselines", text, svg, (), ("way to answer", "accuracy", "chance", "answers"), tuple(table))


def funnel_figure(numbers: Numbers) -> Figure | None:
    """Figure of the questions that remain after each check, by writer. None without questions."""
    done = [(step.name, step.left) for step in numbers.funnel if step.left is not None]
    if not numbers.questions or not done:
        return None
    writers = tuple(done[0][1])
    rows = []
    for name, left in done:
        total = sum(left.values())
        parts = tuple(float(left[writer]) for writer in writers)
        rows.append(Bar(name, parts, f"{total:,} · {total / numbers.questions:.0%}"))
    text = "Questions that remain after each check, in order, by writer."
    return _bars("From questions to samples", text, rows, ("check", *writers), writers)


def reject_bars(numbers: Numbers) -> Iterator[tuple[Markup, RejectGroup]]:
    """Yield one bar for each group of rejects, all to the same scale, with the group."""
    largest = float(max((group.count for group in numbers.rejects), default=0))
    for group in numbers.rejects:
        label = f"{group.stage}: {_words(group.reason)}"
        row = Bar(label, (float(group.count),), f"{group.count:,}")
        yield bars(label, f"{group.count:,} rejects", [row], largest), group


def breakdowns(numbers: Numbers) -> Iterator[Breakdown]:
    """Yield what became of the questions by category, by prompt and by the model that wrote them."""
    outcomes = numbers.outcomes
    if outcomes.empty:
        return
    for name, column in (("category", "category"), ("prompt", "prompt"), ("model", "model")):
        rows = []
        for value, own in outcomes.groupby(column, sort=True):
            reasons = own.loc[own["reason"] != "", "reason"].value_counts()
            shown = tuple((_words(str(reason)), f"{count:,}") for reason, count in reasons.head(MAX_REASONS).items())
            rest = f"{reasons.iloc[MAX_REASONS:].sum():,}" if len(reasons) > MAX_REASONS else ""
            kept = int(own["kept"].sum())
            rows.append(
                Outcome(str(value) or "none (by program)", f"{len(own):,}", f"{kept:,}", kept / len(own), shown, rest)
            )
        yield Breakdown(name, tuple(rows))


def chain_table(numbers: Numbers) -> ChainTable | None:
    """How the chains of thought were written, and what their checks found. None without chains."""
    chains, checks = numbers.chains, numbers.chain_checks
    if chains.empty:
        return None
    total = len(chains)
    written = (
        ("by program", int((chains["model"] == "program").sum())),
        ("by a model without the answer", int((~chains["hinted"] & (chains["model"] != "program")).sum())),
        ("by a model with the answer (hinted)", int(chains["hinted"].sum())),
        ("changed by the second pass", int(chains["refined"].sum())),
    )
    found = []
    for check, text in _CHAIN_CHECKS.items():
        own = checks[checks["check"] == check.value]
        if len(own):
            found.append((text, f"{int(own['passed'].sum()):,} of {len(own):,}", f"{int(own['n'].sum()):,}"))
    return ChainTable(
        tuple((text, f"{count:,}", f"{count / total:.0%}") for text, count in written if count), tuple(found)
    )


def time_figure(numbers: Numbers) -> Figure | None:
    """Figure of the seconds by stage and phase. None if no stage has run."""
    stages = [stage for stage in numbers.stages if stage.units]
    rows = [
        Bar(
            stage.stage,
            tuple(stage.phase_seconds.get(phase, 0.0) for phase in _PHASES),
            seconds(sum(stage.phase_seconds.values())),
        )
        for stage in stages
    ]
    text = "Time in each stage, summed over videos that were processed concurrently."
    figure = _bars("Where the time went", text, rows, ("stage", *_PHASES), _PHASES)
    table = [(row.label, *(seconds(part) for part in row.parts)) for row in rows]
    return Figure(figure.title, text, figure.svg, _PHASES, figure.head, tuple(table)) if rows else None


def seconds(value: float) -> str:
    """Format a duration in seconds, such as 0.4 s, 12 s, 3 min 20 s or 5 h 12 min."""
    if value < 10:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours:,} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _pass_rates(numbers: Numbers) -> Figure:
    rates = numbers.pass_rates
    tenths = tuple(edge / 10 - 0.05 for edge in range(12))
    counts = tuple(
        tuple(int(count) for count in np.histogram(rates.loc[rates["kept"] == kept, "pass_rate"], tenths)[0])
        for kept in (True, False)
    )
    shape = Histogram(tenths, counts, tuple(f"{10 * tenth}%" if tenth % 2 == 0 else "" for tenth in range(11)))
    text = "How often the target was right. RL has no question that it always or never answers."
    series = ("samples", "rejected")
    title = "Pass rate of the target"
    table = [(f"{10 * tenth} %", *(f"{part[tenth]:,}" for part in counts)) for tenth in range(11)]
    return Figure(title, text, columns(title, text, shape), series, ("pass rate", *series), tuple(table))


def _letters(numbers: Numbers) -> Iterator[Figure]:
    counts = numbers.choices["letter"].value_counts()
    rows = [
        Bar(letter, (float(counts.get(letter, 0)),), f"{counts.get(letter, 0):,}", expected)
        for letter, expected in numbers.expected_letters.items()
    ]
    if rows:
        text = "How often each letter is the right answer. The tick marks a uniform distribution."
        table = [(row.label, row.note, f"{row.mark:,.1f}") for row in rows]
        svg = bars("Answer letters", text, rows)
        yield Figure("Answer letters", text, svg, (), ("letter", "samples", "expected"), tuple(table))


def _bars(title: str, text: str, rows: Sequence[Bar], head: tuple[str, ...], legend: tuple[str, ...] = ()) -> Figure:
    table = tuple((row.label, *(f"{part:,.0f}" for part in row.parts)) for row in rows)
    return Figure(title, text, bars(title, text, rows), legend, head, table)


def _columns(title: str, text: str, shape: Histogram, head: tuple[str, ...]) -> Figure:
    table = [(name, f"{count:,}") for name, count in zip(bin_labels(shape), shape.counts[0], strict=True) if count]
    return Figure(title, text, columns(title, f"{text} Along the axis: {head[0]}.", shape), (), head, tuple(table))


def _words(name: str) -> str:
    return name.replace("_", " ")

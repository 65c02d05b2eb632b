"""Shows a finished build on a terminal: rejects, a few samples to read, counts, and the addresses of the files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.text import Text

from operators.execution.rejects import describe_skipped, group_rejects
from operators.store.content_store import Store, object_path
from operators.store.run_folder import RunFolder
from operators.video.timecode import format_span
from schemas.answer_format import LETTERS
from schemas.arrow import rows_from_parquet
from schemas.base import digest
from schemas.findings import Findings, Severity
from schemas.provenance import StepProvenance
from schemas.run import Release
from schemas.sample import Sample
from schemas.tables import QuestionKind

SHOWN_SAMPLES = 4


def show_build(console: Console, folder: RunFolder, release: Release, seconds: float) -> None:
    """Print the summary of a run, and of the release that it published or that already holds the same content.

    Args:
        seconds: duration of the run, as the caller measured it.
    """
    show_rejects(console, folder)
    show_findings(console, folder.findings())
    samples = read_samples(folder.store, release)
    show_samples(console, pick_samples(samples, SHOWN_SAMPLES))
    address = f"{folder.store.url}/releases/{release.name}/v{release.version:04d}"
    counts = Counter(each.problem_type for each in samples)
    lines = [
        f"{seconds:.0f} s; {_work(folder)}",
        _news(release, folder.run.run_id),
        "categories: " + ", ".join(f"{category} {count}" for category, count in sorted(counts.items())),
        f"shards  {address}/data",
        f"tables  {address}/parquet",
        f"report  {folder.url}/report.html  (open it in a browser)",
        f"check   lvr validate {address}",
    ]
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _work(folder: RunFolder) -> str:
    metrics = folder.metrics()
    total, reused = sum(stage.units for stage in metrics), sum(stage.reused for stage in metrics)
    if total == reused:
        return f"nothing had to be computed: the results of all {total} steps were reused from earlier runs"
    return f"{total - reused} steps (one stage of one video each) were computed, {reused} reused from earlier runs"


def _news(release: Release, run_id: str) -> str:
    counts = ", ".join(f"{split} {count}" for split, count in sorted(release.samples.items()))
    holds = f"{release.name} version {release.version}: {sum(release.samples.values())} samples ({counts})"
    return f"published {holds}" if release.run_id == run_id else f"nothing new to publish; this is still {holds}"


def pick_samples(samples: Sequence[Sample], count: int) -> list[Sample]:
    """Choose a few samples that differ in category, then in video, kind and writer, in a reproducible order."""
    rest = sorted(samples, key=lambda sample: digest(sample.question_id))
    taken: Counter[str] = Counter()
    picked: list[Sample] = []
    while rest and len(picked) < count:
        best = min(rest, key=lambda each: [taken[value] for value in _traits(each)])
        rest.remove(best)
        picked.append(best)
        taken.update(_traits(best))
    return picked


def _traits(sample: Sample) -> tuple[str, ...]:
    return (sample.problem_type, sample.video_id, sample.kind, sample.writer)


def read_samples(store: Store, release: Release) -> list[Sample]:
    """Read all samples of a release from its Parquet tables."""
    tables = [file for file in release.files if file.path.startswith("parquet/")]
    return [
        sample
        for file in tables
        for sample in rows_from_parquet(
            store.read(object_path(file.sha256, ".parquet")), Sample, file.path, expected_rows=file.samples
        )
    ]


def show_samples(console: Console, samples: Sequence[Sample]) -> None:
    """Print samples, one panel each."""
    for sample in samples:
        title = f"{sample.problem_type} · {sample.kind} · {sample.split} · written by {sample.writer}"
        console.print(Panel(Group(*_lines(sample)), title=title, title_align="left", border_style="dim"))


def show_rejects(console: Console, folder: RunFolder) -> None:
    """Print what was skipped in the source, then the rejects: one line per reason, with its first example."""
    if skipped := describe_skipped(folder.run):
        console.print(Text(f"skipped in the source (not videos): {skipped}", style="dim"), soft_wrap=True)
    for group in group_rejects(folder):
        console.print(Text(f"rejected {group}", style="yellow"), Text(group.messages[0], style="dim"), soft_wrap=True)


def _group_steps(steps: Sequence[StepProvenance]) -> dict[str, list[str]]:
    """Each model's steps, with the prompt and the beginning of its hash where there is one."""
    found: dict[str, list[str]] = {}
    for step in steps:
        prompt = f" ({step.prompt_id} {step.prompt_sha256[:8]})" if step.prompt_id else ""
        found.setdefault(step.model, []).append(f"{step.step}{prompt}")
    return found


def show_findings(console: Console, findings: Findings) -> None:
    """Print the findings that need attention, one line each, or that there are none."""
    styles = {Severity.ERROR: "bold red", Severity.WARNING: "yellow", Severity.INFO: "dim"}
    for finding in findings.problems:
        console.print(Text(str(finding), style=styles[finding.severity]), soft_wrap=True)
    if not findings.problems:
        console.print(Text("no finding about the data needs attention", style="dim"))


def _lines(sample: Sample) -> Iterator[RenderableType]:
    yield Text(sample.question, style="bold")
    for letter, option in zip(LETTERS, sample.options, strict=False):
        right = option == sample.answer_text
        yield Text(f"  {letter}. {option}" + ("  ✓" if right else ""), style="green" if right else "")
    if sample.kind is QuestionKind.OPEN:
        yield Text(f"  → {sample.answer_text}", style="green")
    yield Text(sample.reasoning, style="italic")
    spans = ", ".join(format_span(span) for span in sample.evidence)
    hinted = " · reasoning written with the answer" if sample.reasoning_hinted else ""
    yield Text(
        f"video {sample.video_id} · evidence {spans} · pass rate {sample.pass_rate:.0%} of {sample.trials}{hinted}",
        style="dim",
    )
    for model, steps in _group_steps(sample.steps).items():
        yield Text(f"{model}: {', '.join(steps)}", style="dim")

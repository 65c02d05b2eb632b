"""The report as one HTML page without network access or scripts, for light and dark mode and for print."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from operators.execution.rejects import describe_skipped
from operators.report import figures
from operators.report.collect import Numbers, ShownSample, collect
from operators.report.health import find_findings
from operators.report.plots import timeline
from operators.store.run_folder import RunFolder
from operators.video.timecode import format_span, format_time
from schemas.answer_format import LETTERS
from schemas.config import Role
from schemas.tables import Split
from schemas.uri import shown_uri


def write_report(folder: RunFolder) -> str:
    """Write `report.html` and `findings.json` into the run's folder, for the stages that have run so far.

    Returns:
        The URL of the page.
    """
    address = f"{folder.address}/report.html"
    numbers = collect(folder)
    folder.write_findings(find_findings(numbers))
    folder.store.write(address, render(numbers).encode())
    return f"{folder.store.url}/{address}"


def render(numbers: Numbers) -> str:
    """Render the page as HTML. All text that comes from data is escaped."""
    environment = Environment(
        loader=PackageLoader("operators.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"format_time": format_time, "format_span": format_span, "seconds": figures.seconds}
    return environment.get_template("page.html.jinja").render(_content(numbers))


def _content(numbers: Numbers) -> dict[str, Any]:
    return {
        "numbers": numbers,
        "config": numbers.run.config,
        "source": shown_uri(numbers.run.config.source),
        "models": [(role.value, numbers.run.config.models.of(role)) for role in Role],
        "letters": LETTERS,
        "key_figures": _key_figures(numbers),
        "by_split": _by_split(numbers),
        "findings": find_findings(numbers),
        "samples_done": numbers.done("assemble"),
        "material": list(figures.material_figures(numbers)),
        "sample_figures": list(figures.sample_figures(numbers)),
        "baselines": figures.baseline_figure(numbers),
        "funnel": figures.funnel_figure(numbers),
        "rejects": list(figures.reject_bars(numbers)),
        "breakdowns": list(figures.breakdowns(numbers)),
        "chains": figures.chain_table(numbers),
        "skipped": describe_skipped(numbers.run),
        "time": figures.time_figure(numbers),
        "examples": [(example, _timeline(example)) for example in numbers.examples],
    }


def _key_figures(numbers: Numbers) -> list[tuple[str, str]]:
    """The key figures, each as a formatted value and what it counts."""
    samples, hours = len(numbers.samples), numbers.hours
    figures_ = [
        (f"{len(numbers.videos):,}", "videos"),
        (f"{hours:,.1f}", "hours of video"),
        (f"{len(numbers.clip_seconds):,}", "clips"),
        (f"{numbers.captions:,}", "captions"),
        (f"{numbers.questions:,}", "questions written"),
        (f"{samples:,}", "verified samples"),
    ]
    return [*figures_, (f"{samples / hours:,.1f}", "samples per video hour")] if hours and samples else figures_


def _by_split(numbers: Numbers) -> list[tuple[str, int, int]]:
    """Each split with its number of samples and of videos."""
    groups = numbers.samples.groupby("split")["video_id"]
    counts, videos = groups.size(), groups.nunique()
    return [(split.value, int(counts.get(split.value, 0)), int(videos.get(split.value, 0))) for split in Split]


def _timeline(example: ShownSample) -> str:
    sample = example.sample
    spans = ", ".join(format_span(span) for span in sample.evidence)
    return timeline("Evidence", f"{spans} of {format_time(sample.duration_us)}", sample.duration_us, sample.evidence)

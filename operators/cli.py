"""The pipeline's command line, `lvr`. The tasks of the DAGs run the same commands as child processes.

The exit status says whether running a command again can help (`operators.process.exit_status`).
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import BaseModel
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn
from rich.progress import Progress as ProgressBar
from typer.exceptions import TyperException

from operators.commands.baselines import baselines
from operators.commands.compare import compare
from operators.commands.prompts import prompts
from operators.execution.progress import StageProgress
from operators.process.exit_status import EXIT_STATUSES, INTERRUPTED_STATUS
from operators.process.isolate import stop_children
from operators.settings import ConfigError, assert_no_secret, load_config, validate_config
from operators.store.content_store import Store
from operators.store.run_folder import RunFolder
from schemas.config import BuildConfig
from schemas.errors import BAD_INPUT_STATUS, OUTAGE_STATUS, BadInput, Outage
from schemas.tables import Reject
from schemas.uri import printable, shown_uri

MAX_FAULTS_SHOWN = 20
"""Maximum number of messages printed about videos that were skipped because of faults of the machine."""
LINE_SECONDS = 30.0
"""Time between two progress lines of the running stages, if the output is not a terminal."""

app = typer.Typer(
    help="Long videos in, a verified long-video reasoning dataset out.", add_completion=False,
    epilog="\n\n".join(["Exit status:", *(f"{status}: {what}" for status, what in EXIT_STATUSES.items())]),
    pretty_exceptions_enable=False,
)  # fmt: skip
app.add_typer(prompts, name="prompts")
app.command()(baselines)
app.command()(compare)

WORKERS_HELP = "Videos decoded concurrently; by default half of the cores, because two partitions decode at a time."
ConfigFile = Annotated[Path | None, typer.Option("--config", help="YAML file of BuildConfig fields.")]
Settings = Annotated[list[str] | None, typer.Option("--set", help="section.field=value; wins over the file.")]
ConfigJson = Annotated[str, typer.Option(help="A whole BuildConfig as JSON.")]
RunUrl = Annotated[str, typer.Argument(help="{out}/runs/{run id}")]


def main() -> None:
    """Entry point of `lvr`: run a command, and turn known failures into a message and an exit status."""
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, _exit_interrupted)
    try:
        if (
            app(sys.argv[1:] or ["--help"], standalone_mode=False) == INTERRUPTED_STATUS
        ):  # typer's return value after a KeyboardInterrupt
            _exit_interrupted()
    except (KeyboardInterrupt, typer.Abort):
        _exit_interrupted()
    except Outage as outage:
        _fail(str(outage), OUTAGE_STATUS)
    except BadInput as error:
        _fail(str(error), BAD_INPUT_STATUS)
    except TyperException as error:  # no such command, option or value
        _fail(error.format_message(), BAD_INPUT_STATUS)


def _exit_interrupted(*_: object) -> None:
    """Kill all children and exit immediately, without waiting for threads. Also used as a signal handler.

    The message is written directly to the file descriptor, because the signal may have interrupted a print.
    """
    try:
        stop_children()
        show_cursor = "\x1b[?25h" if sys.stderr.isatty() else ""  # a progress bar may have hidden it
        message = f"{show_cursor}\ninterrupted; finished work is kept, run the same command again to resume\n"
        with contextlib.suppress(OSError):  # the same Ctrl-C may have ended the process that reads it
            os.write(sys.stderr.fileno(), message.encode())
    finally:
        os._exit(INTERRUPTED_STATUS)


def _fail(message: str, status: int) -> None:
    shown = "\n".join(map(printable, message.split("\n")))  # file and model names may hold control characters
    Console(stderr=True).print(f"[bold red]error:[/] {escape(shown)}", highlight=False, soft_wrap=True)
    sys.exit(status)


@app.command()
def build(
    source: Annotated[str | None, typer.Option(help="Folder of videos, manifest, or Shot2Story annotations.")] = None,
    out: Annotated[str | None, typer.Option(help="Where to work and publish: a folder or an fsspec URL.")] = None,
    config: ConfigFile = None,
    settings: Settings = None,
    concurrent_partitions: Annotated[int, typer.Option(min=1, help="Partitions under way at the same time.")] = 2,
) -> None:
    """Build a dataset here, without Airflow: the same stages in one process tree."""
    _build_and_show(load_config(config, settings or [], source=source, out=out), concurrent_partitions)


@app.command()
def demo_films(directory: Path) -> None:
    """Render the demo films, each with its ground truth next to it."""
    from operators.demo.films import render_demo_films

    for path in render_demo_films(directory, progress=Console(stderr=True).print):
        typer.echo(path)


@app.command()
def films(
    directory: Path,
    count: Annotated[int, typer.Option(min=1, help="Number of films.")] = 3,
    minutes: Annotated[str, typer.Option(help="Length of each film: `4`, or bounds such as `3..5`.")] = "3..5",
    seed: Annotated[int, typer.Option(help="The same seed makes the same films.")] = 1,
    texts: Annotated[str, typer.Option(help="On-screen text: none, few (titles) or many (what people want).")] = "none",
    workers: Annotated[
        int | None, typer.Option(min=1, help="Films under way at the same time; one for each core.")
    ] = None,
) -> None:
    """Render films of a story grammar, each with its truth and facts, and print their manifest, a source for builds."""
    from operators.demo.films.grammar.rendering import parse_minutes, parse_texts, render_films

    typer.echo(
        render_films(
            directory,
            count=count,
            minutes=parse_minutes(minutes),
            seed=seed,
            texts=parse_texts(texts),
            workers=workers,
            progress=Console(stderr=True).print,
        )
    )


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Where films and dataset go.")] = Path(".demo"),
    keep: Annotated[bool, typer.Option(help="Leave Airflow up until Ctrl-C.")] = False,
) -> None:
    """Build a dataset from demo films under a real, local Airflow, and show it."""
    from operators.demo.local_airflow.demo import run_demo

    run_demo(out, keep)


@app.command()
def ui() -> None:
    """Run a local Airflow until Ctrl-C, and print its address, user and password."""
    from operators.demo.local_airflow.demo import run_ui

    run_ui()


@app.command()
def preflight(config_json: ConfigJson) -> None:
    """Check before any work starts whether a build can run."""
    from operators.preflight import preflight as check

    for note in check(_from_json(config_json)):
        typer.echo(note)


@app.command()
def plan(config_json: ConfigJson, run_id: Annotated[str, typer.Option(help="Name of the new run.")]) -> None:
    """List the sources, group them into partitions, write the run's plan, and print it as one JSON line."""
    from operators.build import plan_build, run_id_from
    from operators.execution.rejects import describe_skipped

    config = _from_json(config_json)
    typer.echo(f"looking for the videos of {shown_uri(config.source)}", err=True)
    folder = plan_build(config, run_id_from(run_id))
    rejects = folder.store.get_rows(folder.run.plan_rejects_sha256, Reject)
    for reject in rejects:
        typer.echo(f"rejected: {reject.reason}: {reject.message}", err=True)
    if skipped := describe_skipped(folder.run):
        typer.echo(f"skipped in the source (not videos): {skipped}", err=True)
    partitions = [{"partition": partition.index, "label": partition.label} for partition in folder.partitions()]
    _json_line({"run": folder.url, "partitions": partitions, "videos": folder.run.videos, "rejects": len(rejects)})


@app.command()
def stage(
    run: RunUrl,
    name: str,
    partition: Annotated[int | None, typer.Option(help="For per-video stages.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, envvar="LVR_DECODE_WORKERS", help=WORKERS_HELP)] = None,
) -> None:
    """Run one stage of a run, and print its metrics as one JSON line."""
    from operators.execution.runner import run_stage

    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("operators").setLevel(logging.INFO)
    at_once = workers or max(1, (os.cpu_count() or 1) // 2)
    metrics = run_stage(
        RunFolder.open(run),
        name,
        partition,
        workers=at_once,
        report=lambda progress: typer.echo(str(progress), err=True),
    )
    _json_line(metrics.model_dump(mode="json"))


@app.command()
def report(run: RunUrl) -> None:
    """Write a run's report page and findings, and print the page's address and the counts as one JSON line.

    The findings that need attention go to stderr.
    """
    from operators.report import write_report

    folder = RunFolder.open(run)
    address = write_report(folder)
    found = folder.findings()
    for finding in found.problems:
        typer.echo(str(finding), err=True)
    _json_line({"report": address, "findings": found.counts()})


@app.command()
def publish(run: RunUrl) -> None:
    """Publish the output of a run's shard stage as the next version, and print it as one JSON line."""
    from operators.execution.rejects import temporary_rejects
    from operators.release.publish import publish as publish_run

    folder = RunFolder.open(run)
    published = publish_run(folder)
    release = published.release
    if met := temporary_rejects(folder):
        typer.echo(_describe_faults(met), err=True)
    _json_line(
        {"name": release.name, "version": release.version, "url": published.url, "is_new": published.is_new,
         "samples": release.samples, "videos": release.videos}
    )  # fmt: skip


@app.command()
def stale(
    out: Annotated[str, typer.Option(help="Where the build published.")],
    name: Annotated[str, typer.Option(help="The dataset's name; optional if only one is published.")] = "",
    settings: Settings = None,
) -> None:
    """Print what a new run of a published build would compute, and why, as one JSON line."""
    from operators.execution.staleness import find_stale
    from operators.release.publish import latest_run, only_name

    store = Store(out)
    previous = latest_run(store, name or only_name(store))
    config = load_config(None, settings or [], base=previous.run.requested.model_dump(mode="json"))
    found = find_stale(previous, config)
    _json_line(
        {"stale": dict(found.stale), "reasons": list(found.reasons), "config": config.model_dump(mode="json"),
         "previous_run": previous.url}
    )  # fmt: skip


@app.command()
def replay(
    run: RunUrl,
    stage: Annotated[str | None, typer.Option(help="Only rejects of this stage.")] = None,
    reason: Annotated[str | None, typer.Option(help="Only rejects with this reason.")] = None,
) -> None:
    """Try a run's rejects again: repeat their model requests, and rebuild what depends on them."""
    from operators.execution.rejects import group_rejects
    from operators.execution.replay import assert_same_models, forget_rejects

    console = Console()
    folder = RunFolder.open(run)
    assert_no_secret(folder.run.requested)
    assert_same_models(folder.run)
    groups = forget_rejects(folder, stage, reason)
    if not groups:
        there_are = ", ".join(map(str, group_rejects(folder))) or "none"
        console.print(f"no reject matches; the run has: {there_are}")
        return
    for group in groups:
        console.print(str(group))
    _build_and_show(folder.run.requested)


@app.command()
def validate(release: Annotated[str, typer.Argument(help="{out}/releases/{name}/v0001")]) -> None:
    """Read a release with every loader that is installed, and compare it with its manifest."""
    from operators.release.validate import validate_release

    for reader, count in validate_release(release).items():
        typer.echo(f"{reader}: {count}")


@app.command()
def schema(
    name: Annotated[str, typer.Argument(help="A model: BuildConfig, Sample, Question, ManifestRow ...")],
) -> None:
    """Print the JSON schema of a row, a configuration or a file."""
    from schemas import config as configs
    from schemas import findings, manifest, run, sample, tables

    models = {
        key: value
        for module in (configs, findings, manifest, run, sample, tables)
        for key, value in vars(module).items()
    }
    named = {key: value for key, value in models.items() if isinstance(value, type) and issubclass(value, BaseModel)}
    if name not in named:
        raise ConfigError(f"no model named {name!r}; known are {', '.join(sorted(named))}")
    typer.echo(json.dumps(named[name].model_json_schema(), indent=2))


def _build_and_show(config: BuildConfig, concurrent_partitions: int = 2) -> None:
    from operators.build import run_build
    from operators.execution.rejects import temporary_rejects
    from operators.release.show import show_build

    console = Console()
    started = time.monotonic()
    with _show_progress(console) as report:
        result = run_build(config, concurrent_partitions=concurrent_partitions, report=report)
    show_build(console, result.folder, result.published.release, time.monotonic() - started)
    if met := temporary_rejects(result.folder):
        raise Outage(_describe_faults(met))


def _describe_faults(met: list[Reject]) -> str:
    return (
        f"videos skipped because of faults of the machine: {len({reject.key for reject in met})}; fix its disk, mount "
        f"or memory and build again:\n" + "\n".join(f"  {reject.message}" for reject in met[:MAX_FAULTS_SHOWN])
    )


def _from_json(text: str) -> BuildConfig:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:  # also for a number with too many digits, or too deep nesting
        raise ConfigError(f"--config-json is not JSON: {error}") from error
    return validate_config(values)


def _json_line(value: Any) -> None:
    typer.echo(json.dumps(value, ensure_ascii=False))


@contextlib.contextmanager
def _show_progress(console: Console) -> Iterator[Callable[[StageProgress], None]]:
    """Show the progress of the stages, as bars on a terminal and as lines in a file or pipe.

    Yields the function to call with each `StageProgress`.
    """
    if console.is_terminal:
        with _progress_bar(console) as bar:
            yield _bar_report(bar)
        return
    lines = _Lines(console)
    log = logging.getLogger("operators")
    level = log.level
    log.addHandler(lines)
    log.setLevel(logging.INFO)
    ended = threading.Event()

    def print_at_intervals() -> None:
        while not ended.wait(LINE_SECONDS):
            lines.print_running()

    clock = threading.Thread(target=print_at_intervals)
    clock.start()
    try:
        yield lines.report
    finally:
        ended.set()
        clock.join()
        log.setLevel(level)
        log.removeHandler(lines)


class _Lines(logging.Handler):
    """Prints a line when a stage starts or ends, for each log record, and on `print_running` for each running stage."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console
        self._under_way: dict[tuple[str, int | None], StageProgress] = {}
        self._started = time.monotonic()

    def report(self, progress: StageProgress) -> None:
        if progress.done in (0, progress.total):
            self._print(str(progress))
        if progress.done < progress.total:
            self._under_way[progress.stage, progress.partition] = progress
        else:
            self._under_way.pop((progress.stage, progress.partition), None)

    def print_running(self) -> None:
        for line in [str(progress) for progress in list(self._under_way.values())] or ["no stage is running"]:
            self._print(line)

    def emit(self, record: logging.LogRecord) -> None:
        self._print(record.getMessage())

    def _print(self, line: str) -> None:
        seconds = time.monotonic() - self._started
        self._console.print(f"{seconds:6.1f} s  {line}", highlight=False, markup=False, soft_wrap=True)


def _progress_bar(console: Console) -> ProgressBar:
    return ProgressBar(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
        TextColumn("{task.fields[rejects]} rejects"), TextColumn("{task.fields[seconds]:.0f} s"), console=console,
    )  # fmt: skip


def _bar_report(bar: ProgressBar) -> Callable[[StageProgress], None]:
    """Report function that shows one bar per stage, summed over the partitions that have reported so far."""
    rows: dict[str, TaskID] = {}
    latest: dict[tuple[str, int | None], StageProgress] = {}

    def report(progress: StageProgress) -> None:
        latest[progress.stage, progress.partition] = progress
        partitions = [seen for (stage, _), seen in list(latest.items()) if stage == progress.stage]
        if progress.stage not in rows:
            rows[progress.stage] = bar.add_task(f"{progress.stage:>10}", total=None, rejects=0, seconds=0.0)
        bar.update(
            rows[progress.stage],
            completed=sum(partition.done for partition in partitions),
            total=sum(partition.total for partition in partitions),
            rejects=sum(partition.rejects for partition in partitions),
            seconds=max(partition.seconds for partition in partitions),
        )

    return report


if __name__ == "__main__":
    main()

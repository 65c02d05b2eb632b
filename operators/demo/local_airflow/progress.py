"""Progress of a DAG run, as a live table on a terminal and as plain lines elsewhere.

The table has one row per partition and one column per stage.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from operators.demo.local_airflow.rest import AirflowApi
from operators.execution.pipeline import VIDEO_STAGES

POLL_SECONDS = 1.0
LINE_SECONDS = 30.0
"""Maximum time between two lines, if the output is not a terminal."""
_PARTITION = "partition."
_SYMBOLS = {
    "success": "[green]✓[/]",
    "running": "[cyan]▶[/]",
    "queued": "[dim]…[/]",
    "scheduled": "[dim]…[/]",
    "up_for_retry": "[yellow]↻[/]",
    "failed": "[red]✗[/]",
    "upstream_failed": "[red]-[/]",
    "skipped": "[magenta]»[/]",
}

Tasks = Sequence[dict[str, Any]]


def follow(
    api: AirflowApi, dag_id: str, run_id: str, console: Console, check: Callable[[], None] = lambda: None
) -> tuple[str, Tasks]:
    """Show the progress of a run until it has ended, and return its state and its task instances.

    Args:
        check: called at every poll. It raises an error if a component of Airflow has ended.
    """
    if not console.is_terminal:
        return _follow_in_lines(api, dag_id, run_id, console, check)
    started = time.monotonic()
    with Live(console=console, refresh_per_second=4, transient=False) as live:
        while True:
            check()
            state, tasks = api.run_state(dag_id, run_id), api.task_instances(dag_id, run_id)
            live.update(progress_table(tasks, time.monotonic() - started))
            if state in ("success", "failed"):
                return state, tasks
            time.sleep(POLL_SECONDS)


def progress_table(tasks: Tasks, seconds: float) -> Table:
    """A table of partitions by stages, with the build's other tasks in its caption.

    Args:
        tasks: the task instances of the run.
        seconds: time since the start of the run, shown in the title.
    """
    table = Table(title=f"build_dataset, {seconds:.0f} s", title_justify="left", caption_justify="left")
    table.add_column("partition")
    for stage in VIDEO_STAGES:
        table.add_column(stage, justify="center")
    partitions: dict[int, dict[str, dict[str, Any]]] = {}
    for task in tasks:
        if task["task_id"].startswith(_PARTITION) and task["map_index"] >= 0:
            partitions.setdefault(task["map_index"], {})[task["task_id"].removeprefix(_PARTITION)] = task
    for index in sorted(partitions):
        cells = [_cell(partitions[index].get(stage)) for stage in VIDEO_STAGES]
        table.add_row(_label(index, partitions[index]), *cells)
    others = [task for task in tasks if not task["task_id"].startswith(_PARTITION)]
    table.caption = "  ".join(f"{task['task_id']} {_cell(task)}" for task in sorted(others, key=_task_order))
    return table


def _follow_in_lines(
    api: AirflowApi, dag_id: str, run_id: str, console: Console, check: Callable[[], None]
) -> tuple[str, Tasks]:
    seen: dict[tuple[str, int], str] = {}
    labels: dict[int, str] = {}  # of partitions, known once the first task of the partition has started
    started = printed = time.monotonic()
    while True:
        check()
        state, tasks = api.run_state(dag_id, run_id), api.task_instances(dag_id, run_id)
        labels |= {task["map_index"]: task["rendered_map_index"] for task in tasks if task["rendered_map_index"]}
        for task in tasks:
            key, now = (task["task_id"], task["map_index"]), task["state"]
            if now in _SYMBOLS and now not in ("queued", "scheduled") and seen.get(key) != now:
                seen[key] = now
                name = task["task_id"].removeprefix(_PARTITION)
                where = f" {labels.get(task['map_index'], task['map_index'])}" if task["map_index"] >= 0 else ""
                took = f" ({task['duration']:.1f} s)" if now == "success" and task["duration"] else ""
                console.print(f"{time.monotonic() - started:6.1f} s  {name}{where}: {now}{took}", highlight=False)
                printed = time.monotonic()
        if time.monotonic() - printed >= LINE_SECONDS:
            printed = time.monotonic()
            running = sum(task["state"] == "running" for task in tasks)
            console.print(f"{printed - started:6.1f} s  {running} of {len(tasks)} tasks are running", highlight=False)
        if state in ("success", "failed"):
            return state, tasks
        time.sleep(POLL_SECONDS)


def _label(index: int, partition: dict[str, dict[str, Any]]) -> str:
    """The partition's label as rendered by Airflow, or its index until Airflow has rendered it."""
    labels = [task["rendered_map_index"] for task in partition.values() if task["rendered_map_index"]]
    return labels[0] if labels else str(index)


def _cell(task: dict[str, Any] | None) -> str:
    if task is None or task["state"] not in _SYMBOLS:
        return "[dim]·[/]"
    symbol = _SYMBOLS[task["state"]]
    return f"{symbol} {task['duration']:.0f} s" if task["state"] == "success" and task["duration"] else symbol


def _task_order(task: dict[str, Any]) -> int:
    names = ("preflight", "plan", "assemble", "shard", "report", "publish")
    return names.index(task["task_id"])

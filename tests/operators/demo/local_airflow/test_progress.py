"""Progress of a run on the console: a table on a terminal, elsewhere a line for each change."""

import io

from rich.console import Console

from operators.demo.local_airflow.progress import follow, progress_table


def task(task_id: str, map_index: int = -1, state: str | None = None, duration: float | None = None, label: str = ""):
    return {
        "task_id": task_id, "map_index": map_index, "state": state, "duration": duration, "rendered_map_index": label,
    }  # fmt: skip


def test_the_table_shows_partitions_by_stages():
    tasks = [
        task("publish"),
        task("plan", state="success", duration=4.4),
        task("partition.ingest", 0, "success", 3.2, "film-a +1"),
        task("partition.split", 0, "failed"),
        task("partition.ingest", 1, "running"),
    ]
    printed = io.StringIO()
    Console(file=printed, width=140).print(progress_table(tasks, 12.0))
    title, *body = printed.getvalue().splitlines()
    assert "12 s" in title
    [first] = [line for line in body if "film-a +1" in line]
    assert "✓ 3 s" in first and "✗" in first
    assert any(line.startswith("│ 1") and "▶" in line for line in body)
    assert "plan ✓ 4 s  publish ·" in body[-1]


class ScriptedAirflow:
    """Answers like Airflow's API, with one state per poll."""

    def __init__(self, *polls: list[dict]) -> None:
        self.polls = list(polls)

    def run_state(self, dag_id, run_id):
        return "running" if len(self.polls) > 1 else "success"

    def task_instances(self, dag_id, run_id):
        return self.polls.pop(0)


def test_lines_name_the_partition_as_soon_as_its_label_is_known(monkeypatch):
    monkeypatch.setattr("operators.demo.local_airflow.progress.POLL_SECONDS", 0.0)
    ingested = task("partition.ingest", 0, "success", 3.2, "film-a +1")
    airflow = ScriptedAirflow(
        [task("plan", state="success", duration=4.4), task("partition.ingest", 0, "running")],
        [ingested, task("partition.split", 0, "running")],
        [ingested, task("partition.split", 0, "running"), task("publish", state="queued")],
        [ingested, task("partition.split", 0, "failed")],
    )
    printed = io.StringIO()
    state, tasks = follow(airflow, "build_dataset", "manual__1", Console(file=printed, width=140))
    assert (state, len(tasks)) == ("success", 2)
    assert [line.partition(" s  ")[2] for line in printed.getvalue().splitlines()] == [
        "plan: success (4.4 s)",
        "ingest 0: running",
        "ingest film-a +1: success (3.2 s)",
        "split film-a +1: running",
        "split film-a +1: failed",
    ]

"""The folder of a run, also as earlier versions wrote it."""

import json

import pytest

from operators.store.run_folder import RunFolder, RunMissing
from schemas.findings import Finding, Findings
from tests.support.synthetic_run import synthetic_run

EARLIER_NAMES = {"partition_videos": "lane_videos", "partitions": "lanes", "partition": "lane"}


def with_earlier_names(value):
    """A JSON value with the names of fields that were in use until 0.1."""
    if isinstance(value, dict):
        return {EARLIER_NAMES.get(name, name): with_earlier_names(item) for name, item in value.items()}
    return [with_earlier_names(item) for item in value] if isinstance(value, list) else value


@pytest.fixture
def folder(tmp_path):
    return synthetic_run(tmp_path / "out", videos=6, until="ingest")


def test_a_run_of_an_earlier_version_opens(folder, tmp_path):
    run = tmp_path / "out" / folder.address
    (run / "partitions").rename(run / "lanes")
    for path in [*run.glob("*.json"), *run.glob("*/*.json")]:
        path.write_text(json.dumps(with_earlier_names(json.loads(path.read_text()))))
    for path in run.glob("metrics/*.jsonl"):
        path.write_text(
            "".join(json.dumps(with_earlier_names(json.loads(line))) + "\n" for line in path.read_text().splitlines())
        )
    assert '"lane_videos"' in (run / "run.json").read_text()
    opened = RunFolder.open(folder.url)
    assert opened.run == folder.run
    assert list(opened.partitions()) == list(folder.partitions())
    assert opened.records() == folder.records() and opened.metrics() == folder.metrics()


def test_a_partition_that_is_not_there_is_named_with_how_many_there_are(folder):
    with pytest.raises(RunMissing, match=f"no partition 7; the run has {folder.run.partitions}"):
        folder.partition(7)


def test_findings_are_those_of_the_last_report(tmp_path):
    folder = synthetic_run(tmp_path, videos=1, until="ingest")
    with pytest.raises(RunMissing, match="no findings; run `lvr report` first"):
        folder.findings()
    for code in ("a", "b"):
        found = Finding(severity="info", code=code, subject="Videos", message="all")
        folder.write_findings(Findings(run_id=folder.run.run_id, findings=(found,)))
    assert [each.code for each in folder.findings().findings] == ["b"]

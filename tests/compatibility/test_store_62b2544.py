"""The code opens what commit 62b2544 wrote: a store, its run, its journals, its release and a training checkpoint.

`tests/data/store_62b2544.py` made the archive `tests/data/store_62b2544.tar.gz` with that version's own code. A source
of one film and a broken file was built into release v0001, and a tiny model was trained on it for one step of four.
CHANGELOG.md lists what became stale since, and these tests compare.
"""

import json
import re
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from operators.build import BuildResult, run_build
from operators.execution.pipeline import BUILD_STAGES, VIDEO_STAGES, stage
from operators.execution.rejects import read_rejects
from operators.execution.runner import run_stage
from operators.execution.staleness import explain, find_stale
from operators.models.journal import Journal
from operators.release.validate import validate_release
from operators.report import write_report
from operators.store.run_folder import RunFolder
from schemas.errors import SchemaError
from schemas.journal import JournalRecord
from schemas.release import open_release, read_table
from schemas.run import Commit
from schemas.sample import Sample
from schemas.tables import Trial
from tests.support.openai_server import OpenAIServer

ROOT = Path(__file__).parents[2]
ARCHIVE = ROOT / "tests" / "data" / "store_62b2544.tar.gz"
FILM, BROKEN = "film0-136b1934", "broken-eb06d263"
ROWS = {
    "ingest": 1,
    "split": 2,
    "caption": 2,
    "question": 25,
    "reason": 25,
    "verify": 72,
    "difficulty": 17,
    "assemble": 17,
    "shard": 2,
}
"""Number of rows that the earlier run recorded for each stage."""
REQUESTS = {"reasoner": 16, "judge": 125, "target": 34}
"""Number of requests that the earlier run sent to each model."""


def unpack(folder: Path) -> Path:
    """Unpack the archive, and replace the folder that it was written in by the one where it is now."""
    with tarfile.open(ARCHIVE) as archive:
        # Debian 12's Python 3.11.2 has no filters.
        archive.extraction_filter = getattr(tarfile, "data_filter", lambda member, path: member)
        archive.extractall(folder)
    tree = folder / "tree"
    [run] = tree.glob("out/runs/*/run.json")
    written_in = Path(json.loads(run.read_text())["requested"]["source"]).parent
    for file in (run, *tree.glob("out/runs/*/lanes/*.json"), *tree.glob("train/checkpoints/*/state.json")):
        file.write_text(file.read_text().replace(str(written_in), str(tree)))
    return tree


def open_run(tree: Path) -> RunFolder:
    [run] = tree.glob("out/runs/*")
    return RunFolder.open(str(run))


def commits_of(folder: RunFolder) -> dict[tuple[str, str], Commit]:
    """The commits of a run by stage and work item."""
    return {(record.stage, item): commit for record in folder.records() for item, commit in record.commits.items()}


@pytest.fixture
def tree(tmp_path):
    return unpack(tmp_path)


@pytest.fixture
def earlier(tree):
    return open_run(tree)


@dataclass(frozen=True)
class Rebuilt:
    """The earlier run, a build with its settings in the same store, and the number of requests that the models got."""

    earlier: RunFolder
    result: BuildResult
    requests: int

    def samples(self, version: int) -> dict[str, Sample]:
        """The samples of a release by question."""
        url = self.release(version)
        files = [file for file in open_release(url).files if file.path.endswith(".parquet")]
        return {sample.question_id: sample for file in files for sample in read_table(url, file)}

    def release(self, version: int) -> str:
        return f"{self.earlier.store.url}/releases/longvideo/v{version:04d}"


@pytest.fixture(scope="module")
def rebuilt(tmp_path_factory):
    """Tests must not change it."""
    earlier = open_run(unpack(tmp_path_factory.mktemp("rebuilt")))
    with pytest.MonkeyPatch.context() as patch, OpenAIServer() as server:
        for name, value in server.environ("reasoner", "judge", "target").items():
            patch.setenv(name, value)
        result = run_build(earlier.run.requested)
        return Rebuilt(earlier, result, len(server.requests))


# --- what opens -------------------------------------------------------------------------------------------------------


def test_a_run_opens_with_its_earlier_names(earlier, tree):
    assert (earlier.run.partitions, earlier.run.videos, earlier.run.config.partition_videos) == (1, 2, 2)
    [partition] = earlier.partitions()
    assert partition.label == f"{BROKEN} +1"
    assert [(source.source_id, source.uri, source.fingerprint) for source in partition.sources] == [
        (BROKEN, f"{tree}/films/broken.mp4", "11-1700000000.0"),
        (FILM, f"{tree}/films/film0.mp4", "27669-1700000000.0"),
    ]
    partitions = {**dict.fromkeys(ROWS, 0), "assemble": None, "shard": None}
    assert {record.stage: record.partition for record in earlier.records()} == partitions
    metrics = {each.stage: each for each in earlier.metrics()}
    assert {name: each.partition for name, each in metrics.items()} == partitions
    assert {name: each.rows for name, each in metrics.items()} == ROWS
    assert metrics["verify"].rejects == {"answerable_blind": 3, "not_grounded": 5}
    assert {role: sum(each.requests.get(role, 0) for each in metrics.values()) for role in REQUESTS} == REQUESTS


FURTHER_COLUMNS = {"ingest": r"video_stream \(int64\)", "caption": "text_sample_times_us", "question": "reach"}
FURTHER_COLUMNS |= {"reason": "refinement", "assemble": "reasoning_hinted"}
"""Stages whose rows have further columns now, without which nothing can be computed from them, and one of these."""


def test_tables_open_except_those_with_further_columns(earlier):
    for (name, item), commit in commits_of(earlier).items():
        assert len(read_rejects(earlier.store, commit)) == commit.rejects
        if name in FURTHER_COLUMNS:
            with pytest.raises(SchemaError, match=rf"column {FURTHER_COLUMNS[name]}.* is missing"):
                earlier.store.get_rows(commit.rows_sha256, stage(name).row)
        else:
            row = Trial if name == "verify" else stage(name).row  # its checks are in the rows of `question` now
            rows = earlier.store.get_rows(commit.rows_sha256, row)
            assert len(rows) == commit.rows == (ROWS[name] if item != BROKEN else 0)


def test_a_stage_that_reads_the_videos_runs_after_ingest_has_run_again(earlier):
    """The code may be updated in the middle of a run."""
    with pytest.raises(SchemaError, match=r"another version wrote this table: run its stage again$"):
        run_stage(earlier, "split", 0)
    run_stage(earlier, "ingest", 0)
    assert run_stage(earlier, "split", 0).rows == ROWS["split"]
    assert not earlier.store.exists(f"{earlier.address}/partitions/00000.json")


def test_the_report_names_what_to_do(earlier):
    problem = "ingest was run by an earlier version, whose rows have no other_pictures, packaging"
    with pytest.raises(SchemaError, match=f"^{earlier.url}: {problem}; run `lvr build` again with the run's settings$"):
        write_report(earlier)


def test_a_release_is_valid(tree):
    counts = validate_release(f"{tree}/out/releases/longvideo/v0001")
    assert (counts["files"], counts["parquet"], counts["webdataset"]) == (2, 17, 1)


# --- what is stale ----------------------------------------------------------------------------------------------------


def read_raised_versions() -> dict[str, tuple[int, int]]:
    """Read from CHANGELOG.md, whose newest entries are first, which stage versions were raised from and to which."""
    raised: dict[str, tuple[int, int]] = {}
    rows = re.findall(r"^\| `(\w+)` \| (\d+) → (\d+) \|", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    for name, before, after in rows:
        raised[name] = (int(before), raised.get(name, (0, int(after)))[1])
    return raised


def test_stages_have_the_versions_that_the_changelog_lists(earlier):
    before = {name: commit.key.version for (name, _), commit in commits_of(earlier).items() if name != "verify"}
    now = {name: stage(name).version for name in (*VIDEO_STAGES, *BUILD_STAGES)}
    assert now.keys() - before.keys() == {"package", "outline"}
    raised = {name: (before[name], now[name]) for name in before if before[name] != now[name]}
    assert raised == read_raised_versions()


def test_find_stale_counts_all_work_items_and_names_the_first_reason(earlier):
    """Every stage reads rows that follow from those of `ingest`."""
    with OpenAIServer() as server:
        found = find_stale(earlier, earlier.run.requested, server.environ("reasoner", "judge", "target"))
    assert found.stale == {**dict.fromkeys(VIDEO_STAGES, 2), **dict.fromkeys(BUILD_STAGES, 1)}
    [reason] = found.reasons
    assert reason.startswith("ingest: code changed from version 4 to 5; ")
    assert reason.endswith(" (2 videos)")


REASONS = {
    "ingest": "ingest: code changed from version 4 to 5; made with {tools} instead of an unknown version; "
    "source file changed",  # it is in another folder
    "split": "split: code changed from version 2 to 3; made with {tools} instead of an unknown version; "
    "ingest rows changed",
    "caption": "caption: settings changed; code changed from version 1 to 2; ingest rows changed",
    "outline": "outline has not run yet",
    "package": "package has not run yet",
    "assemble": "assemble: settings changed; code changed from version 1 to 4; ingest rows changed; question rows "
    "changed; reason rows changed; difficulty rows changed; outline rows changed; metadata in the source list changed",
    "shard": "shard: code changed from version 1 to 3; assemble rows changed; ingest rows changed; "
    "package rows changed",
}
"""Everything in the keys that changed. Rows of models have further fields in their provenance.

Later stages change through the rows that they read, and in no other way."""


@pytest.mark.parametrize("name", REASONS)
def test_a_stage_is_stale_for_the_reasons_in_the_changelog(rebuilt, name):
    place = (name, "all" if name in BUILD_STAGES else FILM)
    before, now = commits_of(rebuilt.earlier).get(place), commits_of(rebuilt.result.folder)[place]
    reason = REASONS[name].format(tools=", ".join(now.key.tools))
    assert (
        re.sub(r"(settings changed) from .*[\]}](?=; code)", r"\1", explain(before and before.key, now.key)) == reason
    )


# --- a build in the same store ----------------------------------------------------------------------------------------


def test_the_journals_open(earlier):
    """Their requests are no longer sent, because all prompts have changed since."""
    found = {}
    for name in ("question", "reason", "verify", "difficulty"):
        journal = Journal(f"{earlier.store.url}/journal/{name}/{FILM}")
        lines = [line for file in Path(journal.url).glob("*.jsonl") for line in file.read_bytes().splitlines()]
        records = [JournalRecord.model_validate_json(line) for line in lines]
        found[name] = sum(journal.get(record.entry.request_sha256) is not None for record in records if record.entry)
    assert found == {"question": 8, "reason": 8, "verify": 124, "difficulty": 35}


def test_a_build_makes_the_same_clips(rebuilt):
    before, now = commits_of(rebuilt.earlier), commits_of(rebuilt.result.folder)
    assert before["split", FILM].rows_sha256 == now["split", FILM].rows_sha256


def test_a_build_publishes_its_samples_as_the_next_version(rebuilt):
    published = rebuilt.result.published
    assert published.is_new and published.release.version == 2
    first, second = rebuilt.samples(1), rebuilt.samples(2)
    assert len(first) == 17
    assert {sample.video_id for sample in second.values()} == {FILM}


def test_a_build_publishes_the_same_video(rebuilt):
    videos = []
    for version in (1, 2):
        [tar] = [file.path for file in open_release(rebuilt.release(version)).files if file.path.endswith(".tar")]
        with tarfile.open(f"{rebuilt.release(version)}/{tar}") as members:
            videos.append(members.extractfile(f"{FILM}.mp4").read())
    assert videos[0] == videos[1]


def test_the_report_of_the_new_run_is_written(rebuilt):
    assert rebuilt.earlier.store.exists(f"{rebuilt.result.folder.address}/report.html")


def test_videos_keep_the_ids_of_the_earlier_version(rebuilt):
    given = json.loads(rebuilt.earlier.store.read("ids.json"))["ids"]
    assert list(given.values()) == [{"broken.mp4": BROKEN, "film0.mp4": FILM}]


# --- training ---------------------------------------------------------------------------------------------------------


def test_training_resumes_from_the_checkpoint(tree):
    """The recipe is the one in the checkpoint, with the earlier names of its fields."""
    recipe = json.loads((tree / "train/checkpoints/step-00000001/state.json").read_text())["recipe"]
    assert "recomputed_layers" in recipe["memory"]
    (tree / "recipe.yaml").write_text(json.dumps(recipe))  # JSON is YAML
    command = [sys.executable, "-m", "trainer_plugin.sft", str(tree / "recipe.yaml")]
    done = subprocess.run(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stderr
    assert f"resuming from {tree}/train/checkpoints/step-00000001: 1 steps, 499 tokens" in done.stderr
    resumed, whole = (
        [json.loads(line) for line in (tree / run / "metrics.jsonl").read_text().splitlines()]
        for run in ("train", "whole")
    )
    for name in ("step", "tokens", "supervised_tokens", "total_tokens", "learning_rate"):
        assert [row[name] for row in resumed] == [row[name] for row in whole]
    for name in ("loss", "grad_norm"):
        assert [row[name] for row in resumed] == pytest.approx([row[name] for row in whole], rel=1e-4)

"""Tests of reading columns from a run's tables."""

from collections import Counter

import pyarrow.parquet as pq
import pytest

from operators.report.collect import collect
from operators.report.tables import Tables
from operators.store.content_store import object_path
from schemas.arrow import open_parquet
from schemas.config import Role
from schemas.errors import SchemaError
from schemas.provenance import Provenance
from schemas.run import StageRecord
from schemas.sample import Sample
from schemas.tables import Caption, Check, Question, Reasoning, Trial, Video
from tests.support.rows import make_question, make_trial
from tests.support.synthetic_run import synthetic_run


@pytest.fixture
def tables(folder):
    return Tables(folder)


def test_partitions_and_work_items_come_in_order(tables):
    assert tables.partitions_done["ingest"] == 3
    ids = tables.frame("ingest", Video, ("video_id", "fps"))["video_id"].tolist()
    assert ids == sorted(ids)
    assert len(ids) == tables.rows("ingest") == 9  # one of ten videos is unreadable


def test_columns_come_in_the_requested_order(tables):
    assert tables.columns("ingest", Video, ("uri", "video_id")).column_names == ["uri", "video_id"]


def test_a_field_of_a_column_is_a_column(tables):
    table = tables.columns("question", Question, ("provenance.model", "question_id", "provenance.prompt_id"))
    assert table.column_names == ["provenance.model", "question_id", "provenance.prompt_id"]
    assert set(table["provenance.model"].to_pylist()) == {"program", "reasoner-120b"}


def test_models_of_all_answers_are_counted_by_role(folder, tables):
    """As a loop over all rows counts them."""

    def rows(stage, row):
        for partition in range(folder.run.partitions):
            for commit in folder.record(stage, partition).commits.values():
                yield from folder.store.get_rows(commit.rows_sha256, row)

    expected = Counter()
    for role, stage, row in (
        (Role.CAPTIONER, "caption", Caption),
        (Role.REASONER, "question", Question),
        (Role.REASONER, "reason", Reasoning),
    ):
        expected.update((role, each.provenance) for each in rows(stage, row))
        checks = [check for each in rows(stage, row) for check in getattr(each, "checks", ())]
        for check in checks:
            expected.update((Role.JUDGE, given) for given in check.provenance)
    for trial in rows("difficulty", Trial):
        expected.update((Role.TARGET, given) for given in trial.provenance)
    counted = Counter()
    for (role, given), count in expected.items():
        if given.model != "program":
            counted[role, given.model, given.served_model] += count
    assert tables.served_models() == counted
    assert counted[Role.REASONER, "reasoner-120b", "reasoner-120b"] > 0


def test_answers_about_frames_are_the_viewers(tmp_path):
    folder = synthetic_run(tmp_path, videos=1, until="ingest")
    question = make_question(1)
    seen = make_trial(question, Check.FRAMES, 1, n=1).model_copy(
        update={"provenance": (Provenance(model="viewer-7b"),)}
    )
    table = folder.store.put_rows([question.model_copy(update={"checks": (seen,)})], Question)
    [commit] = folder.record("ingest", 0).commits.values()
    commits = {"v": commit.model_copy(update={"rows_sha256": table, "rows": 1})}
    folder.write_record(StageRecord(stage="question", partition=0, commits=commits))
    assert Tables(folder).served_models() == {(Role.VIEWER, "viewer-7b", ""): 1}


def test_a_stage_that_has_not_run_has_an_empty_table_of_the_right_types(tmp_path):
    tables = Tables(synthetic_run(tmp_path, videos=1, until="ingest"))
    frame = tables.frame("assemble", Sample, ("question_id", "pass_rate"))
    assert frame.empty
    assert frame["pass_rate"].dtype == "float64"


def test_a_run_of_an_earlier_version_is_named(tmp_path):
    """Rows ingested by 62b2544 have neither of these columns."""
    folder = synthetic_run(tmp_path, videos=1, until="ingest")
    [commit] = folder.record("ingest", 0).commits.values()
    rows = tmp_path / object_path(commit.rows_sha256, ".parquet")
    table = open_parquet(rows.read_bytes()).read(use_threads=False)
    pq.write_table(table.drop_columns(["packaging", "other_pictures"]), rows)
    cause = "ingest was run by an earlier version, whose rows have no other_pictures, packaging; run `lvr build` again"
    with pytest.raises(SchemaError, match=f"^{folder.url}: {cause}"):
        collect(folder)


def test_samples_are_whole_and_at_their_places(tables):
    ids = tables.frame("assemble", Sample, ("question_id",))["question_id"]
    assert [sample.question_id for sample in tables.samples_at([0, 5])] == [ids[0], ids[5]]

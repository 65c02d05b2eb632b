"""Tests of reading columns from a run's tables."""

import pyarrow.parquet as pq
import pytest

from operators.report.collect import collect
from operators.report.tables import Tables
from operators.store.content_store import object_path
from schemas.arrow import open_parquet
from schemas.errors import SchemaError
from schemas.sample import Sample
from schemas.tables import Video
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

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.arrow import arrow_schema, rows_from_parquet, rows_to_parquet
from schemas.errors import SchemaError
from schemas.provenance import Provenance
from schemas.sample import Sample
from schemas.tables import Caption, Clip, Question, Reasoning, Reject, Source, Trial, Video

TABLES = [Source, Video, Clip, Caption, Question, Reasoning, Trial, Sample, Reject]

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
rejects = st.builds(
    Reject, stage=texts, unit=texts, key=texts, reason=st.just("schema"), message=texts, raw=texts, request_sha256=texts
)


@pytest.mark.parametrize("model", TABLES)
def test_every_column_comes_from_the_model(model):
    schema = arrow_schema(model)
    assert schema.names == list(model.model_fields)
    empty = rows_from_parquet(rows_to_parquet([], model), model, "empty")
    assert empty == []


def test_types_are_derived():
    schema = arrow_schema(Clip)
    assert schema.field("start_us") == pa.field("start_us", pa.int64(), nullable=False)
    assert schema.field("uri") == pa.field("uri", pa.string(), nullable=True)
    assert schema.field("shot_starts_us").type == pa.list_(pa.field("item", pa.int64(), nullable=False))
    assert schema.field("boundary").type == pa.string()


@given(st.lists(rejects, max_size=8))
def test_rows_make_the_round_trip_and_the_same_rows_the_same_bytes(rows):
    data = rows_to_parquet(rows, Reject)
    assert rows_from_parquet(data, Reject, "rejects") == rows
    assert rows_to_parquet(rows, Reject) == data


def write(tmp_path, table):
    path = tmp_path / "table.parquet"
    pq.write_table(table, path)
    return path.read_bytes()


REASONING = {
    "question_id": "q1",
    "video_id": "v1",
    "reasoning": "It shows.",
    "evidence": [{"start_us": 0, "end_us": 1}],
    "provenance": Provenance(model="program").model_dump(mode="json"),
}


def test_a_value_that_breaks_a_constraint_is_named_with_file_row_and_field(tmp_path):
    bad = REASONING | {"evidence": [{"start_us": 5, "end_us": 5}]}
    table = pa.Table.from_pylist([REASONING, bad], schema=arrow_schema(Reasoning))
    with pytest.raises(SchemaError, match=r"film\.parquet: row 1, field evidence\.0.*\[5, 5\)"):
        rows_from_parquet(write(tmp_path, table), Reasoning, "film.parquet")


def test_missing_unknown_and_mistyped_columns_are_named(tmp_path):
    table = pa.Table.from_pylist([REASONING], schema=arrow_schema(Reasoning))
    with pytest.raises(SchemaError, match=r"column reasoning .* is missing"):
        rows_from_parquet(write(tmp_path, table.drop_columns("reasoning")), Reasoning, "t")
    with pytest.raises(SchemaError, match=r"unknown columns \['note'\]"):
        rows_from_parquet(write(tmp_path, table.append_column("note", pa.array(["x"]))), Reasoning, "t")
    mistyped = table.set_column(2, "reasoning", pa.array([1]))
    with pytest.raises(SchemaError, match="column reasoning has type int64, not string"):
        rows_from_parquet(write(tmp_path, mistyped), Reasoning, "t")


def test_bytes_that_are_no_parquet_are_named():
    with pytest.raises(SchemaError, match=r"t\.parquet: not a readable Parquet file"):
        rows_from_parquet(b"hello", Reasoning, "t.parquet")

import ast
import random
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.arrow import arrow_schema, rows_from_parquet, rows_to_parquet
from schemas.base import Model, Row
from schemas.errors import SchemaError
from schemas.provenance import Provenance, Sampling
from schemas.sample import Sample
from schemas.tables import Caption, Clip, Question, Reasoning, Reject, Source, Trial, Video
from tests.support.rows import make_sample, make_video

ROOT = Path(__file__).resolve().parents[2]

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


REJECTED = dict.fromkeys(["stage", "unit", "key", "reason", "message", "raw", "request_sha256"], "x")

REASONING = {
    "question_id": "q1",
    "video_id": "v1",
    "reasoning": "It shows.",
    "evidence": [{"start_us": 0, "end_us": 1}],
    "provenance": Provenance(model="program").model_dump(mode="json"),
    "refinement": None,
    "hinted": True,
    "checks": [],
}


def test_a_release_of_an_earlier_version_may_lack_columns_that_have_defaults(tmp_path):
    table = pa.Table.from_pylist([REASONING], schema=arrow_schema(Reasoning)).drop_columns(["hinted", "checks"])
    (row,) = rows_from_parquet(write(tmp_path, table), Reasoning, "t", expected_rows=1)
    assert (row.hinted, row.checks) == (False, ())
    with pytest.raises(SchemaError, match=r"column hinted .* is missing"):
        rows_from_parquet(write(tmp_path, table), Reasoning, "t")


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


# --- untrusted files -------------------------------------------------------------------------------------------------


def equal_samples(count, **columns):
    """A small Parquet file that repeats one sample `count` times, with these values in some of its columns."""
    sample = make_sample(1, make_video("film")).model_dump(mode="json") | columns
    schema = arrow_schema(Sample)
    indices = pa.array([0] * count, pa.int32())
    arrays = []
    for field in schema:
        value = pa.array([sample[field.name]], field.type)
        is_text = pa.types.is_string(field.type)
        arrays.append(pa.DictionaryArray.from_arrays(indices, value) if is_text else value.take(indices))
    fields = [field.with_type(array.type) for field, array in zip(schema, arrays, strict=True)]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(arrays, schema=pa.schema(fields)), sink, compression="zstd", store_schema=False)
    return sink.getvalue().to_pybytes()


def test_a_table_of_as_many_rows_as_expected_is_read():
    samples = [make_sample(number, make_video("film")) for number in range(300)]
    data = rows_to_parquet(samples, Sample)
    assert rows_from_parquet(data, Sample, "t", expected_rows=300) == samples
    assert rows_from_parquet(rows_to_parquet([], Sample), Sample, "t", expected_rows=0) == []


def test_more_rows_than_expected_are_refused_from_the_footer():
    """The same file with overwritten pages is refused with the same message, so no page was read."""
    data = equal_samples(200_000)
    footer = int.from_bytes(data[-8:-4], "little") + 8
    for content in (data, b"PAR1" + bytes(len(data) - footer - 4) + data[-footer:]):
        with pytest.raises(SchemaError, match="eval: 200000 rows, the manifest states 42; copy it again"):
            rows_from_parquet(content, Sample, "eval", expected_rows=42)


def test_rows_that_take_no_room_in_a_file_are_refused_however_many_were_expected():
    data = equal_samples(200_000)
    with pytest.raises(SchemaError, match=r"eval: its \d+ bytes take \d+ or more in memory, \d+ are allowed"):
        rows_from_parquet(data, Sample, "eval", expected_rows=200_000)


def test_one_long_value_in_every_row_is_refused_after_a_few_of_them():
    """The dictionary holds the value once, so the footer does not show its size in memory."""
    data = equal_samples(5_000, reasoning="".join(random.Random(0).choices("ab", k=1 << 20)))
    before = pa.default_memory_pool().max_memory()
    with pytest.raises(SchemaError, match="are allowed; do not use it"):
        rows_from_parquet(data, Sample, "eval", expected_rows=5_000)
    assert pa.default_memory_pool().max_memory() < max(before, 1 << 30)


@given(position=st.integers(0, 2**20), bit=st.integers(0, 7))
def test_a_flipped_bit_gives_rows_or_an_error_that_names_the_file(position, bit):
    data = bytearray(rows_to_parquet([Reject(**REJECTED)] * 3, Reject))
    data[position % len(data)] ^= 1 << bit
    try:
        assert len(rows_from_parquet(bytes(data), Reject, "spoilt.parquet", expected_rows=3)) == 3
    except SchemaError as error:
        assert str(error).startswith("spoilt.parquet: ")


# --- tables of earlier versions ---------------------------------------------------------------------------------------


class Drawn(Row):
    sampling: Sampling
    seeds: tuple[Provenance, ...] = ()


class EarlierSampling(Model):
    temperature: float
    top_p: float
    max_tokens: int


class EarlierProvenance(Model):
    model: str
    raw: str


class EarlierDrawn(Row):
    sampling: EarlierSampling
    seeds: tuple[EarlierProvenance, ...]


class OtherDrawn(Row):
    sampling: EarlierProvenance
    seeds: tuple[Provenance, ...] = ()


EARLIER = EarlierDrawn(
    sampling=EarlierSampling(temperature=0.5, top_p=1.0, max_tokens=9), seeds=(EarlierProvenance(model="m", raw="r"),)
)


def test_fields_that_an_earlier_version_did_not_write_have_their_defaults():
    (row,) = rows_from_parquet(rows_to_parquet([EARLIER], EarlierDrawn), Drawn, "earlier")
    assert row == Drawn(sampling=Sampling(temperature=0.5, max_tokens=9), seeds=(Provenance(model="m", raw="r"),))


def test_fields_of_another_model_are_refused_and_so_are_missing_ones_in_untrusted_files():
    with pytest.raises(SchemaError, match="column sampling has type struct"):
        rows_from_parquet(
            rows_to_parquet([OtherDrawn(sampling=EarlierProvenance(model="m", raw="r"))], OtherDrawn), Drawn, "other"
        )
    with pytest.raises(SchemaError, match="column sampling has type struct"):
        rows_from_parquet(rows_to_parquet([EARLIER], EarlierDrawn), Drawn, "untrusted", expected_rows=1)


# --- interpreter shutdown --------------------------------------------------------------------------------------------


def test_no_reader_of_arrow_gets_a_python_file():
    """Arrow's threads would call the Python file during interpreter shutdown (apache/arrow#34314).

    The exception is `trainer_plugin.data.texts`, which streams files that are too large for memory, and reads only in
    its own thread.
    """
    readers = {"read_table", "ParquetFile", "read_parquet", "read_feather", "open_file", "open_stream", "read_csv"}
    found = {
        (str(path.relative_to(ROOT)), ast.unparse(call.args[0]).partition("(")[0])
        for folder in ("operators", "schemas", "trainer_plugin", "plugins", "dags", "tests", "benchmarks")
        for path in (ROOT / folder).rglob("*.py")
        if "pyarrow" in (text := path.read_text()) or "pandas" in text
        for call in ast.walk(ast.parse(text))
        if isinstance(call, ast.Call) and getattr(call.func, "attr", getattr(call.func, "id", "")) in readers
    }
    assert found == {
        ("schemas/arrow.py", "pa.BufferReader"),
        ("trainer_plugin/data/texts.py", "file"),
    }


def test_an_interpreter_that_has_read_a_table_ends_in_peace(tmp_path):
    data = rows_to_parquet([Reject(**REJECTED)], Reject)
    (tmp_path / "table.parquet").write_bytes(data)
    code = (
        "import sys; from pathlib import Path; from schemas.arrow import open_parquet;"
        "open_parquet(Path(sys.argv[1]).read_bytes()).read(use_threads=False)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "table.parquet")]
    ended = [subprocess.run(command, cwd=ROOT, capture_output=True, check=False) for _ in range(3)]
    assert [(each.returncode, each.stderr) for each in ended] == [(0, b"")] * 3

"""Arrow schemas derived from row models, and Parquet files read and written through them.

The same rows give the same bytes: fixed writer options, no time stamps. Reading validates every row with its model, so
a file that does not fit is an error that names file, row, field and value.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import Enum
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ValidationError

from schemas.base import Row, message_of
from schemas.errors import SchemaError

R = TypeVar("R", bound=Row)

_LARGEST_EXPANSION = 50
"""What a stranger's table may take in memory, in units of its file: texts compress by a factor of 3 to 10, and a column
of one value to nearly nothing, but no row is without its own id, question and reasoning."""

_SPARE_BYTES = 1 << 20
"""The same for tables of a few rows, of which most bytes are headers."""

_MOST_BATCH_ROWS = 1024

_SCALARS: dict[type, pa.DataType] = {bool: pa.bool_(), int: pa.int64(), float: pa.float64(), str: pa.string()}


def arrow_schema(model: type[BaseModel]) -> pa.Schema:
    """The Arrow schema of a model: strings for enums, lists for tuples, structs for models; nullable only `| None`."""
    return pa.schema(_fields(model), metadata={"model": model.__name__})


def rows_to_parquet(rows: Iterable[R], model: type[R]) -> bytes:
    """One Parquet file of the rows, in their order."""
    table = pa.Table.from_pylist([row.model_dump(mode="json") for row in rows], schema=arrow_schema(model))
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", version="2.6", store_schema=True)
    return sink.getvalue().to_pybytes()


def open_parquet(data: bytes) -> pq.ParquetFile:
    """A Parquet file in memory, of which no other thread holds a Python object. Read it with `use_threads=False`.

    Arrow's threads would call a file object (`io.BytesIO`), or let go of the bytes that they read ahead, also while the
    interpreter ends, which then aborts (apache/arrow#34314).
    """
    return pq.ParquetFile(pa.BufferReader(data), pre_buffer=False)


def rows_from_parquet(data: bytes, model: type[R], name: str, *, expected_rows: int | None = None) -> list[R]:
    """The rows of a Parquet file.

    Args:
        name: the file's name in messages.
        expected_rows: the number of rows of a file that a stranger may have written. Another number is refused before
            any row is read, and so is a file that would take more than 50 times its size in memory: a run of equal
            values takes no room in a file.

    Raises:
        SchemaError: the bytes are no Parquet file, a column is missing, unknown or of another type, a value breaks a
            constraint of the model, or the file is not as `expected_rows` says.
    """
    try:
        file = open_parquet(data)
        _compare_columns(file.schema_arrow, arrow_schema(model), name)
        batches = (
            [file.read(use_threads=False)]
            if expected_rows is None
            else _untrusted_batches(file, len(data), expected_rows, name)
        )
        return [
            validate_row(row, model, f"{name}: row {index}")
            for index, row in enumerate(row for batch in batches for row in batch.to_pylist())
        ]
    except SchemaError:
        raise
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:  # whatever damaged bytes can raise
        raise SchemaError(f"{name}: not a readable Parquet file ({error}); build it again") from error


def _untrusted_batches(file: pq.ParquetFile, size: int, rows: int, name: str) -> Iterator[pa.RecordBatch]:
    """Batches of a file of `size` bytes, as long as they take no more memory than such a file may.

    What the footer says is checked before anything is read. It may be wrong, but no page (2 GiB at most, by the format)
    is longer than the reader allocates for it.
    """
    metadata = file.metadata
    if metadata.num_rows != rows:
        raise SchemaError(f"{name}: {metadata.num_rows} rows, the manifest says {rows}; copy it again")
    groups = (metadata.row_group(index) for index in range(metadata.num_row_groups))
    chunks = [group.column(index) for group in groups for index in range(group.num_columns)]
    sizes = [max(chunk.total_uncompressed_size, 8 * chunk.num_values) for chunk in chunks]
    allowed = _LARGEST_EXPANSION * size + _SPARE_BYTES
    _refuse_expansion(name, size, sum(sizes), allowed)
    # A dictionary may let every row of a batch be the column's longest value.
    batch_rows = max(1, min(_MOST_BATCH_ROWS, allowed // max(sizes, default=1)))
    found = taken = 0
    for batch in file.iter_batches(batch_rows, use_threads=False):
        found, taken = found + len(batch), taken + batch.nbytes
        _refuse_expansion(name, size, taken, allowed)
        yield batch
    if found != rows:
        raise SchemaError(f"{name}: {found} rows, its footer says {rows}; copy it again")


def _refuse_expansion(name: str, size: int, taken: int, allowed: int) -> None:
    if taken > allowed:
        raise SchemaError(
            f"{name}: its {size} bytes take {taken} or more in memory, {allowed} are allowed; do not use it"
        )


def validate_row(row: dict[str, Any], model: type[R], place: str) -> R:
    """The row as a model; raises SchemaError with the place, the field and the offending value."""
    try:
        return model.model_validate(row)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "(row)"
        raise SchemaError(f"{place}, field {field}: {message_of(dict(first))}") from error


def _compare_columns(found: pa.Schema, wanted: pa.Schema, name: str) -> None:
    for field in wanted:
        if field.name not in found.names:
            raise SchemaError(f"{name}: column {field.name} ({field.type}) is missing; it has {found.names}")
        if found.field(field.name).type != field.type:
            raise SchemaError(f"{name}: column {field.name} has type {found.field(field.name).type}, not {field.type}")
    if unknown := set(found.names) - set(wanted.names):
        raise SchemaError(f"{name}: unknown columns {sorted(unknown)}; known are {wanted.names}")


def _fields(model: type[BaseModel]) -> list[pa.Field]:
    return [_field(name, info.annotation) for name, info in model.model_fields.items()]


def _field(name: str, annotation: Any) -> pa.Field:
    inner = _without_none(annotation)
    return pa.field(name, _type(inner), nullable=inner is not annotation)


def _without_none(annotation: Any) -> Any:
    if get_origin(annotation) in (Union, UnionType):
        others = [argument for argument in get_args(annotation) if argument is not NoneType]
        if len(others) == 1 and len(others) < len(get_args(annotation)):
            return others[0]
    return annotation


def _type(annotation: Any) -> pa.DataType:
    origin = get_origin(annotation)
    if origin is Annotated:
        return _type(get_args(annotation)[0])
    if origin is Literal:
        return pa.string()
    if origin in (tuple, list):
        return pa.list_(_field("item", get_args(annotation)[0]))
    if isinstance(annotation, type):
        if issubclass(annotation, Enum):
            return pa.string()
        if issubclass(annotation, BaseModel):
            return pa.struct(_fields(annotation))
        if annotation in _SCALARS:
            return _SCALARS[annotation]
    raise TypeError(f"no Arrow type for {annotation!r}; use str, int, float, bool, an enum, a tuple or a model")

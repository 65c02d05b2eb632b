"""Arrow schemas derived from row models, and Parquet files that are read and written through them.

The same rows give the same bytes: writer options are fixed and there are no time stamps. Reading validates every row
with its model. The error for a file that does not fit names file, row, field and value.
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

_MAX_EXPANSION = 50
"""Maximum memory of an untrusted table, as a multiple of its file size. Text compresses by a factor of 3 to 10. A
column of one value compresses to nearly nothing, but every row has its own id, question and reasoning."""

_SPARE_BYTES = 1 << 20
"""Memory that an untrusted table may take on top: in a table of a few rows most bytes are headers."""

_MAX_BATCH_ROWS = 1024

_SCALARS: dict[type, pa.DataType] = {bool: pa.bool_(), int: pa.int64(), float: pa.float64(), str: pa.string()}


def arrow_schema(model: type[BaseModel]) -> pa.Schema:
    """The Arrow schema of a model: strings for enums, lists for tuples, structs for models; `| None` is nullable."""
    return pa.schema(_fields(model), metadata={"model": model.__name__})


def rows_to_parquet(rows: Iterable[R], model: type[R]) -> bytes:
    """Write rows to one Parquet file in memory, in their order."""
    table = pa.Table.from_pylist([row.model_dump(mode="json") for row in rows], schema=arrow_schema(model))
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", version="2.6", store_schema=True)
    return sink.getvalue().to_pybytes()


def open_parquet(data: bytes) -> pq.ParquetFile:
    """Open a Parquet file in memory so that only one thread holds Python objects. Read it with `use_threads=False`.

    Arrow's threads would call a file object (`io.BytesIO`), or release the bytes that they read ahead, even while the
    interpreter shuts down, which then aborts (apache/arrow#34314).
    """
    return pq.ParquetFile(pa.BufferReader(data), pre_buffer=False)


def rows_from_parquet(data: bytes, model: type[R], name: str, *, expected_rows: int | None = None) -> list[R]:
    """Read and validate the rows of a Parquet file.

    Args:
        name: the file's name, for error messages.
        expected_rows: number of rows of an untrusted file. A file with another number is refused before any row is
            read. So is a file that would take more than 50 times its size in memory: a run of equal values takes no
            space in a file.

    Raises:
        SchemaError: the bytes are not a Parquet file; a column is missing, unknown or of another type; a value breaks a
            constraint of the model; or the file does not match `expected_rows`. An untrusted file may be a table of a
            release of an earlier version, whose missing columns take the model's defaults.
    """
    try:
        file = open_parquet(data)
        # A table of a store that lacks a column is computed again instead.
        defaults = {
            column
            for column, info in model.model_fields.items()
            if expected_rows is not None and not info.is_required()
        }
        _compare_columns(file.schema_arrow, arrow_schema(model), defaults, name, accepts_earlier=expected_rows is None)
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
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:  # everything that damaged bytes can raise
        raise SchemaError(f"{name}: not a readable Parquet file ({error}); build it again") from error


def _untrusted_batches(file: pq.ParquetFile, size: int, rows: int, name: str) -> Iterator[pa.RecordBatch]:
    """Read a file of `size` bytes in batches, as long as they take no more memory than allowed for its size.

    The numbers in the footer are checked before anything is read. They may be wrong, but no page (2 GiB at most, by the
    format) is longer than the reader allocates for it.
    """
    metadata = file.metadata
    if metadata.num_rows != rows:
        raise SchemaError(f"{name}: {metadata.num_rows} rows, the manifest states {rows}; copy it again")
    groups = (metadata.row_group(index) for index in range(metadata.num_row_groups))
    chunks = [group.column(index) for group in groups for index in range(group.num_columns)]
    sizes = [max(chunk.total_uncompressed_size, 8 * chunk.num_values) for chunk in chunks]
    allowed = _MAX_EXPANSION * size + _SPARE_BYTES
    _refuse_expansion(name, size, sum(sizes), allowed)
    # With a dictionary, every row of a batch may hold the column's longest value.
    batch_rows = max(1, min(_MAX_BATCH_ROWS, allowed // max(sizes, default=1)))
    found = taken = 0
    for batch in file.iter_batches(batch_rows, use_threads=False):
        found, taken = found + len(batch), taken + batch.nbytes
        _refuse_expansion(name, size, taken, allowed)
        yield batch
    if found != rows:
        raise SchemaError(f"{name}: {found} rows, its footer states {rows}; copy it again")


def _refuse_expansion(name: str, size: int, taken: int, allowed: int) -> None:
    if taken > allowed:
        raise SchemaError(
            f"{name}: its {size} bytes take {taken} or more in memory, {allowed} are allowed; do not use it"
        )


def validate_row(row: dict[str, Any], model: type[R], place: str) -> R:
    """Validate a row as a model.

    Raises:
        SchemaError: the row does not fit; the message names the place, the field and the offending value.
    """
    try:
        return model.model_validate(row)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "(row)"
        raise SchemaError(f"{place}, field {field}: {message_of(dict(first))}") from error


def _compare_columns(found: pa.Schema, wanted: pa.Schema, defaults: set[str], name: str, accepts_earlier: bool) -> None:
    for field in wanted:
        if field.name not in found.names:
            if field.name in defaults:
                continue
            raise SchemaError(f"{name}: column {field.name} ({field.type}) is missing; it has {found.names}")
        column = found.field(field.name).type
        if column != field.type and not (accepts_earlier and _is_readable(column, field.type)):
            raise SchemaError(f"{name}: column {field.name} has type {found.field(field.name).type}, not {field.type}")
    if unknown := set(found.names) - set(wanted.names):
        raise SchemaError(f"{name}: unknown columns {sorted(unknown)}; known are {wanted.names}")


def _is_readable(found: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether values of a type have no other fields than the wanted ones.

    Fields inside of a struct may be missing, as in a table of an earlier version: they take the model's defaults.
    """
    if pa.types.is_struct(found) and pa.types.is_struct(wanted):
        places = {field.name: wanted.get_field_index(field.name) for field in found}
        return all(
            places[field.name] >= 0 and _is_readable(field.type, wanted[places[field.name]].type) for field in found
        )
    if pa.types.is_list(found) and pa.types.is_list(wanted):
        return _is_readable(found.value_type, wanted.value_type)
    return bool(found == wanted)


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

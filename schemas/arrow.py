"""Arrow schemas derived from row models, and Parquet files read and written through them.

The same rows give the same bytes: fixed writer options, no time stamps. Reading validates every row with its model, so
a file that does not fit is an error that names file, row, field and value.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from enum import Enum
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ValidationError

from schemas.base import Row
from schemas.errors import SchemaError

R = TypeVar("R", bound=Row)

_SCALARS: dict[type, pa.DataType] = {bool: pa.bool_(), int: pa.int64(), float: pa.float64(), str: pa.string()}


def arrow_schema(model: type[BaseModel]) -> pa.Schema:
    """The Arrow schema of a model: strings for enums, lists for tuples, structs for models; nullable only `| None`."""
    return pa.schema(_fields(model), metadata={"model": model.__name__})


def rows_to_parquet(rows: Iterable[R], model: type[R]) -> bytes:
    """One Parquet file of the rows, in their order."""
    table = pa.Table.from_pylist([row.model_dump(mode="json") for row in rows], schema=arrow_schema(model))
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", version="2.6", store_schema=True)
    return sink.getvalue()


def rows_from_parquet(data: bytes, model: type[R], name: str) -> list[R]:
    """The rows of a Parquet file.

    Raises:
        SchemaError: the bytes are no Parquet file, a column is missing, unknown or of another type, or a value breaks a
            constraint of the model. `name` is the file's name in the message.
    """
    try:
        table = pq.read_table(io.BytesIO(data))
    except pa.ArrowInvalid as error:
        raise SchemaError(f"{name}: not a readable Parquet file ({error}); build it again") from error
    _compare_columns(table.schema, arrow_schema(model), name)
    return [validate_row(row, model, f"{name}: row {index}") for index, row in enumerate(table.to_pylist())]


def validate_row(row: dict[str, Any], model: type[R], place: str) -> R:
    """The row as a model; raises SchemaError with the place, the field and the offending value."""
    try:
        return model.model_validate(row)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "(row)"
        raise SchemaError(f"{place}, field {field}: {first['msg']}, got {first['input']!r}") from error


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

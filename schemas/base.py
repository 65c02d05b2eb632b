"""Base classes and helpers of all models: strict models, identifiers, spans of time, boxes and digests."""

from __future__ import annotations

import hashlib
import json
import reprlib
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from schemas.errors import SchemaError
from schemas.uri import shown_uri

M = TypeVar("M", bound=BaseModel)

Identifier = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,96}$")]
"""A key that is legal in tar member names, in file names and in every loader: letters, digits, `_` and `-`."""

VideoId = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,80}$")]
"""Identifier of a source video, short enough for the clip ids and tar member names that are built from it."""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Microseconds = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]


class Model(BaseModel):
    """Base of all models: immutable, and an unknown field is an error, so that no misspelt option is ignored.

    Error messages of pydantic do not quote the input, which may hold credentials; ours quote it through `shown_value`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, hide_input_in_errors=True)


def accept_earlier_names(**names: str) -> Any:
    """A validator for a model whose fields were renamed, so that files of earlier versions still open.

    Args:
        names: today's name by the earlier one.
    """

    def rename(cls: type[Model], values: Any) -> Any:
        return {names.get(name, name): value for name, value in values.items()} if isinstance(values, dict) else values

    return model_validator(mode="before")(rename)


class Row(Model):
    """One row of a table."""


class Span(Model):
    """A half-open interval of a video's timeline, `[start_us, end_us)`, in microseconds."""

    start_us: Microseconds
    end_us: Microseconds

    @model_validator(mode="after")
    def _is_not_empty(self) -> Span:
        if self.end_us <= self.start_us:
            raise ValueError(f"a span must end after it starts, got [{self.start_us}, {self.end_us})")
        return self


class Box(Model):
    """A rectangle on a frame, as fractions of its displayed width (x) and height (y), origin at the top left."""

    x0: Fraction
    y0: Fraction
    x1: Fraction
    y1: Fraction


class Region(StrEnum):
    """One ninth of the frame: a cell of a 3 x 3 grid, listed row by row from the top."""

    TOP_LEFT = "top_left"
    TOP = "top"
    TOP_RIGHT = "top_right"
    LEFT = "left"
    CENTER = "center"
    RIGHT = "right"
    BOTTOM_LEFT = "bottom_left"
    BOTTOM = "bottom"
    BOTTOM_RIGHT = "bottom_right"


def canonical_json(value: Any) -> str:
    """The canonical JSON text of a value: sorted keys, no spaces. Models are dumped first.

    Raises:
        TypeError: the value holds something that has no JSON form.
    """

    def plain(item: Any) -> Any:
        if isinstance(item, BaseModel):
            return item.model_dump(mode="json")
        raise TypeError(f"{type(item).__name__} has no canonical JSON form")

    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=plain)


def parse_json(data: bytes | str, model: type[M], name: str) -> M:
    """Parse a JSON text as a model.

    Args:
        name: the file's name, for error messages.

    Raises:
        SchemaError: the text does not fit the model; the message names file, field and value.
    """
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "(file)"
        raise SchemaError(f"{name}, field {field}: {message_of(dict(first))}") from error


def message_of(found: Mapping[str, Any]) -> str:
    """The message of one entry of `ValidationError.errors()`, with the offending value.

    The value is not quoted if a field is missing, or if fields of a model contradict each other: the input would then
    be the whole model.
    """
    message: str = found["msg"].removeprefix("Value error, ")
    contradiction = found["type"] == "value_error" and isinstance(found["input"], Mapping)
    return message if contradiction or found["type"] == "missing" else f"{message}, got {shown_value(found['input'])}"


class _Shown(reprlib.Repr):
    """Short representations: a few levels of a nested value, the first few items of a long list."""

    def repr_str(self, value: str, level: int) -> str:
        return f"'{shown_uri(value)}'"

    def repr_int(self, value: int, level: int) -> str:
        digits = int(value.bit_length() * 0.30103)
        return str(value) if digits < 40 else f"a number of {digits} digits"


def shown_value(value: Any) -> str:
    """A value for an error message: on one line, short however large it is, without the secrets of an address."""
    return _Shown().repr(value)


def digest(value: Any) -> str:
    """The sha256 (64 hex digits) of a value's canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()

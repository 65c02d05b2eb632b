"""Reads lists of videos (CSV, JSON or JSON Lines) row by row. A bad row is one reject, which names its line."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import PurePosixPath
from typing import Any

from pydantic import ValidationError

from operators.sources.rejects import assert_storable, plan_reject
from schemas.base import message_of, shown_value
from schemas.errors import SourceError
from schemas.manifest import FORMS_OF_FACTS, ManifestRow
from schemas.tables import Reject
from schemas.uri import shown_uri

LIST_SUFFIXES = (".csv", ".json", ".jsonl")

_JSON_SPACE = " \t\n\r"
_SPACE = re.compile(f"[{_JSON_SPACE}]*")


@dataclass(frozen=True)
class ListRow:
    """One row of a list, as it was read."""

    line: int
    """Line on which the row begins, counted from 1 as in editors."""
    fields: dict[str, Any]


@dataclass(frozen=True)
class _BadRow:
    """A row that cannot be read."""

    line: int
    problem: str
    """The problem, and what to do."""
    fields: dict[str, Any] = field(default_factory=dict)
    """The fields of the row, as far as they could be read."""

    def reject(self, name: str) -> Reject:
        message = f"list {name!r}, line {self.line}: {self.problem}"
        return plan_reject(f"line {self.line}", "manifest_row", message, self.fields)


def read_list(data: bytes, name: str) -> list[ListRow | Reject]:
    """Read the rows of a list, with a reject for each row that cannot be read.

    Args:
        name: the file's address. Its suffix selects the format.

    Raises:
        SourceError: the file is not such a list.
    """
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise SourceError(f"list {name!r}: it is UTF-16; save it as UTF-8")
    # A byte that is not UTF-8 stays as a surrogate until its row is checked: the other rows can be used.
    text = data.removeprefix(b"\xef\xbb\xbf").decode(errors="surrogateescape")
    read = {".csv": _csv_rows, ".json": _json_rows, ".jsonl": _json_lines}[PurePosixPath(name).suffix.lower()]
    try:
        return [row if isinstance(row, ListRow) else row.reject(name) for row in read(text)]
    except (ValueError, RecursionError) as error:
        raise SourceError(f"list {name!r} cannot be read: {error}") from error


def manifest_entries(rows: Sequence[ListRow | Reject], name: str) -> Iterator[ManifestRow | Reject]:
    """Turn the rows of a manifest into entries, with a reject for each row that cannot be used.

    Raises:
        SourceError: all rows have the same unknown column.
    """
    known = ", ".join(ManifestRow.model_fields)
    columns = [row.fields.keys() for row in rows if isinstance(row, ListRow)]
    if columns and (unknown := set(columns[0]).intersection(*columns) - ManifestRow.model_fields.keys()):
        raise SourceError(f"manifest {name!r}: unknown column {shown_value(min(unknown))}; known are {known}")
    for row in rows:
        yield row if isinstance(row, Reject) else _manifest_entry(row, name)


def _manifest_entry(row: ListRow, name: str) -> ManifestRow | Reject:
    given = {column: value for column, value in row.fields.items() if value not in ("", None)}
    names = (given.get("source_id"), given.get("uri"), f"line {row.line}")
    key = next(each for each in names if isinstance(each, str))
    where = f"manifest {name!r}, line {row.line}"
    try:
        assert_storable(row.fields)
        return ManifestRow.model_validate(given)
    except RecursionError:
        return plan_reject(key, "manifest_row", f"{where}: values nested too deep; correct it")
    except UnicodeEncodeError as error:
        message = f"{where}: not Unicode text ({error}); save the list as UTF-8"
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"] if part not in FORMS_OF_FACTS)
        message = f"{where}, field {shown_uri(place)}: {message_of(dict(first))}"
        if first["type"] == "extra_forbidden" and len(first["loc"]) == 1:
            message += f"; known are {', '.join(ManifestRow.model_fields)}"
    return plan_reject(key, "manifest_row", message, row.fields)


def _json_lines(text: str) -> Iterator[ListRow | _BadRow]:
    for line, row in enumerate(text.split("\n"), start=1):  # str.splitlines would also split at U+2028 and the like
        if not row.strip(_JSON_SPACE):
            continue
        try:
            yield _json_row(line, json.loads(row))
        except json.JSONDecodeError as error:
            yield _BadRow(line, f"not JSON ({error.msg} at column {error.colno}); write one object on each line")
        except (ValueError, RecursionError) as error:  # a number with too many digits; too deep nesting
            yield _BadRow(line, f"JSON that cannot be read ({error}); correct it")


def _json_rows(text: str) -> Iterator[ListRow | _BadRow]:
    decoder = json.JSONDecoder()
    at = _after_space(text, 0)
    if text[at : at + 1] != "[":
        raise ValueError("it is not a JSON list of objects, one per video; name a file with one object per line .jsonl")
    at = _after_space(text, at + 1)
    line, counted = 1, 0
    while text[at : at + 1] != "]":
        found, end = decoder.raw_decode(text, at)
        line, counted = line + text.count("\n", counted, at), at
        yield _json_row(line, found)
        at = _after_space(text, end)
        if text[at : at + 1] == ",":
            at = _after_space(text, at + 1)
        elif text[at : at + 1] != "]":
            raise json.JSONDecodeError("expected ',' or ']'", text, at)
    if (rest := _after_space(text, at + 1)) < len(text):
        raise json.JSONDecodeError("unexpected text after the list", text, rest)


def _json_row(line: int, found: object) -> ListRow | _BadRow:
    if isinstance(found, dict):
        return ListRow(line, found)
    return _BadRow(line, "expected an object with the fields of one video; correct it")


def _after_space(text: str, start: int) -> int:
    return _SPACE.match(text, start).end()  # type: ignore[union-attr] # it matches anywhere


def _csv_rows(text: str) -> Iterator[ListRow | _BadRow]:
    lines = list(io.StringIO(text, newline=""))  # line ends are kept: \n, \r\n or \r
    records = _csv_records(lines)
    header = next(records, None)
    if header is None:
        return
    if isinstance(header, _BadRow):
        raise ValueError(f"line {header.line}: {header.problem}")
    _, columns = header
    if len(columns) == 1 and (separator := next((each for each in ";\t|" if each in columns[0]), "")):
        raise ValueError(f"its columns are separated by {separator!r}; save it with commas between them")
    if repeated := [column for column in columns if columns.count(column) > 1]:
        raise ValueError(f"it has two columns named {shown_value(repeated[0])}; rename one")
    for record in records:
        if isinstance(record, _BadRow):
            yield record
            continue
        line, fields = record
        if len(fields) > len(columns):
            problem = "has more fields than the header; quote texts that hold a comma"
            yield _BadRow(line, problem, dict(zip(columns, fields, strict=False)))
        else:
            yield ListRow(line, dict(zip(columns, fields, strict=False)))


def _csv_records(lines: Sequence[str]) -> Iterator[tuple[int, list[str]] | _BadRow]:
    """Read each record that is not blank, with its line number.

    After a bad record, reading resumes with the next line, so that a quote that is never closed does not take the rest
    of the list.
    """
    start = 0
    while start < len(lines):
        reader = csv.reader(islice(lines, start, None), strict=True)
        first = start
        try:
            for fields in reader:
                if any(field.strip() for field in fields):
                    yield first + 1, fields
                first = start + reader.line_num
            return
        except csv.Error as error:
            yield _BadRow(first + 1, f"not CSV ({error}); close its quotes, and double those in a text")
            start = first + 1

"""Reads lists of evaluation data: the videos and questions that must not be trained on.

A list is a `.jsonl`, `.json` or `.csv` file whose rows name a video, a question or both, or a `.txt` file. Columns of
videos: `video_id`, `videoID`, `youtube_id`, `video`, `videos`, `url`. Columns of questions: `question`, `problem`. So
the files of LongVideo-Reason, Video-MME and the like, and this project's own releases, can be used as they are. Other
columns are ignored. Each line of a `.txt` file is a video if it is one word, and otherwise a question.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from operators.sources import web
from operators.sources.access import local_path
from operators.sources.folder import VIDEO_SUFFIXES
from operators.sources.manifest import LIST_SUFFIXES, ListRow, read_list
from schemas.base import shown_value
from schemas.errors import BadInput, Outage, SourceError
from schemas.storage import locate, outages
from schemas.tables import Reject
from schemas.uri import shown_uri, without_secrets

VIDEO_COLUMNS = ("video_id", "videoID", "youtube_id", "video", "videos", "url")
QUESTION_COLUMNS = ("question", "problem")
_YOUTUBE = re.compile(
    r"(?:youtube(?:-nocookie)?\.com/(?:watch\?(?:\S*&)?v=|shorts/|embed/|live/|v/)|youtu\.be/)([\w-]{11})(?![\w-])"
)


@dataclass(frozen=True)
class ListedItem:
    """One row of an evaluation list."""

    place: str
    """List and line, for messages."""
    videos: frozenset[str]
    """Names of its video; empty if it names none."""
    question: str
    """Empty if it has none."""


def read_evaluation_lists(addresses: Iterable[str]) -> list[ListedItem]:
    """Read all rows of several lists.

    Args:
        addresses: local paths or fsspec URLs.

    Raises:
        SourceError: a list is missing, has another format, or has a row that names neither video nor question. The
            message names list, line and value.
        Outage: a list cannot be read at the moment.
    """
    return [item for address in addresses for item in _items(read_bytes(address), shown_uri(address))]


def list_digests(addresses: Iterable[str]) -> list[str]:
    """The sha256 of each list, for the key of the rows that depend on it.

    Raises:
        SourceError, Outage: see `read_evaluation_lists`.
    """
    return [hashlib.sha256(read_bytes(address)).hexdigest() for address in addresses]


def read_bytes(address: str) -> bytes:
    """The content of a list.

    Raises:
        SourceError, Outage: see `read_evaluation_lists`.
    """
    shown = shown_uri(address)
    site = web.site_of(address)
    try:
        with outages(address):
            if site:
                return web.read(address, frozenset({site}))
            fs, path = locate(local_path(address) or address)
            content: bytes = fs.cat_file(path)
            return content
    except BadInput:
        raise
    except (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError) as error:
        cause = "no such file" if isinstance(error, FileNotFoundError) else without_secrets(str(error), [address])
        raise SourceError(f"evaluation list {shown!r}: {cause}; correct assemble.decontamination") from error
    except OSError as error:
        raise Outage(f"evaluation list {shown!r} cannot be read ({error}); run it again when it can") from error


def video_names(text: str) -> frozenset[str]:
    """The names under which a video may be listed: the text itself, the file's name, and the id on YouTube.

    Args:
        text: an id, a path or an address.
    """
    found = _YOUTUBE.search(text)
    path = PurePosixPath(re.split("[?#]", text, maxsplit=1)[0] if "://" in text else text)
    is_file = path.suffix.lower() in VIDEO_SUFFIXES
    return frozenset(filter(None, [text, path.stem if is_file else "", found[1] if found else ""]))


def _items(data: bytes, name: str) -> Iterator[ListedItem]:
    suffix = PurePosixPath(name).suffix.lower()
    if suffix == ".txt":
        yield from _text_items(data, name)
        return
    if suffix not in LIST_SUFFIXES:
        raise SourceError(f"evaluation list {name!r}: not a .jsonl, .json, .csv or .txt file")
    for row in read_list(data, name):
        if isinstance(row, Reject):
            raise SourceError(f"evaluation {row.message}")
        where = f"{name}, line {row.line}"
        yield ListedItem(where, _videos(row, where), _question(row, where))


def _text_items(data: bytes, name: str) -> Iterator[ListedItem]:
    try:
        lines = data.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        bad = data.count(b"\n", 0, error.start) + 1
        raise SourceError(f"evaluation list {name!r}, line {bad}: not UTF-8; save it as UTF-8") from error
    for number, line in enumerate(map(str.strip, lines), start=1):
        is_video = len(line.split()) == 1
        if line:
            yield ListedItem(
                f"{name}, line {number}", video_names(line) if is_video else frozenset(), "" if is_video else line
            )


def _videos(row: ListRow, where: str) -> frozenset[str]:
    values = _texts(row, VIDEO_COLUMNS, where)
    if not values and not _texts(row, QUESTION_COLUMNS, where):
        columns = ", ".join(map(shown_value, row.fields)) or "none"
        raise SourceError(
            f"evaluation list {where}: neither a video nor a question; a row needs one of the columns "
            f"{', '.join((*VIDEO_COLUMNS, *QUESTION_COLUMNS))}, and has {columns}"
        )
    return frozenset(name for value in values for name in video_names(value))


def _question(row: ListRow, where: str) -> str:
    return next(iter(_texts(row, QUESTION_COLUMNS, where)), "")


def _texts(row: ListRow, columns: Sequence[str], where: str) -> list[str]:
    given: list[str] = []
    for column in columns:
        value: Any = row.fields.get(column)
        if value in (None, ""):
            continue
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise SourceError(
                f"evaluation list {where}: {column} is {shown_value(value)}, not a text; give one video or question "
                f"in each row"
            )
        if text := str(value).strip():
            given.append(text)
    return given

"""The journal of one stage and work item: stores every model answer when it arrives, on any fsspec filesystem.

A local folder has one append-only JSONL file per writer, and each line is flushed to disk (fsync) before `append`
returns. Object stores cannot append, so each answer is one object. An unfinished last line, left by a killed writer, is
ignored, and its answer is requested again.

Several writers may use one folder concurrently. Each writer reads the folder once, on first use, and for equal requests
the latest record counts. Journals are thread-safe.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem
from pydantic import ValidationError

from operators.store.content_store import explain
from schemas.journal import JournalEntry, JournalRecord
from schemas.storage import StoreError, locate, outages

log = logging.getLogger(__name__)

SUFFIX = ".jsonl"


class Journal:
    """Answers by the hash of their request. Use it as a context manager, or call `close`, to close its file."""

    def __init__(self, url: str) -> None:
        self.url = url
        filesystem, folder = locate(url, use_listings_cache=False)  # other threads share it and write
        local = isinstance(filesystem, LocalFileSystem)
        self._files = _Segments(Path(folder)) if local else _Objects(filesystem, folder, url)
        self._lock = threading.RLock()
        self._entries: dict[str, JournalEntry] | None = None

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._files.close()

    def get(self, request_sha256: str) -> JournalEntry | None:
        """The latest answer to exactly this request, or None if there is none or it was forgotten since."""
        with self._lock:
            return self._load().get(request_sha256)

    def append(self, entry: JournalEntry) -> None:
        """Store an answer durably: after the return it survives a crash of the process.

        Raises:
            StoreError: the disk or the object store cannot be written.
        """
        self._write(JournalRecord(written_ns=time.time_ns(), entry=entry))
        with self._lock:
            self._load()[entry.request_sha256] = entry

    def forget(self, request_sha256s: Iterable[str], keys: Iterable[str] = ()) -> int:
        """Discard answers, so that their requests are sent again, and return the number of discarded answers.

        Answers to the repetitions of a request after invalid answers are discarded with it. The answers stay in the
        files, and a new record marks them as forgotten.

        Args:
            request_sha256s: hashes of requests.
            keys: ids of clips or questions; all requests about them are discarded.
        """
        with self._lock:
            known = self._load()
            origins = {known[sha].origin_sha256 for sha in request_sha256s if sha in known}
            about = set(keys)
            origins |= {entry.origin_sha256 for entry in known.values() if entry.key in about}
            doomed = [sha for sha, entry in known.items() if entry.origin_sha256 in origins]
            if doomed:
                self._write(JournalRecord(written_ns=time.time_ns(), forgotten=tuple(sorted(origins))))
            for sha in doomed:
                del known[sha]
            return len(doomed)

    def _load(self) -> dict[str, JournalEntry]:
        if self._entries is None:
            records = [record for name, content in self._files.read() for record in _records(name, content)]
            self._entries = {}
            for record in sorted(records, key=lambda record: record.written_ns):
                gone = set(record.forgotten)
                for sha in [sha for sha, entry in self._entries.items() if entry.origin_sha256 in gone]:
                    del self._entries[sha]
                if record.entry is not None:
                    self._entries[record.entry.request_sha256] = record.entry
        return self._entries

    def _write(self, record: JournalRecord) -> None:
        name = f"{record.written_ns:020d}-{uuid.uuid4().hex[:12]}{SUFFIX}"
        self._files.write(name, record.model_dump_json(exclude_defaults=True).encode() + b"\n")


def _records(name: str, content: bytes) -> Iterator[JournalRecord]:
    """The valid records of a file. An invalid last line was left by a killed writer; any other is logged as damaged."""
    lines = content.split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        try:
            yield JournalRecord.model_validate_json(line)
        except ValidationError as error:
            if number < len(lines):
                log.warning(
                    "journal %s: line %d is damaged, its answer will be requested again: %s", name, number, error
                )


class _Segments:
    """A local folder with one append-only file for each writer."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._segment: BinaryIO | None = None

    def read(self) -> Iterator[tuple[str, bytes]]:
        for path in sorted(self._folder.glob("*" + SUFFIX)):
            yield str(path), path.read_bytes()

    def write(self, name: str, line: bytes) -> None:
        with self._lock:
            try:
                segment = self._segment = self._segment or self._new(name)
                rest = memoryview(line)
                while rest:  # a nearly full disk may write only a part; the next write raises the reason
                    rest = rest[segment.write(rest) :]
                os.fsync(segment.fileno())
            except OSError as error:
                self._end_segment()  # nothing is ever appended to a half-written line
                raise StoreError(explain(error, str(self._folder))) from error

    def close(self) -> None:
        with self._lock:
            self._end_segment()

    def _end_segment(self) -> None:
        if self._segment is not None:
            self._segment.close()
            self._segment = None

    def _new(self, name: str) -> BinaryIO:
        """Create an unbuffered file. The folder is synced, too, so that the file's name survives a crash."""
        self._folder.mkdir(parents=True, exist_ok=True)
        segment = (self._folder / name).open("xb", buffering=0)
        directory = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
        return segment


class _Objects:
    """A prefix of an object store with one object for each record."""

    def __init__(self, filesystem: AbstractFileSystem, folder: str, url: str) -> None:
        self._filesystem = filesystem
        self._folder = folder
        self._url = url

    def read(self) -> Iterator[tuple[str, bytes]]:
        try:
            with outages(self._url):
                names = self._filesystem.ls(self._folder, detail=False)
        except FileNotFoundError:
            return
        names = [name for name in names if name.endswith(SUFFIX)]
        if names:
            with outages(self._url):
                contents = self._filesystem.cat(names)
            yield from sorted(contents.items())

    def write(self, name: str, line: bytes) -> None:
        with outages(self._url):
            self._filesystem.pipe_file(f"{self._folder}/{name}", line)

    def close(self) -> None:
        """Do nothing: every object is complete as soon as it is written."""

"""Writes tar files with the same bytes for the same members: no times, no owners, one mode.

The format is USTAR, or GNU for members of 8 GiB and more.
"""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import IO

_USTAR_LIMIT = 8 << 30
"""Size from which a member does not fit USTAR, whose size field has eleven octal digits."""


class TarWriter:
    """Writes members in the order given. Use as a context manager: a closed tar ends in two zero blocks."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._tar = tarfile.open(fileobj=self._file, mode="w")  # noqa: SIM115 - closed by __exit__

    def __enter__(self) -> TarWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        self._tar.close()
        self._file.close()

    def add_bytes(self, name: str, data: bytes) -> None:
        self._add(_member(name, len(data)), io.BytesIO(data))

    def add_file(self, name: str, path: Path) -> None:
        """Add a file.

        Raises:
            OSError: the file cannot be read to its end. The tar is then as it was before.
        """
        with path.open("rb") as file:
            self._add(_member(name, path.stat().st_size), file)

    def _add(self, member: tarfile.TarInfo, content: IO[bytes]) -> None:
        self._tar.format = tarfile.USTAR_FORMAT if member.size < _USTAR_LIMIT else tarfile.GNU_FORMAT
        start = self._tar.offset
        try:
            self._tar.addfile(member, content)
        except BaseException:
            self._file.seek(start)
            self._file.truncate()
            self._tar.offset = start
            raise


def _member(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size = size
    member.mode = 0o444
    return member

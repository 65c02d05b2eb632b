"""Tar files with the same bytes for the same members: no times, no owners, one mode, USTAR headers."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path


class TarWriter:
    """Writes members in the order given. Use as a context manager; a tar that was closed ends in two zero blocks."""

    def __init__(self, path: Path) -> None:
        self._tar = tarfile.open(path, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115 - closed by __exit__

    def __enter__(self) -> TarWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        self._tar.close()

    def add_bytes(self, name: str, data: bytes) -> None:
        self._tar.addfile(_member(name, len(data)), io.BytesIO(data))

    def add_file(self, name: str, path: Path) -> None:
        with path.open("rb") as file:
            self._tar.addfile(_member(name, path.stat().st_size), file)


def _member(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size = size
    member.mode = 0o444
    return member

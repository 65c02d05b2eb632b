"""The loaders that people read a release with, each as one function from a split to the keys that it finds there.

Nothing is written into the release: caches, and Energon's index, go into a temporary folder.
"""

from __future__ import annotations

import importlib.util
import shlex
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path


@dataclass(frozen=True)
class Reader:
    """A loader. It finds question ids in tables, video ids in tars."""

    name: str
    of_questions: bool
    read: Callable[[str], list[str]]


def energon_prepare(splits: Sequence[str], folder: str) -> str:
    """The shell command that writes Energon's `.nv-meta` into a release. A split part is `name:regular expression`."""
    parts = " ".join(rf"--split-parts '{split}:data/{split}/.*\.tar'" for split in splits)
    return f"energon prepare --non-interactive --sample-type CrudeWebdataset {parts} {shlex.quote(folder)}"


@contextmanager
def open_readers(root: Path, splits: Sequence[str]) -> Iterator[list[Reader]]:
    """All installed readers of the release in a local folder; Energon is optional."""
    root = root.resolve()
    with tempfile.TemporaryDirectory(prefix="lvr-readers-") as scratch, _no_progress_bars():
        readers = [Reader("webdataset", False, partial(_webdataset, root))]
        for suffix, streaming in (("", False), (" streaming", True)):
            tables = partial(_tables, root, scratch, streaming)
            tars = partial(_tars, root, scratch, streaming)
            readers.append(Reader(f"datasets{suffix}", True, tables))
            readers.append(Reader(f"datasets webdataset{suffix}", False, tars))
        if importlib.util.find_spec("megatron") and importlib.util.find_spec("megatron.energon"):
            from operators.release import energon_reader

            folder = energon_reader.prepare(root, splits, Path(scratch) / "energon")
            readers.append(Reader("energon", False, partial(energon_reader.keys, folder)))
        yield readers


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    import datasets

    shown = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()


def _webdataset(root: Path, split: str) -> list[str]:
    import webdataset

    tars = sorted(str(path) for path in (root / "data" / split).glob("*.tar"))
    return [record["__key__"] for record in webdataset.WebDataset(tars, shardshuffle=False)]


def _tables(root: Path, cache: str, streaming: bool, split: str) -> list[str]:
    import datasets

    rows = datasets.load_dataset(str(root), split=split, streaming=streaming, cache_dir=cache)
    return [row["question_id"] for row in rows]


def _tars(root: Path, cache: str, streaming: bool, split: str) -> list[str]:
    import datasets
    from datasets.info import DatasetInfosDict

    records = datasets.load_dataset(
        "webdataset",
        data_files={split: str(root / "data" / split / "*.tar")},
        features=DatasetInfosDict.from_directory(str(root))["webdataset"].features,
        split=split,
        streaming=streaming,
        cache_dir=cache,
    )
    return [record["__key__"] for record in records]

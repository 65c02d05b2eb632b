"""The loaders that people read a release with, each as one function from a split to the keys that it finds.

Nothing is written into the release: caches and Energon's index go into a temporary folder.
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

from schemas.arrow import arrow_schema
from schemas.run import Release
from schemas.sample import Sample, WebDatasetRecord


@dataclass(frozen=True)
class Reader:
    """A loader. It finds question ids in tables, or video ids in tars."""

    name: str
    of_questions: bool
    """Whether the keys are question ids."""
    read: Callable[[str], list[str]]
    """Returns the keys that the loader finds in a split."""


def has_energon() -> bool:
    """Whether Megatron Energon can be imported. Its package does not install torch, which it needs."""
    return all(map(importlib.util.find_spec, ("torch", "megatron"))) and bool(
        importlib.util.find_spec("megatron.energon")
    )


def loading_metadata(
    splits: Sequence[str], *, with_media: bool, columns: Collection[str] = tuple(Sample.model_fields)
) -> dict[str, Any]:
    """The front matter of README.md (`configs`, `dataset_info`) from which `datasets` loads a release.

    `configs` names the Parquet tables only. `datasets` (5.2.0, huggingface/datasets#7101) uses one file format for all
    configs of a repository, that of the first one. A second config for the tars could be listed but not loaded, so the
    card says how to load the tars by name. Their features are in `dataset_info` under `webdataset`: without them, an
    empty list in the first record spoils the inferred types.

    Args:
        columns: names of the columns of the samples. A release of an earlier version lacks some.
    """
    sample = pa.schema([field for field in arrow_schema(Sample) if field.name in columns])
    samples = pa.field("samples", pa.list_(pa.struct(list(sample))))
    fields = [samples if field.name == "samples" else field for field in arrow_schema(WebDatasetRecord)]
    tables = [{"split": split, "path": f"parquet/{split}.parquet"} for split in splits]
    video = {"name": "mp4", "dtype": {"video": {"decode": False}}}
    text_keys = [{"name": name, "dtype": "string"} for name in ("__key__", "__url__")]
    record = {"name": "json", "struct": features(pa.schema(fields))}
    return {
        "configs": [{"config_name": "default", "default": True, "data_files": tables}],
        "dataset_info": [
            {"config_name": "default", "features": features(sample)},
            {"config_name": "webdataset", "features": [*text_keys, record, *([video] if with_media else [])]},
        ],
    }


def features(schema: pa.Schema) -> list[dict[str, Any]]:
    """Convert an Arrow schema to the form that `dataset_info` uses."""
    return [{"name": field.name, **_feature(field.type)} for field in schema]


@contextmanager
def open_readers(root: Path, release: Release, metadata: Mapping[str, Any]) -> Iterator[list[Reader]]:
    """Open all installed readers for a release in a local folder. Energon is optional.

    The readers see a folder of links to the manifest's files, and a README.md with `metadata` as its front matter. They
    see nothing else of the release's folder, such as a card that leads elsewhere.
    """
    with tempfile.TemporaryDirectory(prefix="lvr-readers-") as scratch, _no_progress_bars():
        splits = sorted(release.samples)
        folder, root = root.resolve(), Path(scratch) / "release"
        for file in release.files:
            link = root / file.path
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(folder / file.path)
        (root / "README.md").write_text(f"---\n{yaml.safe_dump(dict(metadata))}---\n")
        readers = [Reader("webdataset", False, partial(_webdataset, root))]
        for suffix, streaming in (("", False), (" streaming", True)):
            tables = partial(_tables, root, scratch, streaming)
            tars = partial(_tars, root, scratch, streaming)
            readers.append(Reader(f"datasets{suffix}", True, tables))
            readers.append(Reader(f"datasets webdataset{suffix}", False, tars))
        if has_energon():
            from operators.release import energon_reader

            folder = energon_reader.prepare(root, splits, Path(scratch) / "energon")
            readers.append(Reader("energon", False, partial(energon_reader.keys, folder)))
        yield readers


def _feature(kind: pa.DataType) -> dict[str, Any]:
    if pa.types.is_list(kind):
        item = _feature(kind.value_type)
        return {"list": item.get("dtype") or item.get("struct") or item}
    if pa.types.is_struct(kind):
        return {"struct": [{"name": field.name, **_feature(field.type)} for field in kind]}
    return {"dtype": {"double": "float64"}.get(str(kind), str(kind))}


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

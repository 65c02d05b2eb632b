"""Reads a release through Megatron Energon. Imported only if Energon is installed."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from megatron.energon import (
    Cooker,
    DefaultTaskEncoder,
    Sample,
    WorkerConfig,
    basic_sample_keys,
    edataclass,
    get_loader,
    get_val_dataset,
    stateless,
)

from operators.release.energon_command import energon_prepare


@edataclass
class Record(Sample):
    """A record of which only the key is kept."""


@stateless
def cook(sample: dict) -> Record:
    """Keep the keys of a raw sample, and nothing else."""
    return Record(**basic_sample_keys(sample))


class KeysOnly(DefaultTaskEncoder):
    """Passes records on without decoding them."""

    cookers = [Cooker(cook)]  # noqa: RUF012 - Energon's own interface
    decoder = None


def prepare(root: Path, splits: Sequence[str], folder: Path) -> Path:
    """Prepare a folder that Energon can read: links to the release's tars, and Energon's index of them.

    The index is made by the command on the dataset card. Every tar is linked separately, as Energon writes an index
    next to each.

    Raises:
        subprocess.CalledProcessError: `energon prepare` failed; its own message is on stderr.
    """
    for tar in root.glob("data/*/*.tar"):
        link = folder / tar.relative_to(root)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(tar)
    program, *arguments = shlex.split(energon_prepare(splits, str(folder)))
    subprocess.run([str(Path(sys.executable).with_name(program)), *arguments], check=True, stdout=subprocess.DEVNULL)
    return folder


def keys(folder: Path, split: str) -> list[str]:
    """Keys of a split's records, each read once."""
    workers = WorkerConfig(rank=0, world_size=1, num_workers=0)
    records = get_val_dataset(folder, split_part=split, worker_config=workers, batch_size=None, task_encoder=KeysOnly())
    return [record.__key__ for record in get_loader(records)]

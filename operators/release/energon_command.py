"""The command that prepares a release for Megatron Energon. Usable where Energon is not installed."""

from __future__ import annotations

import shlex
from collections.abc import Sequence


def energon_prepare(splits: Sequence[str], folder: str) -> str:
    """Shell command that writes Energon's `.nv-meta` into a release. A split part is `name:regular expression`."""
    parts = " ".join(rf"--split-parts '{split}:data/{split}/.*\.tar'" for split in splits)
    return f"energon prepare --non-interactive --sample-type CrudeWebdataset {parts} {shlex.quote(folder)}"

"""Supported versions of PyTorch and transformers. Others might run, but compute something else."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version

from packaging.version import Version

SUPPORTED = {"torch": ("2.11", "2.15"), "transformers": ("5.17", "5.21")}
"""Version ranges by package: the first version is included, the second is not."""


def check(installed: Mapping[str, str] | None = None) -> None:
    """Check the versions of the packages.

    Args:
        installed: versions by package; None: those that are installed.

    Raises:
        RuntimeError: a package is outside its range.
    """
    for package, (first, end) in SUPPORTED.items():
        found = installed[package] if installed else version(package)
        if not Version(first) <= Version(Version(found).base_version) < Version(end):
            raise RuntimeError(
                f"{package} {found} is not supported: {first} or newer is needed, and before {end}. Install such a "
                f"one; or run the tests, `pytest tests/trainer_plugin/test_parity.py`, with this one, and if they "
                f"pass enter it into trainer_plugin.versions.SUPPORTED"
            )

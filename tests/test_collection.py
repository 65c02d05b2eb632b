"""Test ids depend on the code alone: xdist workers collect at different times, and must agree.

Every run with several workers depends on it: xdist aborts if they have collected different tests.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def collect_ids(hash_seed: str) -> list[str]:
    """The ids of all tests, in order."""
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", "", "-p", "no:cacheprovider", "tests"],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    return [line for line in ended.stdout.splitlines() if "::" in line]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_collections_at_other_times_with_other_hashes_give_the_same_ids():
    first = collect_ids("1")
    assert len(first) > 1000 and collect_ids("4711") == first

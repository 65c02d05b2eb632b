"""Test ids follow from the code alone: workers of a busy machine collect at different times, and must agree."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_ids_are_those_of_another_collection_at_another_time_with_other_hashes(request):
    """Of this session's tests none is missing from a collection that another process makes now."""
    modules = sorted({item.path.relative_to(ROOT).as_posix() for item in request.session.items})
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *modules],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "4711"},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    again = {line for line in ended.stdout.splitlines() if "::" in line}
    assert {item.nodeid for item in request.session.items} <= again

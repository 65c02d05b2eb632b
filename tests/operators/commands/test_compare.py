"""`lvr compare` prints what differs between two runs."""

from __future__ import annotations

import json

import pytest

from schemas.errors import BAD_INPUT_STATUS
from tests.support.synthetic_run import synthetic_run


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> tuple[str, str]:
    first, second = (tmp_path_factory.mktemp(name) for name in "ab")
    return synthetic_run(first, videos=2).url, synthetic_run(second, videos=2, nothing_passes=True).url


def test_the_table_shows_changes_and_counts(lvr, runs):
    status, out, _ = lvr("compare", *runs, "--limit", 1)
    assert status == 0
    assert out.startswith(f"before  {runs[0]}\nafter   {runs[1]}\nprompts that differ: none\n")
    assert "  and " in out and " more; --limit or --json prints them\n" in out
    titles = [line.split("  ")[0] for line in out.splitlines() if line.startswith("by ")]
    assert titles == ["by stage", "by category", "by prompt", "by model"]
    [line] = [line for line in out.splitlines() if line.startswith("  assemble ")]
    before, after, change = map(int, line.split()[1:])
    assert (after, change) == (0, -before) and before > 0


def test_json_has_everything(lvr, runs):
    _, out, _ = lvr("compare", *runs, "--json")
    found = json.loads(out)
    assert (found["before"], found["after"]) == runs
    assert found["questions"].keys() == {"only_before", "only_after", "rewritten", "verdict_changed", "same"}


def test_what_is_no_run_is_named(lvr, runs, tmp_path):
    status, _, err = lvr("compare", runs[0], tmp_path)
    assert (status, f"{tmp_path}: not a run; a run's address ends in /runs/<run id>" in err) == (BAD_INPUT_STATUS, True)

"""Shared fixtures of the report tests: one run and its collected numbers."""

import pytest

from operators.report.collect import collect
from tests.support.synthetic_run import synthetic_run


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A run of ten videos in three partitions, finished up to `assemble`. One video is unreadable."""
    return synthetic_run(tmp_path_factory.mktemp("run"), videos=10)


@pytest.fixture(scope="session")
def numbers(folder):
    return collect(folder)

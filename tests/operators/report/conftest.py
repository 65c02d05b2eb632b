"""One finished run for all tests of the report."""

import pytest

from operators.report.collect import collect
from tests.support.synthetic_run import synthetic_run


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Ten videos in three lanes, of which one cannot be read; everything up to `assemble` has run."""
    return synthetic_run(tmp_path_factory.mktemp("run"), videos=10)


@pytest.fixture(scope="session")
def numbers(folder):
    return collect(folder)

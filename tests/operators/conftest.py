"""A published release for all tests that read one."""

import pytest

from tests.support.synthetic_run import published_release


@pytest.fixture(scope="session")
def release(tmp_path_factory):
    """The folder of a release with real tars and videos. Tests that change files work on a copy."""
    return published_release(tmp_path_factory.mktemp("out"))

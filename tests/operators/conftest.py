"""A published release that read-only tests share."""

import pytest

from tests.support.synthetic_run import published_release


@pytest.fixture(scope="session")
def release(tmp_path_factory):
    """Folder of a release with real tars and videos. Tests that change files must work on a copy."""
    return published_release(tmp_path_factory.mktemp("out"))

"""Fixtures of the tests of gates."""

import pytest

from operators.models.session import ModelPool


@pytest.fixture(scope="module")
def pool():
    with ModelPool(retries=0) as pool:
        yield pool

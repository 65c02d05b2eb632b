"""Tests of the test server: if its generated answers were invalid, tests that use it would test nothing."""

from __future__ import annotations

import subprocess
import sys

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

import schemas.answers
from operators.models.answer_schema import strict_schema
from operators.models.endpoints import Endpoint, check
from tests.support import openai_server
from tests.support.openai_server import fill_schema

ANSWERS = [
    value
    for value in vars(schemas.answers).values()
    if isinstance(value, type) and issubclass(value, BaseModel) and value.__module__ == schemas.answers.__name__
]


@pytest.mark.parametrize("model", ANSWERS, ids=lambda model: model.__name__)
@settings(max_examples=20, deadline=None)
@given(seed=st.text())
def test_made_up_answers_are_valid_and_deterministic(model, seed):
    schema = strict_schema(model)
    made_up = fill_schema(schema, seed)
    jsonschema.validate(made_up, schema)
    model.model_validate(made_up)
    assert fill_schema(schema, seed) == made_up


def test_the_server_prints_its_address_when_it_runs_as_a_process():
    process = subprocess.Popen(
        [sys.executable, openai_server.__file__, "--model", "a", "--model", "b"], stdout=subprocess.PIPE, text=True
    )
    try:
        check(Endpoint(process.stdout.readline().strip(), "b"))
    finally:
        process.kill()
        process.wait()
        process.stdout.close()

"""Fixtures of the model tests: a separate prompt folder, a model pool that gives up soon, and the test server."""

from __future__ import annotations

from typing import Literal

import pytest
from pydantic import BaseModel, ConfigDict

from operators.models.prompts import load_prompt
from operators.models.session import ModelPool


class Sight(BaseModel):
    """Answer schema of these tests."""

    model_config = ConfigDict(extra="forbid")

    text: str
    colour: Literal["red", "green", "blue"] = "red"


@pytest.fixture
def prompt(tmp_path):
    folder = tmp_path / "prompts"
    folder.mkdir()
    (folder / "scene.md").write_text(
        "---\nid: scene\npurpose: A test.\nrole: captioner\noutput: Sight\n"
        "sampling: {temperature: 0.5, max_tokens: 50}\nsystem: Be brief.\n---\n"
        "What is in {{ place }}?\n"
    )
    return load_prompt("scene", folder, {"Sight": Sight})


@pytest.fixture
def pool():
    with ModelPool(retries=2) as pool:
        yield pool

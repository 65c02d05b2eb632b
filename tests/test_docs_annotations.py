"""The worked example of docs/annotations.md, done as it is written."""

import json
import re
from pathlib import Path
from random import Random

import pytest

from operators.questions.facts.derive import derive
from schemas.base import parse_json
from schemas.errors import SchemaError
from schemas.manifest import FactsFile
from schemas.tables import QuestionKind

PAGE = (Path(__file__).parents[1] / "docs" / "annotations.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.DOTALL)
[EXAMPLE] = [text for kind, text in BLOCKS if kind == "json"]
QUESTIONS, ERROR = [text.strip() for kind, text in BLOCKS if kind == "text"]


def test_the_example_is_a_file_of_facts():
    found = parse_json(EXAMPLE, FactsFile, "harbour.facts.json")
    assert [text.kind for text in found.annotations] == ["caption", "speech"]
    assert found.facts.complete and len(found.facts.events) == 5


def test_the_questions_of_the_example_are_derived():
    facts = parse_json(EXAMPLE, FactsFile, "harbour.facts.json").facts
    found = {
        (each.question, each.answer)
        for seed in range(40)
        for each in derive(facts, 60_000_000, tuple(QuestionKind), 5, Random(seed))
    }
    for line in QUESTIONS.splitlines():
        question, answer = line.split(" -> ")
        assert (question, answer) in found, "\n".join(sorted(f"{each[0]} -> {each[1]}" for each in found))


def test_the_error_of_the_example_is_the_one_that_is_shown():
    values = json.loads(EXAMPLE)
    values["facts"]["events"][3]["causes"] = ["open"]
    with pytest.raises(SchemaError, match=f"^{re.escape(ERROR)}$"):
        parse_json(json.dumps(values), FactsFile, "harbour.facts.json")

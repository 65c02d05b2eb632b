"""The page of examples shows what its program writes, with a verdict and a picture for every question."""

import json
import re

import pytest

from benchmarks.example_questions import COUNT, PAGE, VERDICTS
from operators.demo.films.stories import film_scripts
from tests.support.film_world import FACTS, FilmWorld


def test_every_question_on_the_page_has_a_verdict_and_a_picture():
    page = PAGE.read_text(encoding="utf-8")
    kept, rejected = page.split("## Rejected")
    assert len(re.findall(r"^### ", kept, re.M)) == len(re.findall(r"^### ", rejected, re.M)) == COUNT
    assert len(re.findall(r"^Rejected as `\w+`", page, re.M)) == COUNT
    read = re.findall(r"^\*\*Reader, (good|weak|rightly|loss):\*\* (.+)$", page, re.M)
    verdicts = json.loads(VERDICTS.read_text(encoding="utf-8")).values()
    assert sorted(read) == sorted((each["verdict"], each["why"]) for each in verdicts)
    pictures = re.findall(r"\((images/examples/.+\.jpg)\)", page)
    assert len(set(pictures)) == len(read) == 2 * COUNT
    assert all((PAGE.parent / each).stat().st_size for each in pictures)


@pytest.mark.parametrize("name", FACTS)
def test_the_writer_asks_about_what_is_in_the_film(name):
    world = FilmWorld(film_scripts()[name])
    names = {event.name for event in world.events}
    for _, question, answer, wrong, needed in FACTS[name]:
        assert set(needed) <= names, question
        assert len({answer, *wrong}) == 4
    assert {draft.category for draft in world.drafts()} >= {fact[0] for fact in FACTS[name]}

"""Questions read naturally, and options are not listed twice."""

from random import Random

import pytest

from operators.demo.films.script import Region
from operators.questions.phrases import REGIONS, about_seconds, in_order, listed, place_seen, question_text
from schemas.tables import QuestionKind, Template


@pytest.mark.parametrize("template", list(Template))
@pytest.mark.parametrize("seed", range(4))
def test_every_wording_names_its_subjects_and_is_a_sentence(template, seed):
    subjects = ("EXIT", "OPEN", "SHUT")
    text = question_text(template, subjects, QuestionKind.OPEN, Random(seed))
    named = (
        subjects
        if template in (Template.ORDER, Template.DURATION)
        else subjects[: 2 if template is Template.COUNT else 1]
    )
    assert all(f'"{subject}"' in text for subject in named)
    assert text[0].isupper()
    assert text[-1] in "?."
    assert "{" not in text


def test_wordings_vary_with_the_seed():
    assert len({question_text(Template.AFTER, ["EXIT"], QuestionKind.OPEN, Random(seed)) for seed in range(30)}) == 3


def test_texts_to_choose_from_are_not_listed_twice():
    assert "EXIT" not in question_text(Template.DURATION, ["EXIT", "OPEN"], QuestionKind.CHOICE, Random(0))


def test_forms_of_answers():
    assert in_order(["A", "B"]) == '"A", then "B"'
    assert listed(["a"]) == "a"
    assert listed(["a", "b", "c"]) == "a, b and c"
    assert about_seconds(6_400_000) == "about 6 seconds"
    assert about_seconds(900_000) == "about 1 second"
    assert len(set(REGIONS.values())) == len(Region)
    assert place_seen(Region.BOTTOM_LEFT) == "in the lower third of the picture, towards the left edge"

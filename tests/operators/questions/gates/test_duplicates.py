"""Repeated questions are found, by words alone only where nothing distinguishes them."""

import pytest

from operators.execution.stage import Stage
from operators.questions.gates.duplicates import PROMPT, check_duplicates
from operators.questions.outcome import Material
from schemas.config import Role
from schemas.tables import Question, QuestionKind
from tests.support.event_world import EventWorld, FakeModels, Meaning, Query, make_event_question
from tests.support.rows import make_video


@pytest.fixture
def world():
    return EventWorld(30, seed=2)


@pytest.fixture
def find_repeated(stages, server, world):
    """Runs the gate; returns the indices of the questions that repeat another one."""

    def find(*questions: Question) -> list[int]:
        server.script = FakeModels(world)
        found = []

        def check(context, captions):
            material = Material(context, make_video("film"), captions, None)
            found.extend(check_duplicates(material, questions))
            yield from ()

        stage = Stage(
            name="question", version=1, row=Question, reads={"captions": "caption"}, run=check,
            section=lambda config: None, prompts=(PROMPT,), roles=(Role.JUDGE,),
        )  # fmt: skip
        stages.run(stage, world.captions())
        return [index for index, outcome in enumerate(found) if outcome.problem]

    return find


def where(world: EventWorld, clip: int, number: int, text: str) -> Question:
    event = world.events[clip]
    query = Query("where", (event.thing,))
    question = make_event_question(world, query, [event], number, QuestionKind.OPEN, "on the bridge")
    worded = text.format(event.thing)
    world.register(worded, Meaning(query, category=question.category))
    return question.model_copy(update={"question": worded})


def test_one_word_may_be_all_that_distinguishes_two_questions(find_repeated, world, server):
    text = "In what surroundings does somebody use the {}?"
    assert find_repeated(where(world, 1, 1, text), where(world, 2, 2, text)) == []
    assert len(server.requests) == 1


def test_the_same_words_are_found_without_a_judge(find_repeated, world, server):
    first = where(world, 1, 1, "In what surroundings does somebody use the {}?")
    second = where(world, 1, 2, "In which surroundings does somebody use the {}?")
    assert find_repeated(first, second) == [1]
    assert server.requests == []


def test_the_judge_finds_the_same_question_in_other_words(find_repeated, world, server):
    first = where(world, 1, 1, "In what surroundings does somebody use the {}?")
    second = where(world, 1, 2, "Name the place of the {}.")
    assert find_repeated(first, second) == [1]
    assert len(server.requests) >= 2

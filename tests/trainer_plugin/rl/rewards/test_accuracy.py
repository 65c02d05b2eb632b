"""The accuracy reward; `tests/schemas/test_answer_format.py` has the table of answers."""

import pytest

from trainer_plugin.rl.rewards.accuracy import accuracy_reward


def score(completion, *, options=("dog", "cat"), answer="<answer>B</answer>", kind="choice"):
    (value,) = accuracy_reward(
        completions=[completion], options=[options], answer=[answer], kind=[kind], question=["Where?"]
    )
    return value


@pytest.mark.parametrize(
    ("completion", "value"),
    [
        ("<think>A</think><answer>B</answer>", 1),
        ("<answer>(b)</answer>", 1),
        ("Option B.", 1),
        ("cat", 1),
        ("<answer>A</answer>", 0),
        ("<answer>A or B</answer>", 0),
        ("<answer>not B</answer>", 0),
        ("<think>B</think>", 0),
        ("", 0),
        (" \n", 0),
    ],
)
def test_the_accuracy_reward_is_one_for_the_right_option(completion, value):
    assert score(completion) == value


def test_open_questions_have_no_accuracy():
    assert score("a cat", options=(), answer="<answer>a cat</answer>", kind="open") is None


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ({"options": ()}, "a choice question has no options"),
        ({"options": None}, "a choice question has no options"),
        ({"answer": "<answer>C</answer>"}, "'<answer>C</answer>' is no letter of 2 options"),
        ({"answer": "B"}, "'B' is no letter of 2 options"),
        ({"answer": None}, "None is no letter of 2 options"),
    ],
)
def test_a_broken_sample_is_a_failure_and_not_a_wrong_answer(sample, message):
    value = score("B", **sample)
    assert isinstance(value, ValueError) and message in str(value)

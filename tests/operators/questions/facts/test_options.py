"""Wrong options share as many words with the question as the answer does, also in the plural."""

from random import Random

from operators.questions.facts.options import Balance, choose_wrong

QUESTION = "What does the cook do in order to collect two flowers?"


def wrong_options(*pool: str) -> tuple[str, ...]:
    answer = "takes the pink flower"
    return choose_wrong("facts_step", QUESTION, answer, pool, frozenset(), Balance(), Random(0))


def test_no_wrong_option_lacks_a_word_that_question_and_answer_share():
    assert wrong_options("takes the red apple", "takes the blue ball", "takes the old cup") == ()
    flowers = ("takes the teal flower", "takes the red flower", "takes the blue flower")
    assert set(wrong_options("takes the red apple", *flowers)) == set(flowers)

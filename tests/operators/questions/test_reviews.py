"""A second and a third review are requested only where the first raises a doubt, and belong to their items."""

import pytest

from operators.models.client import Answer, Refusal, Request
from operators.models.prompts import load_prompt
from operators.questions.reviews import REVIEWS, run_reviews
from schemas.answers import Verdict
from schemas.provenance import Provenance
from tests.support.stages import PROMPTS


class Judge:
    """Finds what is doubtful in items by name; refuses those named `refused`. Counts its calls."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def call(self, requests):
        self.calls.append([f"{request.key} {request.seed}" for request in requests])
        return [self._reply(request) for request in requests]

    def _reply(self, request):
        if request.key == "refused":
            return Refusal(request, "blocked", "no", "", "0" * 64)
        same = request.key == "doubtful" or (request.key == "doubted once" and request.seed == 0)
        return Answer(request, Verdict(same=same), Provenance(model="judge"), truncated=False)


def review(*items: str) -> tuple[Judge, list[list[Answer | Refusal]]]:
    judge = Judge()
    prompt = load_prompt("same_question", PROMPTS)

    def make_request(item: str, number: int) -> Request:
        return Request(item, prompt, item, seed=number)

    return judge, run_reviews(judge, items, make_request, lambda _, answer: answer.value.same)


def test_items_without_a_doubt_take_one_request():
    judge, replies = review("fine", "good")
    assert judge.calls == [["fine 0", "good 0"]]
    assert [len(own) for own in replies] == [1, 1]


def test_doubted_and_refused_items_are_reviewed_again_each_with_its_own_replies():
    judge, replies = review("fine", "doubtful", "good", "refused", "doubted once")
    assert judge.calls[1] == [f"{name} {n}" for name in ("doubtful", "refused", "doubted once") for n in (1, 2)]
    assert [len(own) for own in replies] == [1, REVIEWS, 1, REVIEWS, REVIEWS]
    for name, own in zip(("fine", "doubtful", "good", "refused", "doubted once"), replies, strict=True):
        assert {reply.request.key for reply in own} == {name}
    assert [reply.value.same for reply in replies[4]] == [True, False, False]


@pytest.mark.parametrize("items", [(), ("fine",)])
def test_no_request_is_sent_for_nothing(items):
    judge, replies = review(*items)
    assert len(judge.calls) == len(items)
    assert len(replies) == len(items)

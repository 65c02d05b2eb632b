"""Finds questions that ask the same as another one of the video, in the same words or in others."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

from operators.execution.stage import Context
from operators.models.client import Answer, Refusal, Request
from operators.questions.answers import compare_open, folded
from operators.questions.gates.wording import QUOTED
from operators.questions.outcome import Material, Outcome, Problem, rule_trial, with_trial
from operators.questions.reviews import AGREEING, run_reviews
from schemas.answers import Verdict
from schemas.config import Role, Writer
from schemas.tables import Check, Question

PROMPT = "same_question"
SAME_WORDS = 0.8
"""Share of common words from which two questions with the same answer are duplicates without a judge, if only stop
words differ or a program wrote one of them. One other word may be all that distinguishes two questions: the red cup,
the green cup."""
ALIKE_WORDS = 0.5
"""Share of common words of two answers, or of two questions, from which a judge compares the questions."""

_STOP_WORDS = frozenset(
    re.findall(
        r"\w+",
        "a an the of to in on at is are was were do does did what which who whom whose when where why how and or for "
        "with by from that this it its his her their he she they as be been has have had",
    )
)


@dataclass(frozen=True)
class _Pair:
    """A question, and an earlier one that it may repeat."""

    question: Question
    earlier: Question


def check_duplicates(material: Material, questions: Sequence[Question]) -> list[Outcome]:
    """Reject questions that ask the same as one that was kept, or as an earlier one of these that passes.

    Same words are found by program. Where the answers agree, or the words are alike, the judge compares the questions.
    """
    order = [*material.kept, *questions]
    pairs = [
        _Pair(question, earlier)
        for position, question in enumerate(order)
        if position >= len(material.kept)
        for earlier in order[:position]
        if _may_be_same(question, earlier)
    ]
    judged = _judge_pairs(
        material.context, [pair for pair in pairs if not _has_same_words(pair.question, pair.earlier)]
    )
    same = {(pair.question.question_id, pair.earlier.question_id) for pair in pairs if pair not in judged}
    same |= {(pair.question.question_id, pair.earlier.question_id) for pair, is_same in judged.items() if is_same}
    kept = [question.question_id for question in material.kept]
    outcomes = []
    for question in questions:
        repeated = next((name for name in kept if (question.question_id, name) in same), None)
        trial = rule_trial(question, Check.DUPLICATE, passed=repeated is None, answer=repeated or "")
        problem = Problem("near_duplicate", f"it asks the same as question {repeated}") if repeated else None
        if problem is None:
            kept.append(question.question_id)
        outcomes.append(Outcome(with_trial(question, trial), problem))
    return outcomes


def _judge_pairs(context: Context, pairs: Sequence[_Pair]) -> dict[_Pair, bool]:
    """Whether the questions of each pair are the same, by two of three verdicts.

    A refused comparison counts as "not the same": a duplicate does less harm than the loss of a question.
    """
    replies = run_reviews(
        context.models[Role.JUDGE], pairs, partial(_request, context), lambda _, reply: _is_same(reply)
    )
    return {pair: sum(map(_is_same, own)) >= AGREEING for pair, own in zip(pairs, replies, strict=True)}


def _request(context: Context, pair: _Pair, number: int) -> Request:
    prompt = context.prompts[PROMPT]
    question_id, earlier_id = pair.question.question_id, pair.earlier.question_id
    text = prompt.render(first=_state(pair.earlier), second=_state(pair.question))
    return Request(question_id, prompt, text, seed=context.seed("same", question_id, earlier_id, number))


def _is_same(reply: Answer | Refusal) -> bool:
    return isinstance(reply, Answer) and cast(Verdict, reply.value).same


def _state(question: Question) -> str:
    return f"{question.question}\nAnswer: {question.answer}"


def _may_be_same(one: Question, other: Question) -> bool:
    if _has_same_words(one, other):
        return True
    if not one.writer == other.writer == Writer.MODEL:
        return False  # `derive` states each fact once
    agree = compare_open(one.answer, other.answer) is True or word_overlap(one.answer, other.answer) >= ALIKE_WORDS
    return agree or word_overlap(one.question, other.question) >= ALIKE_WORDS


def _has_same_words(one: Question, other: Question) -> bool:
    """Whether two questions have the same words, or similar words with the same answer and the same quoted texts."""
    if re.findall(r"\w+", folded(one.question)) == re.findall(r"\w+", folded(other.question)):
        return True
    options = bool(one.options and other.options)
    words, others = (_all_words(each, options) for each in (one, other))
    quoted = (set(QUOTED.findall(folded(each.question))) for each in (one, other))
    derived = not one.writer == other.writer == Writer.MODEL
    alike = len(words & others) >= SAME_WORDS * len(words | others) and (derived or words ^ others <= _STOP_WORDS)
    return alike and compare_open(one.answer, other.answer) is True and next(quoted) == next(quoted)


def _all_words(question: Question, with_options: bool) -> frozenset[str]:
    options = question.options if with_options else ()
    return frozenset(re.findall(r"\w+", folded(" ".join([question.question, *options]))))


def word_overlap(one: str, other: str) -> float:
    """Common words of two texts divided by all words of both, without stop words. 0 if one has no others."""
    words, others = (frozenset(re.findall(r"\w+", folded(each))) - _STOP_WORDS for each in (one, other))
    return len(words & others) / len(words | others) if words and others else 0.0

"""The judge reviews the wording of a question: what patterns cannot decide.

A flag counts if two of three reviews raise it (`operators.questions.reviews`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import cast

from operators.execution.stage import Context
from operators.models.client import Answer, Refusal, Request
from operators.questions.outcome import Material, Outcome, Problem, with_trial
from operators.questions.reviews import AGREEING, run_reviews
from operators.questions.trials import letter_options
from schemas.answers import QuestionReview
from schemas.config import Role
from schemas.tables import Check, Question, QuestionCategory, Trial

PROMPT = "review_question"
_FLAGS = {
    "contains_instruction": Problem("injection", "it instructs its reader; see the captions of its evidence"),
    "speaks_of_material": Problem("meta_talk", "it speaks of how it was made; it must be about the video itself"),
    "names_one_moment": Problem("names_one_moment", "it finds its moment by a time alone; describe what happens there"),
}
"""The problem of each flag, in the order in which they count."""


def check_review(material: Material, questions: Sequence[Question]) -> list[Outcome]:
    """Reject questions with a flag, and move those of another category into it."""
    context = material.context
    if not context.config.verify.review:
        return [Outcome(question) for question in questions]
    replies = run_reviews(context.models[Role.JUDGE], questions, partial(_request, context), _is_doubted)
    return [_outcome(question, own) for question, own in zip(questions, replies, strict=True)]


def _request(context: Context, question: Question, number: int) -> Request:
    prompt = context.prompts[PROMPT]
    text = prompt.render(question=question.question, options=letter_options(question.options), answer=question.answer)
    return Request(question.question_id, prompt, text, seed=context.seed("review", question.question_id, number))


def _is_doubted(question: Question, reply: Answer) -> bool:
    """Whether a review raises a flag or names another category."""
    review = cast(QuestionReview, reply.value)
    return review.category is not question.category or any(getattr(review, flag) for flag in _FLAGS)


def _outcome(question: Question, replies: Sequence[Answer | Refusal]) -> Outcome:
    answers = [reply for reply in replies if isinstance(reply, Answer)]
    reviews = [cast(QuestionReview, reply.value) for reply in answers]
    needed = AGREEING if len(replies) > 1 else 1
    if len(reviews) < needed:
        refusal = next(reply for reply in replies if isinstance(reply, Refusal))
        problem = Problem("unanswered", f"it was not reviewed: {refusal.message}", refusal.raw, refusal.request_sha256)
        return Outcome(question, problem)
    raised = Counter(flag for review in reviews for flag in _FLAGS if getattr(review, flag))
    found = next((flag for flag in _FLAGS if raised[flag] >= AGREEING), None)
    whys = [review.why for review in reviews if found and getattr(review, found)]
    flagged = replace(_FLAGS[found], message=f"{_FLAGS[found].message} ({whys[0]!r})") if found else None
    trial = Trial(
        question_id=question.question_id,
        video_id=question.video_id,
        check=Check.REVIEW,
        n=len(reviews),
        correct=len(reviews) - (raised[found] if found else 0),
        answers=tuple(_describe(review) for review in reviews),
        passed=flagged is None,
        provenance=tuple(reply.provenance.model_copy(update={"raw": ""}) for reply in answers),
    )
    category = _agreed_category(question, reviews)
    return Outcome(with_trial(question.model_copy(update={"category": category}), trial), flagged)


def _agreed_category(question: Question, reviews: Sequence[QuestionReview]) -> QuestionCategory:
    """The category that two reviews name, or else the question's own."""
    named = Counter(review.category for review in reviews)
    return next((category for category, count in named.most_common(1) if count >= AGREEING), question.category)


def _describe(review: QuestionReview) -> str:
    return ", ".join([review.category.value, *(flag for flag in _FLAGS if getattr(review, flag))])

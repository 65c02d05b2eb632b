"""Rules for the form of a question and its reasoning. A violated rule is reported with a typed reason and a fix."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from operators.questions.answers import folded, same_answer
from operators.video.timecode import format_time
from schemas.base import Span
from schemas.tables import Question, QuestionKind, Reasoning

OPTIONS = 4
"""Number of options of a choice question."""
MIN_WORDS = 4
"""Minimum number of words of a question."""
MAX_ANSWER_WORDS = 20
"""Maximum number of words of the answer to an open question."""
SAME_WORDS = 0.8
"""Fraction of shared words (with options) from which two questions with the same answer are duplicates."""

_META = re.compile(
    r"""
      \bcaption(s|ed|ing)?\b | \bclips?\b | \btranscripts?\b | \bocr\b
    | \b(text|description|passage|information|notes?|summary|context)\ (is\ )?(above|below|provided|given)\b
    | \b(above|provided|given)\ (text|descriptions?|passage|information|notes?|summary|context|parts?)\b
    | \baccording\ to\ the\ (text|descriptions?|passage|notes?|summary)\b
    | \b(right|correct)\ answer\ (was|is)\ (given|provided)\b
    """,
    re.IGNORECASE | re.VERBOSE,
)
_LETTER = re.compile(
    r"\b([Oo]ption|[Cc]hoice)s? \(?[A-D]\b|\b[Aa]nswer( is|:)? \(?([B-D]\b|A\b(?! [a-z]))|(?<!\w)\([A-D]\)"
)
_QUOTED = re.compile(r"\"[^\"]*\"|“[^”]*”|(?<!\w)'[^']*'(?!\w)")


@dataclass(frozen=True)
class Problem:
    """A violated rule."""

    reason: str
    message: str


def form_problem(
    question: Question, reasoning: Reasoning | None, covered: Span | None, earlier: Sequence[Question]
) -> Problem | None:
    """The first violated rule, or None.

    Args:
        question: the question to check.
        reasoning: its chain of thought; None violates a rule.
        covered: the span of the video that has captions; None when there are none.
        earlier: questions of the same video that have passed already.
    """
    problem = _options(question) or _answer(question) or _evidence(question.evidence, covered) or _wording(question)
    problem = problem or _reasoning(reasoning, covered) or _duplicate(question, earlier)
    if problem is None:
        return None
    return Problem(problem.reason, f"question {question.question_id} ({question.question!r}): {problem.message}")


def meta_talk(text: str) -> str | None:
    """The first words that refer to how a text was made (captions, clips, notes, option letters), or None.

    Quotations are ignored.
    """
    own = _QUOTED.sub('""', text)
    found = _META.search(own) or _LETTER.search(own)
    return found[0] if found else None


def _options(question: Question) -> Problem | None:
    if question.kind is QuestionKind.OPEN:
        if question.options:
            return Problem("bad_options", f"an open question has options {question.options}; drop them")
        return None
    distinct = {re.sub(r"\W+$", "", folded(option)) for option in question.options}
    if len(question.options) != OPTIONS or len(distinct) != OPTIONS or "" in distinct:
        return Problem("bad_options", f"options {question.options} must be {OPTIONS} different texts; write others")
    return None


def _answer(question: Question) -> Problem | None:
    if question.kind is QuestionKind.OPEN:
        words = len(question.answer.split())
        if words > MAX_ANSWER_WORDS:
            return Problem("long_answer", f"{words} words of answer; ask so that {MAX_ANSWER_WORDS} are enough")
        return None
    if not any(same_answer(question.answer, option, question.kind) for option in question.options):
        return Problem("answer_missing", f"answer {question.answer!r} is not among {question.options}; add it")
    return None


def _evidence(evidence: Sequence[Span], covered: Span | None) -> Problem | None:
    if not evidence:
        return Problem("no_evidence", "no part of the video is named as evidence; name what one must see")
    for span in evidence:
        if covered is None or span.start_us < covered.start_us or span.end_us > covered.end_us:
            known = f"{format_time(covered.start_us)} to {format_time(covered.end_us)}" if covered else "nothing"
            return Problem(
                "evidence_outside",
                f"evidence {format_time(span.start_us)} to {format_time(span.end_us)} lies outside what was captioned "
                f"({known}); name parts inside",
            )
    return None


def _wording(question: Question) -> Problem | None:
    words = len(question.question.split())
    if words < MIN_WORDS:
        return Problem("too_short", f"a question of {words} words; ask in a sentence of at least {MIN_WORDS}")
    for text in (question.question, question.answer, *question.options):
        if found := meta_talk(text):
            return Problem("meta_talk", f"{text!r} speaks of {found!r}; ask about the video itself")
    return None


def _reasoning(reasoning: Reasoning | None, covered: Span | None) -> Problem | None:
    if reasoning is None:
        return Problem("no_reasoning", "it has no chain of thought; see the rejects of stage reason")
    if found := meta_talk(reasoning.reasoning):
        return Problem("meta_talk", f"its reasoning speaks of {found!r}; it must speak of the video")
    return _evidence(reasoning.evidence, covered)


def _duplicate(question: Question, earlier: Sequence[Question]) -> Problem | None:
    for other in earlier:
        if _asks_the_same(question, other):
            return Problem("near_duplicate", f"it asks the same as question {other.question_id}; ask something else")
    return None


def _asks_the_same(one: Question, other: Question) -> bool:
    """Whether two questions have the same words, or similar words with the same answer and the same quoted texts."""
    with_options = bool(one.options and other.options)
    words, others = _words(one, with_options), _words(other, with_options)
    if words == others:
        return True
    quoted = (set(_QUOTED.findall(folded(each.question))) for each in (one, other))
    alike = len(words & others) >= SAME_WORDS * len(words | others)
    return alike and same_answer(one.answer, other.answer, QuestionKind.OPEN) and next(quoted) == next(quoted)


def _words(question: Question, with_options: bool) -> frozenset[str]:
    options = question.options if with_options else ()
    return frozenset(re.findall(r"\w+", folded(" ".join([question.question, *options]))))

"""Rules for the form of a question. A violated rule is reported with a typed reason and a fix."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from operators.questions.answers import folded, same_answer
from operators.questions.gates.wording import find_injection, find_meta_talk, find_refusal
from operators.questions.outcome import Material, Outcome, Problem, rule_trial, with_trial
from operators.questions.trials import SEVERAL, UNKNOWN
from operators.video.timecode import format_time
from schemas.base import Span
from schemas.config import Writer
from schemas.tables import Check, Question, QuestionKind

OPTIONS = 4
"""Number of options of a choice question."""
MIN_WORDS = 4
"""Minimum number of words of a question."""
MAX_ANSWER_WORDS = 20
"""Maximum number of words of the answer to an open question."""
LONGEST = 1.4
"""Length of the right option, as a multiple of the next longest, from which its length alone gives it away."""
LONGEST_CHARACTERS = 15
"""Characters by which it must be longer as well. Below that, a difference in length is not seen at a glance."""
WIDE_SECONDS = 60.0
"""Length of evidence in seconds that is never too wide."""
WIDE_SHARE = 0.5
"""Share of a video from which evidence is too wide."""
WIDEST_SECONDS = 600.0
"""Length of evidence in seconds that is too wide for any video. Its captions would not fit into a small context."""
RESERVED = frozenset({UNKNOWN, SEVERAL})
"""Answers with which a judge states that it cannot choose. As answers of a question they would be found right."""

_YES_NO = frozenset({"yes", "no", "true", "false", "yes it does", "no it does not", "yes he does", "yes she does"})
_CLOCK = re.compile(r"(?<![\d:.])(?:\d{1,2}:)?\d{1,2}:[0-5]\d(?![\d:])", re.ASCII)
_END = re.compile(r"[.?!][\"'”’)\]]*$|[。？！]$")


def check_form(material: Material, questions: Sequence[Question]) -> list[Outcome]:
    """Reject questions whose form violates a rule."""
    outcomes = []
    for question in questions:
        problem = find_form_problem(question, material.covered_span)
        outcomes.append(Outcome(with_trial(question, rule_trial(question, Check.RULES, problem is None)), problem))
    return outcomes


def find_form_problem(question: Question, covered: Span) -> Problem | None:
    """The first violated rule, or None. Rules on wording are for model-written questions only.

    Args:
        question: the question to check.
        covered: the span of the video that has captions.
    """
    rules: list[Callable[[], Problem | None]] = [
        lambda: _options(question),
        lambda: _answer(question),
        lambda: _evidence(question, covered),
    ]
    if question.writer == Writer.MODEL:
        rules += [lambda: _wording(question), lambda: _completeness(question), lambda: _length(question)]
    return next((problem for rule in rules if (problem := rule()) is not None), None)


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
    for text in (question.answer, *question.options):
        if folded(text).strip(".") in RESERVED:
            return Problem(
                "bad_options", f"{text!r} is what a judge answers if nothing fits; name a person, thing or fact"
            )
    if question.kind is QuestionKind.CHOICE:
        if not any(same_answer(question.answer, option, question.kind) for option in question.options):
            return Problem("answer_missing", f"answer {question.answer!r} is not among {question.options}; add it")
        return None
    words = len(question.answer.split())
    if words > MAX_ANSWER_WORDS:
        return Problem("long_answer", f"{words} words of answer; {MAX_ANSWER_WORDS} must be enough")
    if re.sub(r"[^\w ]", "", folded(question.answer)) in _YES_NO:
        return Problem("yes_or_no", f"the answer {question.answer!r} is guessed half of the time; ask what, who or why")
    return None


def _evidence(question: Question, covered: Span) -> Problem | None:
    if not question.evidence:
        return Problem("no_evidence", "no part of the video is named as evidence; name what one must see")
    for span in question.evidence:
        if span.start_us < covered.start_us or span.end_us > covered.end_us:
            return Problem(
                "evidence_outside",
                f"evidence {format_time(span.start_us)} to {format_time(span.end_us)} lies outside what was captioned "
                f"({format_time(covered.start_us)} to {format_time(covered.end_us)}); name parts inside",
            )
    total_us, video_us = _length_of(question.evidence), covered.end_us - covered.start_us
    widest_us = max(WIDE_SECONDS * 1_000_000, min(WIDEST_SECONDS * 1_000_000, WIDE_SHARE * video_us))
    if question.derivation is None and total_us > widest_us:
        return Problem(
            "evidence_too_wide",
            f"its evidence covers {total_us / video_us:.0%} of the video; name the parts that one must see",
        )
    return None


def _length_of(spans: Sequence[Span]) -> int:
    """Microseconds that the spans cover, overlaps counted once."""
    total, end_us = 0, 0
    for span in sorted(spans, key=lambda span: span.start_us):
        total += max(0, span.end_us - max(span.start_us, end_us))
        end_us = max(end_us, span.end_us)
    return total


def _wording(question: Question) -> Problem | None:
    for text in (question.question, question.answer, *question.options):
        if found := find_injection(text):
            return Problem("injection", f"{text!r} instructs its reader ({found!r}); see the captions of its evidence")
        if found := find_refusal(text):
            return Problem("refused_text", f"{text!r} is a refusal ({found!r}); use another reasoner, or send it again")
        if found := find_meta_talk(text):
            return Problem("meta_talk", f"{text!r} speaks of {found!r}; it must be about the video itself")
    if len(question.evidence) < 2 and (found_time := _CLOCK.search(question.question)):
        return Problem(
            "names_one_moment", f"it finds its moment by the time {found_time[0]}; describe what happens there instead"
        )
    return None


def _completeness(question: Question) -> Problem | None:
    words = len(question.question.split())
    if words < MIN_WORDS:
        return Problem("too_short", f"a question of {words} words; a sentence of at least {MIN_WORDS} is needed")
    if not _END.search(question.question.strip()):
        return Problem("cut_text", f"{question.question[-60:]!r} ends without a mark; it was cut off or is none")
    return None


def _length(question: Question) -> Problem | None:
    if question.kind is QuestionKind.OPEN:
        return None
    longest_wrong = max((len(each) for each in question.options if each != question.answer), default=0)
    length = len(question.answer)
    if length >= LONGEST * longest_wrong and length >= longest_wrong + LONGEST_CHARACTERS:
        return Problem(
            "longest_answer",
            f"the right option has {length} characters, the longest wrong one {longest_wrong}; make them alike",
        )
    return None

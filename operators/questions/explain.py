"""Writes the chain of thought of a programmatic question: what is seen, when, and what follows from it.

It is composed from the timeline and the question's evidence, in the words of someone who watches the video. For a text
that is visible at the first sample time it does not state when the text appeared, and for one that is visible at the
last it does not state when the text disappeared, because neither was observed. Durations are counted between the times
that are shown, so that they add up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from random import Random

from operators.questions.phrases import listed, place_seen, quoted
from operators.questions.timeline import Occurrence, Timeline, text_key
from operators.video.timecode import format_time
from schemas.tables import Question, Template

_OPENINGS = (
    "I go through the video and look for {what}.",
    "Let me watch the video closely and find {what}.",
    "To answer this, I have to find {what} in the video.",
    "First I look through the video for {what}.",
)


def explain(question: Question, timeline: Timeline, rng: Random) -> str:
    """The reasoning for a programmatic question.

    Args:
        question: a question with a derivation.
        timeline: the timeline of its video.
        rng: chooses the opening sentence.

    Raises:
        ValueError: the question was not derived by program, or some of its evidence is not on the timeline.
    """
    if question.derivation is None:
        raise ValueError(f"question {question.question_id} was not derived by program; ask the reasoner to explain it")
    evidence = _evidence(question, timeline)
    subjects = question.derivation.subjects
    middle = _EXPLANATIONS[Template(question.derivation.template)](subjects, evidence, question.answer)
    what = f"the text {quoted(subjects[0])}" if len(subjects) == 1 else f"the texts {listed([*map(quoted, subjects)])}"
    return f"{rng.choice(_OPENINGS).format(what=what)} {middle}"


def _evidence(question: Question, timeline: Timeline) -> list[Occurrence]:
    """Occurrences with the spans of the question's evidence, in order of time.

    Unrelated occurrences that have exactly such a span are included.

    Raises:
        ValueError: no occurrence has the span of some of the evidence.
    """
    spans = set(question.evidence)
    found = [each for each in timeline.occurrences if each.span in spans]
    if {each.span for each in found} != spans:
        raise ValueError(
            f"question {question.question_id}: no text has the span of some of its evidence; the captions have changed "
            f"since it was derived, derive it again"
        )
    return found


def _order(subjects: Sequence[str], evidence: Sequence[Occurrence], answer: str) -> str:
    first, *others = _of(subjects, evidence)
    steps = [f"{quoted(first.text)} is the first of them to appear: it {_comes(first)}."]
    steps += [f"Then {quoted(each.text)} comes up at {format_time(each.start_us)}." for each in others]
    return f"{' '.join(steps)} So the order is {answer}."


def _after(subjects: Sequence[str], evidence: Sequence[Occurrence], answer: str) -> str:
    first, second = evidence
    return (
        f"It is on screen {_from_to(first)}. Watching on from there, the next text to come up is "
        f"{quoted(second.text)}, at {format_time(second.start_us)}; no other text appears in between. "
        f"So {quoted(answer)} comes right after it."
    )


def _before(subjects: Sequence[str], evidence: Sequence[Occurrence], answer: str) -> str:
    first, second = evidence
    return (
        f"It comes up at {format_time(second.start_us)}. Going back from there, the text that came up last is "
        f"{quoted(first.text)}, on screen {_from_to(first)}. So {quoted(answer)} comes right before it."
    )


def _count(subjects: Sequence[str], evidence: Sequence[Occurrence], answer: str) -> str:
    if len(subjects) == 1:
        times = listed([format_time(each.start_us) for each in _of(subjects, evidence)])
        return f"It is there from {times} on, and gone for a while each time in between. That makes {answer} times."
    first, *between, last = evidence
    seen = listed([f"{quoted(each.text)} at {format_time(each.start_us)}" for each in between])
    return (
        f"{quoted(first.text)} {_comes(first)} and {quoted(last.text)} {_comes(last)}. "
        f"After the one and before the other I see {seen}. That makes {answer} texts."
    )


def _duration(subjects: Sequence[str], evidence: Sequence[Occurrence], answer: str) -> str:
    seen = _of(subjects, evidence)
    if len(seen) == 1:
        came, went = format_time(seen[0].start_us), format_time(seen[0].end_us)
        return f"It comes up at {came} and is gone at {went}. So it stays {answer}."
    steps = [f"{quoted(each.text)} is on screen {_from_to(each)}{_seconds(each)}." for each in seen]
    return f"{' '.join(steps)} So the one that stays longest is {quoted(answer)}."


def _when(subjects: Sequence[str], evidence: Sequence[Occurrence], answer: str) -> str:
    (seen,) = _of(subjects, evidence)
    stays = "it is still there in the last picture"
    if seen.end_seen:
        end = format_time(seen.end_us)
        stays = f"it stays until {end}" if seen.shown_seconds else "it is gone a moment later"
    return (
        f"Going through the video, I first see it at {answer}: just before, it is not there yet, and "
        f"{stays}. So it appears at about {answer}."
    )


def _region(subjects: Sequence[str], evidence: Sequence[Occurrence], answer: str) -> str:
    (seen,) = _of(subjects, evidence)
    place = f", {place_seen(seen.region)}" if seen.region else ""
    return f"It is on screen {_from_to(seen)}{place}. So it stands at the {answer} of the picture."


_EXPLANATIONS: Mapping[Template, Callable[[Sequence[str], Sequence[Occurrence], str], str]] = {
    Template.ORDER: _order,
    Template.AFTER: _after,
    Template.BEFORE: _before,
    Template.COUNT: _count,
    Template.DURATION: _duration,
    Template.WHEN: _when,
    Template.REGION: _region,
}


def _of(subjects: Sequence[str], evidence: Sequence[Occurrence]) -> list[Occurrence]:
    keys = set(map(text_key, subjects))
    return [each for each in evidence if each.key in keys]


def _from_to(occurrence: Occurrence) -> str:
    start, end = format_time(occurrence.start_us), format_time(occurrence.end_us)
    if not occurrence.end_seen:
        return f"from {start} on"
    return f"from {start} to {end}" if occurrence.shown_seconds else f"for a moment at {start}"


def _comes(occurrence: Occurrence) -> str:
    return f"{'comes up' if occurrence.start_seen else 'is already there'} at {format_time(occurrence.start_us)}"


def _seconds(occurrence: Occurrence) -> str:
    seconds = occurrence.shown_seconds
    return f", for about {seconds} second{'s' if seconds > 1 else ''}" if seconds else ""

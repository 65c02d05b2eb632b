"""Questions about places in the picture: a program derives their answers from boxes, and the reasoner words them.

The boxes are the captioner's, a few per clip, each with a label and a time. A fact is used only if it holds by a
margin, if its labels fit one box each in their frame, and if nothing in the rest of the video contradicts it: a label
that may mean the same thing ("ferry" and "white ferry") counts as that thing. Wrong options are other places or
relations of the same form. The answer is derived again in another way (`operators.questions.rederive_boxes`), and the
wording is checked: it names the things, and does not give the answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from itertools import combinations, groupby
from random import Random

from operators.questions.answers import folded
from operators.questions.outcome import Material, Outcome, Problem, rule_trial, with_trial
from operators.questions.phrases import REGIONS
from operators.questions.plan import Slot, reach_of
from operators.questions.story import cover
from operators.video.timecode import format_time
from schemas.base import Box, Region, Span
from schemas.tables import Caption, Check, Derivation, Question, QuestionKind

PROMPT = "spatial"
MARGIN = 0.03
"""Distance, as a fraction of the picture's side, by which boxes must be apart or within each other."""
SMALLEST = 0.03
"""Smallest side of a box. The place of a smaller one is known too roughly."""
LARGEST = 0.5
"""Largest side of a box that has a place: a larger one is in several places."""
NEARER = 0.1
"""Distance by which the nearest thing must be nearer than the next one."""
MOVED = 0.3
"""Distance between the first and the last place from which something is elsewhere at the end."""
DRIFT = 0.1
"""Largest move along the other axis."""
HALF_SECONDS = 1.0
"""Seconds of the evidence before and after the time of a box."""
MAX_CAPTION = 600
"""Characters of a caption that describe the moment of a fact to the reasoner."""
_ASPECTS = (0.5, 1.0, 2.0)
"""Ratios of width to height for which the nearest thing must be the same, because boxes are fractions of both."""
_WRONG_OPTIONS = 3


class SpatialTemplate(StrEnum):
    """Kinds of questions about boxes. `Derivation.subjects` are labels."""

    RELATION = "boxes_relation"
    """Where the first thing is, as seen from the second."""
    NEAREST = "boxes_nearest"
    """Which of the others is nearest to the first."""
    PLACE = "boxes_place"
    """Where in the picture a thing is that is seen at one time only."""
    FIRST_PLACE = "boxes_first_place"
    """Where in the picture a thing is when it is first seen."""
    LAST_PLACE = "boxes_last_place"
    """Where in the picture a thing is when it is last seen."""
    MOVE = "boxes_move"
    """Where a thing is when it is last seen, compared with where it was first."""


class Relation(StrEnum):
    """Where one box is as seen from another, as an answer states it."""

    LEFT = "to the left"
    RIGHT = "to the right"
    ABOVE = "above"
    BELOW = "below"
    WITHIN = "inside its outline"
    AROUND = "all around it"


class Move(StrEnum):
    """Where something is at the end compared with the beginning, as an answer states it."""

    LEFT = "further to the left"
    RIGHT = "further to the right"
    UP = "higher up"
    DOWN = "lower down"


OPPOSITE = {
    Relation.LEFT: Relation.RIGHT,
    Relation.RIGHT: Relation.LEFT,
    Relation.ABOVE: Relation.BELOW,
    Relation.BELOW: Relation.ABOVE,
    Relation.WITHIN: Relation.AROUND,
    Relation.AROUND: Relation.WITHIN,
}

_STOP_WORDS = frozenset(["a", "an", "the", "of", "with", "in", "on", "and", "his", "her", "its", "at", "to", "by"])
_LEFT = (
    r"\b(?:to|on|at|from|towards?) (?:(?:the|its|his|her|their) )?(?:\w+[- ])?left\b"
    r"|\bleft[- ](?:of|side|hand|edge|part|corner|third)|\bleft(?:most|wards?)\b"
)
_GIVEN_AWAY: Mapping[str, str] = {
    "left": _LEFT,
    "right": _LEFT.replace("left", "right"),
    "top": r"\b(?:above|over|higher|upper|top|atop|upwards?)\b",
    "bottom": r"\b(?:below|under|underneath|beneath|lower|bottom|downwards?)\b",
    "centre": r"\b(?:cent(?:re|er)|middle)\b",
    "inside": r"\b(?:inside|within|outline)\b",
}
"""Patterns of wordings that state a direction."""
_DIRECTIONS: Mapping[str, tuple[str, ...]] = {
    Relation.LEFT: ("left",),
    Relation.RIGHT: ("right",),
    Relation.ABOVE: ("top",),
    Relation.BELOW: ("bottom",),
    Relation.WITHIN: ("inside",),
    Move.LEFT: ("left",),
    Move.RIGHT: ("right",),
    Move.UP: ("top",),
    Move.DOWN: ("bottom",),
    **{name: tuple(name.split()) for name in REGIONS.values()},
}
"""The directions that an answer consists of. A wording that states all of them gives it away."""
_UNCLEAR = frozenset({"left", "right", "top", "bottom", "upper", "lower", "centre", "center", "middle"}) | {
    "above", "below", "inside", "outline", "background", "foreground"
}  # fmt: skip
"""Words of labels that state a place themselves."""
_OPENINGS = (
    "I watch where {} can be seen.",
    "For this I have to find {} in the video.",
    "Let me go to the moment when {} can be seen.",
)


@dataclass(frozen=True)
class Sighting:
    """One box of a thing."""

    label: str
    words: frozenset[str]
    """The label's words that distinguish it."""
    box: Box
    time_us: int
    caption: Caption

    @property
    def span(self) -> Span:
        """The moment of the box, inside its clip."""
        half_us = round(HALF_SECONDS * 1_000_000)
        return Span(
            start_us=max(self.caption.start_us, self.time_us - half_us),
            end_us=min(self.caption.end_us, self.time_us + half_us),
        )


@dataclass(frozen=True)
class SpatialFact:
    """A fact about boxes, with wrong answers of the same form."""

    template: SpatialTemplate
    subjects: tuple[str, ...]
    answer: str
    wrong: tuple[str, ...]
    """All wrong options that are certainly wrong, at least three."""
    statement: str
    """The fact and the moment, for the reasoner."""
    steps: tuple[str, ...]
    """What is seen, for the chain of thought."""
    evidence: tuple[Span, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels that the question must name."""
        return labels_to_name(self.template, self.subjects)

    @property
    def kinds(self) -> tuple[QuestionKind, ...]:
        """The nearest of all things is not known, only the nearest of the options."""
        nearest = self.template is SpatialTemplate.NEAREST
        return (QuestionKind.CHOICE,) if nearest else tuple(QuestionKind)


def labels_to_name(template: str, subjects: Sequence[str]) -> tuple[str, ...]:
    """The subjects that a question must name; the others are its options."""
    return tuple(subjects[: 2 if template == SpatialTemplate.RELATION else 1])


def label_words(label: str) -> frozenset[str]:
    """The words of a label without articles and the like, in lower case, without a plural's or a possessive's end."""
    words = re.findall(r"[^\W_]+", folded(label).replace("'s", ""))
    return frozenset(re.sub(r"(?<=\w{3})s$", "", word) for word in words if word not in _STOP_WORDS)


def may_be_same(words: frozenset[str], others: frozenset[str]) -> bool:
    """Whether two labels may mean the same thing: one has all words of the other."""
    return words <= others or others <= words


def relate(one: Box, other: Box) -> Relation | None:
    """Where a box is as seen from another; None where that is not clear.

    Beside or above each other are boxes that are apart by `MARGIN` along one axis, overlap along the other by half of
    the smaller one, and whose centres are at least twice as far apart along the first.
    """
    if _is_within(one, other):
        return Relation.WITHIN
    if _is_within(other, one):
        return Relation.AROUND
    across, down = _centre_x(one) - _centre_x(other), _centre_y(one) - _centre_y(other)
    beside = _overlap(one.y0, one.y1, other.y0, other.y1) and abs(across) >= 2 * abs(down)
    stacked = _overlap(one.x0, one.x1, other.x0, other.x1) and abs(down) >= 2 * abs(across)
    if beside and one.x1 + MARGIN <= other.x0:
        return Relation.LEFT
    if beside and other.x1 + MARGIN <= one.x0:
        return Relation.RIGHT
    if stacked and one.y1 + MARGIN <= other.y0:
        return Relation.ABOVE
    if stacked and other.y1 + MARGIN <= one.y0:
        return Relation.BELOW
    return None


def place(box: Box) -> Region | None:
    """The ninth of the picture in which a box is; None if it is too large, or too close to the edge of the ninth."""
    if box.x1 - box.x0 > LARGEST or box.y1 - box.y0 > LARGEST:
        return None
    centre = (_centre_y(box), _centre_x(box))
    if any(abs(each - edge) < MARGIN for each in centre for edge in (1 / 3, 2 / 3)):
        return None
    row, column = (min(int(3 * each), 2) for each in centre)
    return tuple(Region)[3 * row + column]


def moved(first: Box, last: Box) -> Move | None:
    """How the place of a box has changed; None if it has not clearly changed along one axis alone."""
    across, down = _centre_x(last) - _centre_x(first), _centre_y(last) - _centre_y(first)
    if abs(across) >= MOVED and abs(down) <= DRIFT:
        return Move.RIGHT if across > 0 else Move.LEFT
    if abs(down) >= MOVED and abs(across) <= DRIFT:
        return Move.DOWN if down > 0 else Move.UP
    return None


def derive_spatial_facts(captions: Sequence[Caption]) -> list[SpatialFact]:
    """All facts about the boxes of a video, in order of time within each template."""
    film = Sightings(captions)
    return [*_relations(film), *_nearest(film), *_places(film)]


def take_fact(facts: list[SpatialFact], slot: Slot, duration_us: int) -> SpatialFact | None:
    """Remove the fact that fits a slot best from the list; None if there is none of its kind.

    Best is one of the slot's reach, if there is one, and near its time.
    """
    fitting = [fact for fact in facts if slot.kind in fact.kinds]
    if not fitting:
        return None

    def distance(fact: SpatialFact) -> tuple[bool, int]:
        middle_us = (fact.evidence[0].start_us + fact.evidence[-1].end_us) // 2
        around_us = sum(slot.around_us) // len(slot.around_us)
        return reach_of(fact.evidence, duration_us) is not slot.reach, abs(middle_us - around_us)

    best = min(fitting, key=distance)
    facts.remove(best)
    return best


def choose_options(fact: SpatialFact, kind: QuestionKind, rng: Random) -> tuple[str, ...]:
    """The options of a question about a fact, shuffled. None for an open one."""
    if kind is QuestionKind.OPEN:
        return ()
    options = [fact.answer, *rng.sample(fact.wrong, _WRONG_OPTIONS)]
    rng.shuffle(options)
    return tuple(options)


def is_spatial(derivation: Derivation | None) -> bool:
    """Whether an answer was derived from boxes."""
    return derivation is not None and derivation.template in set(SpatialTemplate)


def check_wording(material: Material, questions: Sequence[Question]) -> list[Outcome]:
    """Reject questions about boxes that do not name their things, or that state their answer. Others pass."""
    return [
        _check_wording(question) if is_spatial(question.derivation) else Outcome(question) for question in questions
    ]


def explain_spatial(question: Question, captions: Sequence[Caption], rng: Random) -> str:
    """The reasoning for a question about boxes: what is seen when, and what follows.

    Raises:
        ValueError: the captions do not give the fact that the question is about.
    """
    derivation = question.derivation
    found = [
        fact
        for fact in derive_spatial_facts(captions)
        if derivation and (fact.template, fact.subjects) == (derivation.template, derivation.subjects)
    ]
    if not found:
        raise ValueError(
            f"question {question.question_id}: the boxes do not show what it is about; the captions have changed since "
            f"it was derived, derive it again"
        )
    named = " and ".join(f"the {label}" for label in found[0].labels)
    opening = rng.choice(_OPENINGS).format(named)
    return f"{opening} {' '.join(found[0].steps)} So the answer is: {question.answer}."


class Sightings:
    """The boxes of a video by frame, and by what they may show."""

    def __init__(self, captions: Sequence[Caption]) -> None:
        self.captions = sorted(captions, key=lambda caption: caption.start_us)
        self.all = [
            Sighting(each.label, words, each.box, each.time_us, caption)
            for caption in self.captions
            for each in sorted(caption.objects, key=lambda each: each.time_us)
            if (words := label_words(each.label))
        ]
        self.frames = [
            tuple(own) for _, own in groupby(self.all, key=lambda each: (each.caption.clip_id, each.time_us))
        ]
        self._same: dict[frozenset[str], list[Sighting]] = {}

    def same(self, words: frozenset[str]) -> list[Sighting]:
        """Everything that may be the thing with this label, in order of time."""
        if words not in self._same:
            self._same[words] = [each for each in self.all if may_be_same(words, each.words)]
        return self._same[words]

    @cached_property
    def usable_frames(self) -> list[list[Sighting]]:
        """Of each frame the boxes whose label is distinct and fits no other box of the frame."""
        return [[each for each in frame if _is_usable(each, frame)] for frame in self.frames]

    def pairs(self, one: Sighting, other: Sighting) -> Iterator[tuple[Sighting, Sighting]]:
        """All pairs of boxes in one frame that may be these two things."""
        others: dict[tuple[str, int], list[Sighting]] = {}
        for each in self.same(other.words):
            others.setdefault((each.caption.clip_id, each.time_us), []).append(each)
        for each in self.same(one.words):
            for partner in others.get((each.caption.clip_id, each.time_us), []):
                if partner is not each:
                    yield each, partner


def _is_usable(sighting: Sighting, frame: Sequence[Sighting]) -> bool:
    box = sighting.box
    return (
        len(sighting.words) >= 2
        and not sighting.words & _UNCLEAR
        and min(box.x1 - box.x0, box.y1 - box.y0) >= SMALLEST
        and not any(may_be_same(sighting.words, each.words) for each in frame if each is not sighting)
    )


def _relations(film: Sightings) -> Iterator[SpatialFact]:
    """Facts about two things in one frame whose relation is the same wherever both are seen."""
    used: set[frozenset[frozenset[str]]] = set()
    for frame in film.usable_frames:
        for pair in combinations(frame, 2):
            one, other = sorted(pair, key=lambda each: (_area(each.box), each.label))
            relation, key = relate(one.box, other.box), frozenset([one.words, other.words])
            if relation is None or relation is Relation.AROUND or key in used:
                continue
            if any(relate(each.box, partner.box) is not relation for each, partner in film.pairs(one, other)):
                continue
            used.add(key)
            names = f"the {one.label} is {relation}, as seen from the {other.label}"
            yield SpatialFact(
                SpatialTemplate.RELATION,
                (one.label, other.label),
                relation.value,
                tuple(each.value for each in OPPOSITE if each not in (relation, Relation.AROUND)),
                f"{_at(one)}, {names}. {_moment(one)}",
                (f"{_at(one)} I see both: the {one.label} {_seen_at(one)}, and the {other.label} {_seen_at(other)}.",),
                (one.span,),
            )


def _nearest(film: Sightings) -> Iterator[SpatialFact]:
    """Facts about which of four things is nearest to another, all of which are in one frame and in no other."""
    for frame in film.usable_frames:
        for one in frame:
            others = sorted((each for each in frame if each is not one), key=lambda each: _gap(one.box, each.box, 1.0))
            nearest, *wrong = others[: 1 + _WRONG_OPTIONS] or [one]
            if len(wrong) < _WRONG_OPTIONS or any(len([*film.pairs(one, each)]) > 1 for each in (nearest, *wrong)):
                continue
            if any(
                _gap(one.box, each.box, aspect) < _gap(one.box, nearest.box, aspect) + NEARER
                for each in wrong
                for aspect in _ASPECTS
            ):
                continue
            seen = ", ".join(f"the {each.label} {_seen_at(each)}" for each in (nearest, *wrong))
            yield SpatialFact(
                SpatialTemplate.NEAREST,
                (one.label, nearest.label, *(each.label for each in wrong)),
                nearest.label,
                tuple(each.label for each in wrong),
                f"{_at(one)}, the {nearest.label} is nearest to the {one.label}, of these: "
                f"{', '.join(each.label for each in others)}. {_moment(one)}",
                (f"{_at(one)} I see the {one.label} {_seen_at(one)}. Around it I see {seen}.",),
                (one.span,),
            )


def _places(film: Sightings) -> Iterator[SpatialFact]:
    """Facts about where something is when it is first and last seen."""
    usable = [each for frame in film.usable_frames for each in frame]
    for words in dict.fromkeys(each.words for each in usable):
        same = film.same(words)
        first, last = same[0], same[-1]
        own = {id(each) for each in usable}
        alone = all(sum(each.time_us == end.time_us for each in same) == 1 and id(end) in own for end in (first, last))
        if not alone or _is_mentioned_outside(film, words, first, last):
            continue
        if first.time_us == last.time_us:
            yield from _place(SpatialTemplate.PLACE, first, "", "")
            continue
        yield from _place(SpatialTemplate.FIRST_PLACE, first, " when it is first seen", " for the first time")
        yield from _place(SpatialTemplate.LAST_PLACE, last, " when it is last seen", " for the last time")
        if change := moved(first.box, last.box):
            yield SpatialFact(
                SpatialTemplate.MOVE,
                (first.label,),
                change.value,
                tuple(each.value for each in Move if each is not change),
                f"The {first.label} is first seen at {format_time(first.time_us)} and last at "
                f"{format_time(last.time_us)}. In the end it is {change}. {_moment(first)} {_moment(last)}",
                (
                    f"I first see it at {format_time(first.time_us)}, {_seen_at(first)}.",
                    f"The last time is at {format_time(last.time_us)}: there it is {_seen_at(last)}.",
                ),
                cover([first.span, last.span]),
            )


def _place(template: SpatialTemplate, sighting: Sighting, when: str, times: str) -> Iterator[SpatialFact]:
    region = place(sighting.box)
    if region is None:
        return
    wrong = [name for each, name in REGIONS.items() if each is not region and _share(sighting.box, each) < 0.2]
    if len(wrong) < _WRONG_OPTIONS:
        return
    yield SpatialFact(
        template,
        (sighting.label,),
        REGIONS[region],
        tuple(wrong),
        f"{_at(sighting)}, the {sighting.label} is at the {REGIONS[region]} of what the viewer sees{when}. "
        f"{_moment(sighting)}",
        (f"{_at(sighting)} I see it{times}: {_seen_at(sighting)}.",),
        (sighting.span,),
    )


def _is_mentioned_outside(film: Sightings, words: frozenset[str], first: Sighting, last: Sighting) -> bool:
    """Whether a caption before the first or after the last box has all words of the label."""
    return any(
        words <= label_words(caption.text)
        for caption in film.captions
        if caption.end_us <= first.caption.start_us or caption.start_us >= last.caption.end_us
    )


def _check_wording(question: Question) -> Outcome:
    assert question.derivation is not None
    problem = find_wording_problem(question.question, question.derivation, question.answer)
    return Outcome(with_trial(question, rule_trial(question, Check.RULES, problem is None)), problem)


def find_wording_problem(text: str, derivation: Derivation, answer: str) -> Problem | None:
    """The problem that a question does not name its things, or states its answer; None if it does neither."""
    labels = labels_to_name(derivation.template, derivation.subjects)
    words = label_words(text)
    missing = [label for label in labels if not label_words(label) <= words]
    if missing:
        return Problem("unnamed_thing", f"it does not name {missing[0]!r}, so that it may be about something else")
    if derivation.template == SpatialTemplate.NEAREST:
        states = label_words(answer) <= words
    else:
        states = all(re.search(_GIVEN_AWAY[each], folded(text)) for each in _DIRECTIONS[answer])
    if states:
        return Problem("states_answer", f"its wording states its answer {answer!r}; ask where, not whether")
    return None


def _at(sighting: Sighting) -> str:
    return f"At {format_time(sighting.time_us)}"


def _moment(sighting: Sighting) -> str:
    """What is seen at the time of a box, for the reasoner."""
    text = " ".join(sighting.caption.text.split()).replace("</fact>", "")
    return f"What is seen around {format_time(sighting.time_us)}: {text[:MAX_CAPTION]}"


def _seen_at(sighting: Sighting) -> str:
    """About where a box is in the picture."""
    x, y = _centre_x(sighting.box), _centre_y(sighting.box)
    across = "near the left edge" if x < 0.2 else "left of the middle" if x < 0.45 else "half-way across"
    across = "near the right edge" if x > 0.8 else "right of the middle" if x > 0.55 else across
    down = "near the top" if y < 0.2 else "in the upper half" if y < 0.45 else "half-way down"
    down = "near the bottom" if y > 0.8 else "in the lower half" if y > 0.55 else down
    return f"{across} and {down}"


def _is_within(one: Box, other: Box) -> bool:
    inside = (
        one.x0 >= other.x0 + MARGIN
        and one.x1 <= other.x1 - MARGIN
        and one.y0 >= other.y0 + MARGIN
        and one.y1 <= other.y1 - MARGIN
    )
    return inside and _area(one) <= 0.5 * _area(other)


def _overlap(start: float, end: float, other_start: float, other_end: float) -> bool:
    """Whether two intervals share at least half of the shorter one."""
    shared = min(end, other_end) - max(start, other_start)
    return shared >= 0.5 * min(end - start, other_end - other_start)


def _gap(one: Box, other: Box, aspect: float) -> float:
    """Distance of two boxes in heights of a picture that is `aspect` times as wide as high, 0 if they touch."""
    across = max(0.0, one.x0 - other.x1, other.x0 - one.x1) * aspect
    down = max(0.0, one.y0 - other.y1, other.y0 - one.y1)
    return (across**2 + down**2) ** 0.5


def _share(box: Box, region: Region) -> float:
    """Share of a box that lies in a ninth of the picture."""
    row, column = divmod(tuple(Region).index(region), 3)
    across = max(0.0, min(box.x1, (column + 1) / 3) - max(box.x0, column / 3))
    down = max(0.0, min(box.y1, (row + 1) / 3) - max(box.y0, row / 3))
    return across * down / _area(box)


def _area(box: Box) -> float:
    return (box.x1 - box.x0) * (box.y1 - box.y0)


def _centre_x(box: Box) -> float:
    return (box.x0 + box.x1) / 2


def _centre_y(box: Box) -> float:
    return (box.y0 + box.y1) / 2

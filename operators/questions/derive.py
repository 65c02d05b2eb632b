"""Derives questions by program from the timeline of on-screen texts.

The answers are true by construction, and the questions are never ambiguous. A text is used only if it contains a word,
was read with high confidence and without interruption, has no near twin in the video and was shown once. Only questions
that count appearances use texts that were shown several times.

The start and the end of an occurrence are known only as intervals. A relation is used only if it holds for all times
inside these intervals, and if the part of the video that it depends on was sampled without gaps. No question asks for
the start of a text that is visible at the first sample time, or for the end of one that is visible at the last.
Wrong options come from the same video or differ from the answer by much more than the measurement error.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import pairwise, permutations
from random import Random

from operators.questions.phrases import REGIONS, about_seconds, in_order, question_text
from operators.questions.timeline import PAUSE_US, Occurrence, Timeline
from operators.video.timecode import format_time
from schemas.base import Span
from schemas.tables import QuestionCategory, QuestionKind, Template

CATEGORY = {
    Template.ORDER: QuestionCategory.TEMPORAL,
    Template.AFTER: QuestionCategory.PLOT,
    Template.BEFORE: QuestionCategory.PLOT,
    Template.COUNT: QuestionCategory.TEMPORAL,
    Template.DURATION: QuestionCategory.TEMPORAL,
    Template.WHEN: QuestionCategory.TEMPORAL,
    Template.REGION: QuestionCategory.SPATIAL,
}
MIN_SCORE = 0.9
"""Minimum mean confidence of an occurrence's readings, 0 to 1."""
MIN_DIFFERENCE_US = 3_000_000
"""Minimum difference of durations that are compared, and maximum uncertainty of a duration that is an answer."""
MIN_APART_US = 10_000_000
"""Minimum distance between the times that are options of one question."""
MAX_BETWEEN = 9
"""Maximum number of texts between two others that a question asks to count."""
_TWINS = 0.9
"""Similarity from which two texts are easily mistaken for each other, unless their digits differ."""
_WORD = re.compile(r"[^\W\d_]{3,}")
_ORDERED = 3
_WRONG_OPTIONS = 3
_TRIES = 40


@dataclass(frozen=True)
class Fact:
    """A fact about a timeline, with wrong answers that seem plausible to someone who has not watched the video."""

    template: Template
    subjects: tuple[str, ...]
    """The texts that the question is about. Their number selects between two forms of question.

    COUNT asks how often one text appears, or how many texts appear between two. DURATION asks how long one text stays,
    or which of four stays longest.
    """
    answer: str
    wrong: tuple[str, ...]
    """Three wrong options, or none when there are not enough. Without options the question must be open."""
    evidence: tuple[Span, ...]


@dataclass(frozen=True)
class Derived:
    """A programmatic question."""

    template: Template
    kind: QuestionKind
    question: str
    options: tuple[str, ...]
    answer: str
    evidence: tuple[Span, ...]
    subjects: tuple[str, ...]


def derive(timeline: Timeline, kinds: Sequence[QuestionKind], per_template: int, rng: Random) -> list[Derived]:
    """Derive at most `per_template` questions for each template and kind, and at most one for each fact."""
    film = _Film(timeline, rng)
    derived = []
    for template, facts in film.facts().items():
        rng.shuffle(facts)
        asked: Counter[QuestionKind] = Counter()
        for fact in facts:
            able = [kind for kind in kinds if asked[kind] < per_template and (kind is QuestionKind.OPEN or fact.wrong)]
            if able:
                kind = min(able, key=lambda kind: (asked[kind], kind is QuestionKind.OPEN))
                asked[kind] += 1
                derived.append(_phrase_question(template, fact, kind, rng))
    return derived


def _phrase_question(template: Template, fact: Fact, kind: QuestionKind, rng: Random) -> Derived:
    options = [fact.answer, *fact.wrong] if kind is QuestionKind.CHOICE else []
    rng.shuffle(options)
    question = question_text(template, fact.subjects, kind, rng)
    return Derived(template, kind, question, tuple(options), fact.answer, fact.evidence, fact.subjects)


class _Film:
    """The texts of a timeline that questions may use, and the facts about them."""

    def __init__(self, timeline: Timeline, rng: Random) -> None:
        self.timeline = timeline
        self.rng = rng
        self.all = timeline.occurrences
        self.shown = Counter(occurrence.key for occurrence in self.all)
        self.twins = _twins(self.all)
        self.readable = [occurrence for occurrence in self.all if self._is_readable(occurrence)]
        self.once = [occurrence for occurrence in self.readable if self.shown[occurrence.key] == 1]
        self.askable = frozenset(self.once)
        self.lasting = [
            each for each in self.once if each.start_seen and each.end_seen and self._is_sampled_throughout(each)
        ]

    def facts(self) -> dict[Template, list[Fact]]:
        return {
            Template.ORDER: self._orders(),
            Template.AFTER: self._neighbours(Template.AFTER),
            Template.BEFORE: self._neighbours(Template.BEFORE),
            Template.COUNT: self._showings() + self._betweens(),
            Template.DURATION: self._longest() + self._durations(),
            Template.WHEN: self._moments(),
            Template.REGION: self._places(),
        }

    def _is_readable(self, occurrence: Occurrence) -> bool:
        return (
            occurrence.score >= MIN_SCORE
            and occurrence.continuous
            and _WORD.search(occurrence.text) is not None
            and '"' not in occurrence.text
            and occurrence.key not in self.twins
        )

    def _is_clear(self, start_us: int, end_us: int) -> bool:
        """Whether every appearance in [start_us, end_us] was observed.

        Where the readings of a text are interrupted, the text may have disappeared and appeared again.
        """
        broken = any(not each.continuous and each.start_us <= end_us and each.end_us >= start_us for each in self.all)
        return not broken and self.timeline.has_samples(start_us, end_us)

    def _is_sampled_throughout(self, occurrence: Occurrence) -> bool:
        return self.timeline.has_samples(occurrence.earliest_start_us, occurrence.latest_end_us)

    def _orders(self) -> list[Fact]:
        """Facts about the order of three texts that do not overlap."""
        found: dict[frozenset[str], Fact] = {}
        for _ in range(_TRIES if len(self.once) >= _ORDERED else 0):
            chosen = sorted(self.rng.sample(self.once, _ORDERED), key=lambda each: each.start_us)
            if all(_follows(later, earlier) for earlier, later in pairwise(chosen)):
                texts = [each.text for each in chosen]
                others = [in_order(order) for order in permutations(texts)][1:]
                subjects = tuple(self.rng.sample(texts, len(texts)))
                wrong = tuple(self.rng.sample(others, _WRONG_OPTIONS))
                fact = Fact(Template.ORDER, subjects, in_order(texts), wrong, _spans(chosen))
                found.setdefault(frozenset(texts), fact)
        return list(found.values())

    def _neighbours(self, template: Template) -> list[Fact]:
        """Facts about which text appears right after or right before another."""
        facts = []
        for index, (first, second) in enumerate(pairwise(self.all)):
            if self._are_neighbours(index, index + 1) and _follows(second, first):
                asked, answer = (first, second) if template is Template.AFTER else (second, first)
                wrong = self._other_texts(asked, answer)
                facts.append(Fact(template, (asked.text,), answer.text, wrong, _spans([first, second])))
        return facts

    def _are_neighbours(self, first: int, last: int) -> bool:
        """Whether the occurrences from index `first` to `last` are certainly consecutive and all may be used."""
        inside = self.all[first : last + 1]
        edges = (index for index in {first, first + 1, last, last + 1} if 0 < index < len(self.all))
        return (
            self.askable.issuperset(inside)
            and all(_starts_before(self.all[index - 1], self.all[index]) for index in edges)
            and self._is_clear(inside[0].earliest_start_us, inside[-1].latest_start_us)
        )

    def _other_texts(self, asked: Occurrence, answer: Occurrence) -> tuple[str, ...]:
        """Three other texts of the video, drawn from the six nearest in time; none when there are fewer than three."""
        others = [each for each in self.once if each not in (asked, answer)]
        others.sort(key=lambda each: abs(each.start_us - asked.start_us))
        texts = [each.text for each in others[: 2 * _WRONG_OPTIONS]]
        return tuple(self.rng.sample(texts, _WRONG_OPTIONS)) if len(texts) >= _WRONG_OPTIONS else ()

    def _showings(self) -> list[Fact]:
        """Facts about how often a text appears that appears more than once."""
        if not self.timeline.has_samples(self.timeline.start_us, self.timeline.end_us):
            return []
        facts = []
        for key in {each.key: None for each in self.readable if self.shown[each.key] > 1}:
            showings = [each for each in self.all if each.key == key]
            if all(map(self._is_readable, showings)):
                facts.append(self._count((showings[0].text,), len(showings), _spans(showings)))
        return facts

    def _betweens(self) -> list[Fact]:
        """Facts about how many texts appear between two others."""
        facts = []
        for first in range(len(self.all)):
            for last in range(first + 3, min(first + MAX_BETWEEN + 2, len(self.all))):
                inside = self.all[first : last + 1]
                if (
                    self._are_neighbours(first, last)
                    and _follows(inside[1], inside[0])
                    and _follows(inside[-1], inside[-2])
                ):
                    facts.append(self._count((inside[0].text, inside[-1].text), len(inside) - 2, _spans(inside)))
        return facts

    def _count(self, subjects: tuple[str, ...], count: int, evidence: tuple[Span, ...]) -> Fact:
        wrong = tuple(str(number) for number in self._ladder(count, 1) if number != count)
        return Fact(Template.COUNT, subjects, str(count), wrong, evidence)

    def _longest(self) -> list[Fact]:
        """Facts about which of four texts stays longest."""
        facts = []
        for longest in self.lasting:
            shorter = [
                each
                for each in self.lasting
                if longest.shortest_us >= each.longest_us
                and longest.duration_us - each.duration_us >= MIN_DIFFERENCE_US
            ]
            if len(shorter) >= _WRONG_OPTIONS:
                others = self.rng.sample(shorter, _WRONG_OPTIONS)
                asked = self.rng.sample([longest, *others], 1 + _WRONG_OPTIONS)
                wrong = tuple(each.text for each in others)
                subjects = tuple(each.text for each in asked)
                facts.append(Fact(Template.DURATION, subjects, longest.text, wrong, _spans(asked)))
        return facts

    def _durations(self) -> list[Fact]:
        """Facts about how long a text stays, in seconds between the times that are shown of it, at least two."""
        facts = []
        for each in self.lasting:
            seconds = each.shown_seconds
            if seconds >= 2 and each.longest_us - each.shortest_us <= MIN_DIFFERENCE_US:
                step = max(2 * MIN_DIFFERENCE_US // 1_000_000, seconds // 2)
                ladder = self._ladder(seconds, step)
                wrong = tuple(about_seconds(1_000_000 * other) for other in ladder if other != seconds)
                answer = about_seconds(1_000_000 * seconds)
                facts.append(Fact(Template.DURATION, (each.text,), answer, wrong, _spans([each])))
        return facts

    def _moments(self) -> list[Fact]:
        """Facts about when a text appears, if its start is known to within `PAUSE_US`."""
        facts = []
        for each in self.once:
            if each.start_seen and each.latest_start_us - each.earliest_start_us <= PAUSE_US:
                times = self._other_times(each.start_us)
                facts.append(Fact(Template.WHEN, (each.text,), format_time(each.start_us), times, _spans([each])))
        return facts

    def _other_times(self, time_us: int) -> tuple[str, ...]:
        """Three other times, all at least `MIN_APART_US` apart, or none when there are fewer.

        Times at which other texts appear are preferred to other times of the video.
        """
        others = self.rng.sample(self.all, len(self.all))
        anywhere = range(self.timeline.start_us, self.timeline.end_us, 1_000_000)
        chosen = [time_us]
        for candidate in [*(each.start_us for each in others), *self.rng.sample(anywhere, min(len(anywhere), 200))]:
            if len(chosen) <= _WRONG_OPTIONS and all(abs(candidate - other) >= MIN_APART_US for other in chosen):
                chosen.append(candidate)
        return tuple(map(format_time, chosen[1:])) if len(chosen) > _WRONG_OPTIONS else ()

    def _places(self) -> list[Fact]:
        """Facts about the region of the picture in which a text stands."""
        facts = []
        for each in self.once:
            if each.region is not None:
                others = [name for region, name in REGIONS.items() if region is not each.region]
                wrong = tuple(self.rng.sample(others, _WRONG_OPTIONS))
                facts.append(Fact(Template.REGION, (each.text,), REGIONS[each.region], wrong, _spans([each])))
        return facts

    def _ladder(self, value: int, step: int) -> list[int]:
        """Four ascending numbers of at least 1, `step` apart, with the value at a random position."""
        below = self.rng.randint(0, min(_WRONG_OPTIONS, (value - 1) // step))
        return [value + (rung - below) * step for rung in range(1 + _WRONG_OPTIONS)]


def _starts_before(earlier: Occurrence, later: Occurrence) -> bool:
    """Whether `earlier` certainly starts first, for all times inside both intervals."""
    return earlier.latest_start_us <= later.earliest_start_us


def _follows(later: Occurrence, earlier: Occurrence) -> bool:
    """Whether `later` certainly starts later, also in whole seconds, and does not overlap with `earlier`."""
    apart = later.start_us // 1_000_000 > earlier.start_us // 1_000_000
    return apart and _starts_before(earlier, later) and earlier.end_us <= later.start_us


def _spans(occurrences: Iterable[Occurrence]) -> tuple[Span, ...]:
    return tuple(sorted({each.span for each in occurrences}, key=lambda span: (span.start_us, span.end_us)))


def _twins(occurrences: Iterable[Occurrence]) -> frozenset[str]:
    """Keys of different texts that are nearly equal: misreadings of one text, or texts that people confuse."""
    found: set[str] = set()
    keys = sorted({occurrence.key for occurrence in occurrences}, key=len)
    matcher = SequenceMatcher(autojunk=False)
    for index, key in enumerate(keys):
        matcher.set_seq2(key)
        for other in keys[index + 1 :]:
            if 2 * len(key) < _TWINS * (len(key) + len(other)):
                break  # longer ones agree even less
            matcher.set_seq1(other)
            if matcher.quick_ratio() >= _TWINS and matcher.ratio() >= _TWINS and _digits(key) == _digits(other):
                found |= {key, other}
    return frozenset(found)


def _digits(text: str) -> str:
    return re.sub(r"\D", "", text)

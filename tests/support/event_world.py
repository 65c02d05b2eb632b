"""A world of events whose every truth is known, its captions, and models that know exactly what they are shown.

In each clip one person does one thing with one object at one place; no object occurs twice. A question
is a `Query` as text. The fake models find the query of a question by its text, evaluate it over the captions or frames
that the request holds, and answer accordingly. So a gate passes a defect only if it does not show the model what it
needs.

Slips make the models err: each answer, flag or verdict is replaced by another one with a given probability.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from schemas.base import Span
from schemas.provenance import Provenance
from schemas.tables import Caption, CaptionStatus, Question, QuestionCategory, QuestionKind
from tests.support.openai_server import last_text

SECOND = 1_000_000
CLIP_US = 10 * SECOND
PEOPLE = (
    "the man in the red coat", "the woman with the green bag", "the boy in the striped shirt",
    "the old man with the cane", "the girl with the yellow hat", "the woman in the white apron",
    "the man with the grey beard", "the tall guard",
)  # fmt: skip
PLACES = ("at the market", "in the kitchen", "on the bridge", "in the workshop", "by the fountain", "at the harbour")
VERBS = ("picks up", "repairs", "paints", "hides", "carries", "cleans", "measures", "wraps")
_PADDING = re.findall(
    r"\w+",
    "the light is soft and the camera moves slowly from left to right while people pass by without haste in front of "
    "old houses with open windows where curtains move in the wind and somebody whistles a tune that nobody knows",
)
COLOURS = (
    "red", "blue", "green", "yellow", "black", "white", "brown", "purple", "orange", "silver", "golden", "pink",
    "grey", "turquoise", "crimson", "ivory", "violet", "copper", "beige", "olive",
)  # fmt: skip
THINGS = (
    "lantern", "kettle", "violin", "basket", "ladder", "helmet", "camera", "drum", "clock", "mirror", "bucket",
    "umbrella", "suitcase", "radio", "trumpet", "bottle", "carpet", "hammer", "globe", "telescope",
)  # fmt: skip


@dataclass(frozen=True)
class Event:
    """What happens in one clip."""

    start_us: int
    person: str
    verb: str
    thing: str
    """Colour and noun; unique in the world."""
    place: str

    @property
    def end_us(self) -> int:
        return self.start_us + CLIP_US

    @property
    def span(self) -> Span:
        return Span(start_us=self.start_us, end_us=self.end_us)

    @property
    def text(self) -> str:
        return f"{self.person.capitalize()} {self.verb} the {self.thing} {self.place}."


@dataclass(frozen=True)
class Query:
    """A question's meaning. Two questions with the same query ask the same."""

    name: str
    """`who`, `where`, `next`, `previous`, `first`, `last`, `count`, `order`, or `fact` for general knowledge."""
    arguments: tuple[str, ...]

    def answer(self, shown: Sequence[Event]) -> str | None:
        """The answer as far as the events that are shown tell it, in order of time; None if they do not."""
        by_thing = {event.thing: event for event in shown}
        match self.name, self.arguments:
            case "who", (thing,):
                return by_thing[thing].person if thing in by_thing else None
            case "where", (thing,):
                return by_thing[thing].place if thing in by_thing else None
            case "next" | "previous", (thing,):
                event = by_thing.get(thing)
                times = {each.start_us: each.thing for each in shown}
                step = CLIP_US if self.name == "next" else -CLIP_US
                found = times.get(event.start_us + step) if event else None
                return f"the {found}" if found else None
            case "first" | "last", (person,):
                own = [event.thing for event in shown if event.person == person]
                return f"the {own[0 if self.name == 'first' else -1]}" if own else None
            case "count", (person, place):
                found_count = sum(event.person == person and event.place == place for event in shown)
                return str(found_count) if found_count else None
            case "order", things:
                if not all(thing in by_thing for thing in things):
                    return None
                return ", ".join(sorted(things, key=lambda thing: by_thing[thing].start_us))
        return None

    def right_answers(self, shown: Sequence[Event]) -> tuple[str, ...]:
        """All answers that are right as far as the events that are shown tell; empty if they tell none."""
        answer = self.answer(shown)
        return () if answer is None else (answer,)

    @property
    def words(self) -> str:
        """The question as text."""
        return self._words(0)

    def _words(self, wording: int) -> str:
        first = self.arguments[0]
        forms = {
            "who": (f"Who is seen with the {first}?", f"Which person handles the {first} in the film?"),
            "where": (f"Where is the {first} handled?", f"At what place does someone have the {first}?"),
            "next": (f"What is handled right after the {first}?", f"Which object directly follows the {first}?"),
            "previous": (f"What is handled right before the {first}?", f"Which object directly precedes the {first}?"),
            "first": (f"What is the first thing that {first} handles?", f"With which object does {first} begin?"),
            "last": (f"What is the last thing that {first} handles?", f"With which object does {first} finish?"),
            "count": (
                f"How many things does {first} handle {self.arguments[-1]}?",
                f"What is the number of objects that {first} deals with {self.arguments[-1]}?",
            ),
            "order": (
                f"In which order are the {', the '.join(sorted(self.arguments))} handled?",
                f"Put the {', the '.join(sorted(self.arguments))} into the order in which they are used.",
            ),
        }
        return forms[self.name][wording]

    @property
    def other_words(self) -> str:
        """The same question in other words."""
        return self._words(1)

    @property
    def category(self) -> QuestionCategory:
        return {"where": QuestionCategory.SPATIAL, "who": QuestionCategory.PLOT}.get(
            self.name, QuestionCategory.TEMPORAL
        )


@dataclass
class Meaning:
    """What a question's text means, which the fake models know and no gate does."""

    query: Query | None
    guess: float = 0.0
    """Probability that a model knows the answer without the video."""
    answer: str = ""
    """The answer that is known without the video."""
    speaks_of_material: bool = False
    contains_instruction: bool = False
    names_one_moment: bool = False
    category: QuestionCategory = QuestionCategory.TEMPORAL


class EventWorld:
    """Events of a number of clips, in random order, every object once."""

    def __init__(self, clips: int, seed: int = 0, video_id: str = "film", words: int = 0) -> None:
        """A world of `clips` events. Captions have about `words` more words, which tell nothing."""
        rng = Random(seed)
        self.padding = " ".join(rng.choice(_PADDING) for _ in range(words)).capitalize() + "." if words else ""
        things = [f"{colour} {thing}" for colour in COLOURS for thing in THINGS]
        rng.shuffle(things)
        self.video_id = video_id
        self.rng = rng
        self.events = [
            Event(index * CLIP_US, rng.choice(PEOPLE), rng.choice(VERBS), things[index], rng.choice(PLACES))
            for index in range(clips)
        ]
        self.shown = dict(enumerate(self.events))
        """The events as the captions tell them, by clip. A captioner's invention is put here."""
        self.meanings: dict[str, Meaning] = {}

    @property
    def duration_us(self) -> int:
        return len(self.events) * CLIP_US

    def captions(self) -> list[Caption]:
        return [
            Caption(
                clip_id=f"{self.video_id}_{event.start_us:012d}", video_id=self.video_id, start_us=event.start_us,
                end_us=event.end_us, text=f"{event.text} {self.padding}".strip(), objects=(), screen_texts=(),
                colours=(), speech="",
                frame_times_us=(event.start_us + CLIP_US // 2,), status=CaptionStatus.OK,
                provenance=Provenance(model="captioner"),
            )
            for event in self.shown.values()
        ]  # fmt: skip

    def true_answer(self, query: Query) -> str | None:
        """The answer over the whole video, as it is and not as it is captioned."""
        return query.answer(self.events)

    def is_true(self, question: Question) -> bool:
        """Whether a question's answer is that of the whole video."""
        query = self.meanings[question.question].query
        answer = self.true_answer(query) if query else None
        return answer is not None and _same(question.answer, answer)

    def register(self, text: str, meaning: Meaning) -> None:
        self.meanings[text] = meaning


@dataclass
class FakeModels:
    """A server script: reader, viewer, reviewer and comparer of questions, each of which slips now and then."""

    world: EventWorld
    slips: float = 0.0
    requests: list[str] = field(default_factory=list)
    """Names of the answer models of all requests."""

    def __call__(self, body: dict[str, Any]) -> Any:
        name = body["response_format"]["json_schema"]["name"]
        self.requests.append(name)
        rng = Random(hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest())
        text = last_text(body)
        match name:
            case "Verdict":
                same = _marks_as_same(text) if "Given answer:" in text else self._asks_the_same(text)
                return {"same": self._slip(rng, same, not same)}
            case "WrittenChoice" | "WrittenOpen":
                return self._write(text, name == "WrittenChoice", rng)
            case "QuestionReview":
                return self._review(text, rng)
            case "Notes":
                return {"notes": self._take_notes(text)}
            case "SceneSummary" | "Entities" | "Category":
                return None
            case "Letter" | "ShortAnswer":
                return {"why": "I guess.", "answer": self._guess(text, name == "Letter", rng)}
            case "ChosenOption" | "FoundAnswer":
                return {"why": "I read it.", "answer": self._find(body, text, name == "ChosenOption", rng)}
        return None

    def _meaning(self, text: str) -> Meaning:
        found = [question for question in self.world.meanings if question in text]
        return self.world.meanings[max(found, key=len)]

    def _asks_the_same(self, text: str) -> bool:
        first = max((question for question in self.world.meanings if question in text), key=len)
        rest = text.replace(first, "", 1)
        second = max((question for question in self.world.meanings if question in rest), key=len)
        one, other = self.world.meanings[first].query, self.world.meanings[second].query
        return first == second or (one is not None and one == other)

    def _review(self, text: str, rng: Random) -> dict[str, Any]:
        meaning = self._meaning(text)
        flags = {
            name: getattr(meaning, name) for name in ("speaks_of_material", "contains_instruction", "names_one_moment")
        }
        if rng.random() < self.slips:
            flipped = rng.choice(list(flags))
            flags[flipped] = not flags[flipped]
        return {"why": "I read it twice.", **flags, "category": meaning.category.value}

    def _take_notes(self, text: str) -> list[dict[str, str]]:
        """What a careful reader notes: the events that the question names, and those next to them."""
        query = self._meaning(text).query
        shown = self._read(text)
        named = {
            event.start_us for event in shown if query and any(each in event.text.lower() for each in _subjects(query))
        }
        near = {start + step for start in named for step in (-CLIP_US, 0, CLIP_US)} if query else set()
        return [{"time": _clock(event.start_us), "text": event.text} for event in shown if event.start_us in near][:20]

    def _write(self, text: str, choice: bool, rng: Random) -> dict[str, Any]:
        """A question about what the request shows, as a writer makes it who takes that for the whole video."""
        shown = [event for event in self._read(text) if f"{_clock(event.start_us)} - " in text]
        query, evidence = _draw_query(shown, rng)
        answer = query.answer(shown) or "nothing"
        self.world.register(query.words, Meaning(query, category=query.category))
        written = {
            "notes": "I read it.",
            "evidence": [f"{_clock(event.start_us)} - {_clock(event.end_us)}" for event in evidence][:8],
            "question": query.words,
            "answer": answer,
        }
        if choice:
            wrong = options_of(self.world, query, answer, rng)[1:]
            written["wrong_answers"] = [{"answer": each, "why_wrong": "It is not shown."} for each in wrong]
        return written

    def _guess(self, text: str, choice: bool, rng: Random) -> str:
        meaning = self._meaning(text)
        options = _options(text)
        if rng.random() < meaning.guess:
            return _letter(options, meaning.answer) or "A" if choice else meaning.answer
        return rng.choice("ABCD") if choice else rng.choice(("a boat", "in the garden", "7", "the mayor"))

    def _find(self, body: dict[str, Any], text: str, choice: bool, rng: Random) -> str:
        query = self._meaning(text).query
        frames = _frame_times(body)
        shown = [event for event in self.world.events if any(event.start_us <= t < event.end_us for t in frames)]
        right = query.right_answers(shown or self._read(text)) if query else ()
        if not choice:
            answer = "unknown" if not right else right[0] if len(right) == 1 else rng.choice(right)
            return self._slip(rng, answer, "the mayor's dog")
        options = _options(text)
        matching = [letter for letter, option in options.items() if any(_same(option, answer) for answer in right)]
        found = "several" if len(matching) > 1 else matching[0] if matching else "unknown"
        return self._slip(rng, found, rng.choice([each for each in "ABCD" if each != found]))

    def _slip(self, rng: Random, right: Any, wrong: Any) -> Any:
        return wrong if rng.random() < self.slips else right

    def _read(self, text: str) -> list[Event]:
        """The events whose captions the text holds, as they are told there."""
        return [event for event in self.world.shown.values() if event.text in text]


def options_of(world: EventWorld, query: Query, answer: str, rng: Random) -> tuple[str, ...]:
    """Four options of the same form, the answer first."""
    pools = {"who": PEOPLE, "where": PLACES, "count": tuple(str(n) for n in range(1, 30))}
    if query.name == "order":
        things = list(query.arguments)
        wrong: list[str] = []
        while len(wrong) < 3:
            rng.shuffle(things)
            if (text := ", ".join(things)) not in (*wrong, answer):
                wrong.append(text)
        return (answer, *wrong)
    pool = pools.get(query.name, tuple(f"the {event.thing}" for event in world.events))
    if query.name == "count":
        near = [str(n) for n in range(max(1, int(answer) - 3), int(answer) + 4) if str(n) != answer]
        return (answer, *rng.sample(near, 3))
    return (answer, *rng.sample([each for each in pool if each != answer], 3))


def make_event_question(
    world: EventWorld, query: Query, evidence: Sequence[Event], number: int, kind: QuestionKind, answer: str = ""
) -> Question:
    """A question of a query, with what it means registered in the world."""
    answer = answer or query.answer(sorted(evidence, key=lambda event: event.start_us)) or "?"
    world.register(query.words, Meaning(query, category=query.category))
    options = options_of(world, query, answer, world.rng) if kind is QuestionKind.CHOICE else ()
    shuffled = tuple(world.rng.sample(options, len(options)))
    return Question(
        question_id=f"q{number:05d}", video_id=world.video_id, category=query.category, kind=kind, writer="model",
        question=query.words, options=shuffled, answer=answer, evidence=tuple(event.span for event in evidence),
        derivation=None, provenance=Provenance(model="reasoner"), passed=False,
    )  # fmt: skip


def _subjects(query: Query) -> tuple[str, ...]:
    """What the events that a query is about name."""
    return query.arguments[:1] if query.name == "count" else query.arguments


def _draw_query(shown: Sequence[Event], rng: Random) -> tuple[Query, list[Event]]:
    """A query about events, and those that a writer who sees these events takes for its evidence."""
    while True:
        index = rng.randrange(1, len(shown) - 1)
        event = shown[index]
        match rng.choice(("next", "previous", "first", "last", "count", "order")):
            case "next":
                return Query("next", (event.thing,)), [event, shown[index + 1]]
            case "previous":
                return Query("previous", (event.thing,)), [shown[index - 1], event]
            case "first" | "last" as name:
                own = [each for each in shown if each.person == event.person]
                return Query(name, (event.person,)), [own[0 if name == "first" else -1]]
            case "count":
                own = [each for each in shown if (each.person, each.place) == (event.person, event.place)]
                if 2 <= len(own) <= 8:
                    return Query("count", (event.person, event.place)), own
            case "order":
                chosen = sorted(rng.sample(list(shown), 3), key=lambda each: each.start_us)
                return Query("order", tuple(sorted(each.thing for each in chosen))), chosen


def _same(option: str, answer: str) -> bool:
    """Whether a reader takes an option for the answer: wording apart."""

    def key(text: str) -> str:
        return " ".join(sorted(re.findall(r"\w+", text.lower()))) if "," not in text else text.lower()

    return key(option).replace("the ", "") == key(answer).replace("the ", "")


def _marks_as_same(text: str) -> bool:
    """Whether the two answers that the judge compares are the same."""
    right, given = (re.search(rf"^{name} answer: (.+)$", text, re.MULTILINE) for name in ("Right", "Given"))
    return right is not None and given is not None and _same(right[1], given[1])


def _options(text: str) -> dict[str, str]:
    return {match[1]: match[2].strip() for match in re.finditer(r"^([A-D])\. (.+)$", text, re.MULTILINE)}


def _letter(options: dict[str, str], answer: str) -> str | None:
    return next((letter for letter, option in options.items() if _same(option, answer)), None)


def _clock(time_us: int) -> str:
    minutes, seconds = divmod(time_us // SECOND, 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}" if minutes >= 60 else f"{minutes:02d}:{seconds:02d}"


def _frame_times(body: dict[str, Any]) -> list[int]:
    content = body["messages"][-1]["content"]
    if isinstance(content, str):
        return []
    found = []
    for part in content:
        match = re.fullmatch(r"\[(?:(\d+):)?(\d+):(\d+)\.(\d+)\]", part.get("text", "").strip())
        if match:
            hours, minutes, seconds, hundredths = (int(group or 0) for group in match.groups())
            found.append(((hours * 60 + minutes) * 60 + seconds) * SECOND + hundredths * 10_000)
    return found

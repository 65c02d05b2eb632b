"""Derives questions by program from facts about a video.

The answers are true by construction. Each template states what holds for its subjects (`templates/`); the wording, the
kind and the wrong options are chosen here. `rederive` finds the answer again in another way, and `explain` writes the
chain of thought.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from string import Formatter

from operators.questions.facts.index import FactIndex
from operators.questions.facts.options import Balance, choose_wrong
from operators.questions.facts.template import FactTemplate, Statement, Subjects
from operators.questions.facts.templates import goal, holding, measures, outcome, picture, places, plot, temporal
from operators.questions.facts.wording import sentence
from operators.questions.plan import reach_of
from schemas.base import Span
from schemas.facts import VideoFacts
from schemas.tables import QuestionCategory, QuestionKind, Reach

_FILES = (temporal, measures, places, picture, plot, holding, goal, outcome)
TEMPLATES = {each.name: each for file in _FILES for each in file.TEMPLATES}
"""All templates by name."""
MAX_OPEN_WORDS = 20
"""Most words of the answer to an open question."""


@dataclass(frozen=True)
class Derived:
    """A question derived from facts."""

    template: str
    category: QuestionCategory
    kind: QuestionKind
    question: str
    options: tuple[str, ...]
    answer: str
    evidence: tuple[Span, ...]
    subjects: Subjects


def derive(
    facts: VideoFacts, duration_us: int, kinds: Sequence[QuestionKind], per_template: int, rng: Random
) -> list[Derived]:
    """Derive at most `per_template` questions for each template and kind, and at most one for the same subjects.

    Args:
        facts: facts about the video, without contradictions.
        duration_us: duration of the video in microseconds.
        kinds: kinds of questions to derive.
        per_template: most questions of one template and one kind.
        rng: chooses subjects, wordings and wrong options.
    """
    index = FactIndex(facts, duration_us)
    balance = Balance()
    return [
        derived
        for template in TEMPLATES.values()
        for derived in _derive_of(template, index, kinds, per_template, balance, rng)
    ]


def _derive_of(
    template: FactTemplate,
    index: FactIndex,
    kinds: Sequence[QuestionKind],
    per_template: int,
    balance: Balance,
    rng: Random,
) -> list[Derived]:
    statements: dict[Subjects, Statement] = {}
    for subjects in template.find(index, rng):
        statement = None if subjects in statements else template.state(index, *subjects)
        if statement is not None:
            statements[subjects] = statement
    usual = frozenset(each.answer for each in statements.values())
    far = {key for key, each in statements.items() if reach_of(each.evidence, index.duration_us) is Reach.FAR}
    derived: list[Derived] = []
    made: Counter[QuestionKind] = Counter()
    answers: Counter[str] = Counter()
    while statements and any(made[kind] < per_template for kind in kinds):
        wants_far = bool(far) and len(derived) % 2 == 0
        subjects = min(
            statements,
            key=lambda key: (
                answers[statements[key].answer],
                wants_far and key not in far,
                balance.excess(template.name, statements[key].answer),
            ),
        )
        far.discard(subjects)
        statement = statements.pop(subjects)
        open_kinds = sorted(
            (kind for kind in kinds if made[kind] < per_template and kind in statement.kinds),
            key=lambda kind: (made[kind], kind is QuestionKind.OPEN),
        )
        for kind in open_kinds:
            if found := _phrase(index, template, subjects, statement, kind, usual, balance, rng):
                made[kind] += 1
                answers[statement.answer] += 1
                derived.append(found)
                break
    return derived


def _phrase(
    index: FactIndex,
    template: FactTemplate,
    subjects: Subjects,
    statement: Statement,
    kind: QuestionKind,
    usual: frozenset[str],
    balance: Balance,
    rng: Random,
) -> Derived | None:
    """The question in one of its wordings, with options if it is a choice; None if it cannot be of this kind."""
    fields = {**statement.fields, **{sentence(key): sentence(value) for key, value in statement.fields.items()}}
    able = template.wordings if kind is QuestionKind.CHOICE else template.open_wordings
    wordings = [each for each in able if _fields_of(each) <= fields.keys()]
    question = sentence(rng.choice(wordings).format(**fields))
    wrong: tuple[str, ...] = ()
    if kind is QuestionKind.CHOICE:
        shape = index.shape(statement.answer)
        pool = [each for each in statement.wrong if template.has_mixed_shapes or index.shape(each) == shape]
        wrong = choose_wrong(template.name, question, statement.answer, pool, usual, balance, rng)
        if not wrong:
            return None
        balance.add(template.name, statement.answer, wrong)
    elif len(statement.answer.split()) > MAX_OPEN_WORDS:
        return None
    options = rng.sample([statement.answer, *wrong], 1 + len(wrong)) if wrong else []
    return Derived(
        template.name, template.category, kind, question, tuple(options), statement.answer, statement.evidence, subjects
    )


def _fields_of(wording: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(wording) if name}

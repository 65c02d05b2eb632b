"""A template: which entities and events of a video a question can be about, and what it states about them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from random import Random

from operators.questions.facts.index import FactIndex
from schemas.base import Span
from schemas.tables import QuestionCategory, QuestionKind

Subjects = tuple[str, ...]
Find = Callable[[FactIndex, Random], Iterable[Subjects]]
State = Callable[..., "Statement | None"]

BOTH = (QuestionKind.CHOICE, QuestionKind.OPEN)
ONLY_CHOICE = (QuestionKind.CHOICE,)
ONLY_OPEN = (QuestionKind.OPEN,)


@dataclass(frozen=True)
class Statement:
    """What holds for the subjects of a question, with wrong answers that seem plausible before one has watched."""

    fields: Mapping[str, str]
    """The texts that the wordings of the question name. A wording that names a missing field is not used."""
    answer: str
    wrong: tuple[str, ...]
    """Wrong answers that occur elsewhere in the video, any number."""
    evidence: tuple[Span, ...]
    chain: tuple[tuple[str, ...], ...]
    """The steps of the chain of thought, each in several wordings."""
    kinds: tuple[QuestionKind, ...] = BOTH
    """Kinds of questions for which the answer is unique."""


@dataclass(frozen=True)
class FactTemplate:
    """One kind of question about facts."""

    name: str
    """What a derivation stores."""
    category: QuestionCategory
    find: Find
    """Yields the ids of entities, events or goals that the question may be about."""
    state: State
    """What holds for them, or None if they give no clear question."""
    wordings: tuple[str, ...]
    open_wordings: tuple[str, ...]
    """Wordings of open questions, if those of choice questions do not fit."""
    has_mixed_shapes: bool
    """Whether options may differ in shape (`FactIndex.shape`): `state` draws wrong answers just as right ones."""


def template(
    name: str,
    category: QuestionCategory,
    find: Find,
    *wordings: str,
    open_wordings: tuple[str, ...] = (),
    has_mixed_shapes: bool = False,
) -> Callable[[State], FactTemplate]:
    """Make a template of the function that states what holds for its subjects."""
    return lambda state: FactTemplate(
        name, category, find, state, wordings, open_wordings or wordings, has_mixed_shapes
    )

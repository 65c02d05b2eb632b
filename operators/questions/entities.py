"""Links what the scenes of a video mention: people, animals, things and places, each with one name for the whole video.

Every mention belongs to exactly one entity. A model says which mentions are the same; the program checks that no number
is unknown and none is in two groups. If one is, the model is called again with the mistake, and what is still wrong
then is not linked: these mentions are entities of their own. Where the mentions exceed one request, blocks are linked
by themselves, and then their entities once more, sorted so that those with similar names share a block.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

from operators.execution.stage import Context
from operators.models.client import Answer, Refusal, Request
from operators.questions.evidence import read_clock
from operators.questions.story import cover, fits, room_left, within
from operators.video.timecode import format_time
from schemas.answers import SameEntities, SameEntity, SeenEntity
from schemas.base import Span
from schemas.config import Role
from schemas.provenance import Provenance
from schemas.tables import Caption, Entity, Reject

PROMPT = "entities"
MAX_BLOCK = 120
"""Mentions of one request, at most. The answer that links so many has about 2,500 tokens."""
MAX_ROUNDS = 3
"""Rounds of requests for a video whose mentions take several blocks."""
_SECOND_US = 1_000_000
_CLOCK = r"(?<![\d:])(?:\d{1,2}:)?\d{1,2}:[0-5]\d(?![\d:])"
_RANGE = re.compile(rf"(?P<start>{_CLOCK})(?:\s*(?:-|–|—|to|until)\s*(?P<last>{_CLOCK}))?")


@dataclass
class Links:
    """The entities of a video, and what was requested to find them."""

    entities: list[Entity]
    provenance: list[Provenance] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)


def read_mention(seen: SeenEntity, captions: Sequence[Caption]) -> Entity:
    """The entity that a model noted down for a part of a video, with the spans of the captions in which it is seen.

    Times that are not in this part are ignored. Without any that is, it is taken to be seen in all of the part.

    Args:
        seen: the note.
        captions: the captions of the part, in order of time.
    """
    spans = [span for time in seen.seen for span in _read_times(time)]
    return Entity(
        name=" ".join(seen.name.split()),
        description=" ".join(seen.description.split()),
        spans=cover(within(captions, spans) or captions),
    )


def link_entities(context: Context, video_id: str, parts: Sequence[Sequence[Entity]]) -> Links:
    """Link the mentions of all parts of a video into entities, in order of their first mention.

    Args:
        context: its reasoner links.
        video_id: the video.
        parts: the mentions of each part, in order of time. A part names everything once.

    Raises:
        ModelUnavailable: the server cannot be used.
    """
    links = Links([mention for part in parts for mention in part])
    if sum(map(bool, parts)) < 2:
        return links
    for number in range(MAX_ROUNDS):
        blocks = _divide(context, links.entities)
        linked: list[Entity] = []
        for block, groups in zip(blocks, _request_groups(context, video_id, blocks, number, links), strict=True):
            linked += _merge(block, groups)
        links.entities = linked
        if len(blocks) == 1:
            break
        links.entities.sort(key=_sort_key)
    links.entities.sort(key=lambda entity: (entity.spans[0].start_us, entity.name))
    return links


def _request_groups(
    context: Context, video_id: str, blocks: Sequence[Sequence[Entity]], number: int, links: Links
) -> list[Sequence[SameEntity]]:
    """The groups of each block, empty if the model refused. Blocks with a mistake are requested once more."""
    reasoner = context.models[Role.REASONER]
    first = reasoner.call([_request(context, video_id, block, None, f"{number}.{i}") for i, block in enumerate(blocks)])
    mistakes = {
        index: mistake
        for index, reply in enumerate(first)
        if (mistake := _find_mistake(_read_groups(reply), len(blocks[index]))) is not None
    }
    second = reasoner.call(
        [_request(context, video_id, blocks[i], mistake, f"{number}.{i}.again") for i, mistake in mistakes.items()]
    )
    better = {index: reply for index, reply in zip(mistakes, second, strict=True) if isinstance(reply, Answer)}
    replies = dict(enumerate(first)) | better
    for index, reply in replies.items():
        if isinstance(reply, Refusal):
            links.rejects.append(context.refuse(f"entities of video {video_id}", reply))
        elif (mistake := _find_mistake(_read_groups(reply), len(blocks[index]))) is not None:
            links.rejects.append(_reject_mistake(context, video_id, mistake, reply))
    links.provenance += [reply.provenance for reply in (*first, *second) if isinstance(reply, Answer)]
    return [_read_groups(replies[index]) for index in range(len(blocks))]


def _read_groups(reply: Answer | Refusal) -> Sequence[SameEntity]:
    return () if isinstance(reply, Refusal) else cast(SameEntities, reply.value).entities


def _request(context: Context, video_id: str, block: Sequence[Entity], mistake: str | None, place: str) -> Request:
    prompt = context.prompts[PROMPT]
    variables = {} if mistake is None else {"mistake": mistake}
    text = prompt.render(mentions=_write_lines(block), **variables)
    return Request(video_id, prompt, text, seed=context.seed("entities", video_id, place))


def _reject_mistake(context: Context, video_id: str, mistake: str, answer: Answer) -> Reject:
    message = f"entities of video {video_id}: {mistake}; these mentions are not linked with any other"
    return context.reject(
        video_id, "mixed_up_mentions", message, answer.provenance.raw, answer.provenance.request_sha256
    )


def _find_mistake(groups: Sequence[SameEntity], count: int) -> str | None:
    """What is wrong with the numbers of the groups, or None."""
    times = Counter(number for group in groups for number in set(group.mentions))
    unknown = sorted(number for number in times if not 1 <= number <= count)
    doubled = sorted(number for number, found in times.items() if found > 1)
    faults = [
        f"{', '.join(map(str, numbers[:20]))} {problem}"
        for numbers, problem in ((unknown, f"is no number between 1 and {count}"), (doubled, "stands in two entries"))
        if numbers
    ]
    return "; ".join(faults) or None


def _merge(block: Sequence[Entity], groups: Sequence[SameEntity]) -> list[Entity]:
    """The entities of a block. Mentions that are in no group, or in more than one, stay by themselves."""
    times = Counter(number for group in groups for number in set(group.mentions))
    alone = dict(enumerate(block, 1))
    merged: list[Entity] = []
    for group in groups:
        members = [number for number in sorted(set(group.mentions)) if number in alone and times[number] == 1]
        if len(members) < 2:
            continue
        spans = sorted((span for number in members for span in alone.pop(number).spans), key=lambda span: span.start_us)
        name, description = " ".join(group.name.split()), " ".join(group.description.split())
        merged.append(Entity(name=name, description=description, spans=cover(spans)))
    return [*merged, *alone.values()]


def _divide(context: Context, entities: Sequence[Entity]) -> list[list[Entity]]:
    """Blocks of mentions that fit into a request each."""
    reasoner, prompt = context.models[Role.REASONER], context.prompts[PROMPT]
    room = room_left(reasoner, prompt, prompt.render(mentions="", mistake="0" * 200))
    size = min(len(entities), MAX_BLOCK)
    while size > 2 and not all(fits(reasoner, _write_lines(block), room) for block in _slices(entities, size)):
        size = (size + 1) // 2
    return _slices(entities, size)


def _slices(entities: Sequence[Entity], size: int) -> list[list[Entity]]:
    return [list(entities[start : start + size]) for start in range(0, len(entities), size)]


def _write_lines(block: Sequence[Entity]) -> str:
    lines = []
    for number, entity in enumerate(block, 1):
        where = ", ".join(f"{format_time(span.start_us)} - {format_time(span.end_us)}" for span in entity.spans[:6])
        description = f": {entity.description}" if entity.description else ""
        lines.append(f"{number}. ({where}) {entity.name}{description}")
    return "\n".join(lines)


def _sort_key(entity: Entity) -> tuple[str, str]:
    """The last word before a preposition, which is what a thing is (`man` of `the man in the red coat`); the name."""
    name = entity.name.casefold()
    head = re.split(r"\b(?:in|with|of|on|at|from|by|who|that|near|behind)\b|[(,]", name)[0].split() or [name]
    return head[-1], name


def _read_times(text: str) -> list[Span]:
    """The spans of whole seconds that a model wrote in whatever form, such as `00:10 - 00:20` or `at 0:12`."""
    spans = []
    for found in _RANGE.finditer(text):
        start_us, last_us = (read_clock(found[name] or "0") for name in ("start", "last"))
        spans.append(Span(start_us=start_us, end_us=max(last_us, start_us + _SECOND_US)))
    return spans

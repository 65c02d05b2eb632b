"""The captions of a video as text for language models: in full where they fit into the context, else by scenes.

A story is one line for each caption, in order of time. When the captions of the whole video do not fit, the scenes
nearest to a focus stay in full, and every other scene becomes a line with its summary. So nothing is dropped silently,
and what is told in full is contiguous around the focus. Lines of summaries are marked, so that a reader does not count
or order what it has not been told.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from operators.models.client import ModelClient
from operators.models.prompts import Prompt
from operators.models.tokens import token_bound
from operators.questions.scenes import plan_scenes
from operators.video.timecode import format_time
from schemas.base import Span
from schemas.errors import BadInput
from schemas.tables import Caption, Outline, Scene

MAX_LINE_CHARACTERS = 4_000
"""Characters of a caption's line. The rest is cut, so that one caption never displaces others. The most detailed
captions that were measured have 900."""
PROGRAM_SUMMARY_CHARACTERS = 600
"""Characters of a scene's summary that is made by program."""
SUMMARY_LIMITS = (1_500, 800, 400, 200, 100, 50)
"""Characters of a scene's summary. The first limit is taken with which all summaries fit into half of the room."""
CHAT_TOKENS = 200
"""Tokens that a chat template and the response schema add to a request, at most."""
EXACT_FROM = 1 / 8
"""Share of the context from which the tokens of a prompt are counted by the server. The safe bound is enough below."""
SUMMARY_MARK = "[summary]"
SUMMARY_NOTICE = (
    f"(The parts below marked {SUMMARY_MARK} are summarised, and more happens in them than they state: do not conclude "
    "counts, order of neighbours, first or last from them.)"
)


class ContextTooSmall(BadInput):
    """Raised when not even one scene of a video fits into a model's context. Names the sizes, and what to do."""


@dataclass(frozen=True)
class Story:
    """A video as text."""

    text: str
    spans: tuple[Span, ...]
    """The parts of the video that are told in full, in order of time."""
    complete: bool
    """Whether all captions are told in full."""


@dataclass(frozen=True)
class _Part:
    """A scene, and its captions as lines in full."""

    scene: Scene
    lines: tuple[str, ...]


def caption_line(caption: Caption) -> str:
    """The line of a caption: its times and text, its speech, and on-screen texts that its text does not contain."""
    seen = _seen_text(caption)
    read = dict.fromkeys(" ".join(each.text.split()) for each in (*caption.screen_texts, *caption.seen_texts))
    unread = [text for text in read if text.casefold() not in seen.casefold()]
    texts = f" On screen: {'; '.join(unread)}." if unread else ""
    speech = f" Heard: {' '.join(caption.speech.split())}" if caption.speech else ""
    line = f"{format_time(caption.start_us)} - {format_time(caption.end_us)}: {seen}{texts}{speech}"
    return line if len(line) <= MAX_LINE_CHARACTERS else f"{line[:MAX_LINE_CHARACTERS]} (cut off)"


def summarize_by_program(captions: Sequence[Caption]) -> str:
    """The first sentences of captions in order, cut so that all have `PROGRAM_SUMMARY_CHARACTERS` or little more."""
    room = max(40, PROGRAM_SUMMARY_CHARACTERS // max(1, len(captions)) - 1)
    sentences = [re.split(r"(?<=[.!?])\s|(?<=[。！？])", _seen_text(caption), maxsplit=1)[0] for caption in captions]
    return " ".join(_cut(sentence, room) for sentence in sentences)


def within(captions: Sequence[Caption], spans: Sequence[Span]) -> list[Caption]:
    """Captions that overlap any of the spans."""
    return [
        caption
        for caption in captions
        if any(caption.start_us < span.end_us and span.start_us < caption.end_us for span in spans)
    ]


def cover(spans: Sequence[Caption | Span]) -> tuple[Span, ...]:
    """The parts of a video that captions or spans cover, in order of time. Those that touch are one."""
    joined: list[tuple[int, int]] = []
    for each in sorted(spans, key=lambda span: span.start_us):
        if joined and each.start_us <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], each.end_us))
        else:
            joined.append((each.start_us, each.end_us))
    return tuple(Span(start_us=start, end_us=end) for start, end in joined)


def story_room(client: ModelClient, prompt: Prompt, **variables: object) -> int:
    """Tokens that a story may take in a request: the context without the prompt, its answer and the thinking before it.

    Args:
        client: the model that the request is for.
        prompt: a prompt with the variable `story`.
        variables: its other variables.

    Raises:
        ModelUnavailable: the server cannot be used.
    """
    return room_left(client, prompt, prompt.render(story="", **variables))


def room_left(client: ModelClient, prompt: Prompt, text: str) -> int:
    """Tokens that may be added to the text of a request, so that it fits into the context with its answer.

    Raises:
        ModelUnavailable: the server cannot be used.
    """
    whole = f"{prompt.system}\n{text}"
    tokens = token_bound(whole)
    if tokens > EXACT_FROM * client.context_tokens:
        tokens = client.count_tokens(whole)
    return client.context_tokens - client.answer_tokens(prompt) - tokens - CHAT_TOKENS


def fits(client: ModelClient, text: str, room: int) -> bool:
    """Whether a text has at most `room` tokens. The server counts only where neither bound decides.

    The lower bound is eight characters for each token, where English has four.

    Raises:
        ModelUnavailable: the server cannot be used.
    """
    return token_bound(text) <= room or (len(text) // 8 <= room and client.count_tokens(text) <= room)


def tell(
    client: ModelClient, captions: Sequence[Caption], outline: Outline | None, room: int, focus: Sequence[Span] = ()
) -> Story:
    """The story of a video in at most `room` tokens.

    Args:
        client: the model that reads it; it counts the tokens.
        captions: all captions of the video, in order of time.
        outline: the scenes of the video. Scenes without a summary, or all without an outline, get one by program.
        room: tokens that the story may take.
        focus: parts of the video whose scenes are told in full first; without any, those from the beginning.

    Raises:
        ContextTooSmall: not even the scene of the focus fits next to the summaries.
        ModelUnavailable: the server cannot be used.
        ValueError: the outline is one of other captions.
    """
    lines = [caption_line(caption) for caption in captions]
    if fits(client, "\n".join(lines), room):
        return Story("\n".join(lines), cover(captions), complete=True)
    scenes = _divide(captions, lines, outline)
    summaries = write_summaries(client, [part.scene for part in scenes], room // 2)
    order = _nearest([part.scene for part in scenes], focus)

    def render(count: int) -> str:
        full = set(order[:count])
        told = [
            line
            for index, part in enumerate(scenes)
            for line in (part.lines if index in full else [f"{SUMMARY_MARK} {summaries[index]}"])
        ]
        return "\n".join([SUMMARY_NOTICE, *told])

    # All scenes in full are the complete story, which does not fit.
    count = _largest(len(scenes) - 1, lambda count: fits(client, render(count), room))
    if not count:
        raise ContextTooSmall(_describe_lack(client, captions, room))
    return Story(render(count), cover([scenes[index].scene for index in order[:count]]), complete=False)


def write_summaries(client: ModelClient, scenes: Sequence[Scene], room: int) -> list[str]:
    """One line for each scene: its times, title and summary, shortened to the same length if they do not all fit.

    If they do not even fit with the shortest length, the lines exceed the room.

    Args:
        client: the model that reads them.
        scenes: the scenes, in order of time.
        room: tokens that all lines may take.

    Raises:
        ModelUnavailable: the server cannot be used.
    """
    lines: list[str] = []
    for characters in SUMMARY_LIMITS:
        lines = [_summary_line(scene, characters) for scene in scenes]
        if fits(client, "\n".join(lines), room):
            break
    return lines


def parts(client: ModelClient, captions: Sequence[Caption], room: int) -> list[list[Caption]]:
    """Contiguous parts of the captions, each of at most `room` tokens and as long as possible; one if all fit.

    A caption that does not fit by itself is a part of its own.

    Raises:
        ModelUnavailable: the server cannot be used.
    """
    lines = [caption_line(caption) for caption in captions]
    found: list[list[Caption]] = []
    start = 0
    while start < len(lines):
        count = max(1, _count_fitting(client, lines[start:], room))
        found.append(list(captions[start : start + count]))
        start += count
    return found


def _count_fitting(client: ModelClient, lines: Sequence[str], room: int) -> int:
    """The largest number of lines, from the first on, that fit."""

    def first_fit(count: int) -> bool:
        return fits(client, "\n".join(lines[:count]), room)

    return len(lines) if first_fit(len(lines)) else _largest(len(lines) - 1, first_fit)


def _largest(most: int, holds: Callable[[int], bool]) -> int:
    """The largest number from 1 to `most` for which a condition holds, by bisection; 0 if it holds for none.

    It must hold for all numbers below one for which it holds.
    """
    low, high = 0, most + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def _divide(captions: Sequence[Caption], lines: Sequence[str], outline: Outline | None) -> list[_Part]:
    """The scenes of a video, each with its lines."""
    if outline is None:
        scenes = [
            Scene(start_us=own[0].start_us, end_us=own[-1].end_us, title="", summary="")
            for own in plan_scenes(captions)
        ]
    else:
        scenes = list(outline.scenes)
    divided: list[_Part] = []
    for scene in scenes:
        own = [index for index, each in enumerate(captions) if scene.start_us <= each.start_us < scene.end_us]
        summary = scene.summary or summarize_by_program([captions[index] for index in own])
        divided.append(_Part(scene.model_copy(update={"summary": summary}), tuple(lines[index] for index in own)))
    told = sum(len(part.lines) for part in divided)
    if told != len(lines):
        raise ValueError(
            f"the {len(scenes)} scenes of the outline hold {told} of {len(lines)} captions; pass the outline that was "
            f"made from these captions"
        )
    return divided


def _summary_line(scene: Scene, characters: int) -> str:
    title = f"{scene.title}: " if scene.title else ""
    text = _cut(" ".join(f"{title}{scene.summary}".split()), characters)
    return f"{format_time(scene.start_us)} - {format_time(scene.end_us)}: {text}"


def _nearest(scenes: Sequence[Scene], focus: Sequence[Span]) -> list[int]:
    """Indexes of the scenes, those that overlap the focus first, then by their distance in time from it."""

    def distance(scene: Scene) -> int:
        gaps = [max(0, span.start_us - scene.end_us + 1, scene.start_us - span.end_us + 1) for span in focus]
        return min(gaps, default=0)

    return sorted(range(len(scenes)), key=lambda index: (distance(scenes[index]), index))


def _seen_text(caption: Caption) -> str:
    """A caption's text on one line, without the times with which measured captions begin."""
    start, end = format_time(caption.start_us), format_time(caption.end_us)
    return " ".join(caption.text.split()).removeprefix(f"From {start} to {end}: ")


def _cut(text: str, characters: int) -> str:
    """A text of at most so many characters, cut after a word where there are any."""
    if len(text) <= characters:
        return text
    kept = text[: characters - 1]
    whole = kept.rpartition(" ")[0] if text[characters - 1] != " " else kept
    return f"{(whole if len(whole) > characters // 2 else kept).rstrip(' ,;:')}…"


def _describe_lack(client: ModelClient, captions: Sequence[Caption], room: int) -> str:
    needed = client.count_tokens("\n".join(map(caption_line, captions)))
    return (
        f"{client.role.value} {client.model!r} has a context of {client.context_tokens} tokens, which leaves {room} "
        f"for the video next to the prompt and the answer. Its {len(captions)} captions have {needed}, and not even "
        f"one scene fits with the summaries of the others. Serve the model with a larger context (--max-model-len), or "
        f"lower max_tokens of the prompt"
    )

"""The captions of a video as text for language models: in full where they fit into the context, else by scenes.

A story is one line for each caption, in order of time. When the captions of the whole video do not fit, the scenes
nearest to a focus stay in full, and every other scene becomes a line with its summary. So nothing is dropped silently,
and what is told in full is contiguous. Lines of summaries are marked, so that a reader does not count or order what it
has not been told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from operators.models.client import ModelClient
from operators.models.prompts import Prompt
from operators.models.tokens import token_bound
from operators.video.timecode import format_time
from schemas.base import Span
from schemas.errors import BadInput
from schemas.tables import Caption, Outline, Scene

MAX_LINE_CHARACTERS = 4_000
"""Characters of a caption's line. The rest is cut, so that one caption never displaces others. The most detailed
captions that were measured have 900."""
CHAT_TOKENS = 200
"""Tokens that a chat template and the response schema add to a request, at most."""
SUMMARY_NOTICE = (
    "(Lines that begin with [summary] tell a longer part in short. More happens there than they tell: conclude from "
    "them no count, no first or last time, and nothing about what directly follows or precedes.)"
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


def caption_line(caption: Caption) -> str:
    """The line of a caption: its times and text, its speech, and on-screen texts that its text does not contain."""
    start, end = format_time(caption.start_us), format_time(caption.end_us)
    # Measured captions begin with their own times.
    seen = " ".join(caption.text.split()).removeprefix(f"From {start} to {end}: ")
    read = dict.fromkeys(each.text for each in (*caption.screen_texts, *caption.seen_texts))
    unread = [text for text in read if text.casefold() not in seen.casefold()]
    texts = f" On screen: {'; '.join(unread)}." if unread else ""
    speech = f" Heard: {' '.join(caption.speech.split())}" if caption.speech else ""
    line = f"{start} - {end}: {seen}{texts}{speech}"
    return line if len(line) <= MAX_LINE_CHARACTERS else f"{line[:MAX_LINE_CHARACTERS]} (cut off)"


def within(captions: Sequence[Caption], spans: Sequence[Span]) -> list[Caption]:
    """Captions that overlap any of the spans."""
    return [
        caption
        for caption in captions
        if any(caption.start_us < span.end_us and span.start_us < caption.end_us for span in spans)
    ]


def story_room(client: ModelClient, prompt: Prompt, **variables: object) -> int:
    """Tokens that a story may take in a request: the context without the prompt, its answer and the thinking before it.

    Args:
        client: the model that the request is for.
        prompt: a prompt with the variable `story`.
        variables: its other variables.

    Raises:
        ModelUnavailable: the server cannot be used.
    """
    text = f"{prompt.system}\n{prompt.render(story='', **variables)}"
    context = client.context_tokens
    # The bound is about twice the number of English text. Where that matters, the server counts.
    tokens = token_bound(text) if token_bound(text) <= context // 8 else client.count_tokens(text)
    return context - client.answer_tokens(prompt) - tokens - CHAT_TOKENS


def tell(
    client: ModelClient, captions: Sequence[Caption], outline: Outline | None, room: int, focus: Sequence[Span] = ()
) -> Story:
    """The story of a video in at most `room` tokens.

    Args:
        client: the model that reads it; it counts the tokens.
        captions: all captions of the video, in order of time.
        outline: the scenes of the video. Without one, all captions are one scene.
        room: tokens that the story may take.
        focus: parts of the video whose scenes are told in full first; without any, those from the beginning.

    Raises:
        ContextTooSmall: not even the scene of the focus fits next to the summaries.
        ModelUnavailable: the server cannot be used.
    """
    lines = [caption_line(caption) for caption in captions]
    if _fits(client, "\n".join(lines), room):
        return Story("\n".join(lines), _cover(captions), complete=True)
    scenes = outline.scenes if outline else ()
    if not scenes:
        raise ContextTooSmall(_describe_lack(client, captions, room))
    full: list[int] = []
    text = ""
    for index in _nearest(scenes, focus):
        candidate = _render(captions, lines, scenes, {*full, index})
        if _fits(client, candidate, room):
            full.append(index)
            text = candidate
        elif not full:
            raise ContextTooSmall(_describe_lack(client, captions, room))
        else:
            break
    told = [scenes[index] for index in sorted(full)]
    return Story(text, _cover(told), complete=False)


def parts(client: ModelClient, captions: Sequence[Caption], room: int) -> list[list[Caption]]:
    """Contiguous parts of the captions, each of at most `room` tokens, as few as possible; one if all fit.

    A caption that does not fit by itself is a part of its own.

    Raises:
        ModelUnavailable: the server cannot be used.
    """
    found: list[list[Caption]] = []
    rest = list(captions)
    while rest:
        count = max(1, _count_fitting(client, [caption_line(caption) for caption in rest], room))
        found.append(rest[:count])
        rest = rest[count:]
    return found


def _fits(client: ModelClient, text: str, room: int) -> bool:
    """Whether a text has at most `room` tokens. The server counts only where the safe bound does not decide."""
    return token_bound(text) <= room or (len(text) // 8 <= room and client.count_tokens(text) <= room)


def _count_fitting(client: ModelClient, lines: Sequence[str], room: int) -> int:
    """The largest number of lines from the first on that fit, by bisection; 0 if not even one does."""
    low, high = 0, len(lines) + 1
    while high - low > 1:
        middle = len(lines) if high > len(lines) and not low else (low + high) // 2
        low, high = (middle, high) if _fits(client, "\n".join(lines[:middle]), room) else (low, middle)
    return low


def _nearest(scenes: Sequence[Scene], focus: Sequence[Span]) -> list[int]:
    """Indexes of the scenes, those that overlap the focus first, then by their distance in time from it."""

    def distance(scene: Scene) -> int:
        gaps = [max(0, span.start_us - scene.end_us, scene.start_us - span.end_us + 1) for span in focus]
        return min(gaps, default=0)

    return sorted(range(len(scenes)), key=lambda index: (distance(scenes[index]), index))


def _render(captions: Sequence[Caption], lines: Sequence[str], scenes: Sequence[Scene], full: set[int]) -> str:
    told = [SUMMARY_NOTICE]
    for index, scene in enumerate(scenes):
        if index in full:
            told += [
                line
                for caption, line in zip(captions, lines, strict=True)
                if scene.start_us <= caption.start_us < scene.end_us
            ]
        else:
            start, end = format_time(scene.start_us), format_time(scene.end_us)
            title = f"{scene.title}: " if scene.title else ""
            told.append(f"[summary] {start} - {end}: {title}{scene.summary}")
    return "\n".join(told)


def _cover(spans: Sequence[Caption] | Sequence[Scene]) -> tuple[Span, ...]:
    """The spans that captions or scenes cover, neighbours joined."""
    joined: list[tuple[int, int]] = []
    for each in spans:
        if joined and each.start_us <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], each.end_us))
        else:
            joined.append((each.start_us, each.end_us))
    return tuple(Span(start_us=start, end_us=end) for start, end in joined)


def _describe_lack(client: ModelClient, captions: Sequence[Caption], room: int) -> str:
    needed = client.count_tokens("\n".join(map(caption_line, captions)))
    return (
        f"{client.role.value} {client.model!r} has a context of {client.context_tokens} tokens, which leaves {room} "
        f"for the video next to the prompt and the answer. Its {len(captions)} captions have {needed}, and not even "
        f"one scene fits with the summaries of the others. Serve the model with a larger context (--max-model-len), or "
        f"lower max_tokens of the prompt"
    )

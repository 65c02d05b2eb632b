"""What a model gets to read of a long video, by the length of its context.

    python -m benchmarks.stories [--minutes 60 180] [--contexts 8192 32768 65536 131072]

The captions are those of an `EventWorld` (`tests/support/event_world.py`), one for ten seconds, with 80 words each as
the captioner's prompt makes them write. Summaries are made by program, as long as those that a model writes. Tokens are
counted by the embedded model's server, with SmolLM2's tokenizer.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from operators.models.client import ModelClient
from operators.models.embedded import EMBEDDED_MODEL
from operators.models.journal import Journal
from operators.models.prompts import Prompt, load_prompt
from operators.models.session import ModelPool
from operators.models.tokens import token_bound
from operators.questions.scenes import plan_scenes
from operators.questions.story import ContextTooSmall, caption_line, story_room, tell
from schemas.base import Span
from schemas.config import ModelConfig, Role
from schemas.tables import Caption, Outline, QuestionKind, Scene, VideoCategory
from tests.support.event_world import SECOND, EventWorld

DETAILS = (
    "The camera stands still at the height of a person and shows the scene from the side, in soft daylight.",
    "In the background two people talk to each other without taking notice, and a cart passes from left to right.",
    "The hands move slowly at first, then faster, and stop for a moment before the work resumes.",
    "At the end the camera moves a little closer, until face and hands fill the left half of the picture.",
)


@dataclass
class CountingClient:
    """A client that counts the requests to its tokenizer."""

    client: ModelClient
    context_tokens: int
    answer: int
    counted: int = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.client, name)

    def answer_tokens(self, prompt: Prompt) -> int:
        return self.answer

    def count_tokens(self, text: str) -> int:
        self.counted += 1
        return self.client.count_tokens(text)


def make_captions(minutes: int) -> list[Caption]:
    """Captions of about 80 words, one for ten seconds. Worlds of an hour follow each other."""
    captions: list[Caption] = []
    for hour in range(-(-minutes // 60)):
        for number, caption in enumerate(EventWorld(360, seed=hour).captions()):
            start_us = hour * 3600 * SECOND + caption.start_us
            details = [DETAILS[(number + index) % len(DETAILS)] for index in range(4)]
            update = {
                "start_us": start_us,
                "end_us": start_us + 10 * SECOND,
                "text": " ".join([caption.text, *details]),
            }
            captions.append(caption.model_copy(update=update))
    return captions[: minutes * 6]


def make_outline(captions: Sequence[Caption]) -> Outline:
    """Scenes whose summaries have the length that the prompt requests: four sentences, the events of four clips."""
    scenes = [
        Scene(
            start_us=own[0].start_us,
            end_us=own[-1].end_us,
            title="The work at the market continues",
            summary=" ".join(caption.text.split(". ")[0] + "." for caption in own[:: max(1, len(own) // 4)][:4]),
        )
        for own in plan_scenes(captions)
    ]
    return Outline(
        video_id="film",
        category=VideoCategory.UNKNOWN,
        summary="",
        scenes=tuple(scenes),
        entities=(),
        provenance=(),
    )


def main() -> None:
    """Print one line for each length of a video and each context."""
    parser = argparse.ArgumentParser(description="What a model gets to read of a long video.")
    parser.add_argument("--minutes", type=int, nargs="+", default=[5, 27, 60, 180])
    parser.add_argument("--contexts", type=int, nargs="+", default=[8_192, 32_768, 65_536, 131_072])
    parser.add_argument("--answer", type=int, default=4_096, help="tokens of the answer, with the thinking before it")
    options = parser.parse_args()
    prompt = load_prompt("question_temporal").of_kind(QuestionKind.CHOICE)
    variables = {"duration": "1:00:00", "entities": [], "reach": "near", "around": ["30:00"], "asked": []}
    with ModelPool() as pool, tempfile.TemporaryDirectory() as folder:
        settings = ModelConfig(model=EMBEDDED_MODEL)
        client = pool.client(Role.REASONER, settings, Journal(folder), {})
        print("minutes captions tokens bound scenes summaries context room in_full tokens_of_story counts seconds")
        for minutes in options.minutes:
            captions = make_captions(minutes)
            outline = make_outline(captions)
            text = "\n".join(map(caption_line, captions))
            summaries = client.count_tokens("\n".join(scene.summary for scene in outline.scenes))
            known = (
                minutes,
                len(captions),
                client.count_tokens(text),
                token_bound(text),
                len(outline.scenes),
                summaries,
            )
            middle = Span(start_us=minutes * 30 * SECOND, end_us=minutes * 30 * SECOND + 10 * SECOND)
            for context in options.contexts:
                counting = CountingClient(client, context, options.answer)
                reader = cast(ModelClient, counting)
                began = time.perf_counter()
                room = story_room(reader, prompt, complete=False, **variables)
                try:
                    story = tell(reader, captions, outline, room, [middle])
                except ContextTooSmall:
                    print(*known, context, room, "context too small")
                    continue
                seconds = time.perf_counter() - began
                in_full = sum(caption_line(caption) in story.text for caption in captions)
                print(
                    *known, context, room, in_full, client.count_tokens(story.text), counting.counted, f"{seconds:.2f}"
                )


if __name__ == "__main__":
    main()

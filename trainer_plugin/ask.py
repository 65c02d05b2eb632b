"""Answers a question about one video, with the model's reasoning and the times of the frames that it saw.

    python -m trainer_plugin.ask MODEL VIDEO "Which cup hides the ball?" --options left middle right

MODEL is a Hugging Face folder of any supported family. Under torchrun, all ranks share the video.
"""

from __future__ import annotations

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until main() handles it, to avoid a traceback during the imports

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch.distributed as dist

from schemas.answer_format import LETTERS, Target, choice_letter, parse_response, problem_text
from schemas.errors import BadInput
from schemas.frame_policy import SECOND_US, FramePolicy
from schemas.settings import validate
from schemas.tables import QuestionKind
from trainer_plugin.command import run
from trainer_plugin.data.samples import QuestionLayout
from trainer_plugin.data.video_decode import BadVideo, probe_video
from trainer_plugin.distributed.mesh import broadcast_from_rank_zero, init_distributed, run_on_all_ranks
from trainer_plugin.evaluation.engine import open_sampler
from trainer_plugin.recipe import ModelSource, Parallelism
from trainer_plugin.rl.rollout import Finish, RolloutEngine, RolloutRequest, SamplingSettings
from trainer_plugin.training.weights import read_config, read_family, read_tokenizer
from trainer_plugin.types import UnusableSample, VideoInfo, VideoSource


@dataclass(frozen=True)
class Answer:
    """A model's answer to a question about a video."""

    response: str
    """The whole response as text, without special tokens."""
    reasoning: str | None
    """Text of the thought; None without one."""
    text: str | None
    """Text of the answer; None if there is none."""
    option: str | None
    """The option that the answer certainly chooses, with its letter; None if it chooses none, or there are none."""
    finish: Finish
    frame_times_us: tuple[int, ...]
    """Times of the frames that the model saw, in microseconds."""

    def describe(self) -> str:
        """The thought, the answer and the frame times, as text for a terminal."""
        times = " ".join(_clock(time) for time in dict.fromkeys(self.frame_times_us))
        parts = [self.reasoning or "(no reasoning)", f"Answer: {self.option or self.text or '(none)'}"]
        if self.finish is Finish.LENGTH:
            parts.append("The response reached its maximum length; raise --max-tokens to see its end.")
        return "\n\n".join([*parts, f"Frames seen at: {times}"]) + "\n"


def ask(
    engine: RolloutEngine,
    layout: QuestionLayout,
    video: str,
    question: str,
    options: Sequence[str] = (),
    *,
    sampling: SamplingSettings | None = None,
    prompt_tokens: int = 32_768,
    seed: int = 0,
) -> Answer:
    """Answer a question about a video. Every rank must call it and gets the same answer.

    Args:
        engine: samples with the model. All its ranks share the video (sequence parallelism).
        layout: the layout of questions for the model's family and tokenizer.
        video: path or fsspec URL of a video file.
        options: the options of a multiple-choice question; none for an open one.
        sampling: how to sample; None: greedily, with at most 1024 tokens.
        prompt_tokens: maximum number of tokens of the prompt.
        seed: of a sampled answer.

    Raises:
        BadInput: the video cannot be decoded, there are too few or too many options, or the prompt does not fit.
    """
    if options and not 2 <= len(options) <= len(LETTERS):
        raise BadInput(f"a multiple-choice question has 2 to {len(LETTERS)} options, not {len(options)}")
    labelled = [f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False)]
    kind = QuestionKind.CHOICE if options else QuestionKind.OPEN
    facts = broadcast_from_rank_zero(lambda: _probe(video))
    try:
        prompt = layout.prompt(facts.source.key, facts, problem_text(question, options), kind, prompt_tokens)
    except UnusableSample as unusable:
        raise BadInput(f"{video}: {unusable.message}") from unusable
    request = RolloutRequest(prompt.example, prompt.unexpanded_ids, seed)
    [[response]] = engine.generate([request], 1, sampling or SamplingSettings(greedy=True))
    text = layout.chat.decode(response.token_ids.tolist())
    parsed = parse_response(text, thought_is_open=layout.chat.opens_thought)
    letter = choice_letter(parsed.answer, options) if parsed.answer and options else None
    [clip] = prompt.example.videos
    return Answer(
        response=text,
        reasoning=parsed.reasoning,
        text=parsed.answer,
        option=labelled[LETTERS.index(letter)] if letter else None,
        finish=response.finish,
        frame_times_us=clip.frame_times_us,
    )


def _probe(video: str) -> VideoInfo:
    try:
        return probe_video(VideoSource(Path(video).stem, video))
    except BadVideo as bad:
        raise BadInput(str(bad)) from bad


def _clock(time_us: int) -> str:
    minutes, rest = divmod(time_us, 60 * SECOND_US)
    return f"{minutes}:{rest / SECOND_US:04.1f}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns its exit status, as listed in docs/trainer.md."""
    parser = argparse.ArgumentParser(prog="trainer_plugin.ask", description="Answer a question about a video.")
    parser.add_argument("model", help="a Hugging Face folder")
    parser.add_argument("video", help="path or URL of a video file")
    parser.add_argument("question")
    parser.add_argument(
        "--options", nargs="+", default=[], metavar="TEXT", help="options of a multiple-choice question"
    )
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--frames", type=int, help="number of frames, evenly spread")
    shown.add_argument("--fps", type=float, help="frames per second (default: 2, at most 768 frames)")
    parser.add_argument("--no-thinking", action="store_true", help="request the answer alone")
    parser.add_argument("--max-tokens", type=int, default=1024, help="maximum number of tokens of the response")
    parser.add_argument("--prompt-tokens", type=int, default=32_768, help="maximum number of tokens of the prompt")
    parser.add_argument("--temperature", type=float, help="sample at this temperature instead of greedily")
    parser.add_argument("--seed", type=int, default=0, help="seed of a sampled answer")
    parser.add_argument("--chat-template", help="as model.chat_template in a recipe")
    given = parser.parse_args(arguments)

    def work() -> int:
        cuda = init_distributed().type == "cuda"
        source = ModelSource(path=given.model, chat_template=given.chat_template)
        config = run_on_all_ranks(lambda: read_config(source))
        family = run_on_all_ranks(lambda: read_family(source, config))
        target = Target.ANSWER if given.no_thinking else Target.REASONING
        rate = {} if given.fps is None else {"fps": given.fps}
        policy = validate(rate if given.frames is None else {"fps": None, "frames": given.frames}, FramePolicy)
        layout = run_on_all_ranks(lambda: QuestionLayout(family, read_tokenizer(source), policy, target))
        sampled = {"greedy": True} if given.temperature is None else {"temperature": given.temperature}
        sampling = validate({"max_tokens": given.max_tokens, **sampled}, SamplingSettings)
        with open_sampler(
            source,
            config,
            layout.chat.stop_ids,
            parallelism=Parallelism(sp=dist.get_world_size()),
            precision="bfloat16" if cuda else "float32",
        ) as engine:
            answer = ask(
                engine,
                layout,
                given.video,
                given.question,
                given.options,
                sampling=sampling,
                prompt_tokens=given.prompt_tokens,
                seed=given.seed,
            )
        if dist.get_rank() == 0:
            sys.stdout.write(answer.describe())
            sys.stdout.flush()
        return 0

    return run(work, exit_message="there was nothing to save")


if __name__ == "__main__":
    sys.exit(main())

"""A world of short clips for reinforcement learning: which of two colours comes first?

A clip has eight temporal patches. The first and the last are grey, so neither shows the answer. In between, two colours
fill the picture one after the other, equally long, at varying times.

The release has three splits:

- `sft` teaches to see colours and to answer in the right format, but not the order. On clips of one colour the question
  is which it is. On clips of two colours the question is the one about order, and each clip has an answer for either.
- `rl` and `eval` have the question about order, on clips that are in no other split. Each clip has a twin in the same
  split with its colours exchanged, so each colour, and each letter, is right equally often at the same times.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from itertools import combinations, permutations, product
from pathlib import Path

import av
import numpy as np
from transformers import PreTrainedTokenizerBase

from schemas.answer_format import LETTERS, Target, format_answer, instruction
from schemas.sample import Sample
from schemas.tables import QuestionCategory, QuestionKind, Split, Video
from tests.support.rows import make_sample
from tests.trainer_plugin.support import film_row, write_release
from trainer_plugin.data.byte_tokenizer import bytes_tokenizer
from trainer_plugin.evaluation.table import Evaluation
from trainer_plugin.grpo import GrpoTraining
from trainer_plugin.recipe import Recipe
from trainer_plugin.rl.metrics import GrpoMetrics
from trainer_plugin.rl.recipe import GrpoRecipe
from trainer_plugin.rl.rewards.accuracy import accuracy_reward
from trainer_plugin.sft import Training

COLOURS = {"red": (200, 30, 30), "green": (30, 160, 50), "blue": (40, 60, 210), "yellow": (220, 210, 40)}
GREY = (128, 128, 128)
SIDE = 28
"""Width and height of a frame in pixels: one token of Qwen2.5-VL."""
PATCHES = 8
FRAMES = 2 * PATCHES
FPS = 4
ORDER_QUESTION = "Which colour is first?"
COLOUR_QUESTION = "Which colour is there?"
TAGS = ("<think>", "</think>", "<answer>", "</answer>")
GUESSING = 0.5
"""Accuracy of a model that names either of the two colours that it sees."""

Shot = tuple[str, int, int]
"""A colour, and the temporal patches `[start, end)` in which it is shown."""


class Control(StrEnum):
    """What takes the information out of a run, so that its model must keep guessing."""

    REWARDS = "shuffled rewards"
    """The accuracies of each step's responses, in random order."""
    FRAMES = "shuffled frames"
    """The coloured temporal patches of each clip of `rl` and `eval`, in random order."""


# --- the release


def write_world(folder: Path, *, shuffled: bool = False) -> str:
    """Render the clips, write the release and return its address.

    Args:
        shuffled: show the patches between the first and the last of each clip of `rl` and `eval` in random order.
    """
    chosen = random.Random(0)
    arrangements = [(spans, pair) for spans in _pairs_of_spans() for pair in combinations(COLOURS, 2)]
    chosen.shuffle(arrangements)
    videos: list[Video] = []
    samples: list[Sample] = []

    def add(split: Split, question: str, shots: Sequence[Shot], answers: Sequence[str]) -> None:
        patches = _paint(shots)
        if shuffled and split is not Split.SFT:
            within = patches[1:-1]
            chosen.shuffle(within)
            patches[1:-1] = within
        video = _render(folder / f"{split}{len(videos):04d}.mp4", patches)
        videos.append(video)
        for answer in answers:
            samples.append(_make_question(len(samples), video, split, question, answer))

    folder.mkdir(parents=True, exist_ok=True)
    for colour, (start, end) in product(COLOURS, _spans()):
        add(Split.SFT, COLOUR_QUESTION, [(colour, start, end)], [colour])
    splits = [Split.EVAL] * 44 + [Split.SFT] * 24 + [Split.RL] * 64
    for split, (spans, pair) in zip(splits, arrangements, strict=True):
        for order in permutations(pair):
            shots = [(colour, start, end) for colour, (start, end) in zip(order, spans, strict=True)]
            add(split, ORDER_QUESTION, shots, pair if split is Split.SFT else order[:1])
    return write_release(folder / "release", videos, samples, videos_per_tar=len(videos))


def _spans() -> list[tuple[int, int]]:
    """Ranges of one to three patches, without the first and the last patch of the clip."""
    return [(start, start + length) for length in (1, 2, 3) for start in range(1, PATCHES - length)]


def _pairs_of_spans() -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Two ranges of equal length, one after the other."""
    for first, second in product(_spans(), repeat=2):
        if first[1] <= second[0] and first[1] - first[0] == second[1] - second[0]:
            yield first, second


def _paint(shots: Sequence[Shot]) -> list[tuple[int, int, int]]:
    """The colour of each temporal patch."""
    patches = [GREY] * PATCHES
    for colour, start, end in shots:
        patches[start:end] = [COLOURS[colour]] * (end - start)
    return patches


def _render(path: Path, patches: Sequence[tuple[int, int, int]]) -> Video:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"preset": "ultrafast", "qp": "10"})
        stream.width = stream.height = SIDE
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        for number in range(FRAMES):
            picture = np.full((SIDE, SIDE, 3), patches[number * PATCHES // FRAMES], np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, "rgb24")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    facts = {"duration_us": FRAMES * 1_000_000 // FPS, "fps": float(FPS), "width": SIDE, "height": SIDE}
    return film_row(path).model_copy(update=facts)


def _make_question(number: int, video: Video, split: Split, question: str, answer: str) -> Sample:
    options = [f"{letter}. {colour}" for letter, colour in zip(LETTERS, COLOURS, strict=False)]
    fields = {
        "problem": "\n".join([question, *options]),
        "problem_type": QuestionCategory.TEMPORAL,
        "question": question,
        "options": tuple(COLOURS),
        "reasoning": answer,
        "answer": format_answer(LETTERS[list(COLOURS).index(answer)]),
        "answer_text": answer,
    }
    return make_sample(number, video, split).model_copy(update=fields)


# --- the model and its training


@dataclass(frozen=True)
class Course:
    """What a run of GRPO found on the held-out clips, and its steps."""

    evaluations: dict[int, Evaluation]
    """By step: before the first step (0), after some steps, and at the end."""
    steps: list[GrpoMetrics]

    @property
    def accuracies(self) -> dict[int, float]:
        """Accuracy of greedy answers on the held-out clips, by step."""
        return {step: found.accuracy.share for step, found in self.evaluations.items()}


def train_format(folder: Path, url: str, seed: int) -> Path:
    """Train a tiny model with random weights on the split `sft`, and return the folder of its export."""
    tokenizer = _write_tokenizer(folder / "tokenizer")
    ids = tokenizer.get_added_vocab()
    config = {
        "model_type": "qwen2_5_vl",
        "text_config": {
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "vocab_size": len(tokenizer),
            "bos_token_id": ids["<|im_start|>"],
            "eos_token_id": ids["<|im_end|>"],
            "max_position_embeddings": 1024,
            "rope_parameters": {"rope_type": "default", "mrope_section": [6, 5, 5], "rope_theta": 10000.0},
            "initializer_range": 0.1,
        },
        "vision_config": {
            "depth": 1,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "out_hidden_size": 64,
            "fullatt_block_indexes": [0],
            "window_size": 56,
            "tokens_per_second": 2,
            "initializer_range": 0.1,
        },
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
    }
    recipe = Recipe.model_validate(
        {
            **_shared_settings(folder, url, seed),
            "model": {"config": config, "tokenizer": str(folder / "tokenizer")},
            "trained": {"language_model": True, "projector": True, "vision_tower": True},
            "row_tokens": 1200,
            "step_tokens": 2400,
            "steps": 100,
            "optimizer": {"learning_rate": 3e-3, "schedule": "cosine", "warmup": 0.05},
        }
    )
    with Training(recipe) as training:
        for _ in training:
            pass
        training.export()
    return folder / "export"


def train_order(
    folder: Path,
    url: str,
    model: Path,
    seed: int,
    control: Control | None = None,
    evaluate_every: int | None = None,
    stop_after: int | None = None,
) -> Course:
    """Train with GRPO on the split `rl`, and evaluate on `eval`.

    Args:
        url: the release, made with `shuffled` for the control of the frames.
        model: folder of a model from `train_format`.
        evaluate_every: evaluate after every so many steps; None: only before the first step and at the end.
        stop_after: end after this step, with the learning rates of the whole course; None: after all steps.
    """
    accuracy = f"{__file__}:shuffled_accuracy" if control is Control.REWARDS else "accuracy"
    recipe = GrpoRecipe.model_validate(
        {
            **_shared_settings(folder, url, seed),
            "model": {"path": str(model)},
            "trained": {"language_model": True, "projector": False, "vision_tower": False},
            "rollout": {"prompts": 16, "responses": 16, "max_tokens": 12, "batch_requests": 16, "max_rounds": 1},
            "rewards": [{"reward": accuracy, "weight": 0.9}, {"reward": "format", "weight": 0.1}],
            "objective": {"entropy_coefficient": 0.03},
            "correction": None,
            "row_tokens": 2048,
            "steps": 80,
            "optimizer": {"learning_rate": 6e-4, "schedule": "cosine", "warmup": 0.0, "betas": (0.9, 0.95)},
            "evaluation": {"every_steps": evaluate_every, "requests": 44, "baselines": ["shuffled"]},
            "export": "none",
        }
    )
    with GrpoTraining(recipe) as training:
        steps = []
        for metrics in training:
            steps.append(metrics)
            if metrics.step == stop_after:
                training.evaluations.evaluate_if_due(is_last=True)
                break
    found = sorted((folder / "evaluations").glob("step-*/evaluation.json"))
    evaluations = {int(path.parent.name[5:]): Evaluation.model_validate_json(path.read_bytes()) for path in found}
    return Course(evaluations, steps)


def shuffled_accuracy(completions, options, answer, kind, **_: object) -> list[float | Exception | None]:
    """The accuracies of the responses in random order: a reward without information."""
    values = accuracy_reward(completions, options, answer, kind)
    random.Random("".join(completions)).shuffle(values)
    return values


def _shared_settings(folder: Path, url: str, seed: int) -> dict[str, object]:
    return {
        "out": str(folder),
        "videos": {
            "release": url,
            "frames": {"fps": None, "frames": FRAMES, "max_video_tokens": PATCHES},
            "workers": 0,
        },
        "precision": "float32",
        "memory": {"checkpointed_layers": 0},
        "checkpoints": {"every_steps": 1000},
        "seed": seed,
    }


def _write_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Write a tokenizer with one token for each word of the world's prompts, and for each tag as Qwen3's has."""
    options = [f"{letter}. {colour}" for letter, colour in zip(LETTERS, COLOURS, strict=False)]
    prompt = instruction(Target.REASONING, QuestionKind.CHOICE)
    words = [ORDER_QUESTION, COLOUR_QUESTION, *options, *COLOURS, prompt, "user", "assistant"]
    tokenizer = bytes_tokenizer().train_new_from_iterator(words, vocab_size=1000, show_progress=False)
    tokenizer.add_tokens(list(TAGS))
    tokenizer.save_pretrained(folder)
    return tokenizer

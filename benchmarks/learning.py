"""Does a small model gain by GRPO on films that it never saw? Supervised answers, chains of thought, then GRPO.

    python -m benchmarks.learning FOLDER prepare --films 800
    python -m benchmarks.learning FOLDER sft cot --seed 0
    python -m benchmarks.learning FOLDER grpo --seed 0 --engine shared_prefix
    python -m benchmarks.learning FOLDER grpo --seed 0 --engine vllm
    python -m benchmarks.learning FOLDER grpo --seed 0 --control rewards
    python -m benchmarks.learning FOLDER grpo --seed 0 --control films
    python -m benchmarks.learning FOLDER table

`prepare` renders short films and writes questions about them (`benchmarks.learning_world`). Train and table need the
trainer alone, so FOLDER can be copied to a machine with a GPU without `FOLDER/films`.

A Qwen2.5-VL of random weights is trained with supervised answers (`sft`), tower included, then with chains of thought
(`cot`) and by GRPO (`grpo`), both with a frozen tower. GRPO's films are in no supervised stage, and the films of the
evaluation in no stage. `--control` is GRPO on rewards in random order, or on questions about other films than those
that are shown; the evaluation is the same.

Each stage is a folder, `FOLDER/seed-0/cot`, of a run of the trainer. A stage that is complete is not repeated, one that
was interrupted resumes, and several processes can run different stages at the same time. `--set` changes a setting of
the recipe, and belongs to the stages that are named in the same command. `table` writes `learning.md` and
`learning.svg`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from benchmarks.learning_table import CONTROLS, write_results
from schemas.sample import Sample
from schemas.settings import set_field
from schemas.tables import Split, Video
from tests.trainer_plugin.support import film_row, write_release
from trainer_plugin.data.release import read_videos
from trainer_plugin.distributed.mesh import init_distributed
from trainer_plugin.grpo import GrpoTraining
from trainer_plugin.recipe import Recipe
from trainer_plugin.rl.recipe import GrpoRecipe
from trainer_plugin.sft import Training

STAGES = ("prepare", "sft", "cot", "grpo", "table")
ENGINES = ("auto", "shared_prefix", "sharded", "vllm")
REWARDS = Path(__file__).with_name("learning_rewards.py")


@dataclass(frozen=True)
class Size:
    """Sizes of the model, its input, and the training."""

    layers: int
    width: int
    heads: int
    tower_layers: int
    tower_width: int
    patches: int
    """Temporal patches of a film, two frames each."""
    patch_tokens: int
    """Most tokens of a temporal patch. With 32, a frame has 224 x 112 pixels."""
    row_tokens: int
    """Of the supervised stages."""
    group_tokens: int
    """`row_tokens` of GRPO, which also bounds the engine's memory."""
    step_rows: int
    sft_steps: int
    cot_steps: int
    grpo_steps: int
    rates: tuple[float, float, float]
    """Learning rates of the three stages."""
    prompts: int
    responses: int
    evaluate_every: int
    precision: str
    workers: int
    """Decoder processes of a supervised stage. GRPO decodes each film once and needs fewer."""


SIZES = {
    "gpu": Size(
        layers=5, width=256, heads=4, tower_layers=3, tower_width=192, patches=16, patch_tokens=32, row_tokens=16384,
        group_tokens=8192, step_rows=2, sft_steps=400, cot_steps=150, grpo_steps=100, rates=(1e-3, 4e-4, 2e-4),
        prompts=64, responses=8, evaluate_every=25, precision="bfloat16", workers=4,
    ),
    "cpu": Size(
        layers=3, width=128, heads=2, tower_layers=2, tower_width=96, patches=8, patch_tokens=18, row_tokens=3072,
        group_tokens=3072, step_rows=1, sft_steps=130, cot_steps=100, grpo_steps=45, rates=(2e-3, 1e-3, 3e-4),
        prompts=16, responses=8, evaluate_every=45, precision="float32", workers=0,
    ),
    "tiny": Size(
        layers=2, width=64, heads=2, tower_layers=1, tower_width=32, patches=2, patch_tokens=2, row_tokens=512,
        group_tokens=512, step_rows=1, sft_steps=2, cot_steps=1, grpo_steps=1, rates=(1e-3, 1e-3, 1e-3), prompts=2,
        responses=2, evaluate_every=1, precision="float32", workers=0,
    ),
}  # fmt: skip
PATCH, MERGE = 14, 2
"""Side of a patch in pixels, and of a token in patches."""
MAX_TOKENS = 64
"""Longest response. Chains with their answers have at most 55 tokens."""


# --- the stages


def train_answers(folder: Path, size: Size, seed: int, settings: Sequence[str] = ()) -> Path:
    """Train random weights on the answers of the split `sft`, and return the stage's folder."""
    out = _stage_folder(folder, seed, "sft")
    if not (out / "start/config.json").exists():
        write_model(folder / "tokenizer", out / "start", size, seed)
    values = {
        **_base_recipe(folder / "release", out, size, seed, {"path": str(out / "start")}),
        "trained": {"language_model": True, "projector": True, "vision_tower": True},
        "step_tokens": size.row_tokens * size.step_rows,
        "steps": size.sft_steps,
        "optimizer": {"learning_rate": size.rates[0], "warmup": 0.05, "betas": (0.9, 0.98), "weight_decay": 0.05},
        "evaluation": _evaluation(None, max_tokens=24, before=False),
    }
    values["videos"]["target"] = "answer"
    return _train(values, settings, out)


def train_chains(folder: Path, size: Size, seed: int, settings: Sequence[str] = ()) -> Path:
    """Train the model of `train_answers` on the chains of thought of the same films, with a frozen tower."""
    out = _stage_folder(folder, seed, "cot")
    model = {"path": str(_stage_folder(folder, seed, "sft") / "export")}
    values = {
        **_base_recipe(folder / "release", out, size, seed, model),
        "trained": {"language_model": True, "projector": False, "vision_tower": False},
        "step_tokens": size.row_tokens * size.step_rows,
        "steps": size.cot_steps,
        "optimizer": {"learning_rate": size.rates[1], "warmup": 0.1, "betas": (0.9, 0.98), "weight_decay": 0.05},
        "evaluation": _evaluation(None, before=False),
    }
    return _train(values, settings, out)


def train_by_rewards(
    folder: Path, size: Size, seed: int, engine: str, control: str | None, settings: Sequence[str] = ()
) -> Path:
    """Train the model of `train_chains` with GRPO on the split `rl`, and evaluate on `eval` before, between and after.

    Args:
        control: None, or one of `CONTROLS`.
    """
    out = _stage_folder(folder, seed, "grpo", engine, control)
    release = folder / "release"
    if control == "films":
        release = out / "release"
        swap_films(folder / "release", release)
    reward = "shuffled_right_words" if control == "rewards" else "right_words"
    values = {
        **_base_recipe(release, out, size, seed, {"path": str(_stage_folder(folder, seed, "cot") / "export")}),
        "trained": {"language_model": True, "projector": False, "vision_tower": False},
        "rollout": {
            "prompts": size.prompts,
            "responses": size.responses,
            "max_tokens": MAX_TOKENS,
            "engine": engine,
            "batch_requests": size.prompts,
            "max_rounds": 2,
        },
        "rewards": [{"reward": f"{REWARDS}:{reward}", "weight": 0.9}, {"reward": "format", "weight": 0.1}],
        "row_tokens": size.group_tokens,
        "objective": {"entropy_coefficient": 0.003},
        "steps": size.grpo_steps,
        "optimizer": {"learning_rate": size.rates[2], "schedule": "cosine", "warmup": 0.03, "betas": (0.9, 0.95)},
        "alarms": {"mismatch_k3": None, "entropy": None, "no_signal_steps": None},
        "cache": {"host_gib": 4.0},
        "evaluation": {**_evaluation(size.evaluate_every), "release": str(folder / "release")},
        "export": "none",
    }
    values["videos"]["workers"] = min(2, size.workers)
    return _train(values, settings, out)


def _train(values: dict[str, Any], settings: Sequence[str], out: Path) -> Path:
    """Run a recipe to its end, unless that was done before."""
    for setting in settings:
        set_field(values, setting)
    done = out / "done"
    if done.exists():
        return out
    is_grpo = "rollout" in values
    with GrpoTraining(GrpoRecipe.model_validate(values)) if is_grpo else Training(Recipe.model_validate(values)) as run:
        for _ in run:
            pass
        if not run.ended_by:
            if not is_grpo:
                run.export()
            done.touch()
    return out


def swap_films(release: Path, out: Path) -> None:
    """Write the split `rl` of a release with the questions about each film put to another one.

    Args:
        out: folder of the new release. One that is complete stays as it is.
    """
    if (out / "manifest.json").exists():
        return
    videos: list[Video] = []
    questions: list[tuple[Sample, ...]] = []
    with tempfile.TemporaryDirectory() as films:
        for each in read_videos(str(release), Split.RL):
            path = Path(films) / f"{each.record.video_id}.mp4"
            path.write_bytes(each.video or b"")
            kept = ("duration_us", "fps", "width", "height")
            videos.append(film_row(path).model_copy(update={name: getattr(each.record, name) for name in kept}))
            questions.append(each.record.samples)
        moved = [
            sample.model_copy(update={"video_id": video.video_id, "videos": f"{video.video_id}.mp4"})
            for video, samples in zip(videos, [*questions[1:], *questions[:1]], strict=True)
            for sample in samples
        ]
        write_release(out, videos, moved, videos_per_tar=64)


def _stage_folder(folder: Path, seed: int, stage: str, engine: str = "", control: str | None = None) -> Path:
    return folder / f"seed-{seed}" / "-".join(filter(None, (stage, engine, control)))


def _base_recipe(release: Path, out: Path, size: Size, seed: int, model: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a recipe that the three stages have in common."""
    return {
        "out": str(out),
        "model": dict(model),
        "videos": {
            "release": str(release),
            "frames": {"fps": None, "frames": 2 * size.patches},
            "workers": size.workers,
        },
        "row_tokens": size.row_tokens,
        "precision": size.precision,
        "compile": False,
        "memory": {"checkpointed_layers": 0},
        "checkpoints": {"every_steps": 200, "keep": 1},
        "seed": seed,
    }


def _evaluation(every: int | None, max_tokens: int = MAX_TOKENS, *, before: bool = True) -> dict[str, Any]:
    return {
        "every_steps": every,
        "before": before,
        "requests": 64,
        "max_tokens": max_tokens,
        "baselines": ["text"],
    }


def write_model(tokenizer: Path, out: Path, size: Size, seed: int) -> None:
    """Write a model of random weights with its tokenizer and its video processor.

    The processor never enlarges frames, so that clips and films are shown in the same size.
    """
    torch.manual_seed(seed)
    config = _model_config(tokenizer, size)
    model = AutoModelForImageTextToText.from_config(AutoConfig.for_model(**config))
    shutil.copytree(tokenizer, out, dirs_exist_ok=True)
    area = (PATCH * MERGE) ** 2
    processor = {"min_pixels": area, "max_pixels": size.patch_tokens * area, "patch_size": PATCH, "merge_size": MERGE}
    (out / "video_preprocessor_config.json").write_text(json.dumps(processor))
    model.save_pretrained(out)


def _model_config(tokenizer: Path, size: Size) -> dict[str, Any]:
    tokens = json.loads((tokenizer / "tokenizer.json").read_bytes())
    ids = {each["content"]: each["id"] for each in tokens["added_tokens"]}
    vocabulary = max(*tokens["model"]["vocab"].values(), *ids.values()) + 1
    head = size.width // size.heads
    return {
        "model_type": "qwen2_5_vl",
        "text_config": {
            "hidden_size": size.width,
            "intermediate_size": 3 * size.width,
            "num_hidden_layers": size.layers,
            "num_attention_heads": size.heads,
            "num_key_value_heads": size.heads,
            "vocab_size": vocabulary,
            "bos_token_id": ids["<|im_start|>"],
            "eos_token_id": ids["<|im_end|>"],
            "max_position_embeddings": max(4096, size.row_tokens),
            "rope_parameters": {
                "rope_type": "default",
                "mrope_section": [head // 2 - 2 * (head * 3 // 16), head * 3 // 16, head * 3 // 16],
                "rope_theta": 10000.0,
            },
            "initializer_range": 0.05,
        },
        "vision_config": {
            "depth": size.tower_layers,
            "hidden_size": size.tower_width,
            "intermediate_size": 3 * size.tower_width,
            "num_heads": size.tower_width // 32,
            "out_hidden_size": size.width,
            "fullatt_block_indexes": list(range(size.tower_layers)),
            "window_size": 112,
            "tokens_per_second": 2,
            "initializer_range": 0.05,
        },
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("stages", nargs="+", choices=STAGES, metavar="STAGE", help=", ".join(STAGES))
    parser.add_argument("--films", type=int, default=800)
    parser.add_argument("--workers", type=int, default=2, help="films that are rendered concurrently")
    parser.add_argument("--templates", default="", help="of the questions about films, with commas; all by default")
    parser.add_argument("--seed", type=int, default=0, help="of the films for `prepare`, of the run for the others")
    parser.add_argument("--size", choices=SIZES, default="gpu")
    parser.add_argument("--engine", choices=ENGINES, default="auto")
    parser.add_argument("--control", choices=CONTROLS)
    parser.add_argument("--set", action="append", default=[], metavar="SETTING", help="section.field=value, repeatable")
    given = parser.parse_args()
    folder, size, settings = given.folder.resolve(), SIZES[given.size], given.set
    if "prepare" in given.stages:
        from benchmarks.learning_world import TEMPLATE_NAMES, write_world  # the machine that trains has no renderer

        templates = tuple(filter(None, given.templates.split(","))) or TEMPLATE_NAMES
        if unknown := set(templates) - set(TEMPLATE_NAMES):
            parser.error(f"unknown templates {', '.join(sorted(unknown))}; there are {', '.join(TEMPLATE_NAMES)}")
        print(write_world(folder, given.films, given.seed, given.workers, templates))
    if {"sft", "cot", "grpo"} & set(given.stages):
        torch.set_num_threads(1)
        init_distributed()
    if "sft" in given.stages:
        train_answers(folder, size, given.seed, settings)
    if "cot" in given.stages:
        train_chains(folder, size, given.seed, settings)
    if "grpo" in given.stages:
        train_by_rewards(folder, size, given.seed, given.engine, given.control, settings)
    if "table" in given.stages:
        print(write_results(folder))


if __name__ == "__main__":
    main()

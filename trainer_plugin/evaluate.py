"""Evaluates a model on a release's questions: accuracy by category, kind and video length, with baselines.

    torchrun --nproc-per-node 8 -m trainer_plugin.evaluate MODEL RELEASE [section.field=value]

MODEL is a Hugging Face folder of any supported family. The table is printed, and `out` holds it with every answer. A
second run with the same settings samples only the answers that are missing.
"""

from __future__ import annotations

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until main() handles it, to avoid a traceback during the imports

import argparse
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import torch.distributed as dist

from schemas.base import Model
from schemas.errors import BadInput
from schemas.settings import set_field, validate
from schemas.tables import Split
from trainer_plugin.command import run
from trainer_plugin.distributed.mesh import init_distributed, run_on_all_ranks
from trainer_plugin.evaluation.engine import open_sampler
from trainer_plugin.evaluation.run import evaluate
from trainer_plugin.evaluation.settings import EvaluationSettings
from trainer_plugin.evaluation.table import Evaluation
from trainer_plugin.ops.attention_kernels import Kernel
from trainer_plugin.recipe import ModelSource, Parallelism, VideoData
from trainer_plugin.training.from_recipe import open_samples
from trainer_plugin.training.metrics import console_log
from trainer_plugin.training.model_identity import model_values, tower_identity
from trainer_plugin.training.weights import read_config, read_family, read_tokenizer


class EvaluationRecipe(Model):
    """Configuration of an evaluation."""

    out: str
    """Folder of the answers and the table, on a disk that all hosts share."""
    model: ModelSource
    videos: VideoData
    evaluation: EvaluationSettings = EvaluationSettings()
    parallel: Parallelism = Parallelism()
    precision: Literal["bfloat16", "float32"] = "bfloat16"
    """Type of the model's weights and of its computation."""
    kernel: Kernel = Kernel.AUTO


def load_evaluation(model: str, release: str, settings: Sequence[str] = ()) -> EvaluationRecipe:
    """The configuration of an evaluation. By default `out` is a sibling of the model, `{model}-evaluation`.

    Args:
        settings: overrides of the form `section.field=value`, with values in YAML.

    Raises:
        ConfigError: a field is unknown, or a value is invalid.
    """
    folder = Path(model)
    values: dict[str, Any] = {
        "out": str(folder.with_name(f"{folder.resolve().name}-evaluation")),
        "model": {"path": model},
        "videos": {"release": release, "split": str(Split.EVAL)},
    }
    for setting in settings:
        set_field(values, setting)
    return validate(values, EvaluationRecipe)


def evaluate_recipe(recipe: EvaluationRecipe) -> Evaluation:
    """Load the model and evaluate it. Every rank must call it and gets the same result.

    Raises:
        BadInput: on every rank: the model is of no supported family, its chat template drops thoughts, the release has
            no such split; or as `evaluate`.
    """
    init_distributed(timedelta(minutes=recipe.parallel.timeout_minutes))
    videos, source = recipe.videos, recipe.model
    stored = videos.features
    with console_log():
        config = run_on_all_ranks(lambda: read_config(source))
        family = run_on_all_ranks(lambda: read_family(source, config))
        tokenizer = run_on_all_ranks(lambda: read_tokenizer(source))
        dataset = run_on_all_ranks(lambda: open_samples(videos, family, tokenizer))
        stop_ids = dataset.layout.chat.stop_ids
        with open_sampler(
            source,
            config,
            stop_ids,
            parallelism=recipe.parallel,
            precision=recipe.precision,
            kernel=recipe.kernel,
            workers=videos.workers,
            batch_requests=recipe.evaluation.requests,
        ) as engine:
            if stored and stored.tower != (tower := tower_identity(engine.model)):
                raise BadInput(
                    f"videos.features.tower is {stored.tower!r}, but this model's tower is {tower!r}; unset it"
                )
            values = model_values(engine.model)
            return evaluate(dataset, engine, engine.model.parallel, recipe.evaluation, Path(recipe.out), values)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns its exit status, as listed in docs/trainer.md."""
    parser = argparse.ArgumentParser(prog="trainer_plugin.evaluate", description="Evaluate a model on a release.")
    parser.add_argument("model", help="a Hugging Face folder")
    parser.add_argument("release", help="path or URL, .../releases/{name}/v0001")
    parser.add_argument(
        "settings", nargs="*", metavar="section.field=value", help="out, model, videos, evaluation, parallel, precision"
    )
    given = parser.parse_args(arguments)

    def work() -> int:
        recipe = load_evaluation(given.model, given.release, given.settings)
        evaluation = evaluate_recipe(recipe)
        if dist.get_rank() == 0:
            sys.stdout.write(f"{evaluation.markdown()}\nAnswers and tables: {recipe.out}\n")
            sys.stdout.flush()
        return 0

    return run(work, exit_message="the answers so far are kept; run it again to continue")


if __name__ == "__main__":
    sys.exit(main())

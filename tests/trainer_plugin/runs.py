"""Helpers for tiny supervised runs in tests: recipes, model folders, and log-probabilities of a sample."""

import builtins
import io
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from logging.handlers import BufferingHandler
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForImageTextToText

from trainer_plugin.data.byte_tokenizer import bytes_tokenizer
from trainer_plugin.recipe import Recipe, load_recipe
from trainer_plugin.sft import Training
from trainer_plugin.training.weights import read_config
from trainer_plugin.types import IGNORED, Example

SETTINGS = (
    "videos.target=answer",
    "videos.frames.max_frames=4",
    "videos.frames.max_video_tokens=24",
    "row_tokens=512",
    "step_tokens=1024",
    "optimizer.schedule=constant",
    "export=none",
    "resume_changes=[steps]",
)


def python_path(*folders: Path) -> str:
    """PYTHONPATH for a child process: the given folders, then those of this process."""
    return os.pathsep.join([*map(str, folders), *filter(None, [os.environ.get("PYTHONPATH")])])


def make_recipe(out: Path, url: str, *settings: str) -> Recipe:
    """The demo recipe with short answers; `settings` override it."""
    return load_recipe("demo", [*SETTINGS, f"out={out}", f"videos.release={url}", *settings])


def curve(recipe: Recipe) -> list[float]:
    """Run a recipe and return the loss of each step."""
    with Training(recipe) as training:
        return [metrics.loss for metrics in training]


@contextmanager
def collect_log(module: str) -> Iterator[list[str]]:
    """Collect the messages that a module logs on this rank; the list is filled when the block ends."""
    handler = BufferingHandler(1000)
    messages: list[str] = []
    logger = logging.getLogger(module)
    logger.addHandler(handler)
    try:
        yield messages
    finally:
        logger.removeHandler(handler)
        messages += [record.getMessage() for record in handler.buffer]


@contextmanager
def make_unreadable(name: str, rank: int) -> Iterator[None]:
    """Make files with this name fail to open on one rank, with "Input/output error"."""
    opened = open

    def fail(file, *arguments, **options):
        if isinstance(file, str | os.PathLike) and Path(file).name == name:
            raise OSError(5, "Input/output error", str(file))
        return opened(file, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        if torch.distributed.get_rank() == rank:
            patch.setattr(io, "open", fail)
            patch.setattr(builtins, "open", fail)
        yield


def whole_parameters(training: Training) -> dict[str, Tensor]:
    """Full trainable parameters by name, on every rank."""
    return {
        name: parameter.detach().full_tensor().clone()
        for name, parameter in training.model.model.named_parameters()
        if parameter.requires_grad
    }


def model_folder(folder: Path, seed: int = 5, **text: int) -> Path:
    """Write a Hugging Face folder with the demo model, random weights from `seed`, and a tokenizer."""
    config = read_config(load_recipe("demo", ["out=x", "videos.release=x"]).model)
    config.text_config.update(text)
    torch.manual_seed(seed)
    AutoModelForImageTextToText.from_config(config).save_pretrained(folder)
    bytes_tokenizer().save_pretrained(folder)
    return folder


def change_config(folder: Path, **values: object) -> Path:
    """Replace values in the config.json of a model folder, and return the folder."""
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))
    return folder


def tied_folder(folder: Path) -> Path:
    """Write a `model_folder` whose configuration ties the head to the embeddings.

    Its files hold both tensors, with different values.
    """
    text = json.loads((model_folder(folder) / "config.json").read_text())["text_config"]
    return change_config(folder, tie_word_embeddings=True, text_config={**text, "tie_word_embeddings": True})


def text_log_probs(model: torch.nn.Module, example: Example) -> Tensor:
    """Log-probabilities of the labels of an example without video, from a plain Hugging Face model."""
    logits = model(input_ids=example.input_ids[None], use_cache=False).logits[0, :-1].float().log_softmax(-1)
    targets = example.labels[1:]
    supervised = targets != IGNORED
    return logits[supervised].gather(1, targets[supervised, None])[:, 0]

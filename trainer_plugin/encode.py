"""Encodes a recipe's videos once, for the runs that will see them many times with the same frozen vision tower.

    torchrun --nproc-per-node 8 -m trainer_plugin.encode FEATURES cot_sft model.path=/models/qwen videos.release=URL

Every clip that some sample of the recipe shows is encoded by one rank, which holds the whole tower, so that ranks wait
for each other at the end only. Run again, it encodes what is missing; files of another tower in the folder are an
error. A video that cannot be decoded, or that kills its decoder, is left out, counted and named. What to write into the
recipe, so that training reads the features, is said at the end.
"""

from __future__ import annotations

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until main() takes it: no traceback of the imports

import argparse
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import fsspec
import torch
import torch.distributed as dist
from fsspec.implementations.local import LocalFileSystem
from torch import Tensor

from schemas.errors import BadInput
from trainer_plugin.checkpoint import only_run_in
from trainer_plugin.command import run
from trainer_plugin.dataset import ReleaseDataset
from trainer_plugin.examples import Row, Unusable, VideoClip
from trainer_plugin.features import FeatureFolder
from trainer_plugin.loader import RowLoader
from trainer_plugin.metrics import Progress
from trainer_plugin.model import LongVideoModel, RunOptions
from trainer_plugin.parallel import parallelize, start, together
from trainer_plugin.plan import FrameShare
from trainer_plugin.recipe import Recipe, VideoData, load_recipe, recipe_names
from trainer_plugin.sft import open_samples
from trainer_plugin.weights import build_tower, read_config, read_tokenizer, tower_identity

log = logging.getLogger(__name__)

_PATIENCE = timedelta(hours=24)
"""How long ranks wait for the one with the longest videos."""


@dataclass(frozen=True)
class Encoded:
    """What became of a recipe's clips, over all ranks."""

    tower: str
    """`videos.features.tower` of the recipes that read them."""
    written: int
    found: int
    """Clips that were there already."""
    broken: dict[str, str]
    """Reasons by video that could not be decoded."""
    unusable: int
    """Samples that do not fit into a row, and so show nothing."""


def encode(recipe: Recipe, url: str) -> Encoded:
    """Encode what is missing in a folder. Every rank must call it, and gets the same.

    Raises:
        BadInput: the recipe learns from no videos, or trains the tower or its projector; the model or the data do not
            fit; the folder has features of another tower, or another process is encoding into it.
    """
    if recipe.videos is None:
        raise BadInput("the recipe learns from texts, which have no features")
    if recipe.trained.vision_tower or recipe.trained.projector:
        raise BadInput("features are of a frozen tower; set trained.vision_tower and trained.projector to false")
    device = start(_PATIENCE)
    with ExitStack() as held:
        filesystem, path = fsspec.core.url_to_fs(url)
        if isinstance(filesystem, LocalFileSystem):
            held.enter_context(only_run_in(Path(path)))
        return _encode(recipe, recipe.videos, url, device)


def _encode(recipe: Recipe, videos: VideoData, url: str, device: torch.device) -> Encoded:
    config = together(lambda: read_config(recipe.model))
    parallel = parallelize(1, config.get_text_config(), device, timeout=_PATIENCE)
    model = build_tower(
        recipe.model,
        config,
        parallel,
        compute=getattr(torch, recipe.precision),
        options=RunOptions(vision_patches=recipe.memory.vision_patches, compile=recipe.compile),
        seed=recipe.seed,
    )
    samples = together(lambda: open_samples(videos, model.family, read_tokenizer(recipe.model)))
    folder = FeatureFolder(url, tower_identity(model))
    clips, unusable = clips_of(samples, recipe.row_tokens)
    missing = [clip for clip in clips if clip not in folder]
    found = [clip for clip in clips if clip in folder]
    # All have looked before any writes.
    together(lambda: folder.check(found[parallel.rank :: parallel.world_size]))
    numbers = [clips[clip] for clip in missing[parallel.rank :: parallel.world_size]]
    everyone: list[tuple[int, dict[str, str]]] = [(0, {})] * parallel.world_size
    dist.all_gather_object(everyone, _encode_rows(model, samples, numbers, recipe, folder))
    return Encoded(
        tower=folder.tower,
        written=sum(written for written, _ in everyone),
        found=len(found),
        broken={key: reason for _, broken in everyone for key, reason in broken.items()},
        unusable=unusable,
    )


def clips_of(samples: ReleaseDataset, row_tokens: int) -> tuple[dict[VideoClip, int], int]:
    """The number of the first sample that shows a clip, by clip, the largest first; and how many samples fit no row."""
    first: dict[VideoClip, int] = {}
    unusable = 0
    for number in range(len(samples)):
        try:
            first.setdefault(samples.clip(number, row_tokens), number)
        except Unusable:
            unusable += 1
    largest_first = sorted(first, key=lambda clip: clip.grid.t * clip.grid.h * clip.grid.w, reverse=True)
    return {clip: first[clip] for clip in largest_first}, unusable


@torch.no_grad()
def features_of(model: LongVideoModel, frames: Tensor) -> Tensor:
    """What the tower makes of a clip.

    Args:
        frames: uint8 [n, height, width, 3], whole temporal patches.

    Returns:
        Shape [tokens, hidden * levels], in the host's memory.
    """
    family = model.family
    _, height, width, _ = frames.shape
    grid = family.grid(height, width, len(frames))
    frames_at_once = max(1, model.options.vision_patches // (grid.h * grid.w)) * family.temporal_patch
    found = []
    for piece in frames.split(frames_at_once):
        patches = family.patches(piece.to(model.parallel.device)).to(model.compute_dtype)
        found.append(family.encode(model.model, patches, [family.grid(height, width, len(piece))]).packed().cpu())
    return torch.cat(found)


def _encode_rows(
    model: LongVideoModel, samples: ReleaseDataset, numbers: list[int], recipe: Recipe, folder: FeatureFolder
) -> tuple[int, dict[str, str]]:
    """Write the features of what these samples show. Returns of how many, and reasons by video that was not decoded."""
    assert recipe.videos is not None
    rows = _OneByOne(samples, numbers, recipe.row_tokens)
    written, broken = 0, {}
    family, workers = model.family, recipe.videos.workers
    options: Any = {"resample": family.resample, "square": family.square, "workers": workers, "ahead": 1}
    with closing(Progress("encoding")) as progress, RowLoader(rows, _whole, **options) as loader:
        for done, loaded in enumerate(loader, 1):
            [clip] = loaded.row.examples[0].videos
            for bad in loaded.failures.values():
                broken[clip.video.key] = bad.reason
            if not loaded.failures:
                folder.write(clip, features_of(model, loaded.pixels[0]))
                written += 1
            progress.now(f"encoding clip {done + 1} of {len(numbers)}")
            log.info("clip %d of %d: video %s, %d frames", done, len(numbers), clip.video.key, len(clip.frame_times_us))
    return written, broken


class _OneByOne(Iterator[Row]):
    """A row for each of some samples."""

    def __init__(self, samples: ReleaseDataset, numbers: list[int], row_tokens: int) -> None:
        self.samples = samples
        self.numbers = numbers
        self.row_tokens = row_tokens
        self.given = 0

    def __next__(self) -> Row:
        if self.given == len(self.numbers):
            raise StopIteration
        self.given += 1
        return Row((self.samples.example(self.numbers[self.given - 1], self.row_tokens),), 0)

    def state_dict(self) -> dict[str, Any]:
        return {"given": self.given}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.given = state["given"]


def _whole(row: Row) -> tuple[None, list[FrameShare]]:
    return None, [FrameShare(0, 0, row.examples[0].videos[0].grid.t)]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns its exit status, as docs/trainer.md lists them."""
    parser = argparse.ArgumentParser(prog="trainer_plugin.encode", description="Encode a recipe's videos once.")
    parser.add_argument("url", help="folder or URL of the features, on a disk that all hosts share")
    parser.add_argument("recipe", help=f"a .yaml file, or one of {', '.join(recipe_names())}")
    parser.add_argument("settings", nargs="*", metavar="section.field=value", help="they win over the recipe's values")
    given = parser.parse_args(arguments)

    def work() -> int:
        # Nothing but features is written; a recipe needs an out folder all the same.
        done = encode(load_recipe(given.recipe, [f"out={given.url}", *given.settings]), given.url)
        if dist.get_rank() == 0:
            for key, reason in done.broken.items():
                log.warning("video %s is left out: %s", key, reason)
            log.info(
                "%d clips encoded, %d were there, %d videos broken, %d samples fit no row. In the recipe: "
                "videos.features={url: %s, tower: %s}",
                done.written, done.found, len(done.broken), done.unusable, given.url, done.tower,
            )  # fmt: skip
        return 0

    return run(work, at_once=f"what lies in {given.url} is whole; run it again to encode the rest")


if __name__ == "__main__":
    sys.exit(main())

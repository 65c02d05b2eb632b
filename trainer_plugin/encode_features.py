"""Encodes a recipe's videos once, for runs that read them many times with the same frozen vision tower.

    torchrun --nproc-per-node 8 -m trainer_plugin.encode_features FEATURES cot_sft model.path=/models/qwen
    videos.release=URL

Each clip that a sample of the recipe shows is encoded by one rank, which holds the whole tower. Ranks therefore wait
for each other only at the end. A second run encodes only what is missing. Files of another tower in the folder raise an
error. A video that cannot be decoded, or that crashes its decoder, is skipped, counted and named. At the end the
command logs the setting that makes a recipe read the features.
"""

from __future__ import annotations

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until main() handles it: no traceback of the imports

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
from trainer_plugin.command import run
from trainer_plugin.data.features import FeatureFolder
from trainer_plugin.data.row_loader import RowLoader
from trainer_plugin.data.samples import ReleaseDataset
from trainer_plugin.distributed.mesh import init_distributed, parallelize, run_on_all_ranks
from trainer_plugin.model import LongVideoModel, RunOptions
from trainer_plugin.recipe import Recipe, VideoData, load_recipe, recipe_names
from trainer_plugin.training.checkpoint import lock_run_folder
from trainer_plugin.training.from_recipe import open_samples
from trainer_plugin.training.metrics import Progress
from trainer_plugin.training.model_identity import tower_identity
from trainer_plugin.training.weights import build_tower, read_config, read_tokenizer
from trainer_plugin.types import FrameRange, PackedRow, UnusableSample, VideoClip

log = logging.getLogger(__name__)

_PATIENCE = timedelta(hours=24)
"""How long ranks wait for the rank with the longest videos."""


@dataclass(frozen=True)
class Encoded:
    """Result of encoding a recipe's clips, over all ranks."""

    tower: str
    """Value of `videos.features.tower` for recipes that read these features."""
    written: int
    """Clips encoded by this run."""
    found: int
    """Clips whose features existed before this run."""
    broken: dict[str, str]
    """Videos that could not be decoded: reason by video id."""
    unusable: int
    """Samples that cannot be trained on, e.g. because they do not fit into a row. Their clips are not encoded."""


def encode(recipe: Recipe, url: str) -> Encoded:
    """Encode the clips that a feature folder lacks. Every rank must call it and gets the same result.

    Raises:
        BadInput: the recipe trains on text data, or trains the tower or its projector; the model or the data cannot be
            used; the folder holds features of another tower; or another process is encoding into it.
    """
    if recipe.videos is None:
        raise BadInput("the recipe trains on text data, which has no features")
    if recipe.trained.vision_tower or recipe.trained.projector:
        raise BadInput("features are of a frozen tower; set trained.vision_tower and trained.projector to false")
    device = init_distributed(_PATIENCE)
    with ExitStack() as held:
        filesystem, path = fsspec.core.url_to_fs(url)
        if isinstance(filesystem, LocalFileSystem):
            held.enter_context(lock_run_folder(Path(path)))
        return _encode(recipe, recipe.videos, url, device)


def _encode(recipe: Recipe, videos: VideoData, url: str, device: torch.device) -> Encoded:
    config = run_on_all_ranks(lambda: read_config(recipe.model))
    parallel = parallelize(1, config.get_text_config(), device, timeout=_PATIENCE)
    model = build_tower(
        recipe.model,
        config,
        parallel,
        compute=getattr(torch, recipe.precision),
        options=RunOptions(vision_patches=recipe.memory.vision_patches, compile=recipe.compile),
        seed=recipe.seed,
    )
    samples = run_on_all_ranks(
        lambda: open_samples(videos, model.family, read_tokenizer(recipe.model), with_features=False)
    )
    folder = FeatureFolder(url, tower_identity(model))
    clips, unusable = clips_of(samples, recipe.row_tokens)
    missing = [clip for clip in clips if clip not in folder]
    found = [clip for clip in clips if clip in folder]
    # This collective is also a barrier: every rank has listed the folder before any rank writes to it.
    run_on_all_ranks(lambda: folder.check(found[parallel.rank :: parallel.world_size]))
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
    """Clips of all samples by first sample index, and the number of unusable samples.

    Returns:
        A dict from each clip to the index of the first sample that shows it, the largest clip first, and the number of
        samples that raise `UnusableSample`.
    """
    first: dict[VideoClip, int] = {}
    unusable = 0
    for number in range(len(samples)):
        try:
            first.setdefault(samples.clip(number, row_tokens), number)
        except UnusableSample:
            unusable += 1
    largest_first = sorted(first, key=lambda clip: clip.grid.t * clip.grid.h * clip.grid.w, reverse=True)
    return {clip: first[clip] for clip in largest_first}, unusable


@torch.no_grad()
def features_of(model: LongVideoModel, frames: Tensor) -> Tensor:
    """Encode the frames of one clip with the vision tower and its projector.

    Args:
        frames: uint8, shape [n, height, width, 3]; n is a multiple of the family's temporal patch.

    Returns:
        Shape [tokens, hidden * levels], in host memory.
    """
    family = model.family
    _, height, width, _ = frames.shape
    grid = family.grid(height, width, len(frames))
    frames_per_call = model.temporal_patches_per_call(grid) * family.temporal_patch
    found = []
    for piece in frames.split(frames_per_call):
        patches = family.patches(piece.to(model.parallel.device)).to(model.compute_dtype)
        found.append(family.encode(model.model, patches, [family.grid(height, width, len(piece))]).packed().cpu())
    return torch.cat(found)


def _encode_rows(
    model: LongVideoModel, samples: ReleaseDataset, numbers: list[int], recipe: Recipe, folder: FeatureFolder
) -> tuple[int, dict[str, str]]:
    """Encode the clips that these samples show, and write their features.

    Returns:
        The number of clips written, and the videos that could not be decoded: reason by video id.
    """
    assert recipe.videos is not None
    rows = _SingleSampleRows(samples, numbers, recipe.row_tokens)

    def plan(row: PackedRow) -> tuple[None, list[FrameRange]]:
        return None, [FrameRange(0, 0, row.examples[0].videos[0].grid.t)]

    written, broken = 0, {}
    family, workers = model.family, recipe.videos.workers
    options: Any = {"resample": family.resample, "square": family.square, "workers": workers, "ahead": 1}
    with closing(Progress("encoding")) as progress, RowLoader(rows, plan, **options) as loader:
        for done, row in enumerate(loader, 1):
            [clip] = row.packed.examples[0].videos
            for bad in row.failures.values():
                broken[clip.video.key] = bad.reason
            if not row.failures:
                folder.write(clip, features_of(model, row.pixels[0]))
                written += 1
            progress.update(f"encoding clip {done + 1} of {len(numbers)}")
            log.info("clip %d of %d: video %s, %d frames", done, len(numbers), clip.video.key, len(clip.frame_times_us))
    return written, broken


class _SingleSampleRows(Iterator[PackedRow]):
    """A stream of rows with one sample each."""

    def __init__(self, samples: ReleaseDataset, numbers: list[int], row_tokens: int) -> None:
        self.samples = samples
        self.numbers = numbers
        self.row_tokens = row_tokens
        self.given = 0

    def __next__(self) -> PackedRow:
        if self.given == len(self.numbers):
            raise StopIteration
        self.given += 1
        return PackedRow((self.samples.example(self.numbers[self.given - 1], self.row_tokens),), 0)

    def state_dict(self) -> dict[str, Any]:
        return {"given": self.given}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.given = state["given"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns its exit status, as listed in docs/trainer.md."""
    parser = argparse.ArgumentParser(
        prog="trainer_plugin.encode_features", description="Encode a recipe's videos once."
    )
    parser.add_argument("url", help="folder or URL of the features, on a disk that all hosts share")
    parser.add_argument("recipe", help=f"a .yaml file, or one of {', '.join(recipe_names())}")
    parser.add_argument("settings", nargs="*", metavar="section.field=value", help="override values of the recipe")
    parsed = parser.parse_args(arguments)

    def work() -> int:
        # `out` is a required field of recipes; only features are written to it.
        done = encode(load_recipe(parsed.recipe, [f"out={parsed.url}", *parsed.settings]), parsed.url)
        if dist.get_rank() == 0:
            for key, reason in done.broken.items():
                log.warning("skipping video %s: %s", key, reason)
            log.info(
                "%d clips encoded, %d were there, %d videos broken, %d samples unusable. In the recipe: "
                "videos.features={url: %s, tower: %s}",
                done.written, done.found, len(done.broken), done.unusable, parsed.url, done.tower,
            )  # fmt: skip
        return 0

    return run(work, exit_message=f"the files in {parsed.url} are complete; run it again to encode the rest")


if __name__ == "__main__":
    sys.exit(main())

"""A tiny model family, a tokenizer of single bytes, and releases of numbered films, for the trainer's tests."""

from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast

from operators.store import Store, object_path, sha256_of_file
from schemas.config import Media
from schemas.run import Release
from schemas.tables import QuestionKind, Split, Video
from tests.operators.stages.test_shard import shard
from tests.support.rows import make_sample, make_video
from tests.support.videos import counting_video
from trainer_plugin.bytes_tokenizer import bytes_tokenizer
from trainer_plugin.examples import Grid

FPS = 30
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|video|>"]


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte, and chat and video tokens."""
    return bytes_tokenizer(SPECIAL)


class TinyFamily:
    """The planning half of a family: patches of 16 pixels and two frames, one token each, and a time before each."""

    temporal_patch = 2
    video_token_id = byte_tokenizer().convert_tokens_to_ids("<|video|>")

    def frame_size(self, height: int, width: int, frames: int, max_tokens: int | None = None) -> tuple[int, int]:
        """Half the size, and half of that, until it fits; never less than one patch."""
        while max_tokens is not None and height * width // 256 * (frames // 2) > max_tokens and height > 16:
            height, width = height // 2, width // 2
        return max(16, height // 16 * 16), max(16, width // 16 * 16)

    def grid(self, height: int, width: int, frames: int) -> Grid:
        return Grid(frames // 2, height // 16, width // 16)

    def tokens_per_temporal_patch(self, grid: Grid) -> int:
        return grid.h * grid.w

    def video_ids(self, tokenizer, grid: Grid, frame_times_us, duration_us: int) -> list[int]:
        times = [tokenizer(f"{time / 1e6:.1f}")["input_ids"] for time in frame_times_us[::2]]
        return [id for time in times for id in [*time, *[self.video_token_id] * (grid.h * grid.w)]]

    def positions(self, input_ids, videos):
        return torch.arange(len(input_ids)).expand(3, -1)


def numbered_film(folder: Path, name: str, seconds: float, **options) -> Video:
    """A video row with the truth about its file."""
    path = counting_video(folder / f"{name}.mp4", seconds=seconds, fps=FPS, **options)
    update = {"uri": str(path), "sha256": sha256_of_file(path), "duration_us": round(seconds * 1e6), "fps": float(FPS)}
    return make_video(name).model_copy(update={**update, "width": 160, "height": 64})


def release_of(folder: Path, videos: list[Video], questions: int = 2, media: Media = Media.ORIGINAL) -> str:
    """A release in which every video has some questions, the second of them open; two videos in a tar."""
    samples = [
        make_sample(10 * number + turn, video) for number, video in enumerate(videos) for turn in range(questions)
    ]
    samples = [
        sample.model_copy(
            update={
                "kind": QuestionKind.OPEN,
                "problem": "Who?",
                "question": "Who?",
                "options": (),
                "answer": "<answer>a boat</answer>",
            }
        )
        if turn % questions == 1
        else sample
        for turn, sample in enumerate(samples)
    ]
    files, store = shard(folder, samples, videos, videos_per_tar=2, media=media)
    return publish(store, files, videos=len(videos), samples=len(samples))


def publish(store: Store, files, videos: int, samples: int) -> str:
    """The address of a release of these files."""
    folder = Path(store.root) / "release"
    for file in files:
        (folder / file.path).parent.mkdir(parents=True, exist_ok=True)
        (folder / file.path).write_bytes(store.read(object_path(file.sha256, Path(file.path).suffix)))
    manifest = Release(
        name="demo",
        version=1,
        run_id="run",
        content_sha256="0" * 64,
        samples={Split.SFT: samples},
        videos={Split.SFT: videos},
        files=tuple(files),
    )
    (folder / "manifest.json").write_text(manifest.model_dump_json())
    return str(folder)

"""Test helpers for the trainer: a tiny model family, a byte tokenizer, and releases of films with numbered frames."""

import hashlib
import io
import tarfile
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast

from schemas.arrow import rows_to_parquet
from schemas.config import Media
from schemas.run import Release, ReleaseFile
from schemas.sample import Sample, WebDatasetRecord
from schemas.tables import QuestionKind, Split, Video, VideoCategory
from tests.support.rows import make_sample, make_video
from tests.support.videos import counting_video
from trainer_plugin.data.byte_tokenizer import bytes_tokenizer
from trainer_plugin.types import Grid

FPS = 30
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|video|>"]


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Tokenizer with one token per byte, and chat and video tokens."""
    return bytes_tokenizer(SPECIAL)


class TinyFamily:
    """The planning half of a family: patches of 16 x 16 pixels and two frames, one token each.

    A time precedes the tokens of each temporal patch.
    """

    temporal_patch = 2
    video_token_id = byte_tokenizer().convert_tokens_to_ids("<|video|>")

    def frame_size(self, height: int, width: int, frames: int, max_tokens: int | None = None) -> tuple[int, int]:
        """Halve the size until it fits into `max_tokens`, down to one patch at the least."""
        while max_tokens is not None and height * width // 256 * -(-frames // 2) > max_tokens and height > 16:
            height, width = height // 2, width // 2
        return max(16, height // 16 * 16), max(16, width // 16 * 16)

    def grid(self, height: int, width: int, frames: int) -> Grid:
        return Grid(frames // 2, height // 16, width // 16)

    def tokens_per_temporal_patch(self, grid: Grid) -> int:
        return grid.h * grid.w

    def video_ids(self, tokenizer, grid: Grid, frame_times_us, duration_us: int) -> list[int]:
        times = [tokenizer(f"{time / 1e6:.1f}")["input_ids"] for time in frame_times_us[::2]]
        return [id for time in times for id in [*time, *[self.video_token_id] * (grid.h * grid.w)]]

    def placeholder_ids(self) -> list[int]:
        return [self.video_token_id]

    def positions(self, input_ids, videos):
        return torch.arange(len(input_ids)).expand(3, -1)


def numbered_film(folder: Path, name: str, seconds: float, **options) -> Video:
    """Render a film with numbered frames and return its video row with correct metadata."""
    path = counting_video(folder / f"{name}.mp4", seconds=seconds, fps=FPS, **options)
    return film_row(path).model_copy(
        update={"duration_us": round(seconds * 1e6), "fps": float(FPS), "width": 160, "height": 64}
    )


def film_row(path: Path) -> Video:
    """A video row with the address and the hash of a file; the content is not checked."""
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return make_video(path.stem).model_copy(update={"uri": str(path), "sha256": sha256})


def release_of(
    folder: Path,
    videos: list[Video],
    questions: int = 2,
    media: Media = Media.ORIGINAL,
    problem: str = "Who?",
    eval_videos: int = 0,
) -> str:
    """Write a release with two videos per tar; the second question of each video is an open one.

    The last `eval_videos` videos are in the split `eval`, the others in `sft`.
    """
    splits = [Split.SFT] * (len(videos) - eval_videos) + [Split.EVAL] * eval_videos
    samples = [
        make_sample(10 * number + turn, video, split)
        for number, (video, split) in enumerate(zip(videos, splits, strict=True))
        for turn in range(questions)
    ]
    samples = [
        sample.model_copy(
            update={
                "kind": QuestionKind.OPEN,
                "problem": problem,
                "question": problem,
                "options": (),
                "answer": "<answer>a boat</answer>",
            }
        )
        if turn % questions == 1
        else sample
        for turn, sample in enumerate(samples)
    ]
    return write_release(folder / "release", videos, samples, media=media)


def write_release(
    folder: Path, videos: list[Video], samples: list[Sample], videos_per_tar: int = 2, media: Media = Media.ORIGINAL
) -> str:
    """Write a release as the pipeline's `shard` and `publish` do, and return its address.

    A video is in the split of its samples.

    `tests/operators/release/test_readers.py` tests that releases of the pipeline itself can be read.
    """
    files = []
    split_of = {sample.video_id: sample.split for sample in samples}
    by_split: dict[Split, list[Video]] = {}
    for video in videos:
        by_split.setdefault(split_of[video.video_id], []).append(video)
    for split, own in by_split.items():
        for number, first in enumerate(range(0, len(own), videos_per_tar)):
            group = own[first : first + videos_per_tar]
            path = folder / f"data/{split}/demo-{split}-{number:06d}.tar"
            path.parent.mkdir(parents=True, exist_ok=True)
            sample_count = 0
            with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
                for video in group:
                    record = make_record(video, [sample for sample in samples if sample.video_id == video.video_id])
                    sample_count += len(record.samples)
                    if media is not Media.NONE:
                        _add(tar, f"{video.video_id}.mp4", Path(video.uri).read_bytes())
                    _add(tar, f"{video.video_id}.json", record.model_dump_json().encode())
            files.append(_describe_file(folder, path, split, videos=len(group), samples=sample_count))
        rows = [sample for sample in samples if sample.split is split]
        table = folder / f"parquet/{split}.parquet"
        table.parent.mkdir(exist_ok=True)
        table.write_bytes(rows_to_parquet(rows, Sample))
        files.append(_describe_file(folder, table, split, videos=len(own), samples=len(rows)))
    manifest = Release(
        name="demo",
        version=1,
        run_id="run",
        content_sha256="0" * 64,
        samples={split: sum(sample.split is split for sample in samples) for split in by_split},
        videos={split: len(own) for split, own in by_split.items()},
        files=tuple(files),
    )
    (folder / "manifest.json").write_text(manifest.model_dump_json())
    return str(folder)


def make_record(video: Video, samples: list[Sample]) -> WebDatasetRecord:
    """Content of the `.json` member of a video's record."""
    return WebDatasetRecord(
        video_id=video.video_id,
        split=samples[0].split,
        video_category=VideoCategory.FILM,
        title=f"The {video.video_id}",
        licence="CC0",
        origin="",
        duration_us=video.duration_us,
        fps=video.fps,
        width=video.width,
        height=video.height,
        sha256=video.sha256,
        samples=tuple(samples),
    )


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def _describe_file(folder: Path, path: Path, split: Split, videos: int, samples: int) -> ReleaseFile:
    content = path.read_bytes()
    return ReleaseFile(
        path=str(path.relative_to(folder)),
        sha256=hashlib.sha256(content).hexdigest(),
        bytes=len(content),
        split=split,
        videos=videos,
        samples=samples,
    )

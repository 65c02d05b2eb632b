"""Damaged files: any bytes are read or refused with a reason, in bounded time and memory."""

from collections import Counter
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest

from operators.execution.stage import Context
from operators.process.isolate import run_isolated
from operators.stages import ingest, split
from operators.store.content_store import Store
from operators.video.decode.frames import frames_at
from operators.video.decode.packets import UnreadableVideo
from schemas.config import BuildConfig, ClipMode, SplitConfig
from schemas.tables import Clip, Source, Video
from tests.support.zoo import SAMPLES

FILES = (
    "plain.mp4",
    "fragments.mp4",
    "plain.mkv",
    "vp9.webm",
    "mpeg4.avi",
    "plain.flv",
    "plain.ts",
    "mpeg2.mpg",
    "theora.ogv",
    "wmv2.wmv",
    "plain.gif",
    "hevc.mp4",
)


def mutated(data: bytes, random: Random) -> bytes:
    """A mutation of a file: flipped bits, a truncated end, or a stretch deleted, duplicated or overwritten.

    60 % of the mutations, except truncations, fall in the first 4000 bytes: the rest of a file is mostly content.
    """
    changed = bytearray(data)
    within = len(data) if random.random() < 0.4 else min(len(data), 4000)
    start = random.randrange(within)
    stretch = slice(start, start + random.randrange(1, 400))
    kind = random.choice(("flip", "flip", "flip", "cut", "lose", "double", "noise", "ones"))
    if kind == "flip":
        for _ in range(random.choice((1, 3, 10, 100))):
            changed[random.randrange(within)] ^= 1 << random.randrange(8)
    elif kind == "cut":
        del changed[random.randrange(len(data)) :]
    elif kind == "lose":
        del changed[stretch]
    elif kind == "double":
        changed[start:start] = changed[stretch]
    else:
        size = len(changed[stretch])
        changed[stretch] = b"\xff" * size if kind == "ones" else random.randbytes(size)
    return bytes(changed)


def outcome(path: Path, write_clips: bool) -> str:
    """`read`, or the reason for which the file is refused. Any other exception is a bug."""
    out = path.parent / "out"
    split_config = SplitConfig(mode=ClipMode.FIXED, clip_seconds=1.0, write_clips=write_clips)
    config = BuildConfig(source="films", out=str(out), split=split_config)
    context = Context("fuzz", "film", config, {}, {}, Store(str(out)), path.parent)
    produced = list(ingest.run(context, [Source(source_id="film", uri=str(path), fingerprint="1")]))
    videos = [row for row in produced if isinstance(row, Video)]
    if not videos:
        (reject,) = produced
        return reject.reason
    clips = [row for row in split.run(context, videos) if isinstance(row, Clip)]
    assert clips[-1].end_us == videos[0].duration_us > 0
    times_us = [0, videos[0].duration_us // 2, videos[0].duration_us - 1]
    with suppress(UnreadableVideo):
        for frame in frames_at(path, times_us, side=56):
            assert 0 <= frame.time_us < videos[0].duration_us
    return "read"


def outcomes(folder: Path, file: str, mutations: int) -> Counter[str]:
    """Count the outcomes of all mutations of a sample.

    Clips are written for every fifth mutation only, because they take most of the time.
    """
    whole = next(sample for sample in SAMPLES if sample.file == file).render(folder).read_bytes()
    seen: Counter[str] = Counter()
    for seed in range(mutations):
        target = folder / f"mutated_{file}"
        target.write_bytes(mutated(whole, Random(f"{file} {seed}")))
        try:
            seen[outcome(target, write_clips=seed % 5 == 0)] += 1
        except Exception as error:
            raise AssertionError(f"mutation {seed} of {file}: {error!r}") from error
    return seen


@pytest.mark.parametrize("mutations", [12, pytest.param(50, marks=pytest.mark.slow)])
@pytest.mark.parametrize("file", FILES)
def test_damage_is_survived_or_refused_with_a_reason(tmp_path, file, mutations):
    seen = run_isolated(outcomes, tmp_path, file, mutations, timeout_seconds=280, memory_bytes=2 << 30)
    assert seen.total() == mutations
    assert seen["read"] > 0

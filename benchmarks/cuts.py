"""Measures the cost of cutting, read-back checks included: `python benchmarks/cuts.py [--help]`.

Every video (by default one minute of each rendered film) is cut into clips of about ten seconds in three ways: at key
frames, so that everything is copied; at arbitrary times, so that the edges are encoded; and with everything encoded.
The last is compared with plain ffmpeg, which encodes the same spans with the same options. The video is analysed
beforehand, as in a build. The copies are also made without that analysis, which leaves more for the read-back check to
verify. CPU seconds of all processes are counted.
"""

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import ffmpeg
import numpy as np
from numpy.typing import NDArray

from benchmarks.films import STYLES, film
from benchmarks.metering import cpu_seconds, ffmpeg_cli
from operators.video.analysis.analysis import analyse
from operators.video.clips.cut import ENCODING, SOUND_ENCODING, open_cutter
from operators.video.decode.ffmpeg import run_ffmpeg
from operators.video.decode.probe import VideoProbe, probe

CLIP_US = 10_000_000
NO_CODEC = "anything that is not copied"


def main() -> None:
    arguments = _arguments()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print(f"{'video':24}{'way':12}{'clips':>6}{'CPU s/clip':>12}{'clips/s/core':>14}  how")
        for path in arguments.videos or _render_films(arguments.films or folder, folder):
            video = probe(path)
            bounds = _bounds(video)
            damaged_us = analyse(video).damaged_us
            _report(path, "key frames", *_cut(video, damaged_us, _snap(video, bounds), folder))
            _report(path, "  unseen", *_cut(video, None, _snap(video, bounds), folder))
            _report(path, "anywhere", *_cut(video, damaged_us, bounds, folder))
            encoded = _report(path, "encoded", *_cut(replace(video, codec=NO_CODEC), damaged_us, bounds, folder))
            bare = _report(path, "bare ffmpeg", *_cut_with_ffmpeg(video, bounds, folder))
            print(f"{path.name:24}{'encoded / bare':18}{encoded / bare:12.2f}")


def _render_films(films: Path, folder: Path) -> Iterator[Path]:
    """Yield one minute of each film, with sound."""
    for style in STYLES:
        silent, target = film(films, style, 60), folder / f"{style.name}.mp4"
        ffmpeg_cli("-i", silent, "-f", "lavfi", "-i", "sine=d=60", "-c:v", "copy", "-c:a", "aac", target)
        yield target


def _bounds(video: VideoProbe) -> list[int]:
    """Clip bounds every ten seconds, offset by half a second from the usual key frame positions of encoders."""
    inner = range(CLIP_US + 500_000, video.duration_us - CLIP_US // 2, CLIP_US)
    return [0, *inner, video.duration_us]


def _snap(video: VideoProbe, bounds: list[int]) -> list[int]:
    keys = video.index.key_frame_times_us
    inner = {int(keys[np.abs(keys - bound).argmin()]) for bound in bounds[1:-1]}
    return sorted({0, *inner, video.duration_us})


def _cut(
    video: VideoProbe, damaged_us: NDArray[np.int64] | None, bounds: list[int], folder: Path
) -> tuple[Counter[str], float]:
    ways: Counter[str] = Counter()
    before = cpu_seconds()
    with open_cutter(video, video.index.frame_times_us, damaged_us) as cutter:
        for start_us, end_us in pairwise(bounds):
            ways[cutter.cut(start_us, end_us, folder / "clip.mp4")] += 1
    return ways, cpu_seconds() - before


def _cut_with_ffmpeg(video: VideoProbe, bounds: list[int], folder: Path) -> tuple[Counter[str], float]:
    before = cpu_seconds()
    for start_us, end_us in pairwise(bounds):
        source = ffmpeg.input(str(video.path), ss=start_us / 1e6, t=(end_us - start_us) / 1e6, threads=1)
        options = {**ENCODING, **SOUND_ENCODING} if video.audio_codec else ENCODING
        run_ffmpeg(ffmpeg.output(source, str(folder / "bare.mp4"), **options), timeout_seconds=600)
    return Counter(bare=len(bounds) - 1), cpu_seconds() - before


def _report(path: Path, way: str, ways: Counter[str], seconds: float) -> float:
    clips = ways.total()
    how = ", ".join(f"{count} {name}" for name, count in ways.items())
    print(f"{path.name:24}{way:12}{clips:6}{seconds / clips:12.3f}{clips / seconds:14.2f}  {how}", flush=True)
    return seconds / clips


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", type=Path, nargs="*", metavar="VIDEO")
    parser.add_argument("--films", type=Path, help="folder that keeps the rendered films")
    return parser.parse_args()


if __name__ == "__main__":
    main()

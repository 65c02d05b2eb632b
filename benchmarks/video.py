"""Measures the cost of analysing videos relative to decoding them: `python benchmarks/video.py [--help]`.

Each row of the table runs on the same film, on one core, alternately with the others. It shows CPU seconds, and their
ratio to a plain decode by ffmpeg. The films are rendered first, and kept if a folder is given. `cuts.py` measures
cutting, `long_videos.py` memory and CPU utilization, and `shots.py` the accuracy of shot detection.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.films import STYLES, FilmStyle, film
from benchmarks.metering import ffmpeg_cli, least_cpu_seconds
from benchmarks.passes import key_frames, key_frames_refined, one_pass
from benchmarks.peers import NOT_INSTALLED, READERS
from operators.video.analysis.proxy import FPS, proxy_size
from operators.video.decode.packets import open_video
from operators.video.decode.probe import probe

FFMPEG_DECODE = "ffmpeg decodes, one thread"
ONE_PASS = "index, shots, measures, 2 fps frames"
KEY_FRAMES = "key frames: index, proposed shots"
PEER_PASSES = "PySceneDetect, then ffmpeg for frames"
PEER_START = "  of it, PySceneDetect's start"


def main() -> None:
    arguments = _arguments()
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.films or Path(scratch)
        for style in (STYLES[number] for number in arguments.styles):
            path = film(folder, style, arguments.seconds)
            _report(style, least_cpu_seconds(_rows(path, Path(scratch)), arguments.repeats))
            for reader in READERS:
                _report_peer(reader, path, arguments.peers)
        print(
            f"index of an hour, 640x360: {_index_seconds(film(folder, STYLES[0], 3600), arguments.repeats):.2f} CPU s"
        )


def _rows(path: Path, scratch: Path) -> dict[str, Callable[[], object]]:
    video = probe(path)
    width, height = proxy_size(video.width, video.height)
    frames = f"fps={FPS},scale={width}:{height}:flags=area"
    return {
        FFMPEG_DECODE: lambda: ffmpeg_cli("-threads", "1", "-i", path, "-an", "-f", "null", "-"),
        "ffmpeg decodes, threads of its choice": lambda: ffmpeg_cli("-i", path, "-an", "-f", "null", "-"),
        "PyAV decodes, one thread": lambda: _decode(path),
        "index": lambda: probe(path),
        ONE_PASS: lambda: one_pass(path, workers=1),
        KEY_FRAMES: lambda: key_frames(path),
        "key frames, shots refined": lambda: key_frames_refined(path),
        PEER_PASSES: lambda: _peer_passes(path, scratch, frames),
        PEER_START: lambda: subprocess.run([_scenedetect(), "version"], check=True, capture_output=True),
    }


def _decode(path: Path) -> None:
    with open_video(path) as (container, stream):
        stream.codec_context.thread_count = 1
        for _ in container.decode(stream):
            pass


def _peer_passes(path: Path, scratch: Path, frames: str) -> None:
    found = [_scenedetect(), "-q", "-i", path, "-o", scratch, "detect-adaptive", "list-scenes"]
    subprocess.run(found, check=True, capture_output=True)
    ffmpeg_cli("-threads", "1", "-i", path, "-an", "-vf", frames, "-threads", "1", "-f", "rawvideo", "/dev/null")


def _report(style: FilmStyle, seconds: dict[str, float]) -> None:
    print(f"\n{style.name:44}{'CPU s':>9}{'x decode':>10}")
    for name, cost in seconds.items():
        print(f"{name:44}{cost:9.2f}{cost / seconds[FFMPEG_DECODE]:10.2f}", flush=True)
    theirs, running = seconds[PEER_PASSES], seconds[PEER_PASSES] - seconds[PEER_START]
    print(f"{'one pass / decode (at most 1.3)':44}{seconds[ONE_PASS] / seconds[FFMPEG_DECODE]:19.2f}")
    print(f"{'key frames / decode (at most 0.2)':44}{seconds[KEY_FRAMES] / seconds[FFMPEG_DECODE]:19.2f}")
    print(f"{'their passes / one pass (at least 2.5)':44}{theirs / seconds[ONE_PASS]:19.2f}")
    print(f"{'  without their start':44}{running / seconds[ONE_PASS]:19.2f}", flush=True)


def _report_peer(reader: str, path: Path, python: str) -> None:
    program = [python, Path(__file__).with_name("peers.py"), reader, path]
    ended = subprocess.run(program, capture_output=True, text=True, check=False)
    words = ended.stdout.split() if ended.returncode == 0 else []
    known = words and ended.stdout.strip() != NOT_INSTALLED
    shown = f"{float(words[-1]):9.2f}" if known else f"  {NOT_INSTALLED if words else 'fails here'}"
    print(f"{f'2 fps frames alone, {reader}':44}{shown}", flush=True)


def _index_seconds(path: Path, repeats: int) -> float:
    return least_cpu_seconds({"index": partial(probe, path)}, repeats)["index"]


def _scenedetect() -> str:
    return str(Path(sys.executable).with_name("scenedetect"))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--films", type=Path, help="folder that keeps the rendered films")
    parser.add_argument("--seconds", type=int, default=60, help="length of each film, a multiple of 30")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--styles", type=int, nargs="+", default=range(len(STYLES)), help="numbers of the films")
    parser.add_argument("--peers", default=sys.executable, metavar="PYTHON", help="Python that has the other readers")
    return parser.parse_args()


if __name__ == "__main__":
    main()

"""Small real videos, made with ffmpeg, whose every frame says which one it is.

`counting_video` paints the number of each frame as ten black and white bars, bit by bit; `number_on` reads it back. So
a test can tell whether a cut or a seek shows exactly the right frames, and not merely as many.
"""

import shutil
import subprocess
from pathlib import Path

import av
import numpy as np
import pytest

BITS = 10
BAR = 16
WIDTH, HEIGHT = BITS * BAR, 64
_LUMA = f"if(mod(floor(N/pow(2,floor(X/{BAR}))),2),235,16)"


def make(target: Path, *arguments: str) -> Path:
    """Run ffmpeg with these arguments and the target. Skips the test where there is no ffmpeg."""
    executable = shutil.which("ffmpeg") or pytest.importorskip("imageio_ffmpeg").get_ffmpeg_exe()
    command = [executable, "-nostdin", "-hide_banner", "-loglevel", "error", "-y", *arguments, str(target)]
    subprocess.run(command, check=True)
    return target


def counting_video(
    target: Path, *options: str, seconds: float = 4, fps: int = 30, beep_at: float | None = None
) -> Path:
    """Numbered frames; with `beep_at`, sound that is silent until then. The options go before the output's name."""
    inputs = ["-f", "lavfi", "-i", f"nullsrc=s={WIDTH}x{HEIGHT}:r={fps}:d={seconds},geq='{_LUMA}':128:128"]
    codecs = ["-c:v", "libx264", "-preset", "ultrafast", "-bf", "2", "-g", "25", "-pix_fmt", "yuv420p"]
    if beep_at is not None:
        inputs += ["-f", "lavfi", "-i", f"aevalsrc='gte(t,{beep_at})*sin(2*PI*440*t)':s=48000:d={seconds}"]
        codecs += ["-c:a", "aac"]
    return make(target, *inputs, *codecs, *options)


def noisy_video(target: Path, *options: str, seconds: float = 2) -> Path:
    """A picture that does not compress: 200 kB a second."""
    picture = f"testsrc2=s=160x120:r=25:d={seconds},noise=alls=60:allf=t"
    return make(target, "-f", "lavfi", "-i", picture, "-c:v", "libx264", "-preset", "ultrafast", "-g", "10", *options)


def shots_video(target: Path, lengths: list[float], fps: int = 30) -> Path:
    """Differently coloured moving test pictures, one after another, cut hard."""
    shots = "".join(
        f"testsrc2=s=320x180:r={fps}:d={length},hue=h={67 * shot}:b={(-3, 0, 3)[shot % 3]}[s{shot}];"
        for shot, length in enumerate(lengths)
    )
    joined = "".join(f"[s{shot}]" for shot in range(len(lengths)))
    graph = f"{shots}{joined}concat=n={len(lengths)}"
    return make(target, "-filter_complex", graph, "-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p")


def damage(path: Path, packet: int, begin: float, end: float) -> None:
    """Overwrite a part of a coded frame, without its length."""
    with av.open(str(path)) as container:
        coded = [packet for packet in container.demux(video=0) if packet.size][packet]
    first, last = (4 + round(share * (coded.size - 4)) for share in (begin, end))
    with path.open("r+b") as file:
        file.seek(coded.pos + first)
        file.write(bytes([0xA5] * (last - first)))


def number_on(rgb: np.ndarray) -> int:
    """The number that a frame of `counting_video` shows, in whatever size it is."""
    bars = np.array_split(rgb.mean(axis=(0, 2)), BITS)
    return sum(int(bar.mean() > 128) << bit for bit, bar in enumerate(bars))


def broadcast(target: Path, *codec: str) -> Path:
    """A transport stream of two programmes of two seconds: a small grey picture with 5.1 sound; and numbered frames
    with sound in Finnish and in English. Streams 0 and 1 of the container, and 2, 3 and 4."""
    grey, sound = f"color=gray:s={WIDTH // 2}x{HEIGHT // 2}:r=30:d=2", "sine=r=48000:d=2:f="
    numbers = f"nullsrc=s={WIDTH}x{HEIGHT}:r=30:d=2,geq='{_LUMA}':128:128"
    inputs = [text for each in (grey, numbers, *(f"{sound}{f}" for f in (220, 440, 880))) for text in _lavfi(each)]
    maps = [text for number in range(5) for text in ("-map", str(number))]
    video = codec or ("-c:v", "libx264", "-preset", "ultrafast", "-bf", "2", "-g", "20", "-pix_fmt", "yuv420p")
    languages = ("-metadata:s:a:1", "language=fin", "-metadata:s:a:2", "language=eng")
    programmes = ("-program", "title=small:st=0:st=2", "-program", "title=main:st=1:st=3:st=4")
    return make(target, *inputs, *maps, *video, "-c:a", "aac", "-ac:a:0", "6", *languages, *programmes)


def two_pictures(target: Path, *options: str, large_first: bool = False) -> Path:
    """Numbered frames and, of twice the size, grey ones, as a camera writes a main and a sub stream. Two seconds."""
    numbers = f"nullsrc=s={WIDTH}x{HEIGHT}:r=30:d=2,geq='{_LUMA}':128:128"
    grey = f"color=gray:s={2 * WIDTH}x{2 * HEIGHT}:r=30:d=2"
    inputs = [text for each in (numbers, grey, "sine=r=48000:d=2") for text in _lavfi(each)]
    maps = ("-map", "1", "-map", "0") if large_first else ("-map", "0", "-map", "1")
    codecs = ("-c:v", "libx264", "-preset", "ultrafast", "-g", "20", "-pix_fmt", "yuv420p", "-c:a", "aac")
    return make(target, *inputs, *maps, "-map", "2", *codecs, *options)


def _lavfi(graph: str) -> tuple[str, ...]:
    return "-f", "lavfi", "-i", graph

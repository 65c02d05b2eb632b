"""Small real videos, made with ffmpeg, in which every frame shows its own number.

`counting_video` draws the frame number as ten black and white bars, one per bit, and `number_on` reads it back. A test
can thus check that a cut or a seek shows exactly the right frames, not only the right number of them.
"""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import pytest

BITS = 10
BAR = 16
WIDTH, HEIGHT = BITS * BAR, 64
CHANNELS = {"mono": 1, "stereo": 2, "3.0": 3, "quad": 4, "5.1": 6, "6.1": 7, "7.1(wide)": 8}
_LUMA = f"if(mod(floor(N/pow(2,floor(X/{BAR}))),2),235,16)"


def make(target: Path, *arguments: str) -> Path:
    """Run ffmpeg with these arguments and the target as output. Skips the test if there is no ffmpeg."""
    executable = shutil.which("ffmpeg") or pytest.importorskip("imageio_ffmpeg").get_ffmpeg_exe()
    command = [executable, "-nostdin", "-hide_banner", "-loglevel", "error", "-y", *arguments, str(target)]
    subprocess.run(command, check=True)
    return target


def counting_video(
    target: Path, *options: str, seconds: float = 4, fps: int = 30, beep_at: float | None = None
) -> Path:
    """Write a video of numbered frames. With `beep_at` (seconds), it has sound that is silent until then.

    `options` are ffmpeg output options.
    """
    inputs = ["-f", "lavfi", "-i", f"nullsrc=s={WIDTH}x{HEIGHT}:r={fps}:d={seconds},geq='{_LUMA}':128:128"]
    codecs = ["-c:v", "libx264", "-preset", "ultrafast", "-bf", "2", "-g", "25", "-pix_fmt", "yuv420p"]
    if beep_at is not None:
        inputs += ["-f", "lavfi", "-i", f"aevalsrc='gte(t,{beep_at})*sin(2*PI*440*t)':s=48000:d={seconds}"]
        codecs += ["-c:a", "aac"]
    return make(target, *inputs, *codecs, *options)


def noisy_video(target: Path, *options: str, seconds: float = 2) -> Path:
    """Write a video that hardly compresses: 200 kB per second."""
    picture = f"testsrc2=s=160x120:r=25:d={seconds},noise=alls=60:allf=t"
    return make(target, "-f", "lavfi", "-i", picture, "-c:v", "libx264", "-preset", "ultrafast", "-g", "10", *options)


@dataclass(frozen=True)
class Part:
    """Two seconds of a recording whose format changes between parts."""

    width: int = WIDTH
    height: int = HEIGHT
    filters: str = "null"
    codec: tuple[str, ...] = ("-c:v", "libx264", "-preset", "ultrafast", "-g", "15", "-bf", "2", "-pix_fmt", "yuv420p")
    sound: tuple[str, ...] = ("-c:a", "aac")
    layout: str = "stereo"
    rate: int = 48000


def recording(target: Path, *parts: Part, container: tuple[str, ...] = ("-c", "copy")) -> Path:
    """Join parts like a broadcast: an MPEG transport stream whose clock and frame numbers continue across parts.

    Each part is silent in its first second. If the target is not a `.ts` file, the stream is converted to it with the
    `container` options.
    """
    stream = target.with_suffix(".ts")
    joined = b""
    for number, part in enumerate(parts):
        luma = _LUMA.replace("N/", f"(N+{60 * number})/").replace(f"X/{BAR}", f"X*{BITS}/{part.width}")
        picture = f"nullsrc=s={part.width}x{part.height}:r=30:d=2,geq='{luma}':128:128,{part.filters}"
        channels = "|".join(["gte(t,1)*sin(2*PI*440*t)"] * CHANNELS[part.layout])
        sound = f"aevalsrc='{channels}':s={part.rate}:d=2:c={part.layout}"
        clock = ("-output_ts_offset", str(10 + 2 * number), "-muxdelay", "0", "-muxpreload", "0")
        inputs = ("-f", "lavfi", "-i", picture, "-f", "lavfi", "-i", sound)
        make(stream, *inputs, *part.codec, *part.sound, *clock)
        joined += stream.read_bytes()
    stream.write_bytes(joined)
    return stream if stream == target else make(target, "-i", str(stream), *container)


def shots_video(target: Path, lengths: list[float], fps: int = 30) -> Path:
    """Write a video of shots with these lengths (seconds), separated by hard cuts.

    The shots are moving test patterns in different colours.
    """
    shots = "".join(
        f"testsrc2=s=320x180:r={fps}:d={length},hue=h={67 * shot}:b={(-3, 0, 3)[shot % 3]}[s{shot}];"
        for shot, length in enumerate(lengths)
    )
    joined = "".join(f"[s{shot}]" for shot in range(len(lengths)))
    graph = f"{shots}{joined}concat=n={len(lengths)}"
    return make(target, "-filter_complex", graph, "-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p")


def damage(path: Path, packet: int, begin: float, end: float) -> None:
    """Overwrite the share [begin, end) of a coded frame's bytes, except its four-byte length prefix."""
    with av.open(str(path)) as container:
        coded = [packet for packet in container.demux(video=0) if packet.size][packet]
    first, last = (4 + round(share * (coded.size - 4)) for share in (begin, end))
    with path.open("r+b") as file:
        file.seek(coded.pos + first)
        file.write(bytes([0xA5] * (last - first)))


def number_on(rgb: np.ndarray) -> int:
    """The number that a frame of `counting_video` shows, at any frame size."""
    bars = np.array_split(rgb.mean(axis=(0, 2)), BITS)
    return sum(int(bar.mean() > 128) << bit for bit, bar in enumerate(bars))


def loud_tenths(path: Path) -> tuple[list[int], set[tuple[int, int]]]:
    """Times at which the sound is loud, in tenths of a second from clock zero, and its (rate, channels) pairs."""
    loud, seen = set(), set()
    with av.open(str(path)) as container:
        for frame in container.decode(audio=0):
            assert frame.time is not None
            seen.add((frame.sample_rate, frame.layout.nb_channels))
            for packed in av.AudioResampler("flt").resample(frame):  # PyAV 18 cannot convert eight planes
                places = np.flatnonzero(np.abs(packed.to_ndarray()[0]) > 0.2) // packed.layout.nb_channels
                loud |= {int((frame.time + place / frame.sample_rate) * 10 + 0.5) for place in places}
    return sorted(loud), seen


def broadcast(target: Path, *codec: str) -> Path:
    """Write a transport stream with two programmes of two seconds.

    The first has a small grey picture and 5.1 sound: streams 0 and 1 of the container. The second has numbered frames
    and sound in Finnish and in English: streams 2, 3 and 4.
    """
    grey, sound = f"color=gray:s={WIDTH // 2}x{HEIGHT // 2}:r=30:d=2", "sine=r=48000:d=2:f="
    numbers = f"nullsrc=s={WIDTH}x{HEIGHT}:r=30:d=2,geq='{_LUMA}':128:128"
    inputs = [text for each in (grey, numbers, *(f"{sound}{f}" for f in (220, 440, 880))) for text in _lavfi(each)]
    maps = [text for number in range(5) for text in ("-map", str(number))]
    video = codec or ("-c:v", "libx264", "-preset", "ultrafast", "-bf", "2", "-g", "20", "-pix_fmt", "yuv420p")
    languages = ("-metadata:s:a:1", "language=fin", "-metadata:s:a:2", "language=eng")
    programmes = ("-program", "title=small:st=0:st=2", "-program", "title=main:st=1:st=3:st=4")
    return make(target, *inputs, *maps, *video, "-c:a", "aac", "-ac:a:0", "6", *languages, *programmes)


def two_pictures(target: Path, *options: str, large_first: bool = False) -> Path:
    """Write two seconds of two video streams, as a camera writes a main and a sub stream.

    One stream has numbered frames. The other has grey frames of twice the width and height.
    """
    numbers = f"nullsrc=s={WIDTH}x{HEIGHT}:r=30:d=2,geq='{_LUMA}':128:128"
    grey = f"color=gray:s={2 * WIDTH}x{2 * HEIGHT}:r=30:d=2"
    inputs = [text for each in (numbers, grey, "sine=r=48000:d=2") for text in _lavfi(each)]
    maps = ("-map", "1", "-map", "0") if large_first else ("-map", "0", "-map", "1")
    codecs = ("-c:v", "libx264", "-preset", "ultrafast", "-g", "20", "-pix_fmt", "yuv420p", "-c:a", "aac")
    return make(target, *inputs, *maps, "-map", "2", *codecs, *options)


def _lavfi(graph: str) -> tuple[str, ...]:
    return "-f", "lavfi", "-i", graph


def with_two_sample_entries(target: Path, *sources: Path) -> Path:
    """Join MP4 files into one track that has a sample entry for each of them.

    The sources are H.264 without B-frames at 30 frames per second. Video editors write such files, but ffmpeg cannot.
    See ISO/IEC 14496-12, 8.5.2 (`stsd`) and 8.7.4 (`stsc`).
    """
    entries, chunks, keys = [], [], []
    for source in sources:
        moov = source.read_bytes()
        start = moov.index(b"stsd") + 12
        entries.append(moov[start : start + int.from_bytes(moov[start : start + 4])])
        with av.open(str(source)) as container:
            packets = [packet for packet in container.demux(video=0) if packet.size]
            keys += [packet.is_keyframe for packet in packets]
            chunks.append([bytes(packet) for packet in packets])
    counts = [len(chunk) for chunk in chunks]
    file_type = _box(b"ftyp", b"isom", _ints(512), b"isomavc1")
    media = _box(b"mdat", *(b"".join(chunk) for chunk in chunks))
    offsets = [
        len(file_type) + 8 + sum(len(b"".join(chunk)) for chunk in chunks[:number]) for number in range(len(chunks))
    ]
    sizes = [len(sample) for chunk in chunks for sample in chunk]
    sync = [number + 1 for number, is_key in enumerate(keys) if is_key]
    table = [
        _box(b"stsd", _ints(0, len(entries)), *entries),
        _box(b"stts", _ints(0, 1, sum(counts), 1)),
        _box(b"stss", _ints(0, len(sync), *sync)),
        _box(b"stsc", _ints(0, len(counts)), *(_ints(n + 1, count, n + 1) for n, count in enumerate(counts))),
        _box(b"stsz", _ints(0, 0, len(sizes), *sizes)),
        _box(b"stco", _ints(0, len(offsets), *offsets)),
    ]
    unity = _ints(0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
    duration = sum(counts)
    data = _box(b"dinf", _box(b"dref", _ints(0, 1), _box(b"url ", _ints(1))))
    information = _box(b"minf", _box(b"vmhd", _ints(1, 0, 0)), data, _box(b"stbl", *table))
    handler = _box(b"hdlr", _ints(0, 0), b"vide", bytes(13))
    track = _box(
        b"trak",
        _box(b"tkhd", _ints(3, 0, 0, 1, 0, duration, 0, 0, 0, 0), unity, _ints(WIDTH << 16, HEIGHT << 16)),
        _box(b"mdia", _box(b"mdhd", _ints(0, 0, 0, 30, duration, 0)), handler, information),
    )
    header = _box(b"mvhd", _ints(0, 0, 0, 30, duration, 0x10000, 0x1000000, 0, 0), unity, bytes(24), _ints(2))
    target.write_bytes(file_type + media + _box(b"moov", header, track))
    return target


def _box(kind: bytes, *content: bytes) -> bytes:
    body = b"".join(content)
    return (8 + len(body)).to_bytes(4) + kind + body


def _ints(*numbers: int) -> bytes:
    return b"".join(number.to_bytes(4) for number in numbers)


def write_oriented(target: Path, stored: Path, mirrored: bool, rotation: int, how: str = "matrix") -> Path:
    """Copy a video so that it is shown mirrored and then rotated (degrees, clockwise).

    `how` is `matrix` for a display matrix in the container, or `sei` for display orientation SEI in the frames.
    """
    turn = rotation if mirrored else -rotation % 360  # applied before mirroring
    if how == "matrix":
        matrix = ("-display_rotation", str(turn), *(("-display_hflip",) if mirrored else ()))
        return make(target, *matrix, "-i", str(stored), "-c", "copy")
    sei = f"h264_mp4toannexb,h264_metadata=display_orientation=insert:rotate={turn}" + ":flip=horizontal" * mirrored
    return make(target, "-i", str(stored), "-c", "copy", "-bsf:v", sei)


def plain_video(target: Path, seconds: int) -> Path:
    """Write a grey video of two small frames per second, for tests that need only the times of its frames."""
    source = f"color=c=gray:s=64x48:r=2:d={seconds}"
    return make(target, "-f", "lavfi", "-i", source, "-c:v", "libx264", "-preset", "ultrafast", "-g", "20")

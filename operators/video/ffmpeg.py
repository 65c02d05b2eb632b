"""Runs ffmpeg safely: which executable, and how a stream specification becomes a process.

Guarantees: no shell; file names can act neither as options nor as URLs nor as playlists that lead elsewhere; a process
that takes too long is killed; a failure says which file, how it ended and what ffmpeg printed.
"""

from __future__ import annotations

import errno
import shutil
import signal
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import ffmpeg
import imageio_ffmpeg

CONTAINERS = "mov,matroska,avi,mpegts,mpeg,flv,asf,ogg,mxf,nut,gif,rm,wtv,ivf,dv"
"""Demuxers that may open a source. Playlists and concatenation scripts (hls, dash, concat, sdp, ...) follow references
to other files and addresses, so they are not among them."""

CONFINEMENT = {"protocol_whitelist": "file,pipe", "format_whitelist": CONTAINERS, "fflags": "+genpts"}
"""Options for every input, of the executable and of PyAV alike, so that both see the same times (`genpts` fills in
those that a broadcast's packets lack)."""


LARGEST_FRAME_PIXELS = 100_000_000
"""A decoded frame of more pixels than this is taken for damage or an attack (16K video has 133 million, 8K 33)."""


class FfmpegError(RuntimeError):
    """ffmpeg failed or was killed; the message names the file, the exit and ffmpeg's last words."""


@cache
def ffmpeg_executable() -> str:
    """The system's ffmpeg if there is one on the PATH, else the one that `imageio-ffmpeg` carries.

    Raises:
        FfmpegError: there is neither.
    """
    if found := shutil.which("ffmpeg"):
        return found
    try:
        return imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError as error:
        raise FfmpegError(
            "no ffmpeg found: install it (apt install ffmpeg), or imageio-ffmpeg from a wheel, which carries one"
        ) from error


def file_url(path: Path) -> str:
    """The one spelling of a local file that ffmpeg cannot take for anything else, whatever its name is."""
    return f"file:{path}"


def run_ffmpeg(stream: Any, timeout_seconds: float) -> None:
    """Run an ffmpeg-python stream specification with file inputs and one file output, which is overwritten.

    Raises:
        FfmpegError: ffmpeg ended with an error, or was killed after `timeout_seconds`.
        OSError: there was no space left to write, or the file outgrew the process's limit (RLIMIT_FSIZE).
    """
    *arguments, target = ffmpeg.get_args(stream)
    command = [ffmpeg_executable(), "-nostdin", "-hide_banner", "-loglevel", "error", "-y"]
    command += [*_confined(arguments), _as_file(target)]
    try:
        ended = subprocess.run(command, capture_output=True, timeout=timeout_seconds, check=False)
    except subprocess.TimeoutExpired as error:
        raise FfmpegError(
            f"{target}: ffmpeg did not finish within {timeout_seconds:.0f} s and was killed; "
            f"look at the source or allow more time"
        ) from error
    if ended.returncode == -signal.SIGXFSZ:
        raise OSError(errno.EFBIG, "ffmpeg: the file outgrew the process's limit", target)
    if ended.returncode != 0:
        if b"No space left on device" in ended.stderr:
            raise OSError(errno.ENOSPC, "ffmpeg: no space left on device", target)
        last_words = " | ".join(ended.stderr.decode(errors="replace").strip().splitlines()[-5:])
        raise FfmpegError(f"{target}: ffmpeg ended with {ended.returncode}: {last_words or 'no message'}")


def _confined(arguments: list[str]) -> list[str]:
    """The arguments with every input reduced to a plain file in a known container."""
    confined: list[str] = []
    limits = {**CONFINEMENT, "max_pixels": str(LARGEST_FRAME_PIXELS)}
    options = [text for name, value in limits.items() for text in (f"-{name}", value)]
    rest = iter(arguments)
    for argument in rest:
        confined += [*options, "-i", _as_file(next(rest))] if argument == "-i" else [argument]
    return confined


def _as_file(name: str) -> str:
    return name if name.startswith("file:") else f"file:{name}"

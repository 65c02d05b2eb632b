"""Runs ffmpeg safely: chooses the executable and turns a stream specification into a process.

Guarantees: no shell is used. File names cannot act as options, as URLs or as playlists that refer to other files. A
process that exceeds its time limit is killed. The error of a failed run names the file, the exit status and the last
lines that ffmpeg printed. A failure is blamed on the file only when both ffmpeg and the machine are sound: a source
that could not be read raises `OSError`, and an ffmpeg that cannot encode at all raises `Outage`.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import subprocess
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import av
import ffmpeg
import imageio_ffmpeg

from schemas.errors import Outage
from schemas.storage import READ_ERRORS
from schemas.video.container import CONTAINERS, FILL_IN_TIMES, LARGEST_FRAME_PIXELS

CONFINEMENT = {"protocol_whitelist": "file,pipe", "format_whitelist": CONTAINERS, **FILL_IN_TIMES}
"""Input options, for the executable and for PyAV, so that both see the same times."""

OLDEST_FFMPEG = (5, 1)
"""Oldest supported version: the first with the option `-fps_mode`, which keeps the frame times of a clip."""

ENCODERS = {"libx264": "yuv420p", "libx265": "yuv420p10le", "aac": ""}
"""Encoders that ffmpeg must have, with their input pixel formats: for clips, for HDR clips and for audio."""

_READ_ERROR_WORDS = (*(os.strerror(number).encode() for number in READ_ERRORS), b"I/O error")
"""Read errors in ffmpeg's output. The last one is musl's. Some demuxers print the same words for damaged content."""

_WRITE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)

_CHECK_SECONDS = 60.0


class FfmpegError(RuntimeError):
    """ffmpeg failed or was killed. The message names the file, the exit status and ffmpeg's last lines."""


class FfmpegUnusable(Outage):
    """No ffmpeg on this machine can do the required work. The message gives the reason for each."""


def ffmpeg_executable() -> str:
    """Path of the ffmpeg executable in use.

    The ffmpeg on the PATH is preferred if it is recent enough, else the one of `imageio-ffmpeg` is used.

    Raises:
        FfmpegUnusable: no ffmpeg is installed, or each one is too old or cannot be started.
    """
    return _choose_ffmpeg()[0]


def ffmpeg_version() -> str:
    """Name and version of the ffmpeg in use, such as `ffmpeg 7.1.1`. Builds of one version count as the same.

    Raises:
        FfmpegUnusable: no ffmpeg is installed, or each one is too old or cannot be started.
    """
    return f"ffmpeg {_choose_ffmpeg()[1]}"


def pyav_version() -> str:
    """Name and version of PyAV. Each of its wheels bundles the libraries of one ffmpeg version."""
    return f"PyAV {av.__version__}"


@cache
def _choose_ffmpeg() -> tuple[str, str]:
    """Path and version of the executable."""
    problems = []
    for path in filter(None, (shutil.which("ffmpeg"), _bundled_ffmpeg())):
        try:
            printed = subprocess.run([path, "-version"], capture_output=True, timeout=_CHECK_SECONDS, check=True).stdout
        except (OSError, subprocess.SubprocessError) as error:
            problems.append(f"{path} cannot be started ({error})")
            continue
        version = printed.decode(errors="replace").partition("ffmpeg version ")[2].partition(" ")[0]
        if match := re.match(r"n?(\d+(?:\.\d+)+)", version):  # development builds have no release number
            version = match[1]
            if tuple(map(int, version.split("."))) < OLDEST_FFMPEG:
                problems.append(f"{path} is version {version}, at least {'.'.join(map(str, OLDEST_FFMPEG))} is needed")
                continue
        return path, version
    raise FfmpegUnusable(
        f"{'; '.join(problems) or 'there is no ffmpeg'}: install a newer one (apt install ffmpeg), or imageio-ffmpeg "
        f"from a wheel, which carries one"
    )


def _bundled_ffmpeg() -> str | None:
    try:
        return imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError:
        return None


def check_ffmpeg() -> None:
    """Encode 0.4 s of video and audio with every encoder that clips need.

    Raises:
        FfmpegUnusable: ffmpeg cannot be started, or one of the encoders fails.
    """
    command = [ffmpeg_executable(), "-nostdin", "-hide_banner", "-loglevel", "error"]
    command += ["-f", "lavfi", "-i", "color=size=64x64:rate=5:duration=0.4", "-f", "lavfi", "-i", "anullsrc"]
    for encoder, pixel_format in ENCODERS.items():
        picture = ["-map", "0:v", "-c:v", encoder, "-pix_fmt", pixel_format, "-fps_mode", "passthrough"]
        command += [*(picture if pixel_format else ["-map", "1:a", "-c:a", encoder]), "-t", "0.4", "-f", "null", "-"]
    try:
        ended = subprocess.run(command, capture_output=True, timeout=_CHECK_SECONDS, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        raise FfmpegUnusable(f"{command[0]} cannot be started: {error}") from error
    if ended.returncode != 0:
        raise FfmpegUnusable(
            f"{command[0]} ({ffmpeg_version()}) cannot encode {', '.join(ENCODERS)}: {_last_lines(ended)}; install "
            f"one that can (apt install ffmpeg), or take it off the PATH for the one that imageio-ffmpeg carries"
        )


def file_url(path: Path) -> str:
    """The URL of a local file, which ffmpeg cannot mistake for an option, protocol or pattern."""
    return f"file:{path}"


class CheckedFile:
    """A local file for PyAV to read, which records failed reads. Use it as a context manager.

    libavformat forgets that a read failed. Most demuxers take a failed read (a bad sector, a network mount that does
    not respond) for the end of the file, and the part read so far for a shorter video.

    Raises:
        OSError: the file cannot be opened. On exit from the context, also in place of another error: it could not be
            read up to its size.
    """

    def __init__(self, path: Path) -> None:
        self.name = file_url(path)
        self._path = path
        self._file = path.open("rb", buffering=0)
        self._failure: OSError | None = None

    def read(self, size: int) -> bytes:
        try:
            data = self._file.read(size)
            if not data and self.tell() < os.fstat(self._file.fileno()).st_size:
                raise OSError(errno.EIO, "a read returned nothing before the end of the file")
        except OSError as error:
            self._failure = self._failure or error
            return b""
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        if self._failure is not None:
            raise OSError(self._failure.errno, self._failure.strerror, str(self._path)) from self._failure


def run_ffmpeg(stream: Any, timeout_seconds: float) -> None:
    """Run an ffmpeg-python stream specification with file inputs and one output file, which is overwritten.

    Raises:
        FfmpegError: ffmpeg exited with an error, or was killed after `timeout_seconds`.
        FfmpegUnusable: ffmpeg fails whatever the input is.
        OSError: an input could not be read, the disk is full, the output exceeded the process's file size limit
            (RLIMIT_FSIZE), or ffmpeg was killed by another process.
    """
    *arguments, target = ffmpeg.get_args(stream)
    command = [ffmpeg_executable(), "-nostdin", "-hide_banner", "-loglevel", "error", "-y"]
    command += [*_confine_inputs(arguments), _as_file(target)]
    ended = _run(command, target, timeout_seconds)
    if any(words in ended.stderr for words in _READ_ERROR_WORDS):  # also after exit 0 with part of the input
        for option, name in pairwise(arguments):
            if option == "-i":
                _read_whole(Path(name.removeprefix("file:")))
        ended = _run(command, target, timeout_seconds)  # inputs are readable: the result is now about their content
    if ended.returncode == -signal.SIGXFSZ:
        raise OSError(errno.EFBIG, "ffmpeg: the file outgrew the process's limit", target)
    if ended.returncode in (-signal.SIGKILL, -signal.SIGBUS):
        name = signal.Signals(-ended.returncode).name
        raise OSError(errno.ENOMEM, f"ffmpeg was ended by {name}, as when the machine is out of memory", target)
    if ended.returncode != 0:
        if b"No space left on device" in ended.stderr:
            raise OSError(errno.ENOSPC, "ffmpeg: no space left on device", target)
        check_ffmpeg()
        raise FfmpegError(f"{target}: ffmpeg ended with {ended.returncode}: {_last_lines(ended)}")


def _run(command: list[str], target: str, timeout_seconds: float) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(command, capture_output=True, timeout=timeout_seconds, check=False)
    except OSError as error:
        raise FfmpegUnusable(f"{command[0]} cannot be started: {error}; is the machine out of memory?") from error
    except subprocess.TimeoutExpired as error:
        raise FfmpegError(
            f"{target}: ffmpeg did not finish within {timeout_seconds:.0f} s and was killed; "
            f"check the source or raise the time limit"
        ) from error


def raise_write_error(error: Exception) -> None:
    """Re-raise a PyAV error whose cause is that the output could not be written.

    Such an error (disk full, quota exceeded, read-only file system, file size limit) has nothing to do with the video
    that is read. Other errors are ignored.
    """
    if isinstance(error, OSError) and error.errno in _WRITE_ERRORS:
        raise error


def _read_whole(path: Path) -> None:
    """Read a file to its end.

    Raises:
        OSError: the file cannot be read to its end.
    """
    with CheckedFile(path) as file:
        while file.read(1 << 20):
            pass


def _last_lines(ended: subprocess.CompletedProcess[bytes]) -> str:
    return " | ".join(ended.stderr.decode(errors="replace").strip().splitlines()[-5:]) or "no message"


def _confine_inputs(arguments: list[str]) -> list[str]:
    """The arguments with every input restricted to a plain file in a known container."""
    confined: list[str] = []
    limits = {**CONFINEMENT, "max_pixels": str(LARGEST_FRAME_PIXELS)}
    options = [text for name, value in limits.items() for text in (f"-{name}", value)]
    rest = iter(arguments)
    for argument in rest:
        confined += [*options, "-i", _as_file(next(rest))] if argument == "-i" else [argument]
    return confined


def _as_file(name: str) -> str:
    return name if name.startswith("file:") else f"file:{name}"

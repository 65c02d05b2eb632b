"""Unpacks AVI files that store a B-frame in the packet of the previous frame (DivX's "packed bitstream").

AVI has one time per chunk and no presentation times. DivX and XviD therefore store a B-frame in one packet with the
later frame that it refers to, and an empty frame ("n-vop") in its place. Decoders find these B-frames, but not their
times. ffmpeg's filter `mpeg4_unpack_bframes` gives each frame its own packet again. Nothing is decoded or lost.
"""

from __future__ import annotations

import re
from itertools import islice
from pathlib import Path

import ffmpeg

from operators.video.decode.ffmpeg import FfmpegError, file_url, run_ffmpeg
from operators.video.decode.packets import UnreadableVideo, open_video, packets_of

_PACKED = re.compile(rb"DivX\d+(?:b|Build)\d+p")
"""User data by which the encoders mark such a stream, as parsed by libavcodec/mpeg4videodec.c."""

_MARKED_PACKETS = 32
"""Number of packets that are searched for the mark. It precedes the first frame or the first complete one."""

_SECONDS = 3600.0


def unpack(path: Path, folder: Path) -> Path:
    """Return the file itself or, if it has a packed bitstream, an unpacked copy in `folder`.

    The copy has the same frames, each in its own packet.

    Raises:
        UnreadableVideo: the file cannot be opened, or `damaged` when ffmpeg cannot unpack it.
    """
    with path.open("rb") as file:
        if file.read(12)[8:] != b"AVI ":
            return path
    with open_video(path) as (container, stream):
        opening = islice(packets_of(container, [stream]), _MARKED_PACKETS)
        if stream.codec_context.name != "mpeg4" or not any(_PACKED.search(bytes(packet)) for packet in opening):
            return path
    folder.mkdir(exist_ok=True)
    options = {"c": "copy", "map": 0, "bsf:v": "mpeg4_unpack_bframes", "fflags": "+bitexact"}
    try:
        run_ffmpeg(ffmpeg.output(ffmpeg.input(file_url(path)), file_url(folder / path.name), **options), _SECONDS)
    except FfmpegError as error:
        raise UnreadableVideo("damaged", f"{path.name}: its packed B-frames cannot be unpacked: {error}") from error
    return folder / path.name

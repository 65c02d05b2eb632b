"""Makes AVI files readable that hide a B-frame in the packet of the frame before (DivX's "packed bitstream").

AVI has one time for each chunk and none of presentation, so DivX and XviD put a B-frame together with the later frame
that it refers to, and an empty frame ("n-vop") where it belongs. Decoders find them, but not their times. ffmpeg's
filter `mpeg4_unpack_bframes` gives each frame a packet of its own again; nothing is decoded or lost.
"""

from __future__ import annotations

import re
from itertools import islice
from pathlib import Path

import ffmpeg

from operators.video.ffmpeg import FfmpegError, file_url, run_ffmpeg
from operators.video.packets import UnreadableVideo, open_video, packets_of

_PACKED = re.compile(rb"DivX\d+(?:b|Build)\d+p")
"""User data by which the encoders mark such a stream, as libavcodec/mpeg4videodec.c reads it."""

_MARKED_PACKETS = 32
"""How many packets are searched for the mark; it stands before the first frame, or the first whole one."""

_SECONDS = 3600.0


def unpack(path: Path, folder: Path) -> Path:
    """The file itself; or, if it is such an AVI, one in this folder with the same frames, each in a packet of its own.

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

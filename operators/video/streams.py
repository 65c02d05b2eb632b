"""Chooses the streams of a file once: the one picture that is watched and published, and the sounds that go with it.

Files hold several pictures: the programmes of a broadcast, a main and a sub stream of a camera, covers and previews.
Whoever opens a video asks here, so that what is decoded, cut, copied and checked is one and the same stream, and no
program is left to its own automatic choice (ffmpeg's is the most pixels for a picture, the most channels for sound,
each for itself, so that they may be of two programmes).

The choice depends on the container's list of streams alone, so it is the same at every opening of the same bytes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Disposition, Stream
from av.video.stream import VideoStream

_STILL = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image | Disposition.dependent
"""Covers, previews and pictures for single moments; and enhancement layers, which show nothing by themselves."""

_NOT_MAIN = Disposition.visual_impaired | Disposition.hearing_impaired | Disposition.comment | Disposition.karaoke
"""Sound that few people want to hear with the picture."""

_SAMPLE_AES = (0xDB, 0xCF, 0xC1, 0xC2)
"""Stream types of encrypted H.264, AAC, AC-3 and E-AC-3 (Apple, "MPEG-2 Stream Encryption Format for HTTP Live
Streaming", 2.4)."""

_TS_PACKET = 188
_TS_SYNC = 0x47
_TS_PROBED_BYTES = 5_000_000
"""How far programmes are looked for: as far as libavformat looks for streams (`probesize`)."""


def moving_pictures(container: InputContainer) -> list[VideoStream]:
    """The video streams that show a film and can be decoded, the one to be used first.

    That is the `default` stream where exactly one is marked so (Matroska marks all unless told otherwise), else the one
    with the most pixels, of those the first in the container. A stream that is known to hold one frame comes last.
    """
    streams = [stream for stream in container.streams.video if not stream.disposition & _STILL]
    streams = [stream for stream in streams if stream.codec_context is not None]
    defaults = [stream for stream in streams if stream.disposition & Disposition.default]

    def rank(stream: VideoStream) -> tuple[bool, bool, int, int]:
        pixels = stream.codec_context.width * stream.codec_context.height
        return stream.frames == 1, [stream] != defaults, -pixels, stream.index

    return sorted(streams, key=rank)


def has_moving_picture(container: InputContainer) -> bool:
    """Is there a video stream that shows a film, whether or not it can be decoded?"""
    return any(not stream.disposition & _STILL for stream in container.streams.video)


def sounds_with(container: InputContainer, picture: VideoStream) -> list[AudioStream]:
    """The sound that goes with a picture and can be decoded, the main one first.

    A broadcast's other programmes have sound of their own, which does not. The main one is a `default` stream, not for
    the impaired nor a comment, with the most channels, the first in the container: in this order.
    """

    def rank(stream: AudioStream) -> tuple[bool, bool, int, int]:
        is_default = bool(stream.disposition & Disposition.default)
        return not is_default, bool(stream.disposition & _NOT_MAIN), -stream.codec_context.channels, stream.index

    programmes = _programmes(container)
    return sorted(
        (
            stream
            for stream in container.streams.audio
            if stream.codec_context is not None and _go_together(picture, stream, programmes)
        ),
        key=rank,
    )


def _go_together(picture: Stream, sound: Stream, programmes: list[set[int]]) -> bool:
    """What no programme names goes with every picture."""
    of_sound = [programme for programme in programmes if sound.id in programme]
    of_picture = [programme for programme in programmes if picture.id in programme]
    return not of_sound or not of_picture or any(programme in of_picture for programme in of_sound)


def _programmes(container: InputContainer) -> list[set[int]]:
    """Which streams (by `Stream.id`) belong together. Of the containers that are read, MPEG-TS alone has programmes."""
    if container.format.name != "mpegts":
        return []
    with Path(container.name.removeprefix("file:")).open("rb") as file:
        data = file.read(_TS_PROBED_BYTES)
    programmes: dict[int, set[int]] = {}
    for programme, _, pid in _mapped_streams(data):
        programmes.setdefault(programme, set()).add(pid)
    return list(programmes.values())


def encrypted_ids(path: Path) -> set[int]:
    """Which streams (by `Stream.id`) of an MPEG transport stream are encrypted, by HLS or by a broadcaster."""
    with path.open("rb") as file:
        data = file.read(_TS_PROBED_BYTES)
    packets, scrambled = Counter[int](), Counter[int]()
    for packet in _ts_packets(data):
        pid = int.from_bytes(packet[1:3]) & 0x1FFF
        packets[pid] += 1
        scrambled[pid] += packet[3] >> 7  # transport_scrambling_control: ISO/IEC 13818-1, 2.4.3.3
    return {pid for pid in packets if 2 * scrambled[pid] > packets[pid]} | {
        pid for _, kind, pid in _mapped_streams(data) if kind in _SAMPLE_AES
    }


def _mapped_streams(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Programmes, with the types and PIDs of their streams, of the programme maps (PMT; ISO/IEC 13818-1, 2.4.4.8)."""
    for section in _sections(data):
        if section[0] == 2:
            programme = int.from_bytes(section[3:5])
            position = 12 + (int.from_bytes(section[10:12]) & 0xFFF)
            while position + 5 <= len(section) - 4:
                yield programme, section[position], int.from_bytes(section[position + 1 : position + 3]) & 0x1FFF
                position += 5 + (int.from_bytes(section[position + 3 : position + 5]) & 0xFFF)


def _sections(data: bytes) -> Iterator[bytes]:
    """The tables of a transport stream that list programmes (PAT) and their streams (PMT; ISO/IEC 13818-1, 2.4.4)."""
    begun: dict[int, bytearray] = {0: bytearray()}
    for packet in _ts_packets(data):
        pid = int.from_bytes(packet[1:3]) & 0x1FFF
        if pid not in begun or not packet[3] & 0x10:
            continue
        payload = packet[5 + packet[4] :] if packet[3] & 0x20 else packet[4:]
        if packet[1] & 0x40 and payload:  # a section begins, after the end of the one before
            begun[pid] = bytearray(payload[1 + payload[0] :])
        else:
            begun[pid] += payload
        section = begun[pid]
        if len(section) < 12 or len(section) < 3 + (int.from_bytes(section[1:3]) & 0xFFF):
            continue
        section = section[: 3 + (int.from_bytes(section[1:3]) & 0xFFF)]
        begun[pid] = bytearray()
        if pid == 0:
            for position in range(8, len(section) - 7, 4):
                begun.setdefault(int.from_bytes(section[position + 2 : position + 4]) & 0x1FFF, bytearray())
        yield bytes(section)


def _ts_packets(data: bytes) -> Iterator[bytes]:
    """Of 188 bytes each, however far apart they lie: 192 in M2TS, 204 with error correction."""
    for size in (_TS_PACKET, 192, 204):
        for first in range(min(size, len(data))):
            if all(data[first + number * size : first + number * size + 1] == b"\x47" for number in range(5)):
                for position in range(first, len(data) - _TS_PACKET + 1, size):
                    if data[position] == _TS_SYNC:
                        yield data[position : position + _TS_PACKET]
                return

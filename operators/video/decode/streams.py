"""Chooses the audio streams that belong to the video stream of `schemas.video.container.moving_pictures`.

Files may hold several video streams: the programmes of a broadcast, the main and sub stream of a camera, covers and
previews. Every caller that opens a video uses these two functions, so that one and the same stream is decoded, cut,
copied and checked. No program applies its own automatic choice. ffmpeg, for example, takes the video stream with the
most pixels and the audio stream with the most channels independently, so they may belong to two programmes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Disposition, Stream
from av.video.stream import VideoStream

_NOT_MAIN = Disposition.visual_impaired | Disposition.hearing_impaired | Disposition.comment | Disposition.karaoke
"""Audio that few viewers want to hear with the video."""

_SAMPLE_AES = (0xDB, 0xCF, 0xC1, 0xC2)
"""Stream types of encrypted H.264, AAC, AC-3 and E-AC-3 (Apple, "MPEG-2 Stream Encryption Format for HTTP Live
Streaming", 2.4)."""

_TS_PACKET = 188
_TS_SYNC = 0x47
_TS_PROBED_BYTES = 5_000_000
"""Bytes searched for programmes: as many as libavformat searches for streams (`probesize`)."""


def sounds_with(container: InputContainer, picture: VideoStream) -> list[AudioStream]:
    """The decodable audio streams that belong to a video stream, the main one first.

    Audio of a broadcast's other programmes does not belong to it. The streams are sorted by these criteria, in this
    order: `default` streams, streams that are neither commentary nor for the impaired nor karaoke, more channels,
    earlier in the container.
    """

    def rank(stream: AudioStream) -> tuple[bool, bool, int, int]:
        is_default = bool(stream.disposition & Disposition.default)
        return not is_default, bool(stream.disposition & _NOT_MAIN), -stream.codec_context.channels, stream.index

    programmes = _programmes(container)
    return sorted(
        (
            stream
            for stream in container.streams.audio
            if stream.codec_context is not None and _share_programme(picture, stream, programmes)
        ),
        key=rank,
    )


def _share_programme(picture: Stream, sound: Stream, programmes: list[set[int]]) -> bool:
    """Whether two streams belong to each other: they share a programme, or one of them is in no programme."""
    of_sound = [programme for programme in programmes if sound.id in programme]
    of_picture = [programme for programme in programmes if picture.id in programme]
    return not of_sound or not of_picture or any(programme in of_picture for programme in of_sound)


def _programmes(container: InputContainer) -> list[set[int]]:
    """Sets of streams, by `Stream.id`, that form one programme each.

    Of the containers that are read, only MPEG-TS has programmes.
    """
    if container.format.name != "mpegts":
        return []
    with Path(container.name.removeprefix("file:")).open("rb") as file:
        data = file.read(_TS_PROBED_BYTES)
    programmes: dict[int, set[int]] = {}
    for programme, _, pid in _mapped_streams(data):
        programmes.setdefault(programme, set()).add(pid)
    return list(programmes.values())


def encrypted_ids(path: Path) -> set[int]:
    """Ids (`Stream.id`) of the encrypted streams of an MPEG transport stream.

    HLS SAMPLE-AES is detected, and scrambling by a broadcaster if it covers most packets of a stream.
    """
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
    """Yield (programme number, stream type, PID) from the programme map tables (PMT; ISO/IEC 13818-1, 2.4.4.8)."""
    for section in _sections(data):
        if section[0] == 2:
            programme = int.from_bytes(section[3:5])
            position = 12 + (int.from_bytes(section[10:12]) & 0xFFF)
            while position + 5 <= len(section) - 4:
                yield programme, section[position], int.from_bytes(section[position + 1 : position + 3]) & 0x1FFF
                position += 5 + (int.from_bytes(section[position + 3 : position + 5]) & 0xFFF)


def _sections(data: bytes) -> Iterator[bytes]:
    """Yield the PAT and PMT sections of a transport stream (ISO/IEC 13818-1, 2.4.4).

    They list the programmes and the streams of each programme.
    """
    begun: dict[int, bytearray] = {0: bytearray()}
    for packet in _ts_packets(data):
        pid = int.from_bytes(packet[1:3]) & 0x1FFF
        if pid not in begun or not packet[3] & 0x10:
            continue
        payload = packet[5 + packet[4] :] if packet[3] & 0x20 else packet[4:]
        if packet[1] & 0x40 and payload:  # start of a section, after the end of the one before
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
    """Yield the packets of a transport stream, 188 bytes each.

    The packet spacing is detected: 188 bytes, 192 in M2TS, or 204 with error correction.
    """
    for size in (_TS_PACKET, 192, 204):
        for first in range(min(size, len(data))):
            if all(data[first + number * size : first + number * size + 1] == b"\x47" for number in range(5)):
                for position in range(first, len(data) - _TS_PACKET + 1, size):
                    if data[position] == _TS_SYNC:
                        yield data[position : position + _TS_PACKET]
                return

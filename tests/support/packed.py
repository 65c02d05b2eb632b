"""AVI files with a packed bitstream, which ffmpeg cannot write."""

from fractions import Fraction
from pathlib import Path

import av

VOP, USER_DATA = b"\0\0\1\xb6", b"\0\0\1\xb2"
N_VOP = VOP + bytes((0b0101_0000, 0b0100_1111))
"""A P-VOP that is not coded, at the first of 30 ticks in a second (ISO/IEC 14496-2, 6.2.5)."""


def packed(target: Path, source: Path) -> Path:
    """Write an AVI's MPEG-4 video as a packed bitstream, as DivX does.

    Each B-frame is in the packet of the frame before it, and a VOP that is not coded takes its place.
    """
    with av.open(str(source)) as container, av.open(str(target), "w", format="avi") as output:
        stream = container.streams.video[0]
        written = output.add_stream_from_template(stream, opaque=True)
        frames = [bytes(packet) for packet in container.demux(stream) if packet.size]
        chunks = []
        for frame in frames:
            if frame[frame.index(VOP) + 4] >> 6 == 2:  # a B-frame
                chunks[-1] += frame
                chunks.append(N_VOP)
            else:
                chunks.append(frame)
        for number, chunk in enumerate(chunks):
            if USER_DATA in chunk:
                begin = chunk.index(USER_DATA)
                chunk = chunk[:begin] + USER_DATA + b"DivX503b1393p" + chunk[chunk.index(b"\0\0\1", begin + 4) :]
            packet = av.Packet(chunk)
            packet.pts = packet.dts = number
            packet.time_base, packet.is_keyframe, packet.stream = Fraction(1, 30), chunk[0:4] != VOP, written
            output.mux(packet)
    return target

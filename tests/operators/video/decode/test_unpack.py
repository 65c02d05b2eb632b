from fractions import Fraction

import av
import pytest

from operators.video.clips.cut import cut_clip
from operators.video.decode.frames import frames_at
from operators.video.decode.probe import probe
from operators.video.decode.unpack import unpack
from tests.support.videos import counting_video, number_on

VOP, USER_DATA = b"\0\0\1\xb6", b"\0\0\1\xb2"
N_VOP = VOP + bytes((0b0101_0000, 0b0100_1111))
"""A P-VOP that is not coded, at the first of 30 ticks in a second (ISO/IEC 14496-2, 6.2.5)."""


def packed(target, source):
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


@pytest.fixture
def film(tmp_path):
    options = ("-c:v", "mpeg4", "-bf", "1", "-g", "12", "-vtag", "XVID", "-q:v", "3", "-an")
    return counting_video(tmp_path / "plain.avi", *options, seconds=2)


def numbers(path):
    times_us = probe(path).index.frame_times_us.tolist()
    return [number_on(frame.rgb) for frame in frames_at(path, times_us)], times_us


def test_packed_b_frames_come_in_their_order_at_their_times(tmp_path, film):
    path = unpack(packed(tmp_path / "v.avi", film), tmp_path / "unpacked")
    shown, times_us = numbers(path)
    assert (path, shown) == (tmp_path / "unpacked" / "v.avi", list(range(60)))
    assert times_us == [round(number * 1e6 / 30) for number in range(60)]
    video = probe(path)
    cut_clip(video, video.index.frame_times_us, 500_000, 1_500_000, tmp_path / "clip.mp4")
    assert numbers(tmp_path / "clip.mp4")[0] == list(range(15, 45))


def test_other_files_stay_as_they_are(tmp_path, film):
    for path in (film, counting_video(tmp_path / "v.mp4", seconds=1)):
        assert unpack(path, tmp_path / "unpacked") == path
    assert not (tmp_path / "unpacked").exists()

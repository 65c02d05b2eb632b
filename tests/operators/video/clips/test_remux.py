from fractions import Fraction

import av
import numpy as np
import pytest

from operators.video.clips.remux import (
    copyable_sound,
    is_entry,
    longest_run,
    nal_units,
    read_coded,
    set_times,
    sound_time_us,
    write_mp4,
)
from operators.video.decode.packets import open_video
from operators.video.decode.probe import main_audio_stream, probe
from schemas.video.clock import StreamClock
from tests.support.videos import counting_video

CLOSED = ("-bf", "3", "-g", "30", "-x264-params", "scenecut=0:b-adapt=0")
OPEN = ("-bf", "3", "-g", "30", "-x264-params", "scenecut=0:b-adapt=0:open-gop=1")


class Opened:
    """A video with its extradata and its packets around a span."""

    def __init__(self, path, span_us):
        self.probe = probe(path)
        self.times_us = self.probe.index.frame_times_us
        with open_video(path) as (container, stream):
            self.extradata = bytes(stream.codec_context.extradata or b"")
            audio = main_audio_stream(container)
            self.pictures, self.sounds = read_coded(container, stream, audio, self.probe.index, span_us)

    def run(self, start, beyond):
        """The longest run of frames in [start, beyond) that can be copied.

        Returns the first frame's index in the clip and the number of frames, or None if none can be copied.
        """
        found = longest_run(
            self.pictures, self.probe.index.timeline, self.times_us[start:beyond], self.probe.codec, self.extradata
        )
        return found and (found.first, len(found.packets))


def test_packets_around_a_span_begin_at_a_key_frame_and_end_after_it(tmp_path):
    opened = Opened(counting_video(tmp_path / "v.mp4", *CLOSED, beep_at=0), (1_200_000, 1_500_000))
    times_us = [opened.probe.index.timeline.microseconds(packet.pts) for packet in opened.pictures]
    assert opened.pictures[0].is_keyframe
    assert min(times_us) <= 1_000_000
    assert max(times_us) >= 1_500_000
    sounds_us = [sound_time_us(packet, opened.probe.index.timeline) for packet in opened.sounds]
    assert min(sounds_us) <= 1_200_000 < 1_450_000 < max(sounds_us)


def test_whole_groups_of_pictures_are_copied_whole(tmp_path):
    opened = Opened(counting_video(tmp_path / "v.mp4", *CLOSED), (0, 4_000_000))
    assert opened.run(30, 90) == (0, 60)
    assert opened.run(0, 120) == (0, 120)


def test_what_stands_before_the_first_key_frame_is_not_copied(tmp_path):
    opened = Opened(counting_video(tmp_path / "v.mp4", *CLOSED), (0, 4_000_000))
    assert opened.run(20, 90) == (10, 60)
    assert opened.run(31, 59) is None


def test_a_copy_ends_where_nothing_behind_is_needed(tmp_path):
    """Three B-frames reference the frame after them, so a copy can end only at every fourth frame."""
    opened = Opened(counting_video(tmp_path / "v.mp4", *CLOSED), (0, 4_000_000))
    first, length = opened.run(0, 48)
    assert first == 0
    assert 44 <= length < 48


def test_an_open_group_is_no_place_to_begin(tmp_path):
    """Only the file's first key frame can be decoded along with everything that is shown after it."""
    opened = Opened(counting_video(tmp_path / "v.mp4", *OPEN), (0, 4_000_000))
    assert opened.probe.index.open_gops.any()
    assert opened.run(0, 120) == (0, 120)
    assert opened.run(30, 120) is None


def test_only_an_idr_picture_is_an_entry_in_h264(tmp_path):
    opened = Opened(counting_video(tmp_path / "v.mp4", *OPEN), (0, 4_000_000))
    keys = [bytes(packet) for packet in opened.pictures if packet.is_keyframe]
    assert [is_entry(key, "h264", opened.extradata) for key in keys] == [True, False, False, False]
    assert is_entry(b"whatever", "vp9", b"")


def test_nal_units_are_separated_with_lengths_and_with_start_codes():
    units = [b"\x67abc", b"\x68de", b"\x65f"]
    assert list(nal_units(b"".join(len(unit).to_bytes(4) + unit for unit in units), 4)) == units
    assert list(nal_units(b"\0\0\0\1" + b"\0\0\0\1".join(units), None)) == units


def sound_packets(starts_ms, length_ms=20):
    packets = []
    for start in starts_ms:
        packet = av.Packet(b"x")
        packet.time_base, packet.pts, packet.duration = Fraction(1, 1000), start, length_ms
        packets.append(packet)
    return packets


@pytest.mark.parametrize(
    "codec, starts_ms, copied",
    [
        ("aac", range(0, 2000, 20), range(1000, 1500, 20)),
        ("aac", range(10, 2000, 20), range(990, 1490, 20)),
        ("mp3", range(0, 2000, 20), None),
        ("aac", range(1100, 2000, 20), None),
        ("aac", [*range(0, 1200, 20), *range(1300, 2000, 20)], None),
        ("aac", range(0, 1300, 20), None),
        ("aac", [], None),
    ],
    ids=["covered", "nearly on time", "not independent", "begins late", "has a gap", "ends early", "none"],
)
def test_sound_is_copied_where_it_covers_the_span(codec, starts_ms, copied):
    packets = sound_packets(starts_ms)
    found = copyable_sound(packets, codec, StreamClock(Fraction(1, 1000), 0), (1_000_000, 1_500_000), 40_000)
    assert (found and [packet.pts for packet in found]) == (copied and list(copied))


def test_no_frame_is_shown_before_it_is_decoded(tmp_path):
    """The decode order is I P B B: the last frame in presentation order is decoded second."""
    shown = np.array([0, 10, 20, 30, 45])
    with av.open(str(tmp_path / "v.mp4"), "w") as container:
        picture = container.add_stream("libx264", 30)
        packets = list(set_times([av.Packet(b"x") for _ in range(4)], np.array([0, 3, 1, 2]), shown, picture))
        assert [packet.pts for packet in packets] == [0, 30, 10, 20]
        assert [packet.dts for packet in packets] == [-10, 0, 10, 20]
        assert [packet.duration for packet in packets] == [10, 10, 10, 15]
        assert {packet.stream.index for packet in packets} == {picture.index}


def test_a_file_written_begins_at_zero_without_an_edit_list(tmp_path):
    path = counting_video(tmp_path / "v.mp4", *CLOSED, beep_at=0)
    video = probe(path)
    target = tmp_path / "copy.mp4"
    with open_video(path) as (container, stream):
        audio = main_audio_stream(container)
        span_us = 1_000_000, 3_000_000
        pictures, sounds = read_coded(container, stream, audio, video.index, span_us)
        times_us, timeline = video.index.frame_times_us[30:90], video.index.timeline
        run = longest_run(pictures, timeline, times_us, "h264", bytes(stream.codec_context.extradata))
        heard = copyable_sound(sounds, "aac", timeline, span_us, 1e6 / 30)
        pts = [timeline.pts(int(time_us)) for time_us in times_us]
        write_mp4(target, stream, [run], pts, timeline.pts(3_000_000), audio, heard)
    for options in ({}, {"ignore_editlist": "1"}):
        with av.open(str(target), options=options) as container:
            shown = sorted(packet.pts * packet.time_base for packet in container.demux(video=0) if packet.size)
        np.testing.assert_allclose([float(time) for time in shown], np.arange(60) / 30, atol=1e-4)
    copied = probe(target)
    assert (copied.duration_us, copied.edited, copied.audio_tracks[0].start_us) == (2_000_000, False, 0)

"""Read-back checks of written clips: each test makes a file with one fault, which must be found."""

from dataclasses import replace
from types import SimpleNamespace

import av
import numpy as np
import pytest

from operators.video.clips.readback import (
    CutError,
    PlannedClip,
    check_all_decoded,
    check_copied,
    check_edges,
    check_last_group,
    check_opencv,
    check_opencv_coded,
    check_times,
    source_thumbnails,
    thumbnail,
)
from operators.video.clips.remux import Coded, longest_run, read_coded, write_mp4
from operators.video.decode.packets import UnreadableVideo, open_video
from operators.video.decode.probe import main_audio_stream, probe
from tests.support.videos import counting_video, make

GROUPS = ("-bf", "2", "-g", "30", "-x264-params", "scenecut=0")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return probe(counting_video(tmp_path_factory.mktemp("readback") / "source.mp4", *GROUPS))


@pytest.fixture(scope="module")
def copied(source):
    """A correct copy of frames 30 to 89, the extradata of its source, and the copied packets."""
    target = source.path.with_name("copied.mp4")
    with open_video(source.path) as (container, stream):
        pictures, _ = read_coded(container, stream, None, source.index, (1_000_000, 3_000_000))
        extradata = bytes(stream.codec_context.extradata)
        times_us, timeline = source.index.frame_times_us[30:90], source.index.timeline
        run = longest_run(pictures, timeline, times_us, "h264", extradata)
        packets = [bytes(packet) for packet in run.packets]
        pts = [timeline.pts(int(time_us)) for time_us in times_us]
        write_mp4(target, stream, [run], pts, timeline.pts(3_000_000), None, [])
    originals = [av.Packet(data) for data in packets]
    return SimpleNamespace(target=target, extradata=extradata, coded=Coded(originals, run.ranks))


def planned(frames=60, sound=False, step_us=1e6 / 30):
    times_us = np.round(np.arange(frames) * step_us).astype(np.int64)
    return PlannedClip("source.mp4", times_us, round(frames * step_us), sound)


def test_a_faultless_copy_passes(copied):
    written = check_times(copied.target, planned())
    assert len(written.packets) == 60
    check_copied(copied.target, written, copied.coded, "h264", copied.extradata)
    check_last_group(copied.target, written, "h264")
    check_all_decoded(copied.target, written, "h264")
    check_opencv(copied.target, written)
    check_opencv_coded(copied.target, written)


@pytest.mark.parametrize(
    "plan, message",
    [
        (planned(frames=59), "ffmpeg wrote 60 frames for a span of 59 frames of source.mp4"),
        (planned(step_us=1e6 / 30 + 100), "frames are 5900 us off their times in source.mp4"),
        (planned(sound=True), "do not both have sound"),
    ],
)
def test_another_number_other_times_and_missing_sound_are_found(copied, plan, message):
    with pytest.raises(CutError, match=message):
        check_times(copied.target, plan)


def test_frames_that_an_edit_list_hides_are_found(source, tmp_path):
    """`-ss` with `-c copy` starts at the previous key frame and hides the extra frames with an edit list.

    Readers that ignore edit lists would show them.
    """
    clip = make(tmp_path / "clip.mp4", "-ss", "1.5", "-i", str(source.path), "-t", "1", "-c", "copy")
    with pytest.raises(CutError, match=r"clip: ffmpeg wrote \d+ frames for a span of 30 frames"):
        check_times(clip, planned(frames=30))


def test_sound_that_begins_late_is_found(tmp_path):
    sound = ("-f", "lavfi", "-itsoffset", "0.2", "-i", "sine=d=2", "-c:v", "copy", "-c:a", "aac")
    clip = make(tmp_path / "clip.mp4", "-i", str(counting_video(tmp_path / "v.mp4", "-bf", "0", seconds=2)), *sound)
    with pytest.raises(CutError, match="sound begins at"):
        check_times(clip, planned(sound=True))


@pytest.mark.parametrize(
    "codec", [("libx264", "-bf", "0"), ("libx265", "-x265-params", "log-level=none:bframes=0"), ("libvpx-vp9",)]
)
def test_opencv_begins_with_the_first_frame_of_any_codec(tmp_path, codec):
    clip = make(tmp_path / "v.mp4", "-f", "lavfi", "-i", "testsrc2=s=64x64:r=30:d=1", "-c:v", *codec)
    check_opencv_coded(clip, check_times(clip, planned(frames=30)))


def test_a_first_frame_that_does_not_decode_is_found(copied, tmp_path):
    data = copied.target.read_bytes()
    first = bytes(check_times(copied.target, planned()).packets[0])
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(data.replace(first, first[:4] + bytes(len(first) - 4)))
    with pytest.raises(CutError, match="clip: its first frame cannot be decoded"):
        check_times(clip, planned())


@pytest.mark.parametrize("check", [check_opencv, check_opencv_coded])
def test_opencv_that_sees_other_frames_is_found(source, copied, check):
    """The record that OpenCV is compared with is changed instead: one frame fewer, or another first frame."""
    written = check_times(copied.target, planned())
    with pytest.raises(CutError, match="OpenCV sees 60 frames, not 59"):
        check(copied.target, replace(written, packets=written.packets[1:]))
    with open_video(source.path) as (container, stream):
        other = [frame for _, frame in zip(range(25), container.decode(stream), strict=False)][-1]
    begun = replace(written, packets=[*written.packets[30:], *written.packets[:30]], first=other)
    with pytest.raises(CutError, match="OpenCV begins with another frame"):
        check(copied.target, begun)


def test_a_changed_byte_is_found(copied):
    written = check_times(copied.target, planned())
    packets = list(copied.coded.packets)
    data = bytearray(packets[20])
    data[-1] ^= 1
    packets[20] = av.Packet(bytes(data))
    with pytest.raises(CutError, match="frame 20 of the copied frames is not the source's"):
        check_copied(copied.target, written, Coded(packets, copied.coded.ranks), "h264", copied.extradata)


def test_frames_in_another_order_are_found(copied):
    written = check_times(copied.target, planned())
    ranks = list(copied.coded.ranks)
    ranks[10], ranks[11] = ranks[11], ranks[10]
    with pytest.raises(CutError, match="not shown in the source's order"):
        check_copied(copied.target, written, Coded(copied.coded.packets, ranks), "h264", copied.extradata)


def test_parameter_sets_that_decode_to_other_pictures_are_found(copied, tmp_path):
    """The frames are unchanged, but the parameter sets are those of another encoder run."""
    other = make(tmp_path / "other.mp4", "-f", "lavfi", "-i", "testsrc2=s=64x160:r=30:d=1", "-pix_fmt", "yuv420p")
    written = check_times(copied.target, planned())
    with open_video(other) as (_, stream):
        extradata = bytes(stream.codec_context.extradata)
    with pytest.raises(CutError, match=r"decodes to another picture than the source's|cannot be decoded"):
        check_copied(copied.target, written, copied.coded, "h264", extradata)


def test_a_group_that_does_not_decode_is_found(copied):
    written = check_times(copied.target, planned())
    for packet in written.packets[31:]:
        packet.update(bytes(len(bytes(packet))))
    for check in (check_last_group, check_all_decoded):
        with pytest.raises(CutError, match="decoded"):
            check(copied.target, written, "h264")


def encoded(source, folder, first, beyond):
    """Encode the source's frames [first, beyond) into a clip. Returns the clip and the result of `check_times`."""
    graph = f"trim=start_frame={first}:end_frame={beyond},setpts=PTS-STARTPTS"
    clip = make(folder / "clip.mp4", "-i", str(source.path), "-vf", graph, "-bf", "0", "-pix_fmt", "yuv420p")
    return clip, check_times(clip, planned(frames=beyond - first))


def thumbnails(source, first, last):
    times_us = source.index.frame_times_us
    with open_video(source.path) as (container, stream):
        stream.codec_context.thread_count = 1
        return [
            dict(
                zip(
                    (-1, 0, 1), source_thumbnails(container, stream, source.index, times_us[n - 1 : n + 2]), strict=True
                )
            )
            for n in (first, last)
        ]


def test_encoded_edges_are_the_intended_frames(source, tmp_path):
    clip, written = encoded(source, tmp_path, 40, 70)
    check_edges(clip, written, *thumbnails(source, 40, 69))


@pytest.mark.parametrize(
    "first, last, message",
    [
        (41, 69, "its first frame (is the source's frame -1|differs)"),
        (40, 68, "its last frame (is the source's frame|differs)"),
    ],
)
def test_a_clip_that_is_off_by_one_frame_is_found(source, tmp_path, first, last, message):
    clip, written = encoded(source, tmp_path, 40, 70)
    with pytest.raises(CutError, match=message):
        check_edges(clip, written, *thumbnails(source, first, last))


def test_a_frame_of_the_source_that_does_not_decode_is_reported(source):
    with (
        open_video(source.path) as (container, stream),
        pytest.raises(UnreadableVideo, match="cannot be decoded") as raised,
    ):
        source_thumbnails(container, stream, source.index, np.array([1_000_001]))
    assert raised.value.reason == "damaged"


def test_thumbnails_are_upright_and_small(tmp_path):
    lying = counting_video(tmp_path / "lying.mp4", "-vf", "scale=640:256", seconds=1)
    turned = make(tmp_path / "v.mp4", "-display_rotation", "90", "-i", str(lying), "-c", "copy")
    with open_video(turned) as (container, stream):
        assert main_audio_stream(container) is None
        assert thumbnail(next(container.decode(stream))).shape == (320, 128, 3)

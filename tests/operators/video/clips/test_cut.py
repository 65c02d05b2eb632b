import shutil
from itertools import pairwise
from types import SimpleNamespace

import av
import cv2
import numpy as np
import pytest

from operators.video.analysis.analysis import analyse
from operators.video.clips import cut
from operators.video.clips.cut import CutError, cut_clip, open_cutter
from operators.video.clips.planning import plan_clips
from operators.video.decode.frames import frames_at
from operators.video.decode.probe import probe
from schemas.config import ClipMode, SplitConfig
from schemas.tables import Boundary, Cut
from tests.support.videos import (
    Part,
    counting_video,
    damage,
    loud_tenths,
    make,
    number_on,
    recording,
    with_two_sample_entries,
)

VP9 = ("-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-g", "25")
VARIABLE = ("-vf", "select='lt(n,45)+not(mod(n,3))'", "-fps_mode", "passthrough")
LATE = ("-output_ts_offset", "7.3")


def numbers(path):
    """The numbers that the frames show, in presentation order, and their times in microseconds."""
    video = probe(path)
    times = video.index.frame_times_us.tolist()
    return [number_on(frame.rgb) for frame in frames_at(path, times)], times


def loud_from(path):
    """Time of the beep in seconds on the clip's clock; None if there is no beep."""
    with av.open(str(path)) as container:
        for frame in container.decode(audio=0):
            loud = np.flatnonzero(np.abs(frame.to_ndarray()).max(axis=0) > 0.2)
            if len(loud):
                return frame.time + loud[0] / frame.sample_rate
    return None


@pytest.mark.parametrize(
    "name, options, beep_at",
    [
        ("v.mp4", (), 2.5),
        ("v.mp4", LATE, None),
        ("v.ts", LATE, 2.5),
        ("v.mkv", (), None),
        ("v.webm", VP9, None),
        ("v.mp4", VARIABLE, 2.5),
        ("v.mkv", VARIABLE, None),
    ],
)
def test_clips_show_exactly_their_frames_at_their_times(tmp_path, name, options, beep_at):
    source = counting_video(tmp_path / name, *options, beep_at=beep_at)
    video = probe(source)
    times = analyse(video).times_us
    source_numbers, source_times = numbers(source)
    assert source_times == times.tolist()
    bounds = [0, 1_234_567, int(times[-20]), video.duration_us]  # one bound inside a frame, one at a frame start
    for start, end in pairwise(bounds):
        clip = tmp_path / f"clip_{start}.mp4"
        cut_clip(video, times, start, end, clip)
        inside = [n for n, time in enumerate(source_times) if start <= time < end]
        clip_numbers, clip_times = numbers(clip)
        assert clip_numbers == [source_numbers[n] for n in inside]
        np.testing.assert_allclose(clip_times, [source_times[n] - source_times[inside[0]] for n in inside], atol=100)
        if beep_at is not None:
            expected = beep_at - source_times[inside[0]] / 1e6
            heard = loud_from(clip)
            if expected >= (end - start) / 1e6:
                assert heard is None
            else:
                assert heard == pytest.approx(max(0, expected), abs=0.03)


CLOSED = ("-bf", "3", "-g", "30", "-x264-params", "scenecut=0:b-adapt=0")
OPEN = ("-bf", "3", "-g", "30", "-x264-params", "scenecut=0:b-adapt=0:open-gop=1")
X265 = "log-level=none:keyint=30:min-keyint=30:scenecut=0"
HEVC = ("-c:v", "libx265", "-x265-params", f"{X265}:open-gop=0")
HEVC_OPEN = ("-c:v", "libx265", "-x265-params", f"{X265}:open-gop=1")
BASELINE = ("-profile:v", "baseline", "-bf", "0", "-g", "30", "-x264-params", "scenecut=0")
MPEG4 = ("-c:v", "mpeg4", "-g", "30", "-q:v", "3")
GROUPS, INSIDE, ACROSS = (1_000_000, 3_000_000), (1_200_000, 1_800_000), (500_000, 3_500_000)


@pytest.mark.parametrize(
    "name, options, span_us, how",
    [
        ("v.mp4", CLOSED, GROUPS, Cut.COPY),
        ("v.mp4", CLOSED, (3_000_000, 4_000_000), Cut.COPY),
        ("v.mp4", CLOSED, ACROSS, Cut.SMART),
        ("v.mp4", CLOSED, INSIDE, Cut.ENCODE),
        ("v.mp4", BASELINE, (1_000_000, 2_700_000), Cut.COPY),
        ("v.mp4", BASELINE, ACROSS, Cut.SMART),
        ("v.mp4", OPEN, GROUPS, Cut.ENCODE),
        ("v.mp4", OPEN, (0, 4_000_000), Cut.COPY),
        ("v.ts", CLOSED, GROUPS, Cut.COPY),
        ("v.mkv", CLOSED, ACROSS, Cut.SMART),
        ("v.mp4", (*CLOSED, "-ss", "0.5"), GROUPS, None),
        ("v.mp4", HEVC, GROUPS, Cut.COPY),
        ("v.mp4", HEVC, ACROSS, Cut.ENCODE),
        ("v.mp4", HEVC_OPEN, GROUPS, Cut.ENCODE),
        ("v.webm", (*VP9, "-g", "30", "-auto-alt-ref", "0"), GROUPS, Cut.COPY),
        ("v.avi", MPEG4, GROUPS, Cut.ENCODE),
        ("v.mp4", (*CLOSED, "-pix_fmt", "yuv420p10le"), ACROSS, Cut.ENCODE),
    ],
)
def test_what_can_be_copied_is_and_every_reader_sees_the_same(tmp_path, name, options, span_us, how):
    """OpenCV ignores edit lists, so it stands for the readers that see every frame of the file."""
    source = counting_video(tmp_path / name, *options, beep_at=None if name == "v.webm" else 0)
    video = probe(source)
    times, target = video.index.frame_times_us, tmp_path / "clip.mp4"
    cut = cut_clip(video, times, *span_us, target)
    assert how in (cut, None)
    source_numbers, _ = numbers(source)
    expected = [source_numbers[n] for n, time in enumerate(times) if span_us[0] <= time < span_us[1]]
    assert numbers(target)[0] == expected
    capture = cv2.VideoCapture(str(target))
    shown = []
    while (picture := capture.read())[0]:
        shown.append(number_on(picture[1]))
    assert shown == expected
    with av.open(str(target), options={"ignore_editlist": "1"}) as container:
        packets = [packet for packet in container.demux() if packet.size]
        assert min(packet.pts for packet in packets if packet.stream.type == "video") == 0
        sounds = [packet.pts for packet in packets if packet.stream.type == "audio"]
        assert not sounds or min(sounds) == 0
        assert len(sounds) > 0 or name == "v.webm"


def test_a_copy_holds_the_sources_own_bytes(tmp_path):
    video = probe(counting_video(tmp_path / "v.mp4", *CLOSED, beep_at=0))
    assert cut_clip(video, video.index.frame_times_us, *GROUPS, tmp_path / "clip.mp4") is Cut.COPY

    def coded(path):
        with av.open(str(path)) as container:
            return [bytes(packet) for packet in container.demux(video=0) if packet.size]

    assert coded(tmp_path / "clip.mp4") == coded(tmp_path / "v.mp4")[30:90]


@pytest.mark.parametrize("damaged_us, how", [([], Cut.COPY), ([2_000_000], Cut.ENCODE), ([3_000_000], Cut.COPY)])
def test_damaged_frames_are_not_copied(tmp_path, damaged_us, how):
    video = probe(counting_video(tmp_path / "v.mp4", *CLOSED))
    with open_cutter(video, video.index.frame_times_us, np.array(damaged_us, dtype=np.int64)) as cutter:
        assert cutter.cut(*GROUPS, tmp_path / "clip.mp4") is how


@pytest.mark.parametrize("seen", [True, False])
def test_damage_in_the_last_frame_is_not_copied(tmp_path, seen):
    """A copy would hold the damaged bytes. Either the analysis has found the damage, or the read-back check must."""
    path = counting_video(tmp_path / "v.mp4", *BASELINE)
    damage(path, 59, begin=0.5, end=0.6)
    video = probe(path)
    analysis = analyse(video)
    with open_cutter(video, analysis.times_us, analysis.damaged_us if seen else None) as cutter:
        assert cutter.cut(0, 1_000_000, tmp_path / "before.mp4") is Cut.COPY
        assert cutter.cut(1_000_000, 2_000_000, tmp_path / "damaged.mp4") is Cut.ENCODE
        assert cutter.cut(2_000_000, 3_000_000, tmp_path / "after.mp4") is Cut.COPY


def test_a_frame_that_cannot_be_decoded_is_in_no_clip(tmp_path):
    path = counting_video(tmp_path / "v.mp4", *BASELINE)
    damage(path, 59, begin=0, end=1)
    video = probe(path)
    analysis = analyse(video)
    with open_cutter(video, analysis.times_us, analysis.damaged_us) as cutter:
        assert cutter.cut(1_000_000, 2_000_000, tmp_path / "clip.mp4") is Cut.COPY
    assert numbers(tmp_path / "clip.mp4")[0] == list(range(30, 59))


def test_clips_of_one_opened_video_are_those_cut_alone(tmp_path):
    video = probe(counting_video(tmp_path / "v.mp4", *CLOSED, beep_at=0))
    times = video.index.frame_times_us
    spans = list(pairwise([0, 700_000, 2_000_000, 3_300_000, 4_000_000]))
    with open_cutter(video, times) as cutter:
        shared = [cutter.cut(*span, tmp_path / f"shared_{span[0]}.mp4") for span in spans]
    alone = [cut_clip(video, times, *span, tmp_path / f"alone_{span[0]}.mp4") for span in spans]
    assert shared == alone
    for start, _ in spans:
        assert (tmp_path / f"shared_{start}.mp4").read_bytes() == (tmp_path / f"alone_{start}.mp4").read_bytes()


def test_a_turned_video_that_is_copied_is_shown_upright(tmp_path):
    upright = counting_video(tmp_path / "upright.mp4", *CLOSED)
    turned = make(tmp_path / "v.mp4", "-display_rotation", "90", "-i", str(upright), "-c", "copy")
    video = probe(turned)
    how = cut_clip(video, video.index.frame_times_us, *GROUPS, tmp_path / "clip.mp4")
    clip = probe(tmp_path / "clip.mp4")
    assert (how, clip.width, clip.height) == (Cut.COPY, 64, 160)


def test_hdr_stays_hdr(tmp_path):
    tags = "setparams=color_trc=smpte2084:color_primaries=bt2020:colorspace=bt2020nc"
    options = ("-c:v", "libx265", "-x265-params", "log-level=none:keyint=30", "-pix_fmt", "yuv420p10le", "-vf", tags)
    video = probe(counting_video(tmp_path / "v.mp4", *options))
    how = cut_clip(video, video.index.frame_times_us, *INSIDE, tmp_path / "clip.mp4")
    clip = probe(tmp_path / "clip.mp4")
    assert (how, clip.transfer, clip.primaries, clip.bit_depth) == (Cut.ENCODE, "smpte2084", "bt2020", 10)


def test_a_source_that_begins_behind_an_edit_list_is_cut_exactly(tmp_path):
    whole = counting_video(tmp_path / "whole.mp4", beep_at=0)
    source = make(tmp_path / "v.mp4", "-ss", "1.3", "-i", str(whole), "-c", "copy")
    video = probe(source)
    assert video.index.key_frame_times_us[0] < 0
    for start, end, expected in ((0, 500_000, range(39, 54)), (1_000_000, 1_500_000, range(69, 84))):
        cut_clip(video, video.index.frame_times_us, start, end, tmp_path / "clip.mp4")
        assert numbers(tmp_path / "clip.mp4")[0] == list(expected)


def test_the_same_cut_gives_the_same_bytes(tmp_path):
    video = probe(counting_video(tmp_path / "v.mp4", beep_at=0))
    times = video.index.frame_times_us
    for name in ("a.mp4", "b.mp4"):
        cut_clip(video, times, 1_000_000, 3_000_000, tmp_path / name)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_a_turned_video_is_cut_upright(tmp_path):
    upright = counting_video(tmp_path / "upright.mp4", seconds=1)
    turned = make(tmp_path / "v.mp4", "-display_rotation", "90", "-i", str(upright), "-c", "copy")
    video = probe(turned)
    cut_clip(video, video.index.frame_times_us, 200_000, 700_000, tmp_path / "clip.mp4")
    clip = probe(tmp_path / "clip.mp4")
    assert (clip.width, clip.height, clip.rotation) == (64, 160, 0)
    (seen,), (expected,) = (list(frames_at(path, [at])) for path, at in ((tmp_path / "clip.mp4", 0), (turned, 200_000)))
    assert np.abs(seen.rgb.astype(int) - expected.rgb).mean() < 3


def test_sound_shorter_than_the_picture_becomes_silence(tmp_path):
    silent_film = counting_video(tmp_path / "picture.mp4")
    sound = ("-f", "lavfi", "-i", "sine=d=1", "-c:v", "copy", "-c:a", "aac")
    video = probe(make(tmp_path / "v.mp4", "-i", str(silent_film), *sound))
    cut_clip(video, video.index.frame_times_us, 2_000_000, 4_000_000, tmp_path / "clip.mp4")
    assert probe(tmp_path / "clip.mp4").audio_codec == "aac"
    assert loud_from(tmp_path / "clip.mp4") is None
    with av.open(str(tmp_path / "clip.mp4")) as container:
        audio = container.streams.audio[0]
        assert float(audio.duration * audio.time_base) == pytest.approx(2, abs=0.05)


def test_odd_sides_are_made_even(tmp_path):
    video = probe(make(tmp_path / "v.mkv", "-f", "lavfi", "-i", "testsrc2=s=63x51:d=1", "-c:v", "ffv1"))
    cut_clip(video, video.index.frame_times_us, 0, 1_000_000, tmp_path / "clip.mp4")
    clip = probe(tmp_path / "clip.mp4")
    assert (clip.width, clip.height) == (62, 50)


def test_a_span_without_frames_is_an_error(tmp_path):
    video = probe(make(tmp_path / "v.mp4", "-f", "lavfi", "-i", "testsrc2=s=64x64:r=1:d=3"))
    with pytest.raises(CutError, match=r"clip: no frame starts in \[1200000, 1800000\) us of v\.mp4"):
        cut_clip(video, video.index.frame_times_us, 1_200_000, 1_800_000, tmp_path / "clip.mp4")


def test_a_full_disk_is_not_answered_with_a_smaller_clip(tmp_path, small_disk):
    """The disk has too little space for the copy, but enough for an encoded clip."""
    fine = ("-c:v", "libx264", "-preset", "ultrafast", "-qp", "5", "-g", "30", "-bf", "0", "-pix_fmt", "yuv420p")
    video = probe(make(tmp_path / "v.mp4", "-f", "lavfi", "-i", "testsrc2=s=128x128:r=30:d=3", *fine))
    times_us, span_us = video.index.frame_times_us, (1_000_000, 2_000_000)
    assert cut_clip(video, times_us, *span_us, tmp_path / "clip.mp4") is Cut.COPY
    room = (tmp_path / "clip.mp4").stat().st_size * 3 // 4
    (small_disk / "ballast").write_bytes(bytes(shutil.disk_usage(small_disk).free - room))
    with pytest.raises(OSError, match="No space left on device"):
        cut_clip(video, times_us, *span_us, small_disk / "clip.mp4")


def test_a_clip_that_is_not_as_planned_is_an_error(tmp_path):
    video = probe(counting_video(tmp_path / "v.mp4"))
    invented = np.sort(np.append(video.index.frame_times_us, 1_010_000))
    with pytest.raises(CutError, match=r"clip: ffmpeg wrote 30 frames for a span of 31 frames of v\.mp4"):
        cut_clip(video, invented, 1_000_000, 2_000_000, tmp_path / "clip.mp4")
    shifted = video.index.frame_times_us + np.where(np.arange(120) == 40, 9_000, 0)
    with pytest.raises(CutError, match=r"frames are 9000 us off their times"):
        cut_clip(video, shifted, 1_000_000, 2_000_000, tmp_path / "clip.mp4")


# --- recordings whose format changes ----------------------------------------------------------------------------------

TEN_BITS = ("-c:v", "libx264", "-preset", "ultrafast", "-g", "15", "-pix_fmt", "yuv420p10le")
FULL_CHROMA = ("-c:v", "libx264", "-preset", "ultrafast", "-g", "15", "-pix_fmt", "yuv444p")
INTERLACED = ("-c:v", "libx264", "-preset", "ultrafast", "-g", "15", "-flags", "+ildct+ilme", "-x264opts", "tff=1")
PQ = "setparams=color_trc=smpte2084:color_primaries=bt2020:colorspace=bt2020nc"
REALTIME_VP9 = (*VP9, "-c:a", "libopus")
SECONDS = SplitConfig(mode=ClipMode.FIXED, clip_seconds=1.5, min_seconds=0.5)


def cut_all(path, folder):
    """Cut all clips of a source. Yields the file, the span and the `Cut` method of each clip."""
    analysis = analyse(probe(path))
    video = probe(path).with_formats(analysis.formats)
    starts_us = [each.start_us for each in analysis.formats]
    with open_cutter(video, analysis.times_us, analysis.damaged_us) as cutter:
        for span in plan_clips(video.duration_us, [0], SECONDS, None, starts_us):
            clip = folder / f"clip_{span.start_us}.mp4"
            yield clip, span, cutter.cut(span.start_us, span.end_us, clip)


def numbers_and_format(path):
    """The numbers that the frames show, and the one format that they all share."""
    (one,) = analyse(probe(path)).formats
    return numbers(path)[0], one


@pytest.mark.parametrize(
    "name, changed, is_now",
    [
        ("v.ts", Part(width=320, height=128), {"width": 320, "height": 128}),
        ("v.mkv", Part(width=320, height=128), {"width": 320, "height": 128}),
        ("v.mp4", Part(width=160, height=320), {"width": 160, "height": 320}),
        ("v.ts", Part(filters="setsar=16/9"), {"width": 284, "height": 64, "sample_aspect": "16:9"}),
        ("v.ts", Part(codec=TEN_BITS), {}),
        ("v.ts", Part(codec=FULL_CHROMA), {}),
        ("v.ts", Part(codec=TEN_BITS, filters=PQ), {"transfer": "smpte2084", "primaries": "bt2020"}),
    ],
    ids=["size", "size-mkv", "upright-mp4", "aspect", "depth", "chroma", "colours"],
)
def test_where_the_picture_changes_a_clip_ends_and_none_is_lost(tmp_path, name, changed, is_now):
    source = recording(tmp_path / name, Part(), changed)
    clips = list(cut_all(source, tmp_path))
    assert (clips[0][1].end_us, clips[0][1].boundary) == (pytest.approx(2_000_000, abs=40), Boundary.FORMAT)
    before, after = (numbers_and_format(clip) for clip, _, _ in (clips[0], clips[-1]))
    assert (before[0] + after[0], before[1].width, before[1].height) == (list(range(120)), 160, 64)
    assert {name: getattr(after[1], name) for name in is_now} == is_now


def test_a_copied_clip_has_the_shape_of_pixels_that_the_container_alone_states(tmp_path):
    film = counting_video(tmp_path / "film.mp4", seconds=2)
    source = make(tmp_path / "v.mkv", "-i", str(film), "-c", "copy", "-aspect", "5:1")
    clips = list(cut_all(source, tmp_path))
    assert Cut.COPY in {how for _, _, how in clips}
    assert {numbers_and_format(clip)[1].width for clip, _, _ in clips} == {5 * 64}


@pytest.mark.parametrize("second", [("-s", "320x128"), ("-profile:v", "main", "-refs", "3")], ids=["size", "encoder"])
def test_a_track_of_two_sample_entries_is_cut_by_each(tmp_path, second):
    """The second entry has frames of another size, or of the same size with other encoder settings."""
    options = ("-bf", "0", "-g", "15", "-x264-params", "scenecut=0")
    whole = counting_video(tmp_path / "whole.mp4", *options)
    halves = counting_video(tmp_path / "0.mp4", *options, seconds=2), tmp_path / "1.mp4"
    make(halves[1], "-i", str(whole), "-vf", "trim=start=2,setpts=PTS-STARTPTS", "-c:v", "libx264", *options, *second)
    source = with_two_sample_entries(tmp_path / "v.mp4", *halves)
    clips = list(cut_all(source, tmp_path))
    assert [n for clip, _, _ in clips for n in numbers(clip)[0]] == list(range(120))
    assert Cut.COPY in {how for _, _, how in clips}
    assert {numbers_and_format(clip)[1].width for clip, _, _ in clips} == ({160, 320} if "-s" in second else {160})


def test_vp9_that_changes_its_size_is_cut(tmp_path):
    parts = [recording(tmp_path / f"{n}.ts", Part(width=width)) for n, width in enumerate((160, 320))]
    films = [make(part.with_suffix(".webm"), "-i", str(part), *REALTIME_VP9) for part in parts]
    (tmp_path / "list").write_text("".join(f"file {film}\n" for film in films))
    source = make(tmp_path / "v.webm", "-f", "concat", "-safe", "0", "-i", str(tmp_path / "list"), "-c", "copy")
    clips = [numbers_and_format(clip) for clip, _, _ in cut_all(source, tmp_path)]
    assert [(len(shown), picture.width) for shown, picture in clips] == [(60, 160), (60, 320)]


def test_pictures_of_less_than_a_second_share_a_clip_of_one_size(tmp_path):
    source = recording(tmp_path / "v.ts", Part(), Part(width=320, height=128))
    brief = make(tmp_path / "brief.ts", "-ss", "1.5", "-t", "1", "-copyts", "-i", str(source), "-c", "copy")
    ((clip, span, how),) = cut_all(brief, tmp_path)
    shown, picture = numbers_and_format(clip)
    assert len(analyse(probe(brief)).formats) == 2
    assert (span.boundary, how, picture.width % 160) == (Boundary.END, Cut.ENCODE, 0)
    assert len(shown) == len(set(shown)) == probe(brief).frame_count


def test_frames_that_become_interlaced_are_encoded(tmp_path):
    clips = list(cut_all(recording(tmp_path / "v.ts", Part(), Part(codec=INTERLACED)), tmp_path))
    assert [n for clip, _, _ in clips for n in numbers(clip)[0]] == list(range(120))
    assert clips[-1][2] is Cut.ENCODE


@pytest.mark.parametrize(
    "parts, becomes",
    [
        ([Part(layout="5.1"), Part()], (48000, 6)),
        ([Part(), Part(layout="5.1")], (48000, 6)),
        ([Part(layout="mono"), Part(layout="5.1")], (48000, 6)),
        ([Part(), Part(layout="6.1")], (48000, 2)),
        ([Part(), Part(layout="7.1(wide)")], (48000, 8)),
        ([Part(), Part(rate=44100)], (48000, 2)),
        ([Part(layout="5.1", sound=("-c:a", "ac3")), Part(sound=("-c:a", "ac3"))], (48000, 6)),
    ],
    ids=["5.1-to-stereo", "stereo-to-5.1", "mono-to-5.1", "stereo-to-6.1", "stereo-to-7.1", "rate", "ac3"],
)
def test_a_clips_sound_that_changes_becomes_one_and_stays_in_time(tmp_path, parts, becomes):
    source = recording(tmp_path / "v.ts", *parts)
    video = probe(source)
    cut_clip(video, video.index.frame_times_us, 0, 4_000_000, tmp_path / "clip.mp4")
    loud, seen = loud_tenths(tmp_path / "clip.mp4")
    assert seen == {becomes}
    assert set(range(11, 20)) | set(range(31, 39)) <= set(loud) <= set(range(10, 21)) | set(range(30, 42))
    assert numbers(tmp_path / "clip.mp4")[0] == list(range(120))


def test_sound_is_copied_where_it_is_as_the_track_states(tmp_path):
    """An MP4 track's header states the number of channels. It is the first part's, and the second part has fewer."""
    source = recording(tmp_path / "v.ts", Part(layout="5.1"), Part(layout="mono"))
    video = probe(source)
    with open_cutter(video, video.index.frame_times_us) as cutter:
        cutter.cut(0, 1_500_000, tmp_path / "first.mp4")
        cutter.cut(2_500_000, 4_000_000, tmp_path / "second.mp4")
    assert [loud_tenths(tmp_path / name)[1] for name in ("first.mp4", "second.mp4")] == [{(48000, 6)}, {(48000, 1)}]


def test_large_frames_get_more_time_than_a_hundred_times_their_duration():
    """The clip is ten seconds of 4K at 60 fps. Encoding 10-bit HDR takes up to 1.03 s per megapixel: 86 minutes."""
    film = SimpleNamespace(width=3840, height=2160)
    frames = SimpleNamespace(times_us=range(600), duration_us=10_000_000, video=film)
    assert cut._timeout_seconds(frames) > 2 * 86 * 60

"""All kinds of inputs: unusual ones are read correctly, and unusable ones are refused with a reason."""

import functools
import shutil
import socket
import struct
import time
from pathlib import Path

import ffmpeg
import numpy as np
import pytest

from operators.video.analysis.analysis import analyse
from operators.video.analysis.decode_once import decode_once
from operators.video.clips.cut import cut_clip
from operators.video.clips.planning import plan_clips
from operators.video.decode.ffmpeg import FfmpegError, run_ffmpeg
from operators.video.decode.frames import frame_times, frames_at
from operators.video.decode.packets import UnreadableVideo
from operators.video.decode.probe import probe
from schemas.config import ClipMode, Detector, SplitConfig
from tests.support.videos import HEIGHT, WIDTH, counting_video, make, number_on
from tests.support.zoo import SAMPLES, Sample

SECONDS = SplitConfig(mode=ClipMode.FIXED, clip_seconds=1.0)


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    """Render a zoo sample once; returns its path and its probe."""
    folder = tmp_path_factory.mktemp("zoo")

    @functools.cache
    def of(file):
        sample = next(sample for sample in SAMPLES if sample.file == file)
        path = sample.render(folder)
        return path, probe(path)

    return of


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Ten seconds of H.264 in an MP4 whose index comes before the content (faststart)."""
    return counting_video(tmp_path_factory.mktemp("whole") / "whole.mp4", "-movflags", "+faststart", seconds=10)


def numbers(path, times_us):
    """Numbers of the frames that are presented at these times (microseconds)."""
    frames = [frame.rgb for frame in frames_at(path, times_us)]
    return [number_on(rgb[:: max(1, len(rgb) // HEIGHT)]) for rgb in frames]


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.file)
def test_a_probe_gives_true_properties(rendered, sample):
    _, video = rendered(sample.file)
    frame_us = 1e6 / float(sample.fps)
    assert video.frame_count == len(sample.numbers)
    np.testing.assert_allclose(video.index.frame_times_us, sample.times_us, atol=1000)
    assert video.duration_us == pytest.approx(sample.duration_us, abs=frame_us)
    assert video.fps == pytest.approx(len(sample.numbers) / sample.duration_us * 1e6, rel=1 / len(sample.numbers))
    assert len(video.audio_tracks) == sample.tracks
    for track in video.audio_tracks:
        assert abs(track.start_us) < 200_000
        assert abs(track.end_us - 1e6 * sample.frames / sample.fps) < 200_000 or sample.kept or sample.jump[1]
    assert video.index.missing_us == 0
    usual = {"width": WIDTH, "height": HEIGHT, "rotation": 0, "interlaced": False, "variable_frame_rate": False}
    usual |= {"edited": False}
    expected = {**({} if sample.file == "dv.dv" else usual), **sample.truth}
    assert {name: getattr(video, name) for name in expected} == expected


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.file)
def test_frames_and_clips_show_what_was_rendered(rendered, sample, tmp_path):
    path, video = rendered(sample.file)
    times = video.index.frame_times_us
    decoded = decode_once(video, SECONDS, tmp_path / "proxy.mp4", lambda time_us: None, workers=1)
    analysis = decoded.analysis
    np.testing.assert_array_equal(analysis.times_us, times)
    assert analysis.unreadable_us == 0
    halves = np.unique(times // 500_000, return_index=True)[1]
    assert frame_times(decoded.proxy.path).tolist() == times[halves].tolist()
    middle = times[len(times) // 2]
    spans = plan_clips(video.duration_us, analysis.shot_starts(Detector.ADAPTIVE, 3.0), SECONDS)
    span = next(span for span in spans if span.start_us <= middle < span.end_us)
    cut_clip(video, analysis.times_us, span.start_us, span.end_us, tmp_path / "clip.mp4")
    clip = probe(tmp_path / "clip.mp4")
    inside = (times >= span.start_us) & (times < span.end_us)
    assert clip.frame_count == np.count_nonzero(inside)
    if sample.readable:
        assert numbers(path, times.tolist()) == list(sample.numbers)
        assert numbers(decoded.proxy.path, times[halves].tolist()) == np.array(sample.numbers)[halves].tolist()
        shown = numbers(clip.path, clip.index.frame_times_us.tolist())
        assert shown == np.array(sample.numbers)[inside].tolist()


def test_two_hours_are_cut_in_the_middle_like_any_other(tmp_path):
    minute = counting_video(tmp_path / "minute.mp4", seconds=60, fps=2)
    video = probe(make(tmp_path / "v.mp4", "-stream_loop", "119", "-i", str(minute), "-c", "copy"))
    assert (video.duration_us, video.frame_count) == (7_200_000_000, 14_400)
    analysis = analyse(video)
    spans = plan_clips(
        video.duration_us, analysis.shot_starts(Detector.ADAPTIVE, 3.0), SplitConfig(mode=ClipMode.FIXED)
    )
    middle = spans[len(spans) // 2]
    cut_clip(video, analysis.times_us, middle.start_us, middle.end_us, tmp_path / "clip.mp4")
    assert numbers(tmp_path / "clip.mp4", [0, 1_000_000]) == numbers(
        video.path, [middle.start_us, middle.start_us + 1_000_000]
    )


def test_an_hour_is_probed_in_seconds(tmp_path):
    ten = ("-f", "lavfi", "-i", "testsrc2=s=640x360:r=30:d=10", "-f", "lavfi", "-i", "sine=d=10", "-crf", "45")
    ten_seconds = make(tmp_path / "ten.mp4", *ten, "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-c:a", "aac")
    hour = make(tmp_path / "v.mp4", "-stream_loop", "359", "-i", str(ten_seconds), "-c", "copy")
    started = time.process_time()
    video = probe(hour)
    assert time.process_time() - started < 4  # about one second on an idle core
    assert video.frame_count == 108_000


@pytest.mark.parametrize("name", ["-i.mp4", "http:evil.mp4", "concat:a|b.mp4", "a b'c%d\n.mp4", "file:x.mp4", "🎬.mp4"])
def test_whatever_its_name_is_a_file_is_a_file(rendered, tmp_path, name):
    plain, _ = rendered("plain.mp4")
    source = Path(shutil.copy(plain, tmp_path / name))
    video = probe(source)
    cut_clip(video, video.index.frame_times_us, 0, 500_000, tmp_path / "clip.mp4")
    assert numbers(tmp_path / "clip.mp4", [0, 400_000]) == numbers(source, [0, 400_000]) == [0, 12]


# --- refused ----------------------------------------------------------------------------------------------------------


def refused(path):
    """The reason for which `probe` refuses a file. Its message must begin with the file's name."""
    with pytest.raises(UnreadableVideo) as raised:
        probe(path)
    assert str(raised.value).startswith(f"{path.name}: ")
    return raised.value.reason


def test_an_empty_file_is_refused(tmp_path):
    (tmp_path / "v.mp4").touch()
    assert refused(tmp_path / "v.mp4") == "empty_file"


@pytest.mark.parametrize("content", [b"This is not a video.\n" * 100, bytes(5000), b"\x89PNG\r\n\x1a\n" + bytes(100)])
def test_what_is_no_video_is_refused(tmp_path, content):
    (tmp_path / "v.mp4").write_bytes(content)
    assert refused(tmp_path / "v.mp4") == "not_a_video"


def test_sound_alone_is_refused(tmp_path):
    sound = ("-f", "lavfi", "-i", "sine=d=1")
    assert refused(make(tmp_path / "v.mp4", *sound)) == "no_video_stream"
    cover = ("-f", "lavfi", "-i", "color=s=64x64", "-frames:v", "1", "-c:v", "mjpeg", "-disposition:v", "attached_pic")
    assert refused(make(tmp_path / "cover.m4a", *sound, *cover, "-shortest", "-f", "mp4")) == "no_video_stream"


def test_a_picture_is_refused(tmp_path):
    picture = make(tmp_path / "v.mp4", "-f", "lavfi", "-i", "testsrc2=s=64x64", "-frames:v", "1")
    assert refused(picture) == "one_frame"


def test_a_file_without_index_or_content_is_refused(whole, tmp_path):
    fast = whole.read_bytes()
    slow = make(tmp_path / "slow.mp4", "-i", str(whole), "-c", "copy").read_bytes()
    lacking = {
        "begin": (fast[2000:], "not_a_video"),
        "index": (slow[: len(slow) // 2], "truncated"),
        "content": (fast[: fast.index(b"mdat") + 8], "truncated"),
    }
    for what, (left, reason) in lacking.items():
        (tmp_path / f"{what}.mp4").write_bytes(left)
        assert refused(tmp_path / f"{what}.mp4") == reason


@pytest.mark.parametrize("file", ["v.mp4", "v.mkv", "v.flv"])
def test_of_a_file_that_was_cut_off_the_larger_part_is_used(whole, tmp_path, file):
    data = make(tmp_path / file, "-i", str(whole), "-c", "copy", "-movflags", "+faststart").read_bytes()
    (tmp_path / f"most_{file}").write_bytes(data[: int(0.7 * len(data))])
    video = probe(tmp_path / f"most_{file}")
    assert 5_000_000 < video.duration_us < 8_000_000
    assert video.duration_us + video.index.missing_us == pytest.approx(10_000_000, abs=50_000)
    analysis = analyse(video)
    assert numbers(video.path, [0, 3_000_000]) == [0, 90]
    assert len(analysis.times_us) >= video.frame_count - 5  # frames after the last complete GOP are damaged
    cut_clip(video, analysis.times_us, 1_000_000, 2_000_000, tmp_path / "clip.mp4")
    (tmp_path / f"little_{file}").write_bytes(data[: int(0.3 * len(data))])
    assert refused(tmp_path / f"little_{file}") == "truncated"


@pytest.mark.parametrize("side, reason", [(15_000, "too_large"), (20_000, "no_frame_size")])
def test_a_header_of_enormous_frames_is_refused_before_memory_is_taken(tmp_path, side, reason):
    small = make(tmp_path / "small.mov", "-f", "lavfi", "-i", f"testsrc2=s={WIDTH}x{HEIGHT}:d=1", "-c:v", "mjpeg")
    data = small.read_bytes().replace(struct.pack(">HH", WIDTH, HEIGHT), struct.pack(">HH", side, side))
    frames = data.replace(b"\x08" + struct.pack(">HH", HEIGHT, WIDTH), b"\x08" + struct.pack(">HH", side, side))
    (tmp_path / "v.mov").write_bytes(frames)
    assert refused(tmp_path / "v.mov") == reason


def test_joined_recordings_whose_clock_starts_again_are_refused(rendered, tmp_path):
    plain, _ = rendered("plain.ts")
    (tmp_path / "v.ts").write_bytes(2 * plain.read_bytes())
    assert refused(tmp_path / "v.ts") == "clock_goes_back"
    remuxed = make(tmp_path / "v.mkv", "-i", str(tmp_path / "v.ts"), "-c", "copy")
    assert probe(remuxed).frame_count == 90


def test_a_clock_that_leaps_by_days_is_refused(tmp_path):
    leap = ("-vf", "setpts='PTS+gte(N,20)*200000/TB'", "-fps_mode", "passthrough", "-video_track_timescale", "1000")
    assert refused(counting_video(tmp_path / "v.mp4", *leap, seconds=1)) == "clock_jumps"


def test_reordered_frames_without_times_are_refused(tmp_path):
    assert refused(counting_video(tmp_path / "v.avi", seconds=1)) == "no_timestamps"


PLAYLISTS = {
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{target}\n#EXT-X-ENDLIST\n",
    "concat": "ffconcat version 1.0\nfile '{target}'\n",
    "dash": '<?xml version="1.0"?><MPD type="static" mediaPresentationDuration="PT1S"><Period><AdaptationSet '
    'mimeType="video/mp4"><Representation id="1"><BaseURL>{target}</BaseURL></Representation></AdaptationSet></Period>'
    "</MPD>",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\na=control:{target}\n",
    "asx": '<ASX version="3.0"><ENTRY><REF HREF="{target}"/></ENTRY></ASX>',
}


@pytest.mark.parametrize("suffix", [".m3u8", ".mp4"])
@pytest.mark.parametrize("kind", PLAYLISTS)
def test_a_playlist_leads_nowhere(tmp_path, kind, suffix):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        for target in ("/etc/passwd", f"http://127.0.0.1:{server.getsockname()[1]}/v.mp4"):
            playlist = tmp_path / f"list{suffix}"
            playlist.write_text(PLAYLISTS[kind].format(target=target))
            assert refused(playlist) == "not_a_video"
            with pytest.raises(FfmpegError, match=r"whitelist|Invalid data"):
                run_ffmpeg(ffmpeg.input(str(playlist)).output(str(tmp_path / "out.mkv")), 60)
        with pytest.raises(BlockingIOError):  # no connection was made
            server.accept()


def test_a_sample_has_its_stated_properties():
    """File names are unique, so that samples do not overwrite each other."""
    assert len({sample.file for sample in SAMPLES}) == len(SAMPLES)
    assert Sample("x.mp4", frames=3).times_us == pytest.approx([0, 33333.3, 66666.7], abs=0.1)


def test_no_byte_of_what_is_no_video_is_quoted(tmp_path):
    (tmp_path / "page.mp4").write_bytes(b"<SECRET>page of a server")
    with pytest.raises(UnreadableVideo, match="none of the containers that are read") as raised:
        probe(tmp_path / "page.mp4")
    assert "SECRET" not in str(raised.value)


# --- encrypted --------------------------------------------------------------------------------------------------------

KEY = ("-encryption_scheme", "cenc-aes-ctr", "-encryption_key", "1" * 32, "-encryption_kid", "2" * 32)


@pytest.mark.parametrize("options", [(), ("-movflags", "+frag_keyframe+empty_moov")], ids=["whole", "fragments"])
def test_an_mp4_of_common_encryption_is_refused_as_encrypted(whole, tmp_path, options):
    assert refused(make(tmp_path / "v.mp4", "-i", str(whole), "-c", "copy", *KEY, *options)) == "encrypted"


def test_a_windows_media_file_of_drm_is_refused_as_encrypted(whole, tmp_path):
    """The test adds a content encryption object to the ASF header (ASF specification, 3.14)."""
    plain = make(tmp_path / "plain.wmv", "-i", str(whole), "-t", "1", "-c:v", "wmv2").read_bytes()
    content = b"".join(len(text).to_bytes(4, "little") + text for text in (b"secret", b"DRM\0", b"key\0", b"address\0"))
    kind = bytes.fromhex("FBB3112223BDD211B4B700A0C955FC6E")
    added = kind + (24 + len(content)).to_bytes(8, "little") + content
    size, count = int.from_bytes(plain[16:24], "little"), int.from_bytes(plain[24:28], "little")
    header = plain[:16] + (size + len(added)).to_bytes(8, "little") + (count + 1).to_bytes(4, "little") + plain[28:30]
    (tmp_path / "v.wmv").write_bytes(header + added + plain[30:])
    assert refused(tmp_path / "v.wmv") == "encrypted"


def test_a_scrambled_broadcast_is_refused_as_encrypted(whole, tmp_path):
    clear = make(tmp_path / "clear.ts", "-i", str(whole), "-c", "copy")
    data = bytearray(clear.read_bytes())
    for packet in range(0, len(data), 188):
        if int.from_bytes(data[packet + 1 : packet + 3]) & 0x1FFF == 0x100:  # ffmpeg's PID for video
            data[packet + 3] |= 0x80
    (tmp_path / "v.ts").write_bytes(data)
    assert refused(tmp_path / "v.ts") == "encrypted"
    assert probe(clear).frame_count == 300


def test_hls_sample_aes_is_refused_as_encrypted(whole, tmp_path):
    """The programme map table gives the video stream type 0xDB instead of 0x1B (H.264)."""
    data = bytearray(make(tmp_path / "v.ts", "-i", str(whole), "-c", "copy").read_bytes())
    for packet in range(0, len(data), 188):
        if int.from_bytes(data[packet + 1 : packet + 3]) & 0x1FFF == 0x1000:
            data[data.index(b"\x1b\xe1\x00", packet)] = 0xDB
            end = packet + 8 + (int.from_bytes(data[packet + 6 : packet + 8]) & 0xFFF)
            data[end - 4 : end] = crc32_of_mpeg(data[packet + 5 : end - 4]).to_bytes(4)
    (tmp_path / "v.ts").write_bytes(data)
    assert refused(tmp_path / "v.ts") == "encrypted"


def crc32_of_mpeg(data):
    """CRC-32 of an MPEG-2 section (ISO/IEC 13818-1, annex A)."""
    crc = 0xFFFFFFFF
    for bit in (byte >> shift & 1 for byte in data for shift in range(7, -1, -1)):
        crc = (crc << 1 ^ (0x04C11DB7 if crc >> 31 ^ bit else 0)) & 0xFFFFFFFF
    return crc


def test_an_encrypted_matroska_file_is_refused_as_encrypted(whole, tmp_path):
    """The test adds a content encoding of type 1 (encryption) to the track (RFC 9559, 5.1.4.1.31)."""
    option = ("-c", "copy", "-an", "-f", "matroska", "-live", "1")
    data = make(tmp_path / "plain.mkv", "-i", str(whole), *option).read_bytes()

    def element(kind, content):
        return bytes.fromhex(kind) + (1 << 56 | len(content)).to_bytes(8) + content

    def body(kind, start):
        """Begin and end of the content of the next element with this id, at or after `start`."""
        at = data.index(bytes.fromhex(kind), start) + len(kind) // 2
        width = 9 - data[at].bit_length()
        size = int.from_bytes(data[at : at + width]) & ((1 << 7 * width) - 1)
        return at + width, at + width + size

    start = data.rindex(bytes.fromhex("1654AE6B"))  # the id also occurs earlier, in the index
    tracks = body("1654AE6B", start)
    entry = body("AE", tracks[0] + (6 if data[tracks[0]] == 0xBF else 0))  # skip a CRC-32 element, if there is one
    key = element("5035", element("47E1", b"\x05") + element("47E2", b"0123456789abcdef"))
    encodings = element("6D80", element("6240", element("5033", b"\x01") + key))
    changed = element("1654AE6B", element("AE", data[entry[0] : entry[1]] + encodings) + data[entry[1] : tracks[1]])
    (tmp_path / "v.mkv").write_bytes(data[:start] + changed + data[tracks[1] :])
    assert refused(tmp_path / "v.mkv") == "encrypted"

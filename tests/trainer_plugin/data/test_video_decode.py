import math
import pickle
import struct
import tarfile
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from tests.support.properties import given, settings, st
from tests.support.videos import HEIGHT, WIDTH, counting_video, make, number_on
from trainer_plugin.data import video_decode as frames
from trainer_plugin.data.video_decode import BadVideo, probe_video, read_frames
from trainer_plugin.ops.preprocess import resize
from trainer_plugin.types import VideoSource

SIZE = (64, 160)
MPEG2 = ("-c:v", "mpeg2video", "-g", "15", "-bf", "2", "-q:v", "3")  # open GOPs
VP9 = ("-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-g", "25")
VARIABLE = ("-vf", "select='lt(n,45)+not(mod(n,3))'", "-fps_mode", "passthrough")
OPEN_GOP = ("-x264-params", "open-gop=1:bframes=3:keyint=25")


@pytest.fixture(scope="module")
def film(tmp_path_factory) -> Path:
    return counting_video(tmp_path_factory.mktemp("film") / "film.mp4", "-movflags", "+faststart")


def times_of(path: Path) -> list[int]:
    """Presentation times of all frames in microseconds from the first, halves rounded up, as in a release."""
    with av.open(str(path)) as container:
        decoded = [(frame.pts, frame.time_base) for frame in container.decode(video=0)]
    return [math.floor((pts - decoded[0][0]) * base * 1_000_000 + Fraction(1, 2)) for pts, base in decoded]


def source_of(path: Path) -> VideoSource:
    return VideoSource(path.stem, str(path))


@pytest.mark.parametrize(
    "name, options",
    [
        ("v.mp4", ("-movflags", "+frag_keyframe+empty_moov")),
        ("v.ts", ("-output_ts_offset", "7.3")),
        ("v.mkv", VARIABLE),
        ("v.webm", VP9),
        ("v.mkv", MPEG2),
        ("v.mp4", OPEN_GOP),
        ("v.mp4", VARIABLE),
    ],
)
def test_the_frame_being_presented_is_the_one_returned(tmp_path, name, options):
    source = source_of(counting_video(tmp_path / name, *options))
    kept = [n for n in range(120) if options != VARIABLE or n < 45 or n % 3 == 0]
    times = times_of(tmp_path / name)
    assert len(times) == len(kept)
    requested = [0, 20_000, 900_000, times[60] - 1, times[60], 3_100_000, 3_100_000, times[-1] + 30_000]
    shown = [kept[int(np.searchsorted(times, time, side="right")) - 1] for time in requested]
    assert [number_on(frame) for frame in read_frames(source, requested, SIZE)] == shown
    assert [number_on(read_frames(source, [time], SIZE)[0]) for time in requested] == shown


def test_times_may_have_any_order(film):
    times = [3_100_000, 20_000, 900_000, 3_100_000, 0]
    found = read_frames(source_of(film), times, SIZE)
    assert [number_on(frame) for frame in found] == [93, 0, 27, 93, 0]


@pytest.mark.parametrize(
    ("name", "options", "fps"),
    [("v.mp4", (), 30.0), ("v.ts", ("-output_ts_offset", "7.3"), 30.0), ("v.mkv", VARIABLE, 17.5)],
)
def test_a_probed_video_has_the_duration_rate_and_size_that_it_is_shown_with(tmp_path, name, options, fps):
    source = source_of(counting_video(tmp_path / name, *options))
    facts = probe_video(source)
    assert (facts.source, facts.width, facts.height) == (source, WIDTH, HEIGHT)
    assert facts.duration_us == pytest.approx(4_000_000, abs=60_000)
    assert facts.fps == pytest.approx(fps, rel=0.02)


def test_a_probed_video_is_upright(tmp_path):
    film = counting_video(tmp_path / "film.mp4", seconds=1)
    turned = make(tmp_path / "turned.mp4", "-display_rotation", "90", "-i", str(film), "-c", "copy")
    facts = probe_video(source_of(turned))
    assert (facts.width, facts.height) == (HEIGHT, WIDTH)


def test_times_count_from_the_first_frame_that_an_edit_list_shows(tmp_path):
    """The shown frame that is stored first is not the first in presentation order, because of B-frames."""
    film = counting_video(tmp_path / "film.mp4", "-bf", "3", seconds=2)
    cut = make(tmp_path / "cut.mp4", "-ss", "0.1", "-i", str(film), "-c", "copy")
    found = read_frames(source_of(cut), [0, 33_334, 66_667, 500_000], SIZE)
    assert [number_on(frame) for frame in found] == [3, 4, 5, 18]


def test_enormous_frames_are_refused_before_memory_is_taken(tmp_path):
    small = make(tmp_path / "small.mov", "-f", "lavfi", "-i", f"testsrc2=s={WIDTH}x{HEIGHT}:d=1", "-c:v", "mjpeg")
    data = small.read_bytes().replace(struct.pack(">HH", WIDTH, HEIGHT), struct.pack(">HH", 15_000, 15_000))
    data = data.replace(b"\x08" + struct.pack(">HH", HEIGHT, WIDTH), b"\x08" + struct.pack(">HH", 15_000, 15_000))
    (tmp_path / "v.mov").write_bytes(data)
    message = rf"^video v: {tmp_path}/v\.mov: frames of 15000x15000 exceed 100 megapixels; scale it down, or remove it$"
    with pytest.raises(BadVideo, match=message) as error:
        read_frames(source_of(tmp_path / "v.mov"), [0], SIZE)
    assert error.value.reason == "too_large"


def test_frames_that_become_enormous_on_the_way_are_not_decoded(tmp_path, monkeypatch):
    small, large = (("-f", "lavfi", "-i", f"testsrc2=s={side}x{side}:d=2") for side in (64, 640))
    parts = make(tmp_path / "small.ts", *small), make(tmp_path / "large.ts", *large, "-output_ts_offset", "2")
    (tmp_path / "v.ts").write_bytes(b"".join(part.read_bytes() for part in parts))
    monkeypatch.setattr(frames, "LARGEST_FRAME_PIXELS", 100 * 100)
    assert len(read_frames(source_of(tmp_path / "v.ts"), [1_000_000], SIZE)) == 1
    with pytest.raises(BadVideo, match="video v: what was decoded ends at ") as error:
        read_frames(source_of(tmp_path / "v.ts"), [3_500_000], SIZE)
    assert error.value.reason == "damaged"


def test_a_video_that_shows_none_of_its_frames_is_damaged(tmp_path):
    film = counting_video(tmp_path / "film.mp4", seconds=1)
    data = make(tmp_path / "cut.mp4", "-ss", "0.1", "-i", str(film), "-c", "copy").read_bytes()
    media_time = data.index(b"elst") + 16  # after the box name: version, entry count and duration of the entry
    (tmp_path / "cut.mp4").write_bytes(data[:media_time] + (1 << 24).to_bytes(4, "big") + data[media_time + 4 :])
    with pytest.raises(BadVideo, match="video cut: it shows no frame") as error:
        read_frames(source_of(tmp_path / "cut.mp4"), [0], SIZE)
    assert error.value.reason == "damaged"


def test_a_tar_that_is_gone_is_an_outage(tmp_path):
    with pytest.raises(OSError, match=r"gone\.tar: the tar was there when the release was opened"):
        read_frames(VideoSource("film", str(tmp_path / "gone.tar"), 512, 1000), [0], SIZE)


@given(st.lists(st.integers(0, 3_999_999), min_size=1, max_size=8).map(sorted))
@settings(max_examples=25, deadline=None)
def test_any_times_give_the_frames_shown_then(film, times):
    found = read_frames(source_of(film), times, SIZE)
    assert [number_on(frame) for frame in found] == [time * 30 // 1_000_000 for time in times]


def test_frames_are_resized_as_the_processors_do(film):
    [large] = read_frames(source_of(film), [2_000_000], SIZE)
    [small] = read_frames(source_of(film), [2_000_000], (28, 84))
    assert np.array_equal(small, resize(torch.from_numpy(large)[None], (28, 84))[0].numpy())
    assert number_on(small) == 60


def test_a_video_in_a_tar_is_read_without_unpacking_it(film, tmp_path, s3_bucket):
    import s3fs

    with tarfile.open(tmp_path / "data.tar", "w") as tar:
        tar.add(__file__, "other.txt")
        tar.add(film, "film.mp4")
        tar.add(__file__, "other.json")
    with tarfile.open(tmp_path / "data.tar") as tar:
        member = tar.getmember("film.mp4")
    s3fs.S3FileSystem().put(str(tmp_path / "data.tar"), f"{s3_bucket}/data.tar")
    for url in (str(tmp_path / "data.tar"), f"{s3_bucket}/data.tar"):
        source = VideoSource("film", url, member.offset_data, member.size)
        assert [number_on(frame) for frame in read_frames(source, [500_000, 3_500_000], SIZE)] == [15, 105]


def test_only_the_parts_with_requested_frames_are_read(tmp_path, monkeypatch):
    noise = "testsrc2=s=320x180:r=30:d=6,noise=alls=60:allf=t"
    codec = ("-c:v", "libx264", "-preset", "ultrafast", "-g", "15", "-pix_fmt", "yuv420p")
    path = make(tmp_path / "v.mp4", "-f", "lavfi", "-i", noise, *codec)
    read = []
    real = frames._Section.read
    monkeypatch.setattr(frames._Section, "read", lambda file, size: read.append(size) or real(file, size))
    assert len(read_frames(source_of(path), [100_000, 3_000_000, 5_900_000], SIZE)) == 3
    assert sum(read) < path.stat().st_size / 3
    read.clear()
    read_frames(source_of(path), range(0, 6_000_000, 100_000), SIZE)
    assert sum(read) < path.stat().st_size * 1.2  # dense requests read the file once


def test_damage_between_requested_times_does_not_matter(tmp_path):
    """The file has zeros between the two requested times."""
    data = bytearray(counting_video(tmp_path / "v.mp4", "-movflags", "+faststart", "-g", "10").read_bytes())
    begin = data.index(b"mdat") + 8
    size = len(data) - begin
    data[begin + size // 4 : begin + size // 2] = bytes(size // 2 - size // 4)
    (tmp_path / "hole.mp4").write_bytes(data)
    found = read_frames(source_of(tmp_path / "hole.mp4"), [100_000, 3_500_000], SIZE)
    assert [number_on(frame) for frame in found] == [3, 105]


def test_frames_are_upright(tmp_path):
    """The left half of the picture is white; after a clockwise quarter turn, the upper half is."""
    graph = "color=black:s=128x64:d=0.2,drawbox=w=64:color=white:t=fill"
    plain = make(tmp_path / "plain.mp4", "-f", "lavfi", "-i", graph, "-pix_fmt", "yuv420p")
    turned = source_of(make(tmp_path / "v.mp4", "-display_rotation", "-90", "-i", str(plain), "-c", "copy"))
    [frame] = read_frames(turned, [0], (128, 64))
    assert frame[:60].mean() > 240
    assert frame[68:].mean() < 15


def test_times_a_little_behind_the_end_show_the_last_frame(film):
    assert number_on(read_frames(source_of(film), [4_900_000], SIZE)[0]) == 119


def test_a_video_that_ends_early_is_not_filled_with_its_last_frame(film, tmp_path):
    (tmp_path / "cut.mp4").write_bytes(film.read_bytes()[: film.stat().st_size // 2])
    assert number_on(read_frames(source_of(tmp_path / "cut.mp4"), [0], SIZE)[0]) == 0
    with pytest.raises(BadVideo, match=r"video cut: what was decoded ends at .* us, requested 3900000 us") as error:
        read_frames(source_of(tmp_path / "cut.mp4"), [0, 3_900_000], SIZE)
    assert (error.value.key, error.value.reason) == ("cut", "damaged")


@pytest.mark.parametrize(
    "content, reason",
    [(None, "missing"), (b"", "not_a_video"), (b"no video at all" * 99, "not_a_video"), (b"#EXTM3U\nx", "not_a_video")],
)
def test_a_file_that_is_no_video_is_refused_with_its_reason(tmp_path, content, reason):
    if content is not None:
        (tmp_path / "v.mp4").write_bytes(content)
    with pytest.raises(BadVideo, match="video v: ") as error:
        read_frames(source_of(tmp_path / "v.mp4"), [0], SIZE)
    assert error.value.reason == reason
    assert str(pickle.loads(pickle.dumps(error.value))) == str(error.value)


def test_a_title_in_another_encoding_does_not_hide_the_frames(film, tmp_path):
    titled = make(tmp_path / "titled.mp4", "-i", str(film), "-c", "copy", "-metadata", "title=XXXX")
    titled.write_bytes(titled.read_bytes().replace(b"XXXX", b"caf\xe9"))
    assert np.array_equal(read_frames(source_of(titled), [0], SIZE), read_frames(source_of(film), [0], SIZE))


def test_a_file_with_sound_alone_is_refused(tmp_path):
    sound = make(tmp_path / "v.mp4", "-f", "lavfi", "-i", "sine=d=0.2")
    with pytest.raises(BadVideo, match="no video stream"):
        read_frames(source_of(sound), [0], SIZE)

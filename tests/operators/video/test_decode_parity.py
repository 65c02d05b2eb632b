"""The trainer shows the frames that the pipeline shows: the same ones at the same times, with the same pixels.

A release may publish source videos unchanged (`shard.media=original`). A pass rate that was measured on the pipeline's
frames holds for training only if training sees these frames.
"""

from fractions import Fraction

import numpy as np
import pytest

from operators.video.decode import packets
from operators.video.decode.frames import frames_at
from operators.video.decode.packets import UnreadableVideo
from operators.video.decode.probe import probe
from operators.video.decode.unpack import unpack
from tests.support.colours import HDR_BANDS, painted
from tests.support.packed import packed
from tests.support.videos import (
    HEIGHT,
    WIDTH,
    Part,
    broadcast,
    counting_video,
    damage,
    make,
    number_on,
    recording,
    two_pictures,
    with_two_sample_entries,
    write_oriented,
)
from tests.support.zoo import SAMPLES

pytest.importorskip("torch")

from trainer_plugin.data import video_decode
from trainer_plugin.data.video_decode import BadVideo, read_frames
from trainer_plugin.types import VideoSource

LEVELS = 1
"""Largest difference of a pixel, in 8-bit levels, where the pipeline keeps the stored size."""
MEAN_LEVELS = 2.5
"""Largest mean difference of a frame where pixels are not square: the two resize to square ones with other filters."""


def trainer_frames(path, times_us, size):
    """The trainer's frames of a file, shape [times, height, width, 3]."""
    return read_frames(VideoSource("v", str(path)), times_us, size)


def frames_of_both(path, times_us):
    """The pipeline's and the trainer's frames at these ascending times, in the pipeline's size.

    The trainer must read the same frames in one call for all and in one call for each.
    """
    shown = np.stack([frame.rgb for frame in frames_at(path, times_us)])
    size = shown.shape[1:3]
    in_one_call = trainer_frames(path, times_us, size)
    for frame, time_us in zip(in_one_call, times_us, strict=True):
        assert np.array_equal(frame, trainer_frames(path, [time_us], size)[0])
    return shown, in_one_call


def differences(path, times_us):
    """Per frame, the differences between the pipeline's and the trainer's pixels in 8-bit levels."""
    return absdiff(*frames_of_both(path, times_us))


def absdiff(shown, seen):
    return np.maximum(shown, seen) - np.minimum(shown, seen)


def times_around_frames(times_us, duration_us):
    """Times just before, on and just after some frames, and the last moment of the video."""
    some = {times_us[len(times_us) * part // 4] for part in range(4)} | {times_us[-1]}
    found = {time_us + by for time_us in some for by in (-1, 0, 1)} | {duration_us - 1}
    return sorted(time_us for time_us in found if 0 <= time_us < duration_us)


def assert_alike(path):
    video = probe(path)
    found = differences(path, times_around_frames(video.index.frame_times_us.tolist(), video.duration_us))
    if video.sample_aspect == 1:
        assert found.max() <= LEVELS
    else:
        assert found.mean(axis=(1, 2, 3)).max() <= MEAN_LEVELS


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.file)
def test_every_kind_of_video_shows_the_same_frames(tmp_path, sample):
    path = sample.render(tmp_path)
    video = probe(path)
    times_us = times_around_frames(video.index.frame_times_us.tolist(), video.duration_us)
    shown, seen = frames_of_both(path, times_us)
    if sample.readable:
        step = max(1, shown.shape[1] // HEIGHT)
        positions = np.searchsorted(video.index.frame_times_us, times_us, side="right") - 1
        expected = [sample.numbers[position] for position in positions]
        assert [number_on(rgb[::step]) for rgb in shown] == expected
        assert [number_on(rgb[::step]) for rgb in seen] == expected
    levels = absdiff(shown, seen)
    if video.sample_aspect == 1:
        assert levels.max() <= LEVELS
    else:
        assert levels.mean(axis=(1, 2, 3)).max() <= MEAN_LEVELS


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.parametrize("how", ["matrix", "sei"])
def test_rotated_and_mirrored_frames_are_the_same(tmp_path, mirrored, rotation, how):
    picture = ("-f", "lavfi", "-i", "testsrc2=s=96x64:r=10:d=1", "-c:v", "libx264", "-g", "1", "-pix_fmt", "yuv420p")
    stored = make(tmp_path / "stored.mp4", *picture)
    path = write_oriented(tmp_path / "v.mp4", stored, mirrored, rotation, how)
    times_us = probe(path).index.frame_times_us.tolist() if how == "matrix" else [0]  # the SEI is in the first frame
    assert differences(path, times_us).max() <= LEVELS


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv444p10le"])
@pytest.mark.parametrize("color_range", ["tv", "pc"])
@pytest.mark.parametrize("space", ["bt601", "bt709", "bt2020", "unknown"])
def test_colours_of_every_matrix_and_range_are_the_same(tmp_path, space, color_range, pixel_format):
    """Frames without a stated matrix are of BT.709 in HD."""
    unknown = space == "unknown"
    scale = f"scale=out_color_matrix={'bt709' if unknown else space}:out_range={color_range},format={pixel_format}"
    untagged = ",setparams=colorspace=unknown" if unknown else ""
    assert_alike(painted(tmp_path / "v.mp4", scale + untagged, patch=192 if unknown else 32, seconds=0.2))


@pytest.mark.parametrize("transfer", ["smpte2084", "arib-std-b67"])
def test_hdr_is_tone_mapped_alike(tmp_path, transfer):
    codec = ("-c:v", "libx265", "-x265-params", "log-level=0:qp=4")
    path = make(tmp_path / "v.mp4", "-f", "lavfi", "-i", HDR_BANDS + transfer, *codec)
    assert_alike(path)
    [frame] = trainer_frames(path, [0], (96, 320))
    assert frame[16, -1].min() > 200  # without tone mapping, the brightest grey would be darker


def test_one_field_of_interlaced_frames_is_shown_alike(tmp_path):
    """A bar moves by its own width from field to field."""
    graph = (
        "color=black:s=160x96:r=50:d=1[b];color=white:s=8x96:r=50:d=1[w];[b][w]overlay=x=8*n,tinterlace=interleave_top"
    )
    options = ("-c:v", "libx264", "-x264-params", "interlaced=1", "-pix_fmt", "yuv420p")
    path = make(tmp_path / "v.mp4", "-filter_complex", graph, *options)
    assert_alike(path)
    [frame] = trainer_frames(path, [100_000], (96, 160))
    white = frame.mean(axis=2) > 128
    assert (white == white[0]).all()


@pytest.mark.parametrize("aspect", ["16/15", "4/3", "3/4", "2"])
def test_pixels_that_are_not_square_are_resized_to_the_same_picture(tmp_path, aspect):
    path = counting_video(tmp_path / "v.mp4", "-vf", f"setsar={aspect}", seconds=1)
    assert probe(path).sample_aspect == Fraction(aspect)
    assert_alike(path)
    shown, seen = frames_of_both(path, [0, 500_000])
    assert [number_on(rgb) for rgb in shown] == [number_on(rgb) for rgb in seen] == [0, 15]


def test_the_same_of_several_pictures_is_shown(tmp_path):
    assert_alike(broadcast(tmp_path / "v.ts"))
    assert_alike(two_pictures(tmp_path / "v.mp4", "-disposition:v:0", "default", "-disposition:v:1", "0"))


def test_pictures_that_change_their_format_are_the_same(tmp_path):
    parts = Part(), Part(filters="format=yuv422p"), Part(width=2 * WIDTH, height=2 * HEIGHT)
    for path in (recording(tmp_path / "v.ts", *parts), recording(tmp_path / "v.mp4", *parts[:2])):
        for time_us in (0, 1_900_000, 2_100_000, 3_900_000):
            assert differences(path, [time_us]).max() <= LEVELS
    sources = [
        counting_video(tmp_path / f"{name}.mp4", "-bf", "0", *options, seconds=1)
        for name, options in (("one", ()), ("two", ("-crf", "40")))
    ]
    assert_alike(with_two_sample_entries(tmp_path / "entries.mp4", *sources))


def test_packed_b_frames_of_an_avi_are_the_same_once_unpacked(tmp_path):
    """`ingest` unpacks such a file, and a release publishes what comes out as an MP4."""
    options = ("-c:v", "mpeg4", "-bf", "1", "-g", "12", "-vtag", "XVID", "-q:v", "3", "-an")
    film = counting_video(tmp_path / "plain.avi", *options, seconds=2)
    assert_alike(unpack(packed(tmp_path / "v.avi", film), tmp_path / "unpacked"))


def test_frames_around_damage_are_the_same(tmp_path):
    """Zeros replace the content of some GOPs, and one key frame is damaged."""
    whole = counting_video(tmp_path / "whole.mp4", "-movflags", "+faststart", "-g", "10")
    data = bytearray(whole.read_bytes())
    begin = data.index(b"mdat") + 8
    size = len(data) - begin
    data[begin + size // 4 : begin + size // 2] = bytes(size // 2 - size // 4)
    (tmp_path / "hole.mp4").write_bytes(data)
    assert differences(tmp_path / "hole.mp4", [100_000, 3_500_000]).max() <= LEVELS
    damage(whole, 60, 0.2, 0.8)
    for time_us in (1_900_000, 2_050_000, 2_200_000, 2_500_000):
        # What a decoder makes up for lost content depends on the frames that it has seen before.
        [frame] = frames_at(whole, [time_us])
        assert number_on(frame.rgb) == number_on(trainer_frames(whole, [time_us], (HEIGHT, WIDTH))[0])
    assert differences(whole, [1_900_000, 2_500_000]).max() <= LEVELS


@pytest.mark.parametrize("name", ["v.mp4", "v.mkv"])
def test_frames_before_the_end_of_a_file_that_was_cut_off_are_the_same(tmp_path, name):
    whole = counting_video(tmp_path / name, "-movflags", "+faststart", seconds=10)
    path = tmp_path / f"most_{name}"
    path.write_bytes(whole.read_bytes()[: int(0.7 * whole.stat().st_size)])
    assert differences(path, [0, 3_000_000, 5_000_000]).max() <= LEVELS


def test_times_outside_a_video_are_refused_by_the_pipeline_and_bounded_in_the_trainer(tmp_path):
    """The times of a release lie inside its videos. The trainer allows for a clock that an MP4 has rounded."""
    path = counting_video(tmp_path / "v.mp4", seconds=1)
    for time_us, number in ((-1, 0), (1_000_000, 29), (1_900_000, 29)):
        with pytest.raises(ValueError, match=r"v\.mp4: .* of \[0, 1000000\)"):
            list(frames_at(path, [time_us]))
        assert number_on(trainer_frames(path, [time_us], (HEIGHT, WIDTH))[0]) == number
    with pytest.raises(BadVideo, match="what was decoded ends at"):
        trainer_frames(path, [2_100_000], (HEIGHT, WIDTH))


def test_the_trainer_seeks_only_in_containers_in_which_the_pipeline_seeks_exactly():
    assert set(video_decode._SEEKABLE_CONTAINERS) < set(packets._INDEXED_CONTAINERS)


def test_what_neither_can_read_is_refused_by_both(tmp_path):
    (tmp_path / "v.mp4").write_bytes(b"no video at all" * 99)
    with pytest.raises(UnreadableVideo) as refused:
        list(frames_at(tmp_path / "v.mp4", [0]))
    with pytest.raises(BadVideo) as skipped:
        trainer_frames(tmp_path / "v.mp4", [0], (HEIGHT, WIDTH))
    assert refused.value.reason == skipped.value.reason == "not_a_video"

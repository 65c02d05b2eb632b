import dataclasses
from array import array

import av
import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scenedetect import ContentDetector, StatsManager
from scenedetect.common import FrameTimecode

from operators.video.analysis.measures import (
    DESCRIPTOR_BYTES,
    GROUP,
    HASH_BYTES,
    FrameMeasures,
    Measurer,
    SmallPictures,
    analysis_size,
    appearance_descriptor,
    difference,
    visual_distance,
)
from operators.video.decode.packets import decode, open_video
from operators.video.decode.probe import probe
from tests.support.videos import counting_video, make


def noise(seed, *shape):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def scene(seed, height=90, width=160):
    """A random picture of large coloured patches."""
    return cv2.resize(noise(seed, 5, 8, 3), (width, height), interpolation=cv2.INTER_CUBIC)


def measured(frames, rotation=0):
    measures = FrameMeasures()
    if frames:
        measures.add(range(0, 40_000 * len(frames), 40_000), np.stack(frames), rotation)
    return measures


def descriptor(bgr, rotation):
    return appearance_descriptor(bgr[None], rotation)[0]


@pytest.mark.parametrize(
    "width, height, rotation, expected",
    [(1920, 1080, 0, (128, 72)), (1080, 1920, 90, (128, 72)), (1080, 1920, 0, (72, 128)), (853, 480, 0, (128, 72)),
     (3840, 1606, 0, (128, 52)), (100, 31, 0, (100, 30)), (16, 16, 0, (16, 16)), (2000, 3, 0, (128, 2))],
)  # fmt: skip
def test_the_measured_picture_is_small_and_even_and_lies_as_stored(tmp_path, width, height, rotation, expected):
    any_video = probe(counting_video(tmp_path / "v.mp4", seconds=0.2))
    assert analysis_size(dataclasses.replace(any_video, width=width, height=height, rotation=rotation)) == expected


@pytest.mark.parametrize("size", ["640x360", "854x480", "333x187", "160x90"])
@pytest.mark.parametrize("pixels", ["yuv420p", "yuvj420p", "yuv422p10le", "rgb24"])
def test_a_reduced_frame_is_what_libswscale_makes_of_it(tmp_path, size, pixels):
    source = ("-f", "lavfi", "-i", f"testsrc2=s={size}:d=0.1,gblur=4,format={pixels}")
    codec = ("mjpeg", "-q:v", "1") if pixels == "yuvj420p" else ("rawvideo",)
    path = make(tmp_path / "v.nut", *source, "-c:v", *codec)
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
    assert frame.format.name == pixels
    expected = frame.reformat(width=160, height=90, format="bgr24", interpolation="AREA").to_ndarray()
    pictures = SmallPictures(160, 90)
    pictures.put(frame)
    (found,) = pictures.take()
    assert found.shape == (90, 160, 3)
    assert np.abs(found.astype(int) - expected).mean() < 4


def grey(luma):
    """A grey frame with these luma levels."""
    height, width = luma.shape
    return av.VideoFrame.from_ndarray(np.concatenate([luma, np.full((height // 2, width), 128, np.uint8)]), "yuv420p")


def reduced(frame, width, height):
    pictures = SmallPictures(width, height)
    pictures.put(frame)
    return pictures.take()[0]


@given(st.integers(1, 45), st.integers(1, 80), st.integers(1, 45), st.integers(1, 80))
def test_reducing_gives_the_size_and_keeps_plain_pictures(height, width, new_height, new_width):
    small = reduced(grey(np.full((2 * height, 2 * width), 126, np.uint8)), 2 * new_width, 2 * new_height)
    assert small.shape == (2 * new_height, 2 * new_width, 3)
    assert np.abs(small.astype(int) - 128).max() <= 3


@given(st.integers(2, 20), st.integers(2, 20), st.sampled_from([1, 2, 3, 4, 8, 12]))
def test_reducing_averages_areas(height, width, factor):
    luma = 16 + noise(height * width, 2 * height * factor, 2 * width * factor) % 220
    means = luma.reshape(2 * height, factor, 2 * width, factor).mean(axis=(1, 3))
    error = reduced(grey(luma), 2 * width, 2 * height) - ((means - 16) * 255 / 219)[..., None]
    assert np.abs(error).max() <= 3


@pytest.mark.parametrize("factor", [1, 2, 3, 4, 8, 12])
def test_reducing_makes_large_frames_no_darker_than_small_ones(factor):
    luma = 16 + noise(factor, 90 * factor, 160 * factor) % 220
    assert reduced(grey(luma), 160, 90).mean() == pytest.approx((luma.mean() - 16) * 255 / 219, abs=0.6)


def test_the_score_is_that_of_pyscenedetect():
    frames = [scene(seed) for seed in range(5)]
    detector, stats = ContentDetector(), StatsManager()
    detector.stats_manager = stats
    for number, bgr in enumerate(frames):
        detector.process_frame(FrameTimecode(number, 25.0), bgr)
    expected = [stats.get_metrics(FrameTimecode(number, 25.0), ["content_val"])[0] for number in range(1, 5)]
    assert measured(frames).score.tolist() == pytest.approx([0.0, *expected], rel=1e-12)


def test_a_frame_like_the_one_before_has_no_motion_and_its_opposite_has_all():
    black, white = np.zeros((90, 160, 3), np.uint8), np.full((90, 160, 3), 255, np.uint8)
    measures = measured([black, black, white])
    assert measures.motion.tolist() == [0, 0, 1]
    assert measures.brightness.tolist() == [0, 0, 1]
    assert measures.dark.tolist() == [1, 1, 0]
    assert measures.sharpness.tolist() == [0, 0, 0]


def test_sharpness_is_the_variance_of_the_laplacian():
    bgr = noise(1, 90, 160, 3)
    expected = cv2.Laplacian(cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY), cv2.CV_64F).var()
    assert measured([bgr]).sharpness[0] == pytest.approx(expected, rel=1e-3)
    assert measured([cv2.GaussianBlur(bgr, (0, 0), 2)]).sharpness[0] < expected / 50


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 6), st.integers(0, 6))
def test_parts_measured_apart_and_joined_are_the_whole(first, second):
    frames = [scene(seed) for seed in range(first + second)]
    joined, whole = measured(frames[:first]), measured(frames)
    later = measured(frames[first:])
    later.times_us = array("q", whole.times_us[first:])
    joined.extend(later)
    for field in ("times_us", "score", "motion", "sharpness", "brightness", "dark", "descriptors"):
        assert getattr(joined, field) == getattr(whole, field)
    if frames:
        assert difference(joined.first, whole.first) == difference(joined.last, whole.last) == (0, 0)


def test_a_descriptor_survives_scaling_and_brightening_and_differs_for_other_pictures():
    own = descriptor(scene(1), 0)
    assert own.shape == (DESCRIPTOR_BYTES,) and own.dtype == np.uint8
    assert visual_distance(own, own) == 0
    assert visual_distance(own, descriptor(scene(1, height=120, width=160), 0)) < 0.1
    assert visual_distance(own, descriptor(cv2.add(scene(1), (4, 4, 4, 0)), 0)) < 0.15
    others = np.stack([descriptor(scene(seed), 0) for seed in range(2, 40)])
    assert visual_distance(own, others).min() > 0.3


def test_the_hash_is_of_the_upright_picture():
    upright = scene(3)
    for rotation in (90, 180, 270):
        stored = np.ascontiguousarray(np.rot90(upright, k=rotation // 90))  # np.rot90(k=-rotation // 90) turns it back
        bits = np.bitwise_count(descriptor(stored, rotation)[:HASH_BYTES] ^ descriptor(upright, 0)[:HASH_BYTES]).sum()
        assert bits <= 8
        assert np.bitwise_count(descriptor(stored, 0)[:HASH_BYTES] ^ descriptor(upright, 0)[:HASH_BYTES]).sum() > 16
        mirrored = appearance_descriptor(np.ascontiguousarray(np.flip(stored, 1))[None], rotation, mirrored=True)[0]
        assert np.bitwise_count(mirrored[:HASH_BYTES] ^ descriptor(upright, 0)[:HASH_BYTES]).sum() <= 8


@settings(deadline=None)
@given(st.integers(0, 99), st.integers(0, 99))
def test_visual_distance_is_a_symmetric_share(one, other):
    descriptors, others = descriptor(scene(one), 0), descriptor(scene(other), 0)
    assert 0 <= visual_distance(descriptors, others) == visual_distance(others, descriptors) <= 1


def test_pictures_with_nothing_in_common_are_wholly_unlike():
    ramp = np.repeat(np.linspace(0, 80, 160).astype(np.uint8)[None, :, None], 90, axis=0).repeat(3, axis=2)
    assert visual_distance(descriptor(ramp, 0), descriptor(255 - ramp, 0)) == 1


@pytest.mark.parametrize("count", [1, GROUP - 1, GROUP, 2 * GROUP + 1])
def test_groups_measure_what_single_pictures_do(tmp_path, count):
    video = probe(make(tmp_path / "v.mp4", "-f", "lavfi", "-i", f"testsrc2=s=320x180:r=30,trim=end_frame={count + 1}"))
    with open_video(video.path) as (container, stream):
        frames = list(decode(container, stream, video.index.timeline))[:count]
    shown = []
    measurer = Measurer(video, lambda picture: shown.append(picture.copy()))
    for time_us, frame in frames:
        measurer.add(time_us, frame)
    grouped, single = measurer.finish(), FrameMeasures()
    for (time_us, frame), picture in zip(frames, shown, strict=True):
        np.testing.assert_array_equal(reduced(frame, 128, 72), picture)
        single.add([time_us], picture[None], 0)
    for field in ("times_us", "score", "motion", "sharpness", "brightness", "dark", "descriptors"):
        assert getattr(grouped, field) == getattr(single, field)

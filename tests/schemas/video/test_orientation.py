"""Every decode shows the same picture as ffmpeg by default, for any display matrix."""

import subprocess

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.video.analysis.decode_once import decode_once
from operators.video.analysis.key_frames import analyse_key_frames
from operators.video.clips.cut import cut_clip, open_cutter
from operators.video.clips.readback import thumbnail
from operators.video.decode.ffmpeg import ffmpeg_executable
from operators.video.decode.frames import frames_at
from operators.video.decode.probe import probe
from schemas.config import Detector, SplitConfig
from schemas.tables import Cut
from schemas.video.orientation import AS_STORED, Orientation, orientation
from tests.support.videos import make, write_oriented

EIGHT = [Orientation(mirrored, rotation) for mirrored in (False, True) for rotation in (0, 90, 180, 270)]
WIDTH, HEIGHT = 96, 64


@pytest.fixture(scope="module")
def stored_video(tmp_path_factory):
    """One second of H.264 whose eight orientations all differ."""
    picture = ("-f", "lavfi", "-i", f"testsrc2=s={WIDTH}x{HEIGHT}:r=10:d=1")
    codec = ("-c:v", "libx264", "-crf", "10", "-g", "1", "-pix_fmt", "yuv420p")
    return make(tmp_path_factory.mktemp("stored") / "v.mp4", *picture, *codec)


def as_ffmpeg_shows(path, height, width):
    """The first frame as the ffmpeg program decodes it, RGB, shape [height, width, 3]."""
    output = ("-frames:v", "1", "-pix_fmt", "rgb24", "-f", "rawvideo", "-")
    command = [ffmpeg_executable(), "-nostdin", "-loglevel", "error", "-i", str(path), *output]
    raw = subprocess.run(command, check=True, capture_output=True).stdout
    return np.frombuffer(raw, np.uint8).reshape(height, width, 3)


def assert_alike(rgb, expected):
    """Assert that two pictures are equal, up to changes from encoding or colour conversion.

    `rgb` must also differ from `expected` in every other orientation that keeps its sides.
    """
    assert rgb.shape == expected.shape
    differences = [np.abs(view.upright(rgb).astype(int) - expected).mean() for view in EIGHT if not view.swaps_sides]
    assert differences[0] < 8
    assert min(differences[1:]) > 20


@pytest.mark.parametrize("view", EIGHT, ids=lambda view: f"{'mirrored' if view.mirrored else 'plain'}{view.rotation}")
def test_every_decode_shows_what_ffmpeg_shows(stored_video, tmp_path, view):
    path = write_oriented(tmp_path / "v.mp4", stored_video, *view)
    video = probe(path)
    assert (video.mirrored, video.rotation) == view
    expected = as_ffmpeg_shows(path, video.height, video.width)
    (frame,) = frames_at(path, [0])
    assert_alike(frame.rgb, expected)

    decoded = decode_once(
        video, SplitConfig(detector=Detector.ADAPTIVE), tmp_path / "proxy.mp4", lambda _: None, workers=1
    )
    (frame,) = frames_at(decoded.proxy.path, [0])
    assert_alike(frame.rgb, expected)

    sei = write_oriented(tmp_path / "sei.mp4", stored_video, *view, "sei")
    (frame,) = frames_at(sei, [0])
    assert_alike(frame.rgb, as_ffmpeg_shows(sei, *frame.rgb.shape[:2]))

    with av.open(str(path)) as container:
        assert_alike(thumbnail(next(container.decode(video=0))), expected)

    upright = make(tmp_path / "upright.mp4", "-i", str(path), "-c:v", "libx264", "-crf", "10", "-g", "5")
    for seen in (decoded.analysis, analyse_key_frames(video)):
        hash_of_upright = analyse_key_frames(probe(upright)).perceptual_hash()
        assert (int(seen.perceptual_hash(), 16) ^ int(hash_of_upright, 16)).bit_count() <= 40

    # OpenCV does not support mirroring, so a mirrored clip is encoded upright.
    whole = Cut.ENCODE if view.mirrored else Cut.COPY
    for damaged_us, cut in ((None, whole), (video.index.frame_times_us[:1], Cut.ENCODE)):
        with open_cutter(video, video.index.frame_times_us, damaged_us) as cutter:
            assert cutter.cut(0, 1_000_000, tmp_path / "clip.mp4") is cut
        (frame,) = frames_at(tmp_path / "clip.mp4", [0])
        assert_alike(frame.rgb, expected)
        assert_alike(as_ffmpeg_shows(tmp_path / "clip.mp4", video.height, video.width), expected)


@pytest.mark.parametrize("how", ["matrix", "sei"])
@pytest.mark.parametrize("view", EIGHT, ids=lambda view: f"{'mirrored' if view.mirrored else 'plain'}{view.rotation}")
def test_the_trainer_shows_what_ffmpeg_shows(stored_video, tmp_path, view, how):
    pytest.importorskip("torch")
    from trainer_plugin.data.video_decode import read_frames
    from trainer_plugin.types import VideoSource

    path = write_oriented(tmp_path / "v.mp4", stored_video, *view, how)
    height, width = (WIDTH, HEIGHT) if view.swaps_sides else (HEIGHT, WIDTH)
    (rgb,) = read_frames(VideoSource("v", str(path)), [0], (height, width))
    assert_alike(rgb, as_ffmpeg_shows(path, height, width))


@pytest.mark.parametrize("degrees, nearest", [(20, 0), (-44, 0), (50, 270), (-100, 90), (170, 180)])
@pytest.mark.parametrize("mirrored", [False, True])
def test_another_angle_is_rounded_to_a_quarter_turn_everywhere(stored_video, tmp_path, degrees, nearest, mirrored):
    flip = ("-display_hflip",) if mirrored else ()
    path = make(tmp_path / "v.mp4", "-display_rotation", str(degrees), *flip, "-i", str(stored_video), "-c", "copy")
    video = probe(path)
    # The flip comes after the rotation, and therefore reverses its direction.
    assert (video.mirrored, video.rotation) == (mirrored, -nearest % 360 if mirrored else nearest)
    expected = as_ffmpeg_shows(
        write_oriented(tmp_path / "r.mp4", stored_video, *video.orientation), video.height, video.width
    )
    (frame,) = frames_at(path, [0])
    assert_alike(frame.rgb, expected)
    cut_clip(video, video.index.frame_times_us, 0, 300_000, tmp_path / "clip.mp4")
    (frame,) = frames_at(tmp_path / "clip.mp4", [0])
    assert_alike(frame.rgb, expected)


@pytest.mark.parametrize("matrix", [None, np.zeros(9, np.int32)])
def test_no_matrix_or_one_of_zeros_changes_nothing(matrix):
    class Frame:
        side_data = {} if matrix is None else {"DISPLAYMATRIX": matrix}

    assert orientation(Frame()) == AS_STORED


@given(st.sampled_from(EIGHT), st.integers(1, 5), st.integers(1, 5))
def test_upright_pictures_are_mirrored_first_and_turned_then(view, height, width):
    picture = np.arange(height * width, dtype=np.uint8).reshape(height, width)
    shown = view.upright(picture)
    assert shown.shape == ((width, height) if view.swaps_sides else (height, width))
    first = picture[0, -1] if view.mirrored else picture[0, 0]
    corner = {0: shown[0, 0], 90: shown[0, -1], 180: shown[-1, -1], 270: shown[-1, 0]}[view.rotation]
    assert first == corner
    stack = view.upright(np.stack([picture, picture]), axes=(1, 2))
    assert np.array_equal(stack[1], shown)

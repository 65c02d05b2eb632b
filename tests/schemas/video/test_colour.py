"""Colours of rendered videos compared with the painted colours, and tone mapping compared with ffmpeg's filters."""

import subprocess
from functools import partial

import av
import imageio_ffmpeg
import numpy as np
import pytest
from av.video.reformatter import Colorspace, ColorTrc

from operators.video.decode.packets import open_video
from schemas.video.colour import matrix, to_rgb, to_yuv420, tone_map
from tests.support.colours import COLOURS, HDR_BANDS, PATCH, painted
from tests.support.videos import make

HD_PATCH = 192
PQ, HLG = ColorTrc.SMPTE2084, ColorTrc.ARIB_STD_B67


def first_frame(path) -> av.VideoFrame:
    with open_video(path) as (container, _):
        return next(container.decode(video=0))


def worst_error(rgb: np.ndarray) -> int:
    """Largest difference between the centre of a patch and its painted colour, in 8-bit levels."""
    patch = rgb.shape[1] // len(COLOURS)
    centres = rgb[rgb.shape[0] // 2, patch // 2 :: patch].astype(int)
    return int(np.abs(centres - COLOURS).max())


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv420p10le"])
@pytest.mark.parametrize("color_range", ["tv", "pc"])
@pytest.mark.parametrize("space", ["bt601", "bt709", "bt2020"])
def test_the_matrix_and_the_range_that_a_video_names_are_applied(tmp_path, space, color_range, pixel_format):
    scale = f"scale=out_color_matrix={space}:out_range={color_range},format={pixel_format}"
    frame = first_frame(painted(tmp_path / "v.mp4", scale))
    assert worst_error(to_rgb(frame, frame.width, frame.height)) <= 4


@pytest.mark.parametrize("patch, space", [(PATCH, "bt601"), (HD_PATCH, "bt709")])
def test_without_a_matrix_small_video_is_bt601_and_hd_is_bt709(tmp_path, patch, space):
    """swscale would assume BT.601 for both, which is wrong by up to 25 levels in HD."""
    untagged = f"scale=out_color_matrix={space}:out_range=tv,format=yuv420p,setparams=colorspace=unknown:range=unknown"
    frame = first_frame(painted(tmp_path / "v.mp4", untagged, patch))
    assert worst_error(to_rgb(frame, frame.width, frame.height)) <= 4
    assert worst_error(to_rgb(frame, 7 * PATCH, 32)) <= 4
    wrong = Colorspace.ITU709 if space == "bt601" else Colorspace.ITU601
    frame.colorspace = wrong
    assert worst_error(to_rgb(frame, frame.width, frame.height)) > 15


@pytest.mark.parametrize("coefficients", [0, 3, 8, 10, 14])
def test_a_matrix_that_swscale_refuses_is_guessed(coefficients):
    """The codes mean RGB, reserved, YCgCo, BT.2020 with constant luminance, and ICtCp."""
    frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 128, np.uint8), format="rgb24").reformat(format="yuv420p")
    frame.colorspace = coefficients
    assert to_rgb(frame, 16, 16) == pytest.approx(128, abs=2)
    assert matrix(frame) is (Colorspace.BT2020 if coefficients == 10 else Colorspace.ITU601)


def test_grey_of_sdr_is_kept():
    ramp = np.tile(np.arange(256, dtype=np.uint8), (16, 1))
    shown = to_rgb(av.VideoFrame.from_ndarray(np.dstack([ramp] * 3), format="rgb24"), 256, 16)
    assert (shown == ramp[..., np.newaxis]).all()


def test_yuv_for_an_encoder_has_the_requested_matrix_and_limited_range(tmp_path):
    scale = "scale=out_color_matrix=bt709:out_range=pc,format=yuv420p"
    frame = first_frame(painted(tmp_path / "v.mp4", scale))
    for target in (Colorspace.ITU601, Colorspace.ITU709):
        yuv = av.VideoFrame.from_ndarray(to_yuv420(frame, frame.width, frame.height, target), format="yuv420p")
        yuv.colorspace, yuv.color_range = target, 1
        assert worst_error(to_rgb(yuv, frame.width, frame.height)) <= 6


@pytest.mark.parametrize("transfer, name", [(PQ, "smpte2084"), (HLG, "arib-std-b67")])
def test_hdr_appears_as_through_ffmpegs_filters(tmp_path, transfer, name):
    source = make(
        tmp_path / "v.mp4", "-f", "lavfi", "-i", HDR_BANDS + name, "-c:v", "libx265", "-x265-params", "log-level=0:qp=4"
    )
    chain = (
        "zscale=t=linear:npl=100:agamma=false,format=gbrpf32le,zscale=p=bt709,tonemap=mobius:param=0.3:desat=0:peak=10,"
        "zscale=t=bt709:agamma=false:m=gbr:r=pc,format=gbrp"
    )
    # The build of imageio-ffmpeg has the zscale filter; the system's build may not.
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(source), "-vf", chain, "-frames:v", "1"]
    raw = subprocess.run([*command, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"], capture_output=True, check=True).stdout
    expected = np.frombuffer(raw, np.uint8).reshape(96, 320, 3)
    frame = first_frame(source)
    assert (frame.color_trc, frame.format.name) == (transfer, "yuv420p10le")
    shown = to_rgb(frame, 320, 96)
    for row in (16, 48, 80):  # away from the edges of the bands, where chroma is interpolated
        assert np.abs(shown[row].astype(int) - expected[row]).max() <= 3
    assert shown[16, -1].min() > 200


@pytest.mark.parametrize("transfer", [PQ, HLG])
def test_more_light_is_never_darker_and_grey_stays_grey(transfer):
    ramp = np.arange(65536, dtype=np.uint16).reshape(1, -1)
    shown = tone_map(np.dstack([ramp] * 3), transfer).astype(int)
    assert (np.diff(shown, axis=1) >= 0).all()
    assert np.ptp(shown, axis=2).max() <= 1
    assert (shown[0, 0] == 0).all()
    assert (shown[0, -1] == 255).all()


@pytest.mark.parametrize("code, level", [(0.3006, 98), (0.5081, 215), (0.5807, 235), (0.7518, 255), (1.0, 255)])
def test_dark_tones_are_kept_and_bright_ones_rolled_off(code, level):
    """The PQ codes are those of 10, 100, 203, 1000 and 10,000 cd/m2.

    In SDR, 10 cd/m2 is level 255 * 0.1 ** (1 / 2.4).
    """
    grey = np.full((1, 1, 3), round(code * 65535), np.uint16)
    assert tone_map(grey, PQ)[0, 0].astype(int) == pytest.approx(level, abs=1)


def test_hlg_and_pq_agree_about_reference_white():
    """A signal of 75 % in HLG and one of 58 % in PQ are both 203 cd/m2 (BT.2408, table 1)."""
    white = partial(np.full, (1, 1, 3), dtype=np.uint16)
    hlg, pq = tone_map(white(round(0.75 * 65535)), HLG), tone_map(white(round(0.5807 * 65535)), PQ)
    assert hlg.astype(int) == pytest.approx(pq.astype(int), abs=1)

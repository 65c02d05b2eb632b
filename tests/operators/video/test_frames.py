import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.video.frames import fitted_size, frames_at, to_jpeg
from operators.video.probe import probe
from tests.support.videos import counting_video, make, number_on

VP9 = ("-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-g", "25")
VARIABLE = ("-vf", "select='lt(n,45)+not(mod(n,3))'", "-fps_mode", "passthrough")
OPEN_GOP = ("-x264-params", "open-gop=1:bframes=3:keyint=25")


@pytest.mark.parametrize(
    "name, options",
    [("v.mp4", ()), ("v.ts", ("-output_ts_offset", "7.3")), ("v.mkv", VARIABLE), ("v.webm", VP9), ("v.ts", OPEN_GOP)],
)
def test_the_frame_being_presented_is_the_one_returned(tmp_path, name, options):
    source = counting_video(tmp_path / name, *options)
    video = probe(source)
    times = video.index.frame_times_us
    all_numbers = [number_on(frame.rgb) for frame in frames_at(source, times.tolist())]
    kept = [n for n in range(120) if options != VARIABLE or n < 45 or n % 3 == 0]
    assert all_numbers == kept
    asked = [0, 20_000, 900_000, int(times[60]) - 1, int(times[60]), 3_100_000, 3_100_000, video.duration_us - 1]
    frames = list(frames_at(source, asked))
    positions = [int(np.searchsorted(times, time, side="right")) - 1 for time in asked]
    assert [frame.time_us for frame in frames] == [int(times[position]) for position in positions]
    assert [number_on(frame.rgb) for frame in frames] == [kept[position] for position in positions]


def test_sparse_times_jump_over_what_lies_between(tmp_path):
    """Decoding all of it would need every packet; this file has random bytes between the two asked times."""
    source = counting_video(tmp_path / "v.mp4", "-movflags", "+faststart", "-g", "10")
    data = bytearray(source.read_bytes())
    begin = data.index(b"mdat") + 8
    size = len(data) - begin
    data[begin + size // 4 : begin + size // 2] = bytes(size // 2 - size // 4)
    (tmp_path / "hole.mp4").write_bytes(data)
    frames = list(frames_at(tmp_path / "hole.mp4", [100_000, 3_500_000]))
    assert [number_on(frame.rgb) for frame in frames] == [3, 105]


def test_frames_are_upright(tmp_path):
    """The picture's left half is white; turned a quarter clockwise, its upper half is."""
    graph = "color=black:s=128x64:d=0.2,drawbox=w=64:color=white:t=fill"
    plain = make(tmp_path / "plain.mp4", "-f", "lavfi", "-i", graph, "-pix_fmt", "yuv420p")
    turned = make(tmp_path / "v.mp4", "-display_rotation", "-90", "-i", str(plain), "-c", "copy")
    (frame,) = frames_at(turned, [0])
    assert frame.rgb.shape == (128, 64, 3)
    assert frame.rgb[:60].mean() > 240
    assert frame.rgb[68:].mean() < 15
    (small,) = frames_at(turned, [0], side=56)
    assert small.rgb.shape == (56, 28, 3)
    assert small.rgb[:24].mean() > 240


def test_ten_bits_are_no_problem(tmp_path):
    source = counting_video(tmp_path / "v.mp4", "-pix_fmt", "yuv420p10le", seconds=0.5)
    (frame,) = frames_at(source, [400_000], side=140)
    assert (frame.rgb.dtype, frame.rgb.shape) == (np.uint8, (56, 140, 3))
    assert number_on(frame.rgb) == 12


def test_times_outside_the_video_are_an_error(tmp_path):
    source = counting_video(tmp_path / "v.mp4", seconds=0.5)
    for time in (-1, 500_000):
        with pytest.raises(ValueError, match=r"v\.mp4: asked for frames at .* of \[0, 500000\)"):
            list(frames_at(source, [time]))


@given(st.integers(1, 8000), st.integers(1, 8000), st.integers(28, 2048))
def test_a_fitted_size_is_on_the_grid_and_not_too_long(width, height, side):
    fitted = fitted_size(width, height, side)
    assert all(pixels % 28 == 0 and 28 <= pixels <= side for pixels in fitted)
    if max(width, height) >= side and min(width, height) * side >= 28 * max(width, height):
        assert max(fitted) == side // 28 * 28
        assert min(fitted) == pytest.approx(min(width, height) * max(fitted) / max(width, height), abs=14.01)


def test_a_jpeg_looks_like_its_frame():
    rgb = np.zeros((56, 84, 3), np.uint8)
    rgb[:, :42] = (250, 40, 10)
    data = to_jpeg(rgb)
    assert data[:2] == b"\xff\xd8"
    back = cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    assert np.abs(back.astype(int) - rgb).mean() < 3
    assert len(to_jpeg(rgb, quality=30)) < len(data)

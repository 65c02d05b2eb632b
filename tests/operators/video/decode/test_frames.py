import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.video.decode.frames import fitted_size, frame_times, frames_at, to_jpeg
from operators.video.decode.probe import probe
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
    times = frame_times(source)
    assert times.tolist() == video.index.frame_times_us.tolist()
    all_numbers = [number_on(frame.rgb) for frame in frames_at(source, times.tolist())]
    kept = [n for n in range(120) if options != VARIABLE or n < 45 or n % 3 == 0]
    assert all_numbers == kept
    requested = [0, 20_000, 900_000, int(times[60]) - 1, int(times[60]), 3_100_000, 3_100_000, video.duration_us - 1]
    frames = list(frames_at(source, requested))
    positions = [int(np.searchsorted(times, time, side="right")) - 1 for time in requested]
    assert [frame.time_us for frame in frames] == [int(times[position]) for position in positions]
    assert [number_on(frame.rgb) for frame in frames] == [kept[position] for position in positions]


def test_sparse_times_jump_over_what_lies_between(tmp_path):
    """Decoding everything would need every packet. Zeros replace some of the packets that are not needed here."""
    source = counting_video(tmp_path / "v.mp4", "-movflags", "+faststart", "-g", "10")
    data = bytearray(source.read_bytes())
    begin = data.index(b"mdat") + 8
    size = len(data) - begin
    data[begin + size // 4 : begin + size // 2] = bytes(size // 2 - size // 4)
    (tmp_path / "hole.mp4").write_bytes(data)
    frames = list(frames_at(tmp_path / "hole.mp4", [100_000, 3_500_000]))
    assert [number_on(frame.rgb) for frame in frames] == [3, 105]


def marked_video(target, *options: str, size: str = "128x64", mark: str = "w=32:h=16"):
    """Write a black video with a white mark in the upper left corner."""
    graph = f"color=black:s={size}:d=0.2,drawbox={mark}:color=white:t=fill"
    return make(target, "-f", "lavfi", "-i", graph, "-pix_fmt", "yuv420p", *options)


@pytest.mark.parametrize("clockwise, corner", [(0, (0, 0)), (90, (0, 1)), (180, (1, 1)), (270, (1, 0))])
def test_frames_are_upright(tmp_path, clockwise, corner):
    plain = marked_video(tmp_path / "plain.mp4")
    turned = make(tmp_path / "v.mp4", "-display_rotation", str(-clockwise), "-i", str(plain), "-c", "copy")
    (frame,) = frames_at(turned, [0])
    assert frame.rgb.shape == ((64, 128, 3) if clockwise in (0, 180) else (128, 64, 3))
    (small,) = frames_at(turned, [0], side=56)
    assert small.rgb.shape == ((28, 56, 3) if clockwise in (0, 180) else (56, 28, 3))
    for rgb in (frame.rgb, small.rgb):
        rows, columns = np.nonzero(rgb.mean(axis=2) > 200)
        centre = rows.mean() / rgb.shape[0], columns.mean() / rgb.shape[1]
        assert tuple(round(part) for part in centre) == corner


@pytest.mark.parametrize(
    "size, aspect, shown",
    [("90x72", "16/15", (72, 96)), ("90x72", "4/3", (72, 120)), ("131x75", "1", (75, 131)), ("16x16", "1", (16, 16))],
)
def test_pixels_are_square_whatever_the_size(tmp_path, size, aspect, shown):
    """In stored pixels, the mark is twice as wide as high. 4:4:4 is used because H.264 allows odd sizes with it."""
    options = ("-vf", f"setsar={aspect}", "-pix_fmt", "yuv444p")
    source = marked_video(tmp_path / "v.mp4", *options, size=size, mark="w=8:h=4")
    (frame,) = frames_at(source, [0])
    assert frame.rgb.shape == (*shown, 3)
    rows, columns = np.nonzero(frame.rgb.mean(axis=2) > 128)
    assert rows.max() + 1 == pytest.approx(4, abs=1)
    assert columns.max() + 1 == pytest.approx(8 * shown[1] / int(size.split("x")[0]), abs=1)


def test_interlaced_frames_show_one_moment(tmp_path):
    """A bar moves by its own width from field to field. With woven fields, alternate lines would show it elsewhere."""
    graph = (
        "color=black:s=160x96:r=50:d=1[b];color=white:s=8x96:r=50:d=1[w];[b][w]overlay=x=8*n,tinterlace=interleave_top"
    )
    options = ("-c:v", "libx264", "-x264-params", "interlaced=1", "-pix_fmt", "yuv420p")
    source = make(tmp_path / "v.mp4", "-filter_complex", graph, *options)
    (frame,) = frames_at(source, [100_000])
    assert frame.rgb.shape == (96, 160, 3)
    white = frame.rgb.mean(axis=2) > 128
    assert (white == white[0]).all()
    assert white[0].sum() == pytest.approx(8, abs=2)


def test_hdr_frames_have_the_colours_of_sdr(tmp_path):
    """The grey is HDR reference white, 203 cd/m2: a signal of 58 % in PQ and of 75 % in HLG."""
    for transfer, code in (("smpte2084", 573), ("arib-std-b67", 721)):
        grey = f"nullsrc=s=64x64:d=0.2,format=yuv420p10,geq={code}:512:512"
        tags = f"setparams=colorspace=bt2020nc:color_primaries=bt2020:color_trc={transfer}:range=tv"
        source = make(tmp_path / f"{transfer}.mp4", "-f", "lavfi", "-i", f"{grey},{tags}", "-c:v", "libx264")
        (frame,) = frames_at(source, [0], side=56)
        assert frame.rgb.astype(int) == pytest.approx(235, abs=2)


def test_ten_bits_are_no_problem(tmp_path):
    source = counting_video(tmp_path / "v.mp4", "-pix_fmt", "yuv420p10le", seconds=0.5)
    (frame,) = frames_at(source, [400_000], side=140)
    assert (frame.rgb.dtype, frame.rgb.shape) == (np.uint8, (56, 140, 3))
    assert number_on(frame.rgb) == 12


def test_times_outside_the_video_are_an_error(tmp_path):
    source = counting_video(tmp_path / "v.mp4", seconds=0.5)
    for time in (-1, 500_000):
        with pytest.raises(ValueError, match=r"v\.mp4: frames were requested at .* outside of \[0, 500000\)"):
            list(frames_at(source, [time]))


@given(st.integers(1, 8000), st.integers(1, 8000), st.integers(32, 2048), st.sampled_from([28, 32]))
def test_a_fitted_size_is_on_the_grid_and_not_too_long(width, height, side, multiple):
    fitted = fitted_size(width, height, side, multiple)
    assert all(pixels % multiple == 0 and multiple <= pixels <= side for pixels in fitted)
    if max(width, height) >= side and min(width, height) * side >= multiple * max(width, height):
        assert max(fitted) == side // multiple * multiple
        expected = min(width, height) * max(fitted) / max(width, height)
        assert min(fitted) == pytest.approx(expected, abs=multiple / 2 + 0.01)


def test_sides_can_be_multiples_of_another_patch(tmp_path):
    (frame,) = frames_at(counting_video(tmp_path / "v.mp4", seconds=0.5), [0], side=140, multiple=32)
    assert frame.rgb.shape == (64, 128, 3)


def test_a_jpeg_resembles_its_frame():
    rgb = np.zeros((56, 84, 3), np.uint8)
    rgb[:, :42] = (250, 40, 10)
    data = to_jpeg(rgb)
    assert data[:2] == b"\xff\xd8"
    back = cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    assert np.abs(back.astype(int) - rgb).mean() < 3
    assert len(to_jpeg(rgb, quality=30)) < len(data)

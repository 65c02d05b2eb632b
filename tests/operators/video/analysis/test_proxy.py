"""Proxies of small videos: every reader must see the source's times."""

from dataclasses import replace

import av
import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.video.analysis.proxy import FPS, GOP, Proxy, ProxyWriter, proxy_size
from operators.video.decode.frames import frame_times, frames_at
from operators.video.decode.packets import LONGEST_HOLD_US, decode, open_video, read_packets
from operators.video.decode.probe import VideoProbe, probe
from schemas.video.clock import SECOND_US
from tests.support.videos import counting_video, make, number_on

VARIABLE = ("-vf", "select='lt(n,45)+not(mod(n,7))'", "-fps_mode", "passthrough")
SECONDS = 6


def sampled(video: VideoProbe):
    """The first frame at or after each multiple of 1/FPS seconds."""
    cell = -1
    with open_video(video.path) as (container, stream):
        for time_us, frame in decode(container, stream, video.index.timeline):
            if time_us * FPS // SECOND_US > cell:
                cell = time_us * FPS // SECOND_US
                yield time_us, frame


def written(video: VideoProbe, target) -> Proxy:
    writer = ProxyWriter(target, video)
    for time_us, frame in sampled(video):
        writer(time_us, frame)
    return writer.close()


def lasting(video: VideoProbe, duration_us: int) -> VideoProbe:
    return replace(video, index=replace(video.index, duration_us=duration_us))


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> VideoProbe:
    """30 frames per second for 1.5 s, then only every seventh frame. The container's clock does not start at 0."""
    path = tmp_path_factory.mktemp("source") / "v.mkv"
    return probe(counting_video(path, *VARIABLE, "-output_ts_offset", "3.21", seconds=SECONDS))


@pytest.fixture(scope="module")
def proxy(source, tmp_path_factory) -> Proxy:
    return written(source, tmp_path_factory.mktemp("proxy") / "proxy.mp4")


def test_a_proxy_is_a_video_on_the_sources_timeline(source, proxy):
    times = [time_us for time_us, _ in sampled(source)]
    assert len(times) == FPS * SECONDS
    assert proxy.times_us.tolist() == frame_times(proxy.path).tolist() == times
    with open_video(proxy.path) as (container, stream):
        index = read_packets(container, stream, proxy.path)
    assert (index.duration_us, index.missing_us) == (source.duration_us, 0)
    assert np.diff(np.searchsorted(times, index.key_frame_times_us)).max() <= GOP
    shown, intended = frames_at(proxy.path, times), frames_at(source.path, times)
    assert [number_on(frame.rgb) for frame in shown] == [number_on(frame.rgb) for frame in intended]


def test_between_its_frames_a_proxy_shows_the_last_one(source, proxy):
    times_us = [0, 499_999, 1_700_000, 3_333_333, source.duration_us - 1]
    last = [int(proxy.times_us[proxy.times_us <= time_us][-1]) for time_us in times_us]
    assert [frame.time_us for frame in frames_at(proxy.path, times_us)] == last


def test_readers_that_know_no_edit_lists_find_the_same_times(proxy):
    data = proxy.path.read_bytes()
    assert b"elst" not in data
    assert data.index(b"moov") < data.index(b"mdat")
    with av.open(str(proxy.path)) as container:
        packets = [(packet.pts, packet.dts) for packet in container.demux(video=0) if packet.size]
    assert packets == [(time_us, time_us) for time_us in proxy.times_us.tolist()]
    capture, seen = cv2.VideoCapture(str(proxy.path)), []
    while capture.grab():
        seen.append(round(capture.get(cv2.CAP_PROP_POS_MSEC) * 1000))
    assert seen == pytest.approx(proxy.times_us.tolist(), abs=1)


def test_equal_input_makes_equal_bytes(source, proxy, tmp_path):
    assert written(source, tmp_path / "again.mp4").path.read_bytes() == proxy.path.read_bytes()


@given(st.lists(st.integers(1, 3 * SECOND_US), min_size=1, max_size=30))
@settings(max_examples=20, deadline=None)
def test_any_times_come_back(source, tmp_path_factory, steps_us):
    *starts, duration_us = np.cumsum(steps_us).tolist()
    target = tmp_path_factory.mktemp("any") / "proxy.mp4"
    writer = ProxyWriter(target, lasting(source, duration_us))
    for time_us in [0, *starts]:
        writer(time_us, av.VideoFrame(32, 32, "yuv420p"))
    assert writer.close().times_us.tolist() == frame_times(target).tolist() == [0, *starts]
    (last,) = frames_at(target, [duration_us - 1])
    assert last.time_us == [0, *starts][-1]


def test_a_picture_that_stands_for_an_hour_is_repeated(source, tmp_path):
    writer = ProxyWriter(tmp_path / "proxy.mp4", lasting(source, 2 * 3600 * SECOND_US))
    for time_us in (0, 3600 * SECOND_US):
        writer(time_us, av.VideoFrame(32, 32, "yuv420p"))
    proxy = writer.close()
    assert proxy.times_us.tolist() == list(range(0, 2 * 3600 * SECOND_US, LONGEST_HOLD_US))
    assert frame_times(proxy.path).tolist() == proxy.times_us.tolist()
    assert len(list(frames_at(proxy.path, [2 * 3600 * SECOND_US - 1]))) == 1


def test_the_first_frame_stands_for_a_beginning_that_could_not_be_decoded(source, tmp_path):
    writer = ProxyWriter(tmp_path / "proxy.mp4", source)
    for time_us in (2_300_000, 2_500_000):
        writer(time_us, av.VideoFrame(32, 32, "yuv420p"))
    assert writer.close().times_us.tolist() == frame_times(tmp_path / "proxy.mp4").tolist() == [0, 2_500_000]


QUARTERS = (
    "color=0xdc2828:s=160x90:r=10:d=0.5[a];color=0x28c83c:s=160x90:r=10:d=0.5[b];color=0x323cdc:s=160x90:r=10:d=0.5[c];"
    "color=0xe6dc28:s=160x90:r=10:d=0.5[d];[a][b]hstack[t];[c][d]hstack[u];[t][u]vstack,format=gbrp,"
)
"""ffmpeg graph of four saturated colours, one in each quarter of the picture."""


@pytest.mark.parametrize(
    "filters, encoder, display",
    [
        ("scale=1280:90:out_color_matrix=bt709,format=yuv420p,setparams=colorspace=unknown", (), ()),
        ("scale=out_color_matrix=bt2020:out_range=pc,format=yuvj444p", (), ()),
        ("scale=322:182,format=yuv420p,setsar=4/3", (), ("-display_rotation", "90")),
        ("scale=out_color_matrix=bt601,format=yuv420p,tinterlace=interleave_top", ("-x264-params", "interlaced=1"), ()),
        ("format=yuv420p10,setparams=colorspace=bt2020nc:color_primaries=bt2020:color_trc=smpte2084", (), ()),
        ("format=rgb24", ("-c:v", "libx264rgb"), ()),
    ],
    ids=["untagged hd", "full range", "turned and anamorphic", "interlaced", "hdr", "rgb"],
)
def test_frames_of_a_proxy_resemble_those_of_its_source(tmp_path, filters, encoder, display):
    coded = make(tmp_path / "coded.mp4", "-filter_complex", QUARTERS + filters, "-qp", "4", *encoder)
    path = make(tmp_path / "v.mp4", *display, "-i", str(coded), "-c", "copy")
    proxy = written(probe(path), tmp_path / "proxy.mp4")
    (shown,), (source,) = frames_at(proxy.path, [0]), frames_at(path, [0])
    assert shown.rgb.shape == (proxy.height, proxy.width, 3)
    expected = cv2.resize(source.rgb, (proxy.width, proxy.height), interpolation=cv2.INTER_AREA)
    for y, x in ((1, 1), (1, 3), (3, 1), (3, 3)):
        centre = proxy.height * y // 4, proxy.width * x // 4
        assert shown.rgb[centre].astype(int) == pytest.approx(expected[centre].astype(int), abs=8)


def test_reducing_leaves_the_frame_alone_and_is_done_once(source, tmp_path):
    writer = ProxyWriter(tmp_path / "proxy.mp4", source)
    time_us, frame = next(sampled(source))
    before = frame.pts, frame.pict_type, frame.to_ndarray()
    small = writer.reduce(frame)
    assert (writer.reduce(small).to_ndarray() == small.to_ndarray()).all()
    writer(time_us, small)
    writer(time_us + 1, frame)
    assert (frame.pts, frame.pict_type) == before[:2]
    assert (frame.to_ndarray() == before[2]).all()
    writer.close()
    reduced, whole = frames_at(tmp_path / "proxy.mp4", [0, 1])
    assert np.abs(reduced.rgb.astype(int) - whole.rgb).max() <= 3


@given(st.integers(1, 8192), st.integers(1, 8192))
def test_a_proxys_sides_are_even_and_at_most_640(width, height):
    small_width, small_height = proxy_size(width, height)
    assert small_width % 2 == small_height % 2 == 0
    assert min(small_width, small_height) >= 2
    assert max(small_width, small_height) <= 640
    if max(width, height) >= 640:
        assert max(small_width, small_height) == 640


def test_misuse_is_an_error(source, tmp_path):
    writer = ProxyWriter(tmp_path / "proxy.mp4", source)
    with pytest.raises(ValueError, match=r"v\.mkv: no frame was given"):
        writer.close()
    frame = av.VideoFrame(32, 32, "yuv420p")
    writer(0, frame)
    for time_us in (0, source.duration_us):
        with pytest.raises(ValueError, match=rf"v\.mkv: a frame at {time_us} us follows one at 0 us"):
            writer(time_us, frame)

import hashlib
from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.video.decode import ranges
from operators.video.decode.packets import open_video
from operators.video.decode.probe import probe
from operators.video.decode.ranges import SpanReader, decode_spans
from tests.support.videos import counting_video, make, number_on

GOPS = {
    "closed.mp4": "-c:v libx264 -preset veryfast -bf 3",
    "open.mp4": "-c:v libx264 -preset veryfast -bf 3 -x264-params open-gop=1:scenecut=0",
    "open.ts": "-c:v libx264 -preset veryfast -bf 3 -x264-params open-gop=1:scenecut=0",
    "pyramid.mkv": "-c:v libx264 -preset veryfast -bf 8 -x264-params b-pyramid=normal:ref=6:open-gop=1",
    "refresh.mp4": "-c:v libx264 -preset veryfast -bf 0 -x264-params intra-refresh=1",
    "fields.ts": "-c:v libx264 -preset veryfast -bf 2 -flags +ildct+ilme -x264-params open-gop=1",
    "hevc.mp4": "-c:v libx265 -preset ultrafast -x265-params bframes=4:open-gop=1:log-level=none",
    "mpeg2.mpg": "-c:v mpeg2video -bf 2",
    "mpeg4.avi": "-c:v mpeg4",
    "vp9.webm": "-c:v libvpx-vp9 -deadline realtime -cpu-used 8",
}
"""Encoder options for different ways in which frames reference earlier and later frames.

Key frames are at most 20 frames apart.
"""


@pytest.fixture
def short_spans(monkeypatch):
    monkeypatch.setattr(ranges, "SPAN_US", 400_000)


@pytest.fixture(scope="module")
def numbered(tmp_path_factory):
    """A video of numbered frames with an open GOP every 25 frames."""
    target = tmp_path_factory.mktemp("ranges") / "numbered.mp4"
    return probe(counting_video(target, "-x264-params", "open-gop=1:scenecut=0:bframes=3"))


def fingerprints(frames):
    return [
        (time_us, hashlib.md5(frame.to_ndarray().tobytes(), usedforsecurity=False).hexdigest())
        for time_us, frame in frames
    ]


@pytest.mark.parametrize("name", GOPS)
def test_spans_decoded_concurrently_show_the_same_frames_as_one_decode(tmp_path, short_spans, name):
    picture = ("-f", "lavfi", "-i", "testsrc2=s=160x96:r=30:d=4,noise=alls=12:allf=t", "-pix_fmt", "yuv420p")
    video = probe(make(tmp_path / name, *picture, "-g", "20", *GOPS[name].split()))
    sequential, parallel = (list(decode_spans(video, fingerprints, workers)) for workers in (1, 3))
    assert len(parallel) > 4
    assert list(chain(*parallel)) == list(chain(*sequential))
    assert [time_us for time_us, _ in list(chain(*parallel))] == video.index.frame_times_us.tolist()


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(1, 3_000_000)), min_size=1, max_size=5),
    st.booleans(),
)
def test_a_reader_shows_any_span_that_starts_at_a_key_frame_or_where_the_last_ended(numbered, spans, read_on):
    times = numbered.index.frame_times_us
    with open_video(numbered.path) as (container, stream):
        reader = SpanReader(container, stream, numbered.index)
        end_us = 0
        for key_frame, length_us in spans:
            start_us = end_us if read_on else int(numbered.index.key_frame_times_us[key_frame])
            end_us = start_us + length_us
            shown = [number_on(frame.to_ndarray(format="rgb24")) for _, frame in reader.frames(start_us, end_us)]
            assert shown == np.flatnonzero((times >= start_us) & (times < end_us)).tolist()


def test_a_reader_cannot_jump_to_where_no_key_frame_is(numbered):
    with (
        open_video(numbered.path) as (container, stream),
        pytest.raises(ValueError, match="a span cannot start at 1000000 us: no key frame is there"),
    ):
        list(SpanReader(container, stream, numbered.index).frames(1_000_000, 2_000_000))


def test_a_lost_key_frame_costs_the_spans_no_other_frame(tmp_path, short_spans):
    whole = counting_video(tmp_path / "whole.mkv", "-g", "10", "-bf", "0", "-x264-params", "scenecut=0")
    index = probe(whole).index
    data = bytearray(whole.read_bytes())
    with open_video(whole) as (container, stream):
        position = next(packet.pos for packet in container.demux(stream) if packet.pts == 2000)
    data[position : position + 40] = bytes(40)
    (tmp_path / "hole.mkv").write_bytes(data)
    video = probe(tmp_path / "hole.mkv")
    sequential, parallel = (list(chain(*decode_spans(video, fingerprints, workers))) for workers in (1, 3))
    assert {time_us for time_us, _ in parallel} == {time_us for time_us, _ in sequential}
    assert len(parallel) < len(index.frame_times_us)


def test_few_results_wait(numbered, short_spans):
    begun = []
    taken = 0

    def work(frames):
        begun.append(1)
        return len(list(frames))

    for _ in decode_spans(numbered, work, 2):
        taken += 1
        assert len(begun) - taken <= 2
    assert taken == len(begun) > 4


def test_without_key_frames_to_start_from_one_reader_cuts_the_time_evenly(monkeypatch, numbered, short_spans):
    monkeypatch.setattr(ranges, "LONGEST_SPAN_US", 500_000)
    counts = list(decode_spans(numbered, lambda frames: len(list(frames)), 3))
    assert counts == [12] * 10


def test_an_error_of_the_work_ends_the_decode(numbered, short_spans):
    def work(frames):
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        list(decode_spans(numbered, work, 2))

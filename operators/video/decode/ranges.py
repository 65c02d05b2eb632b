"""Decodes a whole video in spans, sequentially or in parallel, with the same frames either way.

In parallel, spans begin at key frames, and each is decoded on one core by its own reader. A span holds the frames
*shown* from its key frame up to the key frame of the next span. The leading pictures of an open GOP follow their key
frame in the file but are shown before it, so they belong to the previous span. The reader of that span therefore
decodes on until the first frame that is shown too late. Each reader uses one decoder thread: ffmpeg's frame threads
cost a fifth more CPU.

Guarantees: every frame is yielded once, in ascending order of time. Results come in order. Memory does not grow with
the length of the video. Results wait until all earlier ones are consumed, so `work` should return little. The
substitute frames that a decoder produces for damaged data depend on where decoding began. Only there may results differ
with the number of workers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from itertools import chain, dropwhile, pairwise
from pathlib import Path
from queue import SimpleQueue
from typing import TypeVar

import av
import cv2
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from operators.video.decode.packets import DecodedFrame, PacketIndex, UnreadableVideo, decode, open_video
from operators.video.decode.probe import VideoProbe
from schemas.video.clock import SECOND_US

T = TypeVar("T")
SpanUs = tuple[int, int]
"""Start and end in microseconds, half-open."""

SPAN_US = 5 * SECOND_US
"""Shortest span: each one costs the few frames that are decoded beyond its end, and keeps a result in memory."""

LONGEST_SPAN_US = 60 * SECOND_US
"""Longest span for parallel decoding. A video with a longer stretch without key frames is decoded by one reader, which
can stop at any frame."""

_FOREVER_US = int(np.iinfo(np.int64).max)


def decode_spans(video: VideoProbe, work: Callable[[Iterator[DecodedFrame]], T], workers: int) -> Iterator[T]:
    """Call `work` on the frames of each span and yield the results in order of time.

    Args:
        work: takes an iterator of times (us) and frames, and must exhaust it. With several workers it runs concurrently
            in threads of this process.
        workers: number of spans decoded concurrently.
    """
    spans = _key_frame_spans(video)
    if workers == 1 or not _can_start_at(video, spans):
        spans, workers = list(pairwise([*range(0, max(1, video.duration_us), SPAN_US), _FOREVER_US])), 1
    with ExitStack() as stack:
        stack.callback(cv2.setNumThreads, cv2.getNumThreads())
        cv2.setNumThreads(1)  # its threads cost a tenth more CPU on 1080p and are no faster alongside the readers
        readers = [SpanReader(*stack.enter_context(open_video(video.path)), video.index) for _ in range(workers)]
        if workers == 1:
            yield from (work(readers[0].frames(*span)) for span in spans)
        else:
            yield from _run_concurrently(readers, spans, work)


def _run_concurrently(
    readers: Sequence[SpanReader], spans: Sequence[SpanUs], work: Callable[[Iterator[DecodedFrame]], T]
) -> Iterator[T]:
    """Run `work` concurrently and yield the results in order.

    At most one more span than there are readers is queued, running or waiting to be consumed.
    """
    idle: SimpleQueue[SpanReader] = SimpleQueue()
    for reader in readers:
        idle.put(reader)

    def work_on(span: SpanUs) -> T:
        reader = idle.get()
        try:
            return work(reader.frames(*span))
        finally:
            idle.put(reader)

    pool = ThreadPoolExecutor(len(readers))
    waiting: deque[Future[T]] = deque()
    try:
        for span in spans:
            waiting.append(pool.submit(work_on, span))
            if len(waiting) > len(readers):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


class SpanReader:
    """Reads spans of an open video.

    A span that starts where the previous one ended is read on without a seek.
    """

    def __init__(self, container: InputContainer, stream: VideoStream, index: PacketIndex) -> None:
        stream.codec_context.thread_count = 1
        self._container, self._stream, self._index = container, stream, index
        self._upcoming = _skip_unordered(decode(container, stream, index.timeline))
        self._next_frame: DecodedFrame | None = None
        self._position_us = 0

    def frames(self, start_us: int, end_us: int) -> Iterator[DecodedFrame]:
        """Yield the frames shown from `start_us` up to `end_us`. Exhaust the iterator before the next call.

        Raises:
            ValueError: `start_us` is neither the end of the previous span nor the time of a key frame.
        """
        if start_us != self._position_us:
            self._seek(start_us)
        self._next_frame = self._next_frame or next(self._upcoming, None)
        while self._next_frame and self._next_frame[0] < end_us:
            yield self._next_frame
            self._next_frame = next(self._upcoming, None)
        self._position_us = end_us

    def _seek(self, start_us: int) -> None:
        key_frame = self._index.key_frame(start_us)
        if self._index.key_frame_times_us[key_frame] != start_us:
            raise ValueError(f"a span cannot start at {start_us} us: no key frame is there")
        self._upcoming = _skip_unordered(decode_from(self._container, self._stream, self._index, key_frame))
        self._next_frame = None


def decode_from(
    container: InputContainer, stream: VideoStream, index: PacketIndex, key_frame: int
) -> Iterator[DecodedFrame]:
    """Frames shown from a key frame on, identical to those of a decoder that started at the beginning.

    The key frame may not be decoded intact, because the container's seek went past it or because it is damaged.
    Decoding then starts earlier: one key frame, then two, four and so on.
    """
    key_us = int(index.key_frame_times_us[key_frame])
    back = 1
    while True:
        seek(container, index, key_frame)
        frames = dropwhile(lambda timed: timed[0] < key_us, decode(container, stream, index.timeline))
        first = next(frames, None)
        if key_frame == 0 or (first and first[0] == key_us and not first[1].is_corrupt):
            return chain([first] if first else [], frames)
        key_frame = max(0, key_frame - back)
        back *= 2


def seek(container: InputContainer, index: PacketIndex, key_frame: int) -> None:
    """Seek to a key frame, given by its index, or somewhat before it.

    Raises:
        UnreadableVideo: `damaged` when the container cannot seek at all.
    """
    seek_to(container, index, index.seek_target_us(key_frame))


def seek_to(container: InputContainer, index: PacketIndex, time_us: int) -> None:
    """Seek to a time, which may be negative, or to the beginning where the container cannot seek there.

    RealMedia can seek only to places that were read before, AVI not before its first frame.

    Raises:
        UnreadableVideo: `damaged` when the container cannot seek at all.
    """
    try:
        container.seek(round(index.timeline.seconds(time_us) * SECOND_US))
    except av.error.FFmpegError:
        try:
            container.seek(round(index.timeline.seconds(0) * SECOND_US))
        except av.error.FFmpegError as error:
            name = Path(container.name).name
            raise UnreadableVideo("damaged", f"{name}: no place in it can be found ({error}); remux it") from error


def _skip_unordered(frames: Iterator[DecodedFrame]) -> Iterator[DecodedFrame]:
    """Skip frames that are not later than the frame before."""
    last_us = -1
    for time_us, frame in frames:
        if time_us > last_us:
            yield time_us, frame
            last_us = time_us


def _key_frame_spans(video: VideoProbe) -> list[SpanUs]:
    starts = [0]
    for key_us in video.index.key_frame_times_us.tolist():
        if key_us - starts[-1] >= SPAN_US:
            starts.append(key_us)
    return list(pairwise([*starts, _FOREVER_US]))


def _can_start_at(video: VideoProbe, spans: Sequence[SpanUs]) -> bool:
    """Whether there are several spans, none too long, each decodable from its key frame without delay.

    Only the start of the second span is tested. A stream with gradual refresh (x264's `intra-refresh`) shows nothing
    for some frames after a key frame, and the first frames shown may still be wrong.
    """
    if len(spans) < 2 or max(min(end, video.duration_us) - start for start, end in spans) > LONGEST_SPAN_US:
        return False
    start_us = spans[1][0]
    key_frame = video.index.key_frame(start_us)
    with open_video(video.path) as (container, stream):
        seek(container, video.index, key_frame)
        shown = (time_us for time_us, _ in decode(container, stream, video.index.timeline))
        return next(dropwhile(lambda time_us: time_us < start_us, shown), None) == start_us

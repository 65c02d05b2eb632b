"""Worker processes that only decode frames, without importing the training code or the script that started them.

A fork server imports PyTorch once for all of them. A process of its own would take three seconds of CPU time and 245 MB
of memory for that.

Each process decodes one piece of a video at a time. If it crashes or hangs, that piece is known; the process is
replaced and the others continue. The processes exit when the trainer exits, in whatever way, and ignore signals, which
the trainer handles.

`pebble.ProcessPool` has the time limit as well, but its processes import the script that started them, and one pipe
carries the answers of all of them.
"""

from __future__ import annotations

import os
import pickle
import signal
import threading
import traceback
from collections.abc import Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from queue import SimpleQueue

import numpy as np
import torch
from numpy.typing import NDArray

from schemas.fork_server import Child, ForkServer
from trainer_plugin.data.video_decode import BadVideo, read_frames
from trainer_plugin.ops.preprocess import Resample
from trainer_plugin.types import VideoSource

Frames = NDArray[np.uint8]
"""NumPy arrays, not tensors: tensors would be passed through /dev/shm, which containers keep small."""

Piece = tuple[VideoSource, Sequence[int], tuple[int, int], Resample, tuple[int, int] | None]
"""The arguments of `read_frames`."""

LONGEST_SECONDS = 300.0
"""Time limit in seconds for decoding one piece. Other ranks wait for it, so it must not exceed
`parallel.timeout_minutes`."""


_server = ForkServer()


class Decoders:
    """A pool of decoder processes, each started when it is first needed."""

    def __init__(self, count: int) -> None:
        self._all = [_Decoder() for _ in range(count)]
        self._idle: SimpleQueue[_Decoder] = SimpleQueue()
        for decoder in self._all:
            self._idle.put(decoder)
        self._threads = ThreadPoolExecutor(count)
        self._too_slow: dict[str, str] = {}

    def submit(self, piece: Piece) -> Future[Frames]:
        """Decode a piece in one of the processes.

        Returns:
            A future that returns or raises what `read_frames` does. It may also raise BadVideo with one of two further
            reasons: `crashed` if decoding kills the process; `too_slow` if it takes more than `LONGEST_SECONDS`, or if
            another piece of the video did.
        """
        return self._threads.submit(self._decode, piece)

    def close(self) -> None:
        """Kill the processes, even while they decode."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for decoder in self._all:
            decoder.close()
        self._threads.shutdown()

    def _decode(self, piece: Piece) -> Frames:
        key = piece[0].key
        if key in self._too_slow:
            raise BadVideo(key, "too_slow", self._too_slow[key])
        decoder = self._idle.get()
        try:
            answer = decoder.decode(piece)
            if answer is None:  # retry once: it may have been killed because of other processes
                answer = decoder.decode(piece)
        finally:
            self._idle.put(decoder)
        if answer is None:
            raise BadVideo(key, "crashed", "decoding it crashes the process; remove it from the data")
        if isinstance(answer, BadVideo) and answer.reason == "too_slow":
            self._too_slow[key] = answer.message
        if isinstance(answer, Exception):
            raise answer
        return answer


class _Decoder:
    """One decoder process, started when a piece is requested and no process is running.

    Only one thread at a time may call `decode`. Any thread may call `close`.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._closed = False
        self._process: Child | None = None

    def decode(self, piece: Piece) -> Frames | Exception | None:
        """The frames, or the error instead of them; None if the process exited before it answered."""
        pipe = self._start().connection
        try:
            pipe.send(piece)
            if pipe.poll(LONGEST_SECONDS):
                answer: Frames | Exception = pipe.recv()
                return answer
        except (EOFError, OSError):
            self._end()
            return None
        self._end()
        return BadVideo(
            piece[0].key, "too_slow", f"{len(piece[1])} frames are not decoded in {LONGEST_SECONDS:g} s; convert it"
        )

    def close(self) -> None:
        """Kill the process for good. A thread that waits in `decode` gets no answer."""
        with self._lock:
            self._closed = True
            if self._process is not None:
                self._process.kill()

    def _start(self) -> Child:
        with self._lock:
            if self._closed:
                raise CancelledError
            if self._process is None:
                self._process = _server.start(serve, modules=[__name__], timeout_seconds=LONGEST_SECONDS)
            return self._process

    def _end(self) -> None:
        with self._lock:
            assert self._process is not None
            self._process.kill()
            self._process.close()
            self._process = None


def serve(pipe: Connection) -> None:
    """Decode the pieces that arrive through a pipe, until its other end is closed."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the trainer finishes its step, then kills its decoders
    torch.set_num_threads(1)
    pieces: SimpleQueue[Piece] = SimpleQueue()
    threading.Thread(target=_listen, args=(pipe, pieces), daemon=True).start()
    while True:
        pipe.send(_decode_or_catch(pieces.get()))


def _listen(pipe: Connection, pieces: SimpleQueue[Piece]) -> None:
    """Receive pieces in a thread of its own, so that the process can exit in the middle of decoding."""
    try:
        while True:
            pieces.put(pipe.recv())
    except (EOFError, OSError):
        os._exit(0)


def _decode_or_catch(piece: Piece) -> Frames | Exception:
    try:
        return read_frames(*piece)
    except Exception as error:  # noqa: BLE001 - re-raised by the trainer
        error.add_note(traceback.format_exc())
        return _make_picklable(error)


def _make_picklable(error: Exception) -> Exception:
    """The error, or a RuntimeError with its traceback if the error cannot be pickled."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    except Exception:  # noqa: BLE001 - whatever its class raises
        return RuntimeError("".join(traceback.format_exception(error)))
    return error

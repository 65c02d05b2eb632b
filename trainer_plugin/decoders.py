"""Processes that decode frames and nothing else: they import neither the trainer nor the job that started them.

Each decodes one piece of a video at a time, so that one that dies, or does not come back, says which piece it was. It
is replaced, and the others go on. They end with the trainer, however that ends, and leave signals to it.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from queue import SimpleQueue

import numpy as np
import torch
from numpy.typing import NDArray

from trainer_plugin.examples import VideoSource
from trainer_plugin.frames import BadVideo, read_frames
from trainer_plugin.patches import Resample

Frames = NDArray[np.uint8]
"""Not tensors: these would pass through /dev/shm, which containers keep small."""

Piece = tuple[VideoSource, Sequence[int], tuple[int, int], Resample, tuple[int, int] | None]
"""The arguments of `read_frames`."""

LONGEST_SECONDS = 300.0
"""How long a process may decode one piece. Other ranks wait for it, so no longer than `parallel.timeout_minutes`."""


class Decoders:
    """A number of processes, each started when it is first needed."""

    def __init__(self, count: int) -> None:
        self._all = [_Decoder() for _ in range(count)]
        self._idle: SimpleQueue[_Decoder] = SimpleQueue()
        for decoder in self._all:
            self._idle.put(decoder)
        self._threads = ThreadPoolExecutor(count)
        self._too_slow: dict[str, str] = {}

    def submit(self, piece: Piece) -> Future[Frames]:
        """What `read_frames` gives, or raises. Besides, the future may raise BadVideo with one of two reasons more:
        `crashed` (decoding ends the process) and `too_slow` (it takes more than `LONGEST_SECONDS`, or some other piece
        of the video took that long)."""
        return self._threads.submit(self._decode, piece)

    def close(self) -> None:
        """End the processes, also in the middle of a piece."""
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
            answer = decoder.ask(piece)
            if answer is None:  # once, it may have been killed for what others did
                answer = decoder.ask(piece)
        finally:
            self._idle.put(decoder)
        if answer is None:
            raise BadVideo(key, "crashed", "decoding it ends the process; leave it out")
        if isinstance(answer, BadVideo) and answer.reason == "too_slow":
            self._too_slow[key] = answer.message
        if isinstance(answer, Exception):
            raise answer
        return answer


class _Decoder:
    """One process, started when it is asked and there is none. One thread at a time asks; any may close."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._closed = False
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Connection | None = None

    def ask(self, piece: Piece) -> Frames | Exception | None:
        """The frames, or why there are none; None if the process ended before it answered."""
        pipe = self._started()
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
        """End the process for good; whoever waits for it gets no answer."""
        with self._lock:
            self._closed = True
            if self._process is not None:
                self._process.kill()
                self._process.wait()

    def _started(self) -> Connection:
        with self._lock:
            if self._closed:
                raise CancelledError
            if self._pipe is None:
                self._pipe, theirs = Pipe()
                with theirs:
                    self._process = subprocess.Popen(
                        [sys.executable, "-P", "-m", __name__, str(theirs.fileno())],
                        pass_fds=[theirs.fileno()],
                        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))},
                    )
            return self._pipe

    def _end(self) -> None:
        with self._lock:
            assert self._process is not None and self._pipe is not None
            self._process.kill()
            self._process.wait()
            self._pipe.close()
            self._pipe = None


def serve(pipe: Connection) -> None:
    """Decode what comes through a pipe, until its other end is gone."""
    for asked_to_end in (signal.SIGINT, signal.SIGTERM):
        signal.signal(asked_to_end, signal.SIG_IGN)  # the trainer finishes its step, and ends its decoders
    torch.set_num_threads(1)
    pieces: SimpleQueue[Piece] = SimpleQueue()
    threading.Thread(target=_listen, args=(pipe, pieces), daemon=True).start()
    while True:
        pipe.send(_answer(pieces.get()))


def _listen(pipe: Connection, pieces: SimpleQueue[Piece]) -> None:
    """Beside the decoding, so as to end in the middle of it."""
    try:
        while True:
            pieces.put(pipe.recv())
    except (EOFError, OSError):
        os._exit(0)


def _answer(piece: Piece) -> Frames | Exception:
    try:
        return read_frames(*piece)
    except Exception as error:  # noqa: BLE001 - the trainer raises it
        error.add_note(traceback.format_exc())
        return _sendable(error)


def _sendable(error: Exception) -> Exception:
    """The error, or its traceback as one where it does not survive pickling."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    except Exception:  # noqa: BLE001 - whatever its class raises
        return RuntimeError("".join(traceback.format_exception(error)))
    return error


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])))

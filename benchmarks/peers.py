"""Samples two frames per second from a video with another reader: `python benchmarks/peers.py READER VIDEO`.

Prints the CPU seconds, excluding the import of the reader, or that the reader is not installed. The script imports
nothing from this project, so it runs under the Python of an environment in which the readers are installed.
"""

import sys
from collections.abc import Callable
from resource import RUSAGE_CHILDREN, RUSAGE_SELF, getrusage

FPS = 2
WIDTH, HEIGHT = 640, 360
NOT_INSTALLED = "not installed"


def opencv() -> Callable[[str], None]:
    import cv2

    cv2.setNumThreads(1)

    def read(path: str) -> None:
        capture = cv2.VideoCapture(path)
        step = round(capture.get(cv2.CAP_PROP_FPS) / FPS)
        number = 0
        while capture.grab():
            if number % step == 0:
                cv2.resize(capture.retrieve()[1], (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
            number += 1

    return read


def decord() -> Callable[[str], None]:
    from decord import VideoReader

    def read(path: str) -> None:
        reader = VideoReader(path, width=WIDTH, height=HEIGHT, num_threads=1)
        step = round(reader.get_avg_fps() / FPS)
        for number in range(0, len(reader), step):
            reader[number].asnumpy()

    return read


def torchcodec() -> Callable[[str], None]:
    from torchcodec.decoders import VideoDecoder
    from torchcodec.transforms import Resize

    def read(path: str) -> None:
        decoder = VideoDecoder(path, num_ffmpeg_threads=1, transforms=[Resize((HEIGHT, WIDTH))])
        for tick in range(int(decoder.metadata.duration_seconds * FPS)):
            decoder.get_frame_played_at(tick / FPS)

    return read


def moviepy() -> Callable[[str], None]:
    from moviepy import VideoFileClip

    def read(path: str) -> None:
        with VideoFileClip(path, audio=False, target_resolution=(WIDTH, HEIGHT)) as clip:
            for _ in clip.iter_frames(fps=FPS):
                pass

    return read


READERS = {reader.__name__: reader for reader in (opencv, decord, torchcodec, moviepy)}


def main(reader: str, path: str) -> None:
    try:
        read = READERS[reader]()
    except ModuleNotFoundError:
        print(NOT_INSTALLED)
        return
    before = _cpu_seconds()
    read(path)
    print(_cpu_seconds() - before)


def _cpu_seconds() -> float:
    usages = getrusage(RUSAGE_SELF), getrusage(RUSAGE_CHILDREN)
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


if __name__ == "__main__":
    main(*sys.argv[1:])

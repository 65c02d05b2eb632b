"""The two ways in which the pipeline analyses a video: every frame, or key frames only."""

from __future__ import annotations

from pathlib import Path

from av.video.frame import VideoFrame

from operators.video.analysis.analysis import FrameSampling, analyse
from operators.video.analysis.key_frames import analyse_key_frames, propose
from operators.video.analysis.proxy import FPS, proxy_size
from operators.video.decode.probe import probe
from schemas.config import Detector
from schemas.video.colour import matrix, to_yuv420

THRESHOLD = 3.0


def one_pass(path: Path, workers: int) -> None:
    """Index, find shots, measure every frame, and sample two frames per second at the size of a proxy."""
    video = probe(path)
    width, height = proxy_size(video.width, video.height)

    def small(frame: VideoFrame) -> VideoFrame:
        return VideoFrame.from_ndarray(to_yuv420(frame, width, height, matrix(frame)), format="yuv420p")

    sampling = FrameSampling(FPS, lambda time_us, frame: None, small)
    analyse(video, samplings=[sampling], workers=workers).shot_starts(Detector.ADAPTIVE, THRESHOLD)


def key_frames(path: Path) -> None:
    """Index, propose shots, and measure the key frames."""
    propose(probe(path))


def refine_key_frames(path: Path) -> None:
    """Do the same as `key_frames`, then decode the first frames of shots and the frames of the perceptual hash."""
    analyse_key_frames(probe(path)).shot_starts(Detector.ADAPTIVE, THRESHOLD)

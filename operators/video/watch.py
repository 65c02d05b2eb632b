"""Watches a video once, as a build is configured to: what is decoded, whether a network looks on, the proxy beside.

This is the only decode of a whole source in a build. Clips are cut from coded frames, captions are made from the proxy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from av.video.frame import VideoFrame

from operators.video.analysis import Analysis, Sampling, analyse
from operators.video.key_frames import analyse_key_frames
from operators.video.probe import VideoProbe
from operators.video.proxy import FPS, Proxy, ProxyWriter
from operators.video.transnet import TransNet
from schemas.config import Decode, Detector, SplitConfig


@dataclass(frozen=True)
class Watched:
    """What is left of the decode."""

    video: VideoProbe
    """With all formats of the picture."""
    analysis: Analysis
    proxy: Proxy | None
    """None where only key frames were decoded."""


def watch(
    video: VideoProbe, settings: SplitConfig, proxy: Path, reached: Callable[[int], None], workers: int
) -> Watched:
    """Decode a video and write its proxy, in the shape of the format that lasts longest.

    Only a decode shows that. Where it is not the one that the video begins with, the video is decoded once more.

    Args:
        proxy: where to write it.
        reached: told the time (us) up to which the video has been watched, about twice a second of it.
        workers: spans of a long video that are decoded at once.

    Raises:
        UnreadableVideo: `damaged` when half of the video or more cannot be decoded.
        BadInput: the configured network is not installed.
    """
    if settings.decode is Decode.KEY_FRAMES:
        analysis = analyse_key_frames(video)
        return Watched(video.with_formats(analysis.formats), analysis, None)
    watched = _watch(video, settings, proxy, reached, workers)
    if (watched.video.width, watched.video.height) != (video.width, video.height):
        watched = _watch(watched.video, settings, proxy, reached, workers)
    return watched


def _watch(
    video: VideoProbe, settings: SplitConfig, proxy: Path, reached: Callable[[int], None], workers: int
) -> Watched:
    writer = ProxyWriter(proxy, video)

    def take(time_us: int, frame: VideoFrame) -> None:
        if time_us < video.duration_us:  # a damaged packet may claim any time
            writer(time_us, frame)
        reached(time_us)

    network = TransNet() if settings.detector is Detector.TRANSNET else None
    sampling = Sampling(FPS, take, writer.reduce)
    analysis = analyse(video, samplings=[sampling], network=network, workers=workers)
    return Watched(video.with_formats(analysis.formats), analysis, writer.close())

"""Decodes a video once, as the build configuration requires: analysis, transition network and proxy in one pass.

This is the only decode of a whole source in a build. Clips are cut from coded frames, and captions are made from the
proxy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from av.video.frame import VideoFrame

from operators.video.analysis.analysis import Analysis, FrameSampling, analyse
from operators.video.analysis.key_frames import analyse_key_frames
from operators.video.analysis.proxy import FPS, Proxy, ProxyWriter
from operators.video.analysis.transnet import TransNet
from operators.video.decode.probe import VideoProbe
from schemas.config import Decode, Detector, SplitConfig


@dataclass(frozen=True)
class DecodedVideo:
    """Results of the decode."""

    video: VideoProbe
    """The probe with all picture formats."""
    analysis: Analysis
    proxy: Proxy | None
    """The proxy; None if only key frames were decoded."""


def decode_once(
    video: VideoProbe, settings: SplitConfig, proxy: Path, on_progress: Callable[[int], None], workers: int
) -> DecodedVideo:
    """Decode a video and write its proxy, in the size of the format with the longest total duration.

    Only a decode finds that format. If its size is not that of the given probe, the video is decoded a second time.

    Args:
        proxy: path of the proxy.
        on_progress: called with the time (us) up to which the video has been decoded, about twice per second of video.
        workers: number of spans of a long video that are decoded concurrently.

    Raises:
        UnreadableVideo: `damaged` when half of the video or more cannot be decoded, or no key frame in key-frame mode.
        BadInput: the configured network is not installed.
    """
    if settings.decode is Decode.KEY_FRAMES:
        analysis = analyse_key_frames(video)
        return DecodedVideo(video.with_formats(analysis.formats), analysis, None)
    decoded = _decode(video, settings, proxy, on_progress, workers)
    if (decoded.video.width, decoded.video.height) != (video.width, video.height):
        decoded = _decode(decoded.video, settings, proxy, on_progress, workers)
    return decoded


def _decode(
    video: VideoProbe, settings: SplitConfig, proxy: Path, on_progress: Callable[[int], None], workers: int
) -> DecodedVideo:
    writer = ProxyWriter(proxy, video)

    def take(time_us: int, frame: VideoFrame) -> None:
        if time_us < video.duration_us:  # a damaged packet may claim any time
            writer(time_us, frame)
        on_progress(time_us)

    network = TransNet() if settings.detector is Detector.TRANSNET else None
    sampling = FrameSampling(FPS, take, writer.reduce)
    analysis = analyse(video, samplings=[sampling], network=network, workers=workers)
    return DecodedVideo(video.with_formats(analysis.formats), analysis, writer.close())

"""Unusual inputs with their ground truth: every container, codec, rate, shape and clock that a source may have.

A sample is about two seconds of numbered frames (`tests.support.videos`), rendered with the installed ffmpeg. What a
probe must report is written here, not read back from the file.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from tests.support.videos import BAR, HEIGHT, WIDTH, make

NTSC = Fraction(30000, 1001)
FILM = Fraction(24000, 1001)

X264 = ("-c:v", "libx264", "-preset", "ultrafast", "-g", "15", "-pix_fmt", "yuv420p")
H264 = (*X264, "-x264-params", "bframes=2:keyint=15:scenecut=0")
OPEN_GOP = (*X264, "-x264-params", "open-gop=1:bframes=3:keyint=15:b-adapt=0:scenecut=0")
LONG_GOP = (*X264, "-x264-params", "keyint=300:min-keyint=300:scenecut=0")
PYRAMID = (*X264, "-x264-params", "bframes=7:b-pyramid=normal:b-adapt=0:keyint=30")
X265 = ("-c:v", "libx265", "-preset", "ultrafast", "-x265-params", "log-level=none:keyint=15")
VP8 = ("-c:v", "libvpx", "-deadline", "realtime", "-cpu-used", "8", "-g", "15", "-b:v", "500k")
VP9 = ("-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-g", "15")
AV1 = ("-c:v", "libaom-av1", "-cpu-used", "8", "-usage", "realtime", "-g", "15", "-crf", "20")
MPEG2 = ("-c:v", "mpeg2video", "-g", "15", "-bf", "2", "-q:v", "3")
MPEG4 = ("-c:v", "mpeg4", "-g", "15", "-q:v", "3")
PQ = "setparams=color_trc=smpte2084:color_primaries=bt2020:colorspace=bt2020nc"
HLG = "setparams=color_trc=arib-std-b67:color_primaries=bt2020:colorspace=bt2020nc"
HDR = {"pixel_format": "yuv420p10le", "bit_depth": 10, "primaries": "bt2020"}


@dataclass(frozen=True)
class Sample:
    """One input: how to render it, and its ground truth."""

    file: str
    codec: tuple[str, ...] = H264
    """ffmpeg options of the encoder and the container."""
    filters: str = ""
    """ffmpeg filters that are applied to the numbered picture before encoding."""
    fps: Fraction = Fraction(30)
    frames: int = 45
    kept: tuple[int, ...] | None = None
    """Numbers of the frames in the file, if some are missing."""
    starts: float = 0.0
    """Start of the container's clock in seconds (option `-output_ts_offset`)."""
    sound: tuple[str, ...] = ("-c:a", "aac")
    tracks: int = 1
    copied: tuple[tuple[str, ...], tuple[str, ...]] | None = None
    """Options before and after the input of a second ffmpeg run, which stream-copies the output of the first."""
    jump: tuple[int, float] = (10**9, 0.0)
    """A frame number and seconds: from this frame on, all times are later by so much."""
    readable: bool = True
    """Whether the frame numbers can be read; a very small picture has no room for ten bars."""
    truth: dict[str, Any] = field(default_factory=dict)
    """Expected attributes of `VideoProbe`, besides those that follow from the other fields."""

    @property
    def numbers(self) -> tuple[int, ...]:
        """Frame numbers in presentation order."""
        return tuple(range(self.frames)) if self.kept is None else self.kept

    @property
    def times_us(self) -> list[float]:
        """Presentation time of each frame in microseconds, relative to the first."""
        late, seconds = self.jump
        first = self.numbers[0]
        return [float((n - first) / self.fps + (n >= late) * seconds) * 1e6 for n in self.numbers]

    @property
    def duration_us(self) -> float:
        """Duration in microseconds. The last frame lasts one frame period of the sample's rate."""
        return self.times_us[-1] + float(1 / self.fps) * 1e6

    def render(self, folder: Path) -> Path:
        """Render the sample into this folder and return its path."""
        target = folder / self.file
        if self.copied is None:
            return make(target, *self._inputs(), *self._outputs())
        before, after = self.copied
        first = make(folder / f"first_{self.file}", *self._inputs(), *self._outputs())
        copy = make(target, *before, "-i", str(first), "-map", "0", "-c", "copy", *after)
        first.unlink()
        return copy

    def _inputs(self) -> list[str]:
        bits = f"if(mod(floor(N/pow(2,floor(X/{BAR}))),2),235,16)"
        picture = f"nullsrc=s={WIDTH}x{HEIGHT}:r={self.fps},geq='{bits}':128:128,trim=end_frame={self.frames}"
        inputs = ["-f", "lavfi", "-i", f"{picture},{self.filters}" if self.filters else picture]
        for track in range(self.tracks):
            inputs += ["-f", "lavfi", "-i", f"sine=f={440 * (track + 1)}:r=44100:d={float(self.frames / self.fps)}"]
        return inputs

    def _outputs(self) -> list[str]:
        maps = [text for number in range(1 + self.tracks) for text in ("-map", str(number))]
        offset = ["-output_ts_offset", str(self.starts)] if self.starts else []
        return [*maps, *self.codec, *(self.sound if self.tracks else ()), *offset]


def _silent(file: str, *codec: str, **more: Any) -> Sample:
    """A sample without sound."""
    return Sample(file, codec, tracks=0, **more)


def _rotated(counterclockwise: int) -> Sample:
    """A phone's video: stored rotated, with a display matrix that turns the numbers upright again."""
    filters = {90: "transpose=clock", 180: "hflip,vflip", -90: "transpose=cclock"}[counterclockwise]
    return Sample(
        f"turned{counterclockwise}.mp4",
        filters=filters,
        copied=(("-display_rotation", str(counterclockwise)), ()),
        truth={"rotation": -counterclockwise % 360, "width": WIDTH, "height": HEIGHT},
    )


def _thinned(file: str, *codec: str, **more: Any) -> Sample:
    """A variable frame rate: frames 0 to 23 are all kept, then every third one."""
    return Sample(
        file,
        (*(codec or H264), "-fps_mode", "passthrough"),
        filters="select='lt(n,24)+not(mod(n,3))'",
        kept=tuple(n for n in range(45) if n < 24 or n % 3 == 0),
        truth={"variable_frame_rate": True},
        **more,
    )


def _jumping(file: str) -> Sample:
    """A sample whose clock jumps forward by five seconds at frame 20."""
    return Sample(
        file,
        (*H264, "-fps_mode", "passthrough"),
        filters="setpts='PTS+gte(N,20)*5/TB'",
        jump=(20, 5.0),
        truth={"variable_frame_rate": True},
    )


def _at_rate(fps: Fraction, file: str) -> Sample:
    return Sample(file, fps=fps, frames=round(1.5 * fps))


CONTAINERS = [
    Sample("plain.mp4", truth={"codec": "h264", "audio_codec": "aac", "pixel_format": "yuv420p", "bit_depth": 8}),
    Sample("plain.mov", truth={"codec": "h264", "audio_codec": "aac"}),
    Sample("plain.mkv", truth={"codec": "h264", "audio_codec": "aac"}),
    Sample("vp8.webm", VP8, sound=("-c:a", "libvorbis"), truth={"codec": "vp8", "audio_codec": "vorbis"}),
    Sample("vp9.webm", VP9, sound=("-c:a", "libopus"), truth={"codec": "vp9", "audio_codec": "opus"}),
    Sample("av1.webm", AV1, sound=("-c:a", "libopus"), truth={"codec": "av1", "audio_codec": "opus"}),
    Sample("mpeg4.avi", MPEG4, sound=("-c:a", "pcm_s16le"), truth={"codec": "mpeg4", "audio_codec": "pcm_s16le"}),
    Sample("mpeg4_b.avi", (*MPEG4, "-bf", "2"), sound=("-c:a", "libmp3lame"), truth={"audio_codec": "mp3"}),
    Sample("h264.avi", (*X264, "-bf", "0"), sound=("-c:a", "pcm_s16le"), truth={"codec": "h264"}),
    Sample("plain.flv", truth={"codec": "h264"}),
    Sample("sorenson.flv", ("-c:v", "flv", "-q:v", "3"), sound=("-c:a", "libmp3lame"), truth={"codec": "flv1"}),
    Sample("mpeg2.mpg", MPEG2, sound=("-c:a", "mp2"), truth={"codec": "mpeg2video"}),
    Sample(
        "mpeg1.mpg",
        ("-c:v", "mpeg1video", "-bf", "2", "-q:v", "3"),
        sound=("-c:a", "mp2"),
        truth={"codec": "mpeg1video"},
    ),
    Sample("mpeg2.vob", MPEG2, sound=("-c:a", "ac3"), truth={"codec": "mpeg2video", "audio_codec": "ac3"}),
    Sample("plain.ts", truth={"codec": "h264"}),
    Sample("plain.m2ts", truth={"codec": "h264"}),
    Sample(
        "theora.ogv",
        ("-c:v", "libtheora", "-g", "16", "-q:v", "8"),
        sound=("-c:a", "libvorbis"),
        truth={"codec": "theora"},
    ),
    Sample(
        "h263.3gp",
        ("-c:v", "h263", "-q:v", "3"),
        filters="scale=176:144:flags=neighbor,setsar=1",
        truth={"codec": "h263", "width": 176, "height": 144},
    ),
    Sample(
        "wmv2.wmv",
        ("-c:v", "wmv2", "-g", "15", "-q:v", "3"),
        sound=("-c:a", "wmav2"),
        truth={"codec": "wmv2", "audio_codec": "wmav2"},
    ),
    Sample("mpeg2.wtv", MPEG2, sound=("-c:a", "mp2"), truth={"codec": "mpeg2video"}),
    Sample(
        "mpeg2.mxf",
        MPEG2,
        fps=Fraction(25),
        frames=40,
        sound=("-c:a", "pcm_s16le", "-ar", "48000"),
        truth={"codec": "mpeg2video"},
    ),
    Sample("plain.nut", truth={"codec": "h264"}),
    _silent("plain.gif", fps=Fraction(25), frames=40, truth={"codec": "gif"}),
    _silent("rv20.rm", "-c:v", "rv20", "-q:v", "3", truth={"codec": "rv20"}),
    _silent("vp9.ivf", *VP9, truth={"codec": "vp9"}),
    _silent("dv.dv", "-c:v", "dvvideo", "-s", "720x480", "-pix_fmt", "yuv411p", fps=NTSC, truth={"codec": "dvvideo"}),
    Sample("fragments.mp4", (*H264, "-movflags", "+frag_keyframe+empty_moov")),
    Sample("live.mkv", (*H264, "-live", "1")),
]

CODECS = [
    Sample("hevc.mp4", X265, truth={"codec": "hevc"}),
    Sample("hevc.ts", X265, truth={"codec": "hevc"}),
    Sample("av1.mp4", AV1, truth={"codec": "av1"}),
    Sample("mpeg2.ts", MPEG2, truth={"codec": "mpeg2video"}),
    Sample("mpeg4.mp4", (*MPEG4, "-bf", "2"), truth={"codec": "mpeg4"}),
    Sample("mjpeg.mov", ("-c:v", "mjpeg", "-q:v", "3"), truth={"codec": "mjpeg"}),
    Sample("mjpeg.avi", ("-c:v", "mjpeg", "-q:v", "3"), sound=("-c:a", "pcm_s16le"), truth={"codec": "mjpeg"}),
    Sample("prores.mov", ("-c:v", "prores_ks"), truth={"codec": "prores", "bit_depth": 10}),
    Sample("ffv1.mkv", ("-c:v", "ffv1"), truth={"codec": "ffv1"}),
]

RATES = [
    *(_at_rate(fps, f"rate{float(fps):.0f}.mp4") for fps in (FILM, Fraction(25), NTSC, Fraction(50), Fraction(120))),
    *(_at_rate(fps, f"rate{float(fps):.0f}.mkv") for fps in (FILM, Fraction(60000, 1001), Fraction(120))),
    _thinned("thinned.mp4"),
    _thinned("thinned.mkv"),
    _thinned("thinned.ts"),
    _thinned("thinned.webm", *VP9, sound=("-c:a", "libopus")),
]

APPEARANCES = [
    *(_rotated(counterclockwise) for counterclockwise in (90, 180, -90)),
    Sample("ten.mp4", (*X264, "-pix_fmt", "yuv420p10le"), truth={"pixel_format": "yuv420p10le", "bit_depth": 10}),
    Sample("pq.mp4", (*X265, "-pix_fmt", "yuv420p10le"), filters=PQ, truth={**HDR, "transfer": "smpte2084"}),
    Sample("hlg.mkv", (*X265, "-pix_fmt", "yuv420p10le"), filters=HLG, truth={**HDR, "transfer": "arib-std-b67"}),
    Sample("interlaced.ts", (*MPEG2, "-flags", "+ilme+ildct"), filters="setfield=tff", truth={"interlaced": True}),
    Sample("interlaced.mp4", (*X264, "-flags", "+ilme+ildct"), filters="setfield=tff", truth={"interlaced": True}),
    Sample("wide.mp4", filters="setsar=4/3", truth={"width": 213, "height": 64, "sample_aspect": Fraction(4, 3)}),
    Sample(
        "odd.mp4",
        (*H264, "-pix_fmt", "yuv444p"),
        filters="scale=161:65:flags=neighbor,setsar=1",
        truth={"width": 161, "height": 65},
    ),
    Sample(
        "odd.webm",
        VP9,
        filters="scale=161:65:flags=neighbor,setsar=1",
        sound=("-c:a", "libopus"),
        truth={"width": 161, "height": 65},
    ),
    Sample("tiny.mp4", filters="scale=16:16,setsar=1", readable=False, truth={"width": 16, "height": 16}),
    Sample(
        "large.mp4",
        filters="scale=3840:2160:flags=neighbor,setsar=1",
        fps=Fraction(6),
        frames=9,
        truth={"width": 3840, "height": 2160},
    ),
]

STRUCTURES = [
    _silent("silent.mp4", *X264, truth={"audio_codec": "", "audio_stream": None}),
    Sample("tracks.mkv", tracks=2),
    Sample("long_gop.mp4", LONG_GOP, fps=Fraction(150), frames=310),
    Sample("open_gop.mp4", OPEN_GOP),
    Sample("open_gop.ts", OPEN_GOP),
    Sample("intra.mp4", (*X264, "-g", "1")),
    Sample("pyramid.mp4", PYRAMID),
    Sample("edited.mp4", frames=75, kept=tuple(range(24, 75)), copied=(("-ss", "0.8"), ()), truth={"edited": True}),
    Sample("late.mp4", starts=7.3),
    Sample("late.mkv", starts=7.3),
    Sample("late.ts", starts=3600.5),
    _jumping("jump.mp4"),
    _jumping("jump.mkv"),
    _jumping("jump.ts"),
    Sample("short.mp4", frames=3),
]

SAMPLES = [*CONTAINERS, *CODECS, *RATES, *APPEARANCES, *STRUCTURES]

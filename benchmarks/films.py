"""Films for the benchmarks: moving test patterns with noise, a cut every five seconds, and bit rates common on the web.

Half a minute is encoded and then repeated by stream copy, so rendering two hours costs no more than one minute.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from benchmarks.metering import ffmpeg_cli

FPS = 30
PART_SECONDS = 30
_SHOT_SECONDS = 5


class FilmStyle(NamedTuple):
    """Encoding settings of a film."""

    size: str
    bit_rate: str
    gop: int
    """Frames per GOP. No key frames are placed at cuts, which makes shots harder to find from key frames."""

    @property
    def name(self) -> str:
        return f"{self.size} gop {self.gop}"


STYLES = (
    FilmStyle("640x360", "800k", 30),
    FilmStyle("640x360", "800k", 300),
    FilmStyle("1920x1080", "4500k", 30),
    FilmStyle("1920x1080", "4500k", 300),
)
PLAIN = FilmStyle("1920x1080", "500k", 60)
"""Settings that are cheap to decode but need as much memory as any other 1080p film."""


def film(folder: Path, style: FilmStyle, seconds: int) -> Path:
    """Return the path of a film of whole half minutes; render it if it does not exist."""
    target = folder / f"{style.size}_{style.bit_rate}_{style.gop}_{seconds}s.mp4"
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        draft = target.with_name(f"draft_{target.name}")
        listing = target.with_suffix(".txt")
        listing.write_text(f"file '{_part(folder, style)}'\n" * (seconds // PART_SECONDS))
        ffmpeg_cli("-f", "concat", "-safe", "0", "-i", listing, "-c", "copy", draft)
        draft.replace(target)
    return target


def _part(folder: Path, style: FilmStyle) -> Path:
    part = folder / f"{style.size}_{style.bit_rate}_{style.gop}.mp4"
    if not part.exists():
        draft = part.with_name(f"draft_{part.name}")
        count = PART_SECONDS // _SHOT_SECONDS
        pattern = f"testsrc2=s={style.size}:r={FPS}:d={_SHOT_SECONDS}"
        shots = "".join(f"{pattern},hue=h={60 * shot},noise=alls=12:allf=t[s{shot}];" for shot in range(count))
        joined = "".join(f"[s{shot}]" for shot in range(count))
        codec = ("-c:v", "libx264", "-preset", "veryfast", "-b:v", style.bit_rate, "-pix_fmt", "yuv420p")
        gops = ("-g", str(style.gop), "-x264-params", "scenecut=0")
        ffmpeg_cli("-filter_complex", f"{shots}{joined}concat=n={count}", *codec, *gops, draft)
        draft.replace(part)
    return part

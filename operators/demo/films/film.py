"""Renders a script as a film: `<film_id>.mp4`, and after it `<film_id>.truth.json`.

The same ffmpeg gives the same bytes on every rendering: one encoder thread, no time stamps, no encoder tags. A film is
kept if its truth names the same script and its bytes are intact. A partial file never has a film's name.
"""

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, NamedTuple

import av
import cv2
import ffmpeg
import numpy as np
from pydantic import ValidationError

from operators.demo.films.canvas import Picture
from operators.demo.films.painter import Frame, paint_film
from operators.demo.films.script import FPS, FRAME_HEIGHT, FRAME_WIDTH, FilmScript, FilmTruth
from operators.demo.films.sound import write_sound
from operators.demo.films.truth import film_truth
from operators.store.content_store import sha256_of_file
from operators.video.decode.ffmpeg import FfmpegError, ffmpeg_executable, file_url
from schemas.base import digest
from schemas.errors import Outage


class FilmRenderError(Outage):
    """A film could not be written. The message names the film, the cause and what to do."""


class RenderedFilm(NamedTuple):
    """A film on disk. `reused` is true if it was already there, complete and rendered from this script."""

    path: Path
    truth: FilmTruth
    reused: bool


def render_film(script: FilmScript, directory: Path) -> RenderedFilm:
    """Render `script` into `directory`, or reuse the film there if its script, renderer and bytes are unchanged.

    Raises:
        ScriptError: the script contradicts itself.
        FilmRenderError: ffmpeg or the disk fails.
    """
    path = directory / f"{script.film_id}.mp4"
    truth_path = truth_path_of(path)
    script_sha256 = digest([script, _renderer_sha256()])
    if kept := _find_truth(path, truth_path, script_sha256):
        return RenderedFilm(path, kept, reused=True)
    # The truth is computed first, so that a script that contradicts itself costs nothing. The file's facts follow.
    planned = film_truth(script, script_sha256=script_sha256, film_sha256="0" * 64, film_bytes=0)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{script.film_id}.", dir=directory) as scratch:
            draft = Path(scratch) / path.name
            _encode(script, planned.frame_count, draft)
            facts = {"film_sha256": sha256_of_file(draft), "film_bytes": draft.stat().st_size}
            truth = planned.model_copy(update=facts)
            truth_draft = Path(scratch) / truth_path.name
            truth_draft.write_text(truth.model_dump_json(indent=1) + "\n", encoding="utf-8")
            # The old truth is removed before the film is replaced, and the new one is written after it. So a truth
            # always belongs to the film next to it.
            truth_path.unlink(missing_ok=True)
            draft.replace(path)
            truth_draft.replace(truth_path)
    except (OSError, FfmpegError) as error:
        raise FilmRenderError(f"film {script.film_id}: cannot be rendered into {directory}: {error}") from error
    return RenderedFilm(path, truth, reused=False)


def truth_path_of(film: Path) -> Path:
    """Path of a film's ground truth: `<film>.truth.json` in the same folder."""
    return film.with_suffix(".truth.json")


def _find_truth(path: Path, truth_path: Path, script_sha256: str) -> FilmTruth | None:
    """The truth of a film that needs no rendering: same script, same renderer, same bytes."""
    if not (path.is_file() and truth_path.is_file()):
        return None
    try:
        truth = FilmTruth.model_validate_json(truth_path.read_bytes())
    except ValidationError:
        return None
    whole = truth.film_bytes == path.stat().st_size and truth.film_sha256 == sha256_of_file(path)
    return truth if whole and truth.script_sha256 == script_sha256 else None


def _encode(script: FilmScript, frame_count: int, draft: Path) -> None:
    sound = draft.with_suffix(".wav")
    write_sound(script, sound)
    with ffmpeg_input(script.film_id, encoder_arguments(sound, draft)) as pipe:
        planes = np.zeros((FRAME_HEIGHT * 3 // 2, FRAME_WIDTH), np.uint8)
        for frame in paint_film(script):
            _convert_rows(frame, planes)
            pipe.write(planes.data)
    written = _video_packets(draft)
    if written != frame_count:
        raise FilmRenderError(f"film {script.film_id}: ffmpeg wrote {written} frames for the {frame_count} painted")


def _convert_rows(frame: Frame, planes: Picture) -> None:
    """Convert the changed rows of a frame to I420, in place. Each 2 x 2 pixels are converted by themselves."""
    height = frame.bottom - frame.top
    if height <= 0:
        return
    part = cv2.cvtColor(frame.picture[frame.top : frame.bottom], cv2.COLOR_BGR2YUV_I420)
    planes[frame.top : frame.bottom] = part[:height]
    blue, red = np.split(part[height:].reshape(-1, FRAME_WIDTH // 2), 2)
    chroma = planes[FRAME_HEIGHT:].reshape(-1, FRAME_WIDTH // 2)
    for first, rows in ((0, blue), (FRAME_HEIGHT // 2, red)):
        chroma[first + frame.top // 2 : first + frame.bottom // 2] = rows


def encoder_arguments(sound: Path, draft: Path) -> list[str]:
    video = ffmpeg.input(
        "pipe:0", format="rawvideo", pix_fmt="yuv420p", video_size=(FRAME_WIDTH, FRAME_HEIGHT), framerate=FPS
    )
    output = ffmpeg.output(
        video.video,
        ffmpeg.input(file_url(sound)).audio,
        file_url(draft),
        vcodec="libx264",
        # Without rate control: most frames equal the one before, and a lookahead would cost more than encoding them.
        preset="ultrafast",
        qp=23,
        g=5 * FPS,
        pix_fmt="yuv420p",
        # OpenCV's conversion to I420 is BT.601, limited range. Without these tags players assume otherwise.
        colorspace="smpte170m",
        color_primaries="smpte170m",
        color_trc="smpte170m",
        color_range="tv",
        acodec="aac",
        audio_bitrate="48k",
        aac_coder="fast",
        aac_tns=0,
        map_metadata=-1,
        fflags="+bitexact",
        movflags="+faststart",
        threads=1,
        **{"x264-params": "cabac=1", "flags:v": "+bitexact", "flags:a": "+bitexact"},
    )
    command: list[str] = output.global_args("-nostdin", "-hide_banner", "-loglevel", "error").compile(
        cmd=ffmpeg_executable(), overwrite_output=True
    )
    return command


@contextmanager
def ffmpeg_input(film_id: str, arguments: list[str]) -> Iterator[IO[bytes]]:
    """The standard input of a running ffmpeg.

    On exit the file is complete, or the error holds ffmpeg's own message.
    """
    with tempfile.TemporaryFile() as complaints:
        try:
            process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stderr=complaints)
        except OSError as error:
            raise FilmRenderError(
                f"film {film_id}: ffmpeg does not start ({error}); install ffmpeg or the imageio-ffmpeg package"
            ) from error
        assert process.stdin is not None
        went_away = False
        try:
            yield process.stdin
            process.stdin.close()
        except BrokenPipeError:
            went_away = True
        except BaseException:
            process.kill()
            raise
        finally:
            with suppress(BrokenPipeError):
                process.stdin.close()
            code = process.wait()
        if code or went_away:
            complaints.seek(0)
            words = complaints.read().decode(errors="replace").strip() or "no message"
            raise FilmRenderError(
                f"film {film_id}: ffmpeg stopped with exit code {code}: {words}; check the free space on the disk"
            )


def _video_packets(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(packet.size > 0 for packet in container.demux(video=0))


def _renderer_sha256() -> str:
    """Digest of the drawing code, so that a film drawn by other code is rendered again."""
    modules = sorted(Path(__file__).parent.glob("*.py"))
    return digest([module.read_text(encoding="utf-8") for module in modules])

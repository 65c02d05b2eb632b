import errno
import shutil
import time
from pathlib import Path

import ffmpeg
import pytest

from operators.video.decode import ffmpeg as module
from operators.video.decode.ffmpeg import (
    CheckedFile,
    FfmpegError,
    FfmpegUnusable,
    check_ffmpeg,
    ffmpeg_executable,
    ffmpeg_version,
    run_ffmpeg,
)
from tests.support.videos import counting_video


def test_there_is_an_executable():
    assert shutil.which(ffmpeg_executable())


@pytest.mark.parametrize("name", ["-i.mp4", "http:evil.mp4", "concat:a|b.mp4", "a b'c%d.mp4", "-y"])
def test_a_file_name_is_only_a_file_name(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    counting_video(tmp_path / "plain.mp4", seconds=0.2).rename(tmp_path / name)
    run_ffmpeg(ffmpeg.input(name).output("-out.mp4", format="mp4", vcodec="copy"), 60)
    assert (tmp_path / "-out.mp4").stat().st_size > 0


def test_a_playlist_is_not_followed(tmp_path):
    counting_video(tmp_path / "secret.ts", seconds=0.2)
    playlist = tmp_path / "video.m3u8"
    playlist.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nsecret.ts\n#EXT-X-ENDLIST\n")
    with pytest.raises(FfmpegError):
        run_ffmpeg(ffmpeg.input(str(playlist)).output(str(tmp_path / "out.mp4")), 60)
    script = tmp_path / "script.mp4"
    script.write_text("ffconcat version 1.0\nfile secret.ts\n")
    with pytest.raises(FfmpegError):
        run_ffmpeg(ffmpeg.input(str(script), format="concat").output(str(tmp_path / "out.mp4")), 60)


def test_an_error_names_file_exit_and_last_words(tmp_path):
    with pytest.raises(FfmpegError, match=r"out\.mp4: ffmpeg ended with \d+: .*No such file"):
        run_ffmpeg(ffmpeg.input(str(tmp_path / "absent.mp4")).output(str(tmp_path / "out.mp4")), 60)


def test_a_process_that_takes_too_long_is_killed(tmp_path):
    source = counting_video(tmp_path / "in.mp4", seconds=1)
    endless = ffmpeg.input(str(source), stream_loop=-1, re=None).output(str(tmp_path / "out.mp4"), vcodec="copy")
    started = time.monotonic()
    with pytest.raises(FfmpegError, match="did not finish within 1 s and was killed"):
        run_ffmpeg(endless, 1)
    assert time.monotonic() - started < 10


@pytest.fixture
def on_path(tmp_path, monkeypatch):
    """Install a shell script as `ffmpeg` on the PATH.

    With `alone`, imageio-ffmpeg offers no other build. In the script, `$REAL` is the path of a working ffmpeg.
    """
    monkeypatch.setenv("REAL", ffmpeg_executable())
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder), prepend=":")

    def install(script, version="7.1-test", alone=True):
        program = folder / "ffmpeg"
        printed = f"[ \"$1\" = -version ] && echo 'ffmpeg version {version} Copyright (c)' && exit" if version else ""
        program.write_text(f"#!/bin/sh\n{printed}\n{script}\n")
        program.chmod(0o755)
        if alone:
            monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(program))
        module._choose_ffmpeg.cache_clear()
        return program

    yield install
    module._choose_ffmpeg.cache_clear()


@pytest.fixture
def copy(tmp_path):
    """Run ffmpeg on a video of one second and return the copy."""
    source = counting_video(tmp_path / "in.mp4", seconds=1)

    def run():
        run_ffmpeg(ffmpeg.input(str(source)).output(str(tmp_path / "out.mp4"), vcodec="copy"), 60)
        return tmp_path / "out.mp4"

    return run


def test_the_ffmpeg_in_use_can_encode_all_that_clips_need():
    check_ffmpeg()
    assert ffmpeg_version().startswith("ffmpeg ")


@pytest.mark.parametrize("script, version", [("", "4.4.2-0ubuntu0.22.04.1"), ("exit 127", ""), ("", "N5.0")])
def test_an_ffmpeg_that_is_too_old_or_does_not_start_is_skipped(on_path, script, version):
    program = on_path(script, version, alone=False)
    assert (ffmpeg_executable() != str(program)) == (version != "N5.0")  # a build without a version number is tried


def test_without_another_it_is_an_outage_that_names_each(on_path):
    program = on_path("", "4.4.2-0ubuntu0.22.04.1")
    with pytest.raises(FfmpegUnusable, match=rf"{program} is version 4\.4\.2, at least 5\.1 is needed.*imageio-ffmpeg"):
        ffmpeg_executable()
    on_path("echo 'error while loading shared libraries: libx264.so.164' >&2; exit 127", "")
    with pytest.raises(FfmpegUnusable, match=rf"{program} cannot be started .*127.*install"):
        ffmpeg_executable()


@pytest.mark.parametrize("version", ["7.1.1", "7.1.1-1+b1", "n7.1.1-17-g2a571b6068", "7.1.1-static"])
def test_builds_of_one_version_are_the_same(on_path, version):
    on_path("", version)
    assert ffmpeg_version() == "ffmpeg 7.1.1"


@pytest.mark.parametrize(
    "script",
    [
        "echo \"Unknown encoder 'libx264'\" >&2; exit 1",
        "echo 'error while loading shared libraries: libx265.so.199' >&2; exit 127",
        "echo \"Unrecognized option 'fps_mode'.\" >&2; exit 8",
    ],
)
def test_a_tool_that_fails_whatever_the_video_is_an_outage(on_path, copy, script):
    program = on_path(script)
    with pytest.raises(FfmpegUnusable, match=rf"{program} \(ffmpeg 7\.1\) cannot encode libx264.*(Unkn|error|Unrec)"):
        copy()


def test_a_tool_that_is_not_there_any_more_is_an_outage(on_path, copy):
    program = on_path("")
    ffmpeg_executable()
    program.unlink()
    with pytest.raises(FfmpegUnusable, match=r"cannot be started: .*No such file"):
        copy()


def test_a_process_that_the_machine_has_killed_is_no_failure_of_the_video(on_path, copy):
    on_path("kill -9 $$")
    with pytest.raises(OSError, match="SIGKILL, as when the machine is out of memory"):
        copy()


def test_a_crash_is_the_videos_where_the_tool_is_sound(on_path, copy):
    on_path('for last; do :; done; [ "$last" = - ] && exec "$REAL" "$@"; kill -SEGV $$')
    with pytest.raises(FfmpegError, match="ended with -11"):
        copy()


def test_a_source_that_cannot_be_read_is_no_failure_of_the_video(tmp_path):
    """A process's memory is not readable at offset 0: the kernel returns EIO."""
    with pytest.raises(OSError, match="Input/output error") as failed:
        run_ffmpeg(ffmpeg.input("/proc/self/mem").output(str(tmp_path / "out.mp4")), 60)
    assert (failed.value.errno, failed.value.filename) == (errno.EIO, "/proc/self/mem")


def test_what_was_read_in_part_is_read_again(on_path, copy):
    """ffmpeg exits with status 0 after a failed read, and its output ends there."""
    on_path('"$REAL" "$@"')
    whole = copy().read_bytes()
    on_path(
        'mkdir "$0.failed" 2>&- || exec "$REAL" "$@"; for last; do :; done; echo half > "${last#file:}"; '
        "echo 'Error during demuxing: Input/output error' >&2"
    )
    assert copy().read_bytes() == whole


def test_a_failed_read_is_noticed_whatever_its_reader_does(tmp_path):
    with (
        pytest.raises(OSError, match="Input/output error: '/proc/self/mem'"),
        CheckedFile(Path("/proc/self/mem")) as it,
    ):
        assert it.read(10) == b""
        raise KeyError("what the reader makes of it")
    (tmp_path / "whole").write_bytes(b"12345")
    with CheckedFile(tmp_path / "whole") as file:
        assert (file.read(3), file.read(3), file.read(3)) == (b"123", b"45", b"")

import shutil
import time

import ffmpeg
import pytest

from operators.video.ffmpeg import FfmpegError, ffmpeg_executable, run_ffmpeg
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

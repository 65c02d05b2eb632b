import os
import signal
import subprocess
import sys
import time
from concurrent.futures import wait
from pathlib import Path

import pytest

from tests.support.videos import number_on
from tests.trainer_plugin.runs import python_path
from tests.trainer_plugin.support import numbered_film
from trainer_plugin.data import decode_pool as decoders_module
from trainer_plugin.data.decode_pool import Decoders
from trainer_plugin.data.video_decode import BadVideo
from trainer_plugin.types import VideoSource

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def film(tmp_path_factory) -> str:
    return numbered_film(tmp_path_factory.mktemp("film"), "film", 1.0).uri


@pytest.fixture
def decoders():
    running = Decoders(2)
    yield running
    running.close()


def piece(url: str, key: str = "film"):
    return VideoSource(key, url), (0, 500_000), (64, 160), "bicubic"


def numbers(future) -> list[int]:
    return [number_on(frame) for frame in future.result(60)]


def processes_of(process: int) -> list[int]:
    """Process ids of the running decoders of a process: the children of its fork servers."""
    parents: dict[int, int] = {}
    servers: set[int] = set()
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = status.read_text().rpartition(")")[2].split()[:2]
            command = status.with_name("cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        pid = int(status.parent.name)
        if state != "Z":
            parents[pid] = int(parent)
        if int(parent) == process and b"fork_server" in command:
            servers.add(pid)
    return sorted(pid for pid, parent in parents.items() if parent in servers)


def test_submit_returns_frames_and_errors(decoders, film, tmp_path):
    assert numbers(decoders.submit(piece(film))) == [0, 15]
    with pytest.raises(BadVideo, match="no such file") as bad:
        decoders.submit(piece(str(tmp_path / "gone.mp4"))).result(60)
    assert (bad.value.key, bad.value.reason) == ("film", "missing")
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(IsADirectoryError) as storage:
        decoders.submit(piece(str(tmp_path / "folder.mp4"))).result(60)
    assert "in read_frames" in storage.value.__notes__[0]


def test_a_folder_with_a_package_of_the_same_name_does_no_harm(decoders, film, tmp_path, monkeypatch):
    (tmp_path / "trainer_plugin").mkdir()
    (tmp_path / "trainer_plugin" / "__init__.py").write_text("raise ImportError(__file__)")
    monkeypatch.chdir(tmp_path)
    assert numbers(decoders.submit(piece(film))) == [0, 15]


def test_an_error_that_cannot_be_pickled_arrives_as_its_traceback(decoders, film, strange_decoders):
    with pytest.raises(RuntimeError, match=r"in strange\n.*\nsitecustomize\.Unsendable: film"):
        decoders.submit(piece(film, "unsendable")).result(60)
    assert numbers(decoders.submit(piece(film))) == [0, 15]


def test_a_killed_decoder_costs_one_new_process_and_no_video(decoders, film):
    wait([decoders.submit(piece(film)) for _ in range(2)])
    before = processes_of(os.getpid())
    os.kill(before[0], signal.SIGKILL)
    pieces = [decoders.submit(piece(film)) for _ in range(40)]
    assert all(numbers(each) == [0, 15] for each in pieces)
    assert len(set(processes_of(os.getpid())) - set(before)) == 1


def test_a_video_that_crashes_its_decoder_is_named_and_the_others_are_decoded(decoders, film, strange_decoders):
    deadly = decoders.submit(piece(film, "deadly"))
    assert [numbers(decoders.submit(piece(film))) for _ in range(4)] == [[0, 15]] * 4
    with pytest.raises(BadVideo, match="decoding it crashes the process") as bad:
        deadly.result(60)
    assert (bad.value.key, bad.value.reason) == ("deadly", "crashed")


def test_a_video_that_is_too_slow_to_decode_is_waited_for_only_once(decoders, film, strange_decoders, monkeypatch):
    assert numbers(decoders.submit(piece(film))) == [0, 15]
    monkeypatch.setattr(decoders_module, "LONGEST_SECONDS", 8.0)
    began = time.monotonic()
    for _ in range(3):
        with pytest.raises(BadVideo, match="video endless: 2 frames are not decoded in 8 s") as bad:
            decoders.submit(piece(film, "endless")).result(60)
        assert bad.value.reason == "too_slow"
    assert time.monotonic() - began < 3 * 8.0
    assert numbers(decoders.submit(piece(film))) == [0, 15]


def test_close_ends_decoders_that_are_busy(film, strange_decoders):
    decoders = Decoders(1)
    futures = [decoders.submit(piece(film, "endless")) for _ in range(3)]
    while not processes_of(os.getpid()):
        time.sleep(0.01)
    began = time.monotonic()
    decoders.close()
    assert time.monotonic() - began < 50  # the decoder would sleep for 100 s
    assert processes_of(os.getpid()) == []
    assert all(future.done() for future in futures)


def test_decoders_leave_signals_to_the_trainer_and_end_with_it(film, strange_decoders):
    """Busy decoders end too. The job has no `__main__` guard, since decoders do not import its main module."""
    job = (
        "import signal, sys, time, trainer_plugin.sft\n"
        "from tests.trainer_plugin.data.test_decode_pool import piece, numbers\n"
        "from trainer_plugin.data.decode_pool import Decoders\n"
        "signal.signal(signal.SIGTERM, lambda *_: None)\n"
        "decoders = Decoders(2)\n"
        f"both = [decoders.submit(piece({film!r})) for _ in range(2)]\n"
        "assert [numbers(each) for each in both] == [[0, 15]] * 2\n"
        f"decoders.submit(piece({film!r}, 'endless'))\n"
        "print('ready', flush=True)\n"
        "sys.stdin.readline()\n"
        f"assert numbers(decoders.submit(piece({film!r}))) == [0, 15]\n"
        "print('ready', flush=True)\n"
        "time.sleep(100)\n"
    )
    script = strange_decoders / "job.py"
    script.write_text(job)
    environment = {**os.environ, "PYTHONPATH": python_path(strange_decoders, ROOT)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, str(script)], env=environment, start_new_session=True, **pipes)
    try:
        assert process.stdout.readline() == "ready\n"
        running = processes_of(process.pid)
        os.killpg(process.pid, signal.SIGTERM)
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "ready\n"
        assert len(running) == 2 and running == processes_of(process.pid)
        modules = Path(f"/proc/{running[0]}/maps").read_text()
        assert "tokenizers" not in modules  # which the trainer has imported
    finally:
        process.kill()
        process.wait()
    end = time.monotonic() + 10
    while any(Path(f"/proc/{decoder}").exists() for decoder in running) and time.monotonic() < end:
        time.sleep(0.05)
    assert not [decoder for decoder in running if Path(f"/proc/{decoder}").exists()]

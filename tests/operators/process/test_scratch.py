import errno
import fcntl
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from operators.process import scratch
from operators.process.scratch import scratch_folder

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def own_temporary_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def test_the_folder_is_empty_and_gone_afterwards():
    with scratch_folder("split") as folder:
        assert list(folder.iterdir()) == []
        (folder / "clip.mp4").write_bytes(b"x")
    assert not folder.exists()


def test_an_error_leaves_nothing_either():
    with pytest.raises(KeyError), scratch_folder("split") as folder:
        raise KeyError
    assert not folder.exists()


HOLD = """
import sys
from operators.process.scratch import scratch_folder
with scratch_folder("split") as folder:
    (folder / "clip.mp4").write_bytes(b"x")
    print(folder, flush=True)
    sys.stdin.read()
    print((folder / "clip.mp4").exists())
"""
"""Script that prints its folder, holds it until standard input closes, and prints whether its file still exists."""

NAMESPACE = ("unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child")
"""Prefix that runs a command as process 1 of a new pid namespace, as in a container."""


def hold(temporary_folder, *prefix):
    return subprocess.Popen(
        [*prefix, sys.executable, "-c", HOLD], cwd=ROOT, env=os.environ | {"TMPDIR": str(temporary_folder)},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def kill_holder(holder):
    """Kills the process with SIGKILL and returns its folder."""
    folder = Path(holder.stdout.readline().strip())
    holder.kill()
    holder.communicate()
    return folder


def test_the_folder_of_a_killed_process_is_removed(tmp_path):
    left = kill_holder(hold(tmp_path))
    assert (left / "clip.mp4").exists()
    with scratch_folder("caption"):
        assert not left.exists()
    assert list(tmp_path.iterdir()) == []


def test_the_folder_of_a_living_process_or_thread_is_kept(tmp_path):
    with hold(tmp_path) as other, scratch_folder("split") as own:
        folder = Path(other.stdout.readline().strip())
        with scratch_folder("caption"):
            assert folder.exists() and own.exists()
        assert other.communicate("")[0] == "True\n"


@pytest.mark.skipif(
    subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False).returncode != 0,
    reason="no pid namespace may be made here",
)
def test_containers_that_share_a_temporary_folder_keep_each_others_scratch(tmp_path):
    """A container's process is process 1 of its own namespace, where pids of other processes mean nothing."""
    with hold(tmp_path, *NAMESPACE) as first, hold(tmp_path) as host:
        folders = [Path(each.stdout.readline().strip()) for each in (first, host)]
        with hold(tmp_path, *NAMESPACE) as last:
            assert Path(last.stdout.readline().strip()) not in folders
            assert {each.communicate("")[0] for each in (first, host, last)} == {"True\n"}


def test_a_folder_whose_owner_was_killed_before_it_had_a_lock_is_removed_after_a_day(tmp_path):
    new, old = tmp_path / "lvr-scratch-new", tmp_path / "lvr-scratch-old"
    new.mkdir()
    old.mkdir()
    os.utime(old, (0, 0))
    with scratch_folder("split"):
        assert new.exists() and not old.exists()


def test_a_folder_taken_away_before_its_lock_was_held_is_made_again(tmp_path, monkeypatch):
    """Another process finds the lock free after the folder was created and before its owner has locked it."""
    lock, takes = scratch._lock, iter((False, True))
    monkeypatch.setattr(scratch, "_lock", lambda descriptor: next(takes) and lock(descriptor))
    with scratch_folder("split") as folder:
        assert folder.exists()


def test_without_locks_nothing_of_others_is_removed(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    left = kill_holder(hold(tmp_path))
    monkeypatch.setattr(fcntl, "flock", refuse)
    with scratch_folder("split") as folder:
        assert folder.exists() and left.exists()

import errno
import fcntl
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from schemas.errors import BadInput
from trainer_plugin.atomic_files import (
    FullDisk,
    atomic_replace_dir,
    atomic_write_bytes,
    backup_path,
    locked,
    reserve_space,
)


def test_a_file_is_replaced_by_a_whole_one_and_its_folder_is_made(tmp_path):
    path = tmp_path / "new" / "file"
    for data in (b"first", b""):
        atomic_write_bytes(path, data)
        assert path.read_bytes() == data
    assert list(path.parent.iterdir()) == [path]


def test_a_write_that_fails_leaves_what_was_there(small_disk):
    path = small_disk / "file"
    atomic_write_bytes(path, b"first")
    with pytest.raises(OSError) as raised:
        atomic_write_bytes(path, bytes(2 << 20))
    assert raised.value.errno == errno.ENOSPC
    assert path.read_bytes() == b"first"


def test_a_disk_that_reports_no_size_is_not_taken_for_a_full_one():
    assert shutil.disk_usage("/proc").total == 0
    with reserve_space(Path("/proc/new"), 1 << 40):
        pass
    with pytest.raises(KeyError), reserve_space(Path("/proc/new"), 1 << 40):
        raise KeyError
    message = "^the disk of /proc is full: 1.0 MB are to be written$"
    with pytest.raises(FullDisk, match=message), reserve_space(Path("/proc/new"), 10**6):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_folder_is_moved_into_place_and_replaces_another(tmp_path):
    folder, staging = tmp_path / "folder", tmp_path / "staging"
    for name in ("first", "second"):
        atomic_write_bytes(staging / "inner" / name, b"")
        atomic_replace_dir(staging, folder)
        assert [path.name for path in folder.rglob("*")] == ["inner", name]
    assert list(tmp_path.iterdir()) == [folder]


def test_a_kill_before_the_last_rename_leaves_the_old_folder_as_a_backup(tmp_path, monkeypatch):
    folder, staging = tmp_path / "folder", tmp_path / "staging"
    atomic_write_bytes(folder / "old", b"")
    atomic_write_bytes(staging / "new", b"")
    rename = Path.rename
    monkeypatch.setattr(Path, "rename", lambda path, to: rename(path, to) if path == folder else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        atomic_replace_dir(staging, folder)
    assert [path.name for path in backup_path(folder).iterdir()] == ["old"]
    assert [path.name for path in staging.iterdir()] == ["new"]


HOLDER = """
import sys, time
from pathlib import Path
from trainer_plugin.atomic_files import locked

with locked(Path(sys.argv[1]), Path(sys.argv[1]).parent):
    print("held", flush=True)
    time.sleep(1000)
"""


def test_a_lock_is_one_processs_until_it_ends_even_by_a_kill(tmp_path):
    path = tmp_path / ".lock"
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    named = rf"^{tmp_path} is in use by process {holder.pid} on host {socket.gethostname()} since [-0-9: ]+; wait "
    with pytest.raises(BadInput, match=named), locked(path, tmp_path):
        pass
    holder.kill()
    holder.communicate()
    assert path.exists()
    with locked(path, tmp_path):
        assert f"process {os.getpid()} on host" in path.read_text()
        with pytest.raises(BadInput, match=f"in use by process {os.getpid()}"), locked(path, tmp_path):
            pass
    assert not path.exists()


def test_a_lock_file_removed_during_the_wait_is_created_and_locked_again(tmp_path, monkeypatch):
    path, flock = tmp_path / ".lock", fcntl.flock

    def remove_and_lock(file, operation):
        monkeypatch.undo()
        path.unlink()
        flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", remove_and_lock)
    with locked(path, tmp_path), pytest.raises(BadInput, match="in use"), locked(path, tmp_path):
        pass


def test_a_disk_without_locks_is_a_warning(tmp_path, monkeypatch, caplog):
    def raise_without_locks(file, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", raise_without_locks)
    with locked(tmp_path / ".lock", tmp_path):
        assert f"{tmp_path}: this disk has no locks" in caplog.text

import errno
from pathlib import Path

import pytest

from trainer_plugin.files import aside, put_whole, write_whole


def test_a_file_is_replaced_by_a_whole_one_and_its_folder_is_made(tmp_path):
    path = tmp_path / "new" / "file"
    for data in (b"first", b""):
        write_whole(path, data)
        assert path.read_bytes() == data
    assert list(path.parent.iterdir()) == [path]


def test_a_write_that_fails_leaves_what_was_there(small_disk):
    path = small_disk / "file"
    write_whole(path, b"first")
    with pytest.raises(OSError) as raised:
        write_whole(path, bytes(2 << 20))
    assert raised.value.errno == errno.ENOSPC
    assert path.read_bytes() == b"first"


def test_a_folder_takes_its_place_and_that_of_another(tmp_path):
    folder, beside = tmp_path / "folder", tmp_path / "beside"
    for name in ("first", "second"):
        write_whole(beside / "inner" / name, b"")
        put_whole(beside, folder)
        assert [path.name for path in folder.rglob("*")] == ["inner", name]
    assert list(tmp_path.iterdir()) == [folder]


def test_a_kill_before_the_last_rename_leaves_the_old_folder_aside(tmp_path, monkeypatch):
    folder, beside = tmp_path / "folder", tmp_path / "beside"
    write_whole(folder / "old", b"")
    write_whole(beside / "new", b"")
    rename = Path.rename
    monkeypatch.setattr(Path, "rename", lambda path, to: rename(path, to) if path == folder else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        put_whole(beside, folder)
    assert [path.name for path in aside(folder).iterdir()] == ["old"]
    assert [path.name for path in beside.iterdir()] == ["new"]

import errno

import pytest

from trainer_plugin.files import write_whole


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

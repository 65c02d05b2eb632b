import hashlib
import io
import tarfile
import types

import pytest

from operators.release.tar import TarWriter


def write(path, clip):
    with TarWriter(path) as tar:
        tar.add_file("a.mp4", clip)
        tar.add_bytes("a.json", b"{}")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_same_members_give_the_same_bytes_at_any_time_for_any_user(tmp_path):
    clip = tmp_path / "clip.bin"
    clip.write_bytes(bytes(range(256)) * 100)
    first = write(tmp_path / "one.tar", clip)
    clip.touch()
    clip.chmod(0o600)
    assert write(tmp_path / "two.tar", clip) == first


def test_members_are_plain_and_the_end_is_marked(tmp_path):
    clip = tmp_path / "clip.bin"
    clip.write_bytes(b"x" * 1000)
    write(tmp_path / "one.tar", clip)
    with tarfile.open(tmp_path / "one.tar") as tar:
        members = tar.getmembers()
        assert [(m.name, m.size, m.mtime, m.uid, m.gid, m.uname, m.mode) for m in members] == [
            ("a.mp4", 1000, 0, 0, 0, "", 0o444),
            ("a.json", 2, 0, 0, 0, "", 0o444),
        ]
        assert tar.extractfile("a.mp4").read() == b"x" * 1000
    assert (tmp_path / "one.tar").read_bytes().endswith(b"\0" * 1024)


class FailingFile:
    """A file with 700 bytes fewer than its reported size, as when a disk or network file system fails midway."""

    def __init__(self, path):
        self.path = path

    def open(self, mode):
        return self.path.open(mode)

    def stat(self):
        return types.SimpleNamespace(st_size=self.path.stat().st_size + 700)


def test_a_member_that_fails_leaves_the_tar_as_it_was(tmp_path):
    clip = tmp_path / "clip.bin"
    clip.write_bytes(b"x" * 1000)
    with TarWriter(tmp_path / "one.tar") as tar:
        tar.add_file("a.mp4", clip)
        with pytest.raises(OSError, match="unexpected end of data"):
            tar.add_file("broken.mp4", FailingFile(clip))
        tar.add_bytes("a.json", b"{}")
    with tarfile.open(tmp_path / "one.tar") as tar:
        assert tar.getnames() == ["a.mp4", "a.json"]
        assert tar.extractfile("a.json").read() == b"{}"


def test_a_member_of_more_than_8_gib_has_its_size_in_the_header(tmp_path):
    class Zeros(io.RawIOBase):
        def read(self, size=-1):
            raise InterruptedError  # only the header is tested

    member = tarfile.TarInfo("big.mp4")
    member.size = 9 << 30
    with TarWriter(tmp_path / "big.tar") as tar, pytest.raises(InterruptedError):
        tar._add(member, Zeros())

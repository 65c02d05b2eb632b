import hashlib
import tarfile

from operators.release.tar import TarWriter


def write(path, clip):
    with TarWriter(path) as tar:
        tar.add_file("a.mp4", clip)
        tar.add_bytes("a.json", b"{}")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_same_members_give_the_same_bytes_whenever_and_whoever(tmp_path):
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

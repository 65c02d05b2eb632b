import errno
import os
from pathlib import Path

import av
import numpy as np
import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from operators.sources.folder import VIDEO_SUFFIXES, search_folder
from operators.store.content_store import Store, locate
from operators.video.decode.probe import probe
from schemas.errors import BadInput, Outage, SourceError


def touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def search(folder):
    return search_folder(LocalFileSystem(), str(folder), str(folder))


def put_objects(s3_bucket, *keys):
    fs, root = locate(s3_bucket)
    for key in keys:
        fs.pipe_file(f"{root}/{key}", b"x")


# --- which files are videos -------------------------------------------------------------------------------------------

MUXERS = {
    ("asf", "wmv2"): {".asf", ".wmv"},
    ("avi", "mpeg4"): {".avi", ".divx"},
    ("dv", "dvvideo"): {".dv"},
    ("flv", "flv1"): {".flv"},
    ("gif", "gif"): {".gif"},
    ("ivf", "libvpx"): {".ivf"},
    ("webm", "libvpx"): {".webm"},
    ("matroska", "mpeg4"): {".mk3d", ".mkv"},
    ("mov", "jpeg2000"): {".mj2"},
    ("mov", "mpeg4"): {".mov", ".qt"},
    ("mp4", "mpeg4"): {".3g2", ".3gp", ".f4v", ".m4v", ".mp4"},
    ("mpegts", "mpeg2video"): {".m2t", ".m2ts", ".mts", ".ts"},
    ("mpeg", "mpeg1video"): {".mpe", ".mpeg", ".mpg"},
    ("vob", "mpeg2video"): {".vob"},
    ("mxf", "mpeg2video"): {".mxf"},
    ("nut", "mpeg4"): {".nut"},
    ("ogg", "libvpx"): {".ogm", ".ogv"},
    ("rm", "rv10"): {".rm", ".rmvb"},
    ("wtv", "mpeg2video"): {".wtv"},
}


@pytest.mark.parametrize("suffix", sorted(VIDEO_SUFFIXES))
def test_every_suffix_that_is_listed_is_one_of_a_file_that_can_be_opened(tmp_path, suffix):
    [(muxer, codec)] = (made_by for made_by, suffixes in MUXERS.items() if suffix in suffixes)
    name = f"film{suffix.upper()}"
    with av.open(str(tmp_path / name), "w", format=muxer) as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height = (720, 576) if codec == "dvvideo" else (64, 64)
        stream.pix_fmt = stream.codec_context.codec.video_formats[0].name
        for number in range(10):
            picture = np.full((stream.height, stream.width, 3), 20 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture).reformat(format=stream.pix_fmt)))
        container.mux(stream.encode())
    assert search(tmp_path).names == [name]
    assert probe(tmp_path / name).frame_count >= 5


def test_skipped_files_are_counted_by_kind(tmp_path):
    touch(
        tmp_path / "a.mp4",
        tmp_path / "a.srt",
        tmp_path / "b" / "c.SRT",
        tmp_path / "README",
        tmp_path / ".a.mp4.X3f9Qz",
    )
    touch(tmp_path / "one.of a kind and no suffix at all", tmp_path / "x.m1v")
    found = search(tmp_path)
    assert found.names == ["a.mp4"]
    assert found.skipped == {
        ".srt files": 2, "files without a suffix": 1, "hidden files and folders": 1, "other files": 1, ".m1v files": 1,
    }  # fmt: skip


def test_kinds_without_number_are_added_up(tmp_path):
    touch(*(tmp_path / f"log.{number}" for number in range(100)), tmp_path / "a.txt", tmp_path / "b.txt")
    skipped = search(tmp_path).skipped
    assert len(skipped) <= 21 and skipped[".txt files"] == 2 and skipped.total() == 102


@pytest.mark.parametrize(
    "name",
    ["v.f137.mp4", "v.f248.webm", "v.f140-1.mp4", "v.fhls-1080.mp4", "v.fdash-video_1=5.mp4", "v.temp.mp4", "v.TMP.mkv",
     "v.part.mp4", f"{'0' * 32}-{'a' * 64}.mp4"],
)  # fmt: skip
def test_an_unfinished_download_is_one_reject(tmp_path, name):
    touch(tmp_path / "v.mp4", tmp_path / name)
    found = search(tmp_path)
    assert found.names == ["v.mp4"]
    [reject] = found.rejects
    assert (reject.key, reject.reason) == (name, "unfinished_download")
    assert "finish it, or rename the file if it is complete" in reject.message


def test_a_file_that_aria2_has_not_finished_is_one_reject(tmp_path):
    touch(tmp_path / "v.mp4", tmp_path / "v.mp4.aria2", tmp_path / "w.mp4")
    found = search(tmp_path)
    assert found.names == ["w.mp4"]
    assert [reject.key for reject in found.rejects] == ["v.mp4"]


@pytest.mark.parametrize(
    "name",
    [
        "v.mp4.part",
        "v.mp4.ytdl",
        "v.mp4.part-Frag12",
        "v.mp4.part-Frag12.part",
        "v.frag3",
        "v.mp4.crdownload",
        "v.mp4.filepart",
    ],
)
def test_an_unfinished_download_is_counted_as_such(tmp_path, name):
    touch(tmp_path / name)
    assert search(tmp_path).skipped == {"unfinished downloads": 1}


@pytest.mark.parametrize("name", ["race.f1.mp4", "part.mp4", "temp.mp4", "a.final.mp4", "s01.e02.mp4", "f137.mp4"])
def test_names_that_only_resemble_a_download_are_films(tmp_path, name):
    touch(tmp_path / name)
    assert search(tmp_path).names == [name]


# --- which folders are searched ---------------------------------------------------------------------------------------

HIDDEN = [
    ".Trash-1000", ".snapshot", ".git", "@eaDir", "lost+found", "$RECYCLE.BIN", "$Recycle.Bin", "__MACOSX",
    "System Volume Information", "#recycle", "@Recycle", "~snapshot",
]  # fmt: skip


@pytest.fixture(params=["local", "s3"])
def place(request, tmp_path):
    """A place for video files: a function that writes files there, and one that searches it."""
    if request.param == "local":
        return (lambda *names: touch(*(tmp_path / name for name in names))), (lambda below="": search(tmp_path / below))
    bucket = request.getfixturevalue("s3_bucket")
    fs, root = locate(bucket)
    return (
        lambda *names: put_objects(bucket, *names),
        lambda below="": search_folder(fs, f"{root}/{below}".rstrip("/"), f"{bucket}/{below}"),
    )


def test_hidden_folders_are_not_searched_but_counted(place):
    put, search = place
    put("a.mp4", "films/b.mp4", *(f"films/{name}/deep/{number}.mp4" for name in HIDDEN for number in range(2)))
    found = search()
    assert found.names == ["a.mp4", "films/b.mp4"]
    assert found.skipped == {"hidden files and folders": len(HIDDEN)}


def test_a_hidden_folder_that_is_named_as_the_source_is_searched(place):
    put, search = place
    put(".cache/films/a.mp4")
    assert search(".cache/films").names == ["a.mp4"]


def make_store(url, tmp_path):
    """Create a store with a plan and a clip, as a build leaves it."""
    store = Store(url)
    store.write("runs/one/run.json", b"{}")
    touch(tmp_path / "clip.mp4")
    return store.put_file(tmp_path / "clip.mp4")


def test_a_build_does_not_feed_on_what_builds_have_made(tmp_path):
    films = tmp_path / "films"
    touch(films / "a.mp4")
    clip = make_store(str(films), tmp_path)
    make_store(str(films / "lvr"), tmp_path)
    make_store(str(tmp_path / "elsewhere"), tmp_path)
    (films / "link").symlink_to(tmp_path / "elsewhere")
    (films / "clips").symlink_to(Path(tmp_path / "elsewhere" / clip).parent)
    found = search(films)
    assert found.names == ["a.mp4"]
    assert found.skipped["folders of a build's output"] == 7


def test_a_build_does_not_feed_on_what_builds_have_made_on_s3(tmp_path, s3_bucket):
    put_objects(s3_bucket, "films/a.mp4", "films/objects/b.mp4")
    make_store(f"{s3_bucket}/films/lvr", tmp_path)
    fs, root = locate(s3_bucket)
    found = search_folder(fs, f"{root}/films", f"{s3_bucket}/films")
    assert found.names == ["a.mp4", "objects/b.mp4"]
    assert found.skipped == {"folders of a build's output": 2}


def test_the_output_of_a_build_is_no_source(tmp_path, s3_bucket, monkeypatch):
    clip = make_store(str(tmp_path / "out"), tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(Path("out", clip).parent)
    for source in ("out/objects", str(Path("out", clip).parent), "link", "out/objects/../runs"):
        fs, root = locate(source)
        with pytest.raises(SourceError, match=r"lies in the output of a build, '.*/out'.*; give the folder"):
            search_folder(fs, root, source)
    make_store(f"{s3_bucket}/out", tmp_path)
    fs, root = locate(f"{s3_bucket}/out/objects")
    with pytest.raises(SourceError, match="lies in the output of a build"):
        search_folder(fs, root, f"{s3_bucket}/out/objects")


# --- unreadable files and folders -------------------------------------------------------------------------------------


def test_a_folder_without_permission_is_an_error_and_not_empty(tmp_path, unprivileged):
    touch(tmp_path / "a.mp4", tmp_path / "locked" / "b.mp4")
    (tmp_path / "locked").chmod(0)
    with (
        unprivileged(tmp_path),
        pytest.raises(SourceError, match=r"locked' cannot be read \(Permission denied\); give the build the right to"),
    ):
        search(tmp_path)
    (tmp_path / "locked").chmod(0o755)


def test_a_link_into_a_folder_without_permission_is_an_error(tmp_path, unprivileged):
    touch(tmp_path / "films" / "a.mp4", tmp_path / "locked" / "deep" / "b.mp4")
    (tmp_path / "films" / "more").symlink_to(tmp_path / "locked" / "deep")
    (tmp_path / "locked").chmod(0)
    with unprivileged(tmp_path), pytest.raises(SourceError, match=r"more' cannot be read \(Permission denied\); give"):
        search(tmp_path / "films")
    (tmp_path / "locked").chmod(0o755)


def test_a_hidden_folder_needs_no_permission(tmp_path, unprivileged):
    touch(tmp_path / "a.mp4", tmp_path / "lost+found" / "b.mp4")
    (tmp_path / "lost+found").chmod(0)
    with unprivileged(tmp_path):
        assert search(tmp_path).names == ["a.mp4"]
    (tmp_path / "lost+found").chmod(0o755)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ENOENT, errno.ENOTCONN])
def test_a_folder_that_cannot_be_read_now_is_an_outage(tmp_path, monkeypatch, number):
    touch(tmp_path / "a.mp4", tmp_path / "disk" / "b.mp4")
    scandir = os.scandir

    def fail_on_disk(path):
        if str(path).endswith("disk"):
            raise OSError(number, os.strerror(number), path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", fail_on_disk)
    with pytest.raises(Outage, match=f"disk' cannot be read .{os.strerror(number)}.*; run it again"):
        search(tmp_path)


def test_a_folder_of_a_server_that_cannot_be_read_is_an_error_and_not_empty():
    class Locked(MemoryFileSystem):
        """A file system in which one folder denies access."""

        cachable = False

        def ls(self, path, detail=True, **options):
            if path.endswith("locked"):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
            kinds = {"/films/a.mp4": "file", "/films/locked": "directory"}
            return [{"name": name, "type": kind} for name, kind in kinds.items()]

    with pytest.raises(BadInput, match=r"memory://films: access denied .*Permission denied: '/films/locked'"):
        search_folder(Locked(), "/films", "memory://films")


def test_broken_links_are_listed_as_videos(tmp_path):
    """A broken link without a suffix may point to a folder on a disk that is not mounted now."""
    touch(tmp_path / "a.mp4")
    for name in ("film.mp4", "disk2", "notes.txt"):
        (tmp_path / name).symlink_to(tmp_path / "away" / name)
    (tmp_path / "loop").symlink_to("loop")
    found = search(tmp_path)
    assert found.names == ["a.mp4", "disk2", "film.mp4", "loop"]
    assert found.skipped == {".txt files": 1}


def test_loops_of_links_end(tmp_path):
    touch(tmp_path / "a" / "a.mp4", tmp_path / "b" / "b.mp4")
    (tmp_path / "a" / "to_b").symlink_to(tmp_path / "b")
    (tmp_path / "b" / "to_a").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "up").symlink_to("..")
    assert search(tmp_path).names == ["a/a.mp4", "b/b.mp4"]
    assert search(tmp_path / "a").names == ["a.mp4", "to_b/b.mp4"]

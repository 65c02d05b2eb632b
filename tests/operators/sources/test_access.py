import errno
import os
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from operators.sources.access import Access, SourceFiles, fingerprint, stored_uri
from operators.store.content_store import SourceUnavailable
from schemas.errors import SourceError
from schemas.storage import locate
from schemas.tables import Source
from tests.support.web_server import BODY, serving


@pytest.mark.parametrize(
    ("source", "inside", "outside"),
    [
        ("/lists/list.csv", ["/lists/a.mp4", "file:///lists/b/a.mp4", "/lists/a::b?.mp4"],
         ["/lists2/a.mp4", "/lists/../etc/passwd", "file:///etc/passwd", "local:///etc/passwd", "s3://b/a.mp4",
          "https://host/a.mp4", "github://org:repo@/a.mp4", "memory://a.mp4"]),
        ("s3://bucket/lists/list.csv", ["s3://bucket/films/a.mp4", "s3a://bucket/a::b?.mp4"],
         ["s3://bucket2/a.mp4", "/etc/passwd", "https://bucket/a.mp4"]),
        ("https://host/lists/list.csv", ["https://host/a.mp4", "https://user:pw@HOST:443/a.mp4?sig=1"],
         ["http://host/a.mp4", "https://host:8443/a.mp4", "https://host.evil.org/a.mp4", "https://user@evil.org/@host/a",
          "https://evil.org#@host/a.mp4", "https:/host/a.mp4"]),
        ("hf://datasets/org/name/list.csv",
         ["hf://datasets/org/name/films/a.mp4", "hf://datasets/org/name@main/a.mp4", "hf://datasets/org/name@refs/pr/1/a.mp4"],
         ["hf://datasets/org/name2/a.mp4", "hf://datasets/other/name/a.mp4", "hf://spaces/org/name/a.mp4", "hf://org/name/a.mp4",
          "hf://datasets/org/name/../other/a.mp4"]),
        ("hf://datasets/org/name@main/lists", ["hf://datasets/org/name/a.mp4", "hf://datasets/org/name@v2/a.mp4"],
         ["hf://datasets/org/other/a.mp4"]),
        ("hf://org/name/list.csv", ["hf://org/name/films/a.mp4"], ["hf://org/other/a.mp4", "hf://datasets/org/name/a.mp4"]),
        ("abfs://box@account.dfs.core.windows.net/list.csv", ["abfs://box@account.dfs.core.windows.net/films/a.mp4"],
         ["abfs://other@account.dfs.core.windows.net/a.mp4", "abfs://box@other.dfs.core.windows.net/a.mp4",
          "abfs://account.dfs.core.windows.net/a.mp4"]),
        ("abfs://account.dfs.core.windows.net/box/list.csv", ["abfs://account.dfs.core.windows.net/box/films/a.mp4"],
         ["abfs://account.dfs.core.windows.net/other/a.mp4", "abfs://account.dfs.core.windows.net/box2/a.mp4",
          "abfs://account.dfs.core.windows.net//other/a.mp4", "abfs://account.dfs.core.windows.net/./other/a.mp4",
          "abfs://other.dfs.core.windows.net/box/a.mp4", "abfs://@account.dfs.core.windows.net/other/a.mp4"]),
        ("az://@account.blob.core.windows.net/box/list.csv", ["az://@account.blob.core.windows.net/box/a.mp4"],
         ["az://@account.blob.core.windows.net/other/a.mp4"]),
        ("az://box/list.csv", ["az://box/films/a.mp4", "az://box/..a/b...mp4"], ["az://other/a.mp4", "az:///box/a.mp4"]),
        ("hdfs:///data/list.csv", ["hdfs:///films/a.mp4"],
         ["hdfs://evil:8020/x.mp4", "hdfs://data/x.mp4", "hdfs://evil:8020#@/x.mp4", "webhdfs:///a.mp4"]),
        ("ftp://host/list.csv", ["ftp://user@host/a#b?c.mp4"], ["ftp://evil#@host/a.mp4", "ftp://evil?@host/a.mp4"]),
        ("hdfs://", ["hdfs:///films/a.mp4"], ["hdfs://evil:8020/x.mp4"]),
        ("github://org:name@main/list.csv", ["github://org:name@main/a.mp4"], ["github://org:other@main/a.mp4"]),
        ("s3://arn:aws:s3:eu-west-1:1:accesspoint/films/list.csv", ["s3://arn:aws:s3:eu-west-1:1:accesspoint/films/a.mp4"],
         ["s3://arn:aws:s3:eu-west-1:1:accesspoint/other/a.mp4"]),
    ],
)  # fmt: skip
def test_a_list_may_name_what_lies_in_its_own_folder_bucket_or_site(source, inside, outside):
    access = Access.of(source)
    assert {uri: access.refusal(uri) for uri in inside} == dict.fromkeys(inside)
    assert [uri for uri in outside if access.refusal(uri) is None] == []


@pytest.mark.parametrize(
    ("root", "inside", "outside"),
    [
        ("/mnt/films/", "/mnt/films/a/b.mp4", "/mnt/filmsets/a.mp4"),
        ("/", "/etc/passwd", "s3://b/a"),
        ("s3://films/2026", "s3://films/2026/a.mp4", "s3://films/2026b/a.mp4"),
        ("hf://datasets/org", "hf://datasets/org/any/a.mp4", "hf://datasets/org2/any/a.mp4"),
        ("hf://datasets/org/name@v1", "hf://datasets/org/name@v1/a.mp4", "hf://datasets/org/name@v2/a.mp4"),
        ("ftp://host/films", "ftp://user:pw@host/films/a.mp4", "ftp://host@other/films/a.mp4"),
        ("https://host/public", "https://host/public/a.mp4?from=../b", "https://host/private/a.mp4"),
        ("https://host:99999", "/lists/a.mp4", "https://host/a.mp4"),  # an invalid port does not open the whole scheme
        ("s3://films/a://", "s3://films/a://b.mp4", "s3://other/a.mp4"),
        ("s3:///films", "/lists/a.mp4", "s3:///films/a.mp4"),
        ("abfs://account.dfs.core.windows.net", "abfs://account.dfs.core.windows.net/any/a.mp4", "abfs://any/a.mp4"),
        ("https://", "https://anywhere/a.mp4", "http://anywhere/a.mp4"),
    ],
)
def test_more_may_be_named_where_it_is_allowed(root, inside, outside):
    access = Access.of("/lists/list.csv", "", [root])
    assert access.refusal(inside) is None
    assert "add its folder, bucket or site to allowed_roots" in access.refusal(outside)


@pytest.mark.parametrize(
    "address",
    ["s3:///bucket/list.csv", "s3://", "gs:///b/list.csv", "https:///list.csv", "https://host:99999/list.csv"],
)
def test_a_source_without_a_bucket_or_host_is_refused(address):
    with pytest.raises(SourceError, match=r"source .* names no bucket, or no valid host and port; write them after"):
        Access.of(address)
    with pytest.raises(SourceError, match=r"media_root .* names no bucket"):
        Access.of("/lists/list.csv", address)


@pytest.mark.parametrize(
    ("source", "uri"),
    [
        ("az://c1/list.csv", "az://c1/../c2/x.mp4"),
        ("az://c1/list.csv", "az://c1/a/.\t./../../c2/x.mp4"),
        ("az://c1/list.csv", "az://c1/%2e%2E/c2/x.mp4"),
        ("az://c1/list.csv", "az://c1/..\\c2/x.mp4"),
        ("s3://bucket/lists/list.csv", "s3://bucket/lists/../films/x.mp4"),
        ("https://host/list.csv", "https://host/public/%2e%2e/private/a.mp4"),
        ("ftp://host/list.csv", "ftp://host/.."),
        ("abfs://account.host/c1/list.csv", "abfs://account.host/c1/..?"),
        ("sftp://host/list.csv", "sftp://host/films/..#"),
    ],
)
def test_a_remote_address_that_climbs_is_refused(source, uri):
    access = Access.of(source, "", ["az://", "https://host/public"])
    assert "segment '..', which may lead out" in access.refusal(uri)


def test_repositories_keep_their_name_and_keys_lose_a_password():
    names = [f"github://a:{repository}@main/v.mp4" for repository in ("r1", "r2")]
    assert [stored_uri(name, "/lists") for name in names] == names
    assert stored_uri("s3://AKIA:/wJalr@bucket/x", "/lists") == "s3://bucket/x"
    assert stored_uri("s3://arn:aws:s3:eu-west-1:1:accesspoint/name/a?key=1", "/lists").endswith("a?key=1")


def test_a_missing_folder_is_not_taken_for_a_list_with_siblings(tmp_path):
    assert Access.of(f"{tmp_path}/films").roots == (f"{tmp_path}/films",)


def test_media_root_is_allowed_with_the_list(tmp_path):
    access = Access.of(str(tmp_path / "list.csv"), "/media")
    assert access.refusal("/media/a.mp4") is None


@pytest.mark.parametrize(
    "uri",
    ["simplecache::https://host/a.mp4", "zip://a.mp4::https://host/a.zip", "blockcache::s3::https://host/a.mp4"],
)
def test_chains_are_refused_whatever_is_allowed(uri):
    access = Access.of("/lists/list.csv", "", ["/", "https://", "zip://", "s3://"])
    assert "chains of addresses are not opened" in access.refusal(uri)


def test_private_sites_are_those_that_were_named(tmp_path):
    access = Access.of("http://10.0.0.5:8080/list.csv", "", ["https://", "https://media.intranet", str(tmp_path)])
    assert access.private == {"10.0.0.5:8080", "media.intranet:443"}


@pytest.mark.parametrize("name", ["a.mp4", "a?b#c.mp4", "a::b.mp4", "simplecache::a.mp4", "user:pw@host.mp4"])
def test_local_names_are_names(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"1")
    source = Source(source_id="a", uri=str(path), fingerprint=fingerprint(str(path)))
    assert SourceFiles().fingerprint(source) == source.fingerprint
    assert SourceFiles().fetch("a", source.uri, tmp_path) == path


def test_a_link_in_the_users_own_folder_is_followed(tmp_path):
    (tmp_path / "elsewhere.mp4").write_bytes(b"1")
    (tmp_path / "films").mkdir()
    (tmp_path / "films/a.mp4").symlink_to("../elsewhere.mp4")
    assert Access.of(str(tmp_path / "films")).refusal(str(tmp_path / "films/a.mp4")) is None
    assert SourceFiles().fetch("a", str(tmp_path / "films/a.mp4"), tmp_path).read_bytes() == b"1"


def test_remote_files_of_equal_names_stay_apart(tmp_path, s3_bucket):
    fs = fsspec.filesystem("s3")
    for folder in ("a", "b"):
        fs.pipe_file(f"{s3_bucket}/{folder}/clip.mp4", folder.encode())
    found = [SourceFiles().fetch(name, f"{s3_bucket}/{name}/clip.mp4", tmp_path) for name in "ab"]
    assert [path.read_bytes() for path in found] == [b"a", b"b"]
    assert {path.suffix for path in found} == {".mp4"}


def test_a_fetched_file_is_not_named_by_its_address(tmp_path):
    with serving({f"/{'x' * 300}.mp4": BODY, "/get": BODY}) as server:
        for path in (f"/{'x' * 300}.mp4", "/get"):
            address = f"http://user:PASSWORD@{server.site}{path}?X-Amz-Signature={'SECRET' * 50}"
            files = SourceFiles(frozenset({server.site}), {"film": address})
            local = files.fetch("film", f"{server.url}{path}", tmp_path)
            assert local.read_bytes() == BODY
    names = [path.name for path in tmp_path.iterdir()]
    assert sorted(map(len, names)) == [16, 20]
    assert "SECRET" not in repr(files) and "PASSWORD" not in repr(files)


def test_the_fingerprint_is_the_files_and_not_its_signatures():
    with serving() as server:
        found = {fingerprint(f"{server.url}/film.mp4?X-Amz-Signature={n}", {server.site}) for n in "12"}
    assert found == {f'{len(BODY)}-"tag"'}


def test_a_missing_file_is_distinguished_from_an_outage_and_reported_without_secrets(tmp_path, s3_bucket):
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    with serving() as server:
        gone = [f"{tmp_path}/gone.mp4", f"{tmp_path}/folder", f"{s3_bucket}/gone.mp4"]
        for uri in [*gone, f"http://user:PASSWORD@{server.site}/404?SECRET"]:
            with pytest.raises(SourceUnavailable, match="restore it") as missing:
                SourceFiles(frozenset({server.site})).fetch("film", uri, tmp_path)
            assert missing.value.reason == "missing_file"
            assert not any(word in str(missing.value) for word in ("SECRET", "PASSWORD"))
        for path, words in (("503", "HTTP 503; the next run"), ("403", "HTTP 403.*correct the rights.*, the next run")):
            with pytest.raises(SourceUnavailable, match=f"{words} tries again") as away:
                uri = f"http://user:PASSWORD@{server.site}/{path}?SECRET"
                SourceFiles(frozenset({server.site})).fetch("film", uri, tmp_path)
            assert away.value.reason == "system_error"
            assert not any(word in str(away.value) for word in ("SECRET", "PASSWORD"))


def reason_of(uri, *roots):
    """The reason for which this file cannot be fetched."""
    with pytest.raises(SourceUnavailable) as gone:
        SourceFiles(roots=roots).fetch("film", uri, Path("nowhere"))
    return gone.value.reason


def test_a_file_is_missing_only_while_its_root_is_mounted(tmp_path):
    """An unmounted disk leaves an empty folder, or no folder."""
    for name in ("films/a", "films/mount", "other"):
        (tmp_path / name).mkdir(parents=True)
    films = str(tmp_path / "films")
    (tmp_path / "films/a/there.mp4").touch()
    (tmp_path / "films/link.mp4").symlink_to(tmp_path / "other/film.mp4")
    assert reason_of(f"{films}/a/gone.mp4", films) == "missing_file"
    assert reason_of(f"{films}/a/there.mp4/gone.mp4", films) == "missing_file"
    assert reason_of(f"{films}/removed/gone.mp4", films) == "missing_file"  # its folder is missing too, others exist
    assert reason_of(f"{films}/removed/gone.mp4") == "system_error"
    assert reason_of(f"{films}/mount/gone.mp4", films) == "system_error"
    assert reason_of(f"{films}/mount/b/gone.mp4", films) == "system_error"
    assert reason_of(f"{films}/link.mp4", films) == "system_error"  # its target is in an empty folder
    assert reason_of(f"{tmp_path}/away/b/gone.mp4", f"{tmp_path}/away") == "system_error"


def test_a_folder_that_lets_nobody_in_is_not_a_missing_file(tmp_path, unprivileged):
    (tmp_path / "films").mkdir()
    (tmp_path / "films/a.mp4").touch()
    (tmp_path / "films").chmod(0)
    with unprivileged(tmp_path):
        assert reason_of(f"{tmp_path}/films/a.mp4", f"{tmp_path}/films") == "system_error"


def test_a_file_that_may_not_be_read_is_not_a_missing_file(tmp_path, unprivileged):
    """One command can change the permissions of many files, so the error counts as a fault of the machine."""
    film = tmp_path / "film.mp4"
    film.touch()
    (tmp_path / "other.mp4").touch()
    film.chmod(0)
    source = Source(source_id="film", uri=str(film), fingerprint="1")
    files = SourceFiles(roots=(str(tmp_path),))
    with unprivileged(tmp_path):
        for operation in (files.fingerprint, lambda film: files.fetch("film", film.uri, tmp_path)):
            with pytest.raises(SourceUnavailable, match=r"film.mp4: .*Permission denied.*; correct the rights") as gone:
                operation(source)
            assert gone.value.reason == "system_error"


def test_an_object_that_may_not_be_read_is_not_a_missing_file(tmp_path):
    """The case arises with credentials that may list a bucket but no longer read its objects."""

    class Listed(MemoryFileSystem):
        protocol = "listed"

        def get_file(self, path, local, **_):
            raise PermissionError("Access Denied")

    fsspec.register_implementation("listed", Listed, clobber=True)
    Listed().pipe_file("/bucket/film.mp4", b"film")
    with pytest.raises(SourceUnavailable, match=r"access denied.*; correct the rights") as gone:
        SourceFiles().fetch("film", "listed://bucket/film.mp4", tmp_path)
    assert gone.value.reason == "system_error"


def test_an_object_is_missing_while_its_bucket_is_there(s3_bucket):
    assert reason_of(f"{s3_bucket}/films/gone.mp4") == "missing_file"
    assert reason_of(f"{s3_bucket}-removed/films/gone.mp4") == "system_error"


def test_an_object_store_that_does_not_answer_is_left_to_the_next_run(tmp_path, s3_bucket, monkeypatch):
    film = Source(source_id="film", uri=f"{s3_bucket}/film.mp4", fingerprint="1-2")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    type(locate(s3_bucket)[0]).clear_instance_cache()
    for operation in (SourceFiles().fingerprint, lambda film: SourceFiles().fetch("film", film.uri, tmp_path)):
        with pytest.raises(SourceUnavailable, match=rf"{film.uri}: no answer.*; the next run tries again") as away:
            operation(film)
        assert away.value.reason == "system_error"


@pytest.mark.parametrize(
    "number", [errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ECONNRESET, errno.ENAMETOOLONG, errno.EINVAL]
)
def test_a_copy_that_fails_in_the_middle_leaves_no_file(tmp_path, number):
    class Failing(MemoryFileSystem):
        protocol = "failing"

        def get_file(self, path, local, **_):
            Path(local).write_bytes(b"half")
            if path.endswith("/broken.mp4"):
                raise OSError(number, os.strerror(number))

        def info(self, path, **_):
            return {"name": path, "size": 9, "type": "file"}

    fsspec.register_implementation("failing", Failing, clobber=True)
    for uri, cause in (("failing://a/broken.mp4", os.strerror(number)), ("failing://a/short.mp4", "4 of 9 bytes came")):
        with pytest.raises(SourceUnavailable, match=rf"{uri}: .*{cause}.*; the next run tries again") as gone:
            SourceFiles().fetch("film", uri, tmp_path)
        assert gone.value.reason == "system_error"
        assert not list(tmp_path.glob("*.mp4"))


def test_a_relative_source_is_below_where_the_build_starts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("films").mkdir()
    assert Access.of("films").refusal(os.path.join(tmp_path, "films/a.mp4")) is None  # noqa: PTH118
    assert Access.of("list.csv").refusal(str(tmp_path / "films/a.mp4")) is None

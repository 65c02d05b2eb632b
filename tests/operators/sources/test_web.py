"""Tests with real servers on loopback, whose private addresses are refused unless a test allows them."""

import socket

import pytest

from operators.sources.web import AddressRefused, download, read, site_of, size_and_stamp
from tests.support.web_server import BODY, serving


@pytest.fixture
def server():
    with serving() as server:
        yield server


def test_a_public_or_allowed_file_is_read_with_size_and_stamp(server, tmp_path):
    url = f"{server.url}/film.mp4?X-Amz-Signature=1"
    assert size_and_stamp(url, {server.site}) == (len(BODY), '"tag"')
    assert read(url, {server.site}) == BODY
    download(url, tmp_path / "film.mp4", {server.site})
    assert (tmp_path / "film.mp4").read_bytes() == BODY
    assert list(tmp_path.iterdir()) == [tmp_path / "film.mp4"]


def test_an_empty_file_has_a_size_and_a_stamp(tmp_path):
    """A request for the first byte gets HTTP 416, because the file has no bytes."""
    with serving({"/empty.mp4": b""}) as server:
        assert size_and_stamp(f"{server.url}/empty.mp4", {server.site}) == (0, '"empty"')
        download(f"{server.url}/empty.mp4", tmp_path / "empty.mp4", {server.site})
    assert (tmp_path / "empty.mp4").read_bytes() == b""


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "127.1", "0177.0.0.1", "0.0.0.0", "[::ffff:127.0.0.1]",
     "[::ffff:7f00:1]"],
)  # fmt: skip
def test_a_private_address_is_refused_however_it_is_spelled(server, host):
    with pytest.raises(AddressRefused, match=r"on a private network; .*allowed_roots"):
        read(f"http://{host}:{server.server_port}/film.mp4")
    assert server.seen == []


@pytest.mark.parametrize(
    "host",
    ["169.254.169.254", "10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1", "[::1]", "[fe80::1]", "[fd00:ec2::254]",
     "[64:ff9b::a9fe:a9fe]", "[2002:7f00:1::]", "224.0.0.1", "255.255.255.255"],
)  # fmt: skip
def test_private_networks_of_every_kind_are_refused_before_a_connection(host):
    with pytest.raises(AddressRefused, match="on a private network"):
        size_and_stamp(f"http://{host}/latest/meta-data")


def test_a_name_that_means_a_private_address_is_refused(server, monkeypatch):
    resolve = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *more, **named: resolve("127.0.0.1", *more, **named))
    with pytest.raises(AddressRefused, match=r"films\.example\.org:\d+ is 127\.0\.0\.1, on a private network"):
        read(f"http://films.example.org:{server.server_port}/film.mp4")


def test_a_redirect_to_a_private_address_is_refused(server):
    with serving() as inner:
        for target in (f"{inner.url}/film.mp4", f"//{inner.site}/film.mp4", "http://169.254.169.254/latest/meta-data"):
            with pytest.raises(AddressRefused, match="on a private network"):
                read(f"{server.url}/to?{target}", {server.site})
        assert inner.seen == []
        assert read(f"{server.url}/to?{inner.url}/film.mp4", {server.site, inner.site}) == BODY


@pytest.mark.parametrize(
    "target", ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:text/plain,x", "http://", "gopher://x"]
)
def test_a_redirect_to_another_scheme_is_refused(server, target):
    with pytest.raises(OSError, match=r"^http://127.0.0.1") as refused:
        read(f"{server.url}/to?{target}", {server.site})
    assert not isinstance(refused.value, FileNotFoundError)


def test_redirects_end(server):
    with pytest.raises(PermissionError, match="HTTP 302"):
        read(f"{server.url}/loop", {server.site})


@pytest.mark.parametrize(
    ("path", "kind", "problem"),
    [
        ("404", FileNotFoundError, "no such file"),
        ("403", PermissionError, "have its signature or password expired"),
        ("401", PermissionError, "HTTP 401"),
        ("503", ConnectionError, "HTTP 503"),
        ("429", ConnectionError, "HTTP 429"),
        ("noise", AddressRefused, r"not a valid HTTP\(S\) address"),
        ("short", ConnectionError, "sent 12000 of 100000 bytes"),
    ],
)
def test_errors_of_a_server_are_reported_without_its_text_and_without_secrets(server, tmp_path, path, kind, problem):
    with pytest.raises(kind, match=problem) as failed:
        url = f"http://user:PASSWORD@{server.site}/{path}?SECRET"
        download(url, tmp_path / "film.mp4", {server.site})
    assert server.url in str(failed.value)
    assert not any(word in str(failed.value) for word in ("SECRET", "PASSWORD"))
    assert list(tmp_path.iterdir()) == []


def test_an_unreachable_server_is_distinguished_from_a_missing_file():
    with socket.create_server(("127.0.0.1", 0)) as free:
        site = f"127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(ConnectionError, match="cannot be reached"):
        read(f"http://{site}/film.mp4", {site})


def test_credentials_come_from_the_address_or_netrc_and_go_to_no_other_site(server, tmp_path, monkeypatch):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password word\n")
    with serving() as other:
        allowed = {server.site, other.site}
        assert read(f"http://user:p%40ss@{server.site}/to?{other.url}/film.mp4", allowed) == BODY
        assert [other.seen, server.seen] == [[("/film.mp4", None)], [("/to", "Basic dXNlcjpwQHNz")]]
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    read(f"{server.url}/film.mp4", {server.site})
    assert server.seen[-1] == ("/film.mp4", "Basic bWU6d29yZA==")


@pytest.mark.parametrize(
    "url", ["http://", "http://[::1/x", "http://h:99999/x", "ftp://h/x", "http:/h/x", "http://h:x/"]
)
def test_an_invalid_web_address_is_refused(url):
    assert site_of(url) == ""
    with pytest.raises(AddressRefused, match=r"not a valid HTTP\(S\) address"):
        read(url)


def test_paths_in_any_script_are_requested(server):
    with pytest.raises(FileNotFoundError, match=r"ü ö\.mp4: no such file"):
        read(f"{server.url}/404/ü ö.mp4", {server.site})
    assert server.seen[-1][0] == "/404/%C3%BC%20%C3%B6.mp4"

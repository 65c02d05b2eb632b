"""Reads videos and lists over HTTP(S), from public addresses and from private ones that are allowed by name.

A list of videos is untrusted text. It must not make a build read services of the network that the build runs in, such
as a cloud's metadata. So the address that is connected to is checked, after names are resolved and on every redirect.
Messages quote nothing of an answer but its status.

Credentials are those in the URL, or else those of the host in `~/.netrc` (or the file that `$NETRC` names). They are
not sent along on a redirect. Proxies are not used.
"""

from __future__ import annotations

import base64
import io
import ipaddress
import netrc
import os
import socket
import string
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException, HTTPMessage, HTTPResponse, HTTPSConnection
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, unquote, urlsplit, urlunsplit
from urllib.request import (
    AbstractHTTPHandler,
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPRedirectHandler,
    OpenerDirector,
    Request,
)

from schemas.uri import shown_uri

SILENCE_SECONDS = 60.0
"""Timeout in seconds for a server that sends nothing."""

_BAD_RANGE = 416
"""HTTP status of an empty file when its first byte is requested."""

_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class AddressRefused(PermissionError):
    """An address on a private network, or not an HTTP(S) address. The message says what to allow."""


def size_and_stamp(url: str, private: Collection[str] = ()) -> tuple[int | None, str]:
    """Size of a file in bytes, if the server states it, and its ETag or else the time of its last change.

    The request is a GET for one byte, as a presigned URL is signed for that method alone.

    Args:
        private: sites (`host:port`) that may have private addresses.

    Raises:
        AddressRefused: the address, or one that it redirects to, is private or not HTTP(S).
        FileNotFoundError: HTTP 404 or 410.
        PermissionError: any other refusal by the server, such as HTTP 401 or 403.
        ConnectionError: the server cannot be reached, breaks off, or answers with HTTP 429 or 5xx.
        TimeoutError: no answer within `SILENCE_SECONDS`.
    """
    with _open_url(url, private, {"Range": "bytes=0-0"}) as response:
        total = response.headers.get("Content-Range", "").rpartition("/")[2]
        length = total if response.status in (206, _BAD_RANGE) else response.headers.get("Content-Length", "")
        stamp = response.headers.get("ETag") or response.headers.get("Last-Modified") or ""
        return (int(length) if length.isdecimal() else None), stamp


def read(url: str, private: Collection[str] = ()) -> bytes:
    """Read a file's bytes.

    Raises:
        OSError: see `size_and_stamp`.
    """
    with _open_url(url, private) as response:
        file = io.BytesIO()
        _copy(response, file, url)
        return file.getvalue()


def download(url: str, path: Path, private: Collection[str] = ()) -> None:
    """Download a file. Nothing is at `path` before the file is complete.

    Raises:
        OSError: see `size_and_stamp`.
    """
    partial = path.with_name(f"{path.name}.part")
    try:
        with _open_url(url, private) as response, partial.open("wb") as file:
            _copy(response, file, url)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def site_of(url: str) -> str:
    """`host:port` of an HTTP(S) address; empty if it is not a valid one."""
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    except (ValueError, KeyError):
        return ""
    return f"{parts.hostname}:{port}" if parts.hostname else ""


def _copy(response: HTTPResponse, file: IO[bytes], url: str) -> None:
    promised, size = response.headers.get("Content-Length", ""), 0
    while chunk := _chunk(response, url):
        file.write(chunk)
        size += len(chunk)
    if promised.isdecimal() and size < int(promised):
        raise ConnectionError(f"{shown_uri(url)}: the server sent {size} of {promised} bytes")


def _chunk(response: HTTPResponse, url: str) -> bytes:
    try:
        return response.read(1 << 20)
    except (OSError, HTTPException) as error:
        raise ConnectionError(f"{shown_uri(url)}: the server broke off ({type(error).__name__})") from None


@contextmanager
def _open_url(url: str, private: Collection[str], headers: Mapping[str, str] | None = None) -> Iterator[HTTPResponse]:
    shown = shown_uri(url)
    opener = OpenerDirector()
    for handler in (_Handler(private), _Redirects(), HTTPDefaultErrorHandler(), _Errors()):
        opener.add_handler(handler)
    try:
        response = opener.open(_request(url, headers or {}), timeout=SILENCE_SECONDS)
    except HTTPError as error:
        error.close()
        raise _status_error(shown, error.code) from None
    except URLError as error:
        raise _connection_error(shown, error.reason) from None
    except OSError as error:
        raise _connection_error(shown, error) from None
    except (HTTPException, ValueError) as error:  # the answer is not HTTP; the address is invalid
        raise AddressRefused(f"{shown}: not a valid HTTP(S) address ({type(error).__name__}); correct it") from None
    with response:
        yield response


def _request(url: str, headers: Mapping[str, str]) -> Request:
    parts = urlsplit(url.strip())
    if not site_of(url.strip()):
        raise ValueError("no host, or no port")
    _, _, site = parts.netloc.rpartition("@")
    plain = urlunsplit((parts.scheme, site.encode("idna").decode(), parts.path or "/", parts.query, ""))
    headers = {"Accept-Encoding": "identity", **headers}
    request = Request(quote(plain, safe=string.punctuation), headers=headers)  # noqa: S310 - `site_of`: it is http(s)
    if credentials := _credentials(parts.hostname or "", parts.username, parts.password):
        token = base64.b64encode(credentials.encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {token}")
    return request


def _credentials(host: str, user: str | None, password: str | None) -> str:
    if user is not None:
        return f"{unquote(user)}:{unquote(password or '')}"
    try:
        found = netrc.netrc(os.environ.get("NETRC")).hosts.get(host)
    except (OSError, netrc.NetrcParseError):
        return ""
    return f"{found[0]}:{found[2] or ''}" if found else ""


def _status_error(shown: str, status: int) -> OSError:
    if status in (404, 410):
        return FileNotFoundError(f"{shown}: no such file (HTTP {status})")
    if status == 429 or status >= 500:
        return ConnectionError(f"{shown}: the server answers with HTTP {status}")
    return PermissionError(f"{shown}: the server refuses it (HTTP {status}); have its signature or password expired?")


def _connection_error(shown: str, reason: object) -> OSError:
    if isinstance(reason, AddressRefused):
        return reason
    if isinstance(reason, TimeoutError):
        return TimeoutError(f"{shown}: no answer within {SILENCE_SECONDS:.0f} s")
    if isinstance(reason, socket.gaierror):
        return ConnectionError(f"{shown}: its host's name is not known ({reason.strerror})")
    if isinstance(reason, OSError):
        return ConnectionError(f"{shown}: it cannot be reached ({reason.strerror or type(reason).__name__})")
    return ConnectionError(f"{shown}: it cannot be reached")


class _Connection(HTTPConnection):
    """Connects to public addresses, and to private ones if the site is allowed."""

    private: Collection[str] = ()

    def connect(self) -> None:
        found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        addresses = list(dict.fromkeys(str(each[4][0]) for each in found))
        if f"{self.host.lower()}:{self.port}" not in self.private:
            for address in addresses:
                _assert_public(address, f"{self.host}:{self.port}")
        for address in addresses:  # those that were checked: a name may resolve to another one the next time
            try:
                self.sock = socket.create_connection((address, self.port), self.timeout)
                return
            except OSError:
                if address == addresses[-1]:
                    raise


class _SecureConnection(HTTPSConnection, _Connection):
    """The same with TLS: `HTTPSConnection.connect` wraps the socket that the next class opens."""


class _Handler(AbstractHTTPHandler):
    def __init__(self, private: Collection[str]) -> None:
        super().__init__()
        self._private = private

    def http_open(self, request: Request) -> HTTPResponse:
        return self._open(_Connection, request)

    def https_open(self, request: Request) -> HTTPResponse:
        return self._open(_SecureConnection, request)

    http_request = https_request = AbstractHTTPHandler.do_request_

    def _open(self, kind: type[_Connection], request: Request) -> HTTPResponse:
        def connection(host: str, **options: Any) -> _Connection:
            made = kind(host, **options)
            made.private = self._private
            return made

        return self.do_open(connection, request)


class _Errors(HTTPErrorProcessor):
    """Raises for HTTP errors, except for the missing first byte of an empty file."""

    def http_response(self, request: Request, response: HTTPResponse) -> HTTPResponse:
        if response.status == _BAD_RANGE and request.has_header("Range"):
            return response
        return super().http_response(request, response)

    https_response = http_response


class _Redirects(HTTPRedirectHandler):
    """Follows redirects to HTTP(S) addresses only."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        fp.close()  # otherwise the body of the redirect would be read
        if not site_of(newurl):
            raise AddressRefused(
                f"{shown_uri(req.full_url)}: redirects to {shown_uri(newurl)}, which is no web address"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _assert_public(address: str, site: str) -> None:
    """Check that an address is public.

    Raises:
        AddressRefused: the address cannot be reached from everywhere.
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        within = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF) if ip in _NAT64 else None
        ip = ip.ipv4_mapped or ip.sixtofour or within or ip
    if not ip.is_global or ip.is_multicast:
        raise AddressRefused(
            f"{site} is {address}, on a private network; if videos lie there, add http://{site} (or https) to "
            f"allowed_roots"
        )

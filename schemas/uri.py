"""Redacts addresses before they are shown or stored: no user, no password, no query or fragment of a web address.

These parts may hold credentials. In object stores and on disks, `?` and `#` are ordinary characters of a name. A name
is cut there only before a parameter that is called a signature, a key, a password or the like.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import reduce
from unicodedata import category

MAX_SHOWN = 400
"""Maximum length of a shown address, in characters."""

_SCHEME = r"[A-Za-z][A-Za-z0-9+.-]{1,31}"  # at least two letters: `C:\\films` is a path
_ADDRESS = re.compile(rf"(?P<scheme>{_SCHEME}):(?P<slashes>[/\\]+)(?P<rest>.*)", re.DOTALL)
_IN_TEXT = re.compile(rf"{_SCHEME}:[/\\]+[^\s'\"<>]*")
_LINK = re.compile(rf"::(?={_SCHEME}:[/\\])")
"""Separator of the links of an fsspec chain (`simplecache::https://…`)."""
_SITE = re.compile(
    r"(?P<user>[^/\\]*@)?(?P<host>\[[^\]/\\@]*\]|[^:@/\\\[\]]+)(?P<port>:\d*)?(?P<path>[/\\].*)?", re.DOTALL
)
_BROKEN_SITE = re.compile(r"(?P<host>\[[^\]/\\]*\]|[^:/\\]*)(?P<port>:\d+(?=[/\\]|$))?[^/\\]*(?P<path>.*)", re.DOTALL)
_HOSTLESS = frozenset({"file", "local", "memory"})
_STORES = _HOSTLESS | {"s3", "s3a", "gs", "gcs", "oss", "adl", "hf"}
_CONTAINERS = frozenset({"az", "abfs", "abfss", "wasb", "wasbs"})
"""Azure's schemes, as in `abfs://container@account…/path`: the part before the @ is a container, not a user."""
_ACCESS_POINT = re.compile(r"arn:[^@/\\]*[/\\]")
"""An S3 access point in place of a bucket: the text after its colons is not a password."""
_REPOSITORY = re.compile(r"[\w-]+:(?!gh[a-z]_|github_pat_)[\w.-]+@[^@/\\]*(?=[/\\]|$)")
"""`org:repo@branch` of a `github://` address: a name, unless it has the form of GitHub's tokens."""
_COMMON_PORT = re.compile(r"2[12]|8\d|44[345]|990|3000|5000|[89]\d{3}|14000|50070")
"""Ports of web, FTP, SSH, SMB and HDFS servers."""
_PORT = re.compile(rf"{_COMMON_PORT.pattern}|[1-9]\d{{3}}|[1-5]\d{{4}}|6[0-4]\d{{3}}|65[0-4]\d\d|655[0-2]\d|6553[0-5]")
"""Usual ports, and all others that a server can have without being privileged (from 1000)."""
_STRAY_USER = re.compile(r"(?<![^/\\])[^/\\@:]*:(?>[^/\\]*@)(?=[^/\\]+[/\\])")
_SECRET_PARAMETER = re.compile(
    r"[?&;#][\w.~%-]{0,64}(sig|signature|token|secret|passw(or)?d|pwd|credentials?|key(-?id)?|auth(orization)?)=",
    re.IGNORECASE,
)
_CREDENTIAL = re.compile(
    r"[?&;#][^=&;#]{0,64}(sig|token|secret|passw|credential|auth|key|policy|expires)[^=&;#]{0,64}=", re.IGNORECASE
)


def is_address(text: str) -> bool:
    """Whether a text is a URL: a scheme followed by `://`."""
    return re.match(rf"\s*{_SCHEME}://", text) is not None


def holds_secret(uri: str) -> bool:
    """Whether an address has a user, a password, or a query or fragment that may be secret.

    `https://host:4711/a@b` may be a name on an unusual port, and is no secret here, though `redacted_uri` cuts it.
    """
    return is_address(uri) and _redact(uri, _PORT) != uri


def is_chain(uri: str) -> bool:
    """Whether fsspec would open one address through another (`zip://a.mp4::https://host/a.zip`)."""
    links = _LINK.split(uri)
    return len(links) > 1 or (not is_address(uri) and re.match(rf"{_SCHEME}::", uri) is not None)


def redacted_uri(uri: str) -> str:
    """Reduce an address to what may be stored: scheme, host, port and path. A local path is returned unchanged.

    A malformed address loses too much rather than too little: a password that contains `/`, `?`, `#` or `@` is removed
    with everything before it. Each link of an fsspec chain is redacted separately.

    In `user:12/word@host/path`, `12` could also be the port of a host `user`, and `word@host/path` a path. It is taken
    for a port if it is a usual one, such as 8080, and otherwise for the beginning of a password. A bucket has no port.
    Without a colon before the path, an `@` in the path is part of a name.
    """
    return _redact(uri, _COMMON_PORT)


def shown_uri(uri: str) -> str:
    """An address or a path for display: redacted, on one line, at most `MAX_SHOWN` characters long.

    An almost-URL (`user:password@host/a.mp4?token=…`) also loses what may be a password or a token.
    """
    shown = redacted_uri(uri)
    if _ADDRESS.search(uri) is None:
        shown = _without_secret_query(_STRAY_USER.sub("", shown))
    shown = printable(shown)
    return shown if len(shown) <= MAX_SHOWN else f"{shown[: MAX_SHOWN // 2]}…{shown[1 - MAX_SHOWN // 2 :]}"


def without_secrets(text: str, known: Iterable[str] = ()) -> str:
    """Redact every address in a text, such as the error message of another library.

    Args:
        known: addresses that the text may quote. They are found whatever characters they contain.
    """
    return _IN_TEXT.sub(lambda found: redacted_uri(found[0]), _without(text, known))


def public_text(text: str, known: Iterable[str] = ()) -> str:
    """Redact the addresses in a text for publication. A query is removed only if a part of it is a credential.

    `https://www.youtube.com/watch?v=ID` keeps the part that identifies the video. Addresses in `known` always lose
    their query.
    """

    def public(found: re.Match[str]) -> str:
        base, mark, query = re.fullmatch(r"([^?#]*)([?#]?)(.*)", found[0], re.DOTALL).groups()  # type: ignore[union-attr]
        redacted = redacted_uri(found[0])
        keeps = "@" not in query and redacted_uri(base) == redacted and not _CREDENTIAL.search(mark + query)
        return redacted + mark + query if keeps else redacted

    return _IN_TEXT.sub(public, _without(text, known))


def printable(text: str) -> str:
    """Put a text on one line. Characters that a terminal or a log would act on become escapes."""
    return "".join(
        each
        if each.isprintable() or category(each) == "Zs"
        else each.encode("unicode_escape", "surrogatepass").decode()
        for each in text
    )


def _without(text: str, known: Iterable[str]) -> str:
    return reduce(lambda done, uri: done.replace(uri, redacted_uri(uri)), filter(None, known), text)


def _without_secret_query(name: str) -> str:
    mark = re.search("[?#]", name)
    return name[: mark.start()] if mark and _SECRET_PARAMETER.search(name, mark.start()) else name


def _without_query(address: str) -> str:
    return re.split("[?#]", address, maxsplit=1)[0]


def _redact(uri: str, ports: re.Pattern[str]) -> str:
    return "::".join(_redact_link(link, ports) for link in _LINK.split(uri))


def _redact_link(link: str, ports: re.Pattern[str]) -> str:
    """Redact one link of a chain.

    Args:
        ports: what is taken for a port, rather than for the beginning of a password, if an `@` follows in the path.
    """
    found = _ADDRESS.search(link)
    if found is None:
        return link
    before, scheme, rest = link[: found.start()], found["scheme"].lower(), found["rest"]
    is_plain = _ADDRESS.search(rest) is None
    if scheme == "github" and is_plain and _REPOSITORY.match(rest):
        return before + _without_query(link[found.start() :])
    is_name = scheme in _STORES | _CONTAINERS and is_plain
    cut = _without_secret_query if is_name else _without_query
    has_container = scheme in _CONTAINERS and ":" not in rest.partition("@")[0]
    if has_container or (is_name and _ACCESS_POINT.match(rest)):
        return before + cut(link[found.start() :])
    plain = cut(rest)
    site = _SITE.fullmatch(plain)
    path = (site and site["path"]) or ""
    has_password = not is_name and re.search(r":[^/\\:@]*@", path)
    is_password = (
        site is not None
        and site["port"] is not None
        and "@" in rest[site.end("port") :]
        and scheme not in _HOSTLESS
        and (scheme in _STORES or not ports.fullmatch(site["port"][1:]))
    )
    if site is None or is_password or ("@" in path and (site["user"] or has_password)):
        plain = cut(rest.rpartition("@")[2])
        site = _BROKEN_SITE.fullmatch(plain)
        assert site is not None  # the pattern matches every text
    return f"{before}{found['scheme']}:{found['slashes']}{site['host']}{site['port'] or ''}{site['path'] or ''}"

"""How an address is shown and stored: without user and password, and without what follows its path on a web server.

Credentials stand there. In an object store and on a disk, `?` and `#` are characters of a name like all others, and the
name is cut only where a parameter follows them that holds a signature, a key or a password by its name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import reduce
from unicodedata import category

LONGEST_SHOWN = 400

_SCHEME = r"[A-Za-z][A-Za-z0-9+.-]{1,31}"  # of two letters at least: `C:\\films` is a path
_ADDRESS = re.compile(rf"(?P<scheme>{_SCHEME}):(?P<slashes>[/\\]+)(?P<rest>.*)", re.DOTALL)
_IN_TEXT = re.compile(rf"{_SCHEME}:[/\\]+[^\s'\"<>]*")
_LINK = re.compile(rf"::(?={_SCHEME}:[/\\])")
"""Joins the links of an fsspec chain (`simplecache::https://…`)."""
_SITE = re.compile(
    r"(?P<user>[^/\\]*@)?(?P<host>\[[^\]/\\@]*\]|[^:@/\\\[\]]+)(?P<port>:\d*)?(?P<path>[/\\].*)?", re.DOTALL
)
_BROKEN_SITE = re.compile(r"(?P<host>\[[^\]/\\]*\]|[^:/\\]*)(?P<port>:\d+(?=[/\\]|$))?[^/\\]*(?P<path>.*)", re.DOTALL)
_STORES = frozenset({"file", "local", "memory", "s3", "s3a", "gs", "gcs", "oss", "adl", "hf"})
_CONTAINERS = frozenset({"az", "abfs", "abfss", "wasb", "wasbs"})
"""Azure's `abfs://container@account…/path`: what stands before the @ is no user."""
_ACCESS_POINT = re.compile(r"arn:[^@/\\]*[/\\]")
"""Of S3, in the place of a bucket: what follows its colons is no password."""
_STRAY_USER = re.compile(r"(?<![^/\\])[^/\\@:]*:(?>[^/\\]*@)(?=[^/\\]+[/\\])")
_SECRET_PARAMETER = re.compile(
    r"[?&;#][\w.~%-]{0,64}(sig|signature|token|secret|passw(or)?d|pwd|credentials?|key(-?id)?|auth(orization)?)=",
    re.IGNORECASE,
)
_CREDENTIAL = re.compile(
    r"[?&;#][^=&;#]{0,64}(sig|token|secret|passw|credential|auth|key|policy|expires)[^=&;#]{0,64}=", re.IGNORECASE
)


def is_address(text: str) -> bool:
    """Whether a text is a URL, with `://` behind its scheme."""
    return re.match(rf"\s*{_SCHEME}://", text) is not None


def holds_secret(uri: str) -> bool:
    """Whether an address has a user, a password, or a query or fragment that may be secret."""
    return is_address(uri) and redacted_uri(uri) != uri


def is_chain(uri: str) -> bool:
    """Whether fsspec would open one address by way of another (`zip://a.mp4::https://host/a.zip`)."""
    links = _LINK.split(uri)
    return len(links) > 1 or (not is_address(uri) and re.match(rf"{_SCHEME}::", uri) is not None)


def redacted_uri(uri: str) -> str:
    """An address as it may be stored: scheme, host, port and path. A local path is given back as it is.

    What is malformed loses rather too much than too little: a password that holds `/`, `?`, `#` or `@` goes with all
    that stands before it. Each link of an fsspec chain is redacted by itself.
    """
    return "::".join(_redacted_link(link) for link in _LINK.split(uri))


def shown_uri(uri: str) -> str:
    """An address or a path for people: redacted, on one line, of at most `LONGEST_SHOWN` characters.

    What should have been a URL (`user:password@host/a.mp4?token=…`) loses what looks like a password or a token, too.
    """
    shown = redacted_uri(uri)
    if _ADDRESS.search(uri) is None:
        shown = _without_secret_query(_STRAY_USER.sub("", shown))
    shown = printable(shown)
    return shown if len(shown) <= LONGEST_SHOWN else f"{shown[: LONGEST_SHOWN // 2]}…{shown[1 - LONGEST_SHOWN // 2 :]}"


def without_secrets(text: str, known: Iterable[str] = ()) -> str:
    """A text, such as another library's error message, with every address in it redacted.

    Args:
        known: addresses that it may quote, whatever characters are in them.
    """
    return _IN_TEXT.sub(lambda found: redacted_uri(found[0]), _without(text, known))


def public_text(text: str, known: Iterable[str] = ()) -> str:
    """A text for publication: addresses lose user and password, and the query too where a part of it is a credential.

    `https://www.youtube.com/watch?v=ID` keeps what says which video it is. `known` addresses lose their query anyway.
    """

    def public(found: re.Match[str]) -> str:
        base, mark, query = re.fullmatch(r"([^?#]*)([?#]?)(.*)", found[0], re.DOTALL).groups()  # type: ignore[union-attr]
        redacted = redacted_uri(found[0])
        keeps = "@" not in query and redacted_uri(base) == redacted and not _CREDENTIAL.search(mark + query)
        return redacted + mark + query if keeps else redacted

    return _IN_TEXT.sub(public, _without(text, known))


def printable(text: str) -> str:
    """On one line, with escapes for what a terminal or a log would act on."""
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


def _redacted_link(link: str) -> str:
    found = _ADDRESS.search(link)
    if found is None:
        return link
    before, scheme, rest = link[: found.start()], found["scheme"].lower(), found["rest"]
    is_name = scheme in _STORES | _CONTAINERS and _ADDRESS.search(rest) is None
    cut = _without_secret_query if is_name else _without_query
    has_container = scheme in _CONTAINERS and ":" not in rest.partition("@")[0]
    if has_container or (is_name and _ACCESS_POINT.match(rest)):
        return before + cut(link[found.start() :])
    plain = cut(rest)
    site = _SITE.fullmatch(plain)
    path = (site and site["path"]) or ""
    has_password = not is_name and re.search(r":[^/\\:@]*@", path)
    if site is None or ("@" in path and (site["user"] or has_password)):
        plain = cut(rest.rpartition("@")[2])
        site = _BROKEN_SITE.fullmatch(plain)
        assert site is not None  # it fits every text
    return f"{before}{found['scheme']}:{found['slashes']}{site['host']}{site['port'] or ''}{site['path'] or ''}"

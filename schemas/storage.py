"""Finds the file system of an address, and translates its errors into messages that name the address and the fix.

Every file system raises its own exceptions. Those of object stores name neither the address nor what to do.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import fsspec
from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem, make_path_posix

from schemas.errors import BadInput, Outage
from schemas.uri import printable, shown_uri, without_secrets

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_LOCAL = re.compile(r"(file|local)://")
_S3 = re.compile(r"s3a?://")

_NO_CREDENTIALS = frozenset(
    {"NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "ProfileNotFound"}  # botocore
    | {"DefaultCredentialsError", "RefreshError"}  # google.auth
    | {"ClientAuthenticationError", "CredentialUnavailableError"}  # azure
)
"""Class names of exceptions. They are compared by name because the drivers need not be installed."""

READ_ERRORS = frozenset(
    {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.ECONNRESET, errno.ECONNABORTED}
    | {errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH, errno.EREMOTEIO, errno.ENODEV}
)
"""Error numbers of a disk or mount that fails. The file is not at fault, and a later attempt may read it."""

_MAX_CHARACTERS = 300
"""Maximum length of a quoted error message, in characters."""


class StoreError(Outage):
    """A store cannot be read or written. The message names the address and says what to do."""


class AccessDenied(BadInput, PermissionError):
    """A file system needs credentials or refuses those given. It is a configuration error and a permission error."""


def is_url(address: str) -> bool:
    """Whether an address begins with a scheme, such as `s3://`. All other addresses are local paths."""
    return _SCHEME.match(address) is not None


def locate(address: str, **options: Any) -> tuple[AbstractFileSystem, str]:
    """The file system of an address, and the path in it.

    Only the scheme at the beginning has a meaning: file names and keys may contain any character. (In
    `fsspec.core.url_to_fs`, `::` separates chained file systems.)

    Args:
        address: a local path or a URL (`s3://bucket/key`).
        options: options of the fsspec file system.

    Raises:
        ValueError: the scheme is unknown.
        ImportError: the scheme's driver is not installed.
    """
    if not is_url(address):
        return LocalFileSystem(**options), make_path_posix(address).rstrip("/") or "/"
    fs, _ = fsspec.core.url_to_fs(address.partition("::")[0], **options)
    return fs, fs._strip_protocol(address)


@contextmanager
def outages(address: str) -> Iterator[None]:
    """Translate the errors of file system calls inside this context.

    A missing or existing path, a folder in place of a file (or the reverse), and every OSError of a local disk are
    raised unchanged.

    Raises:
        AccessDenied: there are no credentials, or they do not grant this access.
        BadInput: the address, or the address of its server, is invalid, or its driver is not installed.
        StoreError: the server does not answer; a later attempt may succeed.
    """
    shown, is_s3 = shown_uri(address), _S3.match(address) is not None
    try:
        yield
    except (BadInput, Outage, FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError):
        raise
    except Exception as error:
        cause = printable(without_secrets(str(error), [address])).removeprefix(f"{shown}: ")[:_MAX_CHARACTERS]
        if isinstance(error, OSError) and (not is_url(address) or _LOCAL.match(address)):
            raise
        if type(error).__name__ in _NO_CREDENTIALS:
            names = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" if is_s3 else "those of its driver"
            raise AccessDenied(f"{shown}: no credentials ({cause}); set {names}, or use another address") from error
        if isinstance(error, PermissionError) and str(error).startswith(f"{shown}: "):
            raise  # already translated by `operators.sources.web`
        if isinstance(error, PermissionError):
            raise AccessDenied(
                f"{shown}: access denied ({cause}); correct the address, or give credentials that may do this"
            ) from error
        if isinstance(error, ValueError | ImportError) or getattr(error, "errno", None) == errno.EINVAL:  # HTTP 400
            places = "the address, that of its server (AWS_ENDPOINT_URL)," if is_s3 else "the address"
            raise BadInput(f"{shown}: cannot be opened ({cause}); correct {places} or install its driver") from error
        checked = "are address and endpoint (AWS_ENDPOINT_URL)" if is_s3 else "is the address"
        raise StoreError(
            f"{shown}: no answer ({cause or type(error).__name__}); {checked} right? Run it again when it answers"
        ) from error

"""Where files lie: the file system of an address, and what it raises in words.

Every file system has its own exceptions, and those of object stores say neither which address nor what to do.
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
"""Names of exceptions: the drivers need not be installed."""

READ_ERRORS = frozenset(
    {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.ECONNRESET, errno.ECONNABORTED}
    | {errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH, errno.EREMOTEIO, errno.ENODEV}
)
"""Of a disk or mount that fails, whatever file is read: not the file's fault, and another time it may be read."""

_MOST_CHARACTERS = 300


class StoreError(Outage):
    """A store cannot be read or written; the message names the address and the way out."""


class AccessDenied(BadInput, PermissionError):
    """A file system takes no credentials, or not these: an error of the configuration, and one of rights."""


def is_url(address: str) -> bool:
    """Whether an address begins with a scheme, such as `s3://`; all others are local paths."""
    return _SCHEME.match(address) is not None


def locate(address: str, **options: Any) -> tuple[AbstractFileSystem, str]:
    """The file system of a local path or a URL (`s3://bucket/key`), and the path in it.

    Nothing but the scheme at its beginning has a meaning: file names and keys may hold any character. (In
    `fsspec.core.url_to_fs`, `::` separates file systems that are chained.)

    Args:
        options: of the file system, as fsspec takes them.

    Raises:
        ValueError: there is no such scheme.
        ImportError: its driver is not installed.
    """
    if not is_url(address):
        return LocalFileSystem(**options), make_path_posix(address).rstrip("/") or "/"
    fs, _ = fsspec.core.url_to_fs(address.partition("::")[0], **options)
    return fs, fs._strip_protocol(address)


@contextmanager
def outages(address: str) -> Iterator[None]:
    """Around the use of a file system: its failures in words.

    That a file is not there, or is a folder, is raised as it is, and so is all that a local disk raises.

    Raises:
        AccessDenied: there are no credentials, or they may not do this.
        BadInput: the address, or that of its server, cannot be one.
        StoreError: there is no answer; another time there may be.
    """
    shown, is_s3 = shown_uri(address), _S3.match(address) is not None
    try:
        yield
    except (BadInput, Outage, FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError):
        raise
    except Exception as error:
        told = printable(without_secrets(str(error), [address])).removeprefix(f"{shown}: ")[:_MOST_CHARACTERS]
        if isinstance(error, OSError) and (not is_url(address) or _LOCAL.match(address)):
            raise
        if type(error).__name__ in _NO_CREDENTIALS:
            names = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" if is_s3 else "those of its driver"
            raise AccessDenied(f"{shown}: no credentials ({told}); set {names}, or name another place") from error
        if isinstance(error, PermissionError) and str(error).startswith(f"{shown}: "):
            raise  # in words already (`operators.sources.web`)
        if isinstance(error, PermissionError):
            raise AccessDenied(
                f"{shown}: access denied ({told}); correct the address, or give credentials that may do this"
            ) from error
        if isinstance(error, ValueError | ImportError) or getattr(error, "errno", None) == errno.EINVAL:  # HTTP 400
            places = "the address, that of its server (AWS_ENDPOINT_URL)," if is_s3 else "the address"
            raise BadInput(f"{shown}: cannot be opened ({told}); correct {places} or install its driver") from error
        checked = "are address and endpoint (AWS_ENDPOINT_URL)" if is_s3 else "is the address"
        raise StoreError(
            f"{shown}: no answer ({told or type(error).__name__}); {checked} right? Run it again when it answers"
        ) from error

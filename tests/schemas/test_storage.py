"""Messages for file system errors: configuration error or outage, the address, and what to do."""

import errno

import pytest

from schemas.errors import BadInput
from schemas.storage import AccessDenied, StoreError, outages

FORBIDDEN = PermissionError("Forbidden for https://user:secret@host/a?key=secret")


def reraise(error: Exception, address: str = "s3://bucket/films") -> Exception:
    with pytest.raises(Exception) as found, outages(address):
        raise error
    return found.value


@pytest.mark.parametrize("kind", [FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError])
def test_a_specific_error_is_raised_unchanged(kind):
    error = kind("a.mp4")
    assert reraise(error) is error


@pytest.mark.parametrize("address", ["/films", "films", "file:///films", "local:///films"])
def test_a_local_disk_speaks_for_itself(address):
    error = OSError(errno.EIO, "Input/output error")
    assert reraise(error, address) is error


def test_a_refusal_is_of_the_configuration_and_of_rights():
    found = reraise(FORBIDDEN)
    assert isinstance(found, AccessDenied) and isinstance(found, BadInput) and isinstance(found, PermissionError)
    assert str(found) == (
        "s3://bucket/films: access denied (Forbidden for https://host/a); correct the address, or give credentials "
        "that may do this"
    )


def test_an_error_without_an_answer_is_an_outage():
    for error in (
        ConnectionRefusedError(111, "refused"),
        OSError(errno.EBUSY, "Slow down"),
        RuntimeError("gone\x1b[2J"),
    ):
        found = reraise(error)
        assert isinstance(found, StoreError) and str(found).startswith("s3://bucket/films: no answer (")
        assert str(found).isprintable()


def test_a_message_is_short_and_names_its_address_once():
    inner = reraise(TimeoutError("x" * 5000))
    assert len(str(inner)) < 600
    assert reraise(inner) is inner
    assert str(reraise(ConnectionError("s3://bucket/films: no answer"))).count("s3://bucket/films") == 1


def test_an_address_that_is_none_is_the_configurations():
    assert isinstance(reraise(ValueError("Invalid endpoint: 127.0.0.1:9000")), BadInput)
    assert isinstance(reraise(OSError(errno.EINVAL, "Bad Request")), BadInput)
    assert isinstance(reraise(ImportError("Install gcsfs to access Google Storage")), BadInput)


@pytest.mark.parametrize("error", [ConnectionError("HTTP 503"), ValueError("no host"), OSError(errno.EINVAL, "what")])
def test_only_errors_of_s3_name_its_variables(error):
    assert "AWS_" in str(reraise(error))
    assert "AWS_" not in str(reraise(error, "https://host/film.mp4"))
    assert "AWS_" not in str(reraise(error, "gs://bucket/film.mp4"))

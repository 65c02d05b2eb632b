import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from schemas.uri import (
    MAX_SHOWN,
    holds_secret,
    is_address,
    public_text,
    redacted_uri,
    shown_uri,
    without_secrets,
)


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("https://user:PASSWORD@host:8443/a/b.mp4?X-Amz-Signature=SECRET#SECRET", "https://host:8443/a/b.mp4"),
        ("https://TOKEN@host/a.mp4", "https://host/a.mp4"),
        ("http://[::1]:80/a.mp4?SECRET", "http://[::1]:80/a.mp4"),
        ("ftp://host/a.mp4?SECRET", "ftp://host/a.mp4"),
        ("https://host/@channel/a.mp4", "https://host/@channel/a.mp4"),
        # special characters in object keys and file names
        ("s3://bucket/a#b c?x=1;d.mp4", "s3://bucket/a#b c?x=1;d.mp4"),
        ("gs://bucket/12:30@home?keyframe=3.mp4", "gs://bucket/12:30@home?keyframe=3.mp4"),
        ("hf://datasets/org/name@main/a#b.mp4", "hf://datasets/org/name@main/a#b.mp4"),
        ("file:///films/a#b@c?x=1.mp4", "file:///films/a#b@c?x=1.mp4"),
        ("abfs://container@account.dfs.core.windows.net/a#b.mp4", "abfs://container@account.dfs.core.windows.net/a#b.mp4"),
        ("s3://arn:aws:s3:eu-west-1:1234:accesspoint/name/a@b#c.mp4", "s3://arn:aws:s3:eu-west-1:1234:accesspoint/name/a@b#c.mp4"),
        ("s3://bucket/a.mp4?X-Amz-Algorithm=AWS4&X-Amz-Signature=SECRET", "s3://bucket/a.mp4"),
        ("abfs://container@account/a.mp4?sv=2026-02-06&sig=SECRET", "abfs://container@account/a.mp4"),
        ("github://org:repo@main/a@b.mp4?token=SECRET", "github://org:repo@main/a@b.mp4"),
        ("github://org:repo@", "github://org:repo@"),
        ("github://user:ghp_SECRET@main/a.mp4", "github://main/a.mp4"),
        ("github://o:r@main/a.mp4,https://user:PASSWORD@host/b.mp4", "github://host/b.mp4"),
        # passwords that begin with a slash, or with digits and a slash
        ("https://bob:/s3cret@host/list.csv", "https://host/list.csv"),
        ("ftp://bob:12/s3cret@host/list.csv", "ftp://host/list.csv"),
        ("s3://AKIA:/wJalr@bucket/x", "s3://bucket/x"),
        ("s3://AKIA:8080/wJalr@bucket/x", "s3://bucket/x"),
        ("az://KEY:/wJalr@container/x", "az://container/x"),
        ("https://bob:12?s3cret@host/list.csv", "https://host/list.csv"),
        ("https://host:8080/a@2x.mp4", "https://host:8080/a@2x.mp4"),
        ("https://host:12/a.mp4", "https://host:12/a.mp4"),
        ("s3://bucket/a@b.mp4", "s3://bucket/a@b.mp4"),
        ("file:///C:/films/a@b.mp4", "file:///C:/films/a@b.mp4"),
        ("s3://KEY:PASSWORD@bucket/a#b.mp4", "s3://bucket/a#b.mp4"),
        ("s3://KEY:PASS/WORD@bucket/a b.mp4?secret_access_key=SECRET", "s3://bucket/a b.mp4"),
        ("s3://bucket/a.mp4,https://user:PASSWORD@host/b.mp4?SECRET", "s3://host/b.mp4"),
        # chained fsspec URLs
        ("simplecache::https://user:PASSWORD@host/a.mp4?SECRET", "simplecache::https://host/a.mp4"),
        ("zip://a.mp4::https://user:PASSWORD@host/a.zip?SECRET", "zip://a.mp4::https://host/a.zip"),
        # malformed
        ("http:/user:PASSWORD@host/a.mp4?SECRET", "http:/host/a.mp4"),
        ("/films/http:/user:PASSWORD@host/a.mp4?SECRET", "/films/http:/host/a.mp4"),
        ("http://user:PASSWORD", "http://user"),
        ("http://[::1/a.mp4?SECRET", "http://[/a.mp4"),
        ("http//user:PASSWORD@host/a.mp4?token=SECRET", "http//host/a.mp4"),
        ("user:PASSWORD@host/a.mp4?X-Amz-Signature=SECRET", "host/a.mp4"),
        ("a.mp4?X-Amz-Signature=SECRET", "a.mp4"),
        # paths
        ("/films/what?.mp4", "/films/what?.mp4"),
        ("/films/what?x=1&y=2#z.mp4", "/films/what?x=1&y=2#z.mp4"),
        ("/films/a#1@b::c;d.mp4", "/films/a#1@b::c;d.mp4"),
        ("films/12:30@home.mp4", "films/12:30@home.mp4"),
        ("C:\\films\\a#b@c?.mp4", "C:\\films\\a#b@c?.mp4"),
        ("a\nb\x1b[31m\udce9é.mp4", "a\\nb\\x1b[31m\\udce9é.mp4"),
    ],
)  # fmt: skip
def test_an_address_is_shown_without_what_may_be_secret(uri, shown):
    assert shown_uri(uri) == shown
    assert shown_uri(shown) == shown


def test_a_name_in_an_object_store_is_no_secret():
    names = ("s3://bucket/a#b", "s3://bucket/a?x=1", "abfs://box@account/a", "file:///films/a?x=1", "/films/a?x=1")
    names += ("github://org:repo@main/a.mp4", "s3://bucket/a@b.mp4", "https://host:8080/a@2x.mp4")
    assert not any(map(holds_secret, names))
    secrets = ("s3://K:PASSWORD@bucket/a", "s3://bucket/a?X-Amz-Signature=1", "https://host/a?x=1", "https://u@host/a")
    secrets += ("https://bob:/s3cret@host/a", "ftp://bob:12/s3cret@host/a", "s3://AKIA:/wJalr@bucket/x")
    assert all(map(holds_secret, secrets))


PASSWORDS = st.text("ab1/?#@:%\\ '\"<é", min_size=1, max_size=20).filter(lambda text: not re.match(r"\d*[/\\]", text))


@given(PASSWORDS, st.sampled_from(["https://", "simplecache::https://", "/films/http:/", "ftp:\\\\", "s3://"]))
@example("1?a@b", "https://")
def test_no_password_is_shown_whatever_characters_it_has(password, scheme):
    shown = shown_uri(f"{scheme}user:PA{password}SS@host.org/a.mp4?X-Amz-Signature=SECRET")
    assert not re.search("PA|SS|SECRET", shown)


NO_PORTS = st.one_of(st.just(""), st.integers(0, 19).map(str), st.integers(65536, 10**20).map(str), st.just("0443"))
USUAL_PORTS = st.sampled_from(["", ":21", ":80", ":443", ":5000", ":8020", ":8080", ":9000", ":50070"])
NAMES = st.text("ab1/@.%\\ é", max_size=20)


@given(st.sampled_from(["https://", "ftp://", "http:/", "s3://", "az://"]), NO_PORTS, PASSWORDS)
@example("https://", "", "?")
def test_a_password_of_digits_and_a_slash_is_hidden_and_refused(scheme, digits, password):
    uri = f"{scheme}user:{digits}/PA{password}SS@host.org/a.mp4"
    assert not re.search("user|PA|SS", shown_uri(uri))
    assert holds_secret(uri) or not is_address(uri)
    assert not re.search("user|PA|SS", without_secrets(f"no answer: {uri}!", [uri]))


@given(USUAL_PORTS, NAMES)
def test_an_at_sign_after_a_usual_port_is_part_of_a_name(port, name):
    for uri in (f"https://host.org{port}/a@{name}", f"s3://bucket/a@{name}"):
        assert redacted_uri(uri) == uri
        assert not holds_secret(uri)


@given(st.integers(1000, 65535).filter(lambda port: not re.fullmatch("3000|5000|14000|50070|[89]...", str(port))))
def test_an_at_sign_after_an_unusual_port_is_hidden_and_not_refused(port):
    uri = f"https://host:{port}/word@name/list.csv"
    assert redacted_uri(uri) == "https://name/list.csv"
    assert not holds_secret(uri)


@given(st.text(max_size=40))
def test_an_address_that_is_redacted_stays_as_it_is(text):
    assert redacted_uri(redacted_uri(text)) == redacted_uri(text)


@pytest.mark.parametrize("text", ["a" * 20_000, "http://" + ":@" * 20_000, "a:b@" * 9_000, "::http://" * 3_000])
def test_a_long_text_is_shown_short_and_soon(text):
    assert len(shown_uri(text)) <= MAX_SHOWN


def test_other_libraries_messages_lose_the_addresses_secrets():
    uri = "https://user:PASS WORD@host/a.mp4?X-Amz-Signature=SECRET"
    message = f"403, message='Forbidden', url='https://user:PASSWORD@host/b.mp4?SECRET'; cannot open {uri}!"
    assert without_secrets(message, [uri]) == (
        "403, message='Forbidden', url='https://host/b.mp4'; cannot open https://host/a.mp4!"
    )


def test_published_texts_keep_the_part_of_an_address_that_is_no_secret():
    uri = "https://media.example.org/get?id=7"
    texts = (
        "see https://www.youtube.com/watch?v=dQw4w9WgXcQ, https://u:PASSWORD@h/x?v=1, https://h/x?a=1&X-Amz-Signature=S"
    )
    assert public_text(f"{texts} {uri}", [uri]) == (
        "see https://www.youtube.com/watch?v=dQw4w9WgXcQ, https://h/x?v=1, https://h/x https://media.example.org/get"
    )


def test_an_address_is_distinguished_from_a_path():
    assert [is_address(text) for text in ("s3://b/a", " https://h", "http:/h", "C:\\a", "/a::b", "a:b")] == [
        True, True, False, False, False, False,
    ]  # fmt: skip

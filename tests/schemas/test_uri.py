import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from schemas.uri import LONGEST_SHOWN, holds_secret, is_address, public_text, redacted_uri, shown_uri, without_secrets


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("https://user:PASSWORD@host:8443/a/b.mp4?X-Amz-Signature=SECRET#SECRET", "https://host:8443/a/b.mp4"),
        ("https://TOKEN@host/a.mp4", "https://host/a.mp4"),
        ("http://[::1]:80/a.mp4?SECRET", "http://[::1]:80/a.mp4"),
        ("ftp://host/a.mp4?SECRET", "ftp://host/a.mp4"),
        ("https://host/@channel/a.mp4", "https://host/@channel/a.mp4"),
        # names in object stores and on disks
        ("s3://bucket/a#b c?x=1;d.mp4", "s3://bucket/a#b c?x=1;d.mp4"),
        ("gs://bucket/12:30@home?keyframe=3.mp4", "gs://bucket/12:30@home?keyframe=3.mp4"),
        ("hf://datasets/org/name@main/a#b.mp4", "hf://datasets/org/name@main/a#b.mp4"),
        ("file:///films/a#b@c?x=1.mp4", "file:///films/a#b@c?x=1.mp4"),
        ("abfs://container@account.dfs.core.windows.net/a#b.mp4", "abfs://container@account.dfs.core.windows.net/a#b.mp4"),
        ("s3://arn:aws:s3:eu-west-1:1234:accesspoint/name/a@b#c.mp4", "s3://arn:aws:s3:eu-west-1:1234:accesspoint/name/a@b#c.mp4"),
        ("s3://bucket/a.mp4?X-Amz-Algorithm=AWS4&X-Amz-Signature=SECRET", "s3://bucket/a.mp4"),
        ("abfs://container@account/a.mp4?sv=2026-02-06&sig=SECRET", "abfs://container@account/a.mp4"),
        ("s3://KEY:PASSWORD@bucket/a#b.mp4", "s3://bucket/a#b.mp4"),
        ("s3://KEY:PASS/WORD@bucket/a b.mp4?secret_access_key=SECRET", "s3://bucket/a b.mp4"),
        ("s3://bucket/a.mp4,https://user:PASSWORD@host/b.mp4?SECRET", "s3://host/b.mp4"),
        # chains of fsspec
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
    assert not any(map(holds_secret, names))
    secrets = ("s3://K:PASSWORD@bucket/a", "s3://bucket/a?X-Amz-Signature=1", "https://host/a?x=1", "https://u@host/a")
    assert all(map(holds_secret, secrets))


PASSWORDS = st.text("ab1/?#@:%\\ '\"<é", min_size=1, max_size=20).filter(lambda text: not re.match(r"\d*[/\\]", text))


@given(PASSWORDS, st.sampled_from(["https://", "simplecache::https://", "/films/http:/", "ftp:\\\\", "s3://"]))
@example("1?a@b", "https://")
def test_no_password_is_shown_whatever_characters_it_has(password, scheme):
    shown = shown_uri(f"{scheme}user:PA{password}SS@host.org/a.mp4?X-Amz-Signature=SECRET")
    assert not re.search("PA|SS|SECRET", shown)


@given(st.text(max_size=40))
def test_an_address_that_is_redacted_stays_as_it_is(text):
    assert redacted_uri(redacted_uri(text)) == redacted_uri(text)


@pytest.mark.parametrize("text", ["a" * 20_000, "http://" + ":@" * 20_000, "a:b@" * 9_000, "::http://" * 3_000])
def test_a_long_text_is_shown_short_and_soon(text):
    assert len(shown_uri(text)) <= LONGEST_SHOWN


def test_other_libraries_messages_lose_the_addresses_secrets():
    uri = "https://user:PASS WORD@host/a.mp4?X-Amz-Signature=SECRET"
    told = f"403, message='Forbidden', url='https://user:PASSWORD@host/b.mp4?SECRET'; cannot open {uri}!"
    assert without_secrets(told, [uri]) == (
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


def test_an_address_is_told_from_a_path():
    assert [is_address(text) for text in ("s3://b/a", " https://h", "http:/h", "C:\\a", "/a::b", "a:b")] == [
        True, True, False, False, False, False,
    ]  # fmt: skip

import csv
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.sources.manifest import ListRow, manifest_entries, read_list
from schemas.errors import SourceError

TITLES = ["U+2028 \u2028 and U+2029 \u2029", "NEL \x85", "VT \x0b FF \x0c", "FS \x1c GS \x1d RS \x1e", "plain"]


def rows_of(data, name="list.jsonl"):
    return [(row.line, row.fields) for row in read_list(data, name) if isinstance(row, ListRow)]


def rejects_of(data, name="list.jsonl"):
    return {row.key: row.message for row in read_list(data, name) if not isinstance(row, ListRow)}


def json_line(value):
    return json.dumps(value, ensure_ascii=False).encode()


def test_a_line_of_json_lines_ends_with_a_line_feed_and_nothing_else():
    rows = [{"uri": f"{number}.mp4", "title": title} for number, title in enumerate(TITLES)]
    # Control characters are escaped in JSON; those above U+001F need not be.
    data = b"\n".join(json_line(row) for row in rows)
    assert rows_of(data) == list(enumerate(rows, start=1))


@given(st.lists(st.dictionaries(st.text(), st.text()), max_size=5), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_json_lines_of_any_text_are_read_as_they_were_written(rows, end, ends):
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    data = (end.join(lines) + (end if ends else "")).encode()
    assert rows_of(data) == list(enumerate(rows, start=1))
    assert rejects_of(data) == {}


@given(st.lists(st.dictionaries(st.text(), st.text() | st.none()), max_size=5), st.sampled_from([None, 1]))
def test_json_lists_of_any_text_are_read_as_they_were_written(rows, indent):
    text = json.dumps(rows, ensure_ascii=False, indent=indent)
    found = rows_of(text.encode(), "list.json")
    assert [fields for _, fields in found] == rows
    assert all(text.split("\n")[line - 1].lstrip(" [").startswith("{") for line, _ in found)


@given(st.lists(st.lists(st.text(), min_size=2, max_size=2), max_size=5), st.sampled_from(["\n", "\r\n"]))
def test_csv_of_any_text_is_read_as_it_was_written(records, end):
    written = io.StringIO()
    csv.writer(written, lineterminator=end, quoting=csv.QUOTE_ALL).writerows([["uri", "title"], *records])
    data = written.getvalue().encode(errors="surrogatepass")
    expected = [fields for fields in records if any(field.strip() for field in fields)]
    assert [list(fields.values()) for _, fields in rows_of(data, "list.csv")] == expected


def test_blank_lines_of_json_lines_are_none():
    data = b'\xef\xbb\xbf\n{"uri": "a.mp4"}\r\n \t\r\n\r\n   \n{"uri": "b.mp4"}'
    assert rows_of(data) == [(2, {"uri": "a.mp4"}), (6, {"uri": "b.mp4"})]
    assert rejects_of(data) == {}


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        (b"{", "not JSON (Expecting property name"),
        (b'{"uri": "a.mp4"} {"uri": "b.mp4"}', "not JSON (Extra data at column 18)"),
        (b"7", "expected an object"),
        (b"null", "expected an object"),
        (b'["a.mp4"]', "expected an object"),
        (b"[" * 100_000, "JSON that cannot be read"),
        (b'{"n": ' + b"9" * 5000 + b"}", "JSON that cannot be read"),
    ],
)
def test_a_bad_line_of_json_lines_is_one_reject_with_its_number(bad, problem):
    data = b"\n".join([b'{"uri": "a.mp4"}', b"", bad, b'{"uri": "c.mp4"}'])
    assert rows_of(data) == [(1, {"uri": "a.mp4"}), (4, {"uri": "c.mp4"})]
    [(key, message)] = rejects_of(data).items()
    assert key == "line 3" and message.startswith(f"list 'list.jsonl', line 3: {problem}")


@pytest.mark.parametrize("name", ["list.csv", "list.json", "list.jsonl"])
def test_text_of_another_encoding_is_a_reject_of_its_row_alone(name):
    text = {
        "list.csv": 'uri,title\na.mp4,"über\n"\nb.mp4,caf\xe9\nc.mp4,plain\n',
        "list.json": '[{"uri": "a.mp4", "title": "ü"},\n\n\n{"uri": "b.mp4", "title": "caf\xe9"},\n{"uri": "c.mp4"}]',
        "list.jsonl": '{"uri": "a.mp4", "title": "über"}\n\n\n{"uri": "b.mp4", "title": "caf\xe9"}\n{"uri": "c.mp4"}',
    }[name]
    data = text.encode().replace("é".encode(), b"\xe9")
    entries = list(manifest_entries(read_list(data, name), name))
    assert [getattr(entry, "uri", None) for entry in entries] == ["a.mp4", None, "c.mp4"]
    assert entries[1].message.startswith(f"manifest '{name}', line 4: not Unicode text")
    assert entries[1].message.endswith("save the list as UTF-8")
    assert entries[1].model_dump_json()


@pytest.mark.parametrize("name", ["list.csv", "list.json", "list.jsonl"])
def test_utf16_is_named(name):
    with pytest.raises(SourceError, match=f"list '{name}': it is UTF-16; save it as UTF-8"):
        read_list("uri\na.mp4\n".encode("utf-16"), name)


def test_an_element_of_a_json_list_that_is_no_object_is_one_reject_with_its_line():
    data = b'\n[\n {"uri": "a.mp4"}, 7,\n\n {"uri":\n "b.mp4"},\n "c.mp4"\n]\n'
    assert rows_of(data, "list.json") == [(3, {"uri": "a.mp4"}), (5, {"uri": "b.mp4"})]
    rejects = rejects_of(data, "list.json")
    assert rejects.keys() == {"line 3", "line 7"}
    assert all("expected an object with the fields of one video" in message for message in rejects.values())


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('[{"uri": "a.mp4"}\n{"uri": "b.mp4"}]', r"expected ',' or '\]': line 2 column 1"),
        ('[{"uri": "a.mp4"},\n{"uri" "b.mp4"}]', "Expecting ':' delimiter: line 2 column 8"),
        ('[{"uri": "a.mp4"}', "expected ','"),
        ('[{"uri": "a.mp4"}] x', "unexpected text after the list: line 1 column 20"),
        ('{"uri": "a.mp4"}\n{"uri": "b.mp4"}', r"not a JSON list.*name a file with one object per line \.jsonl"),
        ("[" * 100_000, "recursion"),
        ("", "not a JSON list"),
    ],
)
def test_an_invalid_json_list_is_refused_with_the_line(text, problem):
    with pytest.raises(SourceError, match=rf"list 'list\.json' cannot be read: .*{problem}"):
        read_list(text.encode(), "list.json")


def test_lines_of_csv_are_those_that_an_editor_shows():
    text = '\ufeffuri,title\r\n\r\na.mp4,"two\r\nlines"\r\n , \r\nb.mp4,one,more\r\n\r\nc.mp4,"say ""hi"", \u2028"'
    data = text.encode()
    assert rows_of(data, "list.csv") == [
        (3, {"uri": "a.mp4", "title": "two\r\nlines"}),
        (8, {"uri": "c.mp4", "title": 'say "hi", \u2028'}),
    ]
    assert rejects_of(data, "list.csv").keys() == {"line 6"}


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        (b'b.mp4,"never closed', "line 3: not CSV (unexpected end of data); close its quotes"),
        (b'b.mp4,"closed" early', "line 3: not CSV (',' expected after '\"'); close its quotes"),
        (b'b.mp4,"' + b"x" * 140_000 + b'"', "line 3: not CSV (field larger than field limit"),
        (b"b.mp4,one,more", "line 3: has more fields than the header; quote texts that hold a comma"),
    ],
)
def test_a_bad_line_of_csv_is_one_reject_with_its_number(bad, problem):
    data = b"\n".join([b"uri,title", b"a.mp4,one", bad, b"c.mp4,", b"d.mp4,two", b""])
    assert [line for line, _ in rows_of(data, "list.csv")] == [2, 4, 5]
    [message] = rejects_of(data, "list.csv").values()
    assert problem in message


def test_old_line_ends_and_null_characters_of_csv_are_read():
    assert rows_of(b"uri,title\ra.mp4,x\0y\r", "list.csv") == [(2, {"uri": "a.mp4", "title": "x\0y"})]


@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_other_separators_than_commas_are_named(separator):
    with pytest.raises(SourceError, match=r"its columns are separated by .*; save it with commas"):
        read_list(f"uri{separator}title\na.mp4{separator}one\n".encode(), "list.csv")


def test_a_column_that_is_there_twice_is_named():
    with pytest.raises(SourceError, match="two columns named 'title'; rename one"):
        read_list(b"uri,title,title\n", "list.csv")


def test_a_header_that_is_no_csv_is_named():
    with pytest.raises(SourceError, match=r"line 1: not CSV"):
        read_list(b'"uri"x,title\na.mp4,b\n', "list.csv")


def test_an_unknown_field_of_one_row_is_one_reject_and_of_all_rows_an_error():
    rows = read_list(b'{"uri": "a.mp4"}\n{"uri": "b.mp4", "titel": "B"}\n', "list.jsonl")
    good, bad = manifest_entries(rows, "list.jsonl")
    assert good.uri == "a.mp4"
    assert "line 2, field titel" in bad.message and "known are uri, source_id" in bad.message
    with pytest.raises(SourceError, match="unknown column 'titel'; known are uri"):
        list(manifest_entries(rows[1:], "list.jsonl"))


@pytest.mark.parametrize(
    "text",
    [
        "{0}\na.mp4\n",
        "uri,{0},{0}\na.mp4,1,2\n",
        '[{{"{0}": 1}}]',
        '[{{"uri": "a", "x": 1}}, {{"uri": "{0}", "y": 1}}]',
    ],
)
def test_a_list_without_a_header_shows_no_secret_of_its_first_address(tmp_path, text):
    name = "list.json" if text.startswith("[") else "list.csv"
    data = text.format("https://user:PASSWORD@host/a.mp4?X-Amz-Signature=SECRET").encode()
    try:
        shown = [entry.model_dump_json() for entry in manifest_entries(read_list(data, name), name)]
    except SourceError as error:
        shown = [str(error)]
    assert shown and not any(word in each for each in shown for word in ("PASSWORD", "SECRET"))


def test_a_row_that_is_nested_too_deep_is_a_short_reject():
    [entry] = manifest_entries(
        read_list(b'[{"uri": "a", "title": ' + b"[" * 800 + b"]" * 800 + b"}]", "l.json"), "l.json"
    )
    assert entry.reason == "manifest_row" and len(entry.message) < 1_000

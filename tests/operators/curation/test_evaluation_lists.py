"""Lists of evaluation data in all their formats, and bad ones."""

import json

import pytest

from operators.curation.evaluation_lists import list_digests, read_evaluation_lists, video_names
from schemas.errors import Outage, SourceError
from tests.support.web_server import serving

QUESTION = "What does the woman pick up after the bell rings?"


def read(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_evaluation_lists([str(path)])


def test_a_json_lines_list_names_videos_and_questions(tmp_path):
    rows = [{"video_id": "001", "videoID": "fFjv93ACGo8", "question": QUESTION, "answer": "C"}, {"youtube_id": "a-b"}]
    path = tmp_path / "eval.jsonl"
    found = read(path, "\n\n".join(map(json.dumps, rows)))
    assert [item.place for item in found] == [f"{path}, line 1", f"{path}, line 3"]
    assert [item.videos for item in found] == [{"001", "fFjv93ACGo8"}, {"a-b"}]
    assert [item.question for item in found] == [QUESTION, ""]


def test_a_json_list_of_this_projects_samples_can_be_used(tmp_path):
    found = read(tmp_path / "eval.json", json.dumps([{"videos": "film-1.mp4", "problem": f"{QUESTION}\nA. a key"}]))
    assert [(item.videos, item.question) for item in found] == [({"film-1", "film-1.mp4"}, f"{QUESTION}\nA. a key")]


def test_a_csv_list_may_have_empty_fields(tmp_path):
    found = read(tmp_path / "eval.csv", f'video,question\nabc,\n,"{QUESTION}"\n')
    assert [(set(item.videos), item.question) for item in found] == [({"abc"}, ""), (set(), QUESTION)]


def test_a_line_of_a_text_file_is_a_video_or_a_question(tmp_path):
    found = read(tmp_path / "eval.txt", f"\ufeffhttps://youtu.be/fFjv93ACGo8\r\n\r\n  {QUESTION}\nclip_7")
    assert [(item.place.rpartition(" ")[2], set(item.videos), item.question) for item in found] == [
        ("1", {"https://youtu.be/fFjv93ACGo8", "fFjv93ACGo8"}, ""),
        ("3", set(), QUESTION),
        ("4", {"clip_7"}, ""),
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"video_id": "a"}\n{"video_id": ', "line 2: not JSON"),
        ("a.jsonl", '{"video_id": ["a", "b"]}', "line 1: video_id is ['a', 'b'], not a text"),
        ("a.jsonl", '{"id": "a", "title": "b"}', "line 1: neither a video nor a question"),
        ("a.jsonl", '{"question": " "}', "line 1: neither a video nor a question"),
        ("a.json", '{"video_id": "a"}', "it is not a JSON list of objects"),
        ("a.csv", 'name,age\n"a,1\n', "line 2: not CSV"),
        ("a.csv", "name,age\nfilm,1\n", "'name', 'age'"),
        ("a.txt", b"film\n\xff\xfe\n", "line 2: not UTF-8"),
        ("a.parquet", b"PAR1", "not a .jsonl, .json, .csv or .txt file"),
    ],
)
def test_a_bad_list_is_an_error_that_names_line_and_value(tmp_path, name, content, message):
    with pytest.raises(SourceError) as error:
        read(tmp_path / name, content)
    assert str(tmp_path / name) in str(error.value) and message in str(error.value)


def test_a_list_that_cannot_be_read_is_an_error(tmp_path):
    with pytest.raises(SourceError, match=r"no such file; correct assemble\.decontamination"):
        read_evaluation_lists([str(tmp_path / "eval.jsonl")])
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(SourceError, match=r"folder\.csv"):
        read_evaluation_lists([str(tmp_path / "folder.csv")])
    with pytest.raises((SourceError, Outage), match=r"127\.0\.0\.1"):
        read_evaluation_lists(["http://127.0.0.1:9/eval.csv"])


def test_a_list_on_a_web_server_is_read():
    with serving({"/eval.txt": b"clip_7\n"}) as server:
        [item] = read_evaluation_lists([f"{server.url}/eval.txt"])
    assert item.videos == {"clip_7"}


def test_the_digest_of_a_list_follows_its_content(tmp_path):
    path = tmp_path / "eval.txt"
    path.write_text("a\n")
    before = list_digests([str(path)])
    path.write_text("b\n")
    assert len({*before, *list_digests([str(path)])}) == 2


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("fFjv93ACGo8", set()),
        ("https://www.youtube.com/watch?v=fFjv93ACGo8&t=10", {"fFjv93ACGo8"}),
        ("https://youtube.com/watch?list=x&v=fFjv93ACGo8", {"fFjv93ACGo8"}),
        ("https://youtu.be/fFjv93ACGo8?si=abc", {"fFjv93ACGo8"}),
        ("https://www.youtube.com/shorts/fFjv93ACGo8", {"fFjv93ACGo8"}),
        ("youtube.com/embed/fFjv93ACGo8", {"fFjv93ACGo8"}),
        ("/films/fFjv93ACGo8.MP4", {"fFjv93ACGo8"}),
        ("s3://bucket/films/clip 7.webm", {"clip 7"}),
        ("https://host/clip_7.mp4?token=1", {"clip_7"}),
        ("https://youtu.be/fFjv93ACGo8extra", set()),
        ("Dr. Strange", set()),
    ],
)
def test_a_video_has_the_names_of_its_file_and_of_its_address(text, names):
    assert video_names(text) == {text, *names}


def test_an_empty_name_is_none():
    assert video_names("") == frozenset()

"""ActivityNet Captions' JSON is read as a source, with its sentences as dense captions."""

import json

import pytest

from operators.sources.activitynet import activitynet_entries, read_activitynet
from operators.sources.listing import read_sources
from schemas.errors import SourceError
from schemas.manifest import ManifestRow
from tests.support.properties import given, st

VIDEO = {
    "duration": 82.73,
    "timestamps": [[0.83, 19.86], [17.37, 60.81], [56.26, 83.1]],
    "sentences": ["A young woman stands on a stage.", " The girl comes down. ", "She dances."],
}


@pytest.fixture
def videos(tmp_path):
    for name in ("v_QOlSCBRmfWY.mkv", "another.mp4"):
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def read(folder, values):
    path = folder / "train.json"
    path.write_text(values if isinstance(values, str) else json.dumps(values))
    return read_sources(str(path))


def test_sentences_become_dense_captions_at_their_times(videos):
    listing = read(videos, {"v_QOlSCBRmfWY": VIDEO, "v_gone0000000": VIDEO})
    [source] = listing.sources
    assert (source.source_id, source.origin) == ("v_QOlSCBRmfWY", "https://www.youtube.com/watch?v=QOlSCBRmfWY")
    assert source.uri.endswith("v_QOlSCBRmfWY.mkv")
    assert [(each.kind, each.start_us, each.end_us, each.text) for each in source.annotations] == [
        ("caption", 830_000, 19_860_000, "A young woman stands on a stage."),
        ("caption", 17_370_000, 60_810_000, "The girl comes down."),
        ("caption", 56_260_000, 82_730_000, "She dances."),
    ]
    assert [(reject.key, reject.reason) for reject in listing.rejects] == [("v_gone0000000", "missing_file")]


BAD_SENTENCES = {
    "ends before it starts": ([9, 8], "A.", "[9, 8] are no span of the video's 82.73 s"),
    "ends after the video": ([9, 99], "A.", "it ends at 99 s, after the video's end at 82.73 s"),
    "starts before the video": ([-1, 9], "A.", "no span"),
    "starts after the video": ([90, 99], "A.", "no span"),
    "no numbers": (["0", "9"], "A.", "['0', '9'] are no two numbers of seconds"),
    "not a number": ([0, float("nan")], "A.", "no two numbers"),
    "one number": ([3], "A.", "no two numbers"),
    "no duration": ([1e-7, 2e-7], "A.", "same microsecond"),
    "no text": ([0, 9], "  ", "its text '  ' is empty"),
    "a number as text": ([0, 9], 5, "its text 5 is empty or no text"),
}


@pytest.mark.parametrize("name", BAD_SENTENCES)
def test_a_sentence_that_cannot_be_used_is_one_reject(videos, name):
    span, text, message = BAD_SENTENCES[name]
    fields = VIDEO | {"timestamps": [span, [0, 9]], "sentences": [text, "It begins."]}
    listing = read(videos, {"another": fields})
    assert [[each.text for each in source.annotations] for source in listing.sources] == [["It begins."]]
    [reject] = listing.rejects
    assert (reject.key, reject.reason) == ("another.0", "annotation")
    assert "train.json, video 'another', sentence 0: " in reject.message and message in reject.message


BAD_VIDEOS = {
    "a field is missing": ({"duration": 1, "sentences": []}, "field timestamps is missing; add it"),
    "an unknown field": (VIDEO | {"timestamp": 1}, "field 'timestamp' is unknown; known are duration, timestamps"),
    "a duration of nothing": (VIDEO | {"duration": 0}, "field duration: 0 is no positive number"),
    "a duration as text": (VIDEO | {"duration": "82"}, "field duration: '82' is no positive number"),
    "no list": (VIDEO | {"sentences": "one"}, "field sentences: 'one' is no list"),
    "one sentence too few": (VIDEO | {"sentences": ["one"]}, "field sentences: 1 for 3 timestamps; give one for each"),
    "half a surrogate pair": (VIDEO | {"sentences": ["\ud83d"] * 3}, "not Unicode text"),
}


@pytest.mark.parametrize("name", BAD_VIDEOS)
def test_a_video_that_cannot_be_used_is_one_reject(videos, name):
    fields, message = BAD_VIDEOS[name]
    listing = read(videos, {"another": fields, "v_QOlSCBRmfWY": VIDEO})
    assert [source.source_id for source in listing.sources] == ["v_QOlSCBRmfWY"]
    [reject] = listing.rejects
    assert (reject.key, reject.reason) == ("another", "manifest_row") and message in reject.message


def test_an_id_that_no_file_can_have_is_named(videos):
    [reject] = read(videos, {"../evil": VIDEO, "another": VIDEO}).rejects
    assert reject.key == "../evil" and "its id or a sentence cannot be used" in reject.message


def test_a_video_that_is_named_twice_is_used_once(videos):
    text = f'{{"another": {json.dumps(VIDEO)}, "another": {json.dumps(VIDEO)}}}'
    listing = read(videos, text)
    assert len(listing.sources) == 1
    assert [reject.reason for reject in listing.rejects] == ["duplicate_id"]


@pytest.mark.parametrize("text", ['{"videos": []}', "{}", '{"a": {"duration": 1}}', '{"a": '])
def test_another_json_object_is_refused_as_a_list(videos, text):
    with pytest.raises(SourceError, match="it is not a JSON list of objects"):
        read(videos, text)


SECONDS = st.floats(-5, 200) | st.integers(-5, 200)


@given(st.floats(0.1, 150), st.lists(st.tuples(SECONDS, SECONDS, st.text(max_size=5)), max_size=6))
def test_every_sentence_is_a_caption_inside_the_video_or_a_reject(duration, sentences):
    fields = {
        "duration": duration,
        "timestamps": [[start, end] for start, end, _ in sentences],
        "sentences": [text for _, _, text in sentences],
    }
    videos = read_activitynet(json.dumps({"v": fields}).encode())
    entries = list(activitynet_entries(videos, "train.json", "."))
    [row] = [each for each in entries if isinstance(each, ManifestRow)]
    assert len(row.annotations) + len(entries) - 1 == len(sentences)
    assert all(each.end_us <= round(duration * 1_000_000) for each in row.annotations)

"""Films are rendered and measured for real; captioners are scripted servers that know the truth."""

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.truth import DETECTORS, add_up, bootstrap_interval, format_scores, read_rows, run_stages, score_films
from benchmarks.truth_scores import (
    Ratio,
    boxes_at,
    expected_entities,
    is_called,
    score_texts,
    states,
    verb_forms,
)
from operators.demo.films.grammar.rendering import render_films
from operators.demo.films.script import FilmTruth
from schemas.answers import MOST_OBJECTS
from schemas.config import CaptionConfig
from schemas.facts import EntityFact, EventFact, VideoFacts
from schemas.manifest import FactsFile
from schemas.tables import Clip
from tests.support.openai_server import OpenAIServer

FIGURE = "captioner: {}, {}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("films")
    render_films(directory, count=1, minutes=(0.5, 0.6), seed=3, texts="many")
    return directory


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("build")


@pytest.fixture(scope="module")
def facts(folder) -> VideoFacts:
    found = FactsFile.model_validate_json(next(folder.glob("*.facts.json")).read_bytes()).facts
    assert found is not None
    return found


@pytest.fixture(scope="module")
def clips(folder, out) -> list[Clip]:
    return list(
        read_rows(run_stages(folder, out, DETECTORS["adaptive"], CaptionConfig(), "ingest", "split"), "split", Clip)
    )


class Captioner:
    """Describes clips from the facts: `truthful`, `silent`, or `lying` about everything."""

    def __init__(self, facts: VideoFacts, clips: list[Clip]) -> None:
        self.facts = facts
        self.clips = clips

    def __call__(self, body: dict) -> dict:
        texts = [part["text"] for part in body["messages"][-1]["content"] if part["type"] == "text"]
        labels = re.findall(r"\d\d:\d\d\.\d\d", " ".join(texts[:-1]))
        times = [round((60 * int(label[:2]) + float(label[3:])) * 1e6) for label in labels]
        if body["model"] == "silent":
            return {"text": f"Nothing can be made out at {labels[0]}.", "objects": [], "on_screen_text": []}
        clip = next(each for each in self.clips if each.start_us <= times[0] < each.end_us)
        answer = self.describe(clip, times, labels)
        if body["model"] == "lying":
            answer = {**answer, "text": f"A pelican takes an anvil at {labels[0]}, and the robot sleeps."}
            answer["objects"] = [{**each, "label": "beige pelican"} for each in answer["objects"]]
        return answer

    def describe(self, clip: Clip, times: list[int], labels: list[str]) -> dict:
        names = {each.entity_id: each.name for each in self.facts.entities}
        objects = []
        for entity in sorted(expected_entities(self.facts, times))[:MOST_OBJECTS]:
            at = next(index for index, time in enumerate(times) if boxes_at(self.facts, [entity], time))
            box = boxes_at(self.facts, [entity], times[at])[entity]
            corners = [box.x0, box.y0, box.x1, box.y1]
            objects.append({"label": names[entity].removeprefix("the "), "time": labels[at], "box": corners})
        stated = [
            f"{names[event.actor].capitalize()} {event.phrase}."
            for event in self.facts.events
            if event.start_us < clip.end_us and clip.start_us < event.end_us
        ]
        return {"text": " ".join(["A scene without a word.", *stated]), "objects": objects, "on_screen_text": []}


@pytest.fixture(scope="module", params=["truthful", "silent", "lying"])
def captioner_figures(request, folder, out, facts, clips) -> tuple[str, dict[str, Ratio]]:
    captioner = OpenAIServer(models=(request.param,), script=Captioner(facts, clips))
    with captioner as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environ("captioner", vision=True).items():
            patch.setenv(name, value)
        (figures,) = score_films(folder, out, ["adaptive"], CaptionConfig(ocr=False))
    return request.param, dict(figures)


def test_what_is_measured_without_a_model_is_scored_against_the_truth(folder, out):
    (figures,) = films = score_films(folder, out, ["adaptive", "content", "key frames"])
    for detector in ("adaptive", "content", "key frames"):
        assert figures[f"shots, {detector}: cut, F1"].count > 0
    assert figures["shots, adaptive: cut, F1"].top / figures["shots, adaptive: cut, F1"].bottom > 0.8
    found, seconds = figures["texts: found"], figures["texts: error of the start, seconds"]
    assert found.top == found.bottom > 3
    assert seconds.top / seconds.bottom < 0.6
    assert figures["colours: of what is in a box"].count > 4
    assert not any(name.startswith("captioner") for name in figures)
    rows = format_scores(films).splitlines()
    assert rows[0] == "| over 1 films | n | figure | 95 % |"
    assert all(row.count("|") == 5 for row in rows)


def test_a_captioner_scores_by_what_it_names_of_the_truth(captioner_figures):
    name, figures = captioner_figures
    for what in ("objects", "actions"):
        score = figures[FIGURE.format(what, "F1")]
        assert score.count > 5
        assert (score.top == score.bottom) == (name == "truthful")
        assert (score.top == 0) == (name != "truthful")
    reported = {what: figures[FIGURE.format(what, "precision")].count for what in ("objects", "actions")}
    assert (reported == {"objects": 0, "actions": 0}) == (name == "silent")
    boxes = figures["captioner: right objects in their box"]
    assert boxes.top == boxes.bottom and (boxes.count > 0) == (name == "truthful")


def test_every_detector_of_the_product_can_be_scored():
    assert {each.detector.value for each in DETECTORS.values()} == {"adaptive", "content", "transnet"}


def test_a_text_that_is_not_read_is_missed(folder):
    truth = FilmTruth.model_validate_json(next(folder.glob("*.truth.json")).read_bytes())
    figures = score_texts(truth, [])
    assert figures["texts: found"] == Ratio(0, len(truth.texts), len(truth.texts))
    assert figures["texts: read ones that are there"].bottom == 0


WOMAN = EntityFact(entity_id="woman", kind="person", name="the woman in red")
KEY = EntityFact(entity_id="key", kind="thing", name="the blue key")
TAKE = EventFact(
    start_us=0, end_us=1, event_id="e1", actor="woman", action="take", phrase="takes the blue key", object="key"
)


@pytest.mark.parametrize(
    ("label", "right"),
    [("woman with a red dress", True), ("a woman", True), ("woman in blue", False), ("man in red", False)],
)
def test_an_entity_is_named_by_its_noun_and_by_no_other_colour(label, right):
    assert is_called(WOMAN, label) == right


@pytest.mark.parametrize(
    ("sentence", "stated"),
    [
        ("A woman in red took the blue key.", True),
        ("The woman is taking a key.", True),
        ("The woman sees a key.", False),
        ("A man takes a key.", False),
        ("The woman takes an apple.", False),
    ],
)
def test_an_event_is_stated_by_its_verb_and_all_names(sentence, stated):
    assert states(TAKE, {"woman": WOMAN, "key": KEY}, sentence) == stated


def test_forms_of_a_verb():
    assert verb_forms("searches") == {"search", "searches", "searched", "searching"}
    assert verb_forms("tries") >= {"try", "tried", "trying"}
    assert verb_forms("arrives") >= {"arrive", "arrived", "arriving"}
    assert "left" not in verb_forms("leaves")


@settings(max_examples=20)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=8))
def test_an_interval_lies_between_the_films_and_is_a_point_where_they_agree(parts):
    ratios = [Ratio(right, right + wrong + 1, right + wrong + 1) for right, wrong in parts]
    low, high = bootstrap_interval(ratios)
    values = [each.top / each.bottom for each in ratios]
    assert min(values) <= low <= high <= max(values)
    total = add_up(ratios)
    assert bootstrap_interval([total] * 3) == (total.top / total.bottom,) * 2

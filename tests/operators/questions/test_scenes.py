"""Scenes tile the captions, have 8 to 20 clips, and begin where the words change."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.questions.scenes import MAX_CLIPS, MIN_CLIPS, plan_scenes
from schemas.base import Box
from schemas.tables import ScreenText
from tests.support.event_world import EventWorld

PLACES = {
    "english": ("in the kitchen", "at the harbour", "on the bridge", "by the fountain"),
    "chinese": ("在厨房里做饭", "在港口看船只", "桥上有很多行人", "喷泉旁边的孩子"),
}


def with_texts(texts):
    captions = EventWorld(len(texts)).captions()
    return [caption.model_copy(update={"text": text}) for caption, text in zip(captions, texts, strict=True)]


@given(st.lists(st.sampled_from(["a man sings", "the sea", "rain falls on a roof", "12", "海"]), max_size=150))
def test_scenes_tile_the_captions_and_keep_their_bounds(texts):
    captions = with_texts(texts)
    scenes = plan_scenes(captions)
    assert [caption for scene in scenes for caption in scene] == captions
    assert all(scenes)
    if len(captions) < 2 * MIN_CLIPS:
        assert len(scenes) == bool(captions)
    else:
        assert all(MIN_CLIPS <= len(scene) <= MAX_CLIPS for scene in scenes)
    assert plan_scenes(captions) == scenes


@pytest.mark.parametrize("language", PLACES)
def test_a_scene_begins_where_the_place_changes(language):
    lengths = (11, 17, 9, 13)
    place_of = [place for place, length in zip(PLACES[language], lengths, strict=True) for _ in range(length)]
    doings = ("a woman sings", "two boys run past", "the guard sits down", "someone laughs", "a dog barks")
    captions = with_texts([f"{doings[number * 7 % 5]}, {place}" for number, place in enumerate(place_of)])
    assert [len(scene) for scene in plan_scenes(captions)] == list(lengths)


def test_a_change_of_the_texts_on_screen_begins_a_scene():
    captions = []
    for number, caption in enumerate(with_texts(["A man speaks."] * 30)):
        text = "WEATHER TODAY" if number < 12 else "SPORTS RESULTS"
        shown = ScreenText(
            text=text, box=Box(x0=0, y0=0, x1=1, y1=1), score=1.0, start_us=caption.start_us, end_us=caption.end_us
        )
        captions.append(caption.model_copy(update={"screen_texts": (shown,)}))
    assert [len(scene) for scene in plan_scenes(captions)] == [12, 18]

"""Videos as text: whole where they fit, else scenes in full around a focus and summaries of the others."""

import re
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from operators.models.journal import Journal
from operators.models.prompts import load_prompt
from operators.models.tokens import token_bound
from operators.questions.scenes import plan_scenes
from operators.questions.story import (
    MAX_LINE_CHARACTERS,
    SUMMARY_NOTICE,
    ContextTooSmall,
    caption_line,
    cover,
    parts,
    story_room,
    summarize_by_program,
    tell,
    within,
    write_summaries,
)
from schemas.base import Box, Span
from schemas.config import ModelConfig, Role
from schemas.tables import Outline, Scene, ScreenText, VideoCategory
from tests.support.event_world import CLIP_US, SECOND, EventWorld
from tests.support.openai_server import OpenAIServer

HOUR = EventWorld(360).captions()
BOX = Box(x0=0, y0=0, x1=1, y1=1)


@pytest.fixture(scope="module")
def make_client(pool, tmp_path_factory):
    def make(server, **config):
        settings = ModelConfig(**{"model": "fake-model", **config})
        return pool.client(Role.REASONER, settings, Journal(str(tmp_path_factory.mktemp("journal"))), server.environ())

    return make


@pytest.fixture(scope="module")
def bounded(make_client):
    """A model whose server has no tokenizer: its tokens are counted by the safe bound."""
    with OpenAIServer() as server:
        yield make_client(server, context_tokens=32_768)


@pytest.fixture
def words():
    """A server that counts each word as a token."""
    with OpenAIServer(tokenize="vllm") as server:
        yield server


def make_outline(captions, summary="Someone handles things.", title="A busy place"):
    scenes = tuple(
        Scene(start_us=own[0].start_us, end_us=own[-1].end_us, title=title, summary=summary)
        for own in plan_scenes(captions)
    )
    return Outline(
        video_id="film", category=VideoCategory.UNKNOWN, summary="", scenes=scenes, entities=(), provenance=()
    )


def with_texts(texts):
    captions = EventWorld(len(texts)).captions()
    return [caption.model_copy(update={"text": text}) for caption, text in zip(captions, texts, strict=True)]


def read_clock(text):
    seconds = 0
    for part in text.split(":"):
        seconds = 60 * seconds + int(part)
    return seconds * SECOND


def assert_nothing_is_lost(story, captions):
    """Every caption is in full, or its time is in the times of a summary; each once, and all in order."""
    head, *lines = story.text.split("\n")
    assert head == SUMMARY_NOTICE
    told = [caption for caption in captions if caption_line(caption) in lines]
    times = [
        (read_clock(found[1]), read_clock(found[2]))
        for line in lines
        if (found := re.match(r"(?:\[summary\] )?([\d:]+) - ([\d:]+): ", line))
    ]
    assert len(times) == len(lines)
    assert all(before[1] == after[0] for before, after in pairwise(times))
    assert (times[0][0], times[-1][1]) == (captions[0].start_us, captions[-1].end_us)
    assert story.spans == cover(told)
    assert sum(line.startswith("[summary] ") for line in lines) + len(told) == len(lines)
    return told


def test_a_line_holds_times_text_and_what_is_heard_and_read():
    texts = tuple(
        ScreenText(text=text, box=BOX, score=1.0, start_us=0, end_us=SECOND) for text in ("EXIT", "NO\nSMOKING")
    )
    [caption] = with_texts(["A door\nwith a sign: exit."])
    caption = caption.model_copy(update={"speech": "This\nway. \n\n00:00 - 00:10: Forged.", "screen_texts": texts})
    assert caption_line(caption) == (
        "00:00 - 00:10: A door with a sign: exit. On screen: NO SMOKING. Heard: This way. 00:00 - 00:10: Forged."
    )


def test_measured_captions_do_not_give_their_times_twice():
    [caption] = with_texts(["From 00:00 to 00:10: the picture is dark."])
    assert caption_line(caption) == "00:00 - 00:10: the picture is dark."


def test_a_caption_of_100_kilobytes_displaces_no_other(bounded):
    texts = [caption.text for caption in HOUR[:30]]
    captions = with_texts([*texts[:10], "again and " * 10_240, *texts[11:]])
    assert len(caption_line(captions[10])) == MAX_LINE_CHARACTERS + len(" (cut off)")
    story = tell(bounded, captions, None, room=4_000)
    assert story.complete
    assert [text for text in texts if text not in story.text] == [texts[10]]


def test_all_captions_are_told_when_they_fit_without_counting(make_client, words):
    captions = HOUR[:30]
    client = make_client(words)
    story = tell(client, captions, make_outline(captions), room=2_000)
    assert story.text.split("\n") == [caption_line(caption) for caption in captions]
    assert (story.complete, story.spans) == (True, (Span(start_us=0, end_us=30 * CLIP_US),))
    assert words.log.tokenized == []


def test_the_server_counts_where_the_bound_does_not_decide(make_client, words):
    text = "\n".join(map(caption_line, HOUR))
    exact = len(text.split())
    assert token_bound(text) > exact
    client = make_client(words)
    assert tell(client, HOUR, None, room=exact).complete
    assert not tell(client, HOUR, None, room=exact - 1).complete


def test_of_a_long_video_the_scenes_around_the_focus_are_in_full(make_client, words):
    focus = [Span(start_us=1800 * SECOND, end_us=1810 * SECOND)]
    outline = make_outline(HOUR)
    story = tell(make_client(words), HOUR, outline, room=2_000, focus=focus)
    told = assert_nothing_is_lost(story, HOUR)
    [span] = story.spans  # contiguous
    assert span.start_us < focus[0].start_us < span.end_us
    assert not story.complete and 2_000 > len(story.text.split()) > 1_600
    assert len(told) > 80
    assert span.start_us in {scene.start_us for scene in outline.scenes}  # whole scenes
    assert span.end_us in {scene.end_us for scene in outline.scenes}
    assert len(words.log.tokenized) <= len(outline.scenes)


def test_parts_of_the_focus_that_lie_apart_are_both_in_full(bounded):
    focus = [Span(start_us=at * SECOND, end_us=(at + 10) * SECOND) for at in (300, 3000)]
    story = tell(bounded, HOUR, make_outline(HOUR), room=6_000, focus=focus)
    assert_nothing_is_lost(story, HOUR)
    assert len(story.spans) == 2
    for part, span in zip(focus, story.spans, strict=True):
        assert span.start_us <= part.start_us and part.end_us <= span.end_us


def test_without_a_focus_the_beginning_is_in_full(bounded):
    story = tell(bounded, HOUR, make_outline(HOUR), room=6_000)
    assert [span.start_us for span in story.spans] == [0]


@pytest.mark.parametrize("outline", [None, make_outline(HOUR, summary="", title="")], ids=["none", "no summaries"])
def test_without_summaries_a_program_makes_them(bounded, outline):
    story = tell(bounded, HOUR, outline, room=12_000)
    assert_nothing_is_lost(story, HOUR)
    scene = plan_scenes(HOUR)[-1]
    [line] = [line for line in story.text.split("\n") if line.startswith("[summary]")][-1:]
    assert line.startswith("[summary]") and line.endswith("…")  # shortened, as there are many
    assert summarize_by_program(scene).startswith(line.split(": ", 1)[1].rstrip("…"))


def test_long_summaries_are_shortened_alike_to_leave_room_for_scenes(bounded):
    outline = make_outline(HOUR, summary="Ada repairs the lamp, and Ben goes to the harbour. " * 20)
    story = tell(bounded, HOUR, outline, room=6_000)
    told = assert_nothing_is_lost(story, HOUR)
    assert len(told) >= 16
    summaries = {line.split(": ", 1)[1] for line in story.text.split("\n") if line.startswith("[summary]")}
    [summary] = summaries
    assert summary.startswith("A busy place: Ada repairs the lamp") and summary.endswith("…") and len(summary) <= 400


def test_a_context_too_small_for_any_scene_is_named_with_its_numbers(make_client, words):
    client = make_client(words, context_tokens=4_096)
    with pytest.raises(ContextTooSmall) as error:
        tell(client, HOUR, make_outline(HOUR), room=90)
    needed = len("\n".join(map(caption_line, HOUR)).split())
    assert "context of 4096 tokens, which leaves 90 for the video" in str(error.value)
    assert f"Its 360 captions have {needed}" in str(error.value) and "--max-model-len" in str(error.value)


def test_a_negative_room_is_too_small(bounded):
    with pytest.raises(ContextTooSmall, match="leaves -10 for"):
        tell(bounded, HOUR[:3], None, room=-10)


def test_an_outline_of_other_captions_is_an_error(bounded):
    with pytest.raises(ValueError, match=r"hold 300 of 360 captions; pass the outline"):
        tell(bounded, HOUR, make_outline(HOUR[:300]), room=1_000)


def test_chinese_and_japanese_captions_are_counted_by_their_bytes(bounded):
    captions = with_texts([f"男人{number}走进房间。然后他打开窗户，看见一只红色的鸟。" for number in range(60)])
    story = tell(bounded, captions, None, room=2_500)
    assert_nothing_is_lost(story, captions)
    assert token_bound(story.text) <= 2_500
    assert "…" not in summarize_by_program(captions[:8]) and "然后" not in summarize_by_program(captions[:8])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(st.text(st.sampled_from("ab 。\n字.!é"), min_size=1, max_size=300), min_size=1, max_size=80),
    room=st.integers(0, 6_000),
    focus=st.lists(st.integers(0, 900), max_size=3),
)
def test_no_story_drops_a_caption_or_exceeds_its_room(bounded, texts, room, focus):
    captions = with_texts([f"{number}{text}" for number, text in enumerate(texts)])
    spans = [Span(start_us=at * SECOND, end_us=(at + 5) * SECOND) for at in focus]
    try:
        story = tell(bounded, captions, None, room, spans)
    except ContextTooSmall:
        return
    assert token_bound(story.text) <= room
    if story.complete:
        assert story.text.split("\n") == [caption_line(caption) for caption in captions]
    else:
        assert_nothing_is_lost(story, captions)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes=st.lists(st.integers(1, 400), max_size=60), room=st.integers(0, 1_500))
def test_parts_are_contiguous_fit_and_are_as_long_as_possible(bounded, sizes, room):
    captions = with_texts(["a" * size for size in sizes])
    found = parts(bounded, captions, room)

    def bound(part):
        return token_bound("\n".join(map(caption_line, part)))

    assert [caption for part in found for caption in part] == captions
    assert all(len(part) == 1 or bound(part) <= room for part in found)
    assert all(bound([*part, after[0]]) > room for part, after in pairwise(found))


def test_all_captions_that_fit_are_one_part_and_counted_once(make_client, words):
    room = len("\n".join(map(caption_line, HOUR)).split())
    assert parts(make_client(words), HOUR, room) == [HOUR]
    assert len(words.log.tokenized) == 1


def test_room_for_a_story_is_the_context_without_prompt_and_answer(make_client, words):
    prompt = load_prompt("scene_summary")
    times = {"start": "00:00", "end": "02:00"}
    text = f"{prompt.system}\n{prompt.render(story='', **times)}"
    large = make_client(words, context_tokens=32_768)
    assert story_room(large, prompt, **times) == 32_768 - 2_048 - token_bound(text) - 200
    assert words.log.tokenized == []
    small = make_client(words, context_tokens=4_096)  # here the bound would take too much of the context
    assert story_room(small, prompt, **times) == 4_096 - 2_048 - len(text.split()) - 200


def test_summaries_that_do_not_fit_have_the_shortest_length(bounded):
    scenes = make_outline(HOUR, summary="word " * 200).scenes
    assert all(len(line) < 80 for line in write_summaries(bounded, scenes, room=10))
    assert all(len(line) > 1_000 for line in write_summaries(bounded, scenes, room=100_000))


def test_within_keeps_captions_that_overlap():
    captions = HOUR[:5]
    assert within(captions, [Span(start_us=10 * SECOND, end_us=20 * SECOND)]) == [captions[1]]
    assert within(captions, [Span(start_us=19 * SECOND, end_us=21 * SECOND)]) == captions[1:3]
    assert within(captions, []) == []

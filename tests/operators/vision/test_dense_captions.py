"""The caption of a clip from dense captions."""

from operators.vision.dense_captions import compose_caption
from schemas.tables import Annotation, Boundary, Clip, Cut
from tests.support.properties import given, st

SECOND = 1_000_000


def clip(start: int, end: int) -> Clip:
    return Clip(
        clip_id=f"film_{start:012d}", video_id="film", index=0, start_us=start, end_us=end, boundary=Boundary.SHOT,
        shot_starts_us=(), cut=Cut.NONE, uri=None, frame_count=1, motion=0.0, sharpness=1.0, brightness=0.5, black=0.0,
        frozen=0.0,
    )  # fmt: skip


def caption(start: float, end: float, text: str) -> Annotation:
    return Annotation(start_us=round(start * SECOND), end_us=round(end * SECOND), kind="caption", text=text)


TEN = clip(10 * SECOND, 20 * SECOND)


def test_dense_captions_inside_of_a_clip_stand_in_order_of_time():
    found = compose_caption(TEN, [caption(15, 19, "It barks"), caption(10, 14, "A dog\n runs.")])
    assert found == "A dog runs. It barks."


def test_a_dense_caption_of_several_clips_has_its_times():
    assert compose_caption(TEN, [caption(5, 65, "A dog runs.")]) == "From 00:05 to 01:05: A dog runs."


def test_a_dense_caption_that_only_touches_a_clip_does_not_describe_it():
    assert compose_caption(TEN, [caption(2, 10.9, "Before."), caption(19.2, 30, "After.")]) == ""


def test_a_short_dense_caption_describes_the_clip_that_holds_most_of_it():
    blink = caption(19.9, 20.2, "She blinks.")
    assert compose_caption(TEN, [blink]) == ""
    assert compose_caption(clip(20 * SECOND, 30 * SECOND), [blink]) == "She blinks."


@given(st.lists(st.tuples(st.integers(0, 59 * SECOND), st.integers(1, 30 * SECOND)), max_size=6))
def test_every_dense_caption_describes_a_clip(spans):
    captions = [
        Annotation(start_us=start, end_us=min(start + length, 60 * SECOND), kind="caption", text=f"Event {index}.")
        for index, (start, length) in enumerate(spans)
    ]
    clips = [clip(start * SECOND, (start + 10) * SECOND) for start in range(0, 60, 10)]
    texts = [compose_caption(each, captions) for each in clips]
    assert all(any(caption.text in text for text in texts) for caption in captions)

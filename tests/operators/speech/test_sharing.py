"""Speech is divided among clips: no word is lost, none is in two clips."""

from hypothesis import given
from hypothesis import strategies as st

from operators.speech.sharing import share_speech
from schemas.tables import Annotation, Boundary, Clip, Cut

SECOND = 1_000_000


def make_clip(start: int, end: int) -> Clip:
    return Clip(
        clip_id=f"v_{start:012d}", video_id="v", index=0, start_us=start * SECOND, end_us=end * SECOND,
        boundary=Boundary.FIXED, shot_starts_us=(), cut=Cut.NONE, uri=None, frame_count=1, motion=0.0, sharpness=100.0,
        black=0.0, frozen=0.0, brightness=0.5,
    )  # fmt: skip


CLIPS = [make_clip(0, 10), make_clip(10, 20), make_clip(20, 30)]


def passage(start: float, end: float, text: str) -> Annotation:
    return Annotation(kind="speech", start_us=round(start * SECOND), end_us=round(end * SECOND), text=text)


def texts(*speech: Annotation) -> list[str]:
    return [" ".join(part.text for part in share) for share in share_speech(speech, CLIPS)]


def test_a_passage_stays_whole_in_the_clip_that_holds_most_of_it():
    assert texts(passage(8, 11, "Come in!")) == ["Come in!", "", ""]
    assert texts(passage(9.5, 12, "Come in, please!")) == ["", "Come in, please!", ""]


def test_a_passage_over_several_clips_is_divided_by_its_words():
    words = " ".join(f"w{number}" for number in range(20))
    shares = share_speech([passage(5, 25, words)], CLIPS)
    assert [part.text.split() for share in shares for part in share] == [
        [f"w{number}" for number in range(5)],
        [f"w{number}" for number in range(5, 15)],
        [f"w{number}" for number in range(15, 20)],
    ]
    assert [(part.start_us, part.end_us) for share in shares for part in share] == [
        (5 * SECOND, 10 * SECOND), (10 * SECOND, 20 * SECOND), (20 * SECOND, 25 * SECOND),
    ]  # fmt: skip


def test_scripts_without_spaces_are_divided_by_characters():
    assert texts(passage(0, 20, "一二三四五六七八九十")) == ["一二三四五", "六七八九十", ""]


def test_a_note_on_the_whole_video_is_not_repeated_in_every_clip():
    assert texts(passage(0, 30, "one two three")) == ["one", "two", "three"]
    assert texts(passage(0, 3000, "late words")) == ["late", "", "words"]


def test_what_lies_outside_of_the_clips_is_dropped():
    assert texts(passage(30, 40, "After the end.")) == ["", "", ""]
    assert texts(passage(29, 32, "Good night.")) == ["", "", "Good night."]


def test_a_passage_without_words_is_dropped():
    assert share_speech([passage(0, 5, "  ")], CLIPS) == [(), (), ()]


@given(
    st.lists(
        st.tuples(
            st.integers(0, 29_000),
            st.integers(1, 30_000),
            st.lists(st.sampled_from(["ab", "cd", "é", "日本"]), max_size=9),
        ),
        max_size=5,
    )
)
def test_every_word_is_in_exactly_one_clip(passages):
    speech = [passage(start / 1000, (start + length) / 1000, " ".join(words)) for start, length, words in passages]
    shares = share_speech(speech, CLIPS)
    found = "".join(part.text for share in shares for part in share)
    assert sorted(found.replace(" ", "")) == sorted("".join(each.text for each in speech).replace(" ", ""))
    for clip, share in zip(CLIPS, shares, strict=True):
        assert all(clip.start_us <= part.start_us < part.end_us <= clip.end_us for part in share)

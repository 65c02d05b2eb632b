from __future__ import annotations

import base64
from dataclasses import replace

import pytest
from pydantic import BaseModel

from operators.models.exchange import Exchange, TimedFrame
from schemas.answers import FreeText, Letter, ShortAnswer
from schemas.provenance import Sampling


class Thing(BaseModel):
    name: str


class Scene(BaseModel):
    text: str
    things: list[Thing] = []


FRAMES = (TimedFrame(0, b"one"), TimedFrame(12_400_000, b"two"))
EXCHANGE = Exchange("m", "sys", FRAMES, "what?", Scene, Sampling(), 7)


@pytest.mark.parametrize(
    ("time_us", "words"),
    [(0, "[00:00.00]"), (12_409_999, "[00:12.40]"), (59_999_999, "[00:59.99]"), (3_723_450_000, "[1:02:03.45]")],
)
def test_a_frame_has_its_timestamp_as_text(time_us, words):
    assert TimedFrame(time_us, b"").timestamp == words


def test_each_frame_follows_its_time_and_the_text_comes_last():
    system, user = EXCHANGE.messages()
    assert system == {"role": "system", "content": "sys"}
    texts = [part.get("text") for part in user["content"]]
    assert texts == ["[00:00.00]", None, "[00:12.40]", None, "what?"]
    head, data = user["content"][3]["image_url"]["url"].split(",")
    assert head == "data:image/jpeg;base64"
    assert base64.b64decode(data) == b"two"


def test_without_frames_the_message_is_plain_text():
    assert replace(EXCHANGE, frames=(), system="").messages() == [{"role": "user", "content": "what?"}]


@pytest.mark.parametrize(
    "change",
    [
        {"model": "n"},
        {"system": ""},
        {"text": "who?"},
        {"seed": 8},
        {"output": Thing},
        {"sampling": Sampling(temperature=0.1)},
        {"frames": FRAMES[:1]},
        {"frames": (FRAMES[0], TimedFrame(12_400_000, b"2"))},
        {"frames": (FRAMES[0], TimedFrame(12_400_001, b"two"))},
        {"repair": ("answer", "complaint")},
        {"frames": (), "video": b"mp4"},
        {"sampling": Sampling(top_k=20)},
        {"sampling": Sampling(chat_template_kwargs={"enable_thinking": False})},
    ],
    ids=str,
)
def test_the_identity_covers_whatever_can_change_the_answer(change):
    assert replace(EXCHANGE).sha256 == EXCHANGE.sha256
    assert replace(EXCHANGE, **change).sha256 != EXCHANGE.sha256


def test_what_is_unset_is_no_part_of_the_identity():
    """Journals of earlier versions answer the same requests: these hashes were computed by one."""
    sampling = Sampling(temperature=0.5, max_tokens=50)
    answer = Exchange("m", "sys", FRAMES[1:], "what?", ShortAnswer, sampling, 7)
    assert answer.sha256 == "081c1dcff31859937d9c8d3594ef247b9475e7cb678fde5659e61cf46454993e"
    assert replace(answer, limits_text=True).sha256 == answer.sha256
    letter = Exchange("m", "", (), "what?", Letter, Sampling(), 0).with_repair("{", "no")
    assert letter.sha256 == "439e3ddadc1a74b33d7c527b80ed5ae1f0bd8be4932d97c603f54b88f87e511f"


def test_a_video_comes_before_the_text():
    _, user = replace(EXCHANGE, frames=(), video=b"mp4").messages()
    video, text = user["content"]
    assert video == {"type": "video_url", "video_url": {"url": "data:video/mp4;base64,bXA0"}}
    assert text == {"type": "text", "text": "what?"}


def test_only_parameters_that_are_set_are_sent():
    assert EXCHANGE.options().keys() == {"temperature", "top_p", "max_tokens", "seed", "response_format"}
    sampling = Sampling(
        top_k=20,
        min_p=0.0,
        presence_penalty=1.5,
        frequency_penalty=0.5,
        repetition_penalty=1.05,
        thinking_token_budget=4096,
        chat_template_kwargs='{"enable_thinking": true}',
    )
    options = replace(EXCHANGE, sampling=sampling).options()
    assert (options["presence_penalty"], options["frequency_penalty"]) == (1.5, 0.5)
    assert options["extra_body"] == {
        "top_k": 20,
        "min_p": 0.0,
        "repetition_penalty": 1.05,
        "thinking_token_budget": 4096,
        "chat_template_kwargs": {"enable_thinking": True},
    }


def test_free_text_is_requested_without_a_schema():
    assert "response_format" not in replace(EXCHANGE, output=FreeText).options()


def test_a_repetition_shows_the_answer_and_what_is_wrong():
    *before, assistant, user = EXCHANGE.with_repair("{oops", "no JSON").messages()
    assert before == EXCHANGE.messages()
    assert (assistant, user) == (
        {"role": "assistant", "content": "{oops"},
        {"role": "user", "content": "no JSON"},
    )
    assert EXCHANGE.with_repair("", "empty").messages()[-2]["content"]

from __future__ import annotations

import json
import logging
import math
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from statistics import NormalDist

import httpx2
import openai
import pytest

from operators.models.client import Answer, ForeignAnswer, ModelUnavailable, Refusal, Request, TimedFrame
from operators.models.connection import Busy
from operators.models.embedded import EMBEDDED_MODEL
from operators.models.journal import Journal
from operators.models.prompts import load_prompt
from operators.models.session import ModelPool
from schemas.config import ModelConfig, Role
from tests.support.openai_server import Fault, OpenAIServer, Reply, last_text, repetition

SIGHT = {"text": "a dog", "colour": "green"}


@pytest.fixture
def journal(tmp_path):
    with Journal(str(tmp_path / "journal")) as journal:
        yield journal


def client_of(pool: ModelPool, server: OpenAIServer, journal: Journal, **config):
    settings = ModelConfig(**{"model": "fake-model", "vision": True, "patience_seconds": 0.0, **config})
    return pool.client(Role.CAPTIONER, settings, journal, server.environ())


@pytest.fixture
def client(pool, server, journal):
    return client_of(pool, server, journal)


@pytest.fixture
def request_of(prompt):
    def make(key="clip_1", text="What?", **more) -> Request:
        return Request(key, prompt, text, **more)

    return make


def test_answers_come_in_order_with_their_provenance(client, server, request_of):
    requests = [request_of(f"clip_{i}", f"What is in part {i}?", seed=i) for i in range(20)]
    answers = client.call(requests)
    assert [answer.request for answer in answers] == requests
    assert len({answer.value.text for answer in answers}) == 20
    bodies = {seen.headers["x-request-id"].removeprefix("lvr-"): seen.body for seen in server.requests}
    for answer in answers:
        body = bodies[answer.provenance.request_sha256]
        assert body["messages"][-1]["content"] == answer.request.text
        assert answer.value.model_validate_json(answer.provenance.raw) == answer.value
        assert (answer.provenance.seed, answer.provenance.prompt_id) == (answer.request.seed, "scene")
        assert answer.provenance.finish_reason == "stop"
        assert not answer.truncated
    assert client.usage.requests == 20
    assert client.usage.tokens_out == sum(answer.provenance.tokens_out for answer in answers) > 0
    assert client.call([]) == []


def test_a_request_has_the_fields_of_the_api(client, server, request_of):
    client.call([request_of(frames=(TimedFrame(1_500_000, b"\xff\xd8jpeg"),), seed=3)])
    (seen,) = server.requests
    assert (seen.body["model"], seen.body["seed"], seen.body["temperature"]) == ("fake-model", 3, 0.5)
    assert (seen.body["top_p"], seen.body["max_tokens"]) == (1.0, 50)
    wanted = seen.body["response_format"]["json_schema"]
    assert (wanted["name"], wanted["strict"], wanted["schema"]["required"]) == ("Sight", True, ["text", "colour"])
    assert seen.body["messages"][0] == {"role": "system", "content": "Be brief."}
    assert [part["type"] for part in seen.body["messages"][1]["content"]] == ["text", "image_url", "text"]


def test_frames_need_a_model_that_sees(pool, server, journal, request_of):
    blind = client_of(pool, server, journal, vision=False)
    with pytest.raises(ValueError, match="request clip_1 has 1 frames, but fake-model is set up without vision"):
        blind.call([request_of(frames=(TimedFrame(0, b"jpeg"),))])
    with pytest.raises(ValueError, match="request clip_1 has a video, but fake-model is set up without vision"):
        blind.call([request_of(video=b"mp4")])


def test_a_request_is_never_sent_twice(pool, server, journal, request_of, tmp_path):
    requests = [request_of(f"clip_{i}", f"part {i}") for i in range(3)]
    first = client_of(pool, server, journal).call(requests[:2])
    with Journal(str(tmp_path / "journal")) as reopened:
        client = client_of(pool, server, reopened)
        assert client.call(requests)[:2] == first
        assert (client.usage.requests, client.usage.journal_hits) == (1, 2)
        # The request hash covers the model, but not the key.
        assert client.call([replace(requests[0], key="other")])[0].value == first[0].value
        assert server.count == {"fake-model": 3}


def test_equal_requests_are_one_request(client, server, request_of):
    one, two = client.call([request_of("clip_1"), request_of("clip_2")])
    assert (one.request.key, two.request.key) == ("clip_1", "clip_2")
    assert one.provenance == two.provenance
    assert len(server.requests) == 1


def test_an_invalid_answer_is_requested_again_with_the_error(client, server, request_of, journal):
    server.fail(Fault(content='{"text": "a dog", "colour": "brown"}'))
    (answer,) = client.call([request_of()])
    assert isinstance(answer, Answer)
    assert len(server.requests) == 2
    *_, assistant, complaint = server.requests[1].body["messages"]
    assert assistant == {"role": "assistant", "content": '{"text": "a dog", "colour": "brown"}'}
    assert "colour: Input should be 'red', 'green' or 'blue'" in complaint["content"]
    kept = journal.get(answer.provenance.request_sha256)
    assert kept.raw == answer.provenance.raw
    # Both answers are in the journal: running the work item again sends no request.
    assert client.call([request_of()]) == [answer]
    assert len(server.requests) == 2
    assert journal.forget([answer.provenance.request_sha256]) == 2


@pytest.mark.parametrize(("raw", "reason"), [("I cannot say.", "schema"), ('{"text": 1}', "schema"), (" ", "empty")])
def test_twice_invalid_is_a_refusal(client, server, request_of, journal, raw, reason):
    server.script = lambda body: raw if "1" in body["messages"][1]["content"] else SIGHT
    refusal, answer = client.call([request_of("clip_1", "part 1"), request_of("clip_2", "part 2")])
    assert isinstance(refusal, Refusal)
    assert (refusal.request.key, refusal.reason, refusal.raw) == ("clip_1", reason, raw)
    assert journal.get(refusal.request_sha256).raw == raw
    assert answer.value.text == "a dog"
    assert client.usage.refusals == {reason: 1}
    assert len(server.requests) == 3
    # A replay sends the request again.
    journal.forget([refusal.request_sha256])
    server.script = None
    assert isinstance(client.call([refusal.request])[0], Answer)


def test_a_journal_is_validated_when_it_is_read(client, server, request_of, journal, tmp_path):
    (answer,) = client.call([request_of()])
    sha = answer.provenance.request_sha256
    journal.append(journal.get(sha).model_copy(update={"raw": '{"text": "x", "colour": "mauve"}'}))
    (again,) = client.call([request_of()])
    assert again.value.colour in {"red", "green", "blue"}
    assert len(server.requests) == 2


def test_thoughts_are_kept_apart_from_the_answer(client, server, request_of):
    server.script = lambda body: Reply(SIGHT, reasoning="hmm {")
    (answer,) = client.call([request_of()])
    assert answer.value.text == "a dog"
    assert answer.provenance.raw.startswith("<think>hmm {</think>{")


def test_a_model_that_thinks_and_is_not_set_up_so_is_reported_once(pool, server, journal, request_of, caplog):
    server.script = lambda body: Reply(SIGHT, reasoning="hmm")
    with caplog.at_level(logging.WARNING):
        client_of(pool, server, journal, thinking=True).call([request_of()])
        assert not caplog.records
        client_of(pool, server, journal).call([request_of(seed=i) for i in range(1, 4)])
    assert [record.message for record in caplog.records] == [
        "captioner: fake-model thinks before it answers; set models.captioner.thinking=true, so that its thoughts take "
        "no tokens from its answers"
    ]


def test_thoughts_that_end_thoughts_do_no_harm(client, server, request_of, journal):
    server.script = lambda body: Reply(SIGHT, reasoning="they write </think> at the end </think> {")
    (answer,) = client.call([request_of()])
    assert answer.value.text == "a dog"
    kept = journal.get(answer.provenance.request_sha256)
    assert (kept.thoughts, kept.raw) == ("they write </think> at the end </think> {", json.dumps(SIGHT))
    assert client.call([request_of()]) == [answer]


def test_a_journal_of_an_earlier_version_has_thoughts_before_the_text(client, server, request_of, journal):
    (answer,) = client.call([request_of()])
    kept = journal.get(answer.provenance.request_sha256)
    earlier = f"<think>hmm {{</think>{json.dumps(SIGHT)}"
    journal.append(kept.model_copy(update={"raw": earlier}))
    (again,) = client.call([request_of()])
    assert (again.value.text, again.provenance.raw) == ("a dog", earlier)
    assert len(server.requests) == 1


def test_a_cut_answer_is_closed_and_marked(client, server, request_of):
    server.fail(Fault(content='{"colour": "blue", "text": "a dog run', finish_reason="length"))
    (answer,) = client.call([request_of()])
    assert (answer.value.text, answer.truncated, answer.provenance.finish_reason) == ("a dog run", True, "length")


def test_an_answer_that_was_cut_off_is_repeated_with_twice_the_room(client, server, request_of, journal):
    server.fail(Fault(content='{"colour": "bl', finish_reason="length"), Fault(content="", finish_reason="length"))
    (answer,) = client.call([request_of()])
    assert [seen.body["max_tokens"] for seen in server.requests] == [50, 100, 200]
    assert len({str(seen.body["messages"]) for seen in server.requests}) == 1
    assert (answer.provenance.sampling.max_tokens, answer.truncated) == (200, False)
    # All three are in the journal, and a replay forgets them all.
    assert client.call([request_of()]) == [answer]
    assert len(server.requests) == 3
    assert journal.forget([answer.provenance.request_sha256]) == 3


def test_an_answer_that_never_ends_is_truncated_at_the_context(pool, journal, request_of):
    endless = " ".join(str(number * 7919) for number in range(20_000))[:100_000]
    with OpenAIServer(context={"max_model_len": 1000}, script=lambda body: Reply(endless, "length")) as server:
        client = client_of(pool, server, journal)
        (refusal,) = client.call([request_of()])
        limits = [seen.body["max_tokens"] for seen in server.requests]
    assert refusal.reason == "truncated"
    assert "cut off after 25000 tokens" in refusal.message
    tokens_in = journal.get(refusal.request_sha256).tokens_in
    assert limits == [50, 100, 200, 400, 800, 1000 - tokens_in]
    assert client.usage.refusals == {"truncated": 1}


def test_a_loop_gets_no_more_room(client, server, request_of):
    server.script = lambda body: Reply(repetition(100_000), "length")
    (refusal,) = client.call([request_of()])
    assert (refusal.reason, len(refusal.raw), len(server.requests)) == ("truncated", 100_000, 1)


def test_thinking_takes_no_room_from_the_answer(pool, server, journal, request_of):
    client = client_of(pool, server, journal, thinking=True, thinking_tokens=4000)
    server.thinking = lambda body: 4000
    (answer,) = client.call([request_of()])
    assert isinstance(answer, Answer)
    assert [seen.body["max_tokens"] for seen in server.requests] == [4050]
    assert client.answer_tokens(answer.request.prompt) == answer.provenance.sampling.max_tokens == 4050
    assert answer.provenance.tokens_out > 4000


def test_long_thoughts_lose_fewer_than_two_percent_of_the_answers(pool, journal, request_of):
    """A model whose thoughts have a lognormal length with a median of 4,000 tokens and a sigma of 0.8."""
    lengths = [int(4000 * math.exp(0.8 * NormalDist().inv_cdf((i + 0.5) / 250))) for i in range(250)]
    with OpenAIServer(context={"max_model_len": 32_768}) as server:
        server.thinking = lambda body: lengths[body["seed"]]
        client = client_of(pool, server, journal, thinking=True)
        answers = client.call([request_of(f"question_{i}", seed=i) for i in range(250)])
        sent = len(server.requests)
    lost = [answer for answer in answers if isinstance(answer, Refusal)]
    assert {refusal.reason for refusal in lost} <= {"truncated"}
    assert len(lost) < 0.02 * len(answers)
    assert sent < 1.5 * len(answers)


def test_the_servers_own_name_of_its_model_is_kept(pool, server, journal, request_of, caplog):
    server.served_model = "fake-served-2026"
    client = client_of(pool, server, journal)
    with caplog.at_level(logging.WARNING):
        answers = client.call([request_of(seed=i) for i in range(3)])
    assert {(each.provenance.model, each.provenance.served_model) for each in answers} == {
        ("fake-model", "fake-served-2026")
    }
    assert journal.get(answers[0].provenance.request_sha256).served_model == "fake-served-2026"
    assert [record.message for record in caplog.records if "fake-served-2026" in record.message] == [
        f"captioner: fake-model was requested, and {server.url} states that fake-served-2026 answered; unless one is "
        "an alias of the other, check which model is served"
    ]


def test_free_text_is_kept_whole(client, server, tmp_path):
    (tmp_path / "free.md").write_text("---\nid: free\npurpose: A test.\nrole: target\noutput: FreeText\n---\nWhy?\n")
    free = Request("q", load_prompt("free", tmp_path), "Why?")
    server.script = lambda body: "<think>so { </think><answer>B</answer>"
    assert client.call([free])[0].value.text == "<think>so { </think><answer>B</answer>"
    server.script = lambda body: Reply("<answer>B</answer>", reasoning="so {")
    assert client.call([replace(free, seed=1)])[0].value.text == "<think>so {</think><answer>B</answer>"
    server.script = lambda body: Reply("", finish_reason="length", reasoning="on and on")
    (cut,) = client.call([replace(free, seed=2)])
    assert (cut.value.text, cut.truncated) == ("<think>on and on", True)
    assert len(server.requests) == 3


@pytest.mark.parametrize(("model", "is_limited"), [(EMBEDDED_MODEL, True), ("fake-model", False)])
def test_only_the_embedded_models_texts_end_at_their_limits(pool, journal, tmp_path, model, is_limited):
    """It never ends a text by itself. Other models do, and a text as long as its limit is one that was cut."""
    (tmp_path / "short.md").write_text(
        "---\nid: short\npurpose: A test.\nrole: judge\noutput: ShortAnswer\n---\nWhich?\n"
    )
    request = Request("q", load_prompt("short", tmp_path), "Which?")
    with OpenAIServer(models=(model,), script=lambda body: {"answer": "x" * 120}) as server:
        (found,) = client_of(pool, server, journal, model=model, vision=False).call([request])
        schema = server.requests[0].body["response_format"]["json_schema"]["schema"]
    assert ("maxLength" in schema["properties"]["answer"]) == is_limited
    assert isinstance(found, Answer) == is_limited
    assert is_limited or "answer: it has 120 characters and must have fewer than 120" in found.message


def test_a_video_is_sent_and_is_part_of_the_request(client, server, request_of):
    first, second = client.call([request_of(video=b"one"), request_of(video=b"two")])
    assert first.provenance.request_sha256 != second.provenance.request_sha256
    assert [part["type"] for part in server.requests[0].body["messages"][1]["content"]] == ["video_url", "text"]
    with pytest.raises(ValueError, match="request clip_1 has frames and a video; send one of them"):
        request_of(video=b"one", frames=(TimedFrame(0, b"jpeg"),))


@pytest.mark.parametrize(
    "fault",
    [
        Fault(finish_reason="content_filter"),
        Fault(status=400, message="The response was filtered", error_code="content_filter"),
    ],
)
def test_a_content_filter_is_a_refusal(client, server, request_of, fault):
    server.fail(fault)
    (refusal,) = client.call([request_of()])
    assert (refusal.reason, len(server.requests)) == ("blocked", 1)


def test_a_model_that_declines_is_a_refusal(client, server, request_of):
    server.script = lambda body: Reply(None, refusal="I won't.")
    (refusal,) = client.call([request_of()])
    assert (refusal.reason, refusal.raw) == ("blocked", "I won't.")


@pytest.mark.parametrize(
    ("status", "message", "code"),
    [
        (400, "This model's maximum context length is 8192 tokens. However, you requested 9031 tokens", None),
        (400, "request (9031 tokens) exceeds the available context size (8192 tokens), try increasing it", None),
        (400, "The input (9031 tokens) is longer than the model's context length (8192 tokens).", None),
        (400, "Input tokens exceed the configured limit", "context_length_exceeded"),
        (
            400,
            "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens (904 in the "
            "messages, 4096 in the completion). Please reduce the length of the messages or completion.",
            None,
        ),
        (
            400,
            "'max_tokens' or 'max_completion_tokens' is too large: 4096. This model's maximum context length is 8192 "
            "tokens and your request has 5000 input tokens (4096 > 8192 - 5000).",
            None,
        ),
        (400, "The decoder prompt (length 9031) is longer than the maximum model length of 8192.", None),
        (400, "the request exceeds the available context size. try increasing the context size", None),
        (400, "prompt is too long: 205000 tokens > 200000 maximum", None),
        (413, "Request Entity Too Large", None),
    ],
)
def test_too_long_is_a_refusal(client, server, request_of, status, message, code):
    server.fail(Fault(status=status, message=message, error_code=code))
    (refusal,) = client.call([request_of()])
    assert refusal.reason == "too_long"
    assert message in refusal.message


@pytest.mark.parametrize(
    "message",
    [
        "max_tokens is too large: 4096. This model supports at most 2048 completion tokens, whereas you provided 4096.",
        "The request's max_tokens (9000) exceeds the model's context length (8192)",
        "temperature exceeds the maximum of 1.0",
        "At most 0 image(s) may be provided in one prompt.",
        "You exceeded your current quota, please check your plan and billing details.",
        "Invalid schema for response_format: nesting exceeds 5 levels",
    ],
)
def test_a_set_up_that_no_request_fits_is_an_outage_and_no_refusal(client, server, request_of, message):
    server.fail(Fault(status=400, message=message))
    with pytest.raises(ModelUnavailable, match=re.escape(message)):
        client.call([request_of()])


def test_the_first_answer_counts_when_only_the_repetition_is_too_long(client, server, request_of):
    server.fail(Fault(content="no JSON"), Fault(status=400, message="maximum context length"))
    (refusal,) = client.call([request_of()])
    assert (refusal.reason, refusal.raw) == ("schema", "no JSON")


@pytest.mark.parametrize(
    "fault",
    [Fault(status=500), Fault(status=503), Fault(status=429), Fault(status=408), Fault(drop=True)],
    ids=["500", "503", "429", "408", "drop"],
)
def test_passing_troubles_are_sat_out(client, server, request_of, fault):
    server.fail(fault)
    assert isinstance(client.call([request_of()])[0], Answer)
    assert len(server.requests) == 2


def test_retry_after_is_honoured(client, server, request_of):
    server.fail(Fault(status=429, retry_after="1.5"))
    assert isinstance(client.call([request_of()])[0], Answer)
    first, second = server.requests
    assert 1.45 < second.at - first.at < 4


def test_a_server_that_is_busy_after_all_retries_is_waited_for(server, journal, request_of, caplog):
    """Also several requests at a time, and none becomes a reject."""
    requests = [request_of(f"clip_{number}", f"part {number}") for number in range(4)]
    with ModelPool(retries=0) as pool:
        server.fail(Fault(status=429, retry_after="0.2"), times=12)
        answers = client_of(pool, server, journal, patience_seconds=30.0).call(requests)
    assert all(isinstance(answer, Answer) for answer in answers)
    assert len(server.requests) == 16
    assert sum("has too many requests (HTTP 429)" in message for message in caplog.messages) == 1


@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=429, retry_after="3600"),
        Fault(status=429, retry_after="Wed, 01 Jan 2180 00:00:00 GMT"),
        Fault(status=429),
        Fault(status=429, message="no money left", error_code="insufficient_quota", retry_after="0.1"),
    ],
    ids=["long", "date", "unstated", "quota"],
)
def test_a_wait_beyond_the_patience_and_a_spent_quota_are_outages(server, journal, request_of, fault):
    with ModelPool(retries=0) as pool:
        server.fail(fault)
        with pytest.raises(ModelUnavailable, match=r"is overloaded \(HTTP 429"):
            client_of(pool, server, journal, patience_seconds=5.0).call([request_of()])
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("stated", "seconds"), [("2.5", 2.5), ("0", 0.1), ("", 8.0), ("soon", 8.0), ("inf", 8.0), ("nan", 8.0)]
)
def test_the_pause_of_a_busy_server_is_the_one_that_it_states(stated, seconds):
    response = httpx2.Response(429, headers={"Retry-After": stated}, request=httpx2.Request("POST", "http://a/v1"))
    assert Busy(openai.RateLimitError("busy", response=response, body=None)).pause == seconds


@pytest.mark.parametrize(
    ("fault", "complaint"),
    [
        (Fault(status=500, message="out of memory"), r"kept failing \(HTTP 500.*out of memory.*server's own log"),
        (Fault(status=429), r"is overloaded \(HTTP 429.*lower concurrency"),
        (Fault(drop=True), "cannot be reached"),
        (Fault(status=401), r"refused the key \(HTTP 401\); set LVR_CAPTIONER_API_KEY"),
        (Fault(status=403), "refused the key"),
        (Fault(status=404, message="no such model"), r"does not know the model.*no such model.*GET /models"),
        (Fault(status=400, message="unknown field seed"), r"rejects the request \(HTTP 400.*unknown field seed"),
        (Fault(body=b"<html>login</html>", content_type="text/html"), "not the OpenAI protocol.*<html>login"),
        (Fault(body=b"{'oops"), "not the OpenAI protocol"),
        (Fault(body=b'{"choices": 3}'), "not the OpenAI protocol"),
    ],
    ids=str,
)
def test_outages_name_role_address_model_and_the_fix(server, journal, request_of, fault, complaint):
    with ModelPool(retries=1) as pool:
        server.fail(fault, times=3)  # two attempts, and the probe
        with pytest.raises(ModelUnavailable, match=f"captioner {server.url} .model 'fake-model'.*{complaint}"):
            client_of(pool, server, journal).call([request_of()])


def test_a_server_that_is_not_there(pool, journal, request_of):
    with OpenAIServer() as server:
        client = client_of(pool, server, journal)
    with pytest.raises(ModelUnavailable, match=r"cannot be reached.*check that the server.*LVR_CAPTIONER_URL"):
        client.call([request_of()])


def test_a_model_that_is_not_there(pool, server, journal, request_of):
    client = client_of(pool, server, journal, model="other")
    with pytest.raises(ModelUnavailable, match=r"model 'other'.*The model `other` does not exist"):
        client.call([request_of()])


def test_a_wait_has_an_end(server, journal, request_of):
    with ModelPool(retries=0) as pool:
        client = client_of(pool, server, journal, timeout_seconds=0.2)
        server.fail(Fault(delay_seconds=1.0), times=2)
        with pytest.raises(ModelUnavailable, match="gave no answer in time; raise timeout_seconds"):
            client.call([request_of()])


def test_after_an_outage_only_missing_answers_are_requested(server, journal, request_of):
    requests = [request_of(f"clip_{i}", f"part {i}") for i in range(12)]
    with ModelPool(retries=0) as pool:
        client = client_of(pool, server, journal, concurrency=1)
        server.fail(*[Fault()] * 7, Fault(status=500), Fault(status=500))
        with pytest.raises(ModelUnavailable):
            client.call(requests)
        answered = client.usage.requests
        assert answered == 7
        assert all(isinstance(answer, Answer) for answer in client.call(requests))
        assert client.usage.journal_hits == answered
        assert client.usage.requests == 12


@pytest.mark.parametrize(
    ("fault", "found"),
    [
        (Fault(status=500, message="boom"), "HTTP 500: .*boom"),
        (Fault(drop=True), "lost connection"),
        (Fault(delay_seconds=1.0), "no answer in time"),
    ],
    ids=["500", "drop", "timeout"],
)
def test_a_request_that_always_fails_is_a_refusal(server, journal, request_of, fault, found):
    server.always_fails["part 3"] = fault
    requests = [request_of(f"clip_{i}", f"part {i}") for i in range(6)]
    with ModelPool(retries=1) as pool:
        client = client_of(pool, server, journal, timeout_seconds=0.5)
        answers = client.call(requests)
    [refusal] = [answer for answer in answers if isinstance(answer, Refusal)]
    assert (refusal.request.key, refusal.reason, refusal.raw) == ("clip_3", "request_failed", "")
    assert re.search(rf"request clip_3: the server fails at this request \({found}", refusal.message)
    assert journal.get(refusal.request_sha256) is None
    assert client.usage.refusals == {"request_failed": 1}
    assert client.usage.requests == 5


def test_a_request_that_fails_once_more_than_it_is_retried_is_answered(server, journal, request_of):
    with ModelPool(retries=1) as pool:
        server.fail(Fault(status=502), Fault(status=503), Fault())  # the last one is the probe's
        assert isinstance(client_of(pool, server, journal).call([request_of()])[0], Answer)
    texts = [last_text(seen.body) for seen in server.requests]
    assert texts == ["What?", "What?", "Answer OK.", "What?"]


@pytest.fixture
def restarting(server):
    """A server that returns, without delays, as soon as a client has begun to wait for it."""

    class Restart(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            server.delay_seconds = 0.0
            server.restart()

    log = logging.getLogger("operators.models.health")
    handler = Restart(logging.WARNING)
    log.addHandler(handler)
    yield server
    log.removeHandler(handler)


def test_a_request_that_ends_the_server_is_a_refusal_and_no_other_is(restarting, journal, request_of):
    restarting.always_fails["part 1"] = Fault(crash=True)
    with ModelPool(retries=0) as pool:
        client = client_of(pool, restarting, journal, patience_seconds=10.0)
        answers = client.call([request_of(f"clip_{i}", f"part {i}") for i in range(4)])
    [refusal] = [answer for answer in answers if isinstance(answer, Refusal)]
    assert (refusal.request.key, refusal.reason) == ("clip_1", "request_failed")
    assert "lost connection" in refusal.message


def test_a_server_that_restarts_is_waited_for(restarting, journal, request_of):
    """The server is killed while it works on requests."""
    server = restarting
    server.delay_seconds = 30.0
    with ModelPool(retries=0) as pool, ThreadPoolExecutor(1) as other:
        client = client_of(pool, server, journal, patience_seconds=60.0)
        answers = other.submit(client.call, [request_of(f"clip_{i}", f"part {i}") for i in range(4)])
        while len(server.requests) < 4:
            threading.Event().wait(0.01)
        server.kill()
        assert all(isinstance(answer, Answer) for answer in answers.result())
    assert client.usage.requests == 4


def test_the_answer_to_another_request_is_an_error(client, server, request_of):
    server.fail(Fault(request_id=f"lvr-{'0' * 64}"))
    with pytest.raises(ForeignAnswer, match=f"answered request [0-9a-f]{{64}} with the answer to {'0' * 64}"):
        client.call([request_of()])


@pytest.mark.parametrize("own", ["req_0123456789abcdef", "0" * 64])
def test_a_gateway_may_have_ids_of_its_own(client, server, request_of, own):
    server.fail(Fault(request_id=own))
    assert isinstance(client.call([request_of()])[0], Answer)


def test_concurrency_is_bounded_over_all_threads_and_work_items(pool, request_of, tmp_path):
    with OpenAIServer(delay_seconds=0.05) as server:
        failed: list[object] = []

        def call_all(name: int) -> None:
            with Journal(str(tmp_path / f"item{name}")) as journal:
                requests = [request_of(f"{name}_{i}", f"item {name} part {i}") for i in range(10)]
                for answer, request in zip(
                    client_of(pool, server, journal, concurrency=4).call(requests), requests, strict=True
                ):
                    bodies = {seen.headers["x-request-id"].removeprefix("lvr-"): seen.body for seen in server.requests}
                    if bodies[answer.provenance.request_sha256]["messages"][-1]["content"] != request.text:
                        failed.append(request)

        threads = [threading.Thread(target=call_all, args=(i,)) for i in range(3)]
        started = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failed
        assert len(server.requests) == 30
        assert server.peak == 4
        assert time.monotonic() - started >= 30 / 4 * 0.05


def test_the_busy_clock_counts_time_not_requests(pool, journal, request_of):
    with OpenAIServer(delay_seconds=0.2) as server:
        client = client_of(pool, server, journal)
        started = time.monotonic()
        client.call([request_of(seed=i) for i in range(8)])
        elapsed = time.monotonic() - started
        assert 0.2 <= client.usage.busy_seconds <= elapsed
        client.call([request_of(seed=i) for i in range(8)])
        assert client.usage.busy_seconds <= elapsed


def test_half_a_surrogate_pair_does_no_harm(client, server, request_of):
    server.fail(Fault(content='{"text": "smile \ud83d", "colour": "red"}'))
    (answer,) = client.call([request_of()])
    assert answer.value.text == "smile ?"


# --- a server that repeats what it was sent

KEY = "sk-SECRET-12345"


def start_failing_server(pool, journal, *faults):
    server = OpenAIServer(api_key=KEY)
    server.fail(*faults)
    return server, pool.client(Role.CAPTIONER, ModelConfig(model="fake-model", vision=True), journal, server.environ())


@pytest.mark.parametrize("status", [400, 403, 404, 413, 422])
@pytest.mark.parametrize("cause", ["safety", "context length", "no such thing"])
def test_a_key_that_a_server_repeats_is_in_no_message(pool, journal, request_of, status, cause):
    server, client = start_failing_server(
        pool, journal, Fault(status=status, message=f"{cause}: Authorization: Bearer {KEY}")
    )
    with server:
        try:
            found = repr(client.call([request_of()]))
        except ModelUnavailable as error:
            found = str(error)
    assert "SECRET" not in found


@pytest.mark.parametrize("fault", [Fault(body=b"<html>" + KEY.encode()), Fault(body=b'{"k": "' + KEY.encode() + b'"}')])
def test_a_key_in_what_is_no_answer_is_in_no_message(pool, journal, request_of, fault):
    server, client = start_failing_server(pool, journal, fault)
    with server, pytest.raises(ModelUnavailable) as failed:
        client.call([request_of()])
    assert "SECRET" not in str(failed.value)


def test_a_key_that_a_model_repeats_is_in_no_answer_reject_or_journal(pool, journal, request_of, tmp_path):
    answers = [f'{{"text": "{KEY} a dog", "colour": "green"}}', f"my key is {KEY}", f"it is {KEY}"]
    server, client = start_failing_server(pool, journal, *(Fault(content=answer) for answer in answers))
    with server:
        answer, refusal = (
            client.call([request_of("clip_1", "part 1")])[0],
            client.call([request_of("clip_2", "part 2")])[0],
        )
    assert (answer.value.text, refusal.reason, refusal.raw) == ("*** a dog", "schema", "it is ***")
    kept = "".join(path.read_text() for path in (tmp_path / "journal").iterdir())
    assert kept.count("***") == 3
    assert "SECRET" not in f"{kept}{answer}{refusal}"

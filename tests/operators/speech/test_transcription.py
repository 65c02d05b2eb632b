"""Transcripts of small real videos from a real HTTP server that reports where it hears something."""

from dataclasses import replace

import numpy as np
import pytest

from operators.models.endpoints import Endpoint, EndpointError, ModelUnavailable
from operators.models.journal import Journal
from operators.speech.transcription import (
    PIECE_SECONDS,
    RATE,
    SpeechRefused,
    cut_pieces,
    resolve_speech,
    speech_endpoint,
    transcribe,
)
from schemas.config import CaptionConfig
from tests.support.rows import make_video
from tests.support.transcription_server import TranscriptionServer
from tests.support.videos import counting_video, make

SECOND = 1_000_000


def video_with(audio_stream: int | None, seconds: float = 4):
    return make_video("film").model_copy(update={"audio_stream": audio_stream, "duration_us": round(seconds * SECOND)})


def endpoint_of(server: TranscriptionServer) -> Endpoint:
    return Endpoint(server.url, "whisper", "a-long-secret-key")


@pytest.fixture(scope="module")
def beep(tmp_path_factory):
    return counting_video(tmp_path_factory.mktemp("sound") / "beep.mp4", beep_at=2.5)


def test_speech_has_the_videos_times(beep):
    with TranscriptionServer(text="Hello  there.") as server:
        [found] = transcribe(video_with(1), beep, endpoint_of(server))
    assert (found.kind, found.text) == ("speech", "Hello there.")
    assert found.start_us == pytest.approx(2.5 * SECOND, abs=50_000)
    assert found.end_us == pytest.approx(4 * SECOND, abs=50_000)
    [heard] = server.heard
    assert (heard.rate, heard.channels, heard.key) == (RATE, 1, "Bearer a-long-secret-key")
    assert len(heard.samples) == pytest.approx(4 * RATE, abs=RATE // 100)
    assert heard.fields["model"] == "whisper" and heard.fields["response_format"] == "verbose_json"
    assert heard.fields["timestamp_granularities[]"] == "segment"


def test_sound_that_starts_later_keeps_its_time(beep, tmp_path):
    late = make(
        tmp_path / "late.mkv", "-i", str(beep), "-itsoffset", "1", "-ss", "2.5", "-i", str(beep),
        "-map", "0:v", "-map", "1:a", "-c", "copy",
    )  # fmt: skip
    with TranscriptionServer() as server:
        [found] = transcribe(video_with(1), late, endpoint_of(server))
    assert found.start_us == pytest.approx(1 * SECOND, abs=60_000)


def test_a_video_without_sound_or_with_a_silent_track_sends_no_request(tmp_path):
    silent = counting_video(tmp_path / "silent.mp4", beep_at=99)
    with TranscriptionServer() as server:
        assert transcribe(video_with(None), silent, endpoint_of(server)) == []
        assert transcribe(video_with(1), silent, endpoint_of(server)) == []
    assert server.heard == []


@pytest.mark.parametrize(
    "segment",
    [
        {"start": 0.0, "end": 1.0, "text": "  "},
        {"start": 1.0, "end": 1.0, "text": "No time."},
        {"start": 90.0, "end": 99.0, "text": "After the end."},
        {"start": 0.0, "end": 1.0, "text": "Thank you for watching!", "no_speech_prob": 0.9, "avg_logprob": -1.5},
    ],
)
def test_a_segment_without_speech_is_dropped(beep, segment):
    good = {"start": 3.0, "end": 9.0, "text": "Hello."}
    body = {"task": "transcribe", "language": "en", "duration": 4.0, "text": "", "segments": [segment, good]}
    with TranscriptionServer(body=body) as server:
        [found] = transcribe(video_with(1), beep, endpoint_of(server))
    assert (found.text, found.start_us, found.end_us) == ("Hello.", 3 * SECOND, 4 * SECOND)


def test_an_endpoint_that_is_down_is_named_with_the_fix(beep):
    with TranscriptionServer() as server:
        pass
    with pytest.raises(ModelUnavailable, match=r"speech http://127.0.0.1.*cannot be reached.*LVR_SPEECH_URL"):
        transcribe(video_with(1), beep, endpoint_of(server), retries=0)


def test_an_endpoint_that_keeps_failing_is_unavailable(beep):
    with TranscriptionServer(status=500) as server, pytest.raises(ModelUnavailable, match="kept failing"):
        transcribe(video_with(1), beep, endpoint_of(server), retries=0)


def test_an_endpoint_without_times_is_unavailable(beep):
    with TranscriptionServer(body={"text": "Hello."}) as server, pytest.raises(ModelUnavailable, match="no segments"):
        transcribe(video_with(1), beep, endpoint_of(server))


def test_a_sound_that_is_not_accepted_is_a_refusal(beep):
    with TranscriptionServer(status=413) as server, pytest.raises(SpeechRefused, match="HTTP 413") as refused:
        transcribe(video_with(1), beep, endpoint_of(server))
    assert refused.value.reason == "speech_refused"


def test_a_transcript_is_requested_once_and_kept(beep, tmp_path):
    """Also by another process, and where the endpoint has moved."""
    with TranscriptionServer(text="Hello there.") as server, Journal(str(tmp_path)) as journal:
        first = transcribe(video_with(1), beep, endpoint_of(server), journal=journal)
    moved = Endpoint("http://127.0.0.1:9/v1", "whisper", "a-long-secret-key")
    with Journal(str(tmp_path)) as journal:
        assert transcribe(video_with(1), beep, moved, retries=0, journal=journal) == first
        with pytest.raises(ModelUnavailable):
            transcribe(video_with(1), beep, replace(moved, model="another"), retries=0, journal=journal)


def test_pieces_that_were_transcribed_before_a_crash_are_not_requested_again(tmp_path, monkeypatch):
    """The endpoint fails at the second of two pieces."""
    monkeypatch.setattr("operators.speech.transcription.PIECE_SECONDS", 40)
    film = counting_video(tmp_path / "long.mp4", seconds=45, fps=2, beep_at=1.0)
    video = video_with(1, 45)
    with TranscriptionServer() as server, Journal(str(tmp_path / "journal")) as journal:
        server.fail_after = 1
        with pytest.raises(ModelUnavailable):
            transcribe(video, film, endpoint_of(server), retries=0, journal=journal)
        assert len(server.heard) == 2
        server.fail_after = None
        found = transcribe(video, film, endpoint_of(server), journal=journal)
    assert len(server.heard) == 3
    assert found == sorted(found, key=lambda each: each.start_us)


def test_a_transcript_in_the_journal_has_no_secret(beep, tmp_path):
    with TranscriptionServer(text="Hello a-long-secret-key.") as server, Journal(str(tmp_path)) as journal:
        transcribe(video_with(1), beep, endpoint_of(server), journal=journal)
    [file] = tmp_path.iterdir()
    assert "Hello" in file.read_text() and "secret" not in file.read_text()


def test_long_sound_is_cut_where_it_is_quiet():
    """25 minutes of noise, with half a second of silence at 9:40, and none before 19:10."""
    rng = np.random.default_rng(0)
    sound = rng.integers(-5_000, 5_000, 25 * 60 * RATE).astype(np.int16)
    sound[580 * RATE : 580 * RATE + RATE // 2] = 0
    pieces = list(cut_pieces(np.array_split(sound, 200)))
    assert np.array_equal(np.concatenate([samples for _, samples in pieces]), sound)
    assert [first for first, _ in pieces] == [0, *np.cumsum([len(samples) for _, samples in pieces])[:-1]]
    assert all(2 * len(samples) + 44 < 25_000_000 and len(samples) <= PIECE_SECONDS * RATE for _, samples in pieces)
    assert pieces[1][0] == pytest.approx(580.25 * RATE, abs=0.11 * RATE)


def test_the_endpoint_is_named_completely_or_an_error():
    whole = {"LVR_SPEECH_URL": "http://host:8000/v1/", "LVR_SPEECH_MODEL": "whisper", "LVR_SPEECH_API_KEY": "secret"}
    assert speech_endpoint(whole) == Endpoint("http://host:8000/v1", "whisper", "secret")
    assert "secret" not in repr(speech_endpoint(whole))
    with pytest.raises(EndpointError, match="LVR_SPEECH_URL is not set"):
        speech_endpoint({})
    with pytest.raises(EndpointError, match="LVR_SPEECH_URL is 'host:8000'"):
        speech_endpoint({"LVR_SPEECH_URL": "host:8000"})
    with pytest.raises(EndpointError, match="no model is named; set LVR_SPEECH_MODEL"):
        speech_endpoint(whole | {"LVR_SPEECH_MODEL": ""})


def test_a_plan_fixes_the_transcription_model():
    environ = {"LVR_SPEECH_URL": "http://host/v1", "LVR_SPEECH_MODEL": "whisper-large-v3"}
    wanted = CaptionConfig(speech="endpoint")
    assert resolve_speech(wanted, environ).speech_model == "whisper-large-v3"
    assert resolve_speech(CaptionConfig(), environ) == CaptionConfig()
    with pytest.raises(EndpointError):
        resolve_speech(wanted, {})

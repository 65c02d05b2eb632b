"""Requests from a transcription endpoint what is spoken in a video, with times on the video's timeline.

The endpoint is OpenAI-compatible (`POST /v1/audio/transcriptions`), such as vLLM, faster-whisper or a hosted API with
Whisper. `LVR_SPEECH_URL`, `LVR_SPEECH_MODEL` and `LVR_SPEECH_API_KEY` name it. The main audio track is sent as 16 kHz
mono in pieces of at most ten minutes, each cut where it is quietest. A piece without sound is not sent, because Whisper
invents words there. Transcripts are kept in the journal of the work item, by the hash of their sound: after an
interruption only those of the other pieces are requested.
"""

from __future__ import annotations

import hashlib
import io
import os
import wave
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np
from av.audio.stream import AudioStream
from numpy.typing import NDArray
from pydantic import BaseModel, TypeAdapter

from operators.models.connection import RETRIES
from operators.models.endpoints import Endpoint, EndpointError, is_web_address, unavailable
from operators.models.journal import Journal
from operators.video.clips.sound import rate_of, read_long_sound
from operators.video.decode.packets import open_video, read_packets
from schemas.base import digest
from schemas.config import CaptionConfig, Speech
from schemas.journal import JournalEntry
from schemas.tables import Annotation, Video
from schemas.video.clock import SECOND_US

if TYPE_CHECKING:  # the import takes most of a second, so it runs only where a request is sent
    import openai

RATE = 16_000
"""Samples per second: what Whisper and its successors work on."""
PIECE_SECONDS = 600
"""Longest piece of sound in one request: 19.2 MB. OpenAI's API takes files up to 25 MB."""
SEARCHED_SECONDS = 30
"""Seconds at the end of a piece that are searched for the quietest place."""
SILENCE = 33
"""Largest sample, of 32,768, of a piece without sound: -60 dB."""
NO_SPEECH, MIN_LOGPROB = 0.6, -1.0
"""Segments with a higher probability of no speech and a lower mean log-prob are dropped, as by Whisper itself."""
TIMEOUT_SECONDS = 1_800.0
"""Longest wait for the transcript of a piece, in seconds."""
_STEP = RATE // 10
_SPEECH = "speech"
_REFUSED = frozenset({400, 413, 415, 422})
"""HTTP statuses of a server that does not accept this sound, while it may accept others."""


class SpokenSegment(BaseModel):
    """A passage of speech, as the endpoint states it, in seconds from the start of its piece."""

    start: float
    end: float
    text: str
    no_speech_prob: float | None = None
    avg_logprob: float | None = None


_SEGMENTS = TypeAdapter(list[SpokenSegment])


class SpeechRefused(Exception):
    """Raised when the endpoint does not accept the sound of a video. `reason` is `speech_refused`."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def speech_endpoint(environ: Mapping[str, str] = os.environ, model: str = "") -> Endpoint:
    """The transcription endpoint that the environment names.

    Args:
        model: the model of the build; by default the endpoint's.

    Raises:
        EndpointError: there is none, its address is invalid, or no model is named.
    """
    url = environ.get("LVR_SPEECH_URL", "").rstrip("/")
    endpoint = Endpoint(url, model or environ.get("LVR_SPEECH_MODEL", ""), environ.get("LVR_SPEECH_API_KEY", ""))
    if not is_web_address(url):
        found = f"is {endpoint.shown_url!r}" if url else "is not set"
        raise EndpointError(
            f"caption.speech=endpoint: LVR_SPEECH_URL {found}; set it to an address such as http://host:8000/v1, or "
            f"use caption.speech=annotations"
        )
    if not endpoint.model:
        raise EndpointError("caption.speech=endpoint: no model is named; set LVR_SPEECH_MODEL or caption.speech_model")
    return endpoint


def resolve_speech(config: CaptionConfig, environ: Mapping[str, str] = os.environ) -> CaptionConfig:
    """The configuration with the name of the transcription model filled in, as it is a part of the results' key.

    Raises:
        EndpointError: speech is requested from an endpoint that is not named completely.
    """
    if config.speech is not Speech.ENDPOINT:
        return config
    return config.model_copy(update={"speech_model": speech_endpoint(environ, config.speech_model).model})


def transcribe(
    video: Video, path: Path, endpoint: Endpoint, retries: int = RETRIES, journal: Journal | None = None
) -> list[Annotation]:
    """What is spoken in a video's main audio track, in order of time; empty for a video without sound.

    Args:
        path: the video's file.
        journal: keeps the transcripts. One that it has is not requested.

    Raises:
        ModelUnavailable: the endpoint cannot be used.
        SpeechRefused: the endpoint does not accept the sound.
        UnreadableVideo: the file cannot be read.
    """
    import openai

    found: list[Annotation] = []
    if video.audio_stream is None:
        return found
    with openai.OpenAI(
        base_url=endpoint.base_url,
        api_key=endpoint.api_key or "none",
        timeout=TIMEOUT_SECONDS,
        max_retries=retries,
    ) as client:
        for first, samples in cut_pieces(read_mono(path, video.audio_stream, video.duration_us)):
            if np.abs(samples.astype(np.int32)).max(initial=0) < SILENCE:
                continue
            segments = _request_segments(client, endpoint, video.video_id, _to_wav(samples), journal)
            start_us, end_us = (round(number * SECOND_US / RATE) for number in (first, first + len(samples)))
            for segment in segments:
                if annotation := _annotate(segment, start_us, min(end_us, video.duration_us)):
                    found.append(annotation)
    return sorted(found, key=lambda each: each.start_us)


def _request_segments(
    client: openai.OpenAI, endpoint: Endpoint, video_id: str, sound: bytes, journal: Journal | None
) -> list[SpokenSegment]:
    """The segments of a piece of sound: from the journal, or else from the endpoint, and into the journal.

    Raises:
        ModelUnavailable, SpeechRefused: see `transcribe`.
    """
    import openai

    request_sha256 = digest(["transcription", endpoint.model, hashlib.sha256(sound).hexdigest()])
    known = journal.get(request_sha256) if journal else None
    if known is not None:
        return _SEGMENTS.validate_json(known.raw)
    try:
        transcript = client.audio.transcriptions.create(
            file=("sound.wav", sound, "audio/wav"),
            model=endpoint.model,
            response_format="verbose_json",
            timestamp_granularities=["segment"],
            temperature=0.0,
        )
        if not isinstance(transcript.segments, list):
            raise TypeError(f"no segments with times, but {str(transcript)[:200]!r}")
        segments = _SEGMENTS.validate_python([segment.model_dump() for segment in transcript.segments])
    except openai.APIStatusError as error:
        if error.status_code in _REFUSED:
            refused = endpoint.mask_message(f"HTTP {error.status_code}: {error.message}")
            raise SpeechRefused(
                "speech_refused", f"{endpoint.shown_url} does not accept its sound ({refused})"
            ) from error
        raise unavailable(error, endpoint, _SPEECH) from error
    except (openai.OpenAIError, ValueError, TypeError, AttributeError) as error:  # a web page, or other JSON
        raise unavailable(error, endpoint, _SPEECH) from error
    segments = [each.model_copy(update={"text": endpoint.mask_secrets(each.text)}) for each in segments]
    if journal:
        journal.append(
            JournalEntry(
                request_sha256=request_sha256,
                origin_sha256=request_sha256,
                key=video_id,
                model=endpoint.model,
                raw=_SEGMENTS.dump_json(segments).decode(),
                finish_reason="stop",
                tokens_in=0,
                tokens_out=0,
            )
        )
    return segments


def _annotate(segment: SpokenSegment, start_us: int, end_us: int) -> Annotation | None:
    """A segment on the video's timeline; None if it holds no speech, or has no time within its piece."""
    text = " ".join(segment.text.split())
    begin_us = start_us + max(0, round(segment.start * SECOND_US))
    finish_us = min(end_us, start_us + round(segment.end * SECOND_US))
    invented = (segment.no_speech_prob or 0) > NO_SPEECH and (segment.avg_logprob or 0) < MIN_LOGPROB
    if not text or invented or begin_us >= finish_us:
        return None
    return Annotation(kind="speech", start_us=begin_us, end_us=finish_us, text=text)


def read_mono(path: Path, stream: int, duration_us: int) -> Iterator[NDArray[np.int16]]:
    """Yield an audio stream as mono samples at `RATE`, from the time of the first frame on. Gaps are silent.

    Args:
        stream: index of the stream in the container.
        duration_us: the video's duration.

    Raises:
        UnreadableVideo: the file cannot be read.
    """
    with open_video(path) as (container, picture):
        index = read_packets(container, picture, path)
    with open_video(path) as (container, _):
        sound = container.streams[stream]
        assert isinstance(sound, AudioStream)
        rate, channels = rate_of(sound), min(2, sound.codec_context.channels or 1)
        resampler = av.AudioResampler("s16", "mono", RATE)
        for block in read_long_sound(container, sound, index, (0, duration_us), channels):
            frame = av.AudioFrame.from_ndarray(block.mean(axis=0, keepdims=True), format="flt", layout="mono")
            frame.sample_rate = rate
            yield from (each.to_ndarray()[0] for each in resampler.resample(frame))
        yield from (each.to_ndarray()[0] for each in resampler.resample(None))


def cut_pieces(blocks: Iterable[NDArray[np.int16]]) -> Iterator[tuple[int, NDArray[np.int16]]]:
    """Yield pieces of at most `PIECE_SECONDS`, each with the number of its first sample.

    A piece ends at the quietest half second of its last `SEARCHED_SECONDS`, so that no word is cut in two.
    """
    first, waiting, length = 0, [np.zeros(0, np.int16)], 0
    for block in blocks:
        waiting.append(block)
        length += len(block)
        while length >= PIECE_SECONDS * RATE:
            samples = np.concatenate(waiting)
            end = _find_quiet(samples[: PIECE_SECONDS * RATE])
            yield first, samples[:end]
            first, waiting, length = first + end, [samples[end:]], length - end
    yield first, np.concatenate(waiting)


def _find_quiet(samples: NDArray[np.int16]) -> int:
    """Number of the sample in the middle of the quietest half second at the end of the samples."""
    searched = samples[-SEARCHED_SECONDS * RATE :].astype(np.float64)
    power = (searched[: len(searched) // _STEP * _STEP].reshape(-1, _STEP) ** 2).mean(axis=1)
    half_seconds = np.convolve(power, np.ones(5), mode="valid")
    return len(samples) - len(searched) + (int(half_seconds.argmin()) * _STEP) + 5 * _STEP // 2


def _to_wav(samples: NDArray[np.int16]) -> bytes:
    data = io.BytesIO()
    with wave.open(data, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(samples.astype("<i2").tobytes())
    return data.getvalue()

"""A real HTTP server that hears: it reports where the sound that it gets is loud, as a transcription endpoint does."""

from __future__ import annotations

import io
import json
import threading
import wave
from dataclasses import dataclass
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

LOUD = 1_000
"""Smallest sample, of 32,768, that is a beep."""


@dataclass(frozen=True)
class Heard:
    """A request for a transcript."""

    fields: dict[str, str]
    key: str
    rate: int
    channels: int
    samples: np.ndarray


class TranscriptionServer:
    """The server in a thread. `status` other than 200 makes it fail; `body` replaces its answers."""

    def __init__(self, text: str = "A beep.", status: int = 200, body: dict[str, Any] | None = None) -> None:
        self.text = text
        self.status = status
        self.body = body
        self.fail_after: int | None = None
        """Number of requests after which it fails with HTTP 500; None for never."""
        self.heard: list[Heard] = []
        handler = type("Handler", (_Handler,), {"owner": self})
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"

    def __enter__(self) -> TranscriptionServer:
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    def answer(self, heard: Heard) -> dict[str, Any]:
        loud = np.flatnonzero(np.abs(heard.samples.astype(int)) > LOUD)
        parts = np.split(loud, np.flatnonzero(np.diff(loud) > heard.rate // 2) + 1) if loud.size else []
        segments = [
            {
                "id": number, "seek": 0, "start": int(part[0]) / heard.rate, "end": (int(part[-1]) + 1) / heard.rate,
                "text": f" {self.text}", "tokens": [], "temperature": 0.0, "avg_logprob": -0.2,
                "compression_ratio": 1.0, "no_speech_prob": 0.1,
            }
            for number, part in enumerate(parts)
        ]  # fmt: skip
        text = " ".join(segment["text"] for segment in segments)
        return {"task": "transcribe", "language": "english", "duration": 1.0, "text": text, "segments": segments}


class _Handler(BaseHTTPRequestHandler):
    owner: TranscriptionServer

    def do_GET(self) -> None:
        self._send(
            200, {"object": "list", "data": [{"id": "whisper", "object": "model", "created": 0, "owned_by": ""}]}
        )

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
        fields, sound = {}, b""
        for part in BytesParser().parsebytes(head + data).get_payload():
            content = part.get_payload(decode=True)
            name = part.get_param("name", header="content-disposition")
            if name == "file":
                sound = content
            else:
                fields[name] = content.decode()
        with wave.open(io.BytesIO(sound)) as file:
            samples = np.frombuffer(file.readframes(file.getnframes()), np.int16)
            key = self.headers.get("Authorization", "")
            heard = Heard(fields, key, file.getframerate(), file.getnchannels(), samples)
        self.owner.heard.append(heard)
        limit = self.owner.fail_after
        status = 500 if limit is not None and len(self.owner.heard) > limit else self.owner.status
        if status != 200:
            self._send(status, {"error": {"message": "made to fail", "type": "test"}})
        else:
            self._send(200, self.owner.answer(heard) if self.owner.body is None else self.owner.body)

    def _send(self, status: int, value: Any) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Log nothing."""

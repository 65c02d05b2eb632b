"""The request that is sent to a model, and its hash.

The hash covers everything that can change the answer: model, messages, response schema, sampling and seed. Frames and
videos are represented by the sha256 of their bytes, and the schema includes the longest lengths, which most servers are
not sent. What is unset is no part of the hash. The hash is stored, compared and sent as the request id.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import re
from dataclasses import dataclass, replace
from typing import Any

from pydantic import BaseModel

from operators.models.answer_schema import strict_schema, wire_schema
from schemas.base import digest
from schemas.provenance import Sampling

_EXTRA = ("top_k", "min_p", "repetition_penalty", "thinking_token_budget", "chat_template_kwargs")
"""Parameters that vLLM and SGLang have and the OpenAI client does not."""


@dataclass(frozen=True)
class TimedFrame:
    """A JPEG frame and its time on the video's timeline."""

    time_us: int
    jpeg: bytes

    @property
    def timestamp(self) -> str:
        """The time as `[mm:ss.cc]` or `[h:mm:ss.cc]`, truncated (not rounded) to hundredths of a second."""
        minutes, rest = divmod(self.time_us // 10_000, 6_000)
        hours, minutes = divmod(minutes, 60)
        clock = f"{minutes:02d}:{rest // 100:02d}.{rest % 100:02d}"
        return f"[{hours}:{clock}]" if hours else f"[{clock}]"


@dataclass(frozen=True)
class Exchange:
    """Everything that is sent to get one answer."""

    model: str
    system: str
    frames: tuple[TimedFrame, ...]
    text: str
    output: type[BaseModel]
    sampling: Sampling
    seed: int
    video: bytes | None = None
    limits_text: bool = False
    """Whether the decoder is held to the longest texts. It follows from the model, and is no part of the hash."""
    repair: tuple[str, str] | None = None
    """An invalid answer to the same request, and a message that says what is wrong with it."""

    def with_repair(self, answer: str, complaint: str) -> Exchange:
        """The same request, followed by an invalid answer to it and a message that requests a valid one."""
        # An empty assistant message is rejected by some servers.
        return replace(self, repair=(answer or "(no answer)", complaint))

    def with_room(self, max_tokens: int) -> Exchange:
        """The same request with another limit on the tokens of its answer."""
        return replace(self, sampling=self.sampling.model_copy(update={"max_tokens": max_tokens}))

    @functools.cached_property
    def sha256(self) -> str:
        """Hash of everything that can change the answer."""
        seen: list[Any] = [[frame.time_us, hashlib.sha256(frame.jpeg).hexdigest()] for frame in self.frames]
        if self.video is not None:
            seen.append(["video", hashlib.sha256(self.video).hexdigest()])
        spoken = [self.system, seen, self.text, self.repair]
        sampling = self.sampling.model_dump(exclude_none=True)
        return digest([self.model, spoken, strict_schema(self.output), sampling, self.seed])

    def messages(self) -> list[dict[str, Any]]:
        """Chat messages, with frames or video first, so that requests on the same pictures share a prefix.

        Each frame follows its time.
        """
        messages: list[dict[str, Any]] = []
        if self.system:
            messages.append({"role": "system", "content": self.system})
        parts = [part for frame in self.frames for part in _frame_parts(frame)]
        if self.video is not None:
            parts.append({"type": "video_url", "video_url": {"url": _data_url("video/mp4", self.video)}})
        if parts:
            messages.append({"role": "user", "content": [*parts, {"type": "text", "text": self.text}]})
        else:
            messages.append({"role": "user", "content": self.text})
        if self.repair:
            answer, complaint = self.repair
            messages.append({"role": "assistant", "content": answer})
            messages.append({"role": "user", "content": complaint})
        return messages

    def options(self) -> dict[str, Any]:
        """The parameters of the API other than model and messages. What is unset is not sent."""
        found: dict[str, Any] = self.sampling.model_dump(exclude_none=True)
        extra = {name: found.pop(name) for name in _EXTRA if name in found}
        if template := extra.get("chat_template_kwargs"):
            extra["chat_template_kwargs"] = json.loads(template)
        if extra:
            found["extra_body"] = extra
        if response_format := self.response_format():
            found["response_format"] = response_format
        return {**found, "seed": self.seed}

    def response_format(self) -> dict[str, Any] | None:
        """The schema that the answer is decoded by; None for free text."""
        schema = wire_schema(self.output, self.limits_text)
        if schema is None:
            return None
        name = re.sub(r"[^A-Za-z0-9_-]", "_", self.output.__name__)[:64]
        return {"type": "json_schema", "json_schema": {"name": name, "schema": schema, "strict": True}}


def _frame_parts(frame: TimedFrame) -> list[dict[str, Any]]:
    return [
        {"type": "text", "text": frame.timestamp},
        {"type": "image_url", "image_url": {"url": _data_url("image/jpeg", frame.jpeg)}},
    ]


def _data_url(media_type: str, data: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"

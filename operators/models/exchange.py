"""The request that is sent to a model, its hash, and the parser of the answer.

The hash covers everything that can change the answer: model, messages, response schema, sampling and seed. Frames are
represented by the sha256 of their bytes. The hash is stored, compared and sent as the request id.
"""

from __future__ import annotations

import base64
import copy
import functools
import hashlib
import re
from dataclasses import dataclass, replace
from typing import Any

from pydantic import BaseModel
from pydantic_core import from_json

from schemas.base import digest
from schemas.provenance import Sampling


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
    repair: tuple[str, str] | None = None
    """An invalid answer to the same request, and a message that says what is wrong with it."""

    def with_repair(self, answer: str, complaint: str) -> Exchange:
        """The same request, followed by an invalid answer to it and a message that requests a valid one."""
        # An empty assistant message is rejected by some servers.
        return replace(self, repair=(answer or "(no answer)", complaint))

    @functools.cached_property
    def sha256(self) -> str:
        """Hash of everything that can change the answer."""
        frames = [[frame.time_us, hashlib.sha256(frame.jpeg).hexdigest()] for frame in self.frames]
        schema = strict_schema(self.output)
        spoken = [self.system, frames, self.text, self.repair]
        return digest([self.model, spoken, schema, self.sampling, self.seed])

    def messages(self) -> list[dict[str, Any]]:
        """Chat messages, frames first and each after its time, so that requests on the same frames share a prefix."""
        messages: list[dict[str, Any]] = []
        if self.system:
            messages.append({"role": "system", "content": self.system})
        if self.frames:
            parts = [part for frame in self.frames for part in _frame_parts(frame)]
            messages.append({"role": "user", "content": [*parts, {"type": "text", "text": self.text}]})
        else:
            messages.append({"role": "user", "content": self.text})
        if self.repair:
            answer, complaint = self.repair
            messages.append({"role": "assistant", "content": answer})
            messages.append({"role": "user", "content": complaint})
        return messages

    def response_format(self) -> dict[str, Any]:
        name = re.sub(r"[^A-Za-z0-9_-]", "_", self.output.__name__)[:64]
        return {
            "type": "json_schema",
            "json_schema": {"name": name, "schema": strict_schema(self.output), "strict": True},
        }


def _frame_parts(frame: TimedFrame) -> list[dict[str, Any]]:
    data = base64.b64encode(frame.jpeg).decode()
    return [
        {"type": "text", "text": frame.timestamp},
        {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{data}"}},
    ]


@functools.cache
def strict_schema(output: type[BaseModel]) -> dict[str, Any]:
    """A model's JSON schema as `strict` decoding requires it: all properties required, no others, no defaults."""
    schema = copy.deepcopy(output.model_json_schema())
    _make_strict(schema)
    return schema


def _make_strict(node: Any) -> None:
    if isinstance(node, list):
        for item in node:
            _make_strict(item)
    if not isinstance(node, dict):
        return
    properties = node.get("properties", {})
    if node.get("type") == "object":
        node["required"] = list(properties)
        node["additionalProperties"] = False
        for definition in properties.values():
            definition.pop("default", None)
    for item in node.values():
        _make_strict(item)


def read_answer(raw: str, output: type[BaseModel], cut: bool) -> BaseModel:
    """Parse a model's answer, without its reasoning before `</think>` and a code fence around the JSON.

    Args:
        raw: the answer.
        output: the model that the JSON must fit.
        cut: the model ran out of tokens. An unfinished JSON text is closed where it ends, which may still be valid.

    Raises:
        ValueError: the answer has no valid JSON for `output`. pydantic's ValidationError is one.
    """
    text = answer_text(raw)
    if cut:
        return output.model_validate(from_json(text, allow_partial="trailing-strings"))
    return output.model_validate_json(text)


def answer_text(raw: str) -> str:
    """The text of an answer without the reasoning before it and without a code fence around it."""
    text = raw.strip()
    if not text.startswith(("{", "```")):
        before, mark, after = text.partition("</think>")
        text = after.strip() if mark else before
    fenced = re.fullmatch(r"```(?:json)?\s*(.*?)\s*(?:```)?", text, re.DOTALL)
    return fenced[1] if fenced else text

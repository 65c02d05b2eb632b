"""A real OpenAI-compatible HTTP server for tests, with deterministic answers, injected faults and request counts.

An answer fits the JSON schema of the request and depends only on the request (`fill_schema`), unless a `script`
supplies it. A request for a thought and an answer in tags gets a guess. Run the server in a thread (`with
OpenAIServer() as server: server.url`) or as a separate process (`python tests/support/openai_server.py --port 8000`),
which prints its URL first.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import socket
import struct
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

REFUSAL = "I'm sorry, but I can't help with that."
Script = Callable[[dict[str, Any]], Any]


@dataclass(frozen=True)
class Reply:
    """A scripted answer with a finish reason, reasoning or a refusal besides its content."""

    content: Any
    """A string, or a value that is serialized as JSON."""
    finish_reason: str = "stop"
    reasoning: str | None = None
    refusal: str | None = None


@dataclass(frozen=True)
class Fault:
    """A fault to inject into one request."""

    status: int = 200
    """HTTP status. Unless it is 200, the answer is an error with `message` and `error_code`."""
    message: str = "made to fail"
    error_code: str | None = None
    retry_after: str | None = None
    drop: bool = False
    """Reset the connection instead of answering."""
    crash: bool = False
    """End the server, as `OpenAIServer.kill` does, instead of answering."""
    body: bytes | None = None
    """Bytes to send as the whole response body, with status 200."""
    content_type: str = "application/json"
    delay_seconds: float = 0.0
    """Seconds to wait before answering. If no other field is set, the request is only delayed."""
    content: str | None = None
    """Text to send as the model's answer, whatever the request."""
    finish_reason: str | None = None
    request_id: str | None = None
    """Request id to return instead of the one that the client sent."""


@dataclass(frozen=True)
class Seen:
    """A chat request as it arrived."""

    body: dict[str, Any]
    headers: dict[str, str]
    at: float
    """Arrival time, from `time.monotonic()`, in seconds."""


@dataclass
class Log:
    """The requests that the server has received, its queued faults, and its concurrency."""

    requests: list[Seen] = field(default_factory=list)
    faults: deque[Fault] = field(default_factory=deque)
    tokenized: list[dict[str, Any]] = field(default_factory=list)
    """Bodies of the requests for a number of tokens."""
    under_way: int = 0
    peak: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


def repetition(characters: int = 100_000) -> str:
    """A text of a model that came into a loop."""
    loop = "The man opens the door and goes in. "
    return (loop * (characters // len(loop) + 1))[:characters]


def refuse(body: dict[str, Any]) -> Any:
    """A script: valid JSON for the schema, in which every text is an apology."""
    schema = body.get("response_format", {}).get("json_schema", {}).get("schema")
    return fill_schema(schema, "refused", text=REFUSAL) if schema else REFUSAL


class OpenAIServer:
    """The server in a thread. It serves `models`. If `api_key` is given, requests must send it."""

    def __init__(
        self,
        models: tuple[str, ...] = ("fake-model",),
        script: Script | None = None,
        api_key: str | None = None,
        port: int = 0,
        delay_seconds: float = 0.0,
        context: dict[str, Any] | None = None,
        tokenize: Literal["vllm", "llama.cpp", "fails"] | None = None,
    ) -> None:
        self.models = models
        self.context = context or {}
        """Fields of each model in the list, such as `max_model_len` (vLLM, SGLang) or `meta` (llama.cpp)."""
        self.slot_tokens = 0
        """The context that `GET /props` states (llama.cpp); 0 for a server without that address."""
        self.tokenize = tokenize
        """The protocol of `POST /tokenize`, which counts words as tokens; None for a server without that address."""
        self.script = script
        self.api_key = api_key
        self.delay_seconds = delay_seconds
        """Minimum duration of every answer, in seconds."""
        self.always_fails: dict[str, Fault] = {}
        """Faults of all requests whose last message contains a text. They come before queued faults."""
        self.thinking: Callable[[dict[str, Any]], int] | None = None
        """Number of tokens of thinking before each answer, of the request's `max_tokens`. An answer for which no tokens
        are left is cut off, at four characters for each token."""
        self.served_model = ""
        """Model that answers name. Empty: the requested one."""
        self.log = Log()
        self._handler = type("Handler", (_Handler,), {"owner": self})
        self._http = _Server(("127.0.0.1", port), self._handler)
        self._port = self._http.server_port
        self._is_running = False
        self.url = f"http://127.0.0.1:{self._port}/v1"

    def __enter__(self) -> OpenAIServer:
        self._serve()
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_running:
            self.kill()

    def kill(self) -> None:
        """Stop listening and reset all connections, as a process that is killed does."""
        self._is_running = False
        self._http.shutdown()
        self._http.server_close()
        self._http.close_connections()

    def restart(self) -> None:
        """Serve again on the same port after `kill`."""
        self._http = _Server(("127.0.0.1", self._port), self._handler)
        self._serve()

    def _serve(self) -> None:
        self._is_running = True
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    @property
    def requests(self) -> list[Seen]:
        """Chat requests in order of arrival, including failed ones."""
        with self.log.lock:
            return list(self.log.requests)

    @property
    def count(self) -> Counter[str]:
        """Number of chat requests per model."""
        return Counter(seen.body["model"] for seen in self.requests)

    @property
    def peak(self) -> int:
        """Maximum number of concurrent chat requests so far."""
        return self.log.peak

    def fail(self, *faults: Fault, times: int = 1) -> None:
        """Queue faults for the next chat requests: one per request, the whole sequence repeated `times` times."""
        with self.log.lock:
            self.log.faults.extend(faults * times)

    def environ(self, *roles: str, vision: bool | None = None) -> dict[str, str]:
        """Environment variables that point these roles (all roles, if none is named) to this server's first model."""
        found = {}
        for prefix, name in [(f"LVR_{role.upper()}", "MODEL") for role in roles] or [("LVR_MODEL", "NAME")]:
            found |= {f"{prefix}_URL": self.url, f"{prefix}_{name}": self.models[0]}
            found |= {} if vision is None else {f"{prefix}_VISION": str(int(vision))}
            found |= {f"{prefix}_API_KEY": self.api_key} if self.api_key else {}
        return found

    def answer(self, body: dict[str, Any]) -> Reply:
        scripted = self.script(body) if self.script else None
        if scripted is None:
            scripted = _default_content(body)
        return scripted if isinstance(scripted, Reply) else Reply(scripted)


def last_text(body: dict[str, Any]) -> str:
    """The text of a request's last message, which scripts usually inspect."""
    content = body["messages"][-1]["content"]
    return content if isinstance(content, str) else content[-1]["text"]


def fill_schema(schema: dict[str, Any], seed: str, text: str | None = None) -> Any:
    """A value that fits a JSON schema and is determined by `seed`. Supports the keywords that pydantic writes.

    Args:
        text: value of every text without a pattern; by default a made-up one.
    """
    return _fill(schema, schema.get("$defs", {}), seed, text)


def _fill(schema: dict[str, Any], defs: dict[str, Any], seed: str, text: str | None) -> Any:
    draw = int(hashlib.sha256(seed.encode()).hexdigest()[:12], 16)
    if "$ref" in schema:
        return _fill(defs[schema["$ref"].rsplit("/", 1)[-1]], defs, seed, text)
    for choice in ("anyOf", "oneOf", "allOf"):
        if choice in schema:
            return _fill(schema[choice][draw % len(schema[choice])], defs, seed, text)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][draw % len(schema["enum"])]
    match schema.get("type"):
        case "object":
            parts = schema.get("properties", {})
            return {name: _fill(part, defs, f"{seed}.{name}", text) for name, part in parts.items()}
        case "array" if "prefixItems" in schema:
            return [_fill(part, defs, f"{seed}.{i}", text) for i, part in enumerate(schema["prefixItems"])]
        case "array":
            least = schema.get("minItems", 1)
            length = least + draw % (min(schema.get("maxItems", least + 2), least + 2) - least + 1)
            return [_fill(schema["items"], defs, f"{seed}.{i}", text) for i in range(length)]
        case "integer":
            return int(_number(schema, draw, 1))
        case "number":
            return _number(schema, draw, 1e-3)
        case "boolean":
            return draw % 2 == 0
        case "null":
            return None
        case "string":
            return text if text is not None and "pattern" not in schema else _text(schema, draw)
    raise ValueError(f"the test server cannot fill the schema {schema}")


def _number(schema: dict[str, Any], draw: int, step: float) -> float:
    low = schema.get("minimum", schema.get("exclusiveMinimum", 0 - step) + step)
    high = schema.get("maximum", schema.get("exclusiveMaximum", low + 100 + step) - step)
    return low + (draw % 1000) / 1000 * (high - low)


def _text(schema: dict[str, Any], draw: int) -> str:
    if "pattern" in schema:
        return _matching(schema["pattern"], draw)
    words = ["red", "dog", "opens", "door", "after", "long", "walk", "near", "table", "quietly"]
    text = " ".join(words[(draw >> shift) % len(words)] for shift in range(0, 40, 4)) + f" {draw % 10_000}"
    text = (text * (schema.get("minLength", 0) // len(text) + 1))[: schema.get("maxLength")]
    return text.strip() if len(text.strip()) >= schema.get("minLength", 0) else text


def _matching(pattern: str, draw: int) -> str:
    for candidate in (f"{draw % 3:02d}:{draw % 60:02d}", f"{draw % 3:02d}:{draw % 60:02d}.00", str(draw), f"x{draw}"):
        if re.search(pattern, candidate):
            return candidate
    raise ValueError(f"the test server cannot make a text for the pattern {pattern!r}; give it a script")


def _default_content(body: dict[str, Any]) -> Any:
    seed = json.dumps([body["model"], body["messages"], body.get("seed"), body.get("temperature")], sort_keys=True)
    wanted = body.get("response_format", {}).get("json_schema", {}).get("schema")
    if wanted:
        return fill_schema(wanted, seed)
    draw = hashlib.sha256(seed.encode()).hexdigest()[:8]
    if "<answer></answer>" not in last_text(body):
        return f"An answer {draw}."
    letters = re.findall(r"^([A-J])\. ", last_text(body), re.MULTILINE)
    answer = letters[int(draw, 16) % len(letters)] if letters else f"an answer {draw}"
    return f"<think>I guess.</think><answer>{answer}</answer>"


def _as_text(content: Any) -> str | None:
    return content if isinstance(content, str) or content is None else json.dumps(content, ensure_ascii=False)


def _limit(reply: Reply, max_tokens: int, thinking: int) -> Reply:
    """An answer after so many tokens of thinking, of which a server's parser shows the beginning."""
    text = _as_text(reply.content) or ""
    left = 4 * (max_tokens - thinking)
    reasoning = reply.reasoning or "Hmm. " * min(thinking, 20)
    if len(text) <= left:
        return replace(reply, reasoning=reasoning)
    return replace(reply, content=text[:left], reasoning=reasoning, finish_reason="length")


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def __init__(self, *arguments: Any) -> None:
        self._connections: set[socket.socket] = set()
        super().__init__(*arguments)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def close_connections(self) -> None:
        for connection in list(self._connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log nothing: clients that disconnect are part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    owner: OpenAIServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        if self.path == "/props" and self.owner.slot_tokens:
            self._send(200, {"default_generation_settings": {"n_ctx": self.owner.slot_tokens}})
        elif self.path != "/v1/models":
            self._send_error(404, f"no such address: {self.path}")
        elif self._key_is_right():
            model = {"object": "model", "created": 0, "owned_by": "test", **self.owner.context}
            self._send(200, {"object": "list", "data": [{"id": name, **model} for name in self.owner.models]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/tokenize" and self.owner.tokenize == "fails":
            self._send_error(500, "no tokenizer")
            return
        if self.path == "/tokenize" and self.owner.tokenize:
            self._count_tokens(body)
            return
        if self.path != "/v1/chat/completions":
            self._send_error(404, f"no such address: {self.path}")
            return
        log = self.owner.log
        with log.lock:
            log.requests.append(Seen(body, {k.lower(): v for k, v in self.headers.items()}, time.monotonic()))
            text = last_text(body)
            always = [fault for part, fault in self.owner.always_fails.items() if part in text]
            fault = always[0] if always else log.faults.popleft() if log.faults else Fault()
            log.under_way += 1
            log.peak = max(log.peak, log.under_way)
        try:
            time.sleep(fault.delay_seconds + self.owner.delay_seconds)
        finally:
            with log.lock:
                log.under_way -= 1
        self._answer(body, fault)

    def _count_tokens(self, body: dict[str, Any]) -> None:
        """Answer as vLLM or as llama.cpp does, which takes a missing text for an empty one."""
        with self.owner.log.lock:
            self.owner.log.tokenized.append(body)
        if self.owner.tokenize == "llama.cpp":
            self._send(200, {"tokens": list(range(len(body.get("content", "").split())))})
        elif "prompt" in body and body["model"] in self.owner.models:
            self._send(200, {"count": len(body["prompt"].split()), **self.owner.context})
        else:
            self._send_error(400, f"no prompt or no such model: {body}")

    def _answer(self, body: dict[str, Any], fault: Fault) -> None:
        if fault.crash:
            threading.Thread(target=self.owner.kill, daemon=True).start()
        if fault.drop or fault.crash:
            # With linger 0, the client sees a connection reset.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.close()
        elif fault.body is not None:
            self._send_bytes(200, fault.body, {"Content-Type": fault.content_type})
        elif fault.status != 200:
            headers = {"Retry-After": fault.retry_after} if fault.retry_after else {}
            self._send_error(fault.status, fault.message, fault.error_code, headers)
        elif body["model"] not in self.owner.models:
            self._send_error(404, f"The model `{body['model']}` does not exist.", "model_not_found")
        elif self._key_is_right():
            reply, thinking = self.owner.answer(body), 0
            if self.owner.thinking is not None:
                thinking = min(self.owner.thinking(body), body["max_tokens"])
                reply = _limit(reply, body["max_tokens"], thinking)
            self._send_completion(body, reply, fault, thinking)

    def _send_completion(self, body: dict[str, Any], reply: Reply, fault: Fault, thinking: int) -> None:
        text = _as_text(reply.content if fault.content is None else fault.content)
        message = {"role": "assistant", "content": text, "refusal": reply.refusal}
        if reply.reasoning is not None:
            message["reasoning_content"] = reply.reasoning
        named = fault.request_id or self.headers.get("X-Request-Id", "none")
        prompt_tokens, completion_tokens = len(json.dumps(body["messages"])) // 4, thinking + len(text or "") // 4
        counts = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
        completion = {
            "id": f"chatcmpl-{named}",
            "object": "chat.completion",
            "created": 0,
            "model": self.owner.served_model or body["model"],
            "choices": [{"index": 0, "message": message, "finish_reason": fault.finish_reason or reply.finish_reason}],
            "usage": {**counts, "total_tokens": sum(counts.values())},
        }
        self._send(200, completion, {"X-Request-Id": named})

    def _key_is_right(self) -> bool:
        right = self.owner.api_key is None or self.headers.get("Authorization") == f"Bearer {self.owner.api_key}"
        if not right:
            self._send_error(401, "Incorrect API key provided.", "invalid_api_key")
        return right

    def _send_error(
        self, status: int, message: str, code: str | None = None, headers: dict[str, str] | None = None
    ) -> None:
        self._send(status, {"error": {"message": message, "type": "test", "code": code}}, headers)

    def _send(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        self._send_bytes(status, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})

    def _send_bytes(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve made-up answers over the OpenAI protocol.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--model", action="append", help="a model name to serve; may be given several times")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds that every answer takes at least")
    options = parser.parse_args()
    models = tuple(options.model or ["fake-model"])
    with OpenAIServer(models=models, port=options.port, delay_seconds=options.delay) as server:
        print(server.url, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()

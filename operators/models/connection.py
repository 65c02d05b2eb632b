"""One role's way to a model server: the official openai client, a bound on requests under way, errors in words.

Retries are the openai client's own: for lost connections, timeouts, HTTP 408, 409, 429 and 5xx it waits 0.5 s,
doubling up to 8 s, less up to a quarter at random, or for as long as `Retry-After` says (up to two minutes; beyond,
it gives up). A request's id travels as `X-Request-Id: lvr-{sha256}`, and an answer that carries the id of another
request is an error: a text can never land on another clip. Servers that do not repeat the id (llama.cpp) leave that to
HTTP itself.
"""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, cast

from operators.models.endpoints import Endpoint, unavailable
from operators.models.exchange import Exchange
from schemas.config import ModelConfig, Role
from schemas.errors import Outage

if TYPE_CHECKING:  # importing it costs most of a second: only who asks something pays
    import openai
    from openai.types.chat import ChatCompletion

RETRIES = 6
"""23.5 s of waiting in all, when the server does not say how long to wait."""
_FINISH: dict[str | None, Literal["stop", "length", "content_filter"]] = {
    "length": "length",
    "content_filter": "content_filter",
}
_OUR_ID = re.compile(r"lvr-([0-9a-f]{64})(?![0-9a-f])")
"""The prefix tells it from a gateway's own ids, which may be hashes, too."""
_TOO_LONG = re.compile(
    r"context.?(length|window|size)|maximum (model|input|prompt|sequence) length"
    r"|\b(prompt|input|request|sequence|messages?)\b.*(too (long|large)|exceed)",
    re.IGNORECASE | re.DOTALL,
)
"""In the words of OpenAI, vLLM, SGLang and llama.cpp."""
_SET_UP = re.compile(r"max_(\w+_)?tokens(?!.*\b(prompt|input)\b)|temperature|schema|quota", re.IGNORECASE | re.DOTALL)
"""What is asked of every request alike; vLLM names `max_tokens` also where the prompt leaves no room for them."""
_BLOCKED = re.compile(r"content.?filter|content.?policy|safety|moderation|inspection", re.IGNORECASE)


class ForeignAnswer(Outage):
    """A server or proxy returned the answer to another request."""


class RequestRefused(Exception):
    """The server will never answer this very request. `reason` is `too_long` or `blocked`."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Reply:
    """A model's raw answer: its reasoning, if it came apart, stands before the text between think tags."""

    raw: str
    finish_reason: Literal["stop", "length", "content_filter"]
    tokens_in: int
    tokens_out: int


class BusyClock:
    """Seconds in which at least one request was under way. For use inside one event loop."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._under_way = 0
        self._since = 0.0

    def __enter__(self) -> None:
        if not self._under_way:
            self._since = time.monotonic()
        self._under_way += 1

    def __exit__(self, *_: object) -> None:
        self._under_way -= 1
        if not self._under_way:
            self.seconds += time.monotonic() - self._since


class Connection:
    """Asks one endpoint. All coroutines must run in one event loop."""

    def __init__(self, role: Role, endpoint: Endpoint, config: ModelConfig, retries: int = RETRIES) -> None:
        import openai

        self.role = role
        self.endpoint = endpoint
        self._slots = asyncio.Semaphore(config.concurrency)
        self._client = openai.AsyncOpenAI(
            base_url=endpoint.base_url,
            api_key=endpoint.api_key or "none",
            timeout=openai.Timeout(config.timeout_seconds, connect=10.0),
            max_retries=retries,
        )

    async def close(self) -> None:
        await self._client.close()

    async def ask(self, exchange: Exchange, busy: BusyClock) -> Reply:
        """The answer, valid or not. Raises RequestRefused, ModelUnavailable or ForeignAnswer."""
        import openai
        from openai.types.chat import ChatCompletion

        async with self._slots:
            with busy:
                try:
                    response = await self._client.chat.completions.with_raw_response.create(
                        model=exchange.model,
                        messages=cast(Any, exchange.messages()),
                        response_format=cast(Any, exchange.response_format()),
                        temperature=exchange.sampling.temperature,
                        top_p=exchange.sampling.top_p,
                        max_tokens=exchange.sampling.max_tokens,
                        seed=exchange.seed,
                        extra_headers={"X-Request-Id": f"lvr-{exchange.sha256}"},
                    )
                    completion: object = response.parse()
                except openai.APIStatusError as error:
                    refused = _refused(error, self.endpoint.scrubbed_message(error.message))
                    raise refused or unavailable(error, self.endpoint, self.role) from error
                except (openai.OpenAIError, ValueError) as error:  # ValueError: a body that is not JSON
                    raise unavailable(error, self.endpoint, self.role) from error
        if not isinstance(completion, ChatCompletion) or not isinstance(completion.choices, list):
            nonsense = TypeError(f"no chat completion: {str(completion)[:200]!r}")
            raise unavailable(nonsense, self.endpoint, self.role)
        self._assert_ours(exchange.sha256, response.headers.get("x-request-id", ""), completion.id)
        reply = _reply(completion)
        return replace(reply, raw=self.endpoint.scrubbed(reply.raw))  # what is kept as it came, comes from here

    def _assert_ours(self, sha256: str, *named: str | None) -> None:
        foreign = {found for name in named for found in _OUR_ID.findall(name or "")} - {sha256}
        if foreign:
            raise ForeignAnswer(
                f"{self.role.value}: {self.endpoint.shown_url} answered request {sha256} with the answer to "
                f"{min(foreign)}; answers are mixed up on the way: take out the proxy or cache between"
            )


def _refused(error: openai.APIStatusError, told: str) -> RequestRefused | None:
    """Whether an HTTP error is about this very request (too long, filtered), not about the server or its set-up.

    Args:
        told: the error's message without secrets.
    """
    words = f"{error.code} {error.type} {error.message}"
    if error.status_code in {400, 403} and _BLOCKED.search(words):
        return RequestRefused("blocked", f"the server's content filter refused the request: {told}")
    is_too_long = _TOO_LONG.search(words) and not _SET_UP.search(words)
    if error.status_code == 413 or (error.status_code in {400, 422} and is_too_long):
        return RequestRefused("too_long", f"the request is too long for the model: {told}")
    return None


def _reply(completion: ChatCompletion) -> Reply:
    usage = completion.usage
    counts = (usage.prompt_tokens, usage.completion_tokens) if usage else (0, 0)
    if not completion.choices:
        return Reply("", "stop", *counts)
    choice = completion.choices[0]
    thoughts = getattr(choice.message, "reasoning_content", None) or getattr(choice.message, "reasoning", None)
    text = choice.message.content or ""
    raw = f"<think>{thoughts}</think>{text}" if isinstance(thoughts, str) else text
    finish = "content_filter" if choice.message.refusal else _FINISH.get(choice.finish_reason, "stop")
    # Half of a surrogate pair is legal in JSON but not in UTF-8, in which everything is kept.
    return Reply((raw or choice.message.refusal or "").encode("utf-8", "replace").decode(), finish, *counts)

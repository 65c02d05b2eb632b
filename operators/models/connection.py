"""One role's connection to a model server: the official openai client, a limit on concurrent requests, typed errors.

Retries are the openai client's own. After a lost connection, a timeout, or HTTP 408, 409, 429 or 5xx it waits 0.5 s,
doubling up to 8 s, minus a random part of up to a quarter. Where the server sends `Retry-After`, it waits for that time
instead; beyond two minutes it gives up.

A request that still fails with 5xx, a timeout or a lost connection is sent once more when the server answers a tiny
request (`operators.models.health`). If it fails then, too, and the server still answers others, the fault is the
request's. If the server went down, it may be one of several requests that ended it. So each is sent alone after that,
and the one that fails again is at fault. A server that answers nothing is waited for each time, as long as the role's
`patience_seconds` last.

A server that is still busy after these retries (HTTP 429) is waited for as long, and for the time of its `Retry-After`.
It answers other requests, so this is no fault of the request, and no reason for a reject.

A request's id is sent as `X-Request-Id: lvr-{sha256}`. An answer that carries the id of another request is an error, so
that no text is ever stored for the wrong clip. With servers that do not repeat the id (llama.cpp), HTTP alone matches
answers to requests.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import re
import time
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Literal, cast

from operators.models.context import ServedContext
from operators.models.endpoints import Endpoint, unavailable
from operators.models.exchange import Exchange
from operators.models.health import Failed, Health
from operators.models.tokens import token_bound
from schemas.config import ModelConfig, Role
from schemas.errors import Outage

if TYPE_CHECKING:  # the import takes most of a second, so it runs only where a request is sent
    import openai
    from openai.types.chat import ChatCompletion

log = logging.getLogger(__name__)

RETRIES = 6
"""Retries of a request. They wait at most 23.5 s in total when the server does not say how long to wait."""
BUSY_SECONDS = 8.0
"""Pause before a busy server gets a request again, if it does not state one."""
_FINISH: dict[str | None, Literal["stop", "length", "content_filter"]] = {
    "length": "length",
    "content_filter": "content_filter",
}
_OUR_ID = re.compile(r"lvr-([0-9a-f]{64})(?![0-9a-f])")
"""A request id of ours. The prefix distinguishes it from a gateway's own ids, which may also be hashes."""
_TOO_LONG = re.compile(
    r"context.?(length|window|size)|maximum (model|input|prompt|sequence) length"
    r"|\b(prompt|input|request|sequence|messages?)\b.*(too (long|large)|exceed)",
    re.IGNORECASE | re.DOTALL,
)
"""Error messages for a request that is too long, as worded by OpenAI, vLLM, SGLang and llama.cpp."""
_SET_UP = re.compile(r"max_(\w+_)?tokens(?!.*\b(prompt|input)\b)|temperature|schema|quota", re.IGNORECASE | re.DOTALL)
"""Settings that all requests share. An error that names one of them is not about the length of a single request.

vLLM also names `max_tokens` when the prompt leaves no room for them. Such messages then mention the prompt or the
input, and do not match.
"""
_BLOCKED = re.compile(r"content.?filter|content.?policy|safety|moderation|inspection", re.IGNORECASE)


class Busy(Exception):
    """Raised when a server has too many requests (HTTP 429) in spite of all retries."""

    def __init__(self, error: openai.RateLimitError) -> None:
        super().__init__(error.message)
        self.error = error

    @property
    def pause(self) -> float:
        """Seconds until the request may be sent again: those that the server states, and otherwise `BUSY_SECONDS`."""
        stated = self.error.response.headers.get("retry-after", "")
        try:
            seconds = float(stated)
        except ValueError:
            try:
                seconds = parsedate_to_datetime(stated).timestamp() - time.time()
            except ValueError:
                return BUSY_SECONDS
        return max(seconds, 0.1) if math.isfinite(seconds) else BUSY_SECONDS


class ForeignAnswer(Outage):
    """Raised when a server or proxy returned the answer to another request."""


class RequestRefused(Exception):
    """Raised when the server will never answer this particular request.

    `reason` is `too_long`, `blocked` or `request_failed`.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Reply:
    """A model's raw answer."""

    thoughts: str | None
    """Thinking that the server returned apart from the text; None if it returned none."""
    text: str
    finish_reason: Literal["stop", "length", "content_filter"]
    tokens_in: int
    tokens_out: int
    served_model: str
    """Name of the model that the server states; empty if it states none."""


class BusyClock:
    """Measures the seconds during which at least one request is in flight. For use inside one event loop."""

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
    """Sends requests to one endpoint. All coroutines must run in one event loop."""

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
        self._context = ServedContext(self._client, endpoint, role)
        self._health = Health(self._client, endpoint.model, config.timeout_seconds)
        self._patience = config.patience_seconds
        self._suspects = asyncio.Lock()
        """Held by the one request that is sent alone, among those that failed twice while the server went down."""
        self._was_busy = False
        self._other_names: set[str] = set()
        self._expects_thinking = config.thinking_room > 0

    async def close(self) -> None:
        await self._client.close()

    async def context_tokens(self) -> int:
        """Tokens of a request and its answer, as the server states it.

        Raises:
            ModelUnavailable: the server cannot be used.
        """
        try:
            return await self._context.tokens()
        except Failed as failed:
            await self._wait_for_server(failed)
        try:
            return await self._context.tokens()
        except Failed as failed:
            raise unavailable(failed.error, self.endpoint, self.role) from failed.error

    async def count_tokens(self, text: str) -> int:
        """Number of tokens of a text by the server's tokenizer, or an upper bound where the server counts none.

        Raises:
            ModelUnavailable: the server cannot be used.
        """
        try:
            return await self._context.count(text)
        except Failed as failed:
            await self._wait_for_server(failed)
        try:
            return await self._context.count(text)
        except Failed:  # it answers requests, but counts no tokens
            return token_bound(text)

    async def call(self, exchange: Exchange, busy: BusyClock) -> Reply:
        """Send a request and return the raw answer, valid or not.

        Raises:
            RequestRefused: the request is too long, blocked by a content filter, or one that the server always fails.
            ModelUnavailable: the server cannot be used.
            ForeignAnswer: the server returned the answer to another request.
        """
        async with self._slots:
            try:
                return await self._send(exchange, busy, self._client)
            except Failed as failed:
                return await self._send_again(exchange, busy, failed)

    async def _send_again(self, exchange: Exchange, busy: BusyClock, failed: Failed) -> Reply:
        """Send a request that failed in spite of its retries, when the server answers another one."""
        for others in (contextlib.nullcontext(), self._suspects):
            async with others:
                await self._wait_for_server(failed)
                try:
                    return await self._send(exchange, busy, self._client.with_options(max_retries=1))
                except Failed as again:
                    failed = again
                if await self._health.is_answering():
                    break
        await self._wait_for_server(failed)
        reason = self.endpoint.mask_message(failed.found)
        raise RequestRefused(
            "request_failed", f"the server fails at this request ({reason}), and answers others"
        ) from failed.error

    async def _wait_for_server(self, failed: Failed) -> None:
        if not await self._health.wait(failed.at, time.monotonic() + self._patience):
            raise unavailable(failed.error, self.endpoint, self.role) from failed.error

    async def _send(self, exchange: Exchange, busy: BusyClock, client: openai.AsyncOpenAI) -> Reply:
        """Send a request, and again while the server is busy and the role's patience lasts."""
        deadline = None
        while True:
            try:
                return await self._send_once(exchange, busy, client)
            except Busy as met:
                now = time.monotonic()
                deadline = now + self._patience if deadline is None else deadline
                if now + met.pause > deadline:
                    raise unavailable(met.error, self.endpoint, self.role) from met.error
                if not self._was_busy:
                    self._was_busy = True
                    log.warning(
                        "%s: %s has too many requests (HTTP 429); waiting for it for up to %.0f s",
                        self.role.value, self.endpoint.shown_url, self._patience,
                    )  # fmt: skip
                await asyncio.sleep(met.pause)

    async def _send_once(self, exchange: Exchange, busy: BusyClock, client: openai.AsyncOpenAI) -> Reply:
        import openai
        from openai.types.chat import ChatCompletion

        with busy:
            try:
                response = await client.chat.completions.with_raw_response.create(
                    model=exchange.model,
                    messages=cast(Any, exchange.messages()),
                    extra_headers={"X-Request-Id": f"lvr-{exchange.sha256}"},
                    **exchange.options(),
                )
                completion: object = response.parse()
            except openai.APIStatusError as error:
                if error.status_code >= 500:
                    raise Failed(f"HTTP {error.status_code}: {error.message}", error) from error
                if isinstance(error, openai.RateLimitError) and "quota" not in f"{error.code} {error.type}":
                    raise Busy(error) from error
                refused = _refusal(error, self.endpoint.mask_message(error.message))
                raise refused or unavailable(error, self.endpoint, self.role) from error
            except openai.APITimeoutError as error:
                raise Failed("no answer in time", error) from error
            except openai.APIConnectionError as error:
                raise Failed(f"lost connection: {error.__cause__ or error}", error) from error
            except (openai.OpenAIError, ValueError) as error:  # ValueError: a body that is not JSON
                raise unavailable(error, self.endpoint, self.role) from error
        if not isinstance(completion, ChatCompletion) or not isinstance(completion.choices, list):
            nonsense = TypeError(f"no chat completion: {str(completion)[:200]!r}")
            raise unavailable(nonsense, self.endpoint, self.role)
        self._assert_ours(exchange.sha256, response.headers.get("x-request-id", ""), completion.id)
        reply = _reply(completion)
        self._warn_of_another_model(exchange.model, reply.served_model)
        self._warn_of_thinking(reply)
        mask = self.endpoint.mask_secrets  # all stored raw answers come from here
        return replace(reply, text=mask(reply.text), thoughts=None if reply.thoughts is None else mask(reply.thoughts))

    def _warn_of_another_model(self, requested: str, served: str) -> None:
        if served not in {"", requested, *self._other_names}:
            self._other_names.add(served)
            log.warning(
                "%s: %s was requested, and %s states that %s answered; unless one is an alias of the other, check "
                "which model is served",
                self.role.value,
                requested,
                self.endpoint.shown_url,
                served,
            )

    def _warn_of_thinking(self, reply: Reply) -> None:
        if reply.thoughts and not self._expects_thinking:
            self._expects_thinking = True
            log.warning(
                "%s: %s thinks before it answers; set models.%s.thinking=true, so that its thoughts take no tokens "
                "from its answers",
                self.role.value,
                self.endpoint.model,
                self.role.value,
            )

    def _assert_ours(self, sha256: str, *named: str | None) -> None:
        foreign = {found for name in named for found in _OUR_ID.findall(name or "")} - {sha256}
        if foreign:
            raise ForeignAnswer(
                f"{self.role.value}: {self.endpoint.shown_url} answered request {sha256} with the answer to "
                f"{min(foreign)}; remove the proxy or cache that mixes up answers"
            )


def _refusal(error: openai.APIStatusError, message: str) -> RequestRefused | None:
    """The refusal if an HTTP error is about this request (too long or filtered), None if it is about the server.

    An error about settings that all requests share counts as one about the server.

    Args:
        message: the error's message without secrets.
    """
    words = f"{error.code} {error.type} {error.message}"
    if error.status_code in {400, 403} and _BLOCKED.search(words):
        return RequestRefused("blocked", f"the server's content filter refused the request: {message}")
    is_too_long = _TOO_LONG.search(words) and not _SET_UP.search(words)
    if error.status_code == 413 or (error.status_code in {400, 422} and is_too_long):
        return RequestRefused("too_long", f"the request is too long for the model: {message}")
    return None


def _reply(completion: ChatCompletion) -> Reply:
    usage = completion.usage
    counts = (usage.prompt_tokens, usage.completion_tokens) if usage else (0, 0)
    served = completion.model if isinstance(completion.model, str) else ""
    if not completion.choices:
        return Reply(None, "", "stop", *counts, served)
    choice = completion.choices[0]
    thoughts = getattr(choice.message, "reasoning_content", None) or getattr(choice.message, "reasoning", None)
    text = choice.message.content or choice.message.refusal or ""
    finish = "content_filter" if choice.message.refusal else _FINISH.get(choice.finish_reason, "stop")
    kept = _storable(thoughts) if thoughts and isinstance(thoughts, str) else None
    return Reply(kept, _storable(text), finish, *counts, served)


def _storable(text: str) -> str:
    """Replace halves of surrogate pairs, which are legal in JSON but not in UTF-8, in which all answers are stored."""
    return text.encode("utf-8", "replace").decode()

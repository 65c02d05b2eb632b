"""Client for one model: takes typed requests and returns validated answers or typed refusals.

The journal is searched for every answer before a request is sent, and appended to the journal before it is parsed. A
task that was killed therefore requests only the missing answers. A request whose answer does not fit the prompt's
output model is repeated once with the error message, and then becomes a refusal.

`call` may be called from several threads concurrently. The work runs in one event loop, owned by the `ModelPool`
(operators.models.session) that creates the clients. The limit on concurrent requests is per role and pool, not per
call.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from operators.models.connection import BusyClock, Connection, RequestRefused
from operators.models.connection import ForeignAnswer as ForeignAnswer
from operators.models.endpoints import ModelUnavailable as ModelUnavailable
from operators.models.exchange import Exchange, answer_text, read_answer
from operators.models.exchange import TimedFrame as TimedFrame
from operators.models.journal import Journal
from operators.models.prompts import Prompt
from schemas.config import Role
from schemas.journal import JournalEntry
from schemas.provenance import Provenance, Sampling

T = TypeVar("T")


@dataclass(frozen=True)
class Request:
    """A request to a model.

    `key` is the id of the clip or question that the answer belongs to. Requests with equal content need different
    seeds to get separate answers.
    """

    key: str
    prompt: Prompt
    text: str
    frames: tuple[TimedFrame, ...] = ()
    seed: int = 0


@dataclass(frozen=True)
class Answer:
    """A valid answer."""

    request: Request
    value: BaseModel
    """An instance of the prompt's output model."""
    provenance: Provenance
    truncated: bool
    """True when the model ran out of tokens and its unfinished JSON was closed where it ended."""


@dataclass(frozen=True)
class Refusal:
    """A request without a valid answer, which a stage turns into a reject. Sending it again would not help.

    Reasons: `schema` (twice no valid JSON for the output model), `empty` (twice an empty answer), `blocked` (content
    filter), `too_long` (more than the context window).
    """

    request: Request
    reason: str
    message: str
    raw: str
    """The last raw answer; empty when there was none."""
    request_sha256: str
    """Hash of the request that `raw` answers."""


@dataclass
class Usage:
    """Counts of what a client has done so far. Only the client's event loop writes them."""

    requests: int = 0
    """Answers that came from the server."""
    journal_hits: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    """Tokens of answers that came from the server."""
    refusals: Counter[str] = field(default_factory=Counter)
    """Number of refusals by reason."""
    clock: BusyClock = field(default_factory=BusyClock)

    @property
    def busy_seconds(self) -> float:
        """Seconds during which at least one request was in flight."""
        return self.clock.seconds


class ModelClient:
    """Sends requests to one role's model and keeps the answers in one journal. Created by `ModelPool.client`."""

    def __init__(
        self,
        role: Role,
        model: str,
        vision: bool,
        journal: Journal,
        loop: asyncio.AbstractEventLoop,
        connect: Callable[[], Awaitable[Connection]],
        max_tokens: int | None = None,
        context_tokens: int | None = None,
    ) -> None:
        """Create a client.

        Args:
            max_tokens: limit of every answer, also where its prompt allows more.
            context_tokens: the length of the model's context; None if the server states it.
        """
        self.role = role
        self.model = model
        self.vision = vision
        self.usage = Usage()
        self._journal = journal
        self._loop = loop
        self._connect = connect
        self._max_tokens = max_tokens
        self._context_tokens = context_tokens

    @property
    def context_tokens(self) -> int:
        """Tokens of a request and its answer: as configured, else as the server states, else 32,768.

        Raises:
            ModelUnavailable: the server cannot be used.
        """
        return self._wait(self._read_context())

    def count_tokens(self, text: str) -> int:
        """Number of tokens of a text by the server's tokenizer, or an upper bound where the server counts none.

        Raises:
            ModelUnavailable: the server cannot be used.
        """

        async def count() -> int:
            return await (await self._connect()).context.count(text)

        return self._wait(count())

    def answer_tokens(self, prompt: Prompt) -> int:
        """Tokens that an answer to the prompt may take, of the model's context."""
        return self._sampling(prompt).max_tokens

    def call(self, requests: Sequence[Request]) -> list[Answer | Refusal]:
        """Send the requests and return their answers in the same order, when all have arrived.

        Raises:
            ModelUnavailable: the server cannot be used. Answers that arrived before are in the journal.
            ForeignAnswer: the server returned the answer to another request.
            ValueError: a request with frames is for a model without vision.
        """
        for request in requests:
            if request.frames and not self.vision:
                raise ValueError(
                    f"{self.role.value}: request {request.key} has {len(request.frames)} frames, but {self.model} is "
                    f"set up without vision; set vision of this role's model"
                )
        exchanges = [self._exchange(request) for request in requests]
        return self._wait(self._call_all(requests, exchanges))

    def _wait(self, work: Coroutine[None, None, T]) -> T:
        """Run a coroutine in the event loop of the pool, and return its result."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        finally:
            future.cancel()  # has an effect only when this thread is interrupted while it waits

    async def _read_context(self) -> int:
        if self._context_tokens is None:
            self._context_tokens = await (await self._connect()).context.tokens()
        return self._context_tokens

    def _exchange(self, request: Request) -> Exchange:
        prompt = request.prompt
        return Exchange(
            model=self.model,
            system=prompt.system,
            frames=request.frames,
            text=request.text,
            output=prompt.output,
            sampling=self._sampling(prompt),
            seed=request.seed,
        )

    def _sampling(self, prompt: Prompt) -> Sampling:
        if self._max_tokens is None or prompt.sampling.max_tokens <= self._max_tokens:
            return prompt.sampling
        return prompt.sampling.model_copy(update={"max_tokens": self._max_tokens})

    async def _call_all(self, requests: Sequence[Request], exchanges: Sequence[Exchange]) -> list[Answer | Refusal]:
        first: dict[str, Request] = {}
        for request, exchange in zip(requests, exchanges, strict=True):
            first.setdefault(exchange.sha256, request)
        by_sha = {exchange.sha256: exchange for exchange in exchanges}
        try:
            async with asyncio.TaskGroup() as group:
                # Equal requests are sent once: they share one answer, as they do in the journal.
                tasks = {sha: group.create_task(self._settle(first[sha], by_sha[sha])) for sha in first}
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        settled = {sha: task.result() for sha, task in tasks.items()}
        return [
            replace(settled[exchange.sha256], request=request)
            for request, exchange in zip(requests, exchanges, strict=True)
        ]

    async def _settle(self, request: Request, exchange: Exchange) -> Answer | Refusal:
        try:
            entry = await self._entry(request, exchange, exchange.sha256)
        except RequestRefused as refused:
            result: Answer | Refusal = Refusal(request, refused.reason, str(refused), "", exchange.sha256)
        else:
            result = _read(request, entry, exchange.sampling)
            if isinstance(result, Refusal) and result.reason in {"schema", "empty"}:
                result = await self._settle_again(request, exchange, result)
        if isinstance(result, Refusal):
            self.usage.refusals[result.reason] += 1
        return result

    async def _settle_again(self, request: Request, exchange: Exchange, refusal: Refusal) -> Answer | Refusal:
        complaint = f"{refusal.message}\nAnswer once more, with nothing but JSON that fits the schema."
        try:
            repaired = exchange.with_repair(answer_text(refusal.raw), complaint)
            return _read(request, await self._entry(request, repaired, exchange.sha256), exchange.sampling)
        except RequestRefused:  # the longer request does not fit, and the first refusal is more informative
            return refusal

    async def _entry(self, request: Request, exchange: Exchange, origin_sha256: str) -> JournalEntry:
        """The raw answer from the journal, or else from the server after appending it to the journal."""
        known = await asyncio.to_thread(self._journal.get, exchange.sha256)
        if known is not None:
            self.usage.journal_hits += 1
            return known
        connection = await self._connect()
        reply = await connection.call(exchange, self.usage.clock)
        entry = JournalEntry(
            request_sha256=exchange.sha256,
            origin_sha256=origin_sha256,
            key=request.key,
            model=self.model,
            raw=reply.raw,
            finish_reason=reply.finish_reason,
            tokens_in=reply.tokens_in,
            tokens_out=reply.tokens_out,
        )
        self.usage.requests += 1
        self.usage.tokens_in += reply.tokens_in
        self.usage.tokens_out += reply.tokens_out
        await self._keep(entry)
        return entry

    async def _keep(self, entry: JournalEntry) -> None:
        """Append an answer to the journal.

        The write is completed even when the failure of another request cancels this one, because the answer has been
        paid for.
        """
        keeping = asyncio.ensure_future(asyncio.to_thread(self._journal.append, entry))
        try:
            await asyncio.shield(keeping)
        except asyncio.CancelledError:
            await keeping
            raise


def _read(request: Request, entry: JournalEntry, sampling: Sampling) -> Answer | Refusal:
    """Parse a raw answer.

    Answers from journals are parsed here as well, because the output model may have changed since they were written.
    """
    cut = entry.finish_reason == "length"

    def refusal(reason: str, message: str) -> Refusal:
        return Refusal(request, reason, message, entry.raw, entry.request_sha256)

    if entry.finish_reason == "content_filter":
        return refusal("blocked", "The server's content filter stopped the answer.")
    if not answer_text(entry.raw):
        return refusal("empty", "The answer was empty.")
    try:
        value = read_answer(entry.raw, request.prompt.output, cut)
    except ValueError as error:
        ended = f" It was cut off after {entry.tokens_out} tokens; be brief." if cut else ""
        return refusal("schema", f"The answer does not fit the schema: {_describe_error(error)}.{ended}")
    return Answer(request, value, _provenance(request, entry, sampling), truncated=cut)


def _provenance(request: Request, entry: JournalEntry, sampling: Sampling) -> Provenance:
    prompt = request.prompt
    return Provenance(
        model=entry.model,
        prompt_id=prompt.id,
        prompt_sha256=prompt.sha256,
        sampling=sampling,
        seed=request.seed,
        tokens_in=entry.tokens_in,
        tokens_out=entry.tokens_out,
        finish_reason=entry.finish_reason,
        raw=entry.raw,
        request_sha256=entry.request_sha256,
    )


def _describe_error(error: ValueError) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    found = error.errors(include_url=False, include_context=False, include_input=False)
    return "; ".join(f"{'.'.join(map(str, item['loc'])) or 'JSON'}: {item['msg']}" for item in found[:5])

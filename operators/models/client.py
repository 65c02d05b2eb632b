"""Client for one model: takes typed requests and returns validated answers or typed refusals.

The journal is searched for every answer before a request is sent, and appended to the journal before it is parsed. A
task that was killed therefore requests only the missing answers. A request whose answer does not fit the prompt's
output model is repeated once with the error message. One whose answer was cut off before it was valid is repeated with
twice the room, up to the model's context. Then it becomes a refusal.

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

from operators.models.connection import BusyClock, Connection, RequestRefused
from operators.models.connection import ForeignAnswer as ForeignAnswer
from operators.models.endpoints import ModelUnavailable as ModelUnavailable
from operators.models.exchange import Exchange
from operators.models.exchange import TimedFrame as TimedFrame
from operators.models.journal import Journal
from operators.models.prompts import Prompt
from operators.models.reading import entry_text, full_text, read_entry, repeats_itself
from operators.models.requests import Answer as Answer
from operators.models.requests import Refusal as Refusal
from operators.models.requests import Request as Request
from operators.models.sampling import sampling_for
from operators.models.tokens import token_bound
from schemas.config import ModelConfig, Role
from schemas.journal import JournalEntry
from schemas.provenance import Sampling

T = TypeVar("T")


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
        config: ModelConfig,
        journal: Journal,
        loop: asyncio.AbstractEventLoop,
        connect: Callable[[], Awaitable[Connection]],
        max_tokens: int | None = None,
        limits_text: bool = False,
    ) -> None:
        """Create a client.

        Args:
            config: resolved settings of the role's model.
            max_tokens: limit of every answer, also where its prompt and the settings allow more.
            limits_text: hold the decoder to the longest texts, because the model never ends one by itself.
        """
        self.role = role
        self.model = config.model
        self.vision = bool(config.vision)
        self.usage = Usage()
        self._config = config
        self._journal = journal
        self._loop = loop
        self._connect = connect
        self._max_tokens = max_tokens
        self._limits_text = limits_text
        self._context_tokens = config.context_tokens or None

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
            return await (await self._connect()).count_tokens(text)

        return self._wait(count())

    def answer_tokens(self, prompt: Prompt) -> int:
        """Tokens that an answer to the prompt and its thinking may take, of the model's context."""
        return self._sampling(prompt).max_tokens

    def call(self, requests: Sequence[Request]) -> list[Answer | Refusal]:
        """Send the requests and return their answers in the same order, when all have arrived.

        Raises:
            ModelUnavailable: the server cannot be used. Answers that arrived before are in the journal.
            ForeignAnswer: the server returned the answer to another request.
            ValueError: a request with frames or a video is for a model without vision.
        """
        for request in requests:
            if (request.frames or request.video is not None) and not self.vision:
                seen = f"{len(request.frames)} frames" if request.frames else "a video"
                raise ValueError(
                    f"{self.role.value}: request {request.key} has {seen}, but {self.model} is set up without vision; "
                    f"set vision of this role's model"
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
            self._context_tokens = await (await self._connect()).context_tokens()
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
            video=request.video,
            limits_text=self._limits_text,
        )

    def _sampling(self, prompt: Prompt) -> Sampling:
        return sampling_for(prompt.sampling, self._config, self.role, self._max_tokens)

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
        """Send a request, and repeat it as long as that may give a valid answer."""
        origin, is_repaired = exchange.sha256, False
        result: Refusal | None = None
        while True:
            try:
                entry = await self._entry(request, exchange, origin)
            except RequestRefused as refused:
                # A longer request may be refused where the first was not, whose refusal is more informative.
                result = result or self._refusal(request, refused, origin)
                break
            found = read_entry(request, entry, exchange.sampling, self._limits_text)
            if isinstance(found, Answer):
                return found
            result = found
            if result.reason == "truncated" and (room := await self._more_room(exchange, entry)):
                exchange = exchange.with_room(room)
            elif result.reason in {"schema", "empty"} and not is_repaired:
                complaint = f"{result.message}\nAnswer once more, with nothing but JSON that fits the schema."
                exchange, is_repaired = exchange.with_repair(entry_text(entry), complaint), True
            else:
                break
        self.usage.refusals[result.reason] += 1
        return result

    def _refusal(self, request: Request, refused: RequestRefused, sha256: str) -> Refusal:
        return Refusal(request, refused.reason, f"request {request.key}: {refused}", "", sha256)

    async def _more_room(self, exchange: Exchange, entry: JournalEntry) -> int | None:
        """Twice the room of an answer that was cut off, or what the context allows; None if more is of no use."""
        room = exchange.sampling.max_tokens
        if (self._max_tokens is not None and room >= self._max_tokens) or repeats_itself(full_text(entry)):
            return None
        if await asyncio.to_thread(self._journal.get, exchange.with_room(2 * room).sha256):
            return 2 * room  # answered before, with no need of the server
        taken = entry.tokens_in or token_bound(exchange.system + exchange.text)
        allowed = min(2 * room, await self._read_context() - taken)
        return allowed if allowed > room else None

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
            served_model=reply.served_model,
            thoughts=reply.thoughts,
            raw=reply.text,
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

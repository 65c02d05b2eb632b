"""Whether a model server still answers: distinguishes a request that always fails from a server that is down.

The probe is a tiny request that any server can answer, and all requests of a connection share it. A server that
restarts is waited for, up to the patience of its role.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import openai

log = logging.getLogger(__name__)

PROBE_SECONDS = 60.0
"""Longest wait for the answer to the probe."""
POLL_SECONDS = 2.0
"""Longest time between two polls of a server that is down. The time that is left is divided into ten polls."""


class Failed(Exception):
    """Raised when a request failed in spite of its retries: HTTP 5xx, a timeout or a lost connection."""

    def __init__(self, found: str, error: openai.OpenAIError) -> None:
        super().__init__(found)
        self.found = found
        self.error = error
        self.at = time.monotonic()


class Health:
    """Whether a server answers. All coroutines must run in one event loop."""

    def __init__(self, client: openai.AsyncOpenAI, model: str, timeout_seconds: float) -> None:
        self._client = client.with_options(max_retries=0, timeout=min(timeout_seconds, PROBE_SECONDS))
        self._model = model
        self._probing = asyncio.Lock()
        self._answered = 0.0
        """Start of the last probe that was answered."""
        self._is_down = False

    async def is_answering(self) -> bool:
        """Whether the server answers a request of one token that began after this call."""
        called = time.monotonic()
        async with self._probing:
            if self._answered >= called:
                return True
            return await self._probe()

    async def wait(self, failed_at: float, deadline: float) -> bool:
        """Wait until the server answers a request that began after a failure. It is tried once at least.

        Args:
            failed_at: time of the failure, from `time.monotonic()`.
            deadline: time at which to give up.

        Returns:
            False when the deadline has come.
        """
        pause = min(POLL_SECONDS, max(deadline - time.monotonic(), 0.0) / 10)
        while not await self._has_recovered(failed_at):
            if time.monotonic() + pause >= deadline:
                return False
            if not self._is_down:
                self._is_down = True
                left = deadline - time.monotonic()
                log.warning("the server of %s does not answer; waiting for it for up to %.0f s", self._model, left)
            await asyncio.sleep(pause)
        return True

    async def _has_recovered(self, failed_at: float) -> bool:
        async with self._probing:
            return self._answered >= failed_at or (await self._lists_models() and await self._probe())

    async def _lists_models(self) -> bool:
        import openai

        try:
            await self._client.get("/models", cast_to=object)
        except openai.APIStatusError as error:
            return error.status_code < 500  # it is up, and does not list its models
        except (openai.OpenAIError, ValueError):
            return False
        return True

    async def _probe(self) -> bool:
        import openai

        started = time.monotonic()
        try:
            await self._client.chat.completions.create(
                model=self._model,
                messages=[{"role": "user", "content": "Answer OK."}],
                max_tokens=1,
                extra_headers={"X-Request-Id": "lvr-probe"},
            )
        except (openai.OpenAIError, ValueError):
            return False
        self._answered = started
        self._is_down = False
        return True

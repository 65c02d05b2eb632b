"""What a server knows of its model: the length of its context in tokens, and the number of tokens of a text.

The protocol has neither. vLLM and SGLang state `max_model_len` in their list of models and count tokens at
`POST /tokenize` of `{model, prompt}`. llama.cpp states the context of a slot in `GET /props` and the tokens of
`{content}`.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from operators.models.endpoints import Endpoint, unavailable
from operators.models.health import Failed
from operators.models.tokens import token_bound
from schemas.config import Role

if TYPE_CHECKING:
    import openai

log = logging.getLogger(__name__)

DEFAULT_CONTEXT_TOKENS = 32_768
"""The context of a server that does not state one: the smallest that long-video models are served with."""
_SECONDS = 30.0
"""Longest wait for one of these answers."""
_PASSING = frozenset({408, 409, 429})
"""HTTP statuses below 500 that are about the moment."""
_KEY_REFUSED = frozenset({401, 403})


class ServedContext:
    """Context and tokens of one model on its server. All coroutines must run in one event loop."""

    def __init__(self, client: openai.AsyncOpenAI, endpoint: Endpoint, role: Role) -> None:
        self._client = client
        self._endpoint = endpoint
        self._role = role
        self._root = endpoint.base_url.removesuffix("/v1")
        self._tokens: int | None = None
        self._counts = True
        self._reading = asyncio.Lock()

    async def tokens(self) -> int:
        """Tokens of a request and its answer, of the server's first statement. A server without one is logged once.

        Raises:
            ModelUnavailable: the server refuses the key or is overloaded.
            Failed: the server fails or cannot be reached.
        """
        async with self._reading:
            if self._tokens is None:
                self._tokens = await self._read_stated() or DEFAULT_CONTEXT_TOKENS
        return self._tokens

    async def count(self, text: str) -> int:
        """Number of tokens of a text by the model's own tokenizer, or an upper bound where the server counts none.

        Raises:
            ModelUnavailable: the server refuses the key or is overloaded.
            Failed: the server fails or cannot be reached.
        """
        if self._counts:
            vllm = {"model": self._endpoint.model, "prompt": text, "add_special_tokens": False}
            found = await self._post("tokenize", vllm)
            if isinstance(found, dict) and isinstance(found.get("count"), int):
                return found["count"]
            if isinstance(found, dict) and isinstance(found.get("tokens"), list):
                found = await self._post("tokenize", {"content": text})
                if isinstance(found, dict) and isinstance(found.get("tokens"), list):
                    return len(found["tokens"])
            self._counts = False
        return token_bound(text)

    async def _read_stated(self) -> int | None:
        listed = await self._get("models")
        models = listed.get("data") if isinstance(listed, dict) else None
        named = [each for each in models or () if isinstance(each, dict) and each.get("id") == self._endpoint.model]
        for model in named:
            if _is_length(model.get("max_model_len")):
                return model["max_model_len"]
            if isinstance(meta := model.get("meta"), dict):
                return await self._llama_context(meta)
        log.warning(
            "%s %s does not state the context of %r, %d tokens are assumed; set models.%s.context_tokens",
            self._role.value,
            self._endpoint.shown_url,
            self._endpoint.model,
            DEFAULT_CONTEXT_TOKENS,
            self._role.value,
        )
        return None

    async def _llama_context(self, meta: dict[str, Any]) -> int | None:
        """The context of one slot of llama.cpp, which may be shorter or longer than the one that it was trained for."""
        properties = await self._get(f"{self._root}/props")
        settings = properties.get("default_generation_settings") if isinstance(properties, dict) else None
        served = settings.get("n_ctx") if isinstance(settings, dict) else None
        return next((length for length in (served, meta.get("n_ctx_train")) if _is_length(length)), None)

    async def _get(self, path: str) -> Any:
        return await self._send(self._client.get(path, cast_to=object, options={"timeout": _SECONDS}), _KEY_REFUSED)

    async def _post(self, path: str, body: dict[str, Any]) -> Any:
        address = f"{self._root}/{path}"
        # A gateway may allow the protocol's own addresses only.
        return await self._send(
            self._client.post(address, cast_to=object, body=body, options={"timeout": _SECONDS}), frozenset()
        )

    async def _send(self, response: Any, refusals: frozenset[int]) -> Any:
        """The JSON of a response, or None where the server has no such address.

        Args:
            refusals: statuses that mean that the server refuses to be used.
        """
        import openai

        try:
            return await response
        except openai.APIStatusError as error:
            if error.status_code in _PASSING | refusals:
                raise unavailable(error, self._endpoint, self._role) from error
            if error.status_code >= 500 and error.status_code != 501:
                raise Failed(f"HTTP {error.status_code}: {error.message}", error) from error
            return None
        except openai.APIConnectionError as error:
            raise Failed(str(error), error) from error
        except (openai.OpenAIError, ValueError):  # a web page
            return None


def _is_length(value: object) -> bool:
    return isinstance(value, int) and value > 0

"""Assigns models to roles and creates the clients that send requests to them.

`resolve` determines the model of each role once, when a build is planned, because the models' names are part of the
keys of the results. `open_models` creates the clients of one stage and work item.

Each process has one `ModelPool` for its communication with servers: an event loop in a thread, one connection per role
with the limit on its requests, and the embedded server. The embedded server is started lazily, on the first request
that is not served from a journal.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

from operators.models.client import ModelClient
from operators.models.connection import RETRIES, Connection
from operators.models.embedded import (
    EMBEDDED_CONCURRENCY,
    EMBEDDED_CONTEXT_TOKENS,
    EMBEDDED_MAX_TOKENS,
    EMBEDDED_MODEL,
    EmbeddedServer,
)
from operators.models.endpoints import Endpoint, EndpointError, endpoint_for
from operators.models.journal import Journal
from schemas.config import ModelConfig, ModelsConfig, Role

MEASURED = "measured"
"""The value of a captioner's `model` that stands for captions from measurements, without any model."""


def resolve(config: ModelsConfig, environ: Mapping[str, str] = os.environ) -> ModelsConfig:
    """The configuration with every role's model and vision filled in. Resolving it again changes nothing.

    A role's model is the configured one, else its endpoint's, else `measured` for the captioner, none (an empty name)
    for the viewer, and the embedded model for the others. A role with an endpoint sends its requests there, whatever
    the model's name. The embedded engine serves roles without an endpoint only.

    Raises:
        EndpointError: a model has no endpoint, an endpoint names no model, a role other than the captioner is
            `measured`, the viewer is the embedded model, or an endpoint's variables are invalid. One message reports
            the problems of all roles.
    """
    resolved, problems = {}, []
    for role in Role:
        try:
            resolved[role.value] = _resolve_role(role, config.of(role), endpoint_for(role, environ))
        except EndpointError as error:
            problems.append(str(error))
    if problems:
        raise EndpointError("; ".join(dict.fromkeys(problems)))
    return ModelsConfig(**resolved)


def _resolve_role(role: Role, config: ModelConfig, endpoint: Endpoint | None) -> ModelConfig:
    default = {Role.CAPTIONER: MEASURED, Role.VIEWER: ""}.get(role, EMBEDDED_MODEL)
    model = config.model or (endpoint.model if endpoint else default)
    if role is Role.VIEWER and model == EMBEDDED_MODEL:
        raise EndpointError(f"viewer: {EMBEDDED_MODEL} has no vision; name a model with vision, or none")
    if not model and role is Role.VIEWER and endpoint is None:
        return config.model_copy(update={"vision": False})
    if not model:
        raise EndpointError(
            f"{role.value}: its endpoint names no model; set LVR_{role.name}_MODEL, LVR_MODEL_NAME or "
            f"models.{role.value}.model"
        )
    if model == MEASURED and role is not Role.CAPTIONER:
        raise EndpointError(f"{role.value}: only captions can be {MEASURED!r}; name a model")
    if model in {MEASURED, EMBEDDED_MODEL}:
        return config.model_copy(update={"model": model, "vision": False})
    if endpoint is None:
        general = "LVR_MODEL_URL with LVR_MODEL_VISION=1" if role is Role.VIEWER else "LVR_MODEL_URL"
        raise EndpointError(
            f"{role.value}: model {model!r} has no endpoint; set LVR_{role.name}_URL or {general}, or leave the "
            f"model empty for the default ({default or 'none'})"
        )
    vision = endpoint.vision if config.vision is None else config.vision
    return config.model_copy(update={"model": model, "vision": vision})


@contextmanager
def open_models(
    config: ModelsConfig,
    roles: Iterable[Role],
    journal: Journal,
    environ: Mapping[str, str] = os.environ,
    pool: ModelPool | None = None,
) -> Iterator[dict[Role, ModelClient]]:
    """Open a client for every role that has a model. All share one journal, which is closed at the end.

    Nothing is started or connected before the first request.

    Args:
        config: a resolved configuration.
        roles: roles to open; a `measured` captioner and a viewer without a model get no client.
        journal: journal of the stage and work item.
        environ: the environment variables that name endpoints.
        pool: defaults to the pool of the process, so that work items in several threads share its connections and
            limits.

    Raises:
        EndpointError: the environment has no endpoint for a role's model.
    """
    with journal:
        yield {
            role: (pool or process_pool()).client(role, config.of(role), journal, environ)
            for role in roles
            if config.of(role).model not in {MEASURED, ""}
        }


class ModelPool:
    """A process's connections to model servers. Thread-safe. Use it as a context manager, or call `close`."""

    def __init__(self, retries: int = RETRIES, make_client: Callable[..., ModelClient] = ModelClient) -> None:
        self._retries = retries
        self._make_client = make_client
        self._owner = os.getpid()
        self._loop = asyncio.new_event_loop()
        # The loop would shut down its default executor in a new thread, which an exiting process cannot start.
        self._executor = ThreadPoolExecutor(thread_name_prefix="model-pool-blocking")
        self._loop.set_default_executor(self._executor)
        self._thread = threading.Thread(target=self._loop.run_forever, name="model-pool", daemon=True)
        self._thread.start()
        self._connections: dict[tuple[Role, Endpoint, ModelConfig], Connection] = {}
        self._embedded = EmbeddedServer()
        self._starting = threading.Lock()

    def __enter__(self) -> ModelPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def client(
        self, role: Role, config: ModelConfig, journal: Journal, environ: Mapping[str, str] = os.environ
    ) -> ModelClient:
        """A client for a role's resolved model.

        Raises:
            EndpointError: the environment has no endpoint for the model.
        """
        endpoint = endpoint_for(role, environ)
        is_small = config.model == EMBEDDED_MODEL  # in this process's engine or behind an endpoint
        if endpoint is None and not is_small:
            raise EndpointError(
                f"{role.value}: this build was planned with model {config.model!r}, but LVR_{role.name}_URL and "
                f"LVR_MODEL_URL are not set here"
            )
        bound = config
        if is_small:
            most = min(config.concurrency, EMBEDDED_CONCURRENCY)
            context = config.context_tokens or EMBEDDED_CONTEXT_TOKENS
            bound = config.model_copy(update={"concurrency": most, "context_tokens": context})

        async def connect() -> Connection:
            if endpoint is None:
                return self._connection(role, await asyncio.to_thread(self._embedded_endpoint), bound)
            return self._connection(role, replace(endpoint, model=config.model), bound)

        longest = EMBEDDED_MAX_TOKENS if is_small else None
        return self._make_client(role, bound, journal, self._loop, connect, longest, is_small)

    def close(self) -> None:
        """Close connections, and stop the event loop and the embedded server. In a forked child this does nothing."""
        if os.getpid() != self._owner or self._loop.is_closed():
            return
        asyncio.run_coroutine_threadsafe(self._wind_down(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._executor.shutdown(wait=True)
        self._loop.close()
        self._embedded.stop()

    async def _wind_down(self) -> None:
        unfinished = asyncio.all_tasks() - {asyncio.current_task()}
        for task in unfinished:
            task.cancel()
        await asyncio.gather(*unfinished, return_exceptions=True)
        for connection in self._connections.values():
            await connection.close()

    def _connection(self, role: Role, endpoint: Endpoint, config: ModelConfig) -> Connection:
        """The connection of a role, created on first use. Only called in the event loop, so it needs no lock."""
        key = (role, endpoint, config)
        if key not in self._connections:
            self._connections[key] = Connection(role, endpoint, config, self._retries)
        return self._connections[key]

    def _embedded_endpoint(self) -> Endpoint:
        with self._starting:
            return self._embedded.start()


_MAKING_POOL = threading.Lock()


def process_pool() -> ModelPool:
    """The pool of this process, closed at its exit. A forked child gets its own, as threads and sockets do not fork."""
    with _MAKING_POOL:
        return _pool_of(os.getpid())


@functools.cache
def _pool_of(pid: int) -> ModelPool:
    pool = ModelPool()
    atexit.register(pool.close)
    return pool

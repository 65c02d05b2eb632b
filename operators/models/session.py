"""From a build's configuration to models that can be asked.

`resolve` settles which model plays each role, once, when a build is planned: the names become part of what results are
identified by. `open_models` gives the clients of one stage and unit. What a process needs for talking to servers, it
has once, in its `ModelPool`: an event loop in a thread, one connection per role with the bound on its requests, and the
embedded server, started when the first answer is asked of it that no journal has.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

from operators.models.client import ModelClient
from operators.models.connection import RETRIES, Connection
from operators.models.embedded import EMBEDDED_CONCURRENCY, EMBEDDED_MAX_TOKENS, EMBEDDED_MODEL, EmbeddedServer
from operators.models.endpoints import Endpoint, EndpointError, endpoint_for
from operators.models.journal import Journal
from schemas.config import ModelConfig, ModelsConfig, Role

MEASURED = "measured"
"""The captioner that is no model: captions come from measurements."""


def resolve(config: ModelsConfig, environ: Mapping[str, str] = os.environ) -> ModelsConfig:
    """The same configuration with every role's model and vision filled in; resolving it again changes nothing.

    A role's model is the configured one, else its endpoint's, else `measured` for the captioner and the embedded model
    for the others. Who has an endpoint is asked there, under whatever name; the embedded engine is for who has none.
    Raises EndpointError when a model is named and no endpoint is there to serve it, for all such roles at once.
    """
    resolved, problems = {}, []
    for role in Role:
        try:
            resolved[role.value] = _resolved(role, config.of(role), endpoint_for(role, environ))
        except EndpointError as error:
            problems.append(str(error))
    if problems:
        raise EndpointError("; ".join(dict.fromkeys(problems)))
    return ModelsConfig(**resolved)


def _resolved(role: Role, config: ModelConfig, endpoint: Endpoint | None) -> ModelConfig:
    default = MEASURED if role is Role.CAPTIONER else EMBEDDED_MODEL
    model = config.model or (endpoint.model if endpoint else default)
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
        raise EndpointError(
            f"{role.value}: model {model!r} has no endpoint; set LVR_{role.name}_URL or LVR_MODEL_URL, or leave the "
            f"model empty for the default ({default})"
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
    """A client for every role that a model plays, all with one journal, which is closed at the end.

    `config` has been resolved. Without `pool`, the process's own is used, so that units in several threads share its
    connections and bounds. Nothing is started or connected before something is asked.
    """
    with journal:
        yield {
            role: (pool or process_pool()).client(role, config.of(role), journal, environ)
            for role in roles
            if config.of(role).model != MEASURED
        }


class ModelPool:
    """A process's connections to model servers. Thread-safe. Use as a context manager, or `close` it."""

    def __init__(self, retries: int = RETRIES) -> None:
        self._retries = retries
        self._owner = os.getpid()
        self._loop = asyncio.new_event_loop()
        # The loop's own executor is shut down by a new thread, and a process that is ending may not start any.
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
        """A client of a role's resolved model. Raises EndpointError when the environment has no endpoint for it."""
        endpoint = endpoint_for(role, environ)
        is_small = config.model == EMBEDDED_MODEL  # here or behind an endpoint
        if endpoint is None and not is_small:
            raise EndpointError(
                f"{role.value}: this build was planned with model {config.model!r}, but LVR_{role.name}_URL and "
                f"LVR_MODEL_URL are not set here"
            )
        most = min(config.concurrency, EMBEDDED_CONCURRENCY) if is_small else config.concurrency
        bound = config.model_copy(update={"concurrency": most})

        async def connect() -> Connection:
            if endpoint is None:
                return self._connection(role, await asyncio.to_thread(self._embedded_endpoint), bound)
            return self._connection(role, replace(endpoint, model=config.model), bound)

        longest = EMBEDDED_MAX_TOKENS if is_small else None
        return ModelClient(role, config.model, bool(config.vision), journal, self._loop, connect, longest)

    def close(self) -> None:
        """Close connections, stop the embedded server and the event loop. A forked child leaves its parent's alone."""
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
        """Runs in the event loop only, which is what makes it safe."""
        key = (role, endpoint, config)
        if key not in self._connections:
            self._connections[key] = Connection(role, endpoint, config, self._retries)
        return self._connections[key]

    def _embedded_endpoint(self) -> Endpoint:
        with self._starting:
            return self._embedded.start()


_MAKING_POOL = threading.Lock()


def process_pool() -> ModelPool:
    """This process's pool, closed when it exits. A forked child gets its own: threads and sockets do not fork."""
    with _MAKING_POOL:
        return _pool_of(os.getpid())


@functools.cache
def _pool_of(pid: int) -> ModelPool:
    pool = ModelPool()
    atexit.register(pool.close)
    return pool

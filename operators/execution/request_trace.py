"""Finds the request that a stage makes with a prompt about a video, without sending anything.

The stage itself runs on the rows of a finished run, with clients that answer from the journal of that run. So the
request is the stage's own, and not made a second time here. The stage is stopped at the first request that is made with
the prompt, or at the first answer that the journal does not have.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from operators.execution.pipeline import VIDEO_STAGES
from operators.execution.pipeline import stage as stage_named
from operators.execution.runner import read_input, video_input
from operators.execution.stage import Context, Stage
from operators.models.client import Answer, ModelClient, Refusal, Request
from operators.models.exchange import Exchange
from operators.models.journal import Journal
from operators.models.prompts import load_prompt
from operators.models.session import ModelPool, open_models
from operators.process.scratch import scratch_folder
from operators.sources.listing import source_files
from operators.store.run_folder import RunFolder
from schemas.errors import BadInput
from schemas.journal import JournalEntry
from schemas.tables import Source


class NoRequest(BadInput):
    """A stage makes no request with the prompt about the video, or it is not known yet. The message has the reason."""


@dataclass(frozen=True)
class TracedRequest:
    """A request of a stage, and its answer if the journal has one."""

    stage: str
    request: Request
    exchange: Exchange
    answer: JournalEntry | None


class _Found(Exception):
    def __init__(self, request: Request, exchange: Exchange) -> None:
        self.request = request
        self.exchange = exchange


class _NotInJournal(Exception):
    pass


class _TracingClient(ModelClient):
    """A client that stops at the first request with one prompt."""

    def __init__(self, prompt_id: str, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self._prompt_id = prompt_id

    def call(self, requests: Sequence[Request]) -> list[Answer | Refusal]:
        for request in requests:
            if request.prompt.id == self._prompt_id:
                raise _Found(request, self._exchange(request))
        return super().call(requests)


class _ReadJournal(Journal):
    """A journal in which every answer must exist, so that its clients send no request."""

    def get(self, request_sha256: str) -> JournalEntry | None:
        if entry := super().get(request_sha256):
            return entry
        raise _NotInJournal


def trace_request(
    folder: RunFolder, prompt_id: str, video_id: str, environ: Mapping[str, str] = os.environ
) -> TracedRequest:
    """The first request with the prompt that the present code, prompts and rows of a run give for a video.

    The length of a model's context and tokens are requested from its server, if the stage needs them.

    Args:
        folder: a run whose stages before the one that uses the prompt have finished.
        prompt_id: a prompt that a stage of the run uses.
        video_id: id of a video of the run.
        environ: the environment variables that name endpoints.

    Raises:
        NoRequest: no stage makes such a request, or it depends on an answer that the journal does not have.
        RunMissing: an earlier stage has not finished.
        ModelUnavailable: the stage needs the server, which cannot be used.
    """
    stages = [stage_named(name) for name in VIDEO_STAGES if prompt_id in stage_named(name).prompts]
    if not stages:
        raise NoRequest(f"prompt {prompt_id}: no stage uses it; `lvr prompts list` names the prompts of the stages")
    partition, source = _find_source(folder, video_id)
    reasons = []
    for stage in stages:
        if not stage.uses_models(folder.run.config):
            reasons.append(f"stage {stage.name} calls no model under the run's settings")
            continue
        try:
            _run(folder, stage, partition, source, prompt_id, environ)
        except _Found as found:
            sha256 = found.exchange.sha256
            with Journal(_journal_url(folder, stage, video_id)) as journal:
                return TracedRequest(stage.name, found.request, found.exchange, journal.get(sha256))
        except _NotInJournal:
            reasons.append(
                f"stage {stage.name} makes it after others that the journal has no answers for; run `lvr build` first"
            )
        else:
            reasons.append(f"stage {stage.name} makes none about this video")
    raise NoRequest(f"prompt {prompt_id}, video {video_id}: {'; '.join(reasons)}")


def _find_source(folder: RunFolder, video_id: str) -> tuple[int, Source]:
    for partition in folder.partitions():
        for source in partition.sources:
            if source.source_id == video_id:
                return partition.index, source
    known = ", ".join(source.source_id for source in folder.sources()[:5])
    raise NoRequest(f"{folder.url}: no video {video_id!r}; it has {folder.run.videos}, such as {known}")


def _journal_url(folder: RunFolder, stage: Stage, video_id: str) -> str:
    return f"{folder.store.url}/journal/{stage.name}/{video_id}"


def _run(
    folder: RunFolder, stage: Stage, partition: int, source: Source, prompt_id: str, environ: Mapping[str, str]
) -> None:
    """Run the stage on one video until it makes the request, or to its end."""
    config = folder.run.config
    required = {*stage.tables, *({stage.requires_rows_of} - {""})}
    commits = {name: folder.record(name, partition).commits[source.source_id] for name in required}
    item = video_input(stage, source, commits)
    inputs = {parameter: read_input(folder.store, name, item) for parameter, name in stage.reads.items()}
    if item.empty or not next(iter(inputs.values())):
        return
    make_client = functools.partial(_TracingClient, prompt_id)
    with (
        scratch_folder(stage.name) as scratch,
        ModelPool(make_client=make_client) as pool,
        open_models(
            config.models, stage.roles, _ReadJournal(_journal_url(folder, stage, source.source_id)), environ, pool
        ) as models,
    ):
        context = Context(
            stage=stage.name,
            unit=source.source_id,
            config=config,
            prompts={prompt: load_prompt(prompt) for prompt in stage.prompts},
            models=models,
            files=folder.store,
            scratch=scratch,
            sources=source_files(config, item.sources),
        )
        for _ in stage.run(context, **inputs):
            pass

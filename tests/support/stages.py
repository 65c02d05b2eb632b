"""Runs one stage on rows, with models served by a real HTTP server."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from operators.execution.stage import Context, Stage
from operators.models.journal import Journal
from operators.models.prompts import load_prompt
from operators.models.session import ModelPool, open_models, resolve
from operators.store.content_store import Store
from schemas.base import Row
from schemas.config import BuildConfig
from schemas.tables import Reject
from tests.support.openai_server import OpenAIServer

PROMPTS = Path(__file__).parents[2] / "prompts"


class StageRunner:
    """Runs stages: `run(stage, *tables, section=...)` returns the stage's rows. `rejects` holds the latest run's."""

    def __init__(self, folder: Path, server: OpenAIServer, pool: ModelPool, vision: bool = False) -> None:
        self.folder = folder
        self.server = server
        self.pool = pool
        self.vision = vision
        self.rejects: list[Reject] = []
        self.runs = 0

    def run(self, stage: Stage, *tables: Sequence[Row], **sections: object) -> list[Row]:
        self.runs += 1
        config = BuildConfig.model_validate({"source": str(self.folder), "out": str(self.folder), **sections})
        environ = self.server.environ(vision=self.vision)
        scratch = self.folder / f"scratch-{self.runs}"
        scratch.mkdir()
        journal = Journal(str(self.folder / f"journal-{self.runs}"))
        models = resolve(config.models, environ)
        with open_models(models, stage.roles, journal, environ, self.pool) as clients:
            prompts = {prompt: load_prompt(prompt, PROMPTS) for prompt in stage.prompts}
            context = Context(stage.name, "film", config, prompts, clients, Store(str(self.folder)), scratch)
            rows = list(stage.run(context, *tables))
        self.rejects = [row for row in rows if isinstance(row, Reject)]
        return [row for row in rows if not isinstance(row, Reject)]

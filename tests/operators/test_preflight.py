"""Preflight checks of model servers and of this machine, and combinations of settings that are refused."""

import errno
import os
from pathlib import Path

import pytest

from operators import preflight as module
from operators.models.embedded import EMBEDDED_MODEL
from operators.preflight import PreflightFailed, preflight
from operators.video.decode.ffmpeg import _choose_ffmpeg, ffmpeg_executable, ffmpeg_version
from schemas.config import AssembleConfig, BuildConfig, CaptionConfig, SplitConfig
from tests.support.openai_server import OpenAIServer
from tests.support.transcription_server import TranscriptionServer

TEXT_ROLES = ("reasoner", "judge", "target")


@pytest.fixture
def config(tmp_path):
    return BuildConfig(source=str(tmp_path), out=str(tmp_path / "out"))


def test_an_endpoint_is_checked_though_its_model_is_called_like_the_embedded_one(config, monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda package: None if package == "xllamacpp" else object())
    with OpenAIServer(models=(EMBEDDED_MODEL,)) as server:
        environ = server.environ(*TEXT_ROLES)
        notes = preflight(config, environ)  # no engine is needed here
    assert f"judge: {EMBEDDED_MODEL} at {server.url}" in notes
    with pytest.raises(PreflightFailed, match=rf"judge .*{EMBEDDED_MODEL}.*cannot be reached"):
        preflight(config, environ)  # the server is gone


def test_without_endpoints_the_engine_must_be_installed(config, monkeypatch):
    assert f"judge: {EMBEDDED_MODEL}, no server" in preflight(config, {})
    monkeypatch.setattr(module, "find_spec", lambda package: None if package == "xllamacpp" else object())
    with pytest.raises(PreflightFailed, match="package xllamacpp is missing"):
        preflight(config, {})


def test_measuring_packages_are_needed_where_captions_are_measured(config, monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda package: None if package == "rapidocr" else object())
    with pytest.raises(PreflightFailed, match="package rapidocr is missing for measured captions"):
        preflight(config, {})
    with OpenAIServer() as server:
        with pytest.raises(PreflightFailed, match=r"package rapidocr is missing for on-screen text \(caption.ocr\)"):
            preflight(config, server.environ())
        preflight(config.model_copy(update={"caption": CaptionConfig(ocr=False)}), server.environ())


def test_the_network_that_finds_shots_must_be_installed_where_it_is_chosen(config, monkeypatch):
    pytest.importorskip("torch")
    chosen = config.model_copy(update={"split": SplitConfig(detector="transnet")})
    assert "shots: transnet" in preflight(chosen, {})
    monkeypatch.setattr(module, "find_spec", lambda package: None if package == "torch" else object())
    with pytest.raises(PreflightFailed, match=r"split.detector 'transnet' needs torch.*choose the detector 'adaptive'"):
        preflight(chosen, {})
    assert "shots: adaptive" in preflight(config, {})


def test_all_problems_are_in_one_error_and_each_is_there_once(config, monkeypatch):
    monkeypatch.setattr(module, "MIN_FREE_BYTES", 1 << 62)
    environ = {"LVR_MODEL_URL": "http://127.0.0.1:9/v1"}
    with pytest.raises(PreflightFailed) as failed:
        preflight(config, environ)
    message = str(failed.value)
    for role in ("CAPTIONER", "REASONER", "JUDGE", "TARGET"):
        assert message.count(f"LVR_{role}_MODEL") == 1
    assert message.count(f"out {config.out!r}: only ") == 1
    assert message.count("temporary folder ") == 1 and "set TMPDIR to another folder" in message


@pytest.mark.parametrize(
    ("settings", "environ", "message"),
    [
        ({}, {"LVR_CAPTIONER_VISION": "0"}, "captioner 'fake-model' is set up without vision.*LVR_CAPTIONER_VISION=1"),
        ({"models": {"viewer": {"vision": False}}}, {"LVR_MODEL_VISION": "1"}, "viewer 'fake-model' is set up without"),
        (
            {"question": {"writers": ["program"]}, "caption": {"ocr": False}},
            {},
            "caption.ocr is off: no question could be written; set caption.ocr=true",
        ),
        ({"question": {"writers": ["program"], "categories": ["goal"]}}, {}, "no questions of the categories goal"),
    ],
)
def test_contradictory_settings_are_refused(config, settings, environ, message):
    with OpenAIServer() as server:
        contradictory = BuildConfig.model_validate({**config.model_dump(), **settings})
        with pytest.raises(PreflightFailed, match=message):
            preflight(contradictory, server.environ() | environ)
        assert preflight(config, server.environ())


def test_a_viewer_may_be_missing_and_should_not_be_the_captioners_model(config):
    with OpenAIServer(models=("fake-model", "other")) as server:
        assert any(note.startswith("viewer: none") for note in preflight(config, server.environ()))
        seeing = server.environ(vision=True)
        assert any("[viewer_is_captioner]" in note for note in preflight(config, seeing))
        notes = preflight(config, seeing | {"LVR_VIEWER_MODEL": "other"})
    assert f"viewer: other at {server.url}" in notes
    assert not any("[viewer_is_captioner]" in note for note in notes)


def test_writer_and_judge_of_one_family_are_a_warning(config):
    with OpenAIServer(models=("fake-model", "other")) as server:
        [note] = [note for note in preflight(config, server.environ()) if "[same_family]" in note]
        others = preflight(config, server.environ() | {"LVR_JUDGE_URL": server.url, "LVR_JUDGE_MODEL": "other"})
    assert note.startswith("warning: Writer and judge: fake-model writes and fake-model judges")
    assert not any("[same_family]" in note for note in others)


def test_a_bad_evaluation_list_is_found_before_any_work(config, tmp_path):
    listed = tmp_path / "eval.jsonl"
    listed.write_text('{"video_id": "a"}\n{"question": "Where is she?", "video_id": "b"}\n')
    named = config.model_copy(update={"assemble": AssembleConfig(decontamination=(str(listed),))})
    with OpenAIServer() as server:
        notes = preflight(named, server.environ())
        assert "evaluation lists: 2 rows with a video and 1 with a question" in notes
        listed.write_text('{"film": "a"}\n')
        with pytest.raises(PreflightFailed, match=r"eval\.jsonl, line 1: neither a video nor a question"):
            preflight(named, server.environ())


def test_measured_captions_suit_the_program(config):
    derived = BuildConfig.model_validate({**config.model_dump(), "question": {"writers": ["program"]}})
    assert "captioner: measured, no server" in preflight(derived, {})


def test_an_output_folder_without_hard_links_is_refused(config, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(PreflightFailed, match="is this a file system without hard links"):
        preflight(config, {})
    assert not list(Path(config.out, "tmp").iterdir())


def test_an_ffmpeg_without_the_encoders_is_refused_before_any_video_is_lost_to_it(config, tmp_path, monkeypatch):
    program = tmp_path / "ffmpeg"
    program.write_text("#!/bin/sh\n[ $1 = -version ] && echo 'ffmpeg version 7.1' && exit\necho no x264 >&2; exit 1\n")
    program.chmod(0o755)
    message = rf"{program} \(ffmpeg 7\.1\) cannot encode libx264.*no x264; install"
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(tmp_path), prepend=":")
        _choose_ffmpeg.cache_clear()
        with pytest.raises(PreflightFailed, match=message):
            preflight(config, {})
    _choose_ffmpeg.cache_clear()
    [note] = [note for note in preflight(config, {}) if note.startswith("ffmpeg ")]
    assert note == f"{ffmpeg_version()}: {ffmpeg_executable()}"


def test_the_transcription_endpoint_must_serve_its_model(config):
    heard = config.model_copy(update={"caption": CaptionConfig(speech="endpoint")})
    with TranscriptionServer() as server:
        environ = {"LVR_SPEECH_URL": server.url, "LVR_SPEECH_MODEL": "whisper"}
        assert any(note.startswith("speech: whisper at http://") for note in preflight(heard, environ))
        with pytest.raises(PreflightFailed, match="has no model 'other'"):
            preflight(heard, environ | {"LVR_SPEECH_MODEL": "other"})
    with pytest.raises(PreflightFailed, match=r"speech http://.*cannot be reached.*LVR_SPEECH_URL"):
        preflight(heard, environ)
    with pytest.raises(PreflightFailed, match=r"caption\.speech=endpoint: LVR_SPEECH_URL is not set"):
        preflight(heard, {})

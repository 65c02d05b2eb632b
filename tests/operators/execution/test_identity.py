"""Keys of work items: what is part of them, and that they stay the same."""

from dataclasses import replace

import pytest

from operators.execution.identity import WorkItem, stage_key
from operators.execution.pipeline import BUILD_STAGES, VIDEO_STAGES, stage
from operators.execution.staleness import explain
from operators.video.decode import ffmpeg
from operators.video.decode.ffmpeg import pyav_version
from schemas.base import digest
from schemas.config import BuildConfig, ModelConfig, ModelsConfig, QuestionConfig, Role, Writer
from schemas.tables import Annotation, Source, Split, VideoCategory

KEYS = {
    "ingest": (
        ["source"],
        "9a747e73871cb53f4f4b765dffb7db046b73c32f620b6026e29ade2f2d9d64a2",
    ),
    "split": (
        ["ingest"],
        "18b7f239a00960d7f75925c3932fe2165e84cd8b23d61655ceea1d6c7b042c06",
    ),
    "caption": (
        ["ingest", "split", "source"],
        "11a388a1d3f4d2601a1fe67fab4123a07a1686c696118b04ad08d8e7cf3aabdc",
    ),
    "outline": (
        ["caption", "source"],
        "d9c30030628e35ba566d7c8fa848967e376e21be9ff0edea6bfcf97113d3ce2e",
    ),
    "question": (
        ["ingest", "caption", "outline", "source"],
        "c5c429a6d002196f5b99594442e01764feba28ab3140d8459bfdfd8a3f6e1248",
    ),
    "reason": (
        ["caption", "question", "outline", "source"],
        "5ad88bbc0e262c60523c5848ec281d2bbcac066d6bbc762591274655deb13454",
    ),
    "difficulty": (
        ["ingest", "caption", "question", "reason", "outline"],
        "a5686096bc72c30817084d97cb7220ee1381ed4b9e813d750bdd928e05af3998",
    ),
    "package": (
        ["ingest", "difficulty"],
        "930b4b955cb207218934d343f836bc1c6afa8e650023cd5f03eb14283570ae7a",
    ),
    "assemble": (
        ["ingest", "question", "reason", "difficulty", "outline", "source"],
        "d6f2190b7121116cc76d47004dcef3399925aea7af863bba2c5746f3f8904f56",
    ),
    "shard": (
        ["assemble", "ingest", "package", "source"],
        "f087e37a9c6bf5f1b69a0b0a1f2aab082bd446fff7e4a9c8a4f9cf752e046d20",
    ),
}
"""Inputs in order, and the digest of the whole key, of the two videos `a` and `b` in one work item of each stage.

A key that changes makes a stage's rows stale in every store. A change of a key is also written into CHANGELOG.md.
"""

PROMPT = (
    "---\nid: {id}\npurpose: A test.\nrole: judge\noutput: Verdict\n---\n"
    "The hash of this text does not change when a prompt is edited.\n"
)


@pytest.mark.parametrize("name", [*VIDEO_STAGES, *BUILD_STAGES])
def test_stage_key_is_the_same_as_in_every_store(tmp_path, monkeypatch, name):
    found = replace(stage(name), tools=tuple(lambda: "tool 1" for _ in stage(name).tools))
    for prompt in found.prompts:
        (tmp_path / f"{prompt}.md").write_text(PROMPT.format(id=prompt))
    monkeypatch.setenv("LVR_PROMPTS", str(tmp_path))
    models = ModelsConfig(**{role.value: ModelConfig(model=f"{role.value}-1", vision=True) for role in Role})
    writers = QuestionConfig(writers=(Writer.PROGRAM, Writer.MODEL))
    config = BuildConfig(source="films", out="out", models=models, question=writers)
    tables = {each: (digest([each, "a"]), digest([each, "b"])) for each in (*VIDEO_STAGES, *BUILD_STAGES)}
    sources = tuple(Source(source_id=each, uri=f"{each}.mp4", fingerprint="1") for each in "ab")
    key = stage_key(found, config, WorkItem("item", tables, sources))
    assert ([each.stage for each in key.inputs], digest(key)) == KEYS[name]


def test_stage_key_covers_the_settings_of_a_model_that_change_its_answers(tmp_path):
    def key(**settings: object) -> str:
        models = ModelsConfig(judge=ModelConfig(model="judge-8b", **settings))
        config = BuildConfig(source=str(tmp_path), out=str(tmp_path), models=models)
        return digest(
            stage_key(stage("question"), config, WorkItem("item", dict.fromkeys(stage("question").tables, ())))
        )

    plain = key()
    assert {key(concurrency=3), key(timeout_seconds=9.0), key(patience_seconds=9.0), key(sampling={})} == {plain}
    changed = [{"thinking": True}, {"thinking_tokens": 9}, {"context_tokens": 9}, {"sampling": {"top_k": 9}}]
    assert len({plain, *(key(**settings) for settings in changed)}) == 5


READERS = {
    "uri": {"ingest", "assemble"},
    "fingerprint": {"ingest"},
    "title": {"outline", "shard"},
    "category": {"outline", "assemble", "shard"},
    "licence": {"shard"},
    "origin": {"assemble", "shard"},
    "split_hint": {"assemble"},
    "annotations": {"caption"},
    "facts_uri": {"question", "reason"},
}
"""Columns of `Source`, each with the stages whose rows depend on it directly."""


@pytest.mark.parametrize("column", READERS)
def test_stage_key_covers_the_columns_of_a_source_that_the_stage_uses(tmp_path, column):
    config = BuildConfig(source=str(tmp_path), out=str(tmp_path))
    note = Annotation(start_us=0, end_us=1, kind="speech", text="Come in!")
    other = {"category": VideoCategory.FILM, "split_hint": Split.EVAL, "annotations": (note,)}.get(column, "another")
    before = Source(source_id="film", uri="film.mp4", fingerprint="1")
    after = before.model_copy(update={column: other})

    def keys(source):
        for name in (*VIDEO_STAGES, *BUILD_STAGES):
            tables = dict.fromkeys(stage(name).tables, ("0" * 64,))
            yield name, stage_key(stage(name), config, WorkItem("film", tables, (source,)))

    assert {name for name, key in keys(before) if key != dict(keys(after))[name]} == READERS[column]


def test_stage_key_does_not_cover_where_sources_may_be(tmp_path):
    config = BuildConfig(source=str(tmp_path), out=str(tmp_path))
    more = config.model_copy(update={"allowed_roots": ("https://",)})
    for name in (*VIDEO_STAGES, *BUILD_STAGES):
        assert stage(name).section(config) == stage(name).section(more)


def test_every_column_of_a_source_is_used():
    assert READERS.keys() | {"source_id", "redacted"} == Source.model_fields.keys()


def test_stage_key_covers_the_version_of_a_tool(tmp_path, monkeypatch):
    """Rows that a broken or an old tool wrote are recomputed. All other keys are the same as without that field."""
    config = BuildConfig(source=str(tmp_path), out=str(tmp_path))
    source = Source(source_id="film", uri="film.mp4", fingerprint="1")

    def keys():
        for name in (*VIDEO_STAGES, *BUILD_STAGES):
            tables = dict.fromkeys(stage(name).tables, ("0" * 64,))
            yield name, stage_key(stage(name), config, WorkItem("film", tables, (source,)))

    before = dict(keys())
    assert {name for name, key in before.items() if "tools" in key.model_dump()} == {"ingest", "split", "package"}
    assert before["ingest"].tools == (pyav_version(),)
    monkeypatch.setattr(ffmpeg, "_choose_ffmpeg", lambda: ("/usr/bin/ffmpeg", "8.0.1"))
    after = dict(keys())
    assert {name for name, key in after.items() if key != before[name]} == {"split", "package"}
    assert (
        explain(before["package"], after["package"])
        == f"package: made with ffmpeg 8.0.1, {pyav_version()} instead of {', '.join(before['package'].tools)}"
    )

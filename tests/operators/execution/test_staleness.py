"""Reasons for stale work items, as text. That a build computes exactly these is tested with `operators.build`."""

import json

import pytest

from operators.build import plan_build
from operators.execution.identity import WHOLE_BUILD
from operators.execution.staleness import explain, find_stale
from schemas.base import digest
from schemas.config import BuildConfig, Role
from schemas.errors import Outage, SourceError
from schemas.run import Commit, InputIdentity, ModelIdentity, PromptIdentity, StageKey, StageRecord

BEFORE = StageKey(
    stage="verify",
    version=1,
    unit="film",
    seed=0,
    section='{"blind_trials":4}',
    prompts=(
        PromptIdentity(prompt_id="verify_choice", sha256="1" * 64),
        PromptIdentity(prompt_id="judge", sha256="2" * 64),
    ),
    models=(ModelIdentity(role=Role.JUDGE, model="judge-8b", vision=False),),
    inputs=(InputIdentity(stage="source", rows_sha256="3" * 64), InputIdentity(stage="question", rows_sha256="4" * 64)),
)
PROMPT, JUDGE = BEFORE.prompts
SOURCE, QUESTIONS = BEFORE.inputs


def edit(identity, **fields):
    return identity.model_copy(update=fields)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"prompts": (PROMPT, edit(JUDGE, sha256="9" * 64))}, "verify: prompt judge changed"),
        (
            {"models": (edit(BEFORE.models[0], model="judge-30b"),)},
            "verify: model of the judge changed from judge-8b to judge-30b",
        ),
        ({"models": (edit(BEFORE.models[0], vision=True),)}, "verify: the judge sees frames now"),
        (
            {"models": (edit(BEFORE.models[0], settings='{"thinking":true}'),)},
            'verify: settings of the judge changed from none to {"thinking":true}',
        ),
        ({"models": (), "prompts": ()}, "verify: no judge is asked any more"),
        (
            {"section": '{"blind_trials":8}'},
            'verify: settings changed from {"blind_trials":4} to {"blind_trials":8}',
        ),
        ({"version": 2}, "verify: code changed from version 1 to 2"),
        ({"seed": 7}, "verify: seed changed from 0 to 7"),
        (
            {"inputs": (edit(SOURCE, rows_sha256="9" * 64), QUESTIONS)},
            "verify: metadata in the source list changed",
        ),
        ({"inputs": (SOURCE, edit(QUESTIONS, rows_sha256="9" * 64))}, "verify: question rows changed"),
        ({"version": 2, "seed": 7}, "verify: code changed from version 1 to 2; seed changed from 0 to 7"),
        ({}, "verify: its commit was removed, or it could not be finished"),
    ],
)
def test_every_part_of_a_key_that_changes_is_named(change, reason):
    assert explain(BEFORE, edit(BEFORE, **change)) == reason


def test_a_captioner_where_captions_were_measured_is_named():
    measured = edit(BEFORE, stage="caption", models=(), prompts=())
    captioner = ModelIdentity(role=Role.CAPTIONER, model="vlm-8b", vision=True)
    described = edit(measured, models=(captioner,), prompts=(PromptIdentity(prompt_id="caption", sha256="5" * 64),))
    assert explain(measured, described) == "caption: a captioner is asked now: vlm-8b"


def test_a_changed_source_is_described_by_what_the_stage_reads_of_it():
    """Only `ingest` reads the file itself. The other stages read the source's entry in the list."""
    before = edit(BEFORE, stage="ingest")
    after = edit(before, inputs=(edit(SOURCE, rows_sha256="5" * 64), QUESTIONS))
    assert explain(before, after) == "ingest: source file changed"


def test_a_work_item_without_a_commit_is_new_or_has_not_run_yet():
    assert explain(None, edit(BEFORE, stage="ingest")) == "a new video"
    assert explain(None, edit(BEFORE, stage="package")) == "package has not run yet"  # in a store that predates it
    assert explain(None, edit(BEFORE, stage="shard", unit=WHOLE_BUILD)) == "shard has not run yet"


# --- a source whose videos can no longer be opened -------------------------------------------------------------------


@pytest.fixture
def ingested_run(tmp_path):
    """A run after `ingest` of a list of three videos, one of them outside the list's folder, and its configuration."""
    for name in ("lists/a.mp4", "lists/b.mp4", "films/c.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("not a video")
    write_list(tmp_path, "a.mp4", "b.mp4", "../films/c.mp4")
    config = BuildConfig(
        source=str(tmp_path / "lists/list.json"), out=str(tmp_path / "out"), allowed_roots=(str(tmp_path / "films"),)
    )
    folder = plan_build(config, "run")
    keys = {source.source_id: edit(BEFORE, stage="ingest", unit=source.source_id) for source in folder.sources()}
    commits = {
        source_id: Commit(
            key_sha256=digest(key), key=key, rows_sha256="0" * 64, rejects_sha256="0" * 64, rows=1, rejects=0
        )
        for source_id, key in keys.items()
    }  # fmt: skip
    folder.write_record(StageRecord(stage="ingest", partition=0, commits=commits))
    return folder, config


def write_list(tmp_path, *uris):
    rows = [{"uri": uri, "source_id": uri[-5]} for uri in uris]
    (tmp_path / "lists/list.json").write_text(json.dumps(rows))


def test_videos_that_may_not_be_opened_any_more_are_not_published_away(ingested_run):
    folder, config = ingested_run
    with pytest.raises(
        SourceError, match=r"1 videos of .* the first is c \(not_allowed: .*; make them readable, or take"
    ):
        find_stale(folder, config.model_copy(update={"allowed_roots": ()}))


def test_videos_without_the_right_to_read_them_are_not_published_away(ingested_run, tmp_path, unprivileged):
    folder, config = ingested_run
    (tmp_path / "lists/a.mp4").chmod(0)
    with unprivileged(tmp_path), pytest.raises(SourceError, match=r"the first is a \(unreadable_uri: "):
        find_stale(folder, config)


def test_videos_whose_server_does_not_answer_are_left_to_the_next_run(ingested_run, tmp_path):
    folder, config = ingested_run
    config = config.model_copy(update={"allowed_roots": (str(tmp_path), "http://127.0.0.1:9")})
    (tmp_path / "lists/list.json").write_text(
        '[{"uri": "http://127.0.0.1:9/a.mp4", "source_id": "a"}, {"uri": "b.mp4"}]'
    )
    with pytest.raises(Outage, match=r"the first is a \(unreach"):
        find_stale(folder, config)


@pytest.mark.parametrize("mount_point", ["empty", "gone"])
def test_videos_of_a_disk_that_is_not_mounted_are_not_published_away(ingested_run, tmp_path, mount_point):
    folder, config = ingested_run
    (tmp_path / "films").rename(tmp_path / "away")
    if mount_point == "empty":
        (tmp_path / "films").mkdir()
    with pytest.raises(Outage, match=r"1 videos of .* the first is c \(unreachable: .*c.mp4: no such file.*mount it"):
        find_stale(folder, config)


def test_a_second_row_of_a_video_that_cannot_be_opened_does_not_matter(ingested_run, tmp_path):
    """The unreachable row may be a mirror: the list has another file of the same video, which exists."""
    folder, config = ingested_run
    config = config.model_copy(update={"allowed_roots": (str(tmp_path), "http://127.0.0.1:9")})
    rows = [{"uri": uri, "source_id": "a"} for uri in ("http://127.0.0.1:9/a.mp4", "a.mp4")]
    (tmp_path / "lists/list.json").write_text(json.dumps([*rows, {"uri": "b.mp4", "source_id": "b"}]))
    assert "1 videos are gone from the source" in find_stale(folder, config).reasons


def test_a_video_that_could_not_be_read_before_does_not_hold_up_a_run(ingested_run):
    folder, config = ingested_run
    record = folder.record("ingest", 0)
    unread = record.commits["c"].model_copy(update={"rows": 0, "rejects": 1})
    folder.write_record(record.model_copy(update={"commits": record.commits | {"c": unread}}))
    stale = find_stale(folder, config.model_copy(update={"allowed_roots": ()}))
    assert "1 videos are gone from the source" in stale.reasons


def test_a_row_that_was_taken_out_of_the_list_makes_the_build_stale(ingested_run, tmp_path):
    folder, config = ingested_run
    write_list(tmp_path, "a.mp4", "../films/c.mp4")
    (tmp_path / "films/c.mp4").rename(tmp_path / "films/d.mp4")
    assert "2 videos are gone from the source" in find_stale(folder, config).reasons

"""Why something is stale, in words. That a build then computes just that is for tests of `operators.build`."""

import pytest

from operators.runner import WHOLE_BUILD
from operators.staleness import explain
from schemas.config import Role
from schemas.run import InputIdentity, ModelIdentity, PromptIdentity, StageKey

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


def changed(identity, **fields):
    return identity.model_copy(update=fields)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"prompts": (PROMPT, changed(JUDGE, sha256="9" * 64))}, "verify: prompt judge changed"),
        (
            {"models": (changed(BEFORE.models[0], model="judge-30b"),)},
            "verify: model of the judge changed from judge-8b to judge-30b",
        ),
        ({"models": (changed(BEFORE.models[0], vision=True),)}, "verify: the judge sees frames now"),
        ({"models": (), "prompts": ()}, "verify: no judge is asked any more"),
        (
            {"section": '{"blind_trials":8}'},
            'verify: settings changed from {"blind_trials":4} to {"blind_trials":8}',
        ),
        ({"version": 2}, "verify: code changed from version 1 to 2"),
        ({"seed": 7}, "verify: seed changed from 0 to 7"),
        (
            {"inputs": (changed(SOURCE, rows_sha256="9" * 64), QUESTIONS)},
            "verify: what the source's list says changed",
        ),
        ({"inputs": (SOURCE, changed(QUESTIONS, rows_sha256="9" * 64))}, "verify: question rows changed"),
        ({"version": 2, "seed": 7}, "verify: code changed from version 1 to 2; seed changed from 0 to 7"),
        ({}, "verify: it was taken back, or could not be finished"),
    ],
)
def test_every_part_of_a_key_that_changes_is_named(change, told):
    assert explain(BEFORE, changed(BEFORE, **change)) == told


def test_a_captioner_where_captions_were_measured_is_named():
    measured = changed(BEFORE, stage="caption", models=(), prompts=())
    captioner = ModelIdentity(role=Role.CAPTIONER, model="vlm-8b", vision=True)
    described = changed(measured, models=(captioner,), prompts=(PromptIdentity(prompt_id="caption", sha256="5" * 64),))
    assert explain(measured, described) == "caption: a captioner is asked now: vlm-8b"


def test_a_source_that_changed_is_told_as_what_the_stage_reads_of_it():
    """The file itself is for ingest alone, the others read what its list says."""
    before = changed(BEFORE, stage="ingest")
    after = changed(before, inputs=(changed(SOURCE, rows_sha256="5" * 64), QUESTIONS))
    assert explain(before, after) == "ingest: source file changed"


def test_what_was_not_there_before_is_new():
    assert explain(None, BEFORE) == "a new video"
    assert explain(None, changed(BEFORE, stage="shard", unit=WHOLE_BUILD)) == "shard has not run yet"

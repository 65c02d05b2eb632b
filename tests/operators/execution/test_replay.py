"""Records that a replay deletes, and environments in which it refuses to run."""

import pytest

from operators.execution.replay import OtherModels, assert_same_models, forget_rejects
from schemas.config import ModelConfig, ModelsConfig
from schemas.tables import Reject
from tests.support.synthetic_run import synthetic_run

SERVER = "http://models:8000/v1"
ENDPOINTS = {
    "LVR_MODEL_URL": SERVER,
    "LVR_CAPTIONER_MODEL": "vlm-8b",
    "LVR_REASONER_MODEL": "reasoner-120b",
    "LVR_JUDGE_MODEL": "judge-30b",
    "LVR_TARGET_MODEL": "target-7b",
}


@pytest.fixture
def folder(tmp_path):
    return synthetic_run(tmp_path, videos=4)


def find_rejecting_commit(folder):
    """Stage and commit of the run's first work item that has rejects."""
    return next(
        (record.stage, commit) for record in folder.records() for commit in record.commits.values() if commit.rejects
    )


def open_request(run):
    """The same run, requested without models in its configuration: its endpoints named them."""
    return run.model_copy(update={"requested": run.requested.model_copy(update={"models": ModelsConfig()})})


def test_a_run_is_replayed_with_the_models_that_it_was_built_with(folder):
    run = open_request(folder.run)
    assert_same_models(run, ENDPOINTS)
    with pytest.raises(OtherModels) as refused:
        assert_same_models(run, {})
    message = str(refused.value)
    assert "viewer" not in message  # the run is from before that role
    assert (
        "captioner: it was built with 'vlm-8b', here it would be 'measured'; set LVR_CAPTIONER_URL to its server and "
        "LVR_CAPTIONER_MODEL=vlm-8b"
    ) in message
    assert message.count("it was built with") == 4


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        (ENDPOINTS | {"LVR_JUDGE_MODEL": "judge-7b"}, "judge: .*'judge-30b', .* 'judge-7b'; set LVR_JUDGE_URL"),
        (ENDPOINTS | {"LVR_TARGET_VISION": "0"}, "target: 'target-7b' was asked with vision; set LVR_TARGET_VISION=1"),
    ],
)
def test_the_role_that_differs_is_named_alone(folder, environ, message):
    with pytest.raises(OtherModels, match=rf"cannot be replayed here: {message}[^;]*$"):
        assert_same_models(open_request(folder.run), environ)


def test_an_endpoint_that_the_run_did_not_have_is_named(folder):
    run = open_request(folder.run)
    models = run.config.models.model_copy(update={"captioner": ModelConfig(model="measured", vision=False)})
    run = run.model_copy(update={"config": run.config.model_copy(update={"models": models})})
    with pytest.raises(OtherModels, match=r"captioner: .*'measured', .*'vlm-8b'; unset LVR_CAPTIONER_URL and"):
        assert_same_models(run, ENDPOINTS)


def test_a_second_replay_keeps_what_the_first_repaired(folder):
    stage, commit = find_rejecting_commit(folder)
    counts = forget_rejects(folder, stage)
    assert folder.store.find_commit(stage, commit.key_sha256) is None
    repaired = commit.model_copy(update={"rejects": 0, "rejects_sha256": folder.store.put_rows([], Reject)})
    folder.store.commit(repaired)
    assert forget_rejects(folder, stage) == counts  # an interrupted replay resumes
    assert folder.store.find_commit(stage, commit.key_sha256) == repaired


def test_a_row_that_was_rejected_again_is_replayed_again(folder):
    stage, commit = find_rejecting_commit(folder)
    forget_rejects(folder, stage)
    [first, *others] = folder.store.get_rows(commit.rejects_sha256, Reject)
    rejects = [first.model_copy(update={"raw": "another answer"}), *others]
    folder.store.commit(commit.model_copy(update={"rejects_sha256": folder.store.put_rows(rejects, Reject)}))
    forget_rejects(folder, stage)
    assert folder.store.find_commit(stage, commit.key_sha256) is None

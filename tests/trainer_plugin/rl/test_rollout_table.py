"""The table of rollouts: what is written is read back, the status of a response, and what a resume removes."""

import logging
import re
from pathlib import Path

import pytest
import torch

from schemas.arrow import rows_to_parquet
from schemas.errors import SchemaError
from schemas.sample import Sample
from tests.support.properties import given, st
from tests.support.rows import make_sample, make_video
from tests.trainer_plugin.rl.rollouts import make_row, rollout_rows
from trainer_plugin.rl.losses import kept_responses
from trainer_plugin.rl.rollout_table import (
    RewardValue,
    RolloutFolder,
    RolloutRow,
    RolloutStatus,
    choose_status,
    find_right,
)


@given(rows=st.lists(rollout_rows(), max_size=6))
def test_rollouts_are_read_back(tmp_path_factory, rows):
    folder = RolloutFolder(tmp_path_factory.mktemp("run"))
    path = folder.write(12, rows)
    assert path == folder.folder / "step-000012.parquet"
    assert folder.read(12) == rows
    assert list(folder.folder.iterdir()) == [path]


def test_a_step_that_is_trained_again_replaces_its_rollouts(tmp_path):
    folder = RolloutFolder(tmp_path)
    folder.write(1, [make_row(0), make_row(1)])
    folder.write(1, [make_row(2)])
    assert [row.number for row in folder.read(1)] == [2]


def test_a_resume_removes_the_rollouts_of_later_steps(tmp_path, caplog):
    folder = RolloutFolder(tmp_path)
    folder.drop_after(0)  # before the first step there is no folder
    for step in (1, 2, 3, 1_000_000):
        folder.write(step, [make_row(step=step)])
    note = folder.folder / "step-notes.parquet"
    note.touch()
    with caplog.at_level(logging.INFO, "trainer_plugin"):
        folder.drop_after(2)
    assert sorted(folder.folder.iterdir()) == [folder.path(1), folder.path(2), note]
    assert f"{folder.path(3)} is of a step after the checkpoint" in caplog.text


def test_a_damaged_file_is_named(tmp_path):
    folder = RolloutFolder(tmp_path)
    path = folder.write(1, [make_row()])
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(SchemaError, match=r"step-000001.parquet: not a readable Parquet file"):
        folder.read(1)


def test_the_documented_snippet_shows_the_questions_with_the_lowest_rewards(tmp_path, monkeypatch, capsys):
    pytest.importorskip("pandas")
    monkeypatch.chdir(tmp_path)
    samples = [
        make_sample(number, make_video("film")).model_copy(update={"problem": f"Question {number}?"})
        for number in range(3)
    ]
    Path("RELEASE/parquet").mkdir(parents=True)
    Path("RELEASE/parquet/rl.parquet").write_bytes(rows_to_parquet(samples, Sample))
    keys = [sample.question_id for sample in samples]
    folder = RolloutFolder(Path("out"))
    folder.write(1, [make_row(0, keys[2], step=1, accuracy=0.0)])  # too early to be shown
    for step, right in ((20, 1.0), (21, 0.0)):
        folder.write(step, [make_row(0, keys[0], step=step), make_row(0, keys[1], step=step, accuracy=right)])
    text = (Path(__file__).parents[3] / "docs" / "rl.md").read_text()
    [snippet] = [code for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "import pandas" in code]
    exec(snippet, {})
    _, _, first, second = capsys.readouterr().out.splitlines()
    assert [line.split()[:3] for line in (first, second)] == [[keys[n], "Question", f"{n}?"] for n in (1, 0)]
    assert (first.split()[-1], second.split()[-1]) == ("0.5", "1.0")


def test_the_documentation_describes_every_column():
    text = (Path(__file__).parents[3] / "docs" / "rl.md").read_text()
    assert [name for name in RolloutRow.model_fields if f"`{name}`" not in text] == []
    assert [status for status in RolloutStatus if f"`{status}`" not in text] == []


@given(
    tokens=st.integers(0, 2),
    scored=st.booleans(),
    dropped=st.booleans(),
    masked=st.booleans(),
    accepted=st.booleans(),
)
def test_kept_responses_are_those_of_the_loss(tokens, scored, dropped, masked, accepted):
    status = choose_status(tokens, scored=scored, dropped=dropped, masked=masked, accepted=accepted)
    flags = {"scored": scored, "truncated": masked, "accepted": accepted}
    [kept] = kept_responses(torch.tensor([tokens]), **{name: torch.tensor([flag]) for name, flag in flags.items()})
    assert (status is RolloutStatus.KEPT) == (bool(kept) and not dropped)


@pytest.mark.parametrize(
    ("status", "change"),
    [
        (RolloutStatus.EMPTY, {"tokens": 0, "scored": False}),
        (RolloutStatus.FAILED, {"scored": False, "dropped": True}),
        (RolloutStatus.NO_SIGNAL, {"dropped": True, "masked": True}),
        (RolloutStatus.TRUNCATED, {"masked": True, "accepted": False}),
        (RolloutStatus.REJECTED, {"accepted": False}),
        (RolloutStatus.KEPT, {}),
    ],
)
def test_the_first_reason_is_the_status(status, change):
    flags = {"tokens": 5, "scored": True, "dropped": False, "masked": False, "accepted": True}
    assert choose_status(**(flags | change)) is status


@pytest.mark.parametrize(
    ("values", "right"),
    [
        ({"format": 1.0}, None),
        ({"accuracy": None, "judge": None}, None),
        ({"judge": 1.0, "accuracy": 0.0}, False),
        ({"judge": 1.0, "accuracy": None}, True),
        ({}, None),
    ],
)
def test_accuracy_or_else_the_judge_states_whether_an_answer_is_right(values, right):
    assert find_right(RewardValue(name=name, value=value) for name, value in values.items()) is right

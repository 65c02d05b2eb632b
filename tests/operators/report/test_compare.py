"""Two runs are compared question by question."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from operators.report.compare import Comparison, compare_runs
from operators.store.run_folder import RunFolder
from schemas.base import digest
from schemas.provenance import Provenance
from schemas.run import Commit, PromptIdentity, StageKey, StageRecord
from schemas.tables import Question, Reject
from tests.support.rows import make_question
from tests.support.synthetic_run import synthetic_run

VIDEO = "vid_000"
NO_QUESTION = "q" + "0" * 24


def make_run(
    out: Path, questions: Sequence[Question], rejects: Sequence[Reject] = (), prompt_sha256: str = "a" * 64
) -> RunFolder:
    """A run of one video that has finished stage `question` with these rows."""
    folder = synthetic_run(out, videos=1, until="caption")
    used = (PromptIdentity(prompt_id="question_plot", sha256=prompt_sha256),)
    key = StageKey(stage="question", version=1, unit=VIDEO, seed=0, section="", prompts=used, models=(), inputs=())
    commit = Commit(
        key_sha256=digest(key),
        key=key,
        rows_sha256=folder.store.put_rows(questions, Question),
        rejects_sha256=folder.store.put_rows(rejects, Reject),
        rows=len(questions),
        rejects=len(rejects),
    )
    folder.write_record(StageRecord(stage="question", partition=0, commits={VIDEO: commit}))
    return folder


def question(number: int, model: str = "reasoner-1", **fields: object) -> Question:
    provenance = Provenance(model=model, prompt_id="question_plot")
    return make_question(number, VIDEO).model_copy(update={"provenance": provenance, **fields})


def reject(key: str, reason: str, stage: str = "question") -> Reject:
    return Reject(stage=stage, unit=VIDEO, key=key, reason=reason, message="m")


@pytest.fixture
def comparison(tmp_path) -> Comparison:
    before = [question(1), question(2), question(3), question(4), question(5)]
    after = [
        question(1),
        question(2, question="What comes at the end?"),
        question(3),
        question(4, options=tuple(reversed(question(4).options))),
        question(6, model="reasoner-2"),
    ]
    old = make_run(tmp_path / "a", before, [reject("q0002", "not_grounded"), reject("q0003", "answerable_blind")])
    new = make_run(tmp_path / "b", after, [reject("q0006", "duplicate"), reject(NO_QUESTION, "schema")], "b" * 64)
    return compare_runs(old, new)


def ids(changes) -> list[str]:
    return [change.any.question_id for change in changes]


def test_each_question_is_in_one_group(comparison):
    assert ids(comparison.only_before) == ["q0005"]
    assert ids(comparison.only_after) == [NO_QUESTION, "q0006"]
    assert ids(comparison.rewritten) == ["q0002"]
    assert ids(comparison.verdict_changed) == ["q0003"]
    assert comparison.same == 2  # the order of the options has no meaning
    assert comparison.prompts == ("question_plot changed",)


def test_a_change_has_both_texts_and_verdicts(comparison):
    [rewritten], [judged] = comparison.rewritten, comparison.verdict_changed
    assert (rewritten.before.text, rewritten.after.text) == ("What comes 2th?", "What comes at the end?")
    assert (rewritten.before.reasons, rewritten.after.passed) == (("question: not_grounded",), True)
    assert (judged.before.reasons, judged.after.reasons) == (("question: answerable_blind",), ())
    assert comparison.only_after[0].after.reasons == ("question: schema",)


def test_counts_are_by_stage_category_prompt_and_model(comparison):
    counts = comparison.counts
    assert counts["stage"]["question"] == (5, 5)
    assert counts["stage"]["question: not_grounded"] == (1, 0)
    assert counts["category"]["plot: requested"] == (5, 5)
    assert counts["category"]["plot: passed"] == (3, 4)
    assert counts["category"]["(no question): question: schema"] == (0, 1)
    assert counts["prompt"]["question_plot: question: duplicate"] == (0, 1)
    assert counts["model"]["reasoner-1: requested"] == (5, 4)
    assert counts["model"]["reasoner-2: requested"] == (0, 1)


def test_all_reasons_are_in_the_order_of_the_stages(tmp_path):
    rejects = [reject("q0001", "unfit_video", "assemble"), reject("q0001", "meta_talk", "reason")]
    old, new = make_run(tmp_path / "a", [question(1)]), make_run(tmp_path / "b", [question(1)], rejects)
    [change] = compare_runs(old, new).verdict_changed
    assert change.after.reasons == ("reason: meta_talk", "assemble: unfit_video")


def test_a_run_equals_itself(tmp_path):
    folder = make_run(tmp_path, [question(1), question(2)], [reject("q0002", "duplicate")])
    comparison = compare_runs(folder, folder)
    assert comparison.same == 2 and comparison.prompts == ()
    groups = comparison.as_json()["questions"]
    assert [name for name, found in groups.items() if found] == ["same"]
    assert all(before == after for counts in comparison.counts.values() for before, after in counts.values())


def test_a_run_that_has_no_questions_yet_has_no_questions(tmp_path):
    folder = synthetic_run(tmp_path / "a", videos=1, until="caption")
    comparison = compare_runs(folder, make_run(tmp_path / "b", [question(1)]))
    assert ids(comparison.only_after) == ["q0001"]


def test_the_comparison_is_json(comparison):
    found = json.loads(json.dumps(comparison.as_json()))
    [rewritten] = found["questions"]["rewritten"]
    assert rewritten["before"] == {
        "question": "What comes 2th?",
        "options": ["a bird", "a boat", "a car", "a train"],
        "answer": "a boat",
        "prompt": "question_plot",
        "model": "reasoner-1",
        "passed": False,
        "reasons": ["question: not_grounded"],
    }
    assert "before" not in found["questions"]["only_after"][0]

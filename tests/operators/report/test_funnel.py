"""The funnel: at which stage questions are rejected."""

import pandas as pd

from operators.report.funnel import funnel

QUESTIONS = pd.DataFrame(
    {
        "question_id": list("abcdefg"),
        "writer": ["program"] * 2 + ["model"] * 5,
        "passed": [True, False, False, False, True, True, False],
    }
)
CHECKS = pd.DataFrame(
    [
        ("a", "rules", True), ("a", "blind", True), ("a", "grounded", True),
        ("b", "rules", False),
        ("c", "rules", True), ("c", "blind", False),
        ("d", "rules", True), ("d", "blind", True), ("d", "grounded", False),
        ("e", "rules", True), ("e", "blind", True), ("e", "grounded", True), ("e", "parts", False),
        ("f", "rules", True), ("f", "blind", True), ("f", "grounded", True),
        ("g", "rules", True),
    ],
    columns=["question_id", "check", "passed"],
)  # fmt: skip


def test_each_question_leaves_at_the_gate_that_it_fails():
    steps = funnel(["model", "program"], QUESTIONS, CHECKS, set("ae"), set("a"), set("a"))
    assert [(step.name, step.left["program"], step.left["model"]) for step in steps if step.left] == [
        ("written", 2, 5),
        ("well-formed", 1, 5),
        ("not answerable blind", 1, 4),
        ("agrees with its evidence", 1, 3),
        ("reasoned", 1, 1),
        ("difficulty measured", 1, 0),
        ("samples", 1, 0),
    ]


def test_a_gate_that_checked_no_question_has_no_count():
    steps = funnel(["model", "program"], QUESTIONS, CHECKS, set(), set(), set())
    assert {step.name for step in steps if step.left is None} == {
        "worded as a question about the video",
        "agrees with the whole video",
        "agrees with frames",
        "no duplicate",
    }


def test_gates_whose_stage_has_not_run_have_no_count():
    steps = funnel(["model", "program"], QUESTIONS, CHECKS, None, None, None)
    assert [step.left is None for step in steps[-3:]] == [True] * 3

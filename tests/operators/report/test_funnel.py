"""The funnel: at which stage questions are rejected."""

import pandas as pd

from operators.report.funnel import funnel

QUESTIONS = pd.DataFrame({"question_id": list("abcdef"), "writer": ["program"] * 2 + ["model"] * 4})
VERIFY = pd.DataFrame(
    [
        ("a", "rules", True), ("a", "blind", True), ("a", "grounded", True),
        ("b", "rules", False),
        ("c", "rules", True), ("c", "blind", False),
        ("d", "rules", True), ("d", "blind", True), ("d", "grounded", False),
        ("e", "rules", True), ("e", "blind", True), ("e", "grounded", True),
    ],
    columns=["question_id", "check", "passed"],
)  # fmt: skip


def test_each_question_leaves_at_the_gate_that_it_fails():
    steps = funnel(["model", "program"], QUESTIONS, set("abcde"), VERIFY, set("ae"), set("a"))
    assert [(step.name, step.left["program"], step.left["model"]) for step in steps] == [
        ("written", 2, 4),
        ("reasoned", 2, 3),
        ("well-formed", 1, 3),
        ("not answerable blind", 1, 2),
        ("agrees with its evidence", 1, 1),
        ("difficulty measured", 1, 1),
        ("samples", 1, 0),
    ]


def test_gates_whose_stage_has_not_run_have_no_count():
    steps = funnel(["model", "program"], QUESTIONS, set("abcde"), None, None, None)
    assert [step.left is None for step in steps] == [False, False, True, True, True, True, True]

"""The health findings on the report page."""

from dataclasses import replace

import pandas as pd
import pytest

from operators.execution.rejects import RejectGroup
from operators.report.baselines import Baseline
from operators.report.health import findings
from schemas.config import ModelConfig


def verdict(numbers, what):
    [finding] = [each for each in findings(numbers) if each.what == what]
    return finding.ok


def test_findings_that_need_attention_come_first(numbers):
    order = [finding.ok for finding in findings(numbers)]
    assert order == sorted(order)
    assert False in order  # the shard stage has not run
    assert verdict(numbers, "Videos in more than one split")


def test_a_video_in_two_splits_is_found(numbers):
    samples = numbers.samples.copy()
    samples.loc[0, "split"] = "eval" if samples.loc[0, "split"] != "eval" else "sft"
    assert not verdict(replace(numbers, samples=samples), "Videos in more than one split")


def test_rl_samples_without_a_gradient_are_found(numbers):
    samples = numbers.samples.assign(split="rl", pass_rate=1.0)
    assert not verdict(replace(numbers, samples=samples), "RL samples without a gradient (pass rate 0 or 1)")


def test_vanished_questions_are_found(numbers):
    assert verdict(numbers, "Questions accounted for")
    assert not verdict(replace(numbers, unaccounted=1), "Questions accounted for")


def test_segments_that_planning_skipped_are_no_unreadable_videos(numbers):
    """Nine of ten planned videos are readable. The eleventh file in the source was not a video."""
    segments = RejectGroup("plan", "annotation", 500, ())
    found = findings(replace(numbers, rejects=(*numbers.rejects, segments)))
    assert [each.figure for each in found if each.what == "Readable videos"] == ["9 of 11"]


@pytest.mark.parametrize(("accuracy", "ok"), [(0.25, True), (0.27, True), (0.35, False)])
def test_a_baseline_far_above_chance_needs_attention(numbers, accuracy, ok):
    baseline = Baseline("Always the longest option", accuracy, 0.25, 1000)
    assert verdict(replace(numbers, baselines=(baseline,)), baseline.name) is ok


def test_a_plan_that_is_hardly_filled_names_what_is_missing_most(numbers):
    rows = [("goal", "open", "near", 10, 9), ("plot", "choice", "far", 10, 4), ("plot", "open", "far", 2, 30)]
    plan = pd.DataFrame(rows, columns=["category", "kind", "reach", "planned", "kept"])
    [found] = [each for each in findings(replace(numbers, plan=plan)) if each.what.startswith("Planned")]
    assert (found.ok, found.figure) == (False, "15 of 22; most are missing of plot, choice, far")


@pytest.mark.parametrize(
    ("models", "expected"),
    [
        ({"reasoner": "Qwen/Qwen3-30B", "judge": "qwen2.5-72b"}, [("Families of reasoner and judge", False)]),
        ({"reasoner": "Qwen/Qwen3-30B", "judge": "gpt-oss-120b"}, [("Families of reasoner and judge", True)]),
        ({"captioner": "vlm-8b"}, [("Viewer other than the captioner", False)]),
        ({"captioner": "vlm-8b", "viewer": "vlm-8b"}, [("Viewer other than the captioner", False)]),
        ({"captioner": "vlm-8b", "viewer": "other-7b"}, [("Viewer other than the captioner", True)]),
    ],
)
def test_models_that_check_should_be_others_than_those_that_write(numbers, models, expected):
    named = {role: ModelConfig(model=model) for role, model in models.items()}
    changed = numbers.run.config.models.model_copy(update=named)
    config = numbers.run.config.model_copy(update={"models": changed})
    found = findings(replace(numbers, run=numbers.run.model_copy(update={"config": config})))
    assert [(each.what, each.ok) for each in found if each.what in dict(expected)] == expected

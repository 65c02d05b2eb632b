"""The findings about the data of a run."""

from dataclasses import replace

import pandas as pd
import pytest

from operators.execution.rejects import RejectGroup
from operators.report.baselines import Baseline
from operators.report.collect import ServedModel
from operators.report.health import collect_findings, find_findings
from schemas.config import AssembleConfig, ModelConfig, Role


def finding(numbers, code):
    [found] = [each for each in find_findings(numbers).findings if each.code == code]
    return found


def severity(numbers, code):
    return finding(numbers, code).severity.value


def with_config(numbers, **sections):
    config = numbers.run.config.model_copy(update=sections)
    return replace(numbers, run=numbers.run.model_copy(update={"config": config}))


def test_the_most_severe_come_first_and_each_check_is_there_once(numbers):
    found = find_findings(replace(numbers, unaccounted=1)).findings
    severities = [each.severity.value for each in found]
    assert severities == sorted(severities, key=["error", "warning", "info"].index)
    assert {"error", "warning", "info"} == set(severities)  # the shard stage has not run
    assert len({each.code for each in found}) == len(found)


def test_findings_are_collected_from_a_run(folder, numbers):
    assert collect_findings(folder) == find_findings(numbers)


def test_a_problem_names_its_figures_and_what_to_do(numbers):
    found = finding(replace(numbers, truncated=500, captions=1000), "truncated_captions")
    assert str(found) == (
        "warning: Captions cut off at the token limit: 500 of 1,000; raise models.captioner.sampling.max_tokens "
        "[truncated_captions]"
    )
    assert found.figures == {"truncated": 500, "captions": 1000}


def test_a_video_in_two_splits_is_an_error(numbers):
    samples = numbers.samples.copy()
    samples.loc[0, "split"] = "eval" if samples.loc[0, "split"] != "eval" else "sft"
    assert severity(numbers, "video_in_two_splits") == "info"
    assert severity(replace(numbers, samples=samples), "video_in_two_splits") == "error"


def test_rl_samples_without_a_gradient_are_an_error(numbers):
    samples = numbers.samples.assign(split="rl", pass_rate=1.0)
    assert severity(replace(numbers, samples=samples), "rl_without_gradient") == "warning"


def test_vanished_questions_are_an_error(numbers):
    assert severity(numbers, "unaccounted_questions") == "info"
    assert severity(replace(numbers, unaccounted=1), "unaccounted_questions") == "error"


def test_no_samples_are_an_error(numbers):
    assert severity(replace(numbers, samples=numbers.samples.iloc[:0]), "no_samples") == "error"


def test_segments_that_planning_skipped_are_no_unreadable_videos(numbers):
    """Nine of ten planned videos are readable. The eleventh file in the source was not a video."""
    segments = RejectGroup("plan", "annotation", 500, ())
    found = finding(replace(numbers, rejects=(*numbers.rejects, segments)), "unreadable_videos")
    assert found.message.startswith("9 of 11;")


def test_rows_that_the_machine_cost_are_counted(numbers):
    faults = RejectGroup("split", "system_error", 3, ())
    assert finding(replace(numbers, rejects=(faults,)), "machine_faults").figures == {"rows": 3}


@pytest.mark.parametrize(("accuracy", "expected"), [(0.25, "info"), (0.27, "info"), (0.35, "warning")])
@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("Always the longest option", "longest_option"),
        ("Always the letter C", "letter_bias"),
        ("Judge without video, samples", "answerable_blind"),
    ],
)
def test_a_baseline_far_above_guessing_is_a_warning(numbers, name, code, accuracy, expected):
    baseline = Baseline(name, accuracy, 0.25, 1000)
    assert severity(replace(numbers, baselines=(baseline,)), code) == expected


def test_videos_whose_longest_option_is_always_right_are_named(numbers):
    choices = numbers.choices
    row = choices.iloc[0]
    biased = pd.DataFrame([row] * 20).assign(
        video_id="film", options=[["a long answer", "b", "c", "d"]] * 20, answer_text="a long answer"
    )
    samples = pd.concat([numbers.samples, biased], ignore_index=True)
    found = finding(replace(numbers, samples=samples), "longest_option_of_videos")
    assert (found.severity.value, found.message) == ("warning", "1 (film); read their questions")


def test_a_plan_that_is_hardly_filled_names_what_is_missing_most(numbers):
    rows = [("goal", "open", "near", 10, 9), ("plot", "choice", "far", 10, 4), ("plot", "open", "far", 2, 30)]
    plan = pd.DataFrame(rows, columns=["category", "kind", "reach", "planned", "kept"])
    found = finding(replace(numbers, plan=plan), "plan_shortfall")
    assert found.severity.value == "warning"
    assert found.message.startswith("15 of 22; most are missing of plot, choice, far; ")


@pytest.mark.parametrize(
    ("reason", "code", "limit"), [("unanswered", "unanswered", 0.02), ("duplicate_across_videos", "duplicates", 0.1)]
)
def test_too_many_rejects_for_one_reason_are_a_warning(numbers, reason, code, limit):
    def rejected(count):
        reasons = [reason] * count + [""] * (len(numbers.outcomes) - count)
        return replace(numbers, outcomes=numbers.outcomes.assign(reason=reasons))

    allowed = int(limit * numbers.questions)
    assert severity(rejected(allowed), code) == "info"
    assert severity(rejected(allowed + 1), code) == "warning"
    assert finding(rejected(allowed + 1), code).figures["questions"] == numbers.questions


def test_rejects_of_evaluation_lists_are_shown_where_there_are_lists(numbers):
    assert "contaminated" not in {each.code for each in find_findings(numbers).findings}
    listed = with_config(numbers, assemble=AssembleConfig(decontamination=("a.txt",)))
    listed = replace(listed, outcomes=numbers.outcomes.assign(reason="contaminated"))
    assert finding(listed, "contaminated").figures["contaminated"] == numbers.questions


def test_captions_that_were_requested_again_are_counted_by_fault(numbers):
    found = finding(
        replace(numbers, repaired_captions=600, captions=1000, repaired={"schema": 600}), "repaired_captions"
    )
    assert found.severity.value == "warning"
    assert found.figures == {"repaired": 600, "captions": 1000, "schema": 600}


def test_hinted_chains_are_compared_with_those_of_models(numbers):
    chains = numbers.chains.assign(model="program", hinted=False)
    chains.loc[:9, "model"] = "reasoner-120b"
    chains.loc[:3, "hinted"] = True
    found = finding(replace(numbers, chains=chains), "hinted_chains")
    assert (found.severity.value, found.figures) == ("warning", {"hinted": 4, "chains": 10})


def test_models_are_compared_by_the_names_that_servers_state(numbers):
    named = {"reasoner": ModelConfig(model="writer"), "judge": ModelConfig(model="judge")}
    aliased = with_config(numbers, models=numbers.run.config.models.model_copy(update=named))
    served = (
        ServedModel(Role.REASONER, "writer", "Qwen3-30B", 100),
        ServedModel(Role.REASONER, "writer", "gpt-4o", 2),
        ServedModel(Role.JUDGE, "judge", "Qwen3-235B", 100),
    )
    assert severity(replace(aliased, served=()), "same_family") == "info"
    assert severity(replace(aliased, served=served), "same_family") == "warning"


def test_answers_of_another_model_than_requested_are_counted(numbers):
    served = (
        ServedModel(Role.JUDGE, "Qwen/Qwen3-30B", "qwen3-30b-fp8", 70),
        ServedModel(Role.TARGET, "target-7b", "llama-3", 30),
    )
    found = finding(replace(numbers, served=served), "other_model_served")
    assert found.message.startswith("30 (llama-3 for target-7b); unless one is an alias")
    assert severity(replace(numbers, served=served[:1]), "other_model_served") == "info"


def test_nothing_is_judged_before_its_stage_has_run(numbers):
    stages = tuple(replace(each, partitions_done=0) for each in numbers.stages)
    codes = {each.code for each in find_findings(replace(numbers, stages=stages)).findings}
    assert codes.isdisjoint({"missing_captions", "plan_shortfall", "hinted_chains", "unaccounted_questions"})

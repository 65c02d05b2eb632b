"""The summary that is printed for the user when a build has finished."""

import io
import re

import pytest
from rich.console import Console

from operators.release.publish import newest_release
from operators.release.show import SHOWN_SAMPLES, pick_samples, read_samples, show_build, show_samples
from operators.store.content_store import Store
from operators.store.run_folder import RunFolder
from schemas.provenance import StepProvenance
from tests.support.rows import make_sample, make_video


@pytest.fixture
def folder(release):
    out = release.parents[2]
    return RunFolder.open(f"{out}/runs/{next((out / 'runs').iterdir()).name}")


def print_build(folder: RunFolder, **changes: str) -> str:
    printed = io.StringIO()
    made = newest_release(folder.store, folder.run.config.name)
    show_build(Console(file=printed, width=100), folder, made.model_copy(update=changes), seconds=12.3)
    return printed.getvalue()


def test_rejects_samples_counts_and_places_are_shown(folder, release):
    output = print_build(folder)
    assert "skipped in the source (not videos): 3 .srt files\n" in output
    assert re.search(r"rejected 1 × plan: not_a_video\n?.*notes\.txt", output)
    assert output.count("written by") == SHOWN_SAMPLES
    assert re.search(r"12 s; \d+ steps \(one stage of one video each\) were computed, \d+ reused", output)
    assert re.search(r"published synthetic version 1: \d+ samples \(eval \d+, rl \d+, sft \d+\)", output)
    assert f"shards  {release}/data\ntables  {release}/parquet\nreport  {folder.url}/report.html" in output
    assert f"check   lvr validate {release}\n" in output
    assert re.search(r"categories: goal \d+, plot \d+, spatial \d+, temporal \d+\n", output)


def test_a_run_that_changed_nothing_is_shown_as_such(folder, monkeypatch):
    metrics = [stage.model_copy(update={"reused": stage.units}) for stage in folder.metrics()]
    monkeypatch.setattr(folder, "metrics", lambda: metrics)
    output = print_build(folder, run_id="an-earlier-one")
    steps = sum(stage.units for stage in metrics)
    assert f"nothing had to be computed: the results of all {steps} steps were reused" in output
    assert "nothing new to publish; this is still synthetic version 1" in output


def test_a_sample_is_shown_with_the_models_and_prompts_behind_it():
    steps = (
        StepProvenance(step="caption", model="measured"),
        StepProvenance(step="question", model="writer", prompt_id="question_plot", prompt_sha256="ab" * 32),
        StepProvenance(step="reason", model="writer", prompt_id="chain", prompt_sha256="cd" * 32),
    )
    printed = io.StringIO()
    sample = make_sample(1, make_video("v")).model_copy(update={"steps": steps, "reasoning_hinted": True})
    show_samples(Console(file=printed, width=100), [sample])
    assert "reasoning written with the answer" in " ".join(printed.getvalue().replace("│", "").split())
    assert "measured: caption " in printed.getvalue()
    assert "writer: question (question_plot abababab), reason (chain cdcdcdcd) " in printed.getvalue()


def test_the_samples_shown_differ_and_are_the_same_every_time(folder):
    samples = read_samples(folder.store, newest_release(Store(folder.store.url), "synthetic"))
    picked = pick_samples(samples, SHOWN_SAMPLES)
    assert {each.problem_type for each in picked} == {each.problem_type for each in samples}
    assert len({(each.problem_type, each.video_id, each.kind, each.writer) for each in picked}) == SHOWN_SAMPLES
    assert pick_samples(samples[::-1], SHOWN_SAMPLES) == picked


def test_findings_that_need_attention_are_shown(folder):
    assert "[no_viewer]" in print_build(folder)
    found = folder.findings()
    folder.write_findings(found.model_copy(update={"findings": ()}))
    try:
        assert "no finding about the data needs attention" in print_build(folder)
    finally:
        folder.write_findings(found)

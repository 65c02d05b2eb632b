"""The report's numbers compared with direct counts over the rows."""

from collections import Counter

import fsspec
import pytest

from operators.execution.identity import WHOLE_BUILD
from operators.questions.plan import plan_slots
from operators.report.collect import MAX_EXAMPLES, collect
from operators.store.run_folder import RunFolder
from schemas.run import StageRecord
from schemas.sample import Sample
from schemas.tables import Caption, Clip, Question, Reasoning, Reject, Split, Trial, Video
from tests.support.synthetic_run import synthetic_run


def rows(folder, stage, model, partitions=(0, 1, 2)):
    commits = [commit for partition in partitions for commit in folder.record(stage, partition).commits.values()]
    return [row for commit in commits for row in folder.store.get_rows(commit.rows_sha256, model)]


def rejects(folder):
    commits = [commit for record in folder.records() for commit in record.commits.values()]
    objects = [folder.run.plan_rejects_sha256, *(commit.rejects_sha256 for commit in commits)]
    return [reject for sha256 in objects for reject in folder.store.get_rows(sha256, Reject)]


def samples(folder):
    return folder.store.get_rows(folder.record("assemble", None).commits[WHOLE_BUILD].rows_sha256, Sample)


def test_videos_clips_and_captions(folder, numbers):
    videos = rows(folder, "ingest", Video)
    assert len(numbers.videos) == len(videos) == 9
    assert numbers.hours == pytest.approx(sum(video.duration_us for video in videos) / 3.6e9)
    clips = rows(folder, "split", Clip)
    assert numbers.captions == len(clips) == len(numbers.clip_seconds)
    assert numbers.clip_seconds.sum() == pytest.approx(3600 * numbers.hours)  # no gaps or overlaps between clips


def test_samples_by_category_kind_and_split(folder, numbers):
    expected = Counter((each.problem_type, each.kind, each.split) for each in samples(folder))
    assert numbers.samples.groupby(["problem_type", "kind", "split"]).size().to_dict() == expected
    assert len({each.split for each in samples(folder)}) == len(Split)


def test_evidence_letters_and_pass_rates(folder, numbers):
    assert numbers.evidence_seconds.sum() == pytest.approx(
        sum(span.end_us - span.start_us for each in samples(folder) for span in each.evidence) / 1e6
    )
    assert numbers.samples["spans"].tolist() == [len(each.evidence) for each in samples(folder)]
    assert numbers.choices["letter"].tolist() == [each.final_answer for each in samples(folder) if each.options]
    trials = rows(folder, "difficulty", Trial)
    assert numbers.pass_rates["pass_rate"].tolist() == [trial.correct / trial.n for trial in trials]
    assert numbers.pass_rates["kept"].sum() == len(samples(folder))
    assert numbers.evidence_outside == 0


def test_every_reject_is_counted_and_shows_its_first_messages(folder, numbers):
    everything = rejects(folder)
    assert {(group.stage, group.reason): group.count for group in numbers.rejects} == Counter(
        (reject.stage, reject.reason) for reject in everything
    )
    assert numbers.rejects[0].stage == "plan"
    for group in numbers.rejects:
        of_group = [each.message for each in everything if (each.stage, each.reason) == (group.stage, group.reason)]
        assert len(group.messages) == min(3, group.count)
        assert set(group.messages) <= set(of_group)


def test_the_funnel_ends_with_the_samples_and_nothing_vanishes(numbers):
    assert sum(numbers.funnel[0].left.values()) == numbers.questions
    assert sum(numbers.funnel[-1].left.values()) == len(numbers.samples)
    totals = [sum(step.left.values()) for step in numbers.funnel if step.left is not None]
    assert len(totals) > 4
    assert totals == sorted(totals, reverse=True)
    assert numbers.unaccounted == 0


def test_the_plan_counts_the_questions_of_the_reasoner_that_were_kept(folder, numbers):
    questions = rows(folder, "question", Question)
    kept = Counter((q.category, q.kind, q.reach) for q in questions if q.writer == "model" and q.passed)
    found = {(row.category, row.kind, row.reach): row.kept for row in numbers.plan.itertuples() if row.kept}
    assert found == kept
    assert numbers.plan["planned"].sum() == sum(
        len(plan_slots("any", round(seconds * 1e6), folder.run.config.question, 0))
        for seconds in numbers.videos["seconds"]
    )


def test_a_question_without_an_answer_of_the_target_is_not_measured(tmp_path):
    folder = synthetic_run(tmp_path, videos=1, until="difficulty")
    before = collect(folder)
    record = folder.record("difficulty", 0)
    [(item, commit)] = record.commits.items()
    first, *others = folder.store.get_rows(commit.rows_sha256, Trial)
    silent = first.model_copy(update={"n": 0, "correct": 0, "answers": (), "passed": False})
    commit = commit.model_copy(update={"rows_sha256": folder.store.put_rows([silent, *others], Trial)})
    folder.write_record(StageRecord(stage="difficulty", partition=0, commits={item: commit}))
    after = collect(folder)

    def count_measured(numbers):
        [step] = [step for step in numbers.funnel if step.name == "difficulty measured"]
        return sum(step.left.values())

    assert count_measured(after) == count_measured(before) - 1
    assert len(after.pass_rates) == len(before.pass_rates) - 1


def test_costs_add_up_over_partitions(folder, numbers):
    metrics = [each for each in folder.metrics() if each.stage == "caption"]
    [caption] = [stage for stage in numbers.stages if stage.stage == "caption"]
    assert caption.wall_seconds == pytest.approx(sum(each.wall_seconds for each in metrics))
    assert caption.tokens_in == sum(each.tokens_in for each in metrics)
    assert caption.busy_share == pytest.approx(0.8)
    assert (caption.partitions_done, caption.partitions, caption.reused, caption.units) == (3, 3, 2, 10)
    [captioner] = [role for role in numbers.roles if role.role == "captioner"]
    assert captioner.requests == sum(each.requests["captioner"] for each in metrics)


def test_the_busy_share_is_weighted_by_the_time_of_work_items_not_of_partitions(tmp_path):
    """Shares are weighted by time summed over work items, not by elapsed time.

    Within 10 s, the work items of one partition wait for 80 s in total, and those of the other compute for 10 s. The
    first partition has eight times the weight of the second.
    """
    folder = synthetic_run(tmp_path, videos=8, until="ingest")
    waiting, computing = (each for each in folder.metrics() if each.stage == "ingest")
    waits = {"models": 80.0, "compute": 0.0, "write": 0.0}
    computes = {"models": 0.0, "compute": 10.0, "write": 0.0}
    for each, phases, share in ((waiting, waits, 1.0), (computing, computes, 0.0)):
        changes = {"wall_seconds": 10.0, "phase_seconds": phases, "server_busy_share": share}
        folder.write_metrics(each.model_copy(update=changes))
    [ingest] = [stage for stage in collect(folder).stages if stage.stage == "ingest"]
    assert ingest.busy_share == pytest.approx(80 / 90)


def test_examples_differ(numbers):
    shown = {(each.sample.problem_type, each.sample.kind, each.sample.writer) for each in numbers.examples}
    assert len(shown) == len(numbers.examples) == MAX_EXAMPLES


@pytest.mark.parametrize("until", ["ingest", "question", "difficulty"])
def test_a_run_that_has_not_finished(tmp_path, until):
    numbers = collect(synthetic_run(tmp_path, videos=2, until=until))
    assert numbers.done("ingest")
    assert not numbers.done("assemble")
    assert numbers.samples.empty
    assert numbers.examples == ()
    assert len(numbers.videos) == 2


def test_a_store_on_s3(s3_bucket, tmp_path):
    folder = synthetic_run(tmp_path, videos=1)
    fs, path = fsspec.core.url_to_fs(s3_bucket)
    fs.put(folder.store.root + "/", path + "/", recursive=True)
    local, remote = collect(folder), collect(RunFolder.open(f"{s3_bucket}/{folder.address}"))
    assert remote.samples.equals(local.samples)
    assert remote.rejects == local.rejects


def test_outcomes_of_questions_name_prompt_model_and_reason(folder, numbers):
    kept = {each.question_id for each in samples(folder)}
    reason_of = {each.key: each.reason for each in reversed(rejects(folder))}
    assert len(numbers.outcomes) == numbers.questions
    for question, row in zip(rows(folder, "question", Question), numbers.outcomes.itertuples(), strict=True):
        assert row.question_id == question.question_id
        assert (row.prompt, row.model) == (question.provenance.prompt_id, question.provenance.model)
        assert (row.kept, row.reason) == (row.question_id in kept, reason_of.get(row.question_id, ""))
        assert row.kept == (not row.reason)


def test_captions_that_were_requested_again_and_chains_are_counted(folder, numbers):
    captions = rows(folder, "caption", Caption)
    assert numbers.repaired_captions == sum(bool(caption.repaired) for caption in captions) > 0
    assert numbers.repaired["bad_caption_copy"] == sum("bad_caption_copy" in each.repaired for each in captions)
    chains = rows(folder, "reason", Reasoning)
    assert numbers.chains["hinted"].sum() == sum(chain.hinted for chain in chains) > 0
    assert numbers.chains["refined"].sum() == sum(chain.refinement is not None for chain in chains) > 0
    assert len(numbers.chain_checks) == sum(len(chain.checks) for chain in chains) > 0

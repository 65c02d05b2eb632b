"""Explanations of what a build dropped, on real small videos."""

from types import SimpleNamespace

import pytest

from operators.build import plan_build
from operators.execution.pipeline import BUILD_STAGES, VIDEO_STAGES
from operators.execution.rejects import (
    RejectGroup,
    describe_skipped,
    explain_empty_release,
    group_by_reason,
    group_rejects,
    temporary_rejects,
)
from operators.execution.runner import run_stage
from operators.release.publish import EmptyRelease, publish
from operators.settings import load_config
from schemas.base import Box
from schemas.config import ModelConfig, ModelsConfig
from schemas.provenance import Provenance
from schemas.tables import Caption, CaptionStatus, Reject, ScreenText
from tests.support.videos import counting_video


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run over a film without any text, a file that is not a video and a row whose file is missing."""
    tmp_path = tmp_path_factory.mktemp("run")
    counting_video(tmp_path / "film.mp4", seconds=2)
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "list.csv").write_text("uri\nfilm.mp4\ntext.mp4\ngone.mp4\n")
    settings = ["question.writers=[program]", "verify.blind_trials=0"]
    folder = plan_build(
        load_config(None, settings, source=str(tmp_path / "list.csv"), out=str(tmp_path / "out")), "run"
    )
    for name in VIDEO_STAGES:
        run_stage(folder, name, 0)
    for name in BUILD_STAGES:
        run_stage(folder, name)
    return folder


def test_group_rejects_orders_by_stage_and_keeps_messages(run):
    found = group_rejects(run)
    assert [str(group) for group in found] == ["1 × plan: missing_file", "1 × ingest: not_a_video"]
    assert "gone.mp4" in found[0].messages[0] and "text.mp4" in found[1].messages[0]


def test_group_by_reason_puts_the_largest_group_of_a_stage_first():
    rows = [("ingest", "a", "1"), ("plan", "z", "2"), *(("ingest", "b", str(number)) for number in range(4))]
    assert group_by_reason(rows) == [
        RejectGroup("plan", "z", 1, ("2",)),
        RejectGroup("ingest", "b", 4, ("0", "1", "2")),
        RejectGroup("ingest", "a", 1, ("1",)),
    ]


def test_a_group_explains_what_its_reason_means():
    assert RejectGroup("ingest", "empty_file", 1, ()).explanation == "The file has no bytes. Fetch it again."
    assert RejectGroup("ingest", "of_an_older_version", 1, ()).explanation == ""


def test_a_run_without_questions_is_explained_with_the_fix(run):
    assert explain_empty_release(run).startswith(
        "no question could be asked about 2 videos (1 × plan: missing_file, 1 × ingest"
    )
    with pytest.raises(
        EmptyRelease, match=r"nothing to publish: no question .*none was read, or facts .*; point LVR_CAPTIONER_URL"
    ):
        publish(run)


def test_skipped_files_of_the_source_are_described(run):
    assert describe_skipped(run.run) == ""
    skipped = run.run.model_copy(update={"skipped": {".txt files": 2, "hidden files and folders": 12, ".srt files": 2}})
    assert describe_skipped(skipped) == "12 hidden files and folders, 2 .srt files, 2 .txt files"


def change_outcome(folder, stage, *rejects, captions=(), questions=0, models=None):
    """The run with another outcome: this number of questions, these captions, and these rejects of one stage."""
    by_name = {record.stage: record for record in folder.records() if record.partition is not None}
    video = next(video for video, commit in by_name["ingest"].commits.items() if commit.rows)
    updates = {
        "caption": {"rows_sha256": folder.store.put_rows(captions, Caption), "rows": len(captions)},
        "question": {"rows": questions},
    }
    lost = {"rejects_sha256": folder.store.put_rows(rejects, Reject), "rejects": len(rejects)}
    updates[stage] = updates.get(stage, {}) | lost
    commits = {name: record.commits[video].model_copy(update=updates.get(name, {})) for name, record in by_name.items()}
    records = [record.model_copy(update={"commits": {video: commits[name]}}) for name, record in by_name.items()]
    config = folder.run.config if models is None else folder.run.config.model_copy(update={"models": models})
    return SimpleNamespace(
        store=folder.store, run=folder.run.model_copy(update={"config": config}), records=lambda: records
    )


def reject(stage, reason):
    return Reject(stage=stage, unit="film", key="film", reason=reason, message="film: why")


TEXT = ScreenText(start_us=0, end_us=9, text="Hello", box=Box(x0=0, y0=0, x1=1, y1=1), score=1.0)
CAPTION = Caption(
    clip_id="film_0", video_id="film", start_us=0, end_us=9, text="A film.", provenance=Provenance(model="measured"),
    objects=(), screen_texts=(TEXT,), colours=(), speech="", frame_times_us=(0,), status=CaptionStatus.OK,
)  # fmt: skip
SEEN = ModelsConfig(captioner=ModelConfig(model="vlm"))


@pytest.mark.parametrize(
    ("stage", "reasons", "outcome", "hint"),
    [
        ("question", [], {}, "no clip has a caption"),
        ("question", [], {"captions": [CAPTION]}, "no question of these categories follows from the text on screen"),
        ("question", [], {"captions": [CAPTION], "models": SEEN}, "the reasoner wrote none"),
        ("question", ["schema"], {"captions": [CAPTION]}, "what the reasoner wrote was refused"),
        ("reason", ["schema"], {"captions": [CAPTION], "questions": 3}, "no chain of thought was accepted"),
        ("question", ["answerable_blind"], {"captions": [CAPTION], "questions": 3}, "checks refused them"),
    ],
)
def test_the_hint_fits_the_cause(run, stage, reasons, outcome, hint):
    message = explain_empty_release(
        change_outcome(run, stage, *(reject(stage, reason) for reason in reasons), **outcome)
    )
    assert hint in message and "derived questions need text" not in message


def test_samples_whose_videos_cannot_be_published_are_no_questions_that_were_refused(run):
    lost = change_outcome(run, "package", reject("package", "media_unavailable"), questions=3)
    [*records, last] = lost.records()
    assembled = {item: commit.model_copy(update={"rows": 2}) for item, commit in last.commits.items()}
    lost.records = lambda: [*records, last, last.model_copy(update={"stage": "assemble", "commits": assembled})]
    message = explain_empty_release(lost)
    assert message.startswith("none of 2 samples has a video that can be published") and "shard.media=none" in message


def test_a_reject_caused_by_the_machine_is_temporary(run):
    """A run that is empty because of machine faults can be run again: the input is not at fault."""
    met = change_outcome(run, "split", reject("split", "system_error"))
    assert [each.reason for each in temporary_rejects(met)] == ["system_error"]
    assert temporary_rejects(run) == []  # each run tries the list's missing file again

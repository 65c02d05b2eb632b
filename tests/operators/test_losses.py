"""What a build says of what it left out, on real small videos."""

import pytest

from operators.build import plan_build
from operators.losses import losses, skipped_in_words, why_empty
from operators.pipeline import BUILD_STAGES, VIDEO_STAGES
from operators.release.publish import EmptyRelease, publish
from operators.runner import run_stage
from operators.settings import load_config
from tests.support.videos import counting_video


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run over a film without any text, a file that is no video and a row whose file is missing."""
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


def test_losses_are_told_in_order_with_an_example(run):
    found = losses(run)
    assert [str(loss) for loss in found] == ["1 × plan: missing_file", "1 × ingest: not_a_video"]
    assert "gone.mp4" in found[0].example and "text.mp4" in found[1].example


def test_a_run_without_questions_says_so_and_the_way_out(run):
    assert why_empty(run).startswith("no question could be asked about 2 videos (1 × plan: missing_file, 1 × ingest")
    with pytest.raises(EmptyRelease, match=r"nothing to publish: no question .*LVR_CAPTIONER_URL"):
        publish(run)


def test_what_was_skipped_in_the_source_is_told_in_words(run):
    assert skipped_in_words(run.run) == ""
    skipped = run.run.model_copy(update={"skipped": {".txt files": 2, "hidden files and folders": 12, ".srt files": 2}})
    assert skipped_in_words(skipped) == "12 hidden files and folders, 2 .srt files, 2 .txt files"

import json

import pytest
import torch
from transformers import AutoModelForImageTextToText

from schemas.arrow import rows_from_parquet
from schemas.errors import BAD_INPUT_STATUS, BadInput
from tests.trainer_plugin.parity import tiny_config
from tests.trainer_plugin.runs import change_config, model_folder
from tests.trainer_plugin.support import numbered_film, release_of
from trainer_plugin.data.byte_tokenizer import bytes_tokenizer
from trainer_plugin.data.chat import CHATML
from trainer_plugin.data.samples import PromptVariant
from trainer_plugin.evaluate import evaluate_recipe, load_evaluation, main
from trainer_plugin.evaluation.answers import AnswerRow
from trainer_plugin.evaluation.table import Evaluation

SMALL = (
    "videos.split=sft",
    "videos.frames={fps: null, frames: 4, max_video_tokens: 24}",
    "videos.workers=0",
    "evaluation.max_tokens=6",
    "evaluation.baselines=[]",
    "precision=float32",
)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(model_folder(tmp_path_factory.mktemp("model") / "export"))


def test_the_command_evaluates_a_hugging_face_folder(model, release, tmp_path, capsys):
    settings = [*SMALL, "evaluation.baselines=[text, shuffled]", "videos.workers=1", "evaluation.samples=2"]
    assert main([model, release, *settings, f"out={tmp_path}"]) == 0
    printed = capsys.readouterr().out
    assert (tmp_path / "evaluation.md").read_text() in printed
    evaluation = Evaluation.model_validate_json((tmp_path / "evaluation.json").read_bytes())
    assert [line.name for line in evaluation.lines][:5] == [
        "greedy", "mean of 2 samples", "pass@2", "text only", "shuffled frames",
    ]  # fmt: skip
    assert (evaluation.questions, evaluation.accuracy.questions, evaluation.skipped) == (8, 8, {})
    rows = rows_from_parquet((tmp_path / "answers.parquet").read_bytes(), AnswerRow, "answers")
    assert len(rows) == 8 + 16 + 8 + 8
    assert all(row.log_prob < 0 and 1 <= row.tokens <= 6 for row in rows)
    before = (tmp_path / "answers.parquet").stat().st_mtime_ns
    assert main([model, release, *settings, f"out={tmp_path}"]) == 0
    assert capsys.readouterr().out == printed
    assert (tmp_path / "answers.parquet").stat().st_mtime_ns > before  # the same bytes again


@pytest.mark.parametrize("family", ["qwen3_vl", "smolvlm"])
def test_every_family_sees_the_frames_in_their_order(alone, release, tmp_path, family):
    config = tiny_config(family)
    config.get_text_config().update({"vocab_size": 263, "max_position_embeddings": 4096})
    placeholders = {"vision_start_token_id": 259, "vision_end_token_id": 260, "video_token_id": 262}
    config.update(placeholders | {"image_token_id": 262 if family == "smolvlm" else 261})
    torch.manual_seed(0)
    AutoModelForImageTextToText.from_config(config).save_pretrained(tmp_path / "model")
    bytes_tokenizer().save_pretrained(tmp_path / "model")
    settings = [*SMALL, "evaluation.baselines=[text, shuffled]", f"out={tmp_path}/out"]
    assert not evaluate_recipe(load_evaluation(f"{tmp_path}/model", release, settings)).skipped
    rows = rows_from_parquet((tmp_path / "out/answers.parquet").read_bytes(), AnswerRow, "answers")
    for question in {row.question_id for row in rows}:
        found = {row.variant: row for row in rows if row.question_id == question}
        assert len({row.log_prob for row in found.values()}) == 3
        assert found[PromptVariant.TEXT].frame_times_us == ()


def test_answers_are_kept_next_to_the_model_by_default(model, release):
    assert load_evaluation(model, release).out == f"{model}-evaluation"
    assert str(load_evaluation(model, release).videos.split) == "eval"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("videos.split=eval", "no split 'eval' under data/; it has"),
        ("evaluation.samples=-1", "evaluation.samples: .*got -1"),
        ("videos.media=/films", "it holds its videos, but /films was given as media"),
    ],
)
def test_settings_that_do_not_fit_are_errors(alone, model, release, tmp_path, setting, message):
    with pytest.raises(BadInput, match=message):
        evaluate_recipe(load_evaluation(model, release, [*SMALL, f"out={tmp_path}", setting]))


def test_a_template_that_drops_thoughts_is_an_error(alone, release, tmp_path):
    folder = model_folder(tmp_path / "model")
    tokenizer = bytes_tokenizer()
    tokenizer.chat_template = CHATML.replace("message['content']", "message['content'].split('</think>')[-1]")
    tokenizer.save_pretrained(folder)
    settings = [*SMALL, f"out={tmp_path}/out"]
    with pytest.raises(BadInput, match=r"does not keep the chain of thought .*set model\.chat_template to chatml"):
        evaluate_recipe(load_evaluation(str(folder), release, settings))
    recipe = load_evaluation(str(folder), release, [*settings, "model.chat_template=chatml"])
    assert evaluate_recipe(recipe).questions == 8


def test_a_model_of_no_supported_family_ends_with_status_2(release, tmp_path):
    folder = change_config(model_folder(tmp_path / "model"), model_type="bert")
    assert main([str(folder), release, f"out={tmp_path}/out"]) == BAD_INPUT_STATUS
    assert not (tmp_path / "out").exists()


def test_answers_of_other_weights_are_refused(alone, model, release, tmp_path):
    evaluate_recipe(load_evaluation(model, release, [*SMALL, f"out={tmp_path}/out"]))
    other = str(model_folder(tmp_path / "other", seed=6))
    with pytest.raises(BadInput, match=r"holds the answers of another evaluation: model\.frozen_bits is"):
        evaluate_recipe(load_evaluation(other, release, [*SMALL, f"out={tmp_path}/out"]))


def test_a_damaged_video_is_skipped_by_name(alone, model, tmp_path):
    films = [numbered_film(tmp_path, f"film{number}", 1.0) for number in range(2)]
    (tmp_path / "film1.mp4").write_bytes(b"no video")
    url = release_of(tmp_path, films, questions=1)
    evaluation = evaluate_recipe(load_evaluation(model, url, [*SMALL, f"out={tmp_path}/out"]))
    assert (evaluation.questions, evaluation.accuracy.questions) == (2, 1)
    [reason] = evaluation.skipped.values()
    assert "sample q0010: video film1: " in reason


def run_on_rank(model: str, release: str, out: str, sp: int) -> Evaluation:
    return evaluate_recipe(load_evaluation(model, release, [*SMALL, f"out={out}", f"parallel.sp={sp}"]))


@pytest.mark.parametrize("sp", [1, 2])
def test_two_ranks_give_the_table_of_one(ranks, model, release, tmp_path, sp):
    [expected] = ranks[1].run(run_on_rank, model, release, f"{tmp_path}/one", 1)
    assert ranks[2].run(run_on_rank, model, release, f"{tmp_path}/two", sp) == [expected] * 2
    one, two = (
        rows_from_parquet((tmp_path / name / "answers.parquet").read_bytes(), AnswerRow, name)
        for name in ("one", "two")
    )
    assert [row.response for row in one] == [row.response for row in two]
    facts = [json.loads((tmp_path / name / "facts.json").read_text()) for name in ("one", "two")]
    assert facts[0] == facts[1]

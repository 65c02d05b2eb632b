"""The whole chain of commands: a release, supervised training, GRPO, and what a user does with the exported model.

Each stage begins with the export of the one before. The last model is evaluated, answers a question about a film, and
is loaded in vLLM where that is installed (`tests.trainer_plugin.in_vllm`).
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from schemas.answer_format import Target
from schemas.arrow import rows_from_parquet
from schemas.frame_policy import FramePolicy
from schemas.tables import QuestionKind, Split, Video
from tests.support.rows import make_sample
from tests.trainer_plugin.in_vllm import hub_folder, needs_vllm, vllm_log_probs
from tests.trainer_plugin.support import numbered_film, write_release
from trainer_plugin import grpo, sft
from trainer_plugin.ask import ask
from trainer_plugin.data.chat import CHATML
from trainer_plugin.data.samples import QuestionLayout
from trainer_plugin.data.video_decode import probe_video
from trainer_plugin.evaluate import evaluate_recipe, load_evaluation
from trainer_plugin.evaluation.answers import AnswerRow
from trainer_plugin.evaluation.engine import open_sampler
from trainer_plugin.evaluation.frames import FrameSource
from trainer_plugin.evaluation.run import read_evaluation
from trainer_plugin.recipe import ModelSource, Parallelism
from trainer_plugin.rl.rollout import RolloutRequest, SamplingSettings
from trainer_plugin.rl.sampler import HfSampler
from trainer_plugin.rl.shared_prefix_sampler import SharedPrefixSampler
from trainer_plugin.training.weights import read_config, read_family, read_tokenizer
from trainer_plugin.types import FrameRange, VideoSource

SECONDS = 8
"""Length of a film. With one frame a second, its last position is in time, not in a frame side."""
FRAMES = {"fps": 1.0, "max_frames": 8, "max_video_tokens": 64}
"""Frames of a size that no processor changes."""
RESPONSE_TOKENS = 12

PARENTS = {"cot": "sft", "grpo": "cot"}
"""Each stage and the one whose export it begins with."""

SETTINGS = (
    f"videos.frames={json.dumps(FRAMES)}",
    "videos.workers=0",
    "row_tokens=512",
    "parallel={sp: 1}",
    "precision=float32",
    "evaluation={max_tokens: 12, prompt_tokens: 480}",
)
SUPERVISED = (*SETTINGS, "step_tokens=1024", "epochs=null", "steps=2", "optimizer.learning_rate=1e-3")
GRPO = (*SETTINGS, "steps=2", "rollout={prompts: 2, responses: 4, max_tokens: 12, mask_truncated: false}")

THINKING = CHATML.replace(
    "<|im_start|>assistant\n", "<|im_start|>assistant\n{% if enable_thinking %}<think>{% endif %}"
)
"""A chat template that opens the thought in the prompt."""


@dataclass(frozen=True)
class Chain:
    """The folders of three runs, `sft`, `cot` and `grpo`, each trained from the export of the one before."""

    folder: Path
    release: str
    film: Video
    """The film of the split `eval`."""

    def export(self, stage: str) -> Path:
        return self.folder / stage / "export"

    def evaluation(self, stage: str, step: int) -> Path:
        """The folder of the evaluation that a stage made after a step."""
        return self.folder / stage / f"evaluations/step-{step:08d}"

    @property
    def source(self) -> ModelSource:
        return ModelSource(path=str(self.export("grpo")))

    def layout(self) -> QuestionLayout:
        """The layout of questions for the last export."""
        family = read_family(self.source, read_config(self.source))
        return QuestionLayout(family, read_tokenizer(self.source), FramePolicy(**FRAMES), Target.REASONING)

    @contextmanager
    def sampler(self, layout: QuestionLayout) -> Iterator[HfSampler | SharedPrefixSampler]:
        """Sample with the last export."""
        config, stop_ids = read_config(self.source), layout.chat.stop_ids
        with open_sampler(self.source, config, stop_ids, parallelism=Parallelism(), precision="float32") as engine:
            yield engine


@pytest.fixture(scope="module")
def chain(tmp_path_factory) -> Chain:
    folder = tmp_path_factory.mktemp("chain")
    splits = (Split.SFT, Split.SFT, Split.RL, Split.RL, Split.EVAL)
    films = [numbered_film(folder, f"film{number}", SECONDS) for number in range(len(splits))]
    samples = [
        make_sample(10 * number + turn, film, split)
        for number, (film, split) in enumerate(zip(films, splits, strict=True))
        for turn in range(2)
    ]
    release = write_release(folder / "release", films, samples)
    model = hub_folder(folder / "model", "qwen2_5_vl")
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.add_tokens(["<think>", "</think>"])
    tokenizer.chat_template = THINKING
    tokenizer.save_pretrained(model)
    stages = (
        ("sft", sft.main, "long_video_sft", model, SUPERVISED),
        ("cot", sft.main, "cot_sft", folder / "sft/export", SUPERVISED),
        ("grpo", grpo.main, "demo", folder / "cot/export", GRPO),
    )
    for stage, main, recipe, source, settings in stages:
        given = (f"out={folder / stage}", f"model={{path: {source}}}", f"videos.release={release}")
        assert main([recipe, *given, *settings]) == 0
    return Chain(folder, release, films[-1])


def read_answers(folder: Path) -> list[AnswerRow]:
    path = folder / "answers.parquet"
    return rows_from_parquet(path.read_bytes(), AnswerRow, str(path))


def weight_bits(folder: Path) -> int:
    """The sum of the weights' bits in an evaluation of a run."""
    return json.loads((folder / "facts.json").read_bytes())["model"]["bits"]


def evaluate_export(chain: Chain, stage: str, out: Path):
    settings = (*SETTINGS[:2], "precision=float32", "evaluation={max_tokens: 12, prompt_tokens: 480, baselines: []}")
    return evaluate_recipe(load_evaluation(str(chain.export(stage)), chain.release, [*settings, f"out={out}"]))


@pytest.mark.parametrize("stage", PARENTS)
def test_a_stage_begins_with_the_export_of_the_one_before(alone, chain, tmp_path, stage):
    parent = PARENTS[stage]
    before = chain.evaluation(stage, 0)
    assert weight_bits(before) == weight_bits(chain.evaluation(parent, 2)) != weight_bits(chain.evaluation(stage, 2))
    evaluate_export(chain, parent, tmp_path)
    assert read_answers(before) == read_answers(tmp_path) != read_answers(chain.evaluation(stage, 2))


def test_the_evaluation_of_an_export_is_the_last_one_of_its_run(alone, chain, tmp_path):
    last = chain.evaluation("grpo", 2)
    assert evaluate_export(chain, "grpo", tmp_path) == read_evaluation(last)
    assert read_answers(tmp_path) == read_answers(last)


@pytest.mark.parametrize("stage", ["sft", *PARENTS])
def test_the_tokenizer_and_the_chat_template_survive_every_export(chain, stage):
    expected, found = (AutoTokenizer.from_pretrained(each) for each in (chain.folder / "model", chain.export(stage)))
    assert found.chat_template == THINKING
    turn = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "<think>A boat</think>A"}]
    for options in ({"enable_thinking": True, "add_generation_prompt": True}, {}):
        assert found.apply_chat_template(turn, **options) == expected.apply_chat_template(turn, **options)
    assert found.convert_ids_to_tokens(found.encode("<think>")) == ["<think>"]


def test_ask_gives_the_answer_of_the_evaluation(alone, chain):
    layout = chain.layout()
    options = ("a boat", "a car")
    sampling = SamplingSettings(greedy=True, max_tokens=RESPONSE_TOKENS)
    with chain.sampler(layout) as engine:
        answer = ask(engine, layout, chain.film.uri, "What?", options, sampling=sampling)
    [row, _] = read_answers(chain.evaluation("grpo", 2))
    assert (answer.response, answer.text, answer.frame_times_us) == (row.response, row.answer, row.frame_times_us)
    assert answer.reasoning  # the prompt opens the thought


@pytest.mark.timeout(600)
@needs_vllm
def test_vllm_gives_the_trainers_log_probs_of_a_response(alone, chain, tmp_path):
    layout = chain.layout()
    video = probe_video(VideoSource("film", chain.film.uri))
    prompt = layout.prompt("film", video, "What?\nA. a boat\nB. a car", QuestionKind.CHOICE, 480)
    request = RolloutRequest(prompt.example, prompt.unexpanded_ids, seed=0)
    with chain.sampler(layout) as engine:
        [[response]] = engine.generate([request], 1, SamplingSettings(max_tokens=RESPONSE_TOKENS))
    [clip] = prompt.example.videos
    frames = FrameSource(layout.family, workers=0)(request, FrameRange(0, 0, clip.grid.t))
    given = response.token_ids.tolist()
    ids = [*prompt.unexpanded_ids, *given]
    found_ids, found = vllm_log_probs(tmp_path, chain.export("grpo"), frames.numpy(), FRAMES["fps"], ids)
    assert found_ids == [*prompt.example.input_ids.tolist(), *given]
    torch.testing.assert_close(found[-len(given) :], response.log_probs, atol=1e-4, rtol=0)

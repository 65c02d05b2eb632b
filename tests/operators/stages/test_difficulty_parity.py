"""The pipeline measures difficulty with what the trainer trains and evaluates with: text, frames and grades."""

import base64
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from random import Random

import cv2
import numpy as np
import pytest
import yaml

from operators.execution.stage import Context
from operators.models.session import ModelPool
from operators.stages.assemble import make_sample
from operators.stages.difficulty import STAGE
from schemas.answer_format import Target, parse_response
from schemas.config import BuildConfig, DifficultyConfig
from schemas.frame_policy import FramePolicy, pixel_limits
from schemas.sample import Sample
from schemas.tables import Check, QuestionKind, Split, VideoCategory
from tests.support.films import captions_of, film
from tests.support.openai_server import OpenAIServer
from tests.support.rows import make_question, make_reasoning, make_trial, make_video
from tests.support.stages import StageRunner
from tests.support.videos import number_on

pytest.importorskip("torch")

import torch.distributed as dist
from transformers import Qwen2_5_VLConfig, Qwen3VLConfig

from tests.trainer_plugin.evaluation.scripted import ScriptedEngine, rank_context
from tests.trainer_plugin.support import byte_tokenizer, numbered_film, write_release
from trainer_plugin.data.samples import ReleaseDataset
from trainer_plugin.data.video_decode import read_frames
from trainer_plugin.evaluation.grading import OpenGrading, grade
from trainer_plugin.evaluation.run import evaluate
from trainer_plugin.evaluation.settings import EvaluationSettings
from trainer_plugin.families import family_of
from trainer_plugin.rl.prompts import PromptSettings, PromptStream
from trainer_plugin.rl.rewards.accuracy import accuracy_reward

POLICY = FramePolicy(fps=2.0, max_frames=5, max_video_tokens=30)
MODELS = {"Qwen3-VL-8B": Qwen3VLConfig, "Qwen2.5-VL-7B": Qwen2_5_VLConfig}
TOKEN = byte_tokenizer().convert_tokens_to_ids("<|video|>")


@dataclass
class Requested:
    """The samples of two questions, choice and open, the dataset of the trainer, and what the pipeline requested."""

    samples: dict[str, Sample]
    dataset: ReleaseDataset
    contents: dict[str, list[dict]]
    """Content of the user's message by question id."""


@pytest.fixture(scope="module", params=MODELS)
def requested(request, tmp_path_factory) -> Requested:
    folder = tmp_path_factory.mktemp("parity")
    video = numbered_film(folder, "film", 4.0).model_copy(update={"frame_count": 120})
    questions = [make_question(1, "film"), make_question(2, "film", QuestionKind.OPEN)]
    reasonings = [make_reasoning(question) for question in questions]
    with OpenAIServer(models=(request.param,)) as server, ModelPool(retries=0) as pool:
        runner = StageRunner(folder, server, pool, vision=True)
        settings = {"trials": 1, **POLICY.model_dump(exclude={"frames"})}
        runner.run(STAGE, [video], [], questions, reasonings, [], difficulty=settings)
        contents = [seen.body["messages"][-1]["content"] for seen in server.requests if len(seen.body["messages"]) == 1]
    context = Context("assemble", "all", BuildConfig(source="a", out="b"), {}, {}, files=None, scratch=folder)
    samples = {
        question.question_id: make_sample(
            context,
            video,
            VideoCategory.FILM,
            question,
            reasoning,
            make_trial(question, Check.DIFFICULTY, 5),
            Split.SFT,
        )
        for question, reasoning in zip(questions, reasonings, strict=True)
    }
    family = family_of(
        MODELS[request.param](video_token_id=TOKEN, vision_start_token_id=257, vision_end_token_id=258), {}
    )
    url = write_release(folder / "release", [video], list(samples.values()))
    dataset = ReleaseDataset(url, Split.SFT, family, byte_tokenizer(), policy=POLICY, target=Target.REASONING)
    by_id = {
        key: next(each for each in contents if each[-1]["text"].startswith(sample.question))
        for key, sample in samples.items()
    }
    return Requested(samples, dataset, by_id)


def user_text(ids) -> str:
    """The text of the user's turn in a prompt of the byte tokenizer, after its video."""
    turn = byte_tokenizer().decode(ids).partition("<|im_start|>user\n")[2]
    return turn.rpartition("<|im_end|>")[0].rpartition("<|video|>")[2].removeprefix(byte_tokenizer().decode([258]))


def test_the_text_is_that_of_reinforcement_learning(requested):
    stream = PromptStream(requested.dataset, PromptSettings(), 8192, seed=0, epochs=1)
    prompts = {sample.question_id: prompt for prompt, sample in stream}
    assert prompts.keys() == requested.contents.keys()
    for key, content in requested.contents.items():
        assert user_text(prompts[key].unexpanded_ids) == content[-1]["text"]


def test_the_text_is_that_of_an_evaluation(requested, tmp_path):
    shown = {}

    def respond(request, number):
        shown[request.prompt.key] = user_text(request.prompt.input_ids)
        return "<think>So.</think><answer>A</answer>"

    context = rank_context()
    try:
        evaluate(requested.dataset, ScriptedEngine(respond), context, EvaluationSettings(baselines=()), tmp_path)
    finally:
        dist.destroy_process_group()
    assert shown == {key: content[-1]["text"] for key, content in requested.contents.items()}


def test_the_frames_are_those_of_training(requested):
    for number, key in enumerate(map(requested.dataset.key, range(2))):
        clip = requested.dataset.clip(number, 8192)
        frames = [part["image_url"]["url"] for part in requested.contents[key] if part["type"] == "image_url"]
        pictures = [cv2.imdecode(np.frombuffer(_bytes(url), np.uint8), cv2.IMREAD_COLOR_RGB) for url in frames]
        times = tuple(dict.fromkeys(clip.frame_times_us))
        assert len(pictures) == len(times) == 5
        assert {picture.shape[:2] for picture in pictures} == {clip.size}
        trained = read_frames(clip.video, times, clip.size)
        assert [number_on(each) for each in pictures] == [number_on(each) for each in trained]


def _bytes(url: str) -> bytes:
    return base64.b64decode(url.partition(",")[2])


@pytest.mark.parametrize("model", MODELS)
def test_frames_have_the_size_of_the_models_processor(model):
    family = family_of(MODELS[model](), {})
    draw = Random(0)
    for _ in range(500):
        height, width, frames = draw.randint(16, 2200), draw.randint(16, 2200), draw.randint(1, 800)
        tokens = draw.choice((None, draw.randint(1, 40_000)))
        assert pixel_limits(model).frame_size(height, width, frames, tokens) == family.frame_size(
            height, width, frames, tokens
        )


@pytest.mark.parametrize("recipe", ["sft/cot_sft", "grpo/recommended", "grpo/longvila_r1"])
def test_the_default_policy_is_that_of_the_recipes(recipe):
    folder = Path(str(files("trainer_plugin") / "recipes"))
    frames = yaml.safe_load((folder / f"{recipe}.yaml").read_text())["videos"]["frames"]
    assert FramePolicy.model_validate(frames) == DifficultyConfig().frame_policy


RESPONSES = [
    "<think>It is {letter}.</think><answer>{letter}</answer>",
    "<think>It is {letter}.</think><answer>a boat</answer>",
    "<think>The {letter}",
    "{letter}",
    "<answer>{letter} or {other}</answer>",
    "<think>{letter}</think><answer>{other}</answer>",
    "I do not know.",
]


@pytest.mark.parametrize("text", RESPONSES)
def test_a_choice_is_graded_as_by_reward_and_evaluation(requested, tmp_path, text):
    question = make_question(1, "film")
    sample = requested.samples[question.question_id]
    response = text.format(letter=sample.final_answer, other="A" if sample.final_answer != "A" else "B")
    with OpenAIServer(script=lambda body: response) as server, ModelPool(retries=0) as pool:
        [trial] = StageRunner(tmp_path, server, pool).run(
            STAGE,
            [make_video("film")],
            captions_of(film()),
            [question],
            [make_reasoning(question)],
            [],
            difficulty={"trials": 1},
        )
    [reward] = accuracy_reward([response], [sample.options], [sample.answer], [sample.kind])
    evaluated = grade(sample, parse_response(response).answer, OpenGrading.LENIENT)
    assert (trial.n, trial.correct) == (1, reward) == (1, int(evaluated))

"""The benchmark of learning, on a few films and with a step of each stage."""

import re
from pathlib import Path

import pytest
import torch.distributed as dist

from benchmarks.learning import SIZES, swap_films, train_answers, train_by_rewards, train_chains, write_model
from benchmarks.learning_rewards import right_words, shuffled_right_words
from benchmarks.learning_table import gain_interval, write_results
from benchmarks.learning_world import CLIP_QUESTIONS, CRF, EVERY, HEIGHT, SHARES, WIDTH, write_world
from operators.demo.films.script import FPS
from schemas.answer_format import format_response
from schemas.tables import QuestionKind, Split
from trainer_plugin.data.release import index_videos, read_samples, read_videos
from trainer_plugin.data.video_decode import read_frames
from trainer_plugin.distributed.mesh import init_distributed
from trainer_plugin.recipe import ModelSource
from trainer_plugin.training.weights import read_config, read_family

FILMS = 4


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("learning")
    write_world(folder, FILMS, seed=1, workers=1)
    return folder


@pytest.fixture
def process_group():
    """The process group of one rank that the stages use, destroyed after the test."""
    init_distributed()
    yield
    dist.destroy_process_group()


def test_films_of_a_world_are_small_and_in_one_split_each(world):
    release = str(world / "release")
    videos = {split: index_videos(release, split) for split in SHARES}
    assert sum(map(len, videos.values())) == len({each.record.video_id for own in videos.values() for each in own})
    assert all(videos.values())
    for each in read_videos(release, Split.RL):
        assert each.video is not None and len(each.video) < 60_000, f"at a quality of {CRF}"
    [video, *_] = videos[Split.EVAL]
    record = video.record
    assert (record.width, record.height, record.fps) == (WIDTH, HEIGHT, FPS / EVERY)
    times = (record.duration_us // 4, 3 * record.duration_us // 4)
    first, last = read_frames(video.source, times, (HEIGHT, WIDTH), "bicubic", None)
    assert abs(first.astype(int) - last).mean() > 1


def test_clips_of_supervised_films_show_one_temporal_patch(world):
    clips = [each for each in index_videos(str(world / "release"), Split.SFT) if each.record.duration_us < 2_000_000]
    assert clips
    for each in clips:
        assert each.record.duration_us == 2 * EVERY * 1_000_000 // FPS
        assert {sample.question for sample in each.record.samples} <= set(CLIP_QUESTIONS.values())
    for split in (Split.RL, Split.EVAL):
        assert min(each.record.duration_us for each in index_videos(str(world / "release"), split)) > 20_000_000


def test_a_model_shows_clips_and_films_in_the_same_size(world, tmp_path):
    write_model(world / "tokenizer", tmp_path / "model", SIZES["gpu"], 0)
    source = ModelSource(path=str(tmp_path / "model"))
    family = read_family(source, read_config(source))
    assert family.frame_size(HEIGHT, WIDTH, 2) == family.frame_size(HEIGHT, WIDTH, 32) == (112, 224)


def test_questions_are_open_and_their_chains_name_no_time(world):
    samples = [each for split in SHARES for each in read_samples(str(world / "release"), split)]
    for each in samples:
        assert each.kind is QuestionKind.OPEN
        assert each.answer_text not in each.question or each.writer in ("facts_leftmost", "facts_rightmost")
        assert not re.search(r"\d:\d", each.reasoning)
        # The chain arrives at the answer.
        words = set(re.findall(r"\w+", each.answer_text)) - {"about", "to", "the"}
        assert words <= set(re.findall(r"\w+", each.reasoning)), each.reasoning
    assert len({each.problem_type for each in samples}) == 4


def test_films_of_a_world_are_made_once(world):
    films = {path: path.stat().st_mtime_ns for path in (world / "films").iterdir()}
    manifest = (world / "release/manifest.json").read_bytes()
    write_world(world, FILMS, seed=1, workers=1)
    assert {path: path.stat().st_mtime_ns for path in (world / "films").iterdir()} == films
    assert (world / "release/manifest.json").read_bytes() == manifest


def test_swapped_films_keep_the_questions(world, tmp_path):
    swap_films(world / "release", tmp_path / "swapped")
    before, after = (
        {each.question_id: each for each in read_samples(str(url), Split.RL)}
        for url in (world / "release", tmp_path / "swapped")
    )
    assert before.keys() == after.keys()
    for name, each in after.items():
        assert (each.question, each.answer_text) == (before[name].question, before[name].answer_text)
        assert each.video_id != before[name].video_id


def test_shuffled_rewards_have_the_same_values():
    responses = [format_response("I see it.", f"<answer>{text}</answer>") for text in ("the lake", "Lake.", "a ball")]
    values = right_words(responses, ["the lake"] * 3)
    assert values == [1.0, 1.0, 0.0]
    shuffled = [shuffled_right_words([*responses, str(number)], ["the lake"] * 4) for number in range(8)]
    assert all(sorted(each) == [0.0, 0.0, 1.0, 1.0] for each in shuffled)
    assert len(set(map(tuple, shuffled))) > 1


def test_the_gain_is_paired_by_question_and_drawn_by_film():
    film_of = {f"q{number}": f"film{number // 4}" for number in range(40)}
    wrong, right = dict.fromkeys(film_of, False), dict.fromkeys(film_of, True)
    assert gain_interval(wrong, right, film_of) == (1.0, 1.0, 1.0)
    assert gain_interval(right, right, film_of) == (0.0, 0.0, 0.0)
    half = {name: number < 20 for number, name in enumerate(film_of)}
    gain, low, high = gain_interval(wrong, half, film_of)
    assert gain == 0.5
    # Whole films are right: the interval is that of 10 films, not that of 40 questions.
    assert 0.15 <= low <= 0.25 and 0.75 <= high <= 0.85


def test_the_stages_run_and_fill_the_table(world, process_group):
    size = SIZES["tiny"]
    few = ["evaluation.questions=3", "evaluation.max_tokens=8"]
    train_answers(world, size, 0, few)
    train_chains(world, size, 0, few)
    train_by_rewards(world, size, 0, "auto", "films", [*few, "rollout.max_tokens=8"])
    done = train_by_rewards(world, size, 0, "auto", "rewards", [*few, "rollout.max_tokens=8"])
    changed = (done / "metrics.jsonl").stat().st_mtime_ns
    train_by_rewards(world, size, 0, "auto", "rewards")
    assert (done / "metrics.jsonl").stat().st_mtime_ns == changed, "a stage that is complete is not repeated"
    text = write_results(world)
    for name in ("sft seed 0", "cot seed 0", "grpo auto other films seed 0", "grpo auto shuffled rewards seed 0"):
        assert f"| {name} |" in text
    assert "Accuracy on held-out films by step of GRPO" in (world / "learning.svg").read_text()

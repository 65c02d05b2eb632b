import pytest
import torch
from transformers import Qwen2_5_VLConfig, Qwen3VLConfig, SmolVLMConfig

from schemas.answer_format import Target
from schemas.config import Media
from schemas.frame_policy import FramePolicy, frame_times
from schemas.tables import Split
from tests.support.properties import given, settings, st
from tests.support.rows import make_sample, make_video
from tests.trainer_plugin.support import TinyFamily, byte_tokenizer, release_of, write_release
from trainer_plugin.data.samples import PromptVariant, ReleaseDataset
from trainer_plugin.families import family_of
from trainer_plugin.recipe import VideoData
from trainer_plugin.training.from_recipe import open_samples
from trainer_plugin.types import IGNORED, UnusableSample

SECONDS = (4, 11, 60)


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """Release with two questions on each of three videos. Only the records exist, as planning reads no media."""
    update = {"width": 160, "height": 64, "fps": 30.0}
    videos = [
        make_video(f"film{seconds}").model_copy(update={**update, "duration_us": seconds * 1_000_000})
        for seconds in SECONDS
    ]
    return release_of(tmp_path_factory.mktemp("release"), videos, media=Media.NONE)


def dataset_of(url, target=Target.REASONING, **policy) -> ReleaseDataset:
    return ReleaseDataset(
        url, Split.SFT, TinyFamily(), byte_tokenizer(), policy=FramePolicy(**policy), target=target, media="videos"
    )


def by_key(dataset, max_tokens=100_000):
    return {dataset.key(n): dataset.example(n, max_tokens) for n in range(len(dataset))}


def text(ids):
    return byte_tokenizer().decode(ids)


def test_a_sample_is_the_video_then_the_question_then_the_answer(url):
    examples = by_key(dataset_of(url, fps=None, frames=3))
    assert len(examples) == 6
    choice, open_ended = examples["q0000"], examples["q0001"]
    [clip] = choice.videos
    assert clip.frame_times_us == (666_666, 2_000_000, 3_333_333, 3_333_333)  # the repeated frame fills the patch
    assert (clip.size, clip.grid.t, clip.frames_per_patch) == ((64, 160), 2, 2)
    assert (clip.video.key, clip.video.url) == ("film4", "videos/film4.mp4")
    shown = "<|video|>" * 40
    assert text(choice.input_ids) == (
        f"<|im_start|>user\n0.7{shown}3.3{shown}What?\nA. a boat\nB. a car\n\n"
        "Think about the video step by step inside <think></think>, "
        "then give the letter of the right option inside <answer></answer>.<|im_end|>\n"
        "<|im_start|>assistant\n<think>It shows.</think><answer>A</answer><|im_end|>"
    )
    assert text(open_ended.input_ids).endswith("<think>It shows.</think><answer>a boat</answer><|im_end|>")
    assert "then give a short answer inside" in text(open_ended.input_ids)
    assert choice.positions.shape == (3, len(choice.input_ids))


def test_samples_whose_reasoning_was_hinted_can_be_skipped(tmp_path):
    video = make_video("film").model_copy(update={"width": 160, "height": 64, "fps": 30.0})
    samples = [make_sample(n, video).model_copy(update={"reasoning_hinted": n == 1}) for n in range(3)]
    url = write_release(tmp_path / "release", [video], samples, media=Media.NONE)
    for skip, keys in ((False, ["q0000", "q0001", "q0002"]), (True, ["q0000", "q0002"])):
        data = VideoData(release=url, media="videos", skip_hinted=skip)
        dataset = open_samples(data, TinyFamily(), byte_tokenizer())
        assert [dataset.key(number) for number in range(len(dataset))] == keys


def test_only_the_answer_and_its_end_token_are_supervised(url):
    for target, answer in [(Target.REASONING, "<think>It shows.</think><answer>A</answer>"), (Target.ANSWER, "A")]:
        example = by_key(dataset_of(url, target, frames=4, fps=None))["q0000"]
        supervised = example.labels != IGNORED
        assert text(example.input_ids[supervised]) == f"{answer}<|im_end|>"
        assert torch.equal(example.labels[supervised], example.input_ids[supervised])
        assert supervised[-1]


@pytest.mark.parametrize(
    "policy, counts",
    [({"fps": 2.0}, [8, 22, 120]), ({"fps": 2.0, "max_frames": 100}, [8, 22, 100]), ({"fps": 60.0}, [120, 330, 768])],
)
def test_the_number_of_frames_is_rate_times_duration_up_to_the_limits(url, policy, counts):
    examples = by_key(dataset_of(url, **policy))
    assert [len(examples[key].videos[0].frame_times_us) for key in ("q0000", "q0010", "q0020")] == counts


def test_a_sample_over_the_budget_gets_smaller_frames_and_then_fewer(url):
    dataset = dataset_of(url, fps=2.0)
    number = next(n for n in range(6) if dataset.key(n) == "q0020")
    seen = []
    for budget in (3000, 1500, 700, 500, 330):
        [clip] = dataset.example(number, budget).videos
        seen.append((clip.grid.t, clip.size))
    assert seen == [(60, (64, 160)), (60, (32, 80)), (60, (16, 32)), (49, (16, 32)), (20, (16, 32))]
    assert clip.frame_times_us == frame_times(60_000_000, 40)  # still spread over the whole video


def test_videos_may_have_a_limit_of_their_own(url):
    for example in by_key(dataset_of(url, fps=2.0, max_video_tokens=120)).values():
        assert 40 <= example.input_ids.eq(TinyFamily.video_token_id).sum() <= 120


@pytest.mark.parametrize(("limit", "tokens"), [(None, 60), (200, 120), (30, 30)])
def test_a_limit_is_in_place_of_the_processors_budget(url, limit, tokens):
    """The video has 60 temporal patches of 10 tokens each at 160x64 pixels; the processor's budget is 70 tokens."""
    token = byte_tokenizer().convert_tokens_to_ids("<|video|>")
    processor = {"size": {"shortest_edge": 4096, "longest_edge": 70 * 2048}}
    family = family_of(
        Qwen3VLConfig(video_token_id=token, vision_start_token_id=257, vision_end_token_id=258), processor
    )
    policy = FramePolicy(max_video_tokens=limit)
    dataset = ReleaseDataset(
        url, Split.SFT, family, byte_tokenizer(), policy=policy, target=Target.ANSWER, media="videos"
    )
    number = next(n for n in range(6) if dataset.key(n) == "q0020")
    assert dataset.example(number, 60_000).input_ids.eq(token).sum() == tokens


@given(st.integers(1, 4000), st.integers(0, 5), st.floats(0.1, 8))
@settings(max_examples=60, deadline=None)
def test_a_sample_has_its_length_and_keeps_within_the_budget(url, budget, number, fps):
    dataset = dataset_of(url, fps=fps)
    try:
        length = dataset.length(number, budget)
    except UnusableSample as unusable:
        assert f"sample {dataset.key(number)}: it does not fit into {budget} tokens" in str(unusable)
        assert budget < 400
        return
    example = dataset.example(number, budget)
    assert len(example.input_ids) == len(example.labels) == length <= budget
    [clip] = example.videos
    tokens = clip.grid.t * clip.grid.h * clip.grid.w
    assert example.input_ids.eq(TinyFamily.video_token_id).sum() == tokens
    assert list(clip.frame_times_us) == sorted(clip.frame_times_us)


def test_the_family_gets_the_duration_of_the_whole_video(url):
    dataset, durations = dataset_of(url), []
    dataset.family.video_ids = lambda *given: durations.append(given[-1]) or []
    for number in range(len(dataset)):
        dataset.length(number, 100_000)
    assert sorted(set(durations)) == [seconds * 1_000_000 for seconds in SECONDS]


def test_frames_that_the_family_does_not_take_are_refused_by_name(tmp_path):
    strip = make_video("strip").model_copy(update={"width": 6400, "height": 16})
    url = release_of(tmp_path, [strip], questions=1, media=Media.NONE)
    family = family_of(Qwen2_5_VLConfig())
    policy = FramePolicy(fps=None, frames=3)
    dataset = ReleaseDataset(
        url, Split.SFT, family, byte_tokenizer(), policy=policy, target=Target.ANSWER, media="videos"
    )
    complaint = "q0000: frames of 6400x16 pixels: one side is more than 200 times the other"
    with pytest.raises(UnusableSample, match=complaint) as unusable:
        dataset.length(0, 10_000)
    assert unusable.value.reason == "frame_size"


def test_a_question_that_spells_the_video_token_is_refused(tmp_path):
    url = release_of(tmp_path, [make_video("film")], media=Media.NONE, problem="What is <|video|>?")
    with pytest.raises(UnusableSample, match=r"sample q\d+: its text holds the special token '<\|video\|>'"):
        dataset_of(url).length(1, 10_000)


@pytest.mark.parametrize("config", [Qwen2_5_VLConfig, Qwen3VLConfig, SmolVLMConfig])
@pytest.mark.parametrize("budget", [900, 2500, 60_000])
def test_real_families_plan_samples_within_the_budget(url, config, budget):
    tokenizer = byte_tokenizer()
    token = tokenizer.convert_tokens_to_ids
    start, end = token("<|im_start|>"), token("<|im_end|>")
    ids = {"vision_start_token_id": start, "vision_end_token_id": end, "video_token_id": token("<|video|>")}
    family = family_of(config(**ids, image_token_id=token("<|video|>")))
    dataset = ReleaseDataset(
        url, Split.SFT, family, tokenizer, policy=FramePolicy(), target=Target.REASONING, media="videos"
    )
    shown = []
    for number in range(len(dataset)):
        example = dataset.example(number, budget)
        assert len(example.input_ids) == dataset.length(number, budget) <= budget
        assert example.positions.shape == (family.rope_rows, len(example.input_ids))
        [clip] = example.videos
        tokens = clip.grid.t * family.tokens_per_temporal_patch(clip.grid)
        assert example.input_ids.eq(family.video_token_id).sum() == tokens
        shown.append(len(clip.frame_times_us))
    assert budget < 60_000 or sorted(shown) == [8, 8, 22, 22, 120, 120]


@pytest.mark.parametrize("policy", [{"fps": None}, {"fps": 2.0, "frames": 8}])
def test_a_policy_has_a_rate_or_a_number(policy):
    with pytest.raises(ValueError, match="give either fps or frames"):
        FramePolicy(**policy)


@pytest.mark.parametrize("target", Target)
def test_a_prompt_is_the_sample_up_to_its_answer(url, target):
    dataset = dataset_of(url, target)
    for number in range(len(dataset)):
        example, prompt = dataset.example(number, 100_000), dataset.prompt(number, 100_000)
        prompt_tokens = int((example.labels == IGNORED).sum())
        assert prompt.example.key == dataset.key(number) == dataset.sample(number).question_id
        assert torch.equal(prompt.example.input_ids, example.input_ids[:prompt_tokens])
        assert torch.equal(prompt.example.positions, example.positions[:, :prompt_tokens])
        assert prompt.example.videos == example.videos
        assert not prompt.example.has_loss


def test_an_unexpanded_prompt_has_one_placeholder_per_video(url):
    prompt = dataset_of(url).prompt(0, 100_000)
    assert text(prompt.unexpanded_ids).startswith("<|im_start|>user\n<|video|>What?\nA. a boat")
    assert prompt.unexpanded_ids.count(TinyFamily.video_token_id) == 1


def test_a_prompt_of_text_alone_has_no_video(url):
    prompt = dataset_of(url).prompt(0, 100, PromptVariant.TEXT)
    assert text(prompt.example.input_ids).startswith("<|im_start|>user\nWhat?\nA. a boat")
    assert (prompt.example.videos, tuple(prompt.example.input_ids.tolist())) == ((), prompt.unexpanded_ids)


def test_shuffled_frames_keep_the_prompt_and_change_places(url):
    dataset = dataset_of(url, fps=None, frames=11)
    plain, shuffled = (dataset.prompt(5, 100_000, variant) for variant in (PromptVariant.VIDEO, PromptVariant.SHUFFLED))
    assert torch.equal(plain.example.input_ids, shuffled.example.input_ids)
    [clip], [other] = plain.example.videos, shuffled.example.videos
    assert clip.frame_times_us != other.frame_times_us
    assert sorted(clip.frame_times_us[:-1]) == sorted(other.frame_times_us[:-1])
    assert other.frame_times_us[-1] == other.frame_times_us[-2]  # fills the last temporal patch
    assert dataset.prompt(5, 100_000, PromptVariant.SHUFFLED).example.videos == (other,)


def test_a_prompt_that_does_not_fit_is_refused_by_name(url):
    with pytest.raises(UnusableSample, match="sample q0000: it does not fit into 150 tokens with the fewest frames"):
        dataset_of(url).prompt(0, 150)

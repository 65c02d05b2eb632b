import json

import pytest

from schemas.answer_format import Target
from schemas.config import Media
from schemas.errors import BadInput
from schemas.frame_policy import FramePolicy
from schemas.tables import QuestionKind, Split
from tests.support.rows import make_sample, make_video
from tests.trainer_plugin.support import TinyFamily, byte_tokenizer, write_release
from trainer_plugin.data.samples import ReleaseDataset
from trainer_plugin.rl.prompts import Curriculum, PromptSettings, PromptStream

RATES = (0.0, 0.125, 0.25, 0.5, 0.5, 0.75, 1.0, 0.3)
"""Pass rates of the questions q0000 to q0007; q0006 is an open one, and q0007 has no trials."""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> ReleaseDataset:
    video = make_video("film").model_copy(update={"width": 160, "height": 64, "fps": 30.0, "duration_us": 4_000_000})
    samples = [
        make_sample(number, video).model_copy(update={"pass_rate": rate, "trials": 0 if number == 7 else 8})
        for number, rate in enumerate(RATES)
    ]
    answer = {"kind": QuestionKind.OPEN, "options": (), "answer": "<answer>a boat</answer>"}
    samples[6] = samples[6].model_copy(update=answer)
    url = write_release(tmp_path_factory.mktemp("prompts") / "release", [video], samples, media=Media.NONE)
    return ReleaseDataset(
        url, Split.SFT, TinyFamily(), byte_tokenizer(), policy=FramePolicy(), target=Target.REASONING, media="videos"
    )


def stream_of(dataset, max_tokens=2000, seed=3, epochs=None, **settings) -> PromptStream:
    return PromptStream(dataset, PromptSettings(**settings), max_tokens, seed=seed, epochs=epochs)


def keys(stream, count=None) -> list[str]:
    found = iter(stream) if count is None else (next(stream) for _ in range(count))
    return [sample.question_id for _, sample in found]


def test_samples_are_filtered_by_pass_rate_and_kind_and_counted(dataset):
    stream = stream_of(dataset, min_pass_rate=0.1, max_pass_rate=0.7, kinds=("choice",), epochs=1)
    assert stream.counts == {"too_hard": 1, "too_easy": 1, "kind": 1, "no_trials": 1}
    assert sorted(keys(stream)) == ["q0001", "q0002", "q0003", "q0004"]
    assert stream.filtered == {"q0000": "too_hard", "q0005": "too_easy", "q0006": "kind", "q0007": "no_trials"}
    assert len(stream_of(dataset)) == 8


def test_a_prompt_comes_with_its_sample(dataset):
    prompt, sample = next(stream_of(dataset))
    assert (prompt.example.key, sample.pass_rate) == (sample.question_id, RATES[int(sample.question_id[1:])])


def test_every_epoch_has_all_samples_in_an_order_of_its_own(dataset):
    stream = stream_of(dataset, epochs=3)
    orders = [keys(stream, 8) for _ in range(3)]
    assert [sorted(order) for order in orders] == [sorted(orders[0])] * 3
    assert len({tuple(order) for order in orders}) == 3
    assert next(stream, None) is None
    assert keys(stream_of(dataset, epochs=3)) == [key for order in orders for key in order]
    assert keys(stream_of(dataset, seed=4), 8) != orders[0]


def test_easy_questions_come_first_if_requested(dataset):
    stream = stream_of(dataset, curriculum=Curriculum.EASY_FIRST)
    for _ in range(2):
        rates = [sample.pass_rate for _, sample in (next(stream) for _ in range(8))]
        assert rates == sorted(RATES, reverse=True)


@pytest.mark.parametrize("taken", [0, 3, 8, 11])
def test_a_resumed_stream_continues_exactly(dataset, taken):
    stream = stream_of(dataset, min_pass_rate=0.1)
    keys(stream, taken)
    resumed = stream_of(dataset, min_pass_rate=0.1)
    resumed.load_state_dict(json.loads(json.dumps(stream.state_dict())))
    assert keys(resumed, 14) == keys(stream, 14)
    assert resumed.state_dict() == stream.state_dict()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seed": 9}, "seed is 9, but the saved position has seed 3"),
        ({"curriculum": "easy_first"}, "curriculum is easy_first, but the saved position has curriculum none"),
        ({"min_pass_rate": 0.5}, "the saved position is one among other samples than these 4"),
    ],
)
def test_the_state_of_another_stream_is_refused(dataset, settings, message):
    with pytest.raises(BadInput, match=message):
        stream_of(dataset, **settings).load_state_dict(stream_of(dataset).state_dict())


def test_a_range_without_samples_is_refused_with_its_counts(dataset):
    with pytest.raises(BadInput, match=r"not one of the 8 samples of the split sft is chosen: .*'too_hard': 6"):
        stream_of(dataset, min_pass_rate=0.9, max_pass_rate=0.95)
    with pytest.raises(ValueError, match=r"min_pass_rate 0\.9 is above max_pass_rate 0\.1"):
        PromptSettings(min_pass_rate=0.9, max_pass_rate=0.1)


def test_prompts_that_do_not_fit_are_skipped_and_counted(dataset):
    with pytest.raises(
        BadInput, match=r"not one of the 8 chosen samples has a usable prompt of at most \d+ tokens: {'too_long': 8}"
    ):
        next(stream_of(dataset, max_tokens=100))
    # The open question's instruction is shorter than that of the others.
    limit = next(n for n in range(100, 300) if fits(dataset, 6, n))
    stream = stream_of(dataset, max_tokens=limit, epochs=1)
    assert keys(stream) == ["q0006"]
    assert stream.counts == {"too_long": 7}


def fits(dataset, number: int, max_tokens: int) -> bool:
    try:
        return dataset.prompt(number, max_tokens) is not None
    except ValueError:
        return False

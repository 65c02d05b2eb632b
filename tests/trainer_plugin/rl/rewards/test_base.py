"""Loading rewards by name and from files, their arguments, and the batch."""

import pickle

import pytest

from schemas.errors import BadInput
from tests.support.rows import make_sample, make_video
from trainer_plugin.rl.rewards.base import BUILT_IN, Reward, RewardBatch, load_reward

MINE = """
import dataclasses

@dataclasses.dataclass
class Scaled:
    factor: float

    def __call__(self, completions, **columns):
        return [self.factor * len(text) for text in completions]

def brevity(completions, most=3, **columns):
    return [float(len(text) <= most) for text in completions]

async def patient(completions):
    return [1.0 for text in completions]

text = "no function"
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A user's file of rewards, `mine.py` in the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(MINE)
    return "mine.py"


def test_a_reward_of_a_file_is_loaded_with_its_options(mine):
    assert load_reward(f"{mine}:brevity").function(["abcd", ""]) == [0, 1]
    assert load_reward(f"{mine}:brevity", most=4).function(completions=["abcd"]) == [1]
    assert load_reward(f"{mine}:Scaled", factor=2.0).function(completions=["ab"]) == [4]
    assert not load_reward(f"{mine}:brevity").is_async
    assert load_reward(f"{mine}:patient").is_async


def test_a_function_called_per_response_must_be_a_coroutine(mine, tmp_path):
    (tmp_path / "mine.py").write_text(f"{MINE}\npatient.per_response = brevity.per_response = True\n")
    assert load_reward(f"{mine}:patient").per_response
    with pytest.raises(BadInput, match=r"mine.py:brevity: it has per_response = True and is not a coroutine function"):
        load_reward(f"{mine}:brevity")
    with pytest.raises(BadInput, match="define it with `async def`, or remove per_response"):
        load_reward(f"{mine}:brevity", most=4)


def test_two_files_of_one_name_are_two_modules(mine, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.py").write_text("def brevity(completions): return [7.0]")
    first, second = load_reward(f"{mine}:brevity"), load_reward("other/mine.py:brevity")
    assert first.function(["a"]) == [1] and second.function(["a"]) == [7]
    assert pickle.loads(pickle.dumps(first.function)) is first.function


def test_built_in_rewards_have_short_names(monkeypatch):
    monkeypatch.setenv("LVR_JUDGE_URL", "http://localhost:1/v1")
    monkeypatch.setenv("LVR_JUDGE_MODEL", "judge")
    options = {"length": {"max_length": 10, "buffer": 5}}
    loaded = [load_reward(name, **options.get(name, {})) for name in BUILT_IN]
    assert [reward.name for reward in loaded] == list(BUILT_IN)
    assert [reward.name for reward in loaded if reward.per_response] == ["judge"]
    assert [reward.name for reward in loaded if reward.is_async] == ["judge"]


def test_a_reward_of_a_module_is_loaded():
    assert load_reward("math:sqrt").function(4) == 2


@pytest.mark.parametrize(
    ("path", "options", "message"),
    [
        ("acuracy", {}, "did you mean 'accuracy'"),
        ("brevity", {}, "package.module:function"),
        ("missing.py:brevity", {}, "there is no file /"),
        ("mine.py:brevty", {}, "has no 'brevty'; it defines Scaled, brevity, patient"),
        ("mine.py:text", {}, "has a str, which cannot be called, as 'text'"),
        ("no.such.module:f", {}, "importing no.such.module fails: ModuleNotFoundError"),
        ("broken.py:f", {}, "fails: SyntaxError"),
        ("mine.py:Scaled", {}, "missing 1 required positional argument: 'factor'"),
        ("length", {"max_length": 4, "buffer": 5}, "1 <= buffer <= max_length"),
        ("length", {"maximum": 4}, "unexpected keyword argument 'maximum'"),
        ("judge", {"url": "localhost"}, "set LVR_JUDGE_URL"),
    ],
)
def test_what_cannot_be_loaded_is_named(mine, tmp_path, path, options, message):
    (tmp_path / "broken.py").write_text("def f(:")
    with pytest.raises(BadInput) as raised:
        load_reward(path, **options)
    assert message in str(raised.value) and str(raised.value).startswith(f"reward {path!r}: ")


def test_a_function_gets_the_arguments_that_it_names():
    columns = {"prompts": ["p"], "completions": ["c"], "completion_ids": [[1]], "answer": ["a"]}
    assert Reward("r", lambda completions, answer="x": []).select_arguments(columns) == {
        "completions": ["c"],
        "answer": ["a"],
    }
    assert Reward("r", lambda **named: []).select_arguments(columns) == columns
    with pytest.raises(BadInput, match="no column for its argument 'sound'"):
        Reward("r", lambda completions, sound: []).select_arguments(columns)
    with pytest.raises(BadInput, match=r"its parameter \*texts takes no keyword argument"):
        Reward("r", lambda *texts: []).select_arguments(columns)


def test_an_option_hides_the_column_of_its_name(mine):
    reward = load_reward(f"{mine}:brevity", most=9)
    assert "most" not in reward.select_arguments({"completions": ["c"], "most": [1]})


def test_a_batch_has_the_columns_of_its_samples():
    sample = make_sample(3, make_video("film"))
    batch = RewardBatch.of_samples([sample, sample], ["p", "p"], ["B", "A"], [[1], [2]])
    assert batch.keys == [sample.question_id] * 2
    assert batch.columns["options"] == [("a boat", "a car")] * 2
    assert batch.columns["answer"] == ["<answer>A</answer>"] * 2
    assert batch.columns["duration_us"] == [sample.duration_us] * 2
    assert batch.select(1).columns["completions"] == ["A"]


def test_a_batch_of_unequal_columns_is_an_error():
    columns = {"prompts": ["p"], "completions": ["c"], "completion_ids": [[1]]}
    with pytest.raises(ValueError, match="column answer has 2 items for 1 responses"):
        RewardBatch(["k"], {**columns, "answer": ["a", "b"]})
    with pytest.raises(ValueError, match="lacks completion_ids"):
        RewardBatch(["k"], {"prompts": ["p"], "completions": ["c"]})

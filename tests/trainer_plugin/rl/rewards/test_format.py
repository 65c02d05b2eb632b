"""The format reward, with and without a thought that the prompt opens."""

import pytest

from trainer_plugin.rl.rewards.format import format_reward

GOOD = "<think>r</think>\n<answer>B</answer>"


@pytest.mark.parametrize(
    ("prompt", "completion", "value"),
    [
        ("Where?", GOOD, 1),
        ("Where?", GOOD + "\n", 1),
        ("Where?<think>\n", "r</think><answer>B</answer>", 1),
        ("Where?<think>\n", GOOD, 0),
        ("Where?", "r</think><answer>B</answer>", 0),
        ("Where?", "B", 0),
        ("Where?", "<answer>B</answer>", 0),
        ("Where?", GOOD + GOOD, 0),
        ("Where?", "<think></think><answer>B</answer>", 0),
        ("Where?", GOOD[:-1], 0),
        ("Where?", "", 0),
    ],
)
def test_the_format_reward_is_one_for_a_thought_and_an_answer(prompt, completion, value):
    assert format_reward(prompts=[prompt], completions=[completion], kind=["choice"]) == [value]

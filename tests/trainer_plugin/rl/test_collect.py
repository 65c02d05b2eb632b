"""The groups of a step: what belongs to which response, on several ranks."""

from pathlib import Path

from tests.trainer_plugin.runs import collect_log
from trainer_plugin.grpo import GrpoTraining
from trainer_plugin.rl.recipe import load_grpo_recipe

ODD = """
def even(completions):
    return [ValueError(f"{len(text)} is odd") if len(text) % 2 else float(len(text)) for text in completions]
"""

SETTINGS = (
    "videos.split=sft",
    "videos.workers=0",
    "videos.frames.max_frames=4",
    "videos.frames.max_video_tokens=24",
    "rollout={prompts: 3, responses: 4, max_tokens: 8, max_rounds: 1}",
    "row_tokens=512",
    "evaluation=null",
    "export=none",
    "cache.host_gib=0.1",
)


def collect(url: str, folder: Path) -> tuple[list[tuple], list[str]]:
    """The responses of the groups of a step: text, failure, total and value of the reward; and what is logged."""
    settings = [*SETTINGS, f"out={folder}/out", f"videos.release={url}", f"rewards=[{{reward: {folder}/odd.py:even}}]"]
    with collect_log("trainer_plugin.rl.collect") as messages, GrpoTraining(load_grpo_recipe("demo", settings)) as run:
        groups = run.collector.collect(1)
    responses = [
        response
        for group in groups
        for response in zip(
            group.completions, group.failures, group.totals.tolist(), group.rewards[:, 0].tolist(), strict=True
        )
    ]
    return responses, messages


def test_a_reward_and_its_failure_stay_with_their_response(ranks, release, tmp_path):
    """Two ranks sample three prompts, so that the order of ranks is not that of prompts."""
    (tmp_path / "odd.py").write_text(ODD)
    (responses, messages), (others, silent) = ranks[2].run(collect, release, tmp_path)
    failed = [text for text, failure, _, _ in responses if failure]
    assert len(responses) == 12 and 0 < len(failed) < 12
    for text, failure, total, value in responses:
        if len(text) % 2:
            assert f"{len(text)} is odd" in failure and total != total and value != value
        else:
            assert failure is None and total == value == len(text)
    assert [(text, failure) for text, failure, _, _ in others] == [(text, failure) for text, failure, _, _ in responses]
    [message] = messages
    assert message.startswith(f"step 1: {len(failed)} rewards failed, e.g. reward {tmp_path}/odd.py:even failed for")
    assert silent == []

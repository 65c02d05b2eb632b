"""Rollout rows with plausible default values, and strategies that generate them."""

from typing import Any

from schemas.tables import QuestionCategory, QuestionKind
from tests.support.properties import st
from trainer_plugin.rl.rollout import Finish
from trainer_plugin.rl.rollout_table import RewardValue, RolloutRow, RolloutStatus, find_right

FINITE = st.floats(-100, 100)
REWARDS = ("accuracy", "judge", "format", "mine.py:brevity")


def make_row(number: int = 0, question: str = "q", **fields: Any) -> RolloutRow:
    """A right answer that is in the loss. `accuracy` changes its reward; None fails it."""
    accuracy = fields.pop("accuracy", 1.0)
    values = {
        "step": 3,
        "round": 0,
        "question_id": question,
        "kind": QuestionKind.CHOICE,
        "category": QuestionCategory.TEMPORAL,
        "video_id": "film",
        "number": number,
        "prompt_tokens": 100,
        "response": "<think>r</think><answer>A</answer>",
        "response_tokens": 10,
        "finish": Finish.STOP,
        "answer": "A",
        "right": None if accuracy is None else accuracy >= 0.5,
        "rewards": (RewardValue(name="accuracy", value=accuracy),),
        "reward": accuracy,
        "failure": None,
        "advantage": 0.0,
        "status": RolloutStatus.KEPT,
        "log_prob": -0.5,
        "mismatch_k1": 0.0,
        "mismatch_k3": 0.0,
        "entropy": 0.5,
    }
    return RolloutRow(**(values | fields))


@st.composite
def rollout_rows(draw: st.DrawFn) -> RolloutRow:
    rewards = tuple(RewardValue(name=name, value=draw(st.none() | FINITE)) for name in draw(st.permutations(REWARDS)))
    return RolloutRow(
        step=draw(st.integers(1, 9)),
        round=draw(st.integers(0, 3)),
        question_id=draw(st.sampled_from(["q1", "q2", "q3"])),
        kind=draw(st.sampled_from(QuestionKind)),
        category=draw(st.sampled_from(QuestionCategory)),
        video_id=draw(st.sampled_from(["film", "clip"])),
        number=draw(st.integers(0, 7)),
        prompt_tokens=draw(st.integers(1, 10**7)),
        response=draw(st.text()),
        response_tokens=draw(st.integers(0, 10**6)),
        finish=draw(st.sampled_from(Finish)),
        answer=draw(st.none() | st.text()),
        right=find_right(rewards),
        rewards=rewards,
        reward=draw(st.none() | FINITE),
        failure=draw(st.none() | st.text()),
        advantage=draw(st.none() | FINITE),
        status=draw(st.sampled_from(RolloutStatus)),
        log_prob=draw(st.floats(-20, 0)),
        mismatch_k1=draw(st.none() | FINITE),
        mismatch_k3=draw(st.none() | st.floats(0, 100)),
        entropy=draw(st.none() | st.floats(0, 12)),
    )

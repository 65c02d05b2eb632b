"""A release with known answers, and an engine that answers by a script, for tests of evaluations."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from transformers import Qwen2_5_VLConfig

from schemas.answer_format import LETTERS, Target, format_answer
from schemas.config import Media
from schemas.errors import BadInput
from schemas.frame_policy import FramePolicy
from schemas.tables import QuestionCategory, QuestionKind, Split
from tests.support.rows import make_sample, make_video
from tests.trainer_plugin.support import TinyFamily, byte_tokenizer, write_release
from trainer_plugin.data.samples import ReleaseDataset
from trainer_plugin.distributed.mesh import RankContext, init_distributed, parallelize
from trainer_plugin.rl.rollout import Finish, RolloutRequest, RolloutResponse, SamplingSettings

QUESTIONS = 10
"""Number of questions, q0000 to q0009: two videos with five each. q0004 and q0009 are open ones with the answer "a red
boat"; the others have the options of `OPTIONS`, and the right ones are `RIGHT`."""
OPTIONS = ("one", "two two", "three")
RIGHT = "ABBC BBBA "
CATEGORIES = (*QuestionCategory, QuestionCategory.TEMPORAL)
MINUTES = {"film0": 1, "film5": 45}


def write_questions(folder: Path) -> str:
    """Write the release and return its address. It has records only, no videos."""
    videos = [
        make_video(name).model_copy(
            update={"width": 160, "height": 64, "fps": 30.0, "duration_us": minutes * 60_000_000}
        )
        for name, minutes in MINUTES.items()
    ]
    samples = []
    for number, letter in enumerate(RIGHT):
        sample = make_sample(number, videos[number // 5])
        update = {"kind": QuestionKind.OPEN, "options": (), "answer_text": "a red boat"}
        if letter != " ":
            update = {"options": OPTIONS, "answer_text": OPTIONS[LETTERS.index(letter)]}
        right = letter if letter != " " else "a red boat"
        update |= {"answer": format_answer(right), "problem_type": CATEGORIES[number % 5]}
        samples.append(sample.model_copy(update=update))
    return write_release(folder / "release", videos, samples, media=Media.NONE)


def open_questions(url: str, **policy: int) -> ReleaseDataset:
    policy = policy or {"fps": None, "frames": 4}
    return ReleaseDataset(
        url,
        Split.SFT,
        TinyFamily(),
        byte_tokenizer(),
        policy=FramePolicy(**policy),
        target=Target.REASONING,
        media="videos",
    )


def rank_context(sp: int = 1) -> RankContext:
    return parallelize(sp, Qwen2_5_VLConfig().get_text_config(), init_distributed())


class ScriptedEngine:
    """Answers each request with the text that the script returns for it and the number of the response.

    A script that raises BadInput for a request of some rank makes the call fail on every rank.
    """

    def __init__(self, script: Callable[[RolloutRequest, int], str]) -> None:
        self.script = script
        self.calls: list[tuple[list[str], int, SamplingSettings]] = []

    def generate(
        self, requests: Sequence[RolloutRequest], responses: int, sampling: SamplingSettings
    ) -> list[list[RolloutResponse]]:
        self.calls.append(([request.prompt.key for request in requests], responses, sampling))
        found, problem = [], None
        try:
            found = [[self._respond(request, number) for number in range(responses)] for request in requests]
        except BadInput as error:
            problem = str(error)
        problems: list[str | None] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(problems, problem)
        for problem in filter(None, problems):
            raise BadInput(problem)
        return found

    def _respond(self, request: RolloutRequest, number: int) -> RolloutResponse:
        text = self.script(request, number)
        ids = torch.tensor(byte_tokenizer()(text)["input_ids"])
        finish = Finish.STOP if text.endswith("<|im_end|>") else Finish.LENGTH
        return RolloutResponse(ids, torch.full((len(ids),), -0.5), finish, request.prompt.input_ids)

    @property
    def sampled(self) -> int:
        """Number of responses so far."""
        return sum(len(keys) * responses for keys, responses, _ in self.calls)


def reply(answer: str) -> str:
    """A well-formed response."""
    return f"<think>It shows.</think><answer>{answer}</answer><|im_end|>"

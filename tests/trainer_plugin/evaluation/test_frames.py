"""Frames of evaluated videos: questions about one video that follow each other decode it once."""

from pathlib import Path

import pytest
import torch

from schemas.answer_format import Target
from schemas.errors import BadInput
from schemas.frame_policy import FramePolicy
from schemas.tables import QuestionKind
from tests.trainer_plugin.parity import tiny_family
from tests.trainer_plugin.support import byte_tokenizer, numbered_film
from trainer_plugin.data.samples import QuestionLayout
from trainer_plugin.data.video_decode import probe_video
from trainer_plugin.evaluation.frames import FrameSource
from trainer_plugin.rl.rollout import RolloutRequest
from trainer_plugin.types import FrameRange, VideoSource


def request_of(path: Path, question: str, frames: int = 8) -> RolloutRequest:
    layout = QuestionLayout(
        tiny_family("qwen2_5_vl"), byte_tokenizer(), FramePolicy(fps=None, frames=frames), Target.ANSWER
    )
    prompt = layout.prompt(question, probe_video(VideoSource(path.stem, str(path))), "What?", QuestionKind.OPEN, 2000)
    return RolloutRequest(prompt.example, prompt.unexpanded_ids, 0)


@pytest.mark.parametrize("workers", [0, 1])
def test_the_second_question_about_a_video_needs_no_file(tmp_path, workers):
    film = Path(numbered_film(tmp_path, "film", 2.0).uri)
    first, second = request_of(film, "first"), request_of(film, "second")
    frames = FrameSource(tiny_family("qwen2_5_vl"), workers)
    try:
        whole = frames(first, FrameRange(0, 0, 4))
        film.unlink()
        assert len(whole) == 8 and len({frame.numpy().tobytes() for frame in whole}) == 8
        assert torch.equal(frames(second, FrameRange(0, 0, 4)), whole)
        assert torch.equal(frames(second, FrameRange(0, 1, 3)), whole[2:6])
    finally:
        frames.close()


def test_parts_that_are_not_held_are_decoded(tmp_path):
    film = Path(numbered_film(tmp_path, "film", 2.0).uri)
    request = request_of(film, "question")
    whole = FrameSource(tiny_family("qwen2_5_vl"), 0)(request, FrameRange(0, 0, 4))
    frames = FrameSource(tiny_family("qwen2_5_vl"), 0)
    for first, end in ((1, 2), (0, 4), (2, 3)):
        assert torch.equal(frames(request, FrameRange(0, first, end)), whole[2 * first : 2 * end])


def test_only_the_last_clip_is_held(tmp_path):
    film = Path(numbered_film(tmp_path, "film", 2.0).uri)
    request, fewer = request_of(film, "question"), request_of(film, "fewer", frames=4)
    frames = FrameSource(tiny_family("qwen2_5_vl"), 0)
    frames(request, FrameRange(0, 0, 4))
    assert len(frames(fewer, FrameRange(0, 0, 2))) == 4
    film.unlink()
    with pytest.raises(BadInput, match="sample question: video film"):
        frames(request, FrameRange(0, 0, 4))

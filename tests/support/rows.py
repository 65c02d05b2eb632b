"""Rows with plausible default values, for tests that set only a few fields."""

import hashlib
from pathlib import Path

from schemas.base import Span
from schemas.provenance import Provenance
from schemas.sample import Sample
from schemas.tables import (
    Check,
    PackagedVideo,
    Packaging,
    Question,
    QuestionCategory,
    QuestionKind,
    Reasoning,
    Source,
    Split,
    Trial,
    Video,
    VideoCategory,
)

PROGRAM = Provenance(model="program")


def make_source(name: str, **described) -> Source:
    return Source(source_id=name, uri=f"/videos/{name}.mp4", fingerprint="1", **described)


def make_video(name: str, bits: int | None = None) -> Video:
    if bits is None:
        bits = int(hashlib.sha512(name.encode()).hexdigest(), 16)
    return Video(
        video_id=name, uri=f"/videos/{name}.mp4", sha256="0" * 64, perceptual_hash=f"{bits:0128x}", size_bytes=1,
        duration_us=300_000_000, start_us=0, missing_us=0, unreadable_us=0, gaps=(), video_stream=0,
        other_pictures=0, audio_stream=None, edited=False, key_frame_count=30,
        longest_gop_us=10_000_000, open_gops=False, width=640, height=360, sample_aspect="1:1", fps=25.0,
        variable_frame_rate=False, frame_count=7500, rotation=0, mirrored=False,
        interlaced=False, codec="h264", pixel_format="yuv420p",
        bit_depth=8, primaries="bt709", transfer="bt709", audio_codec="", audio_tracks=(), packaging=Packaging.KEEP,
        analysis_uri="objects/00/0.npz", proxy_uri=None,
    )  # fmt: skip


def of_file(video: Video, path: Path) -> Video:
    """The video as ingested from this file. If the file does not exist, the sha256 stays as it was."""
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else video.sha256
    return video.model_copy(update={"uri": str(path), "sha256": sha256})


def make_packaged(video: Video, **fields) -> PackagedVideo:
    """The video as the `package` stage describes it. By default, the source file is kept unchanged."""
    as_it_is = {"packaging": Packaging.KEEP, "media_uri": None, "sha256": video.sha256, "size_bytes": video.size_bytes}
    picture = {"width": video.width, "height": video.height, "fps": video.fps}
    return PackagedVideo(video_id=video.video_id, **{**as_it_is, **picture, **fields})


def make_question(number: int, video: str = "v", kind: QuestionKind = QuestionKind.CHOICE) -> Question:
    choice = kind is QuestionKind.CHOICE
    return Question(
        question_id=f"q{number:04d}", video_id=video, category=QuestionCategory.PLOT, kind=kind, writer="program",
        question=f"What comes {number}th?", options=("a boat", "a car", "a bird", "a train") if choice else (),
        answer="a boat", evidence=(Span(start_us=0, end_us=5),), derivation=None, provenance=PROGRAM,
    )  # fmt: skip


def make_reasoning(question: Question) -> Reasoning:
    return Reasoning(
        question_id=question.question_id, video_id=question.video_id, reasoning="It shows a boat. So it is a boat.",
        evidence=question.evidence, provenance=PROGRAM,
    )  # fmt: skip


def make_trial(question: Question, check: Check, correct: int, n: int = 10, passed: bool = True) -> Trial:
    return Trial(
        question_id=question.question_id, video_id=question.video_id, check=check, n=n, correct=correct,
        answers=("a boat",) * n, passed=passed, provenance=(PROGRAM,) * n,
    )  # fmt: skip


def make_sample(number: int, video: Video, split: Split = Split.SFT) -> Sample:
    question = make_question(number, video.video_id)
    return Sample(
        problem_id=number, problem="What?\nA. a boat\nB. a car", problem_type=question.category, reasoning="It shows.",
        videos=f"{video.video_id}.mp4", answer="<answer>A</answer>", question_id=question.question_id,
        video_id=video.video_id, kind=QuestionKind.CHOICE, question="What?", options=("a boat", "a car"),
        answer_text="a boat", evidence=question.evidence, pass_rate=0.5, trials=10, split=split,
        video_category=VideoCategory.FILM, duration_us=video.duration_us, writer="program", question_model="program",
        reasoning_model="program", target_model="target", provenance="0" * 64,
    )  # fmt: skip

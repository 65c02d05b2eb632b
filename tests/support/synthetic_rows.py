"""Rows of imaginary videos, drawn from a seed, as the stages from ingest to package would write them."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import imageio_ffmpeg

from operators.store.content_store import sha256_of_file
from schemas.base import Row, Span, digest
from schemas.provenance import Provenance, StepProvenance
from schemas.tables import (
    Boundary,
    Caption,
    CaptionStatus,
    Check,
    Clip,
    Cut,
    Outline,
    Packaging,
    Question,
    QuestionCategory,
    QuestionKind,
    Reasoning,
    Reject,
    Scene,
    Source,
    Trial,
    Video,
    VideoCategory,
)
from tests.support.rows import make_packaged

_REPAIRED = {3: ("bad_caption_short",), 7: ("bad_caption_copy", "bad_caption_copy"), 9: ("injection", "schema")}
"""Faults of the earlier answers for a clip, by the rest of its start divided by 50."""
_CHAIN_CHECKS = (Check.CHAIN_READ, Check.CHAIN_SUPPORT, Check.CHAIN_SWAPPED)

HOSTILE = '<script>alert("x")</script><img src=x onerror=alert(1)>'
"""Markup that a page must show as plain text."""

_SECOND = 1_000_000
_CLIP = 10 * _SECOND
_MEDIA_SECONDS = 2
_TITLES = (
    "Crossing the pass",
    "A violin from scratch",
    "The last home game",
    "Harbour news at nine",
    "Baking for forty",
)
_QUESTIONS = {
    QuestionCategory.TEMPORAL: "What happens right after the guide closes the gate?",
    QuestionCategory.GOAL: "Why does the woman go back to the workshop before noon?",
    QuestionCategory.PLOT: "How does the argument about the map end?",
    QuestionCategory.SPATIAL: "Where does the red van stand when the rain begins?",
}
_ANSWERS = (
    "beside the old mill",
    "she looks for the missing key",
    "they agree to wait for the ferry",
    "on the left bank",
)
_REJECTS = {
    "caption": ("schema", "clip {key}: the answer of vlm-8b has no field `text`; look at the raw text, then replay"),
    "question": ("schema", "question of {key}: 3 options given, 4 asked for; look at the raw text, then replay"),
}


@dataclass
class Tables:
    """The rows and rejects of one video, by stage."""

    rows: dict[str, list[Row]] = field(default_factory=dict)
    rejects: dict[str, list[Reject]] = field(default_factory=dict)


def tiny_mp4(path: Path, index: int) -> Path:
    """Write a real H.264 MP4 of two seconds, 64 x 64 pixels, 8 frames per second. Its colours depend on `index`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-v", "error", "-f", "lavfi", "-i"]
    command += [f"testsrc=size=64x64:rate=8:duration={_MEDIA_SECONDS},hue=h={15 * index}", "-threads", "1"]
    command += ["-pix_fmt", "yuv420p", "-movflags", "+faststart", "-fflags", "+bitexact", str(path)]
    subprocess.run(command, check=True)
    return path


@dataclass
class RowMaker:
    """Draws the rows of videos, one video at a time."""

    random: random.Random
    nothing_passes: bool
    hostile: bool
    media: Path | None

    def source(self, index: int) -> Source:
        return Source(
            source_id=f"vid_{index:03d}",
            uri=f"videos/vid_{index:03d}.mp4",
            fingerprint="0",
            title=self._text(self.random.choice(_TITLES)),
            category=self.random.choice(list(VideoCategory)),
            licence="CC BY 4.0",
            origin="synthetic",
        )

    def tables(self, source: Source, index: int) -> Tables:
        made = Tables()
        if index % 12 == 7:
            message = f"{source.source_id}: moov atom not found; the file is cut short, fetch it again"
            made.rejects["ingest"] = [reject("ingest", source.source_id, "unreadable_video", message)]
            return made
        video = self._video(source, index)
        made.rows["ingest"] = [video]
        made.rows["split"] = list(self._clips(video))
        made.rows["caption"] = [self._caption(clip) for clip in made.rows["split"]]
        made.rows["outline"] = [self._outline(video, source.category)]
        questions = [
            self._check(self._question(video, category, kind, number))
            for category in QuestionCategory
            for kind in QuestionKind
            for number in range(2)
        ]
        passed = [question for question in questions if question.passed]
        made.rows["question"] = list(questions)
        made.rows["reason"] = [self._reasoning(question) for question in passed]
        made.rows["difficulty"] = [self._difficulty(question) for question in passed]
        made.rows["package"] = [make_packaged(video)]
        for stage, (reason, message) in _REJECTS.items():
            if self.random.random() < 0.5:
                made.rejects[stage] = [reject(stage, source.source_id, reason, message.format(key=video.video_id))]
        failed = [_verdict(question.checks[-1]) for question in questions if not question.passed]
        made.rejects["question"] = [*made.rejects.get("question", []), *failed]
        return made

    def _text(self, text: str) -> str:
        return f"{text} {HOSTILE}" if self.hostile else text

    def _video(self, source: Source, index: int) -> Video:
        seconds = _MEDIA_SECONDS if self.media else round(self.random.lognormvariate(6.6, 0.6))
        path = tiny_mp4(self.media / f"{source.source_id}.mp4", index) if self.media else None
        return Video(
            video_id=source.source_id,
            uri=str(path) if path else source.uri,
            sha256=sha256_of_file(path) if path else digest(source.source_id),
            perceptual_hash=f"{self.random.getrandbits(512):0128x}",
            size_bytes=path.stat().st_size if path else seconds * 60_000,
            duration_us=seconds * _SECOND,
            width=64 if self.media else 1280,
            height=64 if self.media else 720,
            fps=8.0 if self.media else 29.97,
            variable_frame_rate=False,
            frame_count=seconds * 8,
            start_us=0,
            missing_us=0,
            unreadable_us=0,
            gaps=(),
            video_stream=0,
            other_pictures=0,
            audio_stream=None,
            edited=False,
            key_frame_count=seconds,
            longest_gop_us=_SECOND,
            open_gops=False,
            sample_aspect="1:1",
            rotation=0,
            mirrored=False,
            interlaced=False,
            codec="h264",
            pixel_format="yuv420p",
            bit_depth=8,
            primaries="bt709",
            transfer="bt709",
            audio_codec="",
            audio_tracks=(),
            packaging=Packaging.KEEP,
            analysis_uri=f"objects/00/{source.source_id}.npz",
            proxy_uri=None,
        )

    def _clips(self, video: Video) -> Sequence[Clip]:
        starts = [0]
        while video.duration_us - starts[-1] > 1.5 * _CLIP:
            starts.append(starts[-1] + self.random.randint(8 * _SECOND, 12 * _SECOND))
        ends = [*starts[1:], video.duration_us]
        return [
            Clip(
                clip_id=f"{video.video_id}_{start:012d}",
                video_id=video.video_id,
                index=index,
                start_us=start,
                end_us=end,
                boundary=Boundary.END
                if end == video.duration_us
                else self.random.choice([Boundary.SHOT, Boundary.FIXED]),
                shot_starts_us=(),
                cut=Cut.NONE,
                uri=None,
                frame_count=8 * (end - start) // _SECOND,
                motion=0.1,
                sharpness=100.0,
                brightness=0.5,
                black=0.0,
                frozen=0.1,
            )
            for index, (start, end) in enumerate(zip(starts, ends, strict=True))
        ]

    def _caption(self, clip: Clip) -> Caption:
        return Caption(
            clip_id=clip.clip_id,
            video_id=clip.video_id,
            start_us=clip.start_us,
            end_us=clip.end_us,
            text="A woman walks along a river and speaks to the camera.",
            objects=(),
            screen_texts=(),
            colours=("green",),
            speech="",
            frame_times_us=(clip.start_us,),
            repaired=_REPAIRED.get(clip.start_us % 50, ()),
            status=CaptionStatus.TRUNCATED if self.random.random() < 0.004 else CaptionStatus.OK,
            provenance=Provenance(model="vlm-8b", served_model="vlm-8b", prompt_id="caption"),
        )

    def _question(self, video: Video, category: QuestionCategory, kind: QuestionKind, number: int) -> Question:
        options = tuple(self._text(f"{answer} ({number})") for answer in _ANSWERS)
        start = self.random.randrange(max(1, video.duration_us - 30 * _SECOND))
        end = min(video.duration_us, start + self.random.randint(_SECOND, 30 * _SECOND))
        first = Span(start_us=start, end_us=end)
        second = Span(start_us=start // 2, end_us=start // 2 + _SECOND // 2) if start > 2 * _SECOND else None
        writer = "program" if number == 0 else "model"
        return Question(
            question_id=digest([video.video_id, category, kind, number])[:24],
            video_id=video.video_id,
            category=category,
            kind=kind,
            writer=writer,
            question=self._text(f"{_QUESTIONS[category]} (scene {video.video_id})"),
            options=options if kind is QuestionKind.CHOICE else (),
            answer=options[self.random.randrange(4)],
            evidence=(second, first) if second and self.random.random() < 0.4 else (first,),
            derivation=None,
            provenance=Provenance(model="program")
            if number == 0
            else Provenance(model="reasoner-120b", served_model="reasoner-120b", prompt_id=f"question_{category}"),
        )

    def _reasoning(self, question: Question) -> Reasoning:
        text = f"The gate closes first; then the camera follows her to the mill.\nSo the answer is: {question.answer}."
        written = Provenance(model="reasoner-120b", served_model="reasoner-120b", prompt_id="chain")
        number = int(question.question_id[:4], 16)
        by_model = question.writer == "model"
        return Reasoning(
            question_id=question.question_id,
            video_id=question.video_id,
            reasoning=self._text(text),
            evidence=question.evidence,
            provenance=written if by_model else Provenance(model="program"),
            refinement=written if by_model and number % 4 else None,
            hinted=by_model and number % 9 == 0,
            checks=tuple(_trial(question, check, 3, 3, passed=True) for check in _CHAIN_CHECKS if by_model),
        )

    def _outline(self, video: Video, category: VideoCategory) -> Outline:
        scene = Scene(start_us=0, end_us=video.duration_us, title="A river", summary="A woman speaks at a river.")
        return Outline(
            video_id=video.video_id,
            category=category,
            summary="",
            scenes=(scene,),
            entities=(),
            provenance=(),
            captioned_by=(StepProvenance(step="caption", model="measured"),),
        )

    def _check(self, question: Question) -> Question:
        """The question with its checks in the order of the gates, up to and including the first that fails."""
        blind = 4 if self.nothing_passes else self.random.choices(range(5), (32, 40, 20, 6, 2))[0]
        checks = [
            _trial(question, Check.RULES, 1, int(self.nothing_passes or self.random.random() > 0.05), passed=None),
            _trial(question, Check.BLIND, 4, blind, passed=blind < 3),
        ]
        if question.writer == "model":
            agreed = 3 - (self.random.random() < 0.15)
            checks.append(_trial(question, Check.GROUNDED, 3, agreed, passed=agreed == 3))
        first_failure = next((index for index, check in enumerate(checks) if not check.passed), len(checks))
        done = tuple(checks[: first_failure + 1])
        return question.model_copy(update={"checks": done, "passed": done[-1].passed})

    def _difficulty(self, question: Question) -> Trial:
        skill = self.random.betavariate(1.6, 1.6)
        correct = sum(self.random.random() < skill for _ in range(10))
        return _trial(question, Check.DIFFICULTY, 10, correct, passed=True)


def _trial(question: Question, check: Check, n: int, correct: int, passed: bool | None) -> Trial:
    return Trial(
        question_id=question.question_id,
        video_id=question.video_id,
        check=check,
        n=n,
        correct=correct,
        answers=("A",) * n,
        passed=correct == n if passed is None else passed,
        provenance=(Provenance(model="target-7b" if check is Check.DIFFICULTY else "judge-30b"),),
    )


def reject(stage: str, item: str, reason: str, message: str, key: str = "") -> Reject:
    return Reject(stage=stage, unit=item, key=key or item, reason=reason, message=message)


def _verdict(trial: Trial) -> Reject:
    reason = {Check.RULES: "duplicate_options", Check.BLIND: "answerable_blind", Check.GROUNDED: "not_grounded"}
    message = f"question {trial.question_id}: {trial.check} right {trial.correct} of {trial.n} times"
    return reject("question", trial.video_id, reason[trial.check], message, trial.question_id)

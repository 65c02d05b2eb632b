"""A run folder as a build leaves it, made without videos or models: for the report, the card and the validator.

Rows, commits, records and metrics go through the project's own Store, RunFolder and Commit; samples are made by the real
assemble stage, and, with `media`, shards by the real shard stage from small real MP4 files. Everything follows from the
seed.
"""

from __future__ import annotations

import random
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import imageio_ffmpeg

from operators.pipeline import BUILD_STAGES, VIDEO_STAGES
from operators.runs import RunFolder
from operators.stage import Context
from operators.store import Store, object_path, sha256_of_file
from schemas.base import Row, Span, digest
from schemas.config import AssembleConfig, BuildConfig, ModelConfig, ModelsConfig, ShardConfig
from schemas.provenance import Provenance
from schemas.run import Commit, Lane, Run, StageKey, StageMetrics, StageRecord
from schemas.sample import Sample
from schemas.tables import (
    Boundary,
    Caption,
    CaptionStatus,
    Check,
    Clip,
    Cut,
    Question,
    QuestionCategory,
    QuestionKind,
    Reasoning,
    Reject,
    Source,
    Trial,
    Video,
    VideoCategory,
)

HOSTILE = '<script>alert("x")</script><img src=x onerror=alert(1)>'
"""What a page must show as text."""

LANE_VIDEOS = 8
_SECOND = 1_000_000
_CLIP = 10 * _SECOND
_MEDIA_SECONDS = 2
_TITLES = ("Crossing the pass", "A violin from scratch", "The last home game", "Harbour news at nine", "Baking for forty")
_QUESTIONS = {
    QuestionCategory.TEMPORAL: "What happens right after the guide closes the gate?",
    QuestionCategory.GOAL: "Why does the woman go back to the workshop before noon?",
    QuestionCategory.PLOT: "How does the argument about the map end?",
    QuestionCategory.SPATIAL: "Where does the red van stand when the rain begins?",
}
_ANSWERS = ("beside the old mill", "she looks for the missing key", "they agree to wait for the ferry", "on the left bank")
_REJECTS = {
    "caption": ("schema", "clip {key}: the answer of vlm-8b has no field `text`; look at the raw text, then replay"),
    "question": ("schema", "question of {key}: 3 options given, 4 asked for; look at the raw text, then replay"),
}
_STAGE_ROWS: dict[str, type[Row]] = {
    "ingest": Video,
    "split": Clip,
    "caption": Caption,
    "question": Question,
    "reason": Reasoning,
    "verify": Trial,
    "difficulty": Trial,
}


@dataclass
class Tables:
    """The rows of one video, by stage."""

    rows: dict[str, list[Row]] = field(default_factory=dict)
    rejects: dict[str, list[Reject]] = field(default_factory=dict)


def synthetic_run(
    out: Path,
    *,
    videos: int = 24,
    until: str = "assemble",
    nothing_passes: bool = False,
    hostile: bool = False,
    media: bool = False,
    seed: int = 0,
) -> RunFolder:
    """A run that has finished every stage up to `until`.

    `nothing_passes` lets every question fail its blind check; `hostile` puts markup into every text that models write;
    `media` gives each video a real file (2 s long), so that `until="shard"` can write tars.
    """
    store = Store(str(out))
    sources = tuple(
        Source(source_id=f"vid_{index:03d}", uri=f"videos/vid_{index:03d}.mp4", fingerprint="0", licence="CC BY 4.0")
        for index in range(videos)
    )
    lanes = [
        Lane(index=index, label=f"lane {index}", sources=sources[first : first + LANE_VIDEOS])
        for index, first in enumerate(range(0, videos, LANE_VIDEOS))
    ]
    plan_reject = Reject(stage="plan", unit="all", key="notes", reason="not_a_video", message="notes.txt: not a video")
    config = _config(out, seed)
    run = Run(
        run_id="synthetic-20261122",
        config=config,
        lanes=len(lanes),
        videos=videos,
        requested=config,
        plan_rejects_sha256=store.put_rows([plan_reject], Reject),
    )
    folder = RunFolder.create(store, run, lanes)
    maker = _Maker(random.Random(seed), nothing_passes, hostile, out / "videos" if media else None)
    tables = {source.source_id: maker.tables(source, index) for index, source in enumerate(sources)}
    for stage in VIDEO_STAGES[: VIDEO_STAGES.index(until) + 1 if until in VIDEO_STAGES else None]:
        for lane in lanes:
            _write_lane(folder, stage, lane, tables)
    for stage in BUILD_STAGES[: BUILD_STAGES.index(until) + 1 if until in BUILD_STAGES else 0]:
        _run_build_stage(folder, stage, list(tables.values()), out)
    return folder


def tiny_mp4(path: Path, index: int) -> Path:
    """A real H.264 MP4 of two seconds, 64 x 64, 8 frames a second; other pictures for every index."""
    path.parent.mkdir(parents=True, exist_ok=True)
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-v", "error", "-f", "lavfi", "-i"]
    command += [f"testsrc=size=64x64:rate=8:duration={_MEDIA_SECONDS},hue=h={15 * index}", "-threads", "1"]
    command += ["-pix_fmt", "yuv420p", "-movflags", "+faststart", "-fflags", "+bitexact", str(path)]
    subprocess.run(command, check=True)
    return path


def _config(out: Path, seed: int) -> BuildConfig:
    return BuildConfig(
        source="videos",
        out=str(out),
        name="synthetic",
        seed=seed,
        lane_videos=LANE_VIDEOS,
        assemble=AssembleConfig(eval_fraction=0.25),
        shard=ShardConfig(videos_per_tar=4),
        models=ModelsConfig(
            captioner=ModelConfig(model="vlm-8b", vision=True),
            reasoner=ModelConfig(model="reasoner-120b", vision=False),
            judge=ModelConfig(model="judge-30b", vision=False),
            target=ModelConfig(model="target-7b", vision=True),
        ),
    )


@dataclass
class _Maker:
    """Draws the rows of one video after the other."""

    random: random.Random
    nothing_passes: bool
    hostile: bool
    media: Path | None

    def tables(self, source: Source, index: int) -> Tables:
        made = Tables()
        if index % 12 == 7:
            message = f"{source.source_id}: moov atom not found; the file is cut short, fetch it again"
            made.rejects["ingest"] = [_reject("ingest", source.source_id, "unreadable_video", message)]
            return made
        video = self._video(source, index)
        made.rows["ingest"] = [video]
        made.rows["split"] = list(self._clips(video))
        made.rows["caption"] = [self._caption(clip) for clip in made.rows["split"]]
        made.rows["question"] = [
            self._question(video, category, kind, number)
            for category in QuestionCategory
            for kind in QuestionKind
            for number in range(2)
        ]
        made.rows["reason"] = [self._reasoning(question) for question in made.rows["question"]]
        checks = [trial for question in made.rows["question"] for trial in self._checks(question)]
        made.rows["verify"] = checks
        failed = {trial.question_id for trial in checks if not trial.passed}
        made.rows["difficulty"] = [
            self._difficulty(question) for question in made.rows["question"] if question.question_id not in failed
        ]
        made.rejects["verify"] = [_verdict(trial) for trial in checks if not trial.passed]
        for stage, (reason, message) in _REJECTS.items():
            if self.random.random() < 0.5:
                made.rejects[stage] = [_reject(stage, source.source_id, reason, message.format(key=video.video_id))]
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
            rotation=0,
            codec="h264",
            pixel_format="yuv420p",
            transfer="bt709",
            audio_codec="",
            title=self._text(self.random.choice(_TITLES)),
            category=self.random.choice(list(VideoCategory)),
            licence=source.licence,
            origin="synthetic",
            split_hint=None,
            annotations=(),
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
                boundary=Boundary.END if end == video.duration_us else self.random.choice([Boundary.SHOT, Boundary.FIXED]),
                shot_starts_us=(),
                cut=Cut.NONE,
                uri=None,
                frame_count=8 * (end - start) // _SECOND,
                motion=0.1,
                sharpness=100.0,
                brightness=0.5,
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
            status=CaptionStatus.TRUNCATED if self.random.random() < 0.004 else CaptionStatus.OK,
            provenance=Provenance(model="vlm-8b", prompt_id="caption"),
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
            question=self._text(_QUESTIONS[category]),
            options=options if kind is QuestionKind.CHOICE else (),
            answer=options[self.random.randrange(4)],
            evidence=(second, first) if second and self.random.random() < 0.4 else (first,),
            derivation=None,
            provenance=Provenance(model="program" if number == 0 else "reasoner-120b", prompt_id="question"),
        )

    def _reasoning(self, question: Question) -> Reasoning:
        text = f"The gate closes first; then the camera follows her to the mill.\nSo the answer is: {question.answer}."
        return Reasoning(
            question_id=question.question_id,
            video_id=question.video_id,
            reasoning=self._text(text),
            evidence=question.evidence,
            provenance=Provenance(model="reasoner-120b", prompt_id="reason"),
        )

    def _checks(self, question: Question) -> list[Trial]:
        """Checks in order, up to the first that fails, as the verify stage makes them."""
        blind = 4 if self.nothing_passes else self.random.choices(range(5), (32, 40, 20, 6, 2))[0]
        checks = [
            _trial(question, Check.RULES, 1, int(self.nothing_passes or self.random.random() > 0.05), passed=None),
            _trial(question, Check.BLIND, 4, blind, passed=blind < 3),
        ]
        if question.writer == "model":
            agreed = 3 - (self.random.random() < 0.15)
            checks.append(_trial(question, Check.GROUNDED, 3, agreed, passed=agreed == 3))
        first_failure = next((index for index, check in enumerate(checks) if not check.passed), len(checks))
        return checks[: first_failure + 1]

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


def _reject(stage: str, unit: str, reason: str, message: str, key: str = "") -> Reject:
    return Reject(stage=stage, unit=unit, key=key or unit, reason=reason, message=message)


def _verdict(trial: Trial) -> Reject:
    reason = {Check.RULES: "duplicate_options", Check.BLIND: "answerable_blind", Check.GROUNDED: "not_grounded"}
    message = f"question {trial.question_id}: {trial.check} right {trial.correct} of {trial.n} times"
    return _reject("verify", trial.video_id, reason[trial.check], message, trial.question_id)


def _write_lane(folder: RunFolder, stage: str, lane: Lane, tables: dict[str, Tables]) -> None:
    commits = {
        source.source_id: _commit(
            folder,
            stage,
            source.source_id,
            tables[source.source_id].rows.get(stage, []),
            tables[source.source_id].rejects.get(stage, []),
            _STAGE_ROWS[stage],
        )
        for source in lane.sources
    }
    folder.write_record(StageRecord(stage=stage, lane=lane.index, commits=commits))
    folder.write_metrics(_metrics(stage, lane.index, commits))


def _run_build_stage(folder: RunFolder, stage: str, tables: list[Tables], out: Path) -> None:
    """The real assemble or shard stage on the rows of all videos."""
    from operators.stages import assemble

    scratch = out / "scratch"
    scratch.mkdir(exist_ok=True)
    context = Context(stage, "all", folder.run.config, {}, {}, folder.store, scratch)
    columns = [[row for each in tables for row in each.rows.get(name, [])] for name in assemble.STAGE.reads]
    videos = columns[0]
    if stage == "assemble":
        found, declared = assemble, list(assemble.run(context, *columns))
    else:
        from operators.stages import shard

        [assembled] = folder.record("assemble", None).commits.values()
        samples = folder.store.get_rows(assembled.rows_sha256, Sample)
        found, declared = shard, list(shard.run(context, samples, videos))
    rejects = [row for row in declared if isinstance(row, Reject)]
    rows = [row for row in declared if not isinstance(row, Reject)]
    commit = _commit(folder, stage, "all", rows, rejects, found.STAGE.row)
    folder.write_record(StageRecord(stage=stage, lane=None, commits={"all": commit}))
    folder.write_metrics(_metrics(stage, None, {"all": commit}))


def _commit(
    folder: RunFolder, stage: str, unit: str, rows: Sequence[Row], rejects: Sequence[Reject], row: type[Row]
) -> Commit:
    key = StageKey(stage=stage, version=1, unit=unit, seed=0, section="null", prompts=(), models=(), inputs=())
    return folder.store.commit(
        Commit(
            key_sha256=digest(key),
            key=key,
            rows_sha256=folder.store.put_rows(rows, row),
            rejects_sha256=folder.store.put_rows(rejects, Reject),
            rows=len(rows),
            rejects=len(rejects),
        )
    )


def _metrics(stage: str, lane: int | None, commits: dict[str, Commit]) -> StageMetrics:
    """Made-up costs that look like a build's: the more rows, the longer; model stages mostly wait."""
    rows = sum(commit.rows for commit in commits.values())
    role = {"caption": "captioner", "question": "reasoner", "reason": "reasoner"}
    role |= {"verify": "judge", "difficulty": "target"}
    asked = {role[stage]: 3 * rows} if stage in role else {}
    wall = 2.0 + 0.05 * rows
    models = 0.8 * wall if asked else 0.0
    return StageMetrics(
        stage=stage,
        lane=lane,
        units=len(commits),
        reused=len(commits) // 4,
        rows=rows,
        rejects={},
        wall_seconds=wall,
        cpu_seconds=wall - models,
        phase_seconds={"models": models, "compute": 0.9 * (wall - models), "write": 0.1 * (wall - models)},
        requests=asked,
        journal_hits={name: count // 10 for name, count in asked.items()},
        tokens_in=900 * sum(asked.values()),
        tokens_out=120 * sum(asked.values()),
        server_busy_share=0.8 if asked else 0.0,
    )


def object_file(folder: RunFolder, sha256: str, suffix: str) -> Path:
    """Where a stored object of a local run lies."""
    return Path(folder.store.root) / object_path(sha256, suffix)

"""Collects all numbers of the report from a run's tables and metrics, without markup and without judging them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from operators.execution.pipeline import BUILD_STAGES, VIDEO_STAGES
from operators.execution.rejects import RejectGroup, group_by_reason
from operators.questions.plan import plan_slots
from operators.report.baselines import Baseline, baselines, expected_letters
from operators.report.funnel import Step, funnel
from operators.report.tables import Tables
from operators.store.run_folder import RunFolder
from schemas.answer_format import LETTER_ELEMENT
from schemas.base import Row, digest
from schemas.config import BuildConfig, Role, Writer
from schemas.run import PromptIdentity, Run, StageMetrics
from schemas.sample import Sample
from schemas.tables import Caption, CaptionStatus, Check, Clip, Question, QuestionKind, Reasoning, Trial, Video

MAX_EXAMPLES = 8
_MICROSECONDS = 1e6
_CELL = ("category", "kind", "reach")
"""What a plan counts questions by."""
_QUESTION_COLUMNS = (
    *("question_id", "video_id", "writer", *_CELL, "options", "passed"),
    *("provenance.prompt_id", "provenance.model"),
)


@dataclass(frozen=True)
class StageNumbers:
    """Numbers of one stage, summed over its partitions. Seconds are summed too, even if partitions ran concurrently."""

    stage: str
    partitions_done: int
    partitions: int
    """Number of partitions that the stage runs for, which is 1 for a stage over the whole build."""
    rows: int
    rejects: int
    units: int
    reused: int
    wall_seconds: float
    cpu_seconds: float
    phase_seconds: dict[str, float]
    busy_share: float
    """Share of the summed work-item time during which at least one model request was in flight."""
    tokens_in: int
    tokens_out: int


@dataclass(frozen=True)
class RoleNumbers:
    """Model requests and journal hits of one role, summed over all stages."""

    role: str
    requests: int
    journal_hits: int


@dataclass(frozen=True)
class ServedModel:
    """Number of answers for which a role requested one model and the server stated another name, the same, or none."""

    role: Role
    requested: str
    served: str
    answers: int


@dataclass(frozen=True)
class ShownSample:
    """A sample, with the title and the origin of its video."""

    sample: Sample
    title: str
    origin: str


@dataclass(frozen=True)
class Numbers:
    """All numbers of a run. Data frames and arrays of stages that have not run are empty."""

    run: Run
    stages: tuple[StageNumbers, ...]
    roles: tuple[RoleNumbers, ...]
    prompts: tuple[PromptIdentity, ...]
    videos: pd.DataFrame
    """One row per readable video: video_id, seconds, packaging, other_pictures, title, category, licence, origin."""
    clip_seconds: np.ndarray
    captions: int
    truncated: int
    repaired: dict[str, int]
    """Number of captions by each fault for which an earlier answer for their clip was not used."""
    repaired_captions: int
    """Number of captions that are not the captioner's first answer."""
    questions: int
    plan: pd.DataFrame
    """One row per category, kind and reach of the reasoner's questions: category, kind, reach, `planned` and `kept`
    (number that passed all checks). Empty if only a program writes questions."""
    outcomes: pd.DataFrame
    """One row per question that was written: question_id, video_id, category, prompt and model (of its writer), writer,
    `kept` (became a sample) and `reason` (of its reject; empty if it has none)."""
    chains: pd.DataFrame
    """One row per chain of thought: question_id, model, hinted, refined."""
    chain_checks: pd.DataFrame
    """One row per check of a chain of thought by a model: question_id, check, n, correct, passed."""
    served: tuple[ServedModel, ...]
    samples: pd.DataFrame
    """One row per sample: its short columns, `letter` (right answer of a choice question), `spans` (number of evidence
    spans) and `seconds` (duration of its video)."""
    evidence_seconds: np.ndarray
    """Length of every evidence span of the samples, in seconds."""
    evidence_outside: int
    """Number of samples with evidence after the end of their video."""
    pass_rates: pd.DataFrame
    """One row per question with difficulty trials: question_id, pass_rate, kept (became a sample)."""
    baselines: tuple[Baseline, ...]
    expected_letters: dict[str, float]
    funnel: tuple[Step, ...]
    unaccounted: int
    """Number of questions that neither became samples nor failed a check nor were rejected. It must be 0 after
    the stage `assemble`, and is set to 0 before."""
    rejects: tuple[RejectGroup, ...]
    examples: tuple[ShownSample, ...]

    def done(self, stage: str) -> bool:
        """Whether a stage has finished for all of its partitions."""
        return any(each.stage == stage and each.partitions_done == each.partitions for each in self.stages)

    @property
    def hours(self) -> float:
        """Total duration of the readable videos in hours."""
        return float(self.videos["seconds"].sum() / 3600)

    @property
    def choices(self) -> pd.DataFrame:
        """The rows of `samples` that are choice questions."""
        return self.samples[self.samples["kind"] == QuestionKind.CHOICE.value]


def collect(folder: RunFolder) -> Numbers:
    """Collect the numbers of a run from the stages that have run so far."""
    tables = Tables(folder)
    metrics = folder.metrics()
    videos = _videos(tables)
    questions = tables.frame("question", Question, _QUESTION_COLUMNS)
    captions = tables.frame("caption", Caption, ("status", "repaired"))
    checks = _checks(tables, "question", Question)
    difficulty = tables.frame("difficulty", Trial, ("question_id", "check", "n", "correct", "passed"))
    difficulty = difficulty[difficulty["check"] == Check.DIFFICULTY.value]
    evidence = tables.columns("assemble", Sample, ("evidence", "duration_us"))
    samples = _samples(tables, evidence)
    rejects = tables.rejects()
    choices = samples[samples["kind"] == QuestionKind.CHOICE.value]
    return Numbers(
        run=folder.run,
        stages=_stages(tables, metrics, rejects),
        roles=_roles(metrics),
        prompts=tables.prompts(),
        videos=videos,
        clip_seconds=_clip_seconds(tables),
        captions=tables.rows("caption"),
        truncated=int((captions["status"] == CaptionStatus.TRUNCATED.value).sum()),
        repaired=dict(Counter(reason for reasons in captions["repaired"] for reason in set(reasons)).most_common()),
        repaired_captions=int((captions["repaired"].map(len) > 0).sum()),
        questions=len(questions),
        plan=_plan(folder.run.config, videos, questions),
        outcomes=_outcomes(questions, samples, rejects),
        chains=_chains(tables),
        chain_checks=_checks(tables, "reason", Reasoning),
        served=tuple(ServedModel(*names, answers) for names, answers in sorted(tables.served_models().items())),
        samples=samples,
        evidence_seconds=_span_seconds(evidence),
        evidence_outside=_outside(evidence),
        pass_rates=_pass_rates(difficulty, samples),
        baselines=baselines(
            choices,
            questions[questions["kind"] == QuestionKind.CHOICE.value],
            checks[checks["check"] == Check.BLIND.value],
        ),
        expected_letters=expected_letters(choices),
        funnel=_funnel(tables, questions, checks, difficulty, samples),
        unaccounted=_unaccounted(questions, samples, rejects) if tables.partitions_done["assemble"] else 0,
        rejects=tuple(group_by_reason(zip(rejects["stage"], rejects["reason"], rejects["message"], strict=True))),
        examples=_examples(tables, samples, videos),
    )


def _videos(tables: Tables) -> pd.DataFrame:
    videos = tables.frame("ingest", Video, ("video_id", "duration_us", "packaging", "other_pictures"))
    seconds = videos["duration_us"] / _MICROSECONDS
    return videos.assign(seconds=seconds).drop(columns="duration_us").merge(_source_metadata(tables), on="video_id")


def _source_metadata(tables: Tables) -> pd.DataFrame:
    """Metadata of each listed video, readable or not: video_id, title, category, licence, origin."""
    rows = [
        (source.source_id, source.title, source.category.value, source.licence, source.origin)
        for source in tables.folder.sources()
    ]
    return pd.DataFrame(rows, columns=["video_id", "title", "category", "licence", "origin"])


def _clip_seconds(tables: Tables) -> np.ndarray:
    clips = tables.frame("split", Clip, ("start_us", "end_us"))
    return ((clips["end_us"] - clips["start_us"]) / _MICROSECONDS).to_numpy(float)


def _samples(tables: Tables, evidence: pa.Table) -> pd.DataFrame:
    names = ("question_id", "video_id", "problem_type", "kind", "split", "writer", "options", "answer", "answer_text")
    samples = tables.frame("assemble", Sample, (*names, "pass_rate", "duration_us"))
    return samples.assign(
        letter=samples["answer"].str.extract(LETTER_ELEMENT, expand=False),
        spans=pc.list_value_length(evidence["evidence"]).to_numpy(),
        seconds=samples["duration_us"] / _MICROSECONDS,
    ).drop(columns="duration_us")


def _span_seconds(evidence: pa.Table) -> np.ndarray:
    spans = pc.list_flatten(evidence["evidence"])
    lengths = pc.subtract(pc.struct_field(spans, "end_us"), pc.struct_field(spans, "start_us"))
    return lengths.to_numpy() / _MICROSECONDS


def _outside(evidence: pa.Table) -> int:
    ends = pc.struct_field(pc.list_flatten(evidence["evidence"]), "end_us").to_numpy()
    sample = pc.list_parent_indices(evidence["evidence"]).to_numpy()
    return len(np.unique(sample[ends > evidence["duration_us"].to_numpy()[sample]]))


def _plan(config: BuildConfig, videos: pd.DataFrame, questions: pd.DataFrame) -> pd.DataFrame:
    if Writer.MODEL not in config.question.writers:
        return pd.DataFrame(columns=[*_CELL, "planned", "kept"])
    planned = Counter(
        tuple(str(part) for part in slot.cell)
        for video_id, seconds in zip(videos["video_id"], videos["seconds"], strict=True)
        for slot in plan_slots(video_id, round(seconds * _MICROSECONDS), config.question, config.seed)
    )
    passed = questions[(questions["writer"] == Writer.MODEL.value) & questions["passed"].astype(bool)]
    kept = Counter(passed[list(_CELL)].astype(str).itertuples(index=False, name=None))
    cells = sorted(planned | kept)
    return pd.DataFrame([(*cell, planned[cell], kept[cell]) for cell in cells], columns=[*_CELL, "planned", "kept"])


def _outcomes(questions: pd.DataFrame, samples: pd.DataFrame, rejects: pd.DataFrame) -> pd.DataFrame:
    reason_of = rejects.drop_duplicates("key").set_index("key")["reason"]
    ids = questions["question_id"]
    return pd.DataFrame(
        {
            **{name: questions[name] for name in ("question_id", "video_id", "category", "writer")},
            "prompt": questions["provenance.prompt_id"],
            "model": questions["provenance.model"],
            "kept": ids.isin(samples["question_id"]),
            "reason": ids.map(reason_of).fillna(""),
        }
    )


def _chains(tables: Tables) -> pd.DataFrame:
    chains = tables.frame("reason", Reasoning, ("question_id", "provenance.model", "hinted", "refinement.model"))
    return chains.assign(refined=chains.pop("refinement.model").notna()).rename(columns={"provenance.model": "model"})


def _checks(tables: Tables, stage: str, row: type[Row]) -> pd.DataFrame:
    """One row per check of a question or of its chain of thought: question_id, check, n, correct, passed."""
    found = tables.columns(stage, row, ("question_id", "checks"))
    checks = pc.list_flatten(found["checks"])
    owner = pc.take(found["question_id"], pc.list_parent_indices(found["checks"]))
    columns = {name: pc.struct_field(checks, name) for name in ("check", "n", "correct", "passed")}
    return pa.table({"question_id": owner, **columns}).to_pandas()


def _pass_rates(difficulty: pd.DataFrame, samples: pd.DataFrame) -> pd.DataFrame:
    answered = difficulty[difficulty["n"] > 0]
    return pd.DataFrame(
        {
            "question_id": answered["question_id"],
            "pass_rate": answered["correct"] / answered["n"],
            "kept": answered["question_id"].isin(samples["question_id"]),
        }
    )


def _funnel(
    tables: Tables, questions: pd.DataFrame, checks: pd.DataFrame, difficulty: pd.DataFrame, samples: pd.DataFrame
) -> tuple[Step, ...]:
    done = tables.partitions_done
    writers = [str(writer) for writer in sorted(questions["writer"].unique())]
    reasoned = set(tables.frame("reason", Reasoning, ("question_id",))["question_id"])
    measured = set(difficulty.loc[difficulty["passed"].astype(bool), "question_id"])
    return funnel(
        writers,
        questions,
        checks,
        reasoned if done["reason"] else None,
        measured if done["difficulty"] else None,
        set(samples["question_id"]) if done["assemble"] else None,
    )


def _unaccounted(questions: pd.DataFrame, samples: pd.DataFrame, rejects: pd.DataFrame) -> int:
    known = {*samples["question_id"], *rejects["key"]}
    return int((~questions["question_id"].isin(known)).sum())


def _stages(tables: Tables, metrics: Iterable[StageMetrics], rejects: pd.DataFrame) -> tuple[StageNumbers, ...]:
    by_stage: dict[str, list[StageMetrics]] = {name: [] for name in (*VIDEO_STAGES, *BUILD_STAGES)}
    for each in metrics:
        by_stage.setdefault(each.stage, []).append(each)
    rejected = rejects["stage"].value_counts()
    return tuple(_stage(tables, name, found, int(rejected.get(name, 0))) for name, found in by_stage.items())


def _stage(tables: Tables, name: str, metrics: list[StageMetrics], rejects: int) -> StageNumbers:
    phases: Counter[str] = Counter()
    for each in metrics:
        phases.update(each.phase_seconds)
    busy = sum(each.server_busy_share * sum(each.phase_seconds.values()) for each in metrics)
    worked = sum(phases.values())
    return StageNumbers(
        stage=name,
        partitions_done=tables.partitions_done[name],
        partitions=1 if name in BUILD_STAGES else tables.folder.run.partitions,
        rows=tables.rows(name),
        rejects=rejects,
        units=sum(each.units for each in metrics),
        reused=sum(each.reused for each in metrics),
        wall_seconds=sum(each.wall_seconds for each in metrics),
        cpu_seconds=sum(each.cpu_seconds for each in metrics),
        phase_seconds=dict(phases),
        busy_share=busy / worked if worked else 0.0,
        tokens_in=sum(each.tokens_in for each in metrics),
        tokens_out=sum(each.tokens_out for each in metrics),
    )


def _roles(metrics: Iterable[StageMetrics]) -> tuple[RoleNumbers, ...]:
    requests: Counter[str] = Counter()
    hits: Counter[str] = Counter()
    for each in metrics:
        requests.update(each.requests)
        hits.update(each.journal_hits)
    return tuple(RoleNumbers(role, requests[role], hits[role]) for role in sorted({*requests, *hits}))


def _examples(tables: Tables, samples: pd.DataFrame, videos: pd.DataFrame) -> tuple[ShownSample, ...]:
    """Choose up to `MAX_EXAMPLES` diverse samples.

    They are taken in turn from every combination of category, kind and writer. The choice is deterministic.
    """
    order = samples.assign(draw=samples["question_id"].map(digest)).sort_values("draw")
    order["turn"] = order.groupby(["problem_type", "kind", "writer"]).cumcount()
    chosen = order.sort_values(["turn", "draw"], kind="stable").head(MAX_EXAMPLES)
    about = videos.set_index("video_id")
    return tuple(
        ShownSample(sample, about.at[sample.video_id, "title"], about.at[sample.video_id, "origin"])
        for sample in tables.samples_at(sorted(chosen.index))
    )

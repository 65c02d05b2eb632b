"""Findings about the data of a run. Each has its figures, and is judged by a rule in this module."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from operators.curation.balance import MAX_PROBABILITY, guessing_probability, longest_share
from operators.models.families import find_dependent_models, model_family
from operators.report.collect import Numbers, collect
from operators.store.run_folder import RunFolder
from schemas.config import Role
from schemas.findings import Finding, Findings, Severity
from schemas.reject_reasons import MACHINE_REASONS
from schemas.tables import Split

TRUNCATED_SHARE = 0.02
"""Maximum share of captions cut off by the token limit. Above it, the limit or the prompt should be changed."""

PLAN_SHARE = 0.8
"""Share of the planned questions that competent models fill."""

UNANSWERED_SHARE = 0.02
"""Maximum share of written questions of which a check got too few answers, or a model's answer could not be used."""

REPAIRED_SHARE = 0.2
"""Maximum share of captions for which the captioner was called again."""

HINTED_SHARE = 0.3
"""Maximum share of chains of thought that were written with the answer."""

DUPLICATE_SHARE = 0.1
"""Maximum share of questions that repeat one about another video."""

OF_A_SEGMENT = "annotation"
"""Reason of planning rejects that concern one segment of a video. The video itself may still be used."""

_BASELINE_CODES = {
    "Always the letter": ("letter_bias", "change the seed, or report it: letters are drawn at random"),
    "Always the longest option": ("longest_option", "set assemble.balance_length=true, or change the prompt"),
    "Judge without video": ("answerable_blind", "lower verify.blind_share, or use a stronger judge"),
}
"""Code and fix by the beginning of a baseline's name."""


def collect_findings(folder: RunFolder) -> Findings:
    """Read a run's tables and return the findings about its results so far."""
    return find_findings(collect(folder))


def find_findings(numbers: Numbers) -> Findings:
    """The findings about the results of a run so far, the most severe first."""
    found = [
        *_progress(numbers),
        *_media(numbers),
        *_captions(numbers),
        *_questions(numbers),
        *_models(numbers),
        *_chains(numbers),
        *_samples(numbers),
        *_baselines(numbers),
    ]
    rank = {severity: index for index, severity in enumerate(reversed(Severity))}
    found.sort(key=lambda finding: rank[finding.severity])
    return Findings(run_id=numbers.run.run_id, findings=tuple(found))


def _judge(
    ok: bool, code: str, subject: str, message: str, fix: str, *, is_error: bool = False, **figures: float
) -> Finding:
    """A finding of `info` if it is ok, and otherwise a warning or an error whose message ends with the fix."""
    severity = Severity.INFO if ok else Severity.ERROR if is_error else Severity.WARNING
    text = message if ok else f"{message}; {fix}"
    return Finding(severity=severity, code=code, subject=subject, message=text, figures=figures)


def _progress(numbers: Numbers) -> Iterator[Finding]:
    waiting = [each.stage for each in numbers.stages if each.partitions_done < each.partitions]
    text = f"to come: {', '.join(waiting)}" if waiting else "all have run"
    yield _judge(not waiting, "unfinished", "Stages", text, "the figures are those so far", stages=len(waiting))
    skipped = sum(group.count for group in numbers.rejects if group.reason in MACHINE_REASONS)
    yield _judge(
        not skipped, "machine_faults", "Rows skipped because of faults of the machine", f"{skipped:,}",
        "fix its disk, mount or memory, and build again", rows=skipped,
    )  # fmt: skip
    if numbers.done("assemble"):
        if numbers.samples.empty:
            yield _judge(
                False, "no_samples", "Samples", "no question came through all checks",
                "see the rejects for the reasons", is_error=True,
            )  # fmt: skip
        lost = numbers.unaccounted
        text = f"{lost:,} are missing without a reject" if lost else "all"
        yield _judge(
            not lost, "unaccounted_questions", "Questions accounted for", text, "please report it", is_error=True,
            questions=lost,
        )  # fmt: skip


def _media(numbers: Numbers) -> Iterator[Finding]:
    if numbers.done("ingest"):
        planning = [group for group in numbers.rejects if group.stage == "plan"]
        unusable = sum(group.count for group in planning if group.reason != OF_A_SEGMENT)
        readable, planned = len(numbers.videos), numbers.run.videos + unusable
        yield _judge(
            readable == planned, "unreadable_videos", "Readable videos", f"{readable:,} of {planned:,}",
            "see the rejects of plan and ingest", readable=readable, planned=planned,
        )  # fmt: skip


def _captions(numbers: Numbers) -> Iterator[Finding]:
    if not numbers.done("caption") or not len(numbers.clip_seconds):
        return
    clips, captions = len(numbers.clip_seconds), numbers.captions
    yield _judge(
        captions >= clips, "missing_captions", "Clips with a caption", f"{captions:,} of {clips:,}",
        "see the rejects of caption", captions=captions, clips=clips,
    )  # fmt: skip
    yield _judge(
        numbers.truncated <= TRUNCATED_SHARE * captions, "truncated_captions", "Captions cut off at the token limit",
        f"{numbers.truncated:,} of {captions:,}", "raise models.captioner.sampling.max_tokens",
        truncated=numbers.truncated, captions=captions,
    )  # fmt: skip
    repaired = numbers.repaired_captions
    found = _judge(
        repaired <= REPAIRED_SHARE * captions, "repaired_captions", "Captions requested again",
        f"{repaired:,} of {captions:,}", "change the prompt or use another captioner", repaired=repaired,
        captions=captions,
    )  # fmt: skip
    yield found.model_copy(update={"figures": {**found.figures, **numbers.repaired}})


def _questions(numbers: Numbers) -> Iterator[Finding]:
    plan, questions = numbers.plan, numbers.questions
    if not numbers.done("question"):
        return
    if not plan.empty:
        missing = (plan["planned"] - plan["kept"]).clip(lower=0)
        planned, filled = int(plan["planned"].sum()), int((plan["planned"] - missing).sum())
        text = f"{filled:,} of {planned:,}"
        if missing.any():
            worst = plan.loc[missing.idxmax()]
            text += f"; most are missing of {worst['category']}, {worst['kind']}, {worst['reach']}"
        yield _judge(
            filled >= PLAN_SHARE * planned, "plan_shortfall", "Planned questions that were kept", text,
            "raise question.rounds, or use a better reasoner", planned=planned, filled=filled,
        )  # fmt: skip
    reasons = Counter({reason: int(count) for reason, count in numbers.outcomes["reason"].value_counts().items()})
    unanswered = reasons["unanswered"]
    yield _judge(
        unanswered <= UNANSWERED_SHARE * questions, "unanswered", "Questions with too few answers in a check",
        f"{unanswered:,} of {questions:,}", "see their rejects for the models' reasons, then `lvr replay`",
        unanswered=unanswered, questions=questions,
    )  # fmt: skip
    if numbers.done("assemble"):
        repeated, listed = reasons["duplicate_across_videos"], reasons["contaminated"]
        yield _judge(
            repeated <= DUPLICATE_SHARE * questions, "duplicates", "Questions that repeat one about another video",
            f"{repeated:,} of {questions:,}", "let the prompt name more of the video", repeated=repeated,
            questions=questions,
        )  # fmt: skip
        if numbers.run.config.assemble.decontamination:
            yield _judge(
                True, "contaminated", "Questions of evaluation lists, rejected", f"{listed:,} of {questions:,}", "",
                contaminated=listed, questions=questions,
            )  # fmt: skip


def _models(numbers: Numbers) -> Iterator[Finding]:
    """Whether the models that check are others than those that write, and whether servers have the requested ones."""
    served: dict[Role, str] = {}
    for each in sorted(numbers.served, key=lambda each: each.answers):
        served[each.role] = each.served or each.requested
    config = numbers.run.config
    yield from find_dependent_models(config.models, config.question, served)
    others = [
        each for each in numbers.served if each.served and model_family(each.served) != model_family(each.requested)
    ]
    answers = sum(each.answers for each in others)
    names = ", ".join(sorted({f"{each.served} for {each.requested}" for each in others}))
    if numbers.served:
        yield _judge(
            not others, "other_model_served", "Answers of another model than requested",
            f"{answers:,}" + (f" ({names})" if names else ""),
            "unless one is an alias of the other, correct the model's name or its server", answers=answers,
        )  # fmt: skip


def _chains(numbers: Numbers) -> Iterator[Finding]:
    chains = numbers.chains[numbers.chains["model"] != "program"]
    if not numbers.done("reason") or chains.empty:
        return
    hinted = int(chains["hinted"].sum())
    yield _judge(
        hinted <= HINTED_SHARE * len(chains), "hinted_chains", "Chains of thought of a model, written with the answer",
        f"{hinted:,} of {len(chains):,}", "raise reason.chains, or use a better reasoner", hinted=hinted,
        chains=len(chains),
    )  # fmt: skip


def _samples(numbers: Numbers) -> Iterator[Finding]:
    samples = numbers.samples
    if samples.empty:
        return
    shared = int((samples.groupby("video_id")["split"].nunique() > 1).sum())
    yield _judge(
        shared == 0, "video_in_two_splits", "Videos in more than one split", f"{shared:,}", "please report it",
        is_error=True, videos=shared,
    )  # fmt: skip
    rl = samples.loc[samples["split"] == Split.RL.value, "pass_rate"]
    flat = int(rl.isin([0.0, 1.0]).sum())
    yield _judge(
        flat == 0, "rl_without_gradient", "RL samples without a gradient (pass rate 0 or 1)",
        f"{flat:,} of {len(rl):,}",
        "set assemble.pass_rates.rl_min above 0 and rl_max below 1, and difficulty.trials above 1", samples=flat,
    )  # fmt: skip
    outside = numbers.evidence_outside
    yield _judge(
        outside == 0, "evidence_outside", "Evidence outside its video", f"{outside:,} samples", "please report it",
        is_error=True, samples=outside,
    )  # fmt: skip
    missing = [split.value for split in Split if split.value not in set(samples["split"])]
    yield _judge(
        not missing, "empty_splits", "Splits with samples", f"none in {', '.join(missing)}" if missing else "all",
        "build from more videos, or change assemble's fractions", splits=len(missing),
    )  # fmt: skip


def _baselines(numbers: Numbers) -> Iterator[Finding]:
    for baseline in numbers.baselines:
        code, fix = next(found for name, found in _BASELINE_CODES.items() if baseline.name.startswith(name))
        tests = max(1, len(numbers.expected_letters)) if code == "letter_bias" else 1  # the letter is the most frequent
        guessing = baseline.chance
        if baseline.of_samples:
            yield _judge(
                baseline.guessing_probability >= MAX_PROBABILITY / tests, code, baseline.name,
                f"right in {baseline.accuracy:.1%}, guessing in {guessing:.1%}", fix,
                accuracy=baseline.accuracy, guessing=guessing, answers=baseline.answers,
            )  # fmt: skip
    choices = numbers.choices
    if choices.empty:
        return
    biased = []
    videos = choices["video_id"].nunique()
    for video_id, own in choices.groupby("video_id"):
        right = sum(longest_share(*row) for row in zip(own["options"], own["answer_text"], strict=True))
        rate = float((1 / own["options"].map(len)).mean())
        if guessing_probability(right, len(own), rate) < MAX_PROBABILITY / videos:
            biased.append(str(video_id))
    yield _judge(
        not biased, "longest_option_of_videos", "Videos in which the longest option is right too often",
        f"{len(biased):,}" + (f" ({', '.join(biased[:3])}{', …' if len(biased) > 3 else ''})" if biased else ""),
        "read their questions", videos=len(biased),
    )  # fmt: skip

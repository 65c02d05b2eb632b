"""Chains of thought of model-written questions: several are written without the answer, and readers check the best.

A writer that knows the answer justifies it, also where it is wrong. So the reasoner first answers the question several
times without knowing the answer, and only chains that arrive at it are used. A chain that is written with the answer is
a marked fallback. A second pass makes the chosen chain read naturally; it must not add a time, a number or a quotation.

Checks by program (`operators.questions.chain_checks`) come first. Then a reader without the video must arrive at the
answer by the chain, and must not arrive at it by the chain of another question. A reviewer lists what the captions near
the evidence do not support. A chain that fails is replaced by the next that arrived, and at last by the hinted one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import cast

from operators.execution.stage import Context
from operators.models.client import Answer, Refusal, Request
from operators.questions.answers import compare_open, folded
from operators.questions.chain_checks import STATED, find_chain_problem, find_refinement_problem, states_answer, widen
from operators.questions.evidence import EvidenceError, read_spans
from operators.questions.gates.grounding import agreement_test, tell_evidence
from operators.questions.outcome import Problem, reject_question
from operators.questions.reviews import AGREEING, run_reviews
from operators.questions.story import ContextTooSmall, story_room, tell
from operators.questions.trials import UNKNOWN, TrialResult, TrialSpec, judge_request, run_trials
from operators.video.timecode import format_time
from schemas.answers import ChainCheck, RefinedChain, Verdict, WrittenChain
from schemas.base import Span
from schemas.config import Role
from schemas.provenance import Provenance
from schemas.tables import Caption, Check, Outline, Question, QuestionKind, Reasoning, Reject, Trial

PROMPT = "chain"
HINTED_PROMPT = "chain_hinted"
REFINE_PROMPT = "refine"
READ_PROMPT = "read_chain"
SUPPORT_PROMPT = "check_chain"
PROMPTS = (PROMPT, HINTED_PROMPT, REFINE_PROMPT, READ_PROMPT, SUPPORT_PROMPT, "judge")
REWORDED = frozenset({"meta_talk"})
"""Problems of a chain that the second pass may solve."""


@dataclass(frozen=True)
class Chain:
    """A chain of thought of one question."""

    question: Question
    reasoning: str
    answer: str
    """What it arrives at, in its writer's words."""
    evidence: tuple[Span, ...]
    """The parts of the video that the question and the chain rest on."""
    provenance: Provenance
    hinted: bool
    refinement: Provenance | None = None
    checks: tuple[Trial, ...] = ()


@dataclass
class _Search:
    """The search for a chain of one question."""

    question: Question
    queue: list[Chain] = field(default_factory=list)
    """Chains to try, the best first."""
    hinted: bool = False
    """Whether the chain with the answer was requested."""
    problem: Problem | None = None
    """Why the latest chain was not used."""
    found: Chain | None = None


@dataclass(frozen=True)
class ChainWriter:
    """Writes and checks the chains of thought of one video."""

    context: Context
    captions: Sequence[Caption]
    """All captions of the video, in order of time; at least one."""
    outline: Outline | None

    def run(self, questions: Sequence[Question], others: Mapping[str, str]) -> Iterator[Reasoning | Reject]:
        """Yield one reasoning or one reject for each question.

        Args:
            questions: questions that a model wrote.
            others: chains of other questions of the video by question id, for the check with another chain.
        """
        searches = [_Search(question) for question in questions]
        self._fill(searches, hinted=False)
        while pending := [each for each in searches if each.found is None and (each.queue or not each.hinted)]:
            self._fill([each for each in pending if not each.queue], hinted=True)
            self._try_next([each for each in pending if each.queue])
        chains = {each.question.question_id: each.found.reasoning for each in searches if each.found}
        self._check_swapped([each for each in searches if each.found], chains | dict(others))
        for search in searches:
            yield self._row(search)

    def _row(self, search: _Search) -> Reasoning | Reject:
        chain = search.found
        if chain is None:
            # Every search ends with a chain or with the problem of the latest one.
            return reject_question(self.context, search.question, cast(Problem, search.problem))
        return Reasoning(
            question_id=chain.question.question_id,
            video_id=chain.question.video_id,
            reasoning=chain.reasoning,
            evidence=chain.evidence,
            provenance=chain.provenance,
            refinement=chain.refinement,
            hinted=chain.hinted,
            checks=chain.checks,
        )

    def _fill(self, searches: Sequence[_Search], hinted: bool) -> None:
        """Request chains, and queue those that arrive at the answer."""
        written: list[tuple[_Search, Chain]] = []
        replies = self._request_chains(searches, hinted)
        for search, reply in replies:
            chain = _read_chain(search.question, reply, self._end_us, hinted)
            if isinstance(chain, Chain):
                written.append((search, chain))
            else:
                search.problem = chain
        for (search, chain), arrived in zip(written, self._compare([chain for _, chain in written]), strict=True):
            if not arrived:
                search.problem = Problem("chain_disagrees", f"it arrives at {chain.answer!r}", chain.reasoning)
            elif (problem := self._find_problem(chain)) and not self._may_be_reworded(problem):
                search.problem = problem
            else:
                search.queue.append(chain)
        for search in searches:
            search.hinted |= hinted
            middle = median([len(chain.reasoning) for chain in search.queue] or [0])
            search.queue.sort(
                key=lambda chain: (self._find_problem(chain) is not None, abs(len(chain.reasoning) - middle))
            )

    def _request_chains(
        self, searches: Sequence[_Search], hinted: bool
    ) -> list[tuple[_Search, Answer | Refusal | Problem]]:
        """The replies to all requests of a question, or the problem that it cannot be requested."""
        prompt = self.context.prompts[HINTED_PROMPT if hinted else PROMPT]
        reasoner = self.context.models[Role.REASONER]
        count = 1 if hinted else self.context.config.reason.chains
        found: list[tuple[_Search, Answer | Refusal | Problem]] = []
        asked: list[_Search] = []
        requests: list[Request] = []
        for search in searches:
            question = search.question
            variables: dict[str, object] = {
                "duration": format_time(self._end_us),
                "evidence": tell_evidence(self.captions, question.evidence),
                "question": question.question,
                "options": question.options,
            }
            if hinted:
                variables["answer"] = question.answer
            room = story_room(reasoner, prompt, **variables)
            try:
                story = tell(reasoner, self.captions, self.outline, room, question.evidence)
            except ContextTooSmall as error:
                found.append((search, Problem("context_too_small", str(error))))
                continue
            text = prompt.render(story=story.text, **variables)
            for index in range(count):
                seed = self.context.seed(prompt.id, question.question_id, index)
                requests.append(Request(question.question_id, prompt, text, seed=seed))
                asked.append(search)
        replies = reasoner.call(requests) if requests else []
        return [*found, *zip(asked, replies, strict=True)]

    def _compare(self, chains: Sequence[Chain]) -> list[bool]:
        """Whether each chain arrives at the answer, by program where that is certain and by the judge elsewhere."""
        agree = [_agrees(chain) for chain in chains]
        doubted = [chain for chain, verdict in zip(chains, agree, strict=True) if verdict is None]
        requests = [judge_request(self.context, chain.question, chain.answer) for chain in doubted]
        replies = iter(self.context.models[Role.JUDGE].call(requests) if requests else [])
        return [_is_same(next(replies)) if verdict is None else verdict for verdict in agree]

    def _try_next(self, searches: Sequence[_Search]) -> None:
        """Refine and check the best chain of each queue."""
        chains = self._refine([search.queue.pop(0) for search in searches])
        alive: list[tuple[_Search, Chain]] = []
        for search, chain in zip(searches, chains, strict=True):
            search.problem = self._find_problem(chain)
            if search.problem is None:
                alive.append((search, chain))
        for check in (self._check_read, self._check_support):
            checked = check([chain for _, chain in alive])
            for (search, _), (_, problem) in zip(alive, checked, strict=True):
                search.problem = problem
            alive = [
                (search, chain) for (search, _), (chain, problem) in zip(alive, checked, strict=True) if problem is None
            ]
        for search, chain in alive:
            search.found = chain

    def _refine(self, chains: Sequence[Chain]) -> list[Chain]:
        """The chains after the second pass, or as they were where it is off, was refused, or changed what it must not.

        A chain that the program's checks refuse is not kept by the caller, whichever it is.
        """
        if not self.context.config.reason.refine:
            return list(chains)
        requests = []
        for chain in chains:
            question = chain.question
            prompt = self.context.prompts[REFINE_PROMPT]
            text = prompt.render(question=question.question, options=question.options, chain=chain.reasoning)
            seed = self.context.seed(prompt.id, question.question_id)
            requests.append(Request(question.question_id, prompt, text, seed=seed))
        replies = self.context.models[Role.REASONER].call(requests) if requests else []
        return [self._choose(chain, reply) for chain, reply in zip(chains, replies, strict=True)]

    def _choose(self, chain: Chain, reply: Answer | Refusal) -> Chain:
        if isinstance(reply, Refusal) or reply.truncated:
            return chain
        text = cast(RefinedChain, reply.value).reasoning
        refined = replace(chain, reasoning=text, refinement=reply.provenance)
        if find_refinement_problem(text, chain.reasoning) or self._find_problem(refined):
            return chain
        return refined

    def _check_read(self, chains: Sequence[Chain]) -> list[tuple[Chain, Problem | None]]:
        """Whether a reader of the chain, without the video, arrives at the answer."""
        rule = agreement_test(self.context.config.verify)
        specs = [TrialSpec(chain.question, chain=chain.reasoning) for chain in chains]
        checked: list[tuple[Chain, Problem | None]] = []
        for chain, result in zip(chains, self._read(Check.CHAIN_READ, specs), strict=True):
            problem = result.find_problem(rule)
            if problem is None and not rule.decide(result.correct, result.wrong):
                problem = Problem(
                    "chain_not_followed",
                    f"a reader without the video arrives at {chain.question.answer!r} in {result.correct} of "
                    f"{len(result.answers)} answers ({', '.join(map(repr, sorted(set(result.answers))))})",
                    chain.reasoning,
                )
            checked.append((_with_trial(chain, result.trial(problem is None)), problem))
        return checked

    def _check_swapped(self, searches: Sequence[_Search], chains: Mapping[str, str]) -> None:
        """Drop the chains of questions whose answer a reader finds also by another question's chain."""
        rule = agreement_test(self.context.config.verify)
        pairs = [(search, other) for search in searches if (other := _choose_other(search.question, chains))]
        specs = [TrialSpec(search.question, chain=other) for search, other in pairs]
        for (search, _), result in zip(pairs, self._read(Check.CHAIN_SWAPPED, specs), strict=True):
            leaks = bool(result.answers) and bool(rule.decide(result.correct, result.wrong))
            if leaks:
                message = (
                    f"a reader arrives at {search.question.answer!r} also by another question's chain, in "
                    f"{result.correct} of {len(result.answers)} answers"
                )
                search.problem, search.found = Problem("chain_swapped", message), None
            elif search.found:
                search.found = _with_trial(search.found, result.trial(passed=True))

    def _read(self, check: Check, specs: Sequence[TrialSpec]) -> list[TrialResult]:
        prompts = {kind: self.context.prompts[READ_PROMPT].of_kind(kind) for kind in QuestionKind}
        rule = agreement_test(self.context.config.verify)
        return run_trials(self.context, check, self.context.models[Role.JUDGE], prompts, specs, rule)

    def _check_support(self, chains: Sequence[Chain]) -> list[tuple[Chain, Problem | None]]:
        """Whether the captions near the evidence support what a chain states, and whether it speaks of the video only.

        Each fault counts if two of three reviews find it.
        """
        judge = self.context.models[Role.JUDGE]
        replies = run_reviews(judge, chains, self._request_review, lambda _, reply: bool(_faults(reply)))
        return [_judge_support(chain, own) for chain, own in zip(chains, replies, strict=True)]

    def _request_review(self, chain: Chain, number: int) -> Request:
        prompt, question = self.context.prompts[SUPPORT_PROMPT], chain.question
        nearby = widen(self.captions, chain.evidence)
        story = tell_evidence(nearby, [Span(start_us=each.start_us, end_us=each.end_us) for each in nearby])
        text = prompt.render(story=story, question=question.question, chain=chain.reasoning)
        seed = self.context.seed(SUPPORT_PROMPT, question.question_id, number)
        return Request(question.question_id, prompt, text, seed=seed)

    def _find_problem(self, chain: Chain) -> Problem | None:
        return find_chain_problem(chain.reasoning, chain.question, self.captions, chain.evidence)

    def _may_be_reworded(self, problem: Problem) -> bool:
        return self.context.config.reason.refine and problem.reason in REWORDED

    @property
    def _end_us(self) -> int:
        return max(caption.end_us for caption in self.captions)


def _read_chain(question: Question, reply: Answer | Refusal | Problem, end_us: int, hinted: bool) -> Chain | Problem:
    """The chain of a reply, or the problem that it is none."""
    if isinstance(reply, Problem):
        return reply
    if isinstance(reply, Refusal):
        return Problem(reply.reason, reply.message, reply.raw, reply.request_sha256)
    raw, sha256 = reply.provenance.raw, reply.provenance.request_sha256
    if reply.truncated:
        message = f"the reasoner ran out of tokens; raise max_tokens of prompt {reply.request.prompt.id}"
        return Problem("truncated", message, raw, sha256)
    written = cast(WrittenChain, reply.value)
    try:
        evidence = {*question.evidence, *read_spans(written.evidence, end_us)}
    except EvidenceError as error:
        return Problem("bad_evidence", f"the evidence of its chain {error}", raw, sha256)
    spans = tuple(sorted(evidence, key=lambda span: (span.start_us, span.end_us)))
    return Chain(question, written.reasoning, written.answer, spans, reply.provenance, hinted)


def _agrees(chain: Chain) -> bool | None:
    """Whether a chain's answer is the question's, or None if a judge must compare them."""
    given = folded(chain.answer).strip(" .\"'")
    if given == UNKNOWN:
        return False
    for option in chain.question.options:
        if folded(option).strip(" .\"'") == given:
            return option == chain.question.answer
    return compare_open(chain.answer, chain.question.answer)


def _is_same(reply: Answer | Refusal) -> bool:
    return isinstance(reply, Answer) and cast(Verdict, reply.value).same


def _faults(reply: Answer) -> tuple[str, ...]:
    """What a review finds: the statements without support, and the reason `meta_talk` if it flags the wording."""
    check = cast(ChainCheck, reply.value)
    return (*(each.statement for each in check.unsupported), *(("meta_talk",) if check.speaks_of_material else ()))


def _judge_support(chain: Chain, replies: Sequence[Answer | Refusal]) -> tuple[Chain, Problem | None]:
    """The chain with the trial of its reviews, and the problem if two of them found the same fault."""
    reviews = [reply for reply in replies if isinstance(reply, Answer)]
    if len(reviews) < (AGREEING if len(replies) > 1 else 1):
        refusal = next(reply for reply in replies if isinstance(reply, Refusal))
        message = f"its chain was not reviewed: {refusal.message}"
        return chain, Problem("unanswered", message, refusal.raw, refusal.request_sha256)
    checks = [cast(ChainCheck, review.value) for review in reviews]
    doubts = [check.unsupported[0].statement for check in checks if check.unsupported]
    flags = sum(check.speaks_of_material for check in checks)
    problem = None
    if len(doubts) >= AGREEING:
        problem = Problem("chain_unsupported", f"the captions do not support {doubts[0]!r}", chain.reasoning)
    elif flags >= AGREEING:
        message = f"{flags} of {len(checks)} reviews find that its chain speaks of its material, not of the video"
        problem = Problem("meta_talk", message, chain.reasoning)
    trial = Trial(
        question_id=chain.question.question_id,
        video_id=chain.question.video_id,
        check=Check.CHAIN_SUPPORT,
        n=len(reviews),
        correct=sum(not _faults(review) for review in reviews),
        answers=tuple(" / ".join(_faults(review)) or "supported" for review in reviews),
        passed=problem is None,
        provenance=tuple(review.provenance.model_copy(update={"raw": ""}) for review in reviews),
    )
    return _with_trial(chain, trial), problem


def _choose_other(question: Question, chains: Mapping[str, str]) -> str | None:
    """The chain of the first other question that does not state this one's answer, or None if there is none.

    Questions of a video may share persons, places and moments, and then a reader rightly finds the answer.
    """
    names = list(chains)
    start = names.index(question.question_id) + 1
    for name in (*names[start:], *names[: start - 1]):
        if states_answer(chains[name], question.answer) < STATED:
            return chains[name]
    return None


def _with_trial(chain: Chain, trial: Trial) -> Chain:
    return replace(chain, checks=(*chain.checks, trial))

"""Collects the groups of a step: prompts whose videos can be used, responses, their rewards, and refills.

All ranks have the same groups in the end. Data-parallel ranks sample different prompts. While rewards are computed, the
videos of the next prompts are encoded; they are decoded during sampling.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from schemas.errors import BadInput
from schemas.sample import Sample
from trainer_plugin.data.chat import Chat
from trainer_plugin.data.samples import Prompt
from trainer_plugin.distributed.mesh import RankContext, run_on_all_ranks
from trainer_plugin.rl.advantages import Estimator, groups_without_signal
from trainer_plugin.rl.prompts import PromptStream
from trainer_plugin.rl.recipe import GrpoRecipe
from trainer_plugin.rl.rewards.base import Reward, RewardBatch, Rewards
from trainer_plugin.rl.rewards.run import RewardCalls, RewardResults, gather_rewards
from trainer_plugin.rl.rollout import RolloutEngine, RolloutRequest, RolloutResponse
from trainer_plugin.rl.video_cache import VideoCache
from trainer_plugin.training.metrics import by_reason
from trainer_plugin.types import PromptGroup, VideoClip

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RewardedGroup:
    """A prompt and its G responses with their rewards by F functions."""

    prompt: Prompt
    sample: Sample
    responses: tuple[RolloutResponse, ...]
    completions: tuple[str, ...]
    """The responses as text, without special tokens."""
    rewards: Tensor
    """float32 [G, F], as `Rewards.values`."""
    totals: Tensor
    """float32 [G], as `Rewards.totals`."""
    failures: tuple[str | None, ...]
    """Of each response, the message of the first reward that failed; None if none did."""
    has_signal: bool
    """Whether some response is better than another."""
    round: int
    """Number of the round in which it was sampled, from 0."""

    @property
    def prompt_group(self) -> PromptGroup:
        """The group as it is trained on."""
        return PromptGroup(self.prompt.example, tuple(response.token_ids for response in self.responses))


class GroupCollector:
    """Collects the groups of each step. Every rank must call its methods."""

    def __init__(
        self,
        stream: PromptStream,
        cache: VideoCache,
        engine: RolloutEngine,
        functions: Sequence[Reward],
        recipe: GrpoRecipe,
        parallel: RankContext,
    ) -> None:
        """
        Args:
            stream: the run's prompts.
            cache: holds the videos of prompts.
            engine: samples responses.
            functions: the rewards of `recipe.rewards`, in order.
            parallel: this process's rank and groups.
        """
        self.stream = stream
        self.cache = cache
        self.engine = engine
        self.functions = tuple(functions)
        self.recipe = recipe
        self.parallel = parallel
        self.unusable: dict[str, str] = {}
        """Questions whose video cannot be used: reason by question id. The same on every rank."""
        self.seconds: defaultdict[str, float] = defaultdict(float)
        """Seconds of the last step by phase, on this rank: videos, rollout, rewards."""
        self._chat: Chat = stream.dataset.layout.chat
        self._queue = _PromptQueue(stream)
        self._clips: list[VideoClip] = []
        """Clips of this step's groups that are still in use: not of those that were dropped."""

    @property
    def position(self) -> dict[str, Any]:
        """State of the stream after the prompts of the last step, for a checkpoint."""
        return self._queue.position

    @property
    def skipped(self) -> dict[str, str]:
        """The reason by question id of each sample that cannot be used."""
        return {**self.stream.skipped, **self.unusable}

    def resume(self, position: dict[str, Any], unusable: dict[str, str]) -> None:
        """Continue from the position of a checkpoint. It involves no other rank.

        Raises:
            BadInput: the position is one among other samples.
        """
        self.stream.load_state_dict(position)
        self._queue = _PromptQueue(self.stream)
        self.unusable = dict(unusable)

    def collect(self, step: int) -> list[RewardedGroup]:
        """Sample the groups of a step, also those without signal. Empty at the end of the prompts.

        Groups without signal are replaced by others, for at most `rollout.max_rounds` rounds. The videos of the groups
        that are not dropped stay in the cache until the next call.

        Args:
            step: one-based number of the step, of which the random numbers depend.

        Raises:
            BadInput, Outage: on every rank, as the engine, the rewards and the cache; if no video can be used; if the
                engine ran another prompt than the trainer's; or if it returned log-probabilities that are not
                finite or not one for each token.
        """
        settings = self.recipe.rollout
        self.seconds.clear()
        groups: list[RewardedGroup] = []
        for number in range(settings.max_rounds):
            usable = [group for group in groups if group.has_signal or not settings.drop_without_signal]
            self._clips = [clip for group in usable for clip in group.prompt.example.videos]
            chosen = self._take_prompts(settings.prompts - len(usable))
            if not chosen:
                break
            groups += self._sample_round(step, number, chosen)
        return groups

    def _take_prompts(self, count: int) -> list[tuple[Prompt, Sample]]:
        """The next prompts whose videos can be used, with their videos in the cache; fewer at the end."""
        found: list[tuple[Prompt, Sample]] = []
        while len(found) < count and (chosen := self._queue.take(count - len(found))):
            with self._time_phase("videos"):
                bad = self.cache.load([*self._clips, *_clips(chosen)])
            for prompt, sample in chosen:
                reason = _find_reason(prompt, bad)
                if reason is None:
                    self.unusable.pop(sample.question_id, None)
                    found.append((prompt, sample))
                    self._clips += prompt.example.videos
                else:
                    self.unusable[sample.question_id] = reason
            if len(self.skipped) == len(self.stream):
                raise BadInput(
                    f"not one of the {len(self.stream)} chosen samples can be used: {by_reason(self.skipped)}; check "
                    f"the release and the location of its videos"
                )
        return found

    def _sample_round(self, step: int, number: int, chosen: Sequence[tuple[Prompt, Sample]]) -> list[RewardedGroup]:
        recipe, parallel = self.recipe, self.parallel
        mine = chosen[parallel.dp_rank :: parallel.dp]
        requests = run_on_all_ranks(
            lambda: [
                self._request(step, f"{number}/{index}", chosen[index][0])
                for index in range(parallel.dp_rank, len(chosen), parallel.dp)
            ]
        )
        samples = {request.prompt.key: sample for request, (_, sample) in zip(requests, mine, strict=True)}
        weights = [reward.weight for reward in recipe.rewards]
        calls = RewardCalls(self.functions, weights, recipe.reward_timeout_seconds)

        def begin(request: RolloutRequest, index: int, response: RolloutResponse) -> None:
            calls.begin(self._batch([(request, samples[request.prompt.key], response)]))

        ahead = self._queue.peek(recipe.rollout.prompts)
        self.cache.prefetch([*self._clips, *_clips(ahead)])
        with self._time_phase("rollout"):
            found = self.engine.generate(requests, recipe.rollout.responses, recipe.rollout.sampling, begin)
        run_on_all_ranks(partial(_check_prompts, requests, found))
        run_on_all_ranks(partial(_check_log_probs, requests, found))
        batch = self._batch(
            [
                (request, samples[request.prompt.key], response)
                for request, responses in zip(requests, found, strict=True)
                for response in responses
            ]
        )
        with ThreadPoolExecutor(1) as pool:
            finish: Callable[[], RewardResults] = partial(calls.finish, batch)
            if parallel.sp_rank == 0:
                finish = pool.submit(finish).result
            with self._time_phase("videos"):
                self._load_ahead()
            with self._time_phase("rewards"):
                rewards = gather_rewards(calls, finish, parallel)
        if rewards.failures and parallel.rank == 0:
            failures = rewards.failures
            log.warning(
                "step %d: %d responses are excluded, because a reward failed, e.g. %s",
                step,
                len(failures),
                failures[0].message,
            )
        return self._join(number, chosen, found, rewards)

    def _load_ahead(self) -> None:
        """Encode the videos of the next step's prompts.

        Those that cannot be used are replaced by further ones. At the end of the last epoch there are none, and this
        step counts them, because no other will.
        """
        while True:
            ahead = self._queue.peek(self.recipe.rollout.prompts)
            dropped = self._queue.drop_unusable(self.cache.load(self._clips, ahead=_clips(ahead)))
            if not dropped:
                return
            self.unusable |= dropped

    def _request(self, step: int, place: str, prompt: Prompt) -> RolloutRequest:
        """The request of a prompt. A question that occurs twice in a step gets other random numbers by its place.

        Raises:
            BadInput: the unexpanded ids have more or fewer placeholders than videos. An engine would expand each.
        """
        videos = len(prompt.example.videos)
        found = prompt.unexpanded_ids.count(self.stream.dataset.family.video_token_id)
        if found != videos:
            raise BadInput(
                f"sample {prompt.example.key}: its unexpanded prompt has {found} video tokens for {videos} videos; "
                f"each must have one, which the engine expands (`Family.placeholder_ids`)"
            )
        name = f"{self.recipe.seed}/{step}/{place}/{prompt.example.key}"
        digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
        return RolloutRequest(prompt.example, prompt.unexpanded_ids, int.from_bytes(digest, "big") >> 1)

    def _batch(self, responses: Sequence[tuple[RolloutRequest, Sample, RolloutResponse]]) -> RewardBatch:
        """The arguments of rewards. A prompt that ends with `<think>` keeps that tag, and its responses have none."""
        tokenizer = self._chat.tokenizer
        return RewardBatch.of_samples(
            [sample for _, sample, _ in responses],
            [str(tokenizer.decode(list(request.unexpanded_ids))) for request, _, _ in responses],
            [self._chat.decode(response.token_ids.tolist()) for _, _, response in responses],
            [response.token_ids.tolist() for _, _, response in responses],
        )

    def _join(
        self,
        number: int,
        chosen: Sequence[tuple[Prompt, Sample]],
        found: Sequence[Sequence[RolloutResponse]],
        rewards: Rewards,
    ) -> list[RewardedGroup]:
        """The groups of all ranks, in the order of their prompts."""
        everyone: list[Any] = [None] * self.parallel.world_size
        # Without the ids of the prompts, which every rank has.
        sampled = [[(each.token_ids, each.log_probs, each.finish) for each in responses] for responses in found]
        dist.all_gather_object(everyone, sampled)
        by_group = everyone[:: self.parallel.sp]
        count, dp = self.recipe.rollout.responses, self.parallel.dp
        order = [index for rank in range(dp) for index in range(rank, len(chosen), dp)]
        place = {index: first for first, index in enumerate(order)}
        failures = {failure.response: failure.message for failure in reversed(rewards.failures)}
        groups = []
        for index, (prompt, sample) in enumerate(chosen):
            prompt_ids = prompt.example.input_ids
            responses = tuple(
                RolloutResponse(token_ids, log_probs, finish, prompt_ids)
                for token_ids, log_probs, finish in by_group[index % dp][index // dp]
            )
            own = slice(place[index] * count, (place[index] + 1) * count)
            values, totals = rewards.values[own], rewards.totals[own]
            failed = tuple(failures.get(row) for row in range(own.start, own.stop))
            compared = values[:, rewards.weights != 0] if self.recipe.advantages is Estimator.GDPO else totals
            without = bool(groups_without_signal(compared, torch.tensor([count]))[0])
            completions = tuple(self._chat.decode(response.token_ids.tolist()) for response in responses)
            groups.append(
                RewardedGroup(prompt, sample, responses, completions, values, totals, failed, not without, number)
            )
        return groups

    @contextmanager
    def _time_phase(self, phase: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds[phase] += time.perf_counter() - began


class _PromptQueue:
    """Prompts that were taken from the stream ahead of their use."""

    def __init__(self, stream: PromptStream) -> None:
        self._stream = stream
        self._waiting: deque[tuple[tuple[Prompt, Sample], tuple[int, int]]] = deque()
        self._place = stream.place

    @property
    def position(self) -> dict[str, Any]:
        """State of the stream after the prompts that were used. Skipped samples may be of prompts that wait.

        If none waits, all samples after them that the stream has skipped count too, such as the last of all.
        """
        epoch, position = self._place if self._waiting else self._stream.place
        return {**self._stream.state_dict(), "epoch": epoch, "position": position}

    def peek(self, count: int) -> list[tuple[Prompt, Sample]]:
        """The next `count` prompts, which stay in the queue; fewer at the end of the stream."""
        while len(self._waiting) < count and (found := next(self._stream, None)) is not None:
            self._waiting.append((found, self._stream.place))
        return [found for found, _ in list(self._waiting)[:count]]

    def take(self, count: int) -> list[tuple[Prompt, Sample]]:
        """Remove and return the next prompts, as `peek`."""
        chosen = self.peek(count)
        for _ in chosen:
            _, self._place = self._waiting.popleft()
        return chosen

    def drop_unusable(self, bad: Mapping[VideoClip, str]) -> dict[str, str]:
        """Remove the waiting prompts about clips that cannot be used. Returns the reason by question id."""
        reasons = [_find_reason(prompt, bad) for (prompt, _), _ in self._waiting]
        pairs = list(zip(self._waiting, reasons, strict=True))
        self._waiting = deque(each for each, reason in pairs if reason is None)
        return {sample.question_id: reason for ((_, sample), _), reason in pairs if reason is not None}


def _clips(chosen: Sequence[tuple[Prompt, Sample]]) -> list[VideoClip]:
    return [clip for prompt, _ in chosen for clip in prompt.example.videos]


def _find_reason(prompt: Prompt, bad: Mapping[VideoClip, str]) -> str | None:
    """Why a prompt cannot be used, from the result of `VideoCache.load`; None if it can."""
    return next((bad[clip] for clip in prompt.example.videos if clip in bad), None)


def _check_prompts(requests: Sequence[RolloutRequest], found: Sequence[Sequence[RolloutResponse]]) -> None:
    """Check that the engine ran the prompts of the trainer's rows. Another one shifts or changes what is trained on."""
    for request, responses in zip(requests, found, strict=True):
        expected = request.prompt.input_ids
        for response in responses:
            if torch.equal(response.prompt_ids, expected):
                continue
            pairs = enumerate(zip_longest(response.prompt_ids.tolist(), expected.tolist()))
            place, (ran, own) = next((place, pair) for place, pair in pairs if pair[0] != pair[1])
            raise BadInput(
                f"sample {request.prompt.key}: the engine ran {len(response.prompt_ids)} prompt tokens and the trainer "
                f"has {len(expected)}; at index {place} the engine has {ran} and the trainer {own}. Check that the "
                f"engine has this model's tokenizer and gets the unexpanded ids and the trainer's frames"
            )


def _check_log_probs(requests: Sequence[RolloutRequest], found: Sequence[Sequence[RolloutResponse]]) -> None:
    """Check that the engine returned one finite log-probability for each token."""
    for request, responses in zip(requests, found, strict=True):
        for number, response in enumerate(responses):
            name = f"sample {request.prompt.key}: response {number}"
            log_probs, count = response.log_probs, len(response.token_ids)
            if len(log_probs) != count:
                raise BadInput(
                    f"{name} has {count} tokens and {len(log_probs)} log-probabilities; the engine must return one for "
                    f"each token"
                )
            if not (finite := log_probs.isfinite()).all():
                index = int((~finite).nonzero()[0])
                raise BadInput(
                    f"{name}: the engine's log-probability of token {index} (id {int(response.token_ids[index])}) is "
                    f"{float(log_probs[index])}; check the engine's weights and precision, and that it returns the "
                    f"log-probability of every sampled token"
                )

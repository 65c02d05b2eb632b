"""Samples responses with the trainer's own model, sharded and sequence-parallel as it is trained.

The prompts of a batch run once, in one row. Each rank keeps the keys and values of its part. Then all responses to them
are decoded, one token a step, by every rank of the sequence-parallel group (`trainer_plugin.ops.decode_attention`). The
log-probabilities are those of the distribution that was sampled from.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor

from schemas.errors import BadInput
from trainer_plugin.distributed.mesh import run_on_all_ranks
from trainer_plugin.distributed.sequence_plan import Range, SequencePlan
from trainer_plugin.model import LongVideoModel, RankInput, all_reduce_max, reshard
from trainer_plugin.ops.decode_attention import DecodeKeys
from trainer_plugin.rl.rollout import Finish, OnResponse, RolloutRequest, RolloutResponse, SamplingSettings
from trainer_plugin.rl.sampling import (
    PixelSource,
    check_log_prob,
    check_requests,
    make_text_token,
    sample_tokens,
    uniform_number,
)
from trainer_plugin.types import FrameRange, PromptGroup


class HfSampler:
    """Samples with a `LongVideoModel`; a `trainer_plugin.rl.rollout.RolloutEngine`."""

    def __init__(
        self, model: LongVideoModel, pixels: PixelSource, stop_ids: Collection[int], batch_requests: int = 1
    ) -> None:
        """
        Args:
            model: the model, sharded (`shard_parameters`).
            pixels: returns a request's frames or features.
            stop_ids: ids of the tokens that end a turn.
            batch_requests: maximum number of requests whose prompts are in memory and whose responses are decoded in
                the same steps. A step takes about the same time for more responses.

        Raises:
            BadInput: `batch_requests` is below 1.
        """
        if batch_requests < 1:
            raise BadInput(f"batch_requests is {batch_requests}; set it to at least 1")
        self.model = model
        self.pixels = pixels
        self.stop_ids = frozenset(stop_ids)
        self.batch_requests = batch_requests

    @torch.no_grad()
    def generate(
        self,
        requests: Sequence[RolloutRequest],
        responses: int,
        sampling: SamplingSettings,
        on_response: OnResponse | None = None,
    ) -> list[list[RolloutResponse]]:
        """Sample `responses` responses to each request. Every rank must call it, with any number of requests.

        Ranks that share a row pass the same requests and receive the same responses. The model's parameters are
        sharded afterwards, and its modules have the training mode that they had.

        Args:
            on_response: called in the decoding step in which a response ends, on the first rank of those that share a
                row only. An exception in it ends `generate` on every rank, as in `run_on_all_ranks`.

        Raises:
            BadInput: on every rank, if no rank has a request, a request or the settings cannot be sampled, the frames
                do not fit, or log-probabilities are not finite. The message names the sample.
        """
        modes = [(module, module.training) for module in self.model.modules()]
        run_on_all_ranks(partial(check_requests, self.model, requests, responses, sampling))
        batches = [
            requests[start : start + self.batch_requests] for start in range(0, len(requests), self.batch_requests)
        ]
        (rounds,) = all_reduce_max(len(batches))
        if not rounds:
            raise BadInput("no rank has a request to sample; pass at least one")
        self.model.eval()
        try:
            batches += [()] * (rounds - len(batches))
            return [found for batch in batches for found in self._sample_batch(batch, responses, sampling, on_response)]
        finally:
            for module, training in modes:
                module.training = training
            reshard(self.model)

    def _sample_batch(
        self,
        requests: Sequence[RolloutRequest],
        responses: int,
        sampling: SamplingSettings,
        on_response: OnResponse | None,
    ) -> list[list[RolloutResponse]]:
        """Sample responses to requests whose prompts share a row. Without requests it keeps step with the others."""
        keys, prompts = self._run_prompts(requests, responses)
        batch = [
            [_Response(request, number, prompt_ids) for number in range(responses)]
            for request, prompt_ids in zip(requests, prompts, strict=True)
        ]
        self._decode([response for each in batch for response in each], keys, sampling, on_response)
        return [[response.close() for response in each] for each in batch]

    def _run_prompts(self, requests: Sequence[RolloutRequest], responses: int) -> tuple[DecodeKeys, list[Tensor]]:
        """Run the prompts in one row. Returns this rank's keys and values, and the ids of each prompt."""
        model, parallel = self.model, self.model.parallel
        prefixes = [PromptGroup(request.prompt, ()).prefix for request in requests]
        items = prefixes or [make_text_token(model.family.rope_rows)]
        plan = SequencePlan(items, model.family, parallel.layout, model.costs)
        row = run_on_all_ranks(partial(self._prepare_row, plan, requests)).to(parallel.device)
        prompts = [
            torch.cat([plan.input_ids[start:end], request.prompt.input_ids[-1:]])
            for (start, end), request in zip(plan.segments, requests, strict=False)  # none without requests
        ]
        keys = DecodeKeys(
            model.prompt_keys(row).layers,
            list(_local_ranges(plan, parallel.sp_rank // parallel.layout.ulysses))[: len(requests)],
            [responses] * len(requests),
            parallel.layout,
            parallel.sp_rank,
            parallel.sp_group,
            model.options.kernel,
        )
        return keys, prompts

    def _prepare_row(self, plan: SequencePlan, requests: Sequence[RolloutRequest]) -> RankInput:
        share = plan.rank_plan(self.model.parallel.sp_rank)
        videos = [(request, number) for request in requests for number in range(len(request.prompt.videos))]
        pixels = []
        for part in share.frames:
            request, number = videos[part.video]
            pixels.append(self.pixels(request, FrameRange(number, part.first, part.end)))
        return RankInput(share, tuple(pixels))

    def _decode(
        self,
        responses: Sequence[_Response],
        keys: DecodeKeys,
        sampling: SamplingSettings,
        on_response: OnResponse | None,
    ) -> None:
        """Sample tokens until the responses of all ranks are complete."""
        model, device = self.model, self.model.parallel.device
        # A rank without incomplete responses runs a token that attends to nothing.
        idle = torch.zeros(model.family.rope_rows, dtype=torch.int64)
        waiting, running = list(responses), True
        while running:
            ended: list[_Response] = []
            ids = torch.tensor([response.last_id for response in waiting] or [0])
            positions = torch.stack([response.position for response in waiting] or [idle], dim=1)
            logits = model.decode_step(ids.to(device), positions.to(device), keys, sampling.temperature)
            if waiting:
                self._add_tokens(waiting, logits, sampling)
                rows = [row for row, response in enumerate(waiting) if response.finish is None]
                if len(rows) < len(waiting):
                    ended = [response for response in waiting if response.finish is not None]
                    waiting = [waiting[row] for row in rows]
                    keys.keep(torch.tensor(rows, dtype=torch.int64))
            error: Exception | None = None
            try:
                for response in responses:
                    check_log_prob(
                        response.request, response.number, len(response.token_ids) - 1, response.log_probs[-1]
                    )
                if on_response is not None and self.model.parallel.sp_rank == 0:
                    for response in ended:
                        on_response(response.request, response.number, response.close())
            except Exception as raised:  # noqa: BLE001 - raised on all ranks below
                error = raised
            running, wrong = map(bool, all_reduce_max(len(waiting), error is not None))
            if wrong:
                run_on_all_ranks(partial(_raise, error))

    def _add_tokens(self, waiting: Sequence[_Response], logits: Tensor, sampling: SamplingSettings) -> None:
        """Sample the next token of each response, from logits [n, V]."""
        uniforms = None if sampling.greedy else torch.tensor([each.uniform() for each in waiting], dtype=torch.float64)
        ids, log_probs = sample_tokens(logits, uniforms)
        # The first rank's tokens are sent, so that ranks that share a row agree whatever their rounding.
        sampled = torch.stack([ids.double(), log_probs.double()]).cpu()
        if self.model.parallel.sp_group is not None:
            dist.broadcast(sampled, group=self.model.parallel.sp_group, group_src=0)
        for response, token, log_prob in zip(waiting, *sampled.tolist(), strict=True):
            response.token_ids.append(int(token))
            response.log_probs.append(log_prob)
            if token in self.stop_ids:
                response.finish = Finish.STOP
            elif len(response.token_ids) == sampling.max_tokens:
                response.finish = Finish.LENGTH


@dataclass
class _Response:
    """A response that is being sampled."""

    request: RolloutRequest
    number: int
    prompt_ids: Tensor
    token_ids: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    finish: Finish | None = None

    @property
    def last_id(self) -> int:
        """The token from which the next one is predicted: at first the last one of the prompt."""
        return self.token_ids[-1] if self.token_ids else int(self.prompt_ids[-1])

    @property
    def position(self) -> Tensor:
        """Positions [rope rows] of that token. They continue from the prompt's, equally in all rows."""
        return self.request.prompt.positions[:, -1] + len(self.token_ids)

    def uniform(self) -> float:
        """The random number for the next token."""
        return uniform_number(self.request.seed, self.number, len(self.token_ids))

    def close(self) -> RolloutResponse:
        assert self.finish is not None
        token_ids, log_probs = torch.tensor(self.token_ids), torch.tensor(self.log_probs)
        return RolloutResponse(token_ids, log_probs, self.finish, self.prompt_ids)


def _local_ranges(plan: SequencePlan, part: int) -> Iterator[Range]:
    """The rows of a ring rank's part that belong to each segment.

    They are adjacent: a segment with tokens in both pieces of the part reaches from the end of the first piece to the
    start of the second.
    """
    pieces = plan.parts[part]
    for start, end in plan.segments:
        rows, offset = [], 0
        for first, stop in pieces:
            a, b = max(first, start), min(stop, end)
            if a < b:
                rows += [offset + a - first, offset + b - first]
            offset += stop - first
        yield (rows[0], rows[-1]) if rows else (0, 0)


def _raise(error: Exception | None) -> None:
    if error is not None:
        raise error

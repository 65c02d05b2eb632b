"""Samples responses to long prompts that are read once: one set of a prompt's keys for all responses to it.

Each rank copies the decoder's weights once for a rollout and samples without collectives. Ranks that share a row
(sequence parallelism) run its prompts in one row, keep their keys whole, and divide the responses among them. Prompts
run in chunks with the trainer's own model. A region of memory holds one prompt, and the responses of all regions are
decoded in the same steps. When all responses of a region have ended, the next prompt takes its place.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor

from schemas.errors import BadInput
from trainer_plugin.distributed.mesh import run_on_all_ranks
from trainer_plugin.distributed.sequence_plan import SequencePlan
from trainer_plugin.model import LongVideoModel, RankInput, all_reduce_max, reshard
from trainer_plugin.rl.decoder import DecoderWeights, TokenDecoder, check_decoder, gather_weights
from trainer_plugin.rl.prefill import PromptChunk, PromptPool, split_prompt
from trainer_plugin.rl.rollout import Finish, OnResponse, RolloutRequest, RolloutResponse, SamplingSettings
from trainer_plugin.rl.sampling import (
    PixelSource,
    check_log_prob,
    check_requests,
    free_bytes,
    make_text_token,
    token_bytes,
    uniform_number,
)
from trainer_plugin.types import PromptGroup

CHECK_STEPS = 16
"""Steps after which the host reads which responses have ended. Meanwhile those run along."""


class SharedPrefixSampler:
    """Samples with whole copies of a `LongVideoModel`'s weights; a `trainer_plugin.rl.rollout.RolloutEngine`."""

    def __init__(
        self,
        model: LongVideoModel,
        pixels: PixelSource,
        stop_ids: Collection[int],
        batch_requests: int,
        prefill_tokens: int,
    ) -> None:
        """
        Args:
            model: the model, sharded (`shard_parameters`).
            pixels: returns a request's frames or features.
            stop_ids: ids of the tokens that end a turn.
            batch_requests: number of prompts in memory, whose responses are decoded in the same steps.
            prefill_tokens: maximum number of tokens of a prompt that run in one pass.

        Raises:
            BadInput: a number is below 1, or the decoder has parts that are not known.
        """
        for name, value in (("batch_requests", batch_requests), ("prefill_tokens", prefill_tokens)):
            if value < 1:
                raise BadInput(f"{name} is {value}; set it to at least 1")
        check_decoder(model)
        self.model = model
        self.pixels = pixels
        self.stop_ids = frozenset(stop_ids)
        self.batch_requests = batch_requests
        self.prefill_tokens = prefill_tokens

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
            on_response: called within `CHECK_STEPS` tokens after a response has ended, on the first rank of those that
                share a row only. An exception in it ends `generate` on every rank, as in `run_on_all_ranks`.

        Raises:
            BadInput: on every rank, if no rank has a request, a request or the settings cannot be sampled, the prompts
                or the frames do not fit, or log-probabilities are not finite. The message names the sample or the
                setting.
        """
        run_on_all_ranks(partial(check_requests, self.model, requests, responses, sampling))
        most, room = all_reduce_max(
            len(requests), max((len(request.prompt.input_ids) - 1 for request in requests), default=0)
        )
        if not most:
            raise BadInput("no rank has a request to sample; pass at least one")
        regions = min(self.batch_requests, most)
        run_on_all_ranks(partial(self._check_memory, regions, max(1, room), responses, sampling))
        modes = [(module, module.training) for module in self.model.modules()]
        self.model.eval()
        try:
            rollout = _Rollout(self, requests, responses, sampling, on_response, regions, max(1, room))
            return rollout.run()
        except torch.OutOfMemoryError as error:
            raise BadInput(f"the device ran out of memory while sampling ({error}); {_LESS_MEMORY}") from error
        finally:
            for module, training in modes:
                module.training = training
            reshard(self.model)

    def _check_memory(self, regions: int, room: int, responses: int, sampling: SamplingSettings) -> None:
        """Check that a lower bound of the memory is free on this rank's device. Only CUDA devices are checked."""
        device = self.model.parallel.device
        if device.type != "cuda":
            return
        free = free_bytes(device)
        slots = regions * -(-responses // self.model.parallel.sp)
        parts = needed_bytes(self.model, regions * room, slots, sampling.max_tokens, min(self.prefill_tokens, room))
        if (needed := sum(parts.values())) > free:
            sizes = ", ".join(f"{name} {size / 2**30:.1f} GiB" for name, size in parts.items())
            raise BadInput(
                f"sampling {responses} responses of {sampling.max_tokens} tokens to {regions} prompts of up to {room} "
                f"tokens needs at least {needed / 2**30:.1f} GiB ({sizes}), and {free / 2**30:.1f} GiB are free; "
                f"{_LESS_MEMORY}"
            )


_LESS_MEMORY = (
    "lower rollout.batch_requests, rollout.prefill_tokens, rollout.responses, rollout.max_tokens or row_tokens, or set "
    "rollout.engine=sharded"
)


def needed_bytes(
    model: LongVideoModel, prompt_tokens: int, slots: int, max_tokens: int, prefill_tokens: int
) -> dict[str, int]:
    """A lower bound of the bytes that sampling needs on one device, by part.

    Args:
        prompt_tokens: number of tokens of all prompts in memory.
        slots: number of responses that this rank decodes at a time.
        prefill_tokens: number of tokens of the longest pass of a prompt.
    """
    config = model.model.config.get_text_config()
    itemsize = model.compute_dtype.itemsize
    token = token_bytes(model)
    decoder = model.family.language_model(model.model)
    matrices = sum(p.numel() for p in decoder.parameters())
    if model.model.get_output_embeddings().weight is not model.model.get_input_embeddings().weight:
        matrices += model.model.get_output_embeddings().weight.numel()
    # A pass holds at least its hidden states twice, and the MLP's gate and input.
    activations = prefill_tokens * (2 * config.hidden_size + 2 * config.intermediate_size) * itemsize
    return {
        "weights": matrices * itemsize,
        "keys of prompts": prompt_tokens * token,
        "keys of responses": slots * max_tokens * token,
        "activations of a prompt": activations // model.parallel.sp,
    }


@dataclass
class _Region:
    """A request whose responses are being sampled."""

    index: int
    """Its number among the rank's requests."""
    prompt_ids: Tensor
    numbers: tuple[int, ...]
    """Numbers of the responses in this rank's slots."""
    missing: int
    """Number of responses, on all ranks that share it, that have not ended."""
    running: set[int] = field(default_factory=set)
    """Numbers of this rank's responses that have not ended."""


_Ended = tuple[int, int, Tensor, Tensor, Finish]
"""Region, number, tokens, log-probabilities and finish of a response that has ended."""


class _Rollout:
    """One call of `generate`."""

    def __init__(
        self,
        sampler: SharedPrefixSampler,
        requests: Sequence[RolloutRequest],
        responses: int,
        sampling: SamplingSettings,
        on_response: OnResponse | None,
        regions: int,
        room: int,
    ) -> None:
        self._sampler = sampler
        self._model = sampler.model
        self._ranks = sampler.model.parallel
        self._requests = requests
        self._responses = responses
        self._sampling = sampling
        self._on_response = on_response
        self._found: list[list[RolloutResponse | None]] = [[None] * responses for _ in requests]
        self._waiting = deque(range(len(requests)))
        self._regions: list[_Region | None] = [None] * regions
        self._slots = -(-responses // self._ranks.sp)
        weights = gather_weights(self._model)
        self._pool = self._make_pool(weights, regions, room)
        self._decoder = TokenDecoder(
            self._model,
            weights,
            self._pool.keys,
            self._pool.lengths,
            regions * self._slots,
            sampler.stop_ids,
            sampling,
        )

    def _make_pool(self, weights: DecoderWeights, regions: int, room: int) -> PromptPool:
        dtype = self._model.compute_dtype
        return PromptPool(len(weights.layers), regions, weights.kv_heads, room, weights.head_dim, dtype, self._ranks)

    def run(self) -> list[list[RolloutResponse]]:
        error: Exception | None = None
        while True:
            admits = bool(self._waiting) and None in self._regions
            admitted, running, wrong = map(
                bool, all_reduce_max(admits, any(each is not None for each in self._regions), error is not None)
            )
            if wrong:
                run_on_all_ranks(partial(_raise, error))
            if admitted:
                self._admit(self._waiting.popleft() if admits else None)
            elif running:
                error = self._decode()
            else:
                return [[each for each in row if each is not None] for row in self._found]

    def _admit(self, index: int | None) -> None:
        """Run the prompt of the next request. Without one, keep step with the other ranks."""
        chunks: list[PromptChunk] = []
        if index is not None:
            prefix = PromptGroup(self._requests[index].prompt, ()).prefix
            chunks = split_prompt(prefix, self._model.family, self._sampler.prefill_tokens)
        region = self._regions.index(None) if index is not None else 0
        (rounds,) = all_reduce_max(len(chunks))
        ids = []
        for number in range(rounds):
            chunk = chunks[number] if number < len(chunks) else None
            ids.append(self._run_chunk(index, region, chunk))
        if index is not None:
            self._start(index, region, torch.cat([*ids[: len(chunks)], self._requests[index].prompt.input_ids[-1:]]))

    def _run_chunk(self, index: int | None, region: int, chunk: PromptChunk | None) -> Tensor:
        """Run a chunk of a prompt and keep its keys. Returns its token ids."""
        model, ranks = self._model, self._ranks
        if chunk is None:
            chunk = PromptChunk(make_text_token(model.family.rope_rows), 0, ())
            keep = False
        else:
            keep = True
        plan = SequencePlan([chunk.example], model.family, ranks.layout, model.costs, earlier_tokens=chunk.start)
        row = run_on_all_ranks(partial(self._prepare_row, plan, index, chunk)).to(ranks.device)
        tokens = len(chunk.example.input_ids)
        kept = self._pool.store(region, chunk.start, tokens, row.plan.attention) if keep else None
        model.prefill(row, kept, tuple(self._pool.earlier(region, chunk.start)) if chunk.start else None)
        return plan.input_ids[:tokens]

    def _prepare_row(self, plan: SequencePlan, index: int | None, chunk: PromptChunk) -> RankInput:
        share = plan.rank_plan(self._ranks.sp_rank)
        if index is None:
            return RankInput(share, ())
        request = self._requests[index]
        return RankInput(share, tuple(self._sampler.pixels(request, chunk.locate(part)) for part in share.frames))

    def _start(self, index: int, region: int, prompt_ids: Tensor) -> None:
        """Start the responses to a request whose prompt a region holds."""
        request, ranks = self._requests[index], self._ranks
        numbers = tuple(range(ranks.sp_rank, self._responses, ranks.sp))
        self._regions[region] = _Region(index, prompt_ids, numbers, self._responses, set(numbers))
        self._pool.lengths[region] = len(prompt_ids) - 1
        if numbers:
            tokens = 0 if self._sampling.greedy else self._sampling.max_tokens
            uniforms = torch.tensor(
                [[uniform_number(request.seed, number, token) for token in range(tokens)] for number in numbers],
                dtype=torch.float64,
            )
            first = region * self._slots
            position = int(request.prompt.positions[0, -1])
            self._decoder.start(slice(first, first + len(numbers)), int(prompt_ids[-1]), position, uniforms)

    def _decode(self) -> Exception | None:
        """Sample some tokens of all responses, and take those that have ended. Returns an error of this rank."""
        ended: list[_Ended] = []
        if any(region is not None and region.running for region in self._regions):
            _, counts = self._decoder.read_progress()
            left = [
                self._sampling.max_tokens - counts[number * self._slots + region.numbers.index(each)]
                for number, region in enumerate(self._regions)
                if region is not None
                for each in region.running
            ]
            self._decoder.run(min(CHECK_STEPS, max(left)))
            ended = list(self._take_ended())
        everyone = [ended]
        if self._ranks.sp_group is not None:
            everyone = [[] for _ in range(self._ranks.sp)]
            dist.all_gather_object(everyone, ended, group=self._ranks.sp_group)
        try:
            for each in [response for mine in everyone for response in mine]:
                self._add(*each)
        except Exception as error:  # noqa: BLE001 - raised on all ranks by the caller
            return error
        return None

    def _take_ended(self) -> list[_Ended]:
        """This rank's responses that have ended since the last call."""
        active, counts = self._decoder.read_progress()
        ended: list[_Ended] = []
        for number, region in enumerate(self._regions):
            for place, each in enumerate(region.numbers if region is not None else ()):
                slot = number * self._slots + place
                assert region is not None
                if each in region.running and not active[slot]:
                    region.running.remove(each)
                    ids, log_probs = self._decoder.read(slot, counts[slot])
                    finish = Finish.STOP if int(ids[-1]) in self._sampler.stop_ids else Finish.LENGTH
                    ended.append((number, each, ids, log_probs, finish))
        return ended

    def _add(self, number: int, response: int, ids: Tensor, log_probs: Tensor, finish: Finish) -> None:
        """Add a response that has ended, and free its region after the last."""
        region = self._regions[number]
        assert region is not None
        request = self._requests[region.index]
        for index in (~log_probs.isfinite()).nonzero()[:1, 0].tolist():
            check_log_prob(request, response, index, float(log_probs[index]))
        found = RolloutResponse(ids, log_probs, finish, region.prompt_ids)
        self._found[region.index][response] = found
        region.missing -= 1
        if not region.missing:
            self._regions[number] = None
            self._pool.lengths[number] = 0
        if self._on_response is not None and self._ranks.sp_rank == 0:
            self._on_response(request, response, found)


def _raise(error: Exception | None) -> None:
    if error is not None:
        raise error

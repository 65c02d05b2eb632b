"""What all samplers on the trainer's own model share: the check of requests, the random numbers, and a token's choice.

A token depends on the seed of its request, the number of the response, the index of the token and the model, and not on
the sampler, the layout, the number of ranks, or the other responses, up to rounding.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import pad

from schemas.errors import BadInput
from trainer_plugin.distributed.sequence_plan import check_item
from trainer_plugin.model import LongVideoModel
from trainer_plugin.rl.rollout import RolloutRequest, SamplingSettings
from trainer_plugin.types import IGNORED, Example, FrameRange, PromptGroup

PixelSource = Callable[[RolloutRequest, FrameRange], Tensor]
"""Returns the frames or features of some temporal patches of a request's video, as an element of `RankInput.pixels`.
`FrameRange.video` is the number of the video in the request. It is called only for what this rank encodes. An error
that it raises ends `generate` on every rank."""

_BLOCK = 1024
"""Tokens of the vocabulary whose probabilities are summed first."""


def check_requests(
    model: LongVideoModel, requests: Sequence[RolloutRequest], responses: int, sampling: SamplingSettings
) -> None:
    """Check that requests can be sampled, and that ranks that share a row have the same ones. Every rank must call it.

    Raises:
        BadInput: they cannot, or ranks differ. The message names the sample.
    """
    group = model.parallel.sp_group
    if group is not None:
        mine = [(request.prompt.key, request.seed) for request in requests], responses, sampling
        everyone: list[object] = [None] * model.parallel.sp
        dist.all_gather_object(everyone, mine, group=group)
        if any(other != mine for other in everyone):
            raise BadInput(f"ranks that share a row sample different requests: {everyone}; pass them the same ones")
    if responses < 1:
        raise BadInput(f"{responses} responses to each request; sample at least 1")
    limit = getattr(model.model.config.get_text_config(), "max_position_embeddings", None)
    for request in requests:
        prompt = request.prompt
        try:
            check_item(PromptGroup(prompt, (prompt.input_ids[:0],)), model.family)
        except ValueError as error:
            raise BadInput(str(error)) from error
        needed = int(prompt.positions.max()) + sampling.max_tokens
        if limit is not None and needed > limit:
            raise BadInput(
                f"sample {prompt.key}: its prompt of {len(prompt.input_ids)} tokens and a response of "
                f"{sampling.max_tokens} need {needed} positions, and the model has {limit}; take fewer frames, or "
                f"lower max_tokens"
            )


def check_log_prob(request: RolloutRequest, number: int, index: int, log_prob: float) -> None:
    """Check the log-probability of token `index` of a response.

    Raises:
        BadInput: it is not finite.
    """
    if not math.isfinite(log_prob):
        raise BadInput(
            f"sample {request.prompt.key}: the log-probability of token {index} of response {number} is {log_prob}; "
            f"check the model's weights"
        )


def token_bytes(model: LongVideoModel) -> int:
    """Bytes of the keys and values of a token in all layers, in the compute dtype."""
    config = model.model.config.get_text_config()
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(config.num_hidden_layers * 2 * config.num_key_value_heads * head_dim * model.compute_dtype.itemsize)


def free_bytes(device: torch.device) -> int:
    """Bytes of a CUDA device that no process uses, or that torch holds without using them."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def sample_tokens(logits: Tensor, uniforms: Tensor | None) -> tuple[Tensor, Tensor]:
    """Sample a token from each row of logits, by the inverse of the cumulative distribution in float64.

    Sums of blocks of the vocabulary choose the block, and sums inside it the token: one scan of the whole vocabulary
    takes a GPU longer than a decoder layer.

    Args:
        logits: [n, V], divided by the temperature.
        uniforms: float64 [n] in [0, 1), one random number for each row; None takes the likeliest tokens.

    Returns:
        Tokens, int64 [n], and their log-probabilities [n] in the dtype of the logits.
    """
    if uniforms is None:
        ids = logits.argmax(-1)
    else:
        ids = _invert(logits.double().softmax(-1), uniforms.to(logits.device)).clamp_(max=logits.shape[1] - 1)
    log_probs = logits.gather(1, ids[:, None])[:, 0] - logits.logsumexp(-1)
    return ids, log_probs


def _invert(probabilities: Tensor, uniforms: Tensor) -> Tensor:
    """The first token of each row whose cumulative probability is above the number. Only a row of NaN has none.

    So a token of probability 0 is never sampled.
    """
    blocks = pad(probabilities, (0, -probabilities.shape[1] % _BLOCK)).unflatten(1, (-1, _BLOCK))
    sums = blocks.sum(-1).cumsum(-1)
    drawn = uniforms[:, None] * sums[:, -1:]
    block = torch.searchsorted(sums, drawn, right=True).clamp_(max=blocks.shape[1] - 1)
    above = sums.gather(1, block)
    below = torch.where(block > 0, sums.gather(1, (block - 1).clamp(min=0)), torch.zeros_like(above))
    # Inside the block sums may be rounded otherwise, so the number is taken as a share of the block below 1.
    share = ((drawn - below) / (above - below)).clamp(max=1 - 2**-52)
    inside = blocks.gather(1, block[..., None].expand(-1, 1, _BLOCK))[:, 0].cumsum(-1)
    token = torch.searchsorted(inside, share * inside[:, -1:], right=True)
    return (block * _BLOCK + token)[:, 0]


def uniform_number(seed: int, response: int, index: int) -> float:
    """The random number in [0, 1) for token `index` of a response, the same on every machine.

    It has 52 bits, so that its product with a sum of probabilities is below that sum.
    """
    digest = hashlib.blake2b(f"{seed}/{response}/{index}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 12) / 2**52


def make_text_token(rope_rows: int) -> Example:
    """A sample of one token, for a rank without requests."""
    zeros = torch.zeros(rope_rows, 1, dtype=torch.int64)
    return Example("no request", zeros[0], torch.full_like(zeros[0], IGNORED), zeros)

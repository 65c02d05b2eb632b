"""A decoder that samples one token for each of many responses, from whole weights and without a module of the model.

The weights are copied from the sharded model once for each rollout, in the compute dtype. Those of queries, keys and
values share one matrix, and so do those of the MLP's gate and input. A step changes tensors in place and never waits
for the device, so on CUDA it is one replay of a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.functional import linear

from schemas.errors import BadInput
from trainer_plugin.model import LongVideoModel, reshard
from trainer_plugin.ops.decode_kernels import add_rms_norm, gated, rotate_and_store
from trainer_plugin.ops.log_probs import compute_logits
from trainer_plugin.ops.shared_prefix_attention import SharedKeys, shared_prefix_attention
from trainer_plugin.rl.rollout import SamplingSettings
from trainer_plugin.rl.sampling import sample_tokens


@dataclass(frozen=True)
class Linear:
    """One or several linear layers of the same input, with their LoRA adapters."""

    weight: Tensor
    """[out, in]"""
    bias: Tensor | None
    """[out]"""
    adapter: tuple[Tensor, Tensor] | None
    """[rank, in] and [out, rank], the latter times the adapter's factor. They are not merged into `weight`, because
    the sum would be rounded."""

    def __call__(self, rows: Tensor) -> Tensor:
        found = linear(rows, self.weight, self.bias)
        if self.adapter is not None:
            down, up = self.adapter
            found = found.addmm_(rows @ down.T, up.T)
        return found


@dataclass(frozen=True)
class LayerWeights:
    """Weights of one decoder layer."""

    input_norm: Tensor
    qkv: Linear
    qk_norms: tuple[Tensor, Tensor] | None
    """Weights [d] of the norms of queries and keys, in models that have them."""
    out: Linear
    mlp_norm: Tensor
    gate_up: Linear
    down: Linear


@dataclass(frozen=True)
class DecoderWeights:
    """Weights of the whole decoder."""

    embeddings: Tensor
    """[V, width]"""
    layers: tuple[LayerWeights, ...]
    norm: Tensor
    head: Tensor
    """[V, width]"""
    heads: int
    kv_heads: int
    head_dim: int
    eps: float
    """Of all norms."""

    @property
    def nbytes(self) -> int:
        """Bytes of the matrices."""
        matrices = [part.weight for each in self.layers for part in (each.qkv, each.out, each.gate_up, each.down)]
        tied = self.embeddings.data_ptr() == self.head.data_ptr()
        return sum(each.nbytes for each in [self.embeddings, *matrices, *([] if tied else [self.head])])


def check_decoder(model: LongVideoModel) -> None:
    """Check that `gather_weights` knows the model's decoder.

    Raises:
        BadInput: its layers have other parts than Llama's, Qwen2's and Qwen3's.
    """
    text = model.family.language_model(model.model)
    names = {
        "": {"input_layernorm", "self_attn", "post_attention_layernorm", "mlp"},
        "self_attn": {"q_proj", "k_proj", "v_proj", "o_proj"},
        "mlp": {"gate_proj", "up_proj", "down_proj"},
    }
    optional = {"q_norm", "k_norm", "act_fn", "rotary_emb"}
    for part, needed in names.items():
        found = {name for name, _ in text.layers[0].get_submodule(part).named_children()}
        activation = getattr(text.config, "hidden_act", "silu")
        if not needed <= found or found - needed - optional or activation not in ("silu", "swish"):
            raise BadInput(
                f"rollout.engine shared_prefix does not know this decoder: a layer's {part or 'parts'} are "
                f"{sorted(found)} with activation {activation}; set rollout.engine=sharded, which runs any model"
            )


@torch.no_grad()
def gather_weights(model: LongVideoModel) -> DecoderWeights:
    """Copy the decoder's weights from all ranks, layer by layer, in the compute dtype. Every rank must call it."""
    text, dtype, device = model.family.language_model(model.model), model.compute_dtype, model.parallel.device
    config = model.model.config.get_text_config()

    def copy(tensor: Tensor) -> Tensor:
        return tensor.detach().to(device, dtype, copy=True)

    layers = []
    layer: Any
    for layer in text.layers:
        _unshard(layer)
        attention, mlp = layer.self_attn, layer.mlp
        norms = (copy(attention.q_norm.weight), copy(attention.k_norm.weight)) if hasattr(attention, "q_norm") else None
        layers.append(
            LayerWeights(
                copy(layer.input_layernorm.weight),
                _join([attention.q_proj, attention.k_proj, attention.v_proj], dtype, device),
                norms,
                _join([attention.o_proj], dtype, device),
                copy(layer.post_attention_layernorm.weight),
                _join([mlp.gate_proj, mlp.up_proj], dtype, device),
                _join([mlp.down_proj], dtype, device),
            )
        )
        reshard(layer)
    embeddings: Any = model.model.get_input_embeddings()
    head: Any = model.model.get_output_embeddings()
    for module in (embeddings, model):
        _unshard(module)
    embedded = copy(embeddings.weight)
    projected = embedded if head.weight is embeddings.weight else copy(head.weight)
    norm = copy(text.norm.weight)
    reshard(model)
    heads = config.num_attention_heads
    return DecoderWeights(
        embedded,
        tuple(layers),
        norm,
        projected,
        heads,
        config.num_key_value_heads,
        getattr(config, "head_dim", None) or config.hidden_size // heads,
        config.rms_norm_eps,
    )


def _unshard(module: nn.Module) -> None:
    if isinstance(module, FSDPModule):
        module.unshard()


def _join(modules: Sequence[Any], dtype: torch.dtype, device: torch.device) -> Linear:
    """The linear layers of one input as one."""
    bases = [getattr(module, "base_layer", module) for module in modules]
    weight = torch.cat([base.weight.detach() for base in bases]).to(device, dtype, copy=len(bases) == 1)
    biases = [base.bias for base in bases if base.bias is not None]
    bias = torch.cat([each.detach() for each in biases]).to(device, dtype, copy=len(bases) == 1) if biases else None
    if not hasattr(modules[0], "lora_A"):
        return Linear(weight, bias, None)
    down, up = [], []
    for module in modules:
        [name] = module.active_adapters
        down.append(module.lora_A[name].weight.detach())
        up.append(module.lora_B[name].weight.detach() * module.scaling[name])
    return Linear(
        weight,
        bias,
        (torch.cat(down).to(device, dtype), torch.block_diag(*up).to(device, dtype)),
    )


class TokenDecoder:
    """Samples tokens for the responses in its slots.

    Slots that hold no response, or whose response has ended, run along and change nothing.
    """

    def __init__(
        self,
        model: LongVideoModel,
        weights: DecoderWeights,
        prompts: Tensor,
        prompt_lengths: Tensor,
        slots: int,
        stop_ids: Collection[int],
        sampling: SamplingSettings,
    ) -> None:
        """
        Args:
            model: whose rotary embedding is used.
            weights: result of `gather_weights`.
            prompts: keys and values of the prompts, [layers, 2, regions, kv heads, room, d].
            prompt_lengths: int32 [regions].
            slots: number of slots, a multiple of the regions.
            stop_ids: ids of the tokens that end a response.
            sampling: settings of all responses.
        """
        device, room = prompts.device, sampling.max_tokens
        self._text = model.family.language_model(model.model)
        self._rope_rows = model.family.rope_rows
        self._weights = weights
        self._sampling = sampling
        own = prompts.new_zeros(len(prompts), 2, slots, weights.kv_heads, room, weights.head_dim)
        self._own_lengths = torch.zeros(slots, dtype=torch.int32, device=device)
        self._keys = [
            SharedKeys(prompt, prompt_lengths, each, self._own_lengths)
            for prompt, each in zip(prompts, own, strict=True)
        ]
        self._stop_ids = torch.tensor(sorted(stop_ids), device=device, dtype=torch.int64)
        self._ids = torch.zeros(slots, dtype=torch.int64, device=device)
        self._positions = torch.zeros_like(self._ids)
        # One column more than tokens: what slots without a response write.
        self._uniforms = torch.zeros(slots, room + 1, dtype=torch.float64, device=device)
        self._token_ids = torch.zeros(slots, room + 1, dtype=torch.int64, device=device)
        self._log_probs = torch.zeros(slots, room + 1, device=device)
        self._counts = torch.zeros_like(self._ids)
        self._active = torch.zeros(slots, dtype=torch.bool, device=device)
        self._graph: torch.cuda.CUDAGraph | None = None

    def start(self, slots: slice, last_id: int, position: int, uniforms: Tensor) -> None:
        """Start responses in some slots.

        Args:
            last_id: the prompt's last token, from which the first one is predicted.
            position: rotary position of that token, equal in all rows.
            uniforms: float64 [slots, max_tokens]: random numbers of the responses' tokens; [slots, 0] for greedy
                sampling.
        """
        self._ids[slots] = last_id
        self._positions[slots] = position
        self._uniforms[slots, : uniforms.shape[1]] = uniforms.to(self._uniforms.device)
        self._counts[slots] = 0
        self._own_lengths[slots] = 0
        self._active[slots] = True

    def run(self, steps: int) -> None:
        """Sample `steps` tokens for each response that has not ended."""
        for _ in range(steps):
            if self._ids.is_cuda:
                self._replay()
            else:
                self._step()

    def read_progress(self) -> tuple[list[bool], list[int]]:
        """Whether each slot's response has not ended, and its number of tokens. It waits for the device."""
        both = torch.stack([self._active.long(), self._counts]).tolist()
        return [bool(each) for each in both[0]], both[1]

    def read(self, slot: int, count: int) -> tuple[Tensor, Tensor]:
        """The first `count` tokens of a slot's response, int64, and their log-probabilities, float32."""
        ids, log_probs = self._token_ids[slot, :count], self._log_probs[slot, :count]
        return ids.to("cpu", copy=True), log_probs.to("cpu", copy=True)

    def _replay(self) -> None:
        if self._graph is None:
            self._graph = self._capture()
        self._graph.replay()

    def _capture(self) -> torch.cuda.CUDAGraph:
        """Capture a step. The one that compiles the kernels before it has no active slot and changes nothing."""
        active = self._active.clone()
        self._active.zero_()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self._step()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._step()
        self._active.copy_(active)
        return graph

    @torch.no_grad()
    def _step(self) -> None:
        weights = self._weights
        self._own_lengths += self._active
        hidden = weights.embeddings[self._ids]
        cos, sin = self._rotation(hidden)
        residual = None
        for layer, keys in zip(weights.layers, self._keys, strict=True):
            residual, normed = add_rms_norm(hidden, layer.input_norm, weights.eps, residual)
            q = rotate_and_store(
                layer.qkv(normed), weights.heads, layer.qk_norms, weights.eps, cos, sin, keys.own, keys.own_lengths
            )
            found = shared_prefix_attention(q, keys, weights.head_dim**-0.5)
            residual, normed = add_rms_norm(layer.out(found.flatten(1)), layer.mlp_norm, weights.eps, residual)
            hidden = layer.down(gated(layer.gate_up(normed)))
        _, normed = add_rms_norm(hidden, weights.norm, weights.eps, residual)
        self._add_tokens(compute_logits(normed, weights.head, None, self._sampling.temperature))

    def _rotation(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines [slots, d] of the slots' positions."""
        positions = self._positions[None]
        rows = positions if self._rope_rows == 1 else positions.expand(self._rope_rows, 1, -1)
        cos, sin = self._text.rotary_emb(hidden[None], rows)
        slots, d = hidden.shape[0], self._weights.head_dim
        return cos.reshape(-1, slots, d)[0].contiguous(), sin.reshape(-1, slots, d)[0].contiguous()

    def _add_tokens(self, logits: Tensor) -> None:
        limit, active = self._sampling.max_tokens, self._active
        place = torch.where(active, self._counts, limit)[:, None]
        uniforms = None if self._sampling.greedy else self._uniforms.gather(1, place)[:, 0]
        ids, log_probs = sample_tokens(logits, uniforms)
        self._token_ids.scatter_(1, place, ids[:, None])
        self._log_probs.scatter_(1, place, log_probs[:, None])
        self._counts += active
        self._positions += active
        self._ids.copy_(torch.where(active, ids, self._ids))
        stopped = (ids[:, None] == self._stop_ids).any(1)
        active.logical_and_(~stopped & (self._counts < limit))

"""Measures the cost of a training step on long videos on GPUs, and the gain of each technique.

    torchrun --standalone --nproc-per-node 1 benchmarks/trainer.py --layers 10 --tokens 32768
    torchrun --standalone --nproc-per-node 2 benchmarks/trainer.py --tokens 65536 131072

The model has the shapes of Qwen2.5-VL-7B and random weights. A row is one video of 252x448 pixels at two frames per
second, with 144 tokens per temporal patch, followed by 1,024 supervised tokens. A step covers everything from uint8
frames in pinned memory to updated weights: patches, frozen vision tower, forward, backward, AdamW. Steps are timed
after one warm-up step. All switches run in one process, so that their ratios hold on any machine.

MFU counts the operations that the model needs without recomputation: three times the forward pass of the decoder
(causal attention counts as half of a square; with LoRA, weight gradients are not counted) and one forward pass of the
frozen tower. The peak is 989 TFLOP/s (bf16, dense, H100 and H200).
"""

import argparse
import gc
import json
import os
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile
from transformers import PreTrainedModel, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from trainer_plugin.distributed.mesh import init_distributed, parallelize
from trainer_plugin.distributed.sequence_plan import Costs, SequencePlan
from trainer_plugin.families import family_of
from trainer_plugin.families.base import Family
from trainer_plugin.model import Head, LongVideoModel, RankInput, RunOptions, shard_parameters
from trainer_plugin.ops.attention_kernels import Kernel
from trainer_plugin.recipe import Lora, TrainableParts
from trainer_plugin.training.flops import TowerCosts, training_flops
from trainer_plugin.training.optimizer_step import adamw, cross_entropy, supervised_tokens, train_step
from trainer_plugin.training.weights import prepare
from trainer_plugin.types import IGNORED, Example, Grid, VideoClip, VideoSource

PEAK = 989e12
FRAME = (252, 448)
FRAME_TOKENS = 144
QUESTION, ANSWER = 512, 1024
SHORT_ROW_TOKENS = 4096
TEXT_ID = 1000


@dataclass(frozen=True)
class Switch:
    """A variant of the training step."""

    options: RunOptions = field(default_factory=RunOptions)
    replicated: bool = False
    """Whether every rank encodes all frames."""
    recomputed: bool = False
    """Whether all layers use activation checkpointing, regardless of `--checkpointed`."""

    def options_of(self, arguments: argparse.Namespace) -> RunOptions:
        layers = None if self.recomputed else arguments.checkpointed
        return replace(
            self.options,
            checkpointed_layers=layers,
            mlp_tile_tokens=arguments.mlp_tile_tokens,
            offload=arguments.offload,
        )


SWITCHES = {
    "ours": Switch(),
    "vision=replicated": Switch(replicated=True),
    "kernel=flash2": Switch(RunOptions(kernel=Kernel.FLASH2)),
    "head=full": Switch(RunOptions(head=Head.FULL)),
    "compile=off": Switch(RunOptions(compile=False)),
    "layers=recomputed": Switch(recomputed=True),
    "attention=recomputed": Switch(RunOptions(save_attention_output=False), recomputed=True),
    "all": Switch(
        RunOptions(kernel=Kernel.FLASH2, head=Head.FULL, save_attention_output=False, compile=False),
        replicated=True,
        recomputed=True,
    ),
}
PLAIN = "plain"
"""The plain Hugging Face model: SDPA with FlashAttention, its own loss and checkpointing. Runs on one GPU only."""


@dataclass(frozen=True)
class Measured:
    """Result of one measurement."""

    gpus: int
    sp: int
    videos: int
    """Videos per step."""
    tokens: int
    """Tokens of one video with its question and answer."""
    frames: int
    layers: int
    recomputed: int | None
    """Number of layers with activation checkpointing; None for all."""
    mlp_tile_tokens: int | None
    """Tokens per tile of the MLPs of checkpointed layers; None for all tokens in one tile."""
    offload: bool
    lora: int | None
    """Rank of the LoRA adapters; None if all weights of the decoder are trainable."""
    switch: str
    seconds: float
    mfu: float
    tokens_per_second_per_gpu: float
    peak_gb: float
    """Peak of the memory allocated by tensors, in units of 1e9 bytes."""
    reserved_gb: float
    """Peak of the memory reserved by the caching allocator, in units of 1e9 bytes."""
    communication: float
    """Fraction of the step in which NCCL kernels ran."""
    exposed: float
    """Fraction of the step in which NCCL kernels ran and no other kernel did."""


def main() -> None:
    arguments = _arguments()
    device = init_distributed()
    subject: Subject | None = None
    for tokens in arguments.tokens:
        for name in arguments.switches:
            if subject is None or not subject.serves(name):
                subject = None  # free its memory first
                subject = Subject(arguments, device, name)
            try:
                measured = subject.measure(tokens, name)
            except torch.OutOfMemoryError as error:
                _print_on_rank_zero(f"{name} at {tokens} tokens: out of memory ({str(error).split('.')[0]})")
                if dist.get_world_size() > 1:
                    os._exit(3)  # the other ranks may be waiting in a collective
                subject = None
                continue
            line = json.dumps(asdict(measured))
            _print_on_rank_zero(line)
            if arguments.out and dist.get_rank() == 0:
                with arguments.out.open("a") as file:
                    file.write(line + "\n")
    dist.destroy_process_group()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tokens", type=int, nargs="+", default=[32_768])
    parser.add_argument("--layers", type=int, default=28, help="decoder layers: as many as fit")
    parser.add_argument("--checkpointed", type=int, help="decoder layers with activation checkpointing (all)")
    parser.add_argument("--mlp-tokens", type=int, help="tokens of which an MLP computes in one piece (all)")
    parser.add_argument("--lora", type=int, help="train adapters of this rank, not the decoder's weights")
    parser.add_argument("--switches", nargs="+", default=["ours"], choices=[*SWITCHES, PLAIN])
    parser.add_argument("--sp", type=int, help="ranks that share a row; all by default")
    parser.add_argument("--pack", type=int, default=1, help="videos in a row, each of --tokens")
    parser.add_argument("--features", action="store_true", help="the tower's features were computed before")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--offload", action="store_true", help="hold what is kept for backward in the host's memory")
    parser.add_argument("--fits", action="store_true", help="one step for its memory; its time has compilation in it")
    parser.add_argument("--profile", action="store_true", help="print where a step's time goes")
    parser.add_argument("--out", type=Path, help="append the results to this file, as JSON lines")
    return parser.parse_args()


class Subject:
    """A model with random weights, sharded over all ranks, that runs steps under different switches."""

    def __init__(self, arguments: argparse.Namespace, device: torch.device, name: str) -> None:
        torch.manual_seed(0)
        gc.collect()
        torch.cuda.empty_cache()
        self.arguments = arguments
        self.plain = name == PLAIN
        self.options = None if self.plain else SWITCHES[name].options_of(arguments)
        with torch.device(device):
            inner = Qwen2_5_VLForConditionalGeneration(_config(arguments.layers))
        self.family = family_of(inner.config)
        prepare(inner, _trainable_parts(arguments.lora))
        for parameter in inner.parameters():
            parameter.data = parameter.data.to(torch.float32 if parameter.requires_grad else torch.bfloat16)
        self.tower = TowerCosts.of(inner, self.family)
        text_config = inner.config.get_text_config()
        self.costs = Costs.of(text_config)
        self.parallel = parallelize(arguments.sp or dist.get_world_size(), text_config, device)
        if self.options is None:
            self.model = _plain_model(inner)
        else:
            self.model = shard_parameters(LongVideoModel(inner, self.parallel, self.options)).train()
        self.optimizer = adamw(self.model, learning_rate=1e-5)

    def serves(self, name: str) -> bool:
        """Whether the model can run this switch without being rebuilt."""
        if self.options is None or name == PLAIN:
            return self.plain and name == PLAIN
        return _build_options(self.options) == _build_options(SWITCHES[name].options_of(self.arguments))

    def measure(self, tokens: int, name: str) -> Measured:
        """Time steps with one row per data-parallel rank, whose videos have about `tokens` tokens each."""
        if self.arguments.fits:
            self._step(SHORT_ROW_TOKENS, name)[2]()  # the first step allocates the moments of AdamW
        example, plan, step = self._step(tokens, name)
        if not self.arguments.fits:
            step()
        torch.cuda.reset_peak_memory_stats()
        seconds = statistics.median(_seconds(step) for _ in range(1 if self.arguments.fits else self.arguments.steps))
        peak, reserved = torch.cuda.max_memory_allocated() / 1e9, torch.cuda.max_memory_reserved() / 1e9
        communication, exposed = (0, 0) if self.arguments.fits else _communication(step, self.arguments.profile)
        rows = self.parallel.dp
        gpu_seconds = seconds * self.parallel.world_size
        return Measured(
            gpus=self.parallel.world_size,
            sp=self.parallel.sp,
            videos=rows * self.arguments.pack,
            tokens=len(example.input_ids),
            frames=len(example.videos[0].frame_times_us),
            layers=self.arguments.layers,
            recomputed=None if self.options is None else self.options.checkpointed_layers,
            mlp_tile_tokens=self.arguments.mlp_tile_tokens,
            offload=self.arguments.offload,
            lora=self.arguments.lora,
            switch=name + (" (features)" if self.arguments.features else ""),
            seconds=round(seconds, 3),
            mfu=round(rows * self._operations(plan) / gpu_seconds / PEAK, 3),
            tokens_per_second_per_gpu=round(rows * len(plan) / gpu_seconds),
            peak_gb=round(peak, 1),
            reserved_gb=round(reserved, 1),
            communication=round(communication / seconds, 3),
            exposed=round(exposed / seconds, 3),
        )

    def _step(self, tokens: int, name: str) -> tuple[Example, SequencePlan, Callable[[], object]]:
        example = _example(self.family, tokens)
        plan = SequencePlan([example] * self.arguments.pack, self.family, self.parallel.layout, self.costs)
        return example, plan, self._plain_step(example) if self.plain else self._our_step(plan, name)

    def _our_step(self, plan: SequencePlan, name: str) -> Callable[[], object]:
        switch = SWITCHES[name]
        self.model.options = switch.options_of(self.arguments)
        share = plan.rank_plan(self.parallel.sp_rank, switch.replicated)
        make = _features if self.arguments.features else _frames
        row = RankInput(share, tuple(make(grid) for grid in share.grids))
        supervised = supervised_tokens([row])
        return lambda: train_step(self.model, self.optimizer, [row], cross_entropy(supervised))

    def _plain_step(self, example: Example) -> Callable[[], object]:
        """Make a step of the plain model.

        The plain model does not accept precomputed features. With `--features` it gets text instead, which is the same
        work for the decoder.
        """
        device, grid = self.parallel.device, example.videos[0].grid
        frames = _frames(grid)
        fixed = {
            "input_ids": example.input_ids[None].to(device),
            "labels": example.labels[None].to(device),
            "position_ids": example.positions[:, None].to(device),
        }
        if self.arguments.features:
            fixed["input_ids"] = torch.full_like(fixed["input_ids"], TEXT_ID)

        def video() -> dict[str, Tensor]:
            patches = self.family.patches(frames.to(device, non_blocking=True)).flatten(0, 1).to(torch.bfloat16)
            return {
                "pixel_values_videos": patches,
                "video_grid_thw": torch.tensor([[grid.t, grid.h, grid.w]], device=device),
            }

        def step() -> None:
            with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]):
                shown = {} if self.arguments.features else video()
                self.model(use_cache=False, **fixed, **shown).loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()

        return step

    def _operations(self, plan: SequencePlan) -> float:
        tower = None if self.arguments.features else self.tower
        return training_flops([plan], self.costs, tower, weights_trainable=self.arguments.lora is None)


def _plain_model(inner: PreTrainedModel) -> PreTrainedModel:
    """Set up the model as it would be trained without this plugin, with the same sharding and data types.

    Raises:
        SystemExit: there is more than one rank.
    """
    if dist.get_world_size() > 1:
        raise SystemExit("the plain model shares no sequence; measure it on one GPU")
    inner.set_attn_implementation("sdpa")
    inner.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for part in [*inner.model.visual.blocks, *inner.model.language_model.layers, inner]:
        fully_shard(part, mp_policy=policy)
    return inner.train()


def _build_options(options: RunOptions) -> tuple[object, ...]:
    """The options that cannot be changed after the model is built."""
    return options.compile, options.checkpointed_layers, options.offload


def _trainable_parts(lora: int | None) -> TrainableParts:
    """Trainable parts: the decoder or LoRA adapters on it; the vision tower and the projector are frozen."""
    if lora is None:
        return TrainableParts(projector=False)
    return TrainableParts(language_model=False, projector=False, lora=Lora(rank=lora, alpha=2 * lora))


def _config(layers: int) -> Qwen2_5_VLConfig:
    """The config.json of Qwen/Qwen2.5-VL-7B-Instruct with a different number of layers."""
    text = {
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": layers,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152_064,
        "max_position_embeddings": 1_048_576,
        "rope_parameters": {"rope_type": "default", "mrope_section": [16, 24, 24], "rope_theta": 1e6},
        "tie_word_embeddings": False,
    }
    vision = {
        "depth": 32,
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "out_hidden_size": 3584,
        "fullatt_block_indexes": [7, 15, 23, 31],
        "window_size": 112,
        "tokens_per_second": 2,
    }
    special = {"video_token_id": 151_656, "vision_start_token_id": 151_652, "vision_end_token_id": 151_653}
    return Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=False, **special)


def _example(family: Family, tokens: int) -> Example:
    """An example with a question, a video of as many frames as fit into `tokens`, and an answer."""
    grid = family.grid(*FRAME, 2 * ((tokens - QUESTION - ANSWER - 2) // FRAME_TOKENS))
    times = tuple(range(0, 2 * grid.t * 500_000, 500_000))
    clip = VideoClip(VideoSource("benchmark", ""), times, FRAME, grid)
    video = [family.vision_start_id, *[family.video_token_id] * (grid.t * FRAME_TOKENS), family.vision_end_id]
    input_ids = torch.tensor([TEXT_ID] * QUESTION + video + [TEXT_ID] * ANSWER)
    labels = torch.where(torch.arange(len(input_ids)) >= len(input_ids) - ANSWER, input_ids, IGNORED)
    return Example("benchmark", input_ids, labels, family.positions(input_ids, [(grid, times)]), (clip,))


def _frames(grid: Grid) -> Tensor:
    return torch.randint(0, 256, (2 * grid.t, *FRAME, 3), dtype=torch.uint8).pin_memory()


def _features(grid: Grid) -> Tensor:
    return torch.randn(grid.t * FRAME_TOKENS, 3584, dtype=torch.bfloat16).pin_memory()


def _seconds(step: Callable[[], object]) -> float:
    torch.cuda.synchronize()
    dist.barrier()
    begun = time.perf_counter()
    step()
    torch.cuda.synchronize()
    dist.barrier()
    return time.perf_counter() - begun


def _communication(step: Callable[[], object], show: bool) -> tuple[float, float]:
    """Seconds in which NCCL kernels run on this rank, and seconds in which no other kernel runs at that time."""
    with profile(activities=[ProfilerActivity.CUDA, *([ProfilerActivity.CPU] if show else [])]) as profiler:
        _seconds(step)
    spans: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
    for event in profiler.events():
        if event.device_type == torch.autograd.DeviceType.CUDA:
            spans["nccl" in event.name.lower()].append((event.time_range.start, event.time_range.end))
    if show:
        _print_on_rank_zero(
            profiler.key_averages().table(sort_by="self_cuda_time_total", row_limit=45, max_name_column_width=80)
        )
    communicating = _union_length(spans[True])
    return communicating / 1e6, (_union_length(chain(spans[True], spans[False])) - _union_length(spans[False])) / 1e6


def _union_length(spans: Iterable[tuple[float, float]]) -> float:
    """Total length of the union of intervals."""
    total, reached = 0.0, float("-inf")
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total


def _print_on_rank_zero(text: str) -> None:
    if dist.get_rank() == 0:
        print(text, flush=True)


if __name__ == "__main__":
    main()

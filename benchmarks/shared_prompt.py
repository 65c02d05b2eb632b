"""Cost of one policy update on a group of responses: a shared prompt against separate sequences, on a CPU.

    python -m benchmarks.shared_prompt [--prompt 4096] [--responses 8] [--length 64] [--chunk 65]

Each schedule runs in a process of its own, in float32 on one thread, with a random text model. Printed are the counted
FLOPs of the decoder and the head, the CPU seconds of forward and backward passes after a warm-up step, and the peak
memory above that of the loaded model. FLOPs and seconds of `separate` are those of one row per response.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time

import torch
import transformers as hf
from torch import Tensor

from trainer_plugin.distributed.mesh import init_distributed, parallelize
from trainer_plugin.distributed.sequence_plan import Layout, SequencePlan
from trainer_plugin.families import family_of
from trainer_plugin.model import LongVideoModel, RankInput, RunOptions, shard_parameters
from trainer_plugin.training.chunked_groups import ChunkedInput, add_chunked_gradients, plan_chunks
from trainer_plugin.training.flops import training_flops
from trainer_plugin.types import IGNORED, Example, PromptGroup

SCHEDULES = ("separate", "shared", "chunked")
VOCABULARY = 2_000


def main() -> None:
    """Run the command line."""
    arguments = _arguments()
    if arguments.schedule:
        print(json.dumps(_measure(arguments)))
        return
    print(
        f"prompt {arguments.prompt}, {arguments.responses} responses of {arguments.length}, torch {torch.__version__}"
    )
    found = {}
    for schedule in SCHEDULES:
        command = [sys.executable, "-m", "benchmarks.shared_prompt", *sys.argv[1:], "--schedule", schedule]
        found[schedule] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        row, first = found[schedule], found["separate"]
        print(
            f"{schedule:9} {row['flops'] / 1e12:7.3f} TFLOP ({first['flops'] / row['flops']:4.1f} x less)  "
            f"{row['seconds']:7.2f} CPU s ({first['seconds'] / row['seconds']:4.1f} x less)  "
            f"{row['peak_bytes'] / 1e6:7.0f} MB"
        )


def _measure(arguments: argparse.Namespace) -> dict[str, float]:
    torch.set_num_threads(1)
    device = init_distributed()
    model = _model(device)
    group = _group(arguments, model)
    base = _peak_bytes()
    step = {"separate": _separate, "shared": _shared, "chunked": _chunked}[arguments.schedule]
    plans = step(model, group, arguments.chunk)
    model.zero_grad()
    began = time.process_time()
    step(model, group, arguments.chunk)
    seconds = time.process_time() - began
    return {"flops": training_flops(plans, model.costs), "seconds": seconds, "peak_bytes": _peak_bytes() - base}


def _separate(model: LongVideoModel, group: PromptGroup, _: int) -> list[SequencePlan]:
    plans = [SequencePlan([one], model.family, Layout(), model.costs) for one in group.split()]
    for plan in plans:
        _loss(*model(RankInput(plan.rank_plan(0), ()))).backward()
    return plans


def _shared(model: LongVideoModel, group: PromptGroup, _: int) -> list[SequencePlan]:
    plan = SequencePlan([group], model.family, Layout(), model.costs)
    _loss(*model(RankInput(plan.rank_plan(0), ()))).backward()
    return [plan]


def _chunked(model: LongVideoModel, group: PromptGroup, chunk: int) -> list[SequencePlan]:
    prompt, chunks = plan_chunks(group, chunk, model.family, Layout(), model.costs)
    whole, *parts = (RankInput(plan.rank_plan(0), ()) for plan in (prompt, *chunks))
    add_chunked_gradients(model, ChunkedInput(whole, tuple(parts)), lambda row, *found: _loss(*found))
    return [prompt, *chunks]


def _loss(log_probs: Tensor, _: Tensor | None) -> Tensor:
    return -log_probs.sum()


def _model(device: torch.device) -> LongVideoModel:
    text = {
        "model_type": "llama",
        "hidden_size": 512,
        "intermediate_size": 1536,
        "num_hidden_layers": 2,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 1 << 18,
        "pad_token_id": 0,
    }
    vision = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = hf.SmolVLMConfig(
        text_config=text, vision_config={**vision, "image_size": 32, "patch_size": 4}, scale_factor=4, pad_token_id=0
    )
    torch.manual_seed(0)
    inner = hf.SmolVLMForConditionalGeneration(config).float()
    family_of(config).vision_tower(inner).requires_grad_(False)
    context = parallelize(1, config.get_text_config(), device, Layout())
    return shard_parameters(LongVideoModel(inner, context, RunOptions()), compute=None).train()


def _group(arguments: argparse.Namespace, model: LongVideoModel) -> PromptGroup:
    ids = torch.randint(2, VOCABULARY - 400, (arguments.prompt,))
    prompt = Example("prompt", ids, torch.full_like(ids, IGNORED), model.family.positions(ids, []))
    lengths = [arguments.length] * arguments.responses
    return PromptGroup(prompt, tuple(torch.randint(2, VOCABULARY - 400, (length,)) for length in lengths))


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompt", type=int, default=4096, help="tokens of the prompt")
    parser.add_argument("--responses", type=int, default=8)
    parser.add_argument("--length", type=int, default=64, help="tokens of each response")
    parser.add_argument("--chunk", type=int, default=65, help="tokens of a chunk of responses")
    parser.add_argument("--schedule", choices=SCHEDULES, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()

"""Computes log-probabilities of a prompt with a video in vLLM.

The script runs under the Python of vLLM's environment (`VLLM_PYTHON`), which does not need this project:

python vllm_log_probs.py REQUEST.json ANSWER.json
"""

import json
import os
import sys
from pathlib import Path

os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"
os.environ["TRITON_F32_DEFAULT"] = "ieee"  # Triton's matrix products of float32 have 10 bits of mantissa otherwise


def drops_metadata(model: Path) -> bool:
    """Whether this vLLM drops the metadata that come with a video of this model, and with them the frame rate.

    Since 0.31 it gives those of Qwen2.5-VL to transformers' processor, and a second `video_metadata` is an error.
    """
    import vllm
    from packaging.version import Version

    model_type = json.loads((model / "config.json").read_text())["model_type"]
    return model_type == "qwen2_5_vl" and Version(vllm.__version__) < Version("0.31")


def main(request_file: Path, answer: Path) -> None:
    import numpy as np
    from vllm import LLM, SamplingParams

    request = json.loads(request_file.read_text())
    frames = np.load(request["frames"])
    metadata = {
        "fps": request["fps"],
        "duration": len(frames) / request["fps"],
        "total_num_frames": len(frames),
        "frames_indices": list(range(len(frames))),
        "video_backend": "opencv",
    }
    settings = {"fps": request["fps"], "do_sample_frames": False}
    if drops_metadata(Path(request["folder"])):
        settings["video_metadata"] = [metadata]
    model = LLM(
        request["folder"],
        limit_mm_per_prompt={"video": 1, "image": 0},
        max_model_len=1024,
        gpu_memory_utilization=0.1,
        kv_cache_memory_bytes=1 << 28,
        enforce_eager=True,
        dtype="float32",
    )
    prompt = {
        "prompt_token_ids": request["input_ids"],
        "multi_modal_data": {"video": [(frames, {**metadata, "do_sample_frames": False})]},
        "mm_processor_kwargs": settings,
    }
    [found] = model.generate([prompt], SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0))
    seen = zip(found.prompt_token_ids, found.prompt_logprobs, strict=True)
    log_probs = [None if each is None else each[token].logprob for token, each in seen]
    answer.write_text(json.dumps({"input_ids": list(found.prompt_token_ids), "log_probs": log_probs}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

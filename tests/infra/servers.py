"""Real servers of the stack, as processes on free ports of loopback, with the files of infra/."""

import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml

from tests.infra.tools import INFRA, tool
from tests.support.harness import Client
from tests.support.ports import free_port
from tests.support.waiting import eventually


@contextmanager
def process(
    command: Sequence[str | Path],
    log: Path,
    *,
    cwd: Path | None = None,
    env: dict[str, str] | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program until the block ends; what it prints goes to `log`."""
    with log.open("wb") as output:
        started = subprocess.Popen(command, stdout=output, stderr=output, cwd=cwd, env=env)
    try:
        yield started
    finally:
        started.terminate()
        try:
            started.wait(20)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()


def until_answering(client: Client, path: str, log: Path, *, within_s: float = 30) -> None:
    """Wait for a 200; fail with the log."""

    def answers() -> bool:
        try:
            return client.get(path).status == 200
        except OSError:
            return False

    try:
        eventually(answers, within_s=within_s)
    except AssertionError as exc:
        raise AssertionError(f"{exc}\n{log.read_text(errors='replace')}") from exc


@contextmanager
def nginx(upstream_port: int, folder: Path) -> Iterator[Client]:
    """Run infra/nginx.conf; only where it listens, where the API is and its folder differ."""
    port = free_port()
    text = (INFRA / "nginx.conf").read_text()
    for there, here in (
        ("listen 8080;", f"listen 127.0.0.1:{port};"),
        ("set $api api:8000;", f"set $api 127.0.0.1:{upstream_port};"),
        (" /tmp/", f" {folder}/"),
    ):
        assert there in text
        text = text.replace(there, here)
    config, log = folder / "nginx.conf", folder / "nginx.log"
    config.write_text(text)
    # `-p`: the compiled-in prefix may be a folder that is not ours.
    command: list[str | Path] = [
        tool("nginx"), "-p", folder, "-e", "stderr", "-c", config, "-g", "daemon off;",
    ]  # fmt: skip
    with process(command, log):
        client = Client(port)
        until_answering(client, "/proxy-health", log)
        yield client


class Prometheus(Client):
    """Its HTTP API."""

    def ask(self, path: str) -> Any:
        answered = self.get(f"/api/v1/{path}").json()
        assert answered["status"] == "success", f"{path}: {answered}"
        return answered["data"]

    def query(self, promql: str) -> list[dict[str, Any]]:
        """Return the samples of a query now. Fails where it does not parse."""
        samples: list[dict[str, Any]] = self.ask(f"query?query={quote(promql)}")["result"]
        return samples


def _with_static_targets(job: dict[str, Any], targets: Mapping[str, int]) -> dict[str, Any]:
    """Return a job of prometheus.yml with ports of loopback in place of names in Docker's DNS."""
    kept = {k: v for k, v in job.items() if not k.endswith("_sd_configs")}
    static = [
        {"targets": [f"127.0.0.1:{targets[name]}"], "labels": {"__meta_dns_name": name}}
        for config in job.get("dns_sd_configs", [])
        for name in config["names"]
        if name in targets
    ]
    return {**kept, "static_configs": static or kept.get("static_configs", [])}


@contextmanager
def prometheus(targets: Mapping[str, int], folder: Path) -> Iterator[Prometheus]:
    """Run infra/prometheus with `targets`, ports by name in Docker; scrape every second."""
    port = free_port()
    config = yaml.safe_load((INFRA / "prometheus/prometheus.yml").read_text())
    jobs = [_with_static_targets(job, targets) for job in config["scrape_configs"]]
    assert jobs[0]["static_configs"] == [{"targets": ["localhost:9090"]}]
    jobs[0]["static_configs"] = [{"targets": [f"127.0.0.1:{port}"]}]
    config |= {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(INFRA / "prometheus" / name) for name in config["rule_files"]],
        "scrape_configs": jobs,
    }
    path, log = folder / "prometheus.yml", folder / "prometheus.log"
    path.write_text(json.dumps(config))
    command = [
        tool("prometheus"), f"--config.file={path}", f"--storage.tsdb.path={folder / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{port}", "--enable-feature=exemplar-storage",
    ]  # fmt: skip
    with process(command, log):
        server = Prometheus(port)
        until_answering(server, "/-/ready", log)
        yield server

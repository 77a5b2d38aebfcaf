"""schemathesis over the whole OpenAPI document: no server error, nothing undocumented."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.engine import FakeEngine
from tests.support.harness import Client

PYTHON = Path(sys.prefix) / "schemathesis" / "bin" / "python"
# What a body or header may be beyond its schema is told in words: such refusals are no findings.
# Health routes say 503 by design: what they say is not an error of theirs.
CONFIG = """
[checks]
negative_data_rejection.enabled = false
positive_data_acceptance.enabled = false
missing_required_header.enabled = false
unsupported_method.enabled = false

[[operations]]
include-path-regex = "^/health/(ready|gpu)"
checks.not_a_server_error.expected-statuses = ["2xx", "4xx", 503]
checks.status_code_conformance.enabled = false
"""


def test_schema_holds_for_whatever_is_asked(
    client: Client, engine: FakeEngine, tmp_path: Path
) -> None:
    if not PYTHON.exists():
        pytest.skip("schemathesis is not installed: make .venv/schemathesis")
    config = tmp_path / "schemathesis.toml"
    config.write_text(CONFIG)
    command = [str(PYTHON), "-m", "schemathesis.cli", "--config-file", str(config)]
    command += ["run", f"{client.url}/schema", "--phases", "examples,coverage,fuzzing"]
    command += ["--max-examples", "10", "--seed", "1"]
    done = subprocess.run(
        [*command, "--no-shrink", "--continue-on-failure"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-1000:]
    assert "Test cases:" in done.stdout
    assert client.get("/health").status == 200

"""Builds in a process of their own, which a test may stop at a stage."""

import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).parents[3]


def start(index_dir: Path, corpus: Path, stage: str, action: str) -> subprocess.Popen[str]:
    script = [sys.executable, "-m", "tests.retrieval.build.build_in_steps"]
    return subprocess.Popen(
        [*script, str(index_dir), str(corpus), stage, action],
        cwd=REPO,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )

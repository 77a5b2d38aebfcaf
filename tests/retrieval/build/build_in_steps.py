"""Run as a script by the tests: a build that stops dead, or says so, at one step.

build_in_steps.py INDEX_DIR CORPUS STAGE ACTION
"""

import os
import resource
import signal
import subprocess
import sys
import time

from retrieval.build import assembly
from retrieval.build.build import build_index
from retrieval.types import RetrievalError
from tests.retrieval.fakes import FakeEmbedder


def main(index_dir: str, corpus: str, stage: str, action: str) -> None:
    def stop() -> None:
        if action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif action == "wait":
            print("waiting", flush=True)
            time.sleep(60)

    def on_progress(now: str, done: int, total: int) -> None:
        if now == stage:
            stop()

    def before(name: str) -> None:
        """Stop at a system call of the last steps instead of at a stage."""
        real = getattr(os, name)

        def stopping(*args: object) -> object:
            stop()
            return real(*args)

        setattr(os, name, stopping)

    if stage in ("fsync", "rename", "replace"):
        before(stage)
    if stage == "process":
        assembly.INLINE_PASSAGES = 0
        entered = subprocess.Popen.__enter__

        def stopping(child: subprocess.Popen[bytes]) -> subprocess.Popen[bytes]:
            stop()
            return entered(child)

        subprocess.Popen.__enter__ = stopping  # type: ignore[method-assign, assignment]
    if action == "limit":
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
    try:
        report = build_index(index_dir, [corpus], FakeEmbedder(), on_progress=on_progress)
        print(report.generation)
    except RetrievalError as exc:
        sys.exit(f"{type(exc).__name__}: {exc}")


main(*sys.argv[1:])

"""Run benches one after another, each in a process of its own; fail where one crashes or is silent.

python -m bench.run [NAME…]                 all of BENCHES where none is named
BENCH_SMOKE=1 python -m bench.run           each at its smallest, three at a time
"""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.support.serving import BUILT, index_page
from bench.support.sizes import at_size

BENCHES = (
    "relay", "scale", "hits", "door", "overload", "batch", "swaps", "remember", "soak",
    "retrieval", "caching", "rebuild", "citing",
)  # fmt: skip


def run(name: str, environ: dict[str, str]) -> bool:
    """Print what a bench prints; False where it crashes or prints no row of a table."""
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", f"bench.{name}"],
        env=os.environ | environ, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    n_rows = sum(line.startswith("|") for line in done.stdout.splitlines()) - 2
    is_good = done.returncode == 0 and n_rows > 0
    verdict = "" if is_good else f", FAILED: exit code {done.returncode}, {max(0, n_rows)} rows"
    print(f"## {name}: {time.monotonic() - started:.0f} s{verdict}\n\n{done.stdout}", flush=True)
    return is_good


def main() -> None:
    names = sys.argv[1:] or BENCHES
    with TemporaryDirectory() as folder:
        index_page(Path(folder) / "index")  # once, for all of them
        environ = {BUILT: f"{folder}/index"}
        with ThreadPoolExecutor(at_size(1, 3)) as pool:
            verdicts = list(pool.map(lambda name: run(name, environ), names))
    if not all(verdicts):
        bad = (name for name, is_good in zip(names, verdicts, strict=True) if not is_good)
        sys.exit(f"failed: {', '.join(bad)}")


if __name__ == "__main__":
    main()

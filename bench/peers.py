"""Other projects' parts beside ours, in one run on the same data: tables in markdown.

python -m bench.peers [NAME | NAME=DATA]…      all of PEERS where none is named

Each peer is installed into a throw-away environment under .venv/peers/ and runs in a process of
its own there: ours stays as it is. `make clean` removes them.
"""

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from bench import peers_cache, peers_relay, peers_retrieval
from bench.support.tables import print_header

HOME = Path(sys.prefix) / "peers"
INSTALL_S = 600.0

Install = Callable[..., Path]
"""`install`, below."""
Tables = Callable[[Install, Path | None], Iterator[str]]


def retrieval(_: Install, squad: Path | None) -> Iterator[str]:
    """Haystack; it brings an environment of its own."""
    data = squad or peers_retrieval.DATA
    try:
        yield peers_retrieval.bench(data) if data.exists() else f"no SQuAD file at {data}"
    except subprocess.CalledProcessError as exc:
        yield f"{peers_retrieval.HAYSTACK} left out: {exc}"


PEERS: dict[str, Tables] = {
    "cache": peers_cache.tables,
    "relay": peers_relay.tables,
    "retrieval": retrieval,
}
"""By name: yields its tables; gets `install` and what was named behind the "=", if anything."""


def install(name: str, requirements: Sequence[str], *, whole: bool = False) -> Path:
    """Return the python of the environment `name` with exactly these packages.

    `whole`: and with all that they require. An environment is made once for a list of
    requirements. Raises RuntimeError with the last line of what pip said.
    """
    home, wanted = HOME / name, "\n".join(requirements)
    python, stamp = home / "bin" / "python", home / "requirements.txt"
    if stamp.exists() and stamp.read_text() == wanted:
        return python
    for command in (
        [sys.executable, "-m", "venv", "--clear", str(home)],
        [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
         *([] if whole else ["--no-deps"]), *requirements],
        [str(python), "-m", "pip", "--disable-pip-version-check", "check"],
    ):  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_S)
        if done.returncode:
            said = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()
            raise RuntimeError(f"cannot be installed: {said[-1]}")
    stamp.write_text(wanted)
    return python


def main(arguments: Sequence[str]) -> None:
    print_header()
    for argument in arguments or list(PEERS):
        name, _, data = argument.partition("=")
        if name not in PEERS:
            sys.exit(f"no peers {name!r}; there are: {', '.join(PEERS)}")
        for table in PEERS[name](install, Path(data) if data else None):
            print(table, end="\n\n", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])

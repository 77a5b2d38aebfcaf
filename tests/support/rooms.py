"""The rooms of the code and the imports between them, read from the source: `make map`.

A room is a package of `api` or `retrieval`, or a module beside them. An arrow is an import from
one room to another, those inside functions and under TYPE_CHECKING included.
"""

import ast
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("api", "retrieval")
MOST_LINES = 300
_PACKAGE_OF = {"→": "api", "|": "retrieval"}
"""How docs/architecture.md tells apart whose rooms follow."""
SCRIPTS = (*PACKAGES, "tests", "bench", "infra")

Arrows = Mapping[str, frozenset[str]]
"""By room: the rooms it imports."""


def sources(*folders: str) -> list[Path]:
    """Return every Python file below these folders of the project."""
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def room_of(module: str) -> str:
    return ".".join(module.split(".")[:2])


@cache
def imports() -> dict[str, frozenset[str]]:
    """By module of both packages: the modules of both packages that it imports."""
    modules = {module_of(path): path for path in sources(*PACKAGES)}
    found = {}
    for module, path in modules.items():
        names = _imported(ast.parse(path.read_text()))
        # `from api.cache import store` names a module, `from api.cache.store import Store` a name.
        known = {name if name in modules else name.rpartition(".")[0] for name in names}
        found[module] = frozenset((known & modules.keys()) - {module, *PACKAGES})
    return found


def _imported(tree: ast.Module) -> Iterable[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def arrows() -> Arrows:
    """Return the imports between rooms; every room is a key."""
    between: dict[str, set[str]] = {
        room_of(module): set() for module in imports() if module not in PACKAGES
    }
    for module, targets in imports().items():
        if module not in PACKAGES:
            between[room_of(module)] |= {room_of(target) for target in targets}
    return {room: frozenset(targets - {room}) for room, targets in between.items()}


def circles(arrows: Arrows) -> list[list[str]]:
    """Return the groups of rooms that import each other, directly or around a corner."""
    reached = {room: _reachable(room, arrows) for room in arrows}
    groups = {
        tuple(sorted(other for other in reached[room] if room in reached[other]))
        for room in arrows
        if room in reached[room]
    }
    return [list(group) for group in sorted(groups)]


def _reachable(room: str, arrows: Arrows) -> set[str]:
    seen: set[str] = set()
    waiting = list(arrows[room])
    while waiting:
        other = waiting.pop()
        if other not in seen:
            seen.add(other)
            waiting += arrows[other]
    return seen


def longest_chain(arrows: Arrows) -> list[str]:
    """Return the longest way along arrows, from a room to one it needs; [] with a circle."""
    if circles(arrows):
        return []

    @cache
    def chain(room: str) -> list[str]:
        below = [chain(other) for other in sorted(arrows[room])]
        return [room, *max(below, key=len, default=[])]

    return max((chain(room) for room in sorted(arrows)), key=len)


def allowed() -> Arrows:
    """Return who may import whom, as docs/architecture.md lists it."""
    page = (ROOT / "docs/architecture.md").read_text()
    block = page.split("## Who may import whom", 1)[1].split("```", 2)[1]
    rooms: dict[str, set[str]] = {}
    room = package = ""
    for line in filter(None, block.splitlines()):
        if not line.startswith(" "):
            room, line = line.split(maxsplit=1)
            room = room if "." in room else f"api.{room}"
        for word in line.split():
            package = _PACKAGE_OF.get(word, package)
            if word not in _PACKAGE_OF:
                rooms.setdefault(room, set()).add(f"{package}.{word}")
    return {room: frozenset(targets) for room, targets in rooms.items()}


def long_files() -> list[str]:
    """Return the Python files of ours that have too many lines."""
    return [
        path.relative_to(ROOT).as_posix()
        for path in sources(*SCRIPTS)
        if len(path.read_text().splitlines()) > MOST_LINES
    ]


def entries(folder: str) -> tuple[int, int]:
    """Return how many files and how many packages somebody sees who opens a folder."""
    found = [path for path in (ROOT / folder).iterdir() if not path.name.startswith("_")]
    packages = [path for path in found if (path / "__init__.py").exists()]
    return sum(path.is_file() for path in found), len(packages)


def main() -> None:
    from api.settings.env import variables

    between = arrows()
    chain = longest_chain(between)
    n_arrows = sum(map(len, between.values()))
    own = {
        room: {other for other in targets if other.startswith("retrieval")}
        for room, targets in between.items()
        if room.startswith("retrieval")
    }
    for room, targets in sorted(between.items()):
        print(f"{room} → {' '.join(sorted(targets))}")
    print()
    print(f"arrows between rooms: {n_arrows}")
    print(f"longest chain: {len(chain)} ({' → '.join(chain)})")
    print(f"circles: {len(circles(between))} {circles(between) or ''}")
    print("entries of api/: {} files, {} packages".format(*entries("api")))
    print(f"retrieval: {len(own)} rooms, {sum(map(len, own.values()))} arrows")
    print(f"files over {MOST_LINES} lines: {len(long_files())} {long_files() or ''}")
    print(f"settings: {sum(1 for _ in variables())}")


if __name__ == "__main__":
    main()

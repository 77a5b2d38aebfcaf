"""docs/settings.md and .env.example, made from the structs of settings: `make settings`."""

from api.settings.env import FALLBACKS, REMOVED, Variable, variables
from tests.support.rooms import ROOT

PAGE = ROOT / "docs/settings.md"
EXAMPLE = ROOT / ".env.example"
COMPOSE_ALONE = "# For compose.yaml alone\n"

_HEAD = """\
# Settings

Environment variables. A value out of its range, or a name that is nearly one of these, stops the
start and is named. Secrets can be given as a file instead: `NAME_FILE=/run/secrets/name`. A model
is a hub id, `NAME@COMMIT` or a folder. `.env.example` lists them all.

| variable | default | |
|---|---|---|
"""


def shown_default(variable: Variable) -> str:
    default = "" if variable.default is None else variable.default
    return str(default).lower() if isinstance(default, bool) else str(default)


def page() -> str:
    """Return docs/settings.md as it must be."""
    rows = [
        f"| `{v.name}` | {f'`{shown_default(v)}`' if shown_default(v) else ''} | {v.description} |"
        for v in variables()
    ]
    fallbacks = [
        f"`{other}` is used where `{ours}` is not set." for ours, other in FALLBACKS.items()
    ]
    removed = [f"- `{name}`: {instead}" for name, instead in REMOVED.items()]
    parts = ["\n".join(rows), *fallbacks, "## No longer settings", "\n".join(removed)]
    return _HEAD + "\n\n".join(parts) + "\n"


def example() -> str:
    """Return the part of .env.example that is not compose.yaml's own."""
    lines = ["# Every setting with its default. Copy to .env and change what you need.", ""]
    for variable in variables():
        lines += [f"# {variable.description}", f"#{variable.name}={shown_default(variable)}", ""]
    return "\n".join(lines)


def main() -> None:
    PAGE.write_text(page())
    compose = EXAMPLE.read_text().partition(COMPOSE_ALONE)[2]
    EXAMPLE.write_text(example() + COMPOSE_ALONE + compose)


if __name__ == "__main__":
    main()

"""The services of every stack that compose.yaml can be."""

from collections.abc import Iterator
from typing import Any

from tests.infra.tools import ENGINES, INFRA, ROOT, compose

COMPOSE_FILES = sorted(
    [ROOT / "compose.yaml", *INFRA.glob("compose.*.yaml"), *INFRA.glob("engine-*.yaml")]
)
OVERRIDES = ("infra/compose.gpu.yaml", "infra/compose.hybrid.yaml")


def services() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield (engine, name, service) of every stack that compose.yaml can be."""
    for engine in ENGINES:
        for name, service in compose(ENGINE=engine)["services"].items():
            yield engine, name, service
    for override in OVERRIDES:
        for name, service in compose(override)["services"].items():
            yield "tgi", name, service


def environment(service: dict[str, Any]) -> dict[str, str | None]:
    return dict(service.get("environment") or {})

"""GET /health and its details, and /metrics."""

import time
from typing import Any

import msgspec
from litestar import Request, Response, Router, get
from litestar.datastructures import State
from prometheus_client.exposition import choose_encoder

from api.admission.door import DoorState
from api.admission.limits import NO_COST
from api.cache.answer_cache import CacheStats
from api.embedded.children import ChildState
from api.engines.client import Engine
from api.engines.gpu import Gpu, NoGpu, read_gpu
from api.health import Check, Health
from api.http.admit import admitting
from api.http.edge import headers_of
from api.runtime.service import Service


class Alive(msgspec.Struct, frozen=True):
    status: str = "ok"


class IndexStats(msgspec.Struct, frozen=True):
    generation: str
    created_at: str
    documents: int
    passages: int
    embedding_model: str


class EngineStats(msgspec.Struct, frozen=True):
    name: str
    model: str
    context_tokens: int | None
    in_flight: int
    failures: int
    """In a row, as seen by questions; it is left alone for a while that doubles with each."""
    check: Check


class QueueStats(msgspec.Struct, frozen=True):
    """In front of the engine."""

    in_use: int
    waiting: int


class LedgerStats(msgspec.Struct, frozen=True, kw_only=True):
    fail_mode: str
    is_down: bool
    counts_here: bool
    """The ledger is down and this process counts for itself."""
    unfolded_eur: float
    """Counted here, to be told to the ledger when it is back."""
    waiting_settlements: int
    dropped_settlements: int


class Stats(msgspec.Struct, frozen=True):
    status: str
    uptime_s: float
    checks: dict[str, Check]
    index: IndexStats | None
    engines: list[EngineStats]
    queue: QueueStats
    door: DoorState
    ledger: LedgerStats
    cache: CacheStats | None
    """null where CACHE_ENABLED is false."""
    children: list[ChildState]
    """The processes of the embedded default; empty elsewhere."""


@get("/health", summary="Is the process alive?")
async def get_health() -> Alive:
    return Alive()


@get("/health/ready", summary="Can this instance answer? Local parts decide", responses=None)
async def get_ready(state: State) -> Response[Health]:
    health = await state.service.health()
    ready = health.status == "ok"
    headers = {} if ready else {"Retry-After": "2"}
    return Response(health, status_code=200 if ready else 503, headers=headers)


@get(
    "/health/stats",
    before_request=admitting("admin", "query", NO_COST),
    summary="What this instance knows of itself",
)
async def get_stats(state: State) -> Stats:
    service: Service = state.service
    health = await service.health()
    engines = service.engines
    return Stats(
        status=health.status,
        uptime_s=round(time.monotonic() - service.started, 1),
        checks=health.checks,
        index=_index_stats(service),
        engines=[_engine_stats(service, engine) for engine in engines.all],
        queue=QueueStats(service.queue.in_use, service.queue.waiting),
        door=service.door.state(),
        ledger=_ledger_stats(service),
        cache=service.cache.stats() if service.cache else None,
        children=service.embedded.states() if service.embedded else [],
    )


def _ledger_stats(service: Service) -> LedgerStats:
    ledger = service.spending.ledger
    return LedgerStats(
        fail_mode=ledger.fail_mode,
        is_down=ledger.is_down,
        counts_here=ledger.is_open_mode,
        unfolded_eur=ledger.book.unfolded / 1e6,
        waiting_settlements=ledger.settlements.n_waiting,
        dropped_settlements=ledger.settlements.dropped,
    )


def _engine_stats(service: Service, engine: Engine) -> EngineStats:
    return EngineStats(
        name=engine.name,
        model=engine.model,
        context_tokens=engine.context_tokens,
        in_flight=engine.in_flight,
        failures=service.engines.failures(engine.name),
        check=service.checks.engine_checks[engine.name],
    )


def _index_stats(service: Service) -> IndexStats | None:
    index = service.loader.index
    if index is None:
        return None
    manifest = index.manifest
    return IndexStats(
        generation=index.generation,
        created_at=manifest.created_at,
        documents=manifest.counts.documents,
        passages=manifest.counts.passages,
        embedding_model=manifest.embedding.model_id,
    )


class GpuHealth(msgspec.Struct, frozen=True, kw_only=True):
    gpu: Gpu | None = None
    reason: str | None = None
    """Why there is nothing to tell of a GPU."""


@get("/health/gpu", summary="Memory of the GPU, as its exporter tells", responses=None)
async def get_gpu(state: State) -> Response[GpuHealth]:
    service: Service = state.service
    try:
        gpu = await read_gpu(service.session, service.settings.engine.gpu_exporter_url)
    except NoGpu as none:
        return Response(GpuHealth(reason=str(none)), status_code=503)
    return Response(GpuHealth(gpu=gpu))


@get("/metrics", summary="Prometheus metrics", media_type="text/plain")
async def get_metrics(request: Request[Any, Any, Any]) -> Response[Any]:
    # OpenMetrics, with exemplars, for a scraper that asks for it; else the plain text format.
    accepts = headers_of(request.scope).get("accept", "")
    generate, content_type = choose_encoder(accepts)
    registry = request.app.state.service.metrics.registry
    return Response(generate(registry), headers={"Content-Type": content_type})


router = Router(
    path="/",
    route_handlers=[get_health, get_ready, get_stats, get_gpu, get_metrics],
    tags=["operations"],
)

"""Make engines, queue, door and spending from the settings. Connections open when first used."""

from collections.abc import Callable

import aiohttp

from api.admission.caller import Limit
from api.admission.door import NO_LIMITS, Door, Rules
from api.admission.limits import Limits
from api.answering.spending import LEASE_MARGIN_S, Spending, common_scope, fail_mode, price_table
from api.embedded.children import Embedded
from api.embedded.llama import SLOTS
from api.engines.client import Engine, EngineLimits
from api.engines.pool import Engines
from api.engines.queue import EngineQueue
from api.ledger.ledger import Ledger
from api.settings.env import EngineAddress, Settings, SettingsError
from api.settings.groups import LimitSettings
from api.stores.calls import RedisCalls
from api.telemetry.metrics import Metrics

CONCURRENT = 64
"""Answers at a time on an engine that batches: half of what TGI takes before it refuses."""


def open_engines(
    session: aiohttp.ClientSession, settings: Settings, embedded: Embedded | None
) -> Engines:
    engine, addresses = settings.engine, settings.engine_addresses()
    if embedded:
        addresses = [EngineAddress("embedded", "embedded", embedded.engine_url)]
    limits = EngineLimits(
        connect_s=engine.connect_seconds,
        first_token_s=engine.first_token_seconds,
        token_s=engine.token_seconds,
    )
    return Engines(
        [
            Engine(
                session,
                kind=address.kind,
                name=address.name,
                url=address.url,
                model=embedded.model if embedded else settings.pipeline.model_name,
                api_key=embedded.engine_key if embedded else engine.api_key,
                limits=limits,
            )
            for address in addresses
        ]
    )


def open_queue(settings: Settings) -> EngineQueue:
    engine, n_engines = settings.engine, len(settings.engine_addresses())
    return EngineQueue(
        max_concurrent=engine.max_concurrent or (CONCURRENT * n_engines or SLOTS),
        max_waiting=engine.queue,
        wait_s=engine.queue_seconds,
    )


def open_door(settings: Settings, calls: RedisCalls) -> Door:
    """Raises SettingsError."""
    auth, limit = settings.auth, settings.limit
    is_limited = limit.enabled
    if is_limited is None:
        is_limited = bool(settings.engine_addresses())
    rules = Rules(
        limits=_limits(limit) if is_limited else NO_LIMITS,
        fail_mode="closed" if fail_mode(settings) == "closed" else "open",
        trusted_proxies=tuple(filter(None, map(str.strip, limit.trusted_proxies.split(",")))),
        failures_per_minute=limit.failed_keys_per_minute,
    )
    key = auth.api_key.encode() if auth.enabled else None
    try:
        return Door(calls, rules, api_key=key, pepper=auth.key_pepper.encode())
    except ValueError as exc:
        raise SettingsError(f"LIMIT_TRUSTED_PROXIES or AUTH_API_KEY: {exc}") from exc


def open_spending(settings: Settings, calls: RedisCalls, metrics: Metrics) -> Spending:
    """Raises SettingsError."""
    mode = "closed" if fail_mode(settings) == "closed" else "open"
    return Spending(
        ledger=Ledger(calls, fail_mode=mode),  # type: ignore[arg-type]
        prices=price_table(settings),
        common=common_scope(settings.ledger),
        lease_s=settings.api.deadline_seconds + LEASE_MARGIN_S,
        metrics=metrics,
    )


def _limits(settings: LimitSettings) -> Limits:
    tokens = settings.tokens_per_minute
    answering: Callable[[int], Limit] = lambda n: Limit(requests=n, tokens=tokens)  # noqa: E731
    return {
        "query": answering(settings.query_per_minute),
        "stream": answering(settings.query_per_minute),
        "ab": answering(settings.query_per_minute),
        "openai": answering(settings.query_per_minute),
        "batch": answering(settings.batch_per_minute),
        "analytics": Limit(requests=settings.admin_per_minute),
        "admin": Limit(requests=settings.admin_per_minute),
        "search": Limit(requests=settings.search_per_minute),
        "documents": Limit(requests=settings.documents_per_minute),
    }

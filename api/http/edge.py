"""The outermost ASGI layer: request id, record, access log, metrics, trace.

It wraps the framework, so that 404, 405 and what fails before routing is seen too, and it ends
when the last byte is sent, so that the outcome of a stream is known.
"""

import os
import re
import time
from collections.abc import Mapping
from typing import Any

from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from api.logs import write_request
from api.runtime.service import Service
from api.telemetry.record import Record

_GIVEN_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_QUIET = {"/", "/page/{name:path}", "/health", "/health/ready", "/metrics"}


def record_of(scope: Any) -> Record:
    record: Record = scope["state"]["record"]
    return record


class Edge:
    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self.service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): v.decode("latin-1") for name, v in scope["headers"]}
        record = Record(request_id=_request_id(headers), started=time.monotonic())
        own = {"record": record, "send": send, "headers": headers}
        scope["state"] = {**scope.get("state", {}), **own}
        request_id = (b"x-request-id", record.request_id.encode())

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                message["headers"] = [*message.get("headers", ()), request_id, *record.headers]
            await send(message)

        tracer = self.service.tracer
        if tracer is not None:
            tracer.begin(scope["method"], headers, record)
        try:
            await self._app(scope, receive, send_with_id)
        finally:
            self._end(scope, record)
            if tracer is not None:
                tracer.end(scope["method"], record)

    def _end(self, scope: Any, record: Record) -> None:
        record.endpoint = scope.get("path_template") or "unmatched"
        self.service.metrics.observe(scope["method"], record)
        if record.answers:
            admitted = scope["state"].get("admitted")
            self.service.log_answer(record, admitted.caller if admitted else None)
        level = 10 if record.endpoint in _QUIET else 20
        facts: dict[str, object] = {
            "request_id": record.request_id,
            "method": scope["method"],
            "endpoint": record.endpoint,
            "status": record.status,
            "outcome": record.outcome or "ok",
            "ms": round(record.elapsed_ms(), 1),
        }
        if record.trace_id:
            facts["trace_id"] = record.trace_id
        if record.error:
            facts["error"] = record.error
        if record.stages_ms:
            facts["stages_ms"] = {name: round(ms, 1) for name, ms in record.stages_ms.items()}
        write_request(level, facts)


def headers_of(scope: Any) -> Mapping[str, str]:
    """Return the request's headers by lower-case name, the last of a name; read once."""
    headers: Mapping[str, str] = scope["state"]["headers"]
    return headers


def _request_id(headers: Mapping[str, str]) -> str:
    """Take the client's id over if it is harmless, else make one."""
    given = headers.get("x-request-id", "")
    return given if _GIVEN_ID.fullmatch(given) else os.urandom(16).hex()

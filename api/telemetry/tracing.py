"""OpenTelemetry traces: a span for each request, one below it for each stage.

Spans are made when a request has ended, from its record: answering costs nothing more but the
clock. Off unless OTEL_EXPORTER_OTLP_ENDPOINT is set; only then is the library imported.
"""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from api.settings.env import SettingsError
from api.settings.groups import TelemetrySettings
from api.telemetry.record import Record, traceparent

RECENT = 10_000
CLOSE_MS = 2000
SPAN_NAMES = {"embed": "embeddings", "generation": "chat"}
"""The stages that have a name in the GenAI conventions; the others go by their own."""


class Tracer:
    """Opens and ends spans. `endpoint` is the base address of an OTLP/HTTP collector."""

    def __init__(self, endpoint: str, *, service_name: str, sample_ratio: float) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces", timeout=2)
        self._provider = TracerProvider(
            sampler=ParentBasedTraceIdRatio(sample_ratio),
            resource=Resource.create({"service.name": service_name}),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("ragrelay")
        self._propagator = TraceContextTextMapPropagator()
        self._recent: OrderedDict[str, Any] = OrderedDict()
        """Span contexts by request id: who shared an answer links to its maker."""

    def begin(self, method: str, headers: Mapping[str, str], record: Record) -> None:
        """Open the request's span, below the client's own where it sent one."""
        from opentelemetry.trace import SpanKind, set_span_in_context

        parent = self._propagator.extract(headers)
        span = self._tracer.start_span(method, context=parent, kind=SpanKind.SERVER)
        record.trace = span
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier, set_span_in_context(span))
        traceparent.set(carrier["traceparent"])
        context = span.get_span_context()
        if context.trace_flags.sampled:
            record.trace_id = format(context.trace_id, "032x")
            self._recent[record.request_id] = context
            while len(self._recent) > RECENT:
                self._recent.popitem(last=False)

    def end(self, method: str, record: Record) -> None:
        from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context

        span = record.trace
        if span.is_recording():
            span.update_name(f"{method} {record.endpoint}")
            span.set_attributes(_request_attributes(method, record))
            if record.status >= 500 or record.outcome in ("engine_error", "timeout"):
                span.set_status(Status(StatusCode.ERROR, record.error))
            if record.shared_from in self._recent:
                span.add_link(self._recent[record.shared_from])
            below = set_span_in_context(span)
            for stage, (ended_ns, ms) in record.spans.items():
                is_chat = stage == "generation"
                name = SPAN_NAMES.get(stage, stage)
                child = self._tracer.start_span(
                    f"{name} {record.model}" if is_chat else name,
                    context=below,
                    kind=SpanKind.CLIENT if is_chat else SpanKind.INTERNAL,
                    start_time=ended_ns - int(ms * 1e6),
                    attributes=_chat_attributes(record) if is_chat else _stage_attributes(stage),
                )
                child.end(ended_ns)
        span.end()

    def close(self) -> None:
        """Send what is left, within two seconds."""
        self._provider.force_flush(CLOSE_MS)
        self._provider.shutdown()


def open_tracer(settings: TelemetrySettings) -> Tracer:
    """Raises SettingsError where the library is not installed."""
    try:
        return Tracer(
            settings.exporter_otlp_endpoint,
            service_name=settings.service_name,
            sample_ratio=settings.traces_sampler_arg,
        )
    except ImportError as exc:
        raise SettingsError(
            "OTEL_EXPORTER_OTLP_ENDPOINT: needs the extra otel (pip install 'ragrelay[otel]')"
        ) from exc


def _request_attributes(method: str, record: Record) -> dict[str, str | int]:
    return {
        "http.request.method": method,
        "http.route": record.endpoint,
        "http.response.status_code": record.status,
        "ragrelay.request_id": record.request_id,
        "ragrelay.outcome": record.outcome or "ok",
        "ragrelay.cache": record.cache,
    }


def _chat_attributes(record: Record) -> dict[str, str | int]:
    return {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": record.engine,
        "gen_ai.request.model": record.model,
        "gen_ai.usage.input_tokens": record.prompt_tokens,
        "gen_ai.usage.output_tokens": record.completion_tokens,
    }


def _stage_attributes(stage: str) -> dict[str, str]:
    return {"gen_ai.operation.name": "embeddings"} if stage == "embed" else {}

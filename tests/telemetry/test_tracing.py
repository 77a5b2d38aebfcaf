"""Traces by OTLP, read back from a collector of our own."""

import http.server
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.support.caching import cached_in
from tests.support.engine import FakeEngine, saying
from tests.support.harness import QUESTION, live, settings_for
from tests.support.servers import RedisServer

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}


class Collector(http.server.ThreadingHTTPServer):
    """Takes OTLP/HTTP and keeps the spans."""

    def __init__(self) -> None:
        self.spans: list = []
        spans = self.spans

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                    for scope in resource.scope_spans:
                        spans.extend(scope.spans)
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def attributes(span) -> dict[str, object]:
    return {
        entry.key: getattr(entry.value, entry.value.WhichOneof("value"))
        for entry in span.attributes
    }


def test_answer_is_one_trace_with_a_span_for_each_stage(
    engine: FakeEngine, index_dir: Path, collector: Collector
) -> None:
    telemetry = {"exporter_otlp_endpoint": collector.url}
    with live(settings_for(engine.url, index_dir, telemetry=telemetry)) as (client, _):
        client.post("/query", QUESTION, PARENT)
        metrics = client.get("/metrics", {"Accept": "application/openmetrics-text"}).body
        assert TRACE.encode() in metrics
    spans = [span for span in collector.spans if span.trace_id.hex() == TRACE]
    (root,) = [span for span in spans if span.name == "POST /query"]
    assert root.parent_span_id.hex() == PARENT["traceparent"].split("-")[2]
    assert attributes(root)["http.response.status_code"] == 200
    stages = {span.name: span for span in spans if span.parent_span_id == root.span_id}
    chat = next(name for name in stages if name.startswith("chat "))
    assert {"embeddings", "dense", "sparse", "fuse", "prompt", "queue", chat} <= set(stages)
    facts = attributes(stages[chat])
    assert (facts["gen_ai.usage.input_tokens"], facts["gen_ai.usage.output_tokens"]) == (39, 3)
    assert all(root.start_time_unix_nano <= s.end_time_unix_nano for s in stages.values())
    assert engine.chats[-1].headers["traceparent"].split("-")[1] == TRACE
    assert b"capital of France" not in b"".join(s.SerializeToString() for s in spans)


def test_shared_answer_links_to_the_request_that_made_it(
    engine: FakeEngine, index_dir: Path, collector: Collector, valkey: RedisServer
) -> None:
    engine.script = saying(["a", "b"], every=0.3, first_after=0.3)
    settings = settings_for(
        engine.url,
        index_dir,
        telemetry={"exporter_otlp_endpoint": collector.url},
        cache=cached_in(valkey),
    )
    with live(settings) as (client, _), ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: client.post("/query", QUESTION), range(2)))
    roots = [span for span in collector.spans if span.name == "POST /query"]
    assert len({root.trace_id for root in roots}) == 2
    (follower,) = [root for root in roots if root.links]
    (leader,) = [root for root in roots if not root.links]
    assert follower.links[0].span_id == leader.span_id


def test_collector_down_costs_no_answer(engine: FakeEngine, index_dir: Path) -> None:
    telemetry = {"exporter_otlp_endpoint": "http://127.0.0.1:1"}
    with live(settings_for(engine.url, index_dir, telemetry=telemetry)) as (client, _):
        assert client.post("/query", QUESTION).status == 200


def test_sampled_out_request_leaves_no_span(
    engine: FakeEngine, index_dir: Path, collector: Collector
) -> None:
    telemetry = {"exporter_otlp_endpoint": collector.url, "traces_sampler_arg": 0.0}
    with live(settings_for(engine.url, index_dir, telemetry=telemetry)) as (client, _):
        assert client.post("/query", QUESTION).status == 200
    assert [span for span in collector.spans if span.name.endswith("/query")] == []

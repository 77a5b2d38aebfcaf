"""What can be set: one frozen struct a prefix; each field's description says what follows from it.

The tables in README and `.env.example` are tested against these structs.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

EngineKind = Literal["embedded", "tgi", "vllm", "sglang", "llamacpp", "openai"]


class Secret(str):
    """A string that does not show itself in logs or tracebacks."""

    def __repr__(self) -> str:
        return "'***'" if self else "''"


def _seconds(description: str, *, ge: float = 0.1) -> Any:
    return Meta(ge=ge, le=3600, description=description)


class Group(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True): ...


class Pipeline(Group, frozen=True, kw_only=True):
    model_name: Annotated[
        str, Meta(min_length=1, description="Model asked for at TGI, vLLM and other engines")
    ] = "Qwen/Qwen2.5-3B-Instruct"
    max_new_tokens: Annotated[
        int, Meta(ge=1, le=1024, description="Longest answer when a request names no max_tokens")
    ] = 80
    temperature: Annotated[
        float, Meta(ge=0, le=2, description="0 always takes the likeliest token")
    ] = 0.1
    context_tokens: Annotated[
        int,
        Meta(
            ge=256,
            le=1_000_000,
            description="The engine's context; passages that do not fit are left out",
        ),
    ] = 4096
    prompt_file: Annotated[
        str, Meta(description="Text file that replaces the built-in instructions to the model")
    ] = ""


class EngineSettings(Group, frozen=True, kw_only=True):
    kind: Annotated[
        EngineKind,
        Meta(description="The engine; embedded runs a small llama.cpp model and two Valkeys here"),
    ] = "embedded"
    url: Annotated[
        str, Meta(description="Base address of the engine; empty takes the one of compose.yaml")
    ] = ""
    urls: Annotated[
        str,
        Meta(
            description="Several engines as `tgi=URL,vllm=URL` in place of ENGINE and ENGINE_URL: "
            "the least loaded answers, another takes over before the first token"
        ),
    ] = ""
    api_key: Annotated[Secret, Meta(description="Sent to the engine as Bearer token")] = Secret()
    commit_seconds: Annotated[
        float,
        _seconds("A stream waits this long for its first token before it answers 200; "
                 "later engine errors become SSE error events"),
    ] = 2.0  # fmt: skip
    connect_seconds: Annotated[
        float, _seconds("An engine that does not accept the connection by then counts as down")
    ] = 3.0
    first_token_seconds: Annotated[
        float, _seconds("An engine silent for longer before its first token is given up")
    ] = 60.0
    token_seconds: Annotated[
        float, _seconds("An engine silent for longer between two tokens is given up")
    ] = 20.0


class CacheSettings(Group, frozen=True, kw_only=True):
    redis_url: Annotated[
        Secret, Meta(description="Redis of the answer cache; may lose its data (embedded: its own)")
    ] = Secret("redis://redis:6379/0")
    enabled: Annotated[bool, Meta(description="Off, every question is answered anew")] = True
    similarity_threshold: Annotated[
        float,
        Meta(
            ge=0,
            le=1,
            description="Cosine from which a question may be a paraphrase; 0 takes the one "
            "calibrated for CACHE_EMBEDDING_MODEL (0.92), or the exact layer alone where none is",
        ),
    ] = 0.0
    ttl_seconds: Annotated[
        float, Meta(ge=1, le=31_536_000, description="An answer serves this long, ± 10 %")
    ] = 86400.0
    embedding_model: Annotated[
        str, Meta(min_length=1, description="Model that compares questions, on the CPU")
    ] = "sentence-transformers/all-MiniLM-L6-v2"
    verifier_model: Annotated[
        str, Meta(description="CrossEncoder that must agree to every semantic hit; empty: none")
    ] = ""
    memory_mb: Annotated[
        int, Meta(ge=1, le=65536, description="Answers kept in this process, least used go first")
    ] = 256


class LedgerSettings(Group, frozen=True, kw_only=True):
    redis_url: Annotated[
        Secret, Meta(description="Redis of the ledger; must keep its data (embedded: its own)")
    ] = Secret("redis://redis-ledger:6379/0")


class AuthSettings(Group, frozen=True, kw_only=True):
    enabled: Annotated[
        bool, Meta(description="Ask for an API key; off, everyone who reaches the port may ask")
    ] = False
    api_key: Annotated[
        Secret, Meta(description="The key with all scopes; required when AUTH_ENABLED is true")
    ] = Secret()


class ApiSettings(Group, frozen=True, kw_only=True):
    host: Annotated[
        str, Meta(min_length=1, description="Address to listen on; 0.0.0.0 opens it to the network")
    ] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535, description="0 takes a free port")] = 8000
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Meta(description="debug adds the libraries' own lines"),
    ] = "info"
    drain_seconds: Annotated[
        float, _seconds("On SIGTERM open answers get this long to finish", ge=0)
    ] = 10.0
    deadline_seconds: Annotated[
        float, _seconds("An answer that takes longer ends with the error `deadline`")
    ] = 120.0
    cors_origins: Annotated[
        str, Meta(description="Comma-separated origins whose pages may call the API; * for all")
    ] = ""
    body_limit: Annotated[
        int, Meta(ge=1024, le=100_000_000, description="Bytes; a larger body is refused with 413")
    ] = 65536


class RetrievalSettings(Group, frozen=True, kw_only=True):
    index_dir: Annotated[
        str, Meta(min_length=1, description="Where generations of the index lie")
    ] = "index"
    embedding_model: Annotated[
        str,
        Meta(
            min_length=1,
            description="Hub id or folder; changing it needs `ragrelay index` once more",
        ),
    ] = "sentence-transformers/all-MiniLM-L6-v2"
    embedding_revision: Annotated[
        str, Meta(description="Commit of the model on the hub; empty takes the newest")
    ] = ""
    device: Annotated[
        Literal["cpu", "cuda", "mps"], Meta(description="Where the embedding model runs")
    ] = "cpu"
    fusion: Annotated[
        Literal["convex", "rrf"],
        Meta(description="How the BM25 and the dense ranking become one"),
    ] = "convex"
    sparse_weight: Annotated[
        float, Meta(ge=0, le=1, description="Share of BM25 in convex fusion; 0 is dense alone")
    ] = 0.5
    min_similarity: Annotated[
        float,
        Meta(
            ge=-1,
            le=1,
            description="Cosine below which a passage without a matching word is no hit",
        ),
    ] = 0.3

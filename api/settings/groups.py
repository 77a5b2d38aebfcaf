"""What can be set: one frozen struct a prefix; each field's description says what follows from it.

docs/settings.md and `.env.example` are made from these structs by `make settings`.
"""

from typing import Annotated, Any, Literal

from msgspec import Meta

from api.settings.types import Group, Secret, seconds

EngineKind = Literal["embedded", "tgi", "vllm", "sglang", "llamacpp", "openai"]


class Pipeline(Group, frozen=True, kw_only=True):
    model_name: Annotated[
        str, Meta(min_length=1, description="Model asked for at TGI, vLLM and other engines")
    ] = "Qwen/Qwen2.5-3B-Instruct"
    load_in_4bit: Annotated[
        bool, Meta(description="compose.yaml has TGI load the model in 4 bits")
    ] = True
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
    gpu_exporter_url: Annotated[
        str, Meta(description="Prometheus exporter of the GPU, for /health/gpu; empty: no GPU")
    ] = ""
    commit_seconds: Annotated[
        float,
        seconds("A stream waits this long for its first token before it answers 200; "
                 "later engine errors become SSE error events"),
    ] = 2.0  # fmt: skip
    connect_seconds: Annotated[
        float, seconds("An engine that does not accept the connection by then counts as down")
    ] = 3.0
    first_token_seconds: Annotated[
        float, seconds("An engine silent for longer before its first token is given up")
    ] = 60.0
    token_seconds: Annotated[
        float, seconds("An engine silent for longer between two tokens is given up")
    ] = 20.0

    max_concurrent: Annotated[
        int,
        Meta(ge=0, le=100_000, description="Answers at a time; 0: 64 an engine, 2 when embedded"),
    ] = 0
    queue: Annotated[
        int,
        Meta(ge=0, le=100_000, description="Questions that may wait for a place; more get 429"),
    ] = 128
    queue_seconds: Annotated[
        float, seconds("A question that has waited this long for a place gets 429")
    ] = 10.0


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


Price = Annotated[float, Meta(ge=0, le=1000)]


class LedgerSettings(Group, frozen=True, kw_only=True):
    redis_url: Annotated[
        Secret, Meta(description="Redis of the ledger; must keep its data (embedded: its own)")
    ] = Secret("redis://redis-ledger:6379/0")
    cost_limit_eur: Annotated[
        float,
        Meta(ge=0, le=1e9, description="Budget of all answers in a window; then 429 until it ends"),
    ] = 5.0
    window_seconds: Annotated[
        int, Meta(ge=1, le=31_622_400, description="Length of that window, aligned to the epoch")
    ] = 3600
    cost_per_1k_input: Annotated[
        Price | None,
        Meta(
            description="EUR per 1,000 prompt tokens; unset counts a small cloud model's 0.0005, "
            "and ENGINE=openai refuses to start",
        ),
    ] = None
    cost_per_1k_output: Annotated[
        Price | None, Meta(description="EUR per 1,000 tokens of an answer; unset counts 0.0015")
    ] = None
    prices_file: Annotated[
        str,
        Meta(description="TOML or JSON with a price for each model: input and output per 1,000"),
    ] = ""
    fail_mode: Annotated[
        Literal["auto", "closed", "open"],
        Meta(
            description="With the ledger down: closed answers 503, open counts in each process; "
            "auto is closed for ENGINE=openai"
        ),
    ] = "auto"


class AuthSettings(Group, frozen=True, kw_only=True):
    enabled: Annotated[
        bool, Meta(description="Ask for an API key; off, everyone who reaches the port may ask")
    ] = False
    api_key: Annotated[
        Secret,
        Meta(description="The key with all scopes, 24 characters or more; AUTH_ENABLED needs it"),
    ] = Secret()
    key_pepper: Annotated[
        Secret,
        Meta(description="Mixed into the hashes of stored keys; changing it voids all of them"),
    ] = Secret()


def _per_minute(what: str) -> Any:
    return Meta(
        ge=0, le=1_000_000, description=f"{what} a minute for a key or address; 0: no limit"
    )


class LimitSettings(Group, frozen=True, kw_only=True):
    enabled: Annotated[
        bool | None, Meta(description="Rate limits; unset: on, but off for the embedded engine")
    ] = None
    query_per_minute: Annotated[
        int,
        _per_minute("Requests to each of /query, /query/stream, /query/ab, /v1/chat/completions"),
    ] = 100
    batch_per_minute: Annotated[int, _per_minute("Questions in /batch")] = 20
    admin_per_minute: Annotated[
        int, _per_minute("Requests to /analytics, and to all other routes together,")
    ] = 60
    search_per_minute: Annotated[int, _per_minute("Requests to /search")] = 0
    documents_per_minute: Annotated[int, _per_minute("Requests to /documents")] = 0
    tokens_per_minute: Annotated[int, _per_minute("Tokens of prompts and answers")] = 0
    failed_keys_per_minute: Annotated[int, _per_minute("Wrong keys from one address")] = 20
    trusted_proxies: Annotated[
        str,
        Meta(description="Networks whose X-Forwarded-For is believed, as 10.0.0.0/8,::1/128"),
    ] = ""


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
        float, seconds("On SIGTERM open answers get this long to finish", ge=0)
    ] = 10.0
    deadline_seconds: Annotated[
        float, seconds("An answer that takes longer ends with the error `deadline`")
    ] = 120.0
    cors_origins: Annotated[
        str, Meta(description="Comma-separated origins whose pages may call the API; * for all")
    ] = ""
    batch_parallelism: Annotated[
        int,
        Meta(
            ge=0,
            le=32,
            description="Questions of one batch answered side by side; 0: 4, and 1 when embedded",
        ),
    ] = 0
    resume_seconds: Annotated[
        float,
        seconds(
            "A stream asked for with `resume` goes on, and is kept, this long without a reader"
        ),
    ] = 30.0
    body_limit: Annotated[
        int, Meta(ge=1024, le=100_000_000, description="Bytes; a larger body is refused with 413")
    ] = 65536


class IngestSettings(Group, frozen=True, kw_only=True):
    window_seconds: Annotated[
        float,
        Meta(ge=0, le=5, description="Changes of documents within it become one new generation"),
    ] = 0.5
    body_limit: Annotated[
        int,
        Meta(
            ge=1024,
            le=1_000_000_000,
            description="Bytes of a body of POST /documents; a larger one is refused with 413",
        ),
    ] = 33_554_432


class TelemetrySettings(Group, frozen=True, kw_only=True):
    exporter_otlp_endpoint: Annotated[
        str, Meta(description="OTLP/HTTP collector as http://host:4318; empty: no traces")
    ] = ""
    service_name: Annotated[
        str, Meta(min_length=1, description="Name of this service in traces")
    ] = "ragrelay"
    traces_sampler_arg: Annotated[
        float,
        Meta(ge=0, le=1, description="Share of requests traced, unless their sender has decided"),
    ] = 1.0


class CitationSettings(Group, frozen=True, kw_only=True):
    verifier_model: Annotated[
        str,
        Meta(
            description="CrossEncoder with one score, or one for natural language inference, that "
            "judges citations by meaning; empty: words alone decide"
        ),
    ] = ""


class ExperimentSettings(Group, frozen=True, kw_only=True):
    file: Annotated[
        str,
        Meta(description="TOML file with an experiment that answers take part in; empty: none"),
    ] = ""

"""Settings: the only reader of the environment.

`Settings.from_env` fails at once, naming the variable, when a value is out of its range or a name
is nearly one of ours. Every `Secret` can also be given as a file through `NAME_FILE`.
"""

import os
from collections.abc import Iterator, Mapping
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_type_hints

import msgspec

from api.settings.groups import (
    ApiSettings,
    AuthSettings,
    CacheSettings,
    CitationSettings,
    EngineKind,
    EngineSettings,
    ExperimentSettings,
    IngestSettings,
    LedgerSettings,
    LimitSettings,
    Pipeline,
    TelemetrySettings,
)
from api.settings.log import DatabaseSettings
from api.settings.retrieval import RetrievalSettings
from api.settings.types import Group, Secret

# Where each engine listens in compose, where every engine's service is called `engine`.
ENGINE_URLS = {
    "tgi": "http://engine:80",
    "vllm": "http://engine:8000",
    "sglang": "http://engine:30000",
    "llamacpp": "http://engine:8080",
}


DATABASES = ("postgresql://", "postgres://", "sqlite:///")
NONE_CHANGED: Mapping[str, str] = {}


class SettingsError(ValueError):
    """One line for the operator: which variable, what is wrong."""


class EngineAddress(NamedTuple):
    name: str
    """Unique: the kind, numbered from the second of its kind on (`vllm-2`)."""
    kind: str
    url: str


class Settings(Group, frozen=True, kw_only=True):
    pipeline: Pipeline = Pipeline()
    engine: EngineSettings = EngineSettings()
    cache: CacheSettings = CacheSettings()
    ledger: LedgerSettings = LedgerSettings()
    auth: AuthSettings = AuthSettings()
    limit: LimitSettings = LimitSettings()
    api: ApiSettings = ApiSettings()
    retrieval: RetrievalSettings = RetrievalSettings()
    ingest: IngestSettings = IngestSettings()
    citations: CitationSettings = CitationSettings()
    telemetry: TelemetrySettings = TelemetrySettings()
    database: DatabaseSettings = DatabaseSettings()
    experiments: ExperimentSettings = ExperimentSettings()

    @classmethod
    def from_env(
        cls, environ: Mapping[str, str] | None = None, *, changed: Mapping[str, str] = NONE_CHANGED
    ) -> "Settings":
        """Read every variable of `variables()`; raise SettingsError at the first bad one.

        `changed` stands before the environment.
        """
        environ = {**(os.environ if environ is None else environ), **changed}
        _refuse_near_misses(environ)
        groups: dict[str, dict[str, str]] = {}
        for variable in variables():
            value = _value(variable, environ)
            if value is not None:
                groups.setdefault(variable.group, {})[variable.field] = value
        converted: dict[str, Any] = {name: _convert(name, raw) for name, raw in groups.items()}
        return _consistent(cls(**converted))

    def engine_addresses(self) -> list[EngineAddress]:
        """Return the engines in the order given, none when embedded. Raises SettingsError."""
        if not self.engine.urls:
            url = self.engine.url or ENGINE_URLS.get(self.engine.kind, "")
            return [_address(self.engine.kind, url, [], "ENGINE_URL")] if url else []
        addresses: list[EngineAddress] = []
        for entry in self.engine.urls.split(","):
            kind, _, url = entry.strip().partition("=")
            addresses.append(_address(kind.strip(), url.strip(), addresses, "ENGINE_URLS"))
        return addresses


def _address(kind: str, url: str, before: list[EngineAddress], variable: str) -> EngineAddress:
    if kind not in get_args(EngineKind) or kind == "embedded":
        raise SettingsError(f"{variable}: write tgi=URL,vllm=URL with engines that exist")
    if not url.startswith(("http://", "https://")):
        raise SettingsError(f"{variable}: must begin with http:// or https://")
    same = sum(address.kind == kind for address in before)
    name = f"{kind}-{same + 1}" if same else kind
    return EngineAddress(name, kind, url.rstrip("/").removesuffix("/v1"))


PREFIXES = {
    "pipeline": "PIPELINE_",
    "engine": "ENGINE_",
    "cache": "CACHE_",
    "ledger": "CB_",
    "auth": "AUTH_",
    "limit": "LIMIT_",
    "api": "API_",
    "retrieval": "RETRIEVAL_",
    "ingest": "INGEST_",
    "citations": "CITATIONS_",
    "telemetry": "OTEL_",
    "database": "",
    "experiments": "EXPERIMENTS_",
}
NAMES = {("engine", "kind"): "ENGINE"}
FALLBACKS = {"CACHE_REDIS_URL": "REDIS_URL"}
REMOVED = {
    "LIMIT_STREAM_PER_MINUTE": "LIMIT_QUERY_PER_MINUTE bounds each answering route",
    "LIMIT_AB_PER_MINUTE": "LIMIT_QUERY_PER_MINUTE bounds each answering route",
    "LIMIT_OPENAI_PER_MINUTE": "LIMIT_QUERY_PER_MINUTE bounds each answering route",
    "LIMIT_ANALYTICS_PER_MINUTE": "LIMIT_ADMIN_PER_MINUTE bounds /analytics too",
    "RETRIEVAL_EMBEDDING_REVISION": "write RETRIEVAL_EMBEDDING_MODEL=NAME@COMMIT",
    "RETRIEVAL_RERANK_REVISION": "write RETRIEVAL_RERANK_MODEL=NAME@COMMIT",
    "CITATIONS_VERIFIER_REVISION": "write CITATIONS_VERIFIER_MODEL=NAME@COMMIT",
}
"""Settings of 0.1.0 that are gone: a bound that silently no longer holds would be worse than a
start that stops."""


class Variable(NamedTuple):
    name: str
    group: str
    field: str
    default: object
    description: str
    is_secret: bool


def variables() -> Iterator[Variable]:
    """Yield every environment variable, in the order of the structs."""
    for group, prefix in PREFIXES.items():
        struct = type(getattr(Settings(), group))
        hints = get_type_hints(struct, include_extras=True)
        for field in msgspec.structs.fields(struct):
            annotated = hints[field.name]
            name = NAMES.get((group, field.name), prefix + field.name.upper())
            yield Variable(
                name=name,
                group=group,
                field=field.name,
                default=field.default,
                description=annotated.__metadata__[0].description,
                is_secret=annotated.__origin__ is Secret,
            )


def _value(variable: Variable, environ: Mapping[str, str]) -> str | None:
    """Return the raw value; an empty variable counts as not set, as compose passes them."""
    file = environ.get(f"{variable.name}_FILE") if variable.is_secret else None
    value = environ.get(variable.name) or environ.get(FALLBACKS.get(variable.name, ""))
    if file and value:
        raise SettingsError(f"{variable.name} and {variable.name}_FILE are both set: keep one")
    if file:
        try:
            return Path(file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as exc:
            raise SettingsError(f"{variable.name}_FILE: cannot read {file!r} ({exc})") from exc
    return value or None


def _decode_secret(cls: type, value: object) -> object:
    if cls is Secret and isinstance(value, str):
        return Secret(value)
    raise NotImplementedError(f"{cls} as a setting. This is a bug.")


def _convert(group: str, raw: dict[str, str]) -> Group:
    cls = type(getattr(Settings(), group))
    # One by one, so that the message can name the variable.
    for field, value in raw.items():
        lowered = {field: value.lower() if value.lower() in ("true", "false") else value}
        try:
            msgspec.convert(lowered, cls, strict=False, dec_hook=_decode_secret)
        except msgspec.ValidationError as exc:
            name = NAMES.get((group, field), PREFIXES[group] + field.upper())
            reason = str(exc).split(" - at `")[0]
            raise SettingsError(f"{name}: {reason}") from exc
        raw = raw | lowered
    converted: Group = msgspec.convert(raw, cls, strict=False, dec_hook=_decode_secret)
    return converted


def _refuse_near_misses(environ: Mapping[str, str]) -> None:
    """Raise for a name that is one slip away from ours; foreign variables pass."""
    known = {v.name for v in variables()} | set(FALLBACKS.values())
    known |= {f"{v.name}_FILE" for v in variables() if v.is_secret}
    for name, instead in REMOVED.items():
        if environ.get(name):
            raise SettingsError(f"{name}: no longer a setting; {instead}")
    for name in environ.keys() - known - REMOVED.keys():
        for ours in known:
            alike = min(len(name), len(ours)) >= 8 and abs(len(name) - len(ours)) <= 2
            if alike and SequenceMatcher(None, name, ours).ratio() > 0.9:
                raise SettingsError(f"{name}: no such setting, did you mean {ours}?")


def _consistent(settings: Settings) -> Settings:
    """Return the settings if their combination can work."""
    engine, auth = settings.engine, settings.auth
    if auth.enabled and not auth.api_key:
        raise SettingsError("AUTH_API_KEY: required because AUTH_ENABLED is true")
    if engine.url and engine.kind == "embedded":
        raise SettingsError("ENGINE: say which engine ENGINE_URL is (tgi, vllm, openai, …)")
    if engine.kind == "openai" and not engine.url:
        raise SettingsError("ENGINE_URL: required because ENGINE is openai")
    if engine.urls and (engine.url or engine.kind != "embedded"):
        raise SettingsError("ENGINE_URLS: names the engines itself; leave out ENGINE, ENGINE_URL")
    settings.engine_addresses()
    if settings.pipeline.prompt_file and not Path(settings.pipeline.prompt_file).is_file():
        raise SettingsError("PIPELINE_PROMPT_FILE: no such file")
    database = settings.database.database_url
    if database not in ("", "off") and not database.startswith(DATABASES):
        raise SettingsError(f"DATABASE_URL: must begin with {' or '.join(DATABASES)}, or be off")
    return settings

"""One experiment: read its file, choose the variant of a question, and apply what it changes.

A variant sets what an answer is made with where the request itself says nothing. Who gets which
follows from a hash alone: nothing is stored, and all replicas agree.
"""

import tomllib
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from api.answering.context import AnswerContext
from api.answering.prompt import PromptBuilder
from api.settings.env import Settings, SettingsError

MAX_FILE_BYTES = 100_000
MAX_PROMPT_BYTES = 32_000
VARIABLE = "EXPERIMENTS_FILE"


class _Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A variant as the file has it."""

    name: Annotated[str, Meta(pattern=r"\A[A-Za-z0-9_.-]{1,32}\Z")]
    weight: Annotated[int, Meta(ge=1, le=1000)] = 1
    engine: str | None = None
    prompt_file: str | None = None
    top_k: Annotated[int, Meta(ge=1, le=20)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    max_tokens: Annotated[int, Meta(ge=1, le=1024)] | None = None


class _Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: Annotated[str, Meta(pattern=r"\A[A-Za-z0-9_.-]{1,64}\Z")]
    sticky: Literal["key", "conversation"] = "key"
    variants: Annotated[list[_Entry], Meta(min_length=2, max_length=8)]


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    experiment: _Table


class Variant(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    weight: int
    engine: str | None
    """The only one that answers; None: whichever is free."""
    prompts: PromptBuilder
    changes: dict[str, float]
    """Fields of Stages."""


class Experiment(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    sticky: Literal["key", "conversation"]
    variants: tuple[Variant, ...]

    def choose(self, context: AnswerContext) -> Variant:
        """Return the variant of a question, the same for the same subject."""
        by_conversation = self.sticky == "conversation"
        return self.assigned(_conversation(context) if by_conversation else _caller(context))

    def assigned(self, subject: str) -> Variant:
        digest = sha256(f"{self.name}\0{subject}".encode()).digest()
        place = int.from_bytes(digest[:8]) % sum(variant.weight for variant in self.variants)
        for variant in self.variants:
            place -= variant.weight
            if place < 0:
                break
        return variant

    def apply(self, context: AnswerContext, variant: Variant) -> AnswerContext:
        """Return the question as the variant answers it; what the request says itself holds."""
        stages = msgspec.structs.replace(context.stages, prompts=variant.prompts, **variant.changes)
        return msgspec.structs.replace(
            context,
            stages=stages,
            pinned=context.pinned or variant.engine,
            experiment=self.name,
            variant=variant.name,
        )


def _caller(context: AnswerContext) -> str:
    caller = context.admitted.caller
    return caller.key_id or f"{caller.tenant}/{context.admitted.subject or context.record.peer}"


def _conversation(context: AnswerContext) -> str:
    said = [turn.content for turn in context.request.history if turn.role == "user"]
    return (said or [context.request.query])[0]


def load_experiment(settings: Settings, common: PromptBuilder) -> Experiment | None:
    """Read EXPERIMENTS_FILE and its prompts; None where it is empty. Raises SettingsError.

    `common` are the prompts of a variant that names none.
    """
    if not settings.experiments.file:
        return None
    path = Path(settings.experiments.file)
    try:
        table = msgspec.convert(tomllib.loads(_text(path, MAX_FILE_BYTES)), _File).experiment
    except (msgspec.ValidationError, tomllib.TOMLDecodeError) as exc:
        raise SettingsError(f"{VARIABLE}: {str(exc).replace('`$.', '`')}") from exc
    engines = [address.name for address in settings.engine_addresses()] or ["embedded"]
    _check(table.variants, engines)
    variants = [_variant(entry, path.parent, common) for entry in table.variants]
    return Experiment(name=table.name, sticky=table.sticky, variants=tuple(variants))


def _check(entries: Sequence[_Entry], engines: Sequence[str]) -> None:
    """Raise SettingsError for what no single field's bounds tell."""
    names = [entry.name for entry in entries]
    for n, entry in enumerate(entries):
        where = f"{VARIABLE}: experiment.variants[{n}]"
        if entry.name in names[:n]:
            raise SettingsError(f"{where}.name: {entry.name!r} is there twice")
        if entry.engine is not None and entry.engine not in engines:
            raise SettingsError(f"{where}.engine: must be one of {', '.join(engines)}")


def _variant(entry: _Entry, folder: Path, common: PromptBuilder) -> Variant:
    changes = {name: getattr(entry, name) for name in ("top_k", "temperature", "max_tokens")}
    prompts = common
    if entry.prompt_file is not None:
        where = f"{VARIABLE}: prompt_file of {entry.name!r}"
        instructions = _text(folder / entry.prompt_file, MAX_PROMPT_BYTES, where)
        if not instructions.strip():
            raise SettingsError(f"{where}: is blank")
        prompts = PromptBuilder(instructions)
    return Variant(
        name=entry.name,
        weight=entry.weight,
        engine=entry.engine,
        prompts=prompts,
        changes={name: value for name, value in changes.items() if value is not None},
    )


def _text(path: Path, max_bytes: int, where: str = VARIABLE) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(max_bytes + 1)
        if len(content) > max_bytes:
            raise SettingsError(f"{where}: larger than {max_bytes} bytes")
        return content.decode()
    except (OSError, UnicodeDecodeError) as exc:
        raise SettingsError(f"{where}: cannot read {str(path)!r} ({exc})") from exc

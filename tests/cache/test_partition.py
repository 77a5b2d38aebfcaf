import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.cache.partition import history_key, in_generation, partition_key
from tests.cache.entries import CHANGES, SCOPE


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

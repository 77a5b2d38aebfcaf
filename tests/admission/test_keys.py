"""Keys as text: random, checked, hidden; records as values."""

import hashlib
import hmac

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.admission.caller import ALL_SCOPES, Caller, LimitOverride
from api.admission.keys import (
    ApiKey,
    KeyDigest,
    KeyRecord,
    KeySpec,
    digest_of,
    new_api_key,
    read_api_key,
)
from api.errors import Forbidden


def record(**fields) -> KeyRecord:
    given = {"id": "a" * 10, "name": "n", "digests": (), "created_at": 0.0, "version": "v"}
    return KeyRecord(**{**given, **fields})


def test_key_text_reads_back() -> None:
    key = new_api_key()
    text = key.text()
    assert text.startswith(f"rr_live_{key.id}_")
    assert text.isascii() and len(text) == 70
    assert read_api_key(text) == key
    assert new_api_key(key.id).id == key.id


def test_keys_are_never_the_same() -> None:
    keys = [new_api_key() for _ in range(1000)]
    assert len({key.id for key in keys}) == len({key.secret for key in keys}) == 1000
    assert len(set("".join(key.secret for key in keys))) == 62


@given(st.data())
def test_key_text_with_a_slip_is_no_key(data: st.DataObject) -> None:
    text = str(new_api_key().text())
    at = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.characters().filter(lambda c: c != text[at]))
    assert read_api_key(text[:at] + other + text[at + 1 :]) is None
    assert read_api_key(text[:at] + text[at + 1 :]) is None
    assert read_api_key(text[:at] + other + text[at:]) is None


def test_key_text_with_two_letters_swapped_is_no_key() -> None:
    text = str(new_api_key().text())
    at = next(i for i in range(20, 60) if text[i] != text[i + 1])
    assert read_api_key(text[:at] + text[at + 1] + text[at] + text[at + 2 :]) is None


@pytest.mark.parametrize("text", ["", "rr_live_", "rr_live_" + "a" * 60, "x" * 100_000, "\ud800"])
def test_key_text_of_another_shape_is_no_key(text: str) -> None:
    assert read_api_key(text) is None


def test_digest_is_sha256_or_hmac_with_the_pepper() -> None:
    key = ApiKey("a" * 10, new_api_key().secret)
    secret = key.secret.encode()
    assert digest_of(key) == hashlib.sha256(secret).hexdigest()
    assert digest_of(key, b"pepper") == hmac.new(b"pepper", secret, "sha256").hexdigest()


def test_key_does_not_show_its_secret() -> None:
    key = new_api_key()
    assert key.secret not in repr(key) and key.secret not in str(key)
    assert key.text() not in repr(key.text())


def test_record_admits_the_new_secret_and_the_old_one_in_its_grace() -> None:
    both = record(digests=(KeyDigest("new"), KeyDigest("old", not_after=10.0)))
    assert both.admits("new", 99.0) and both.admits("old", 9.9)
    assert not both.admits("old", 10.0) and both.has("old")
    assert not both.admits("other", 0.0) and not both.has("other")
    assert (both.rotates_until(9.0), both.rotates_until(10.0)) == (10.0, None)


@pytest.mark.parametrize(
    ("ends", "state"),
    [
        ({}, "active"),
        ({"expires_at": 50.1}, "active"),
        ({"expires_at": 50.0}, "expired"),
        ({"revoked_at": 60.0}, "revoked"),
        ({"revoked_at": 1.0, "expires_at": 99.0}, "revoked"),
    ],
)
def test_record_that_has_ended_admits_nobody(ends: dict[str, float], state: str) -> None:
    ended = record(digests=(KeyDigest("d"),), **ends)
    assert ended.state(50.0) == state
    assert ended.admits("d", 50.0) == (state == "active")


@pytest.mark.parametrize(
    "fields",
    [
        {"name": ""},
        {"name": "x" * 65},
        {"name": "a\nb"},
        {"name": "a\n"},
        {"name": "a\u202eb"},
        {"scopes": []},
        {"scopes": ["root"]},
        {"tenant": "a b"},
        {"tenant": "a\n"},
        {"tenant": "a:b"},
        {"groups": ["g"] * 33},
        {"groups": [""]},
        {"budgets": [["week", 1]]},
        {"budgets": [{"window": "week", "micro_eur": 1}]},
        {"budgets": [{"window": "day", "micro_eur": -1}]},
        {"limits": [{"route_class": "all"}]},
        {"limits": [{"route_class": "query", "requests": 10_000_001}]},
        {"expires_at": -1.0},
        {"expires_at": 1e11},
    ],
)
def test_spec_out_of_its_bounds_is_refused(fields: dict) -> None:
    msgspec.convert({"name": "n"}, KeySpec)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"name": "n", **fields}, KeySpec)


def test_caller_of_a_record_carries_what_it_may() -> None:
    own = (LimitOverride(route_class="query", requests=1),)
    caller = record(tenant="acme", groups=("g",), limits=own).caller()
    assert caller == Caller("acme", frozenset({"query"}), "a" * 10, ("g",), (), own)


def test_caller_without_the_scope_is_forbidden() -> None:
    caller = Caller("t", frozenset({"query"}))
    caller.require("query")
    for scope in ALL_SCOPES - {"query"}:
        with pytest.raises(Forbidden, match=scope):
            caller.require(scope)

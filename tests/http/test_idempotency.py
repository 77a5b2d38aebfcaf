"""What is kept under an Idempotency-Key, for how long, and within which bounds."""

import pytest

from api.errors import Conflict, Invalid
from api.http.idempotency import Idempotency, Once

OWNER = ("acme", "key-1")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def answer(store: Idempotency, key: str | None, body: object, answered: bytes) -> bytes | None:
    """Answer a request as a route does; return what it got from before."""
    once = Once(store, OWNER, key, body)
    with once as before:
        if before is None:
            once.keep(answered)
        return before


def test_once_same_key_and_body_gets_the_first_answer() -> None:
    store = Idempotency()
    assert answer(store, "k", {"a": 1, "b": 2}, b"first") is None
    assert answer(store, "k", {"b": 2, "a": 1}, b"second") == b"first"


def test_once_without_a_key_keeps_nothing() -> None:
    store = Idempotency()
    assert answer(store, None, 1, b"first") is None
    assert answer(store, None, 1, b"second") is None
    assert len(store) == 0


def test_once_same_key_other_body_is_a_conflict() -> None:
    store = Idempotency()
    answer(store, "k", [1], b"first")
    with pytest.raises(Conflict, match="another body"):
        answer(store, "k", [2], b"second")


def test_once_while_the_first_is_answered_is_a_conflict() -> None:
    store = Idempotency()
    with Once(store, OWNER, "k", 1), pytest.raises(Conflict, match="still"):
        answer(store, "k", 1, b"second")


def test_once_that_came_to_nothing_lets_the_next_answer() -> None:
    store = Idempotency()
    with pytest.raises(RuntimeError), Once(store, OWNER, "k", 1):
        raise RuntimeError
    assert answer(store, "k", 2, b"second") is None


def test_once_of_another_owner_is_another() -> None:
    store = Idempotency()
    answer(store, "k", 1, b"first")
    with Once(store, ("acme", "key-2"), "k", 2) as before:
        assert before is None


@pytest.mark.parametrize("key", ["", "x" * 256])
def test_once_key_out_of_bounds_is_invalid(key: str) -> None:
    with pytest.raises(Invalid, match="255"):
        Once(Idempotency(), OWNER, key, 1)


def test_store_forgets_after_its_time() -> None:
    clock = Clock()
    store = Idempotency(keep_s=10, clock=clock)
    answer(store, "k", 1, b"first")
    clock.now += 9
    assert answer(store, "k", 1, b"second") == b"first"
    clock.now += 2
    assert answer(store, "k", 1, b"second") is None


def test_store_is_bounded_in_number_and_bytes_and_drops_the_oldest() -> None:
    store = Idempotency(max_entries=3, max_bytes=100)
    for n in range(5):
        answer(store, f"k{n}", n, b"x")
    assert len(store) == 3
    assert answer(store, "k4", 4, b"") == b"x"
    answer(store, "big", 0, b"x" * 99)
    assert answer(store, "k4", 4, b"y") == b"x"
    answer(store, "bigger", 0, b"x" * 100)
    assert len(store) == 1
    answer(store, "too big", 0, b"x" * 101)
    assert len(store) == 1

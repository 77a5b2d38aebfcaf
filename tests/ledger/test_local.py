"""The book of one process, and its folding when answers are lost."""

import pytest

from api.ledger import local
from api.ledger.ledger import Ledger
from api.ledger.local import Book
from api.ledger.types import BudgetExhausted, Counts, LedgerDown, LedgerScope, Window
from tests.ledger.ledgers import NOON, Clock, amounts, delivered, run, settle
from tests.ledger.lossy import Lossy
from tests.support.servers import RedisServer
from tests.support.waiting import until

HOUR, DAY = LedgerScope("global", 1000), LedgerScope("key:k", 1500, "day")
BOTH = [HOUR, DAY]


def lossy(ledger: Ledger) -> Lossy:
    calls = ledger._store._calls
    calls.redis = Lossy(calls.redis)
    return calls.redis


def test_fold_whose_answers_are_lost_is_charged_once(server: RedisServer) -> None:
    async def scenario(ledger: Ledger) -> None:
        redis = lossy(ledger)
        redis.mode = "down"
        for n in range(3):
            await settle(ledger, await ledger.reserve(f"r{n}", BOTH, 100, 60), 70)
        assert ledger.book.unfolded == 210
        redis.mode = "deaf"
        await until(lambda: redis.n_lost >= 5)
        assert ledger.book.unfolded == 210
        redis.mode = "well"
        await delivered(ledger)
        for scope in BOTH:
            assert await amounts(ledger, scope) == (210, 0)

    run(server, scenario, fail_mode="open", clock=Clock())


def test_what_is_spent_during_a_fold_comes_with_the_next(server: RedisServer) -> None:
    async def scenario(ledger: Ledger) -> None:
        redis = lossy(ledger)
        redis.mode = "down"
        holds = [await ledger.reserve(f"r{n}", BOTH, 100, 60) for n in range(2)]
        await settle(ledger, holds[0], 70)
        redis.mode = "deaf"
        await until(lambda: redis.n_lost >= 2)
        await settle(ledger, holds[1], 5)
        redis.mode = "well"
        await delivered(ledger)
        assert await amounts(ledger, HOUR) == (75, 0)

    run(server, scenario, fail_mode="open", clock=Clock())


def test_fold_waits_for_nobody(server: RedisServer) -> None:
    """The ledger comes back while nothing is asked."""

    async def scenario(ledger: Ledger) -> None:
        redis = lossy(ledger)
        redis.mode = "down"
        await settle(ledger, await ledger.reserve("r1", BOTH, 100, 60), 70)
        redis.mode = "well"
        await until(lambda: not ledger.book.unfolded)
        assert not ledger.is_open_mode

    run(server, scenario, fail_mode="open")


def test_book_keeps_limits_on_top_of_what_is_known() -> None:
    book = Book(Clock())
    book.note([Counts(Window.at(DAY, NOON), spent=1400)])
    with pytest.raises(BudgetExhausted) as refused:
        book.reserve("r1", BOTH, 101, 60)
    assert (refused.value.scope, refused.value.retry_after_s) == ("key:k", 12 * 3600)
    hold = book.reserve("r2", BOTH, 100, 60)
    with pytest.raises(BudgetExhausted) as refused:
        book.reserve("r3", BOTH, 1, 60)
    assert refused.value.retry_after_s == 5
    book.settle(hold, 0)
    assert book.reserve("r4", BOTH, 1, 60).is_local


def test_book_charges_a_lease_that_ended_whole() -> None:
    clock = Clock()
    book = Book(clock)
    hold = book.reserve("r1", BOTH, 100, 60)
    clock.now += 60
    assert [state.spent for state in book.states(BOTH)] == [100, 100]
    assert book.settle(hold, 10).how == "again"
    assert book.unfolded == 100


def test_book_folds_frozen_charges_until_told() -> None:
    book = Book(Clock())
    book.settle(book.reserve("r1", BOTH, 100, 60), 40)
    frozen = list(book.freeze(10))
    book.settle(book.reserve("r2", BOTH, 100, 60), 2)
    assert book.freeze(10) == frozen
    assert book.unfolded == 42
    book.folded()
    assert [fold.actual for fold in book.freeze(10)] == [2]
    assert [state.spent for state in book.states(BOTH)] == [42, 42]


def test_book_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    for bound in ("MAX_HOLDS", "MAX_CHARGES", "MAX_WINDOWS"):
        monkeypatch.setattr(local, bound, 3)
    book = Book(Clock())
    for n in range(20):
        book.note([Counts(Window.at(LedgerScope(f"key:{n}", 1), NOON), spent=1)])
    assert len(book._pages) == 3
    holds = [book.reserve(f"r{n}", [LedgerScope(f"scope:{n}", 9)], 1, 60) for n in range(3)]
    with pytest.raises(LedgerDown):
        book.reserve("r3", BOTH, 1, 60)
    for hold in holds:
        book.settle(hold, 1)
    with pytest.raises(LedgerDown):  # too much is unfolded
        book.reserve("r4", BOTH, 1, 60)
    assert book.unfolded == 3

import sys
import tracemalloc

import numpy as np
import pytest

from api.cache.entries import Entry, decode_entry, encode_entry
from api.cache.residents import PAYLOAD_SHARE, Residents
from tests.cache.entries import entry

DIM = 384


def unit(seed: int) -> np.ndarray:
    fresh = np.random.default_rng(seed).standard_normal(DIM).astype(np.float32)
    return fresh / np.linalg.norm(fresh)


def made(n: int, *, partitions: int = 1, answer: str = "x" * 300) -> list[Entry]:
    return [
        entry(f"What is question {row}?", unit(row), partition=f"{row % partitions:032x}",
              answer=answer, doc_ids=(f"d{row}", f"e{row}"))
        for row in range(n)
    ]  # fmt: skip


@pytest.mark.parametrize(("n", "partitions"), [(300, 300), (300, 1), (4000, 1), (4000, 40)])
def test_size_is_what_the_entries_take(n: int, partitions: int) -> None:
    values = [encode_entry(each) for each in made(n, partitions=partitions)]
    Residents(1 << 40, has_store=True).add(made(1)[0], 0.0)  # what is made once is not an entry's
    tracemalloc.start()
    try:
        residents = Residents(1 << 40, has_store=True)
        for at, value in enumerate(values):
            residents.add(decode_entry(value), float(at))
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 0.85 < residents.size_bytes / taken < 1.25


def test_large_index_and_question_take_some_thirteen_hundred_bytes() -> None:
    residents, entries = Residents(1 << 40, has_store=True), made(6000)
    for each in entries:
        residents.add(each, 0.0)
    payloads = sum(sys.getsizeof(residents.payload(each.id)) for each in entries)
    questions = sum(2 * len(each.question) for each in entries)
    assert (residents.size_bytes - payloads - questions) / len(entries) < 1450


def test_size_is_zero_again_after_any_order_of_removal() -> None:
    residents, entries = Residents(1 << 40, has_store=True), made(90, partitions=7)
    for each in entries:
        residents.add(each, 0.0)
    residents.add(entries[3], 0.0)
    for each in entries[::2] + entries[1::2]:
        assert residents.remove(each.id)
    assert not residents.remove(entries[0].id)
    assert (len(residents), residents.size_bytes) == (0, 0)


def test_payloads_read_again_stay_within_their_share() -> None:
    residents, entries = Residents(400_000, has_store=True), made(70, answer="x" * 5000)
    for each in entries:
        residents.add(each, 0.0)
    assert (residents.evicted, len(residents)) == (0, 70)
    for each in entries:
        residents.keep_payload(each)
        held = sum(len(residents.payload(other.id) or b"") for other in entries)
        assert held <= PAYLOAD_SHARE * 400_000
        assert residents.size_bytes <= 400_000
    assert residents.payload(entries[-1].id) is not None
    assert residents.payload(entries[0].id) is None


def test_entries_without_payload_are_the_first_to_go() -> None:
    residents, entries = Residents(400_000, has_store=True), made(400, answer="x" * 3000)
    for each in entries[:100]:
        residents.add(each, 0.0)
    first = entries[0].id
    assert residents.payload(first) is None
    residents.keep_payload(entries[0])
    residents.touch(first)
    for each in entries[100:]:
        residents.add(each, 0.0)
        residents.touch(first)
    assert residents.evicted > 0
    assert residents.payload(first) is not None
    assert entries[1].id not in residents
    assert entries[-1].id in residents


def test_without_a_store_payload_and_entry_go_together() -> None:
    residents, entries = Residents(100_000, has_store=False), made(200, answer="x" * 1000)
    for each in entries:
        residents.add(each, 0.0)
    kept = [each for each in entries if each.id in residents]
    assert kept == entries[-len(kept) :]
    assert all(residents.payload(each.id) for each in kept)
    assert residents.size_bytes <= 100_000

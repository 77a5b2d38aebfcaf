"""The writer: what is appended is stored once, or counted as dropped."""

import asyncio
from typing import Any

import msgspec
from sqlalchemy import func, select

from api.log import reader as reading
from api.log import retention as forgetting
from api.log import rows as noting
from api.log.analytics import Window
from api.log.database import Database
from api.log.tables import ANSWERS, FEEDBACK
from api.log.writer import Writer
from tests.log.rows import ACME, NOW, answered, write


async def exported(database: Database, tenant: str | None = None) -> list[Any]:
    window = Window(since=NOW - 7 * 86400, tenant=tenant)
    return [row async for batch in reading.export(database, window) for row in batch]


def test_row_holds_what_was_noted(migrated: str, on_database: Any) -> None:
    async def work(database: Database) -> Any:
        await write(database, answered("r1", caller=ACME, ms=120.5, cache="exact", variant="b"))
        return await exported(database)

    (row,) = on_database(work)
    assert (row.request_id, row.tenant, row.key_id) == ("r1", "acme", "k1")
    assert (row.outcome, row.unanswered, row.engine, row.model) == ("ok", False, "tgi", "m")
    assert (row.prompt_version, row.generation, row.cache) == ("p1", "g1", "exact")
    assert (row.total_ms, row.first_token_ms) == (120.5, 60.25)
    assert row.stages_ms == {"first_token": 60.25, "total": 120.5}
    assert (row.prompt_tokens, row.completion_tokens, row.cost_eur) == (100, 10, 0.001)
    assert (row.passage_ids, row.variant) == (["a:0", "b:1"], "b")
    assert (row.question, row.answer) == (None, None)


def test_row_sent_twice_is_stored_once(migrated: str, on_database: Any) -> None:
    async def work(database: Database) -> int:
        noted = answered()
        for _ in range(2):
            await write(database, noted)
        return len(await exported(database))

    assert on_database(work) == 1


def test_rows_of_one_microsecond_are_all_stored(migrated: str, on_database: Any) -> None:
    async def work(database: Database) -> int:
        await write(database, *[answered(f"r{n}", ago_s=60.0) for n in range(450)])
        return len(await exported(database))

    assert on_database(work) == 450


def test_text_that_postgresql_refuses_is_made_fit(migrated: str, on_database: Any) -> None:
    async def work(database: Database) -> Any:
        await write(database, answered(question="a\0b?", answer="x\ud800y", model="m\0"))
        return (await exported(database))[0]

    row = on_database(work)
    assert (row.question, row.answer, row.model) == ("ab?", "x?y", "m")


def test_counts_beyond_the_columns_do_not_stop_the_log(migrated: str, on_database: Any) -> None:
    async def work(database: Database) -> Any:
        await write(database, answered(prompt_tokens=10**12, completion_tokens=10**20))
        return (await exported(database))[0]

    row = on_database(work)
    assert row.prompt_tokens == row.completion_tokens == 2**31 - 1


def test_feedback_said_again_replaces_itself(migrated: str, on_database: Any) -> None:
    async def work(database: Database) -> Any:
        judge = noting.judged
        await write(
            database,
            answered("r1", caller=ACME),
            judge(ACME, "r1", "down", reason="wrong", keeps_text=True),
            judge(ACME, "r1", "up", keeps_text=True),
            judge(msgspec.structs.replace(ACME, key_id="k2"), "r1", "down", keeps_text=True),
        )
        return (await exported(database))[0].feedback

    feedback = {judgement.key_id: judgement for judgement in on_database(work)}
    assert {key: judgement.rating for key, judgement in feedback.items()} == {
        "k1": "up", "k2": "down",
    }  # fmt: skip
    assert feedback["k1"].reason is None


def test_feedback_of_another_tenant_is_not_shown(migrated: str, on_database: Any) -> None:
    async def work(database: Database) -> Any:
        other = msgspec.structs.replace(ACME, tenant="other")
        said_so = noting.judged(other, "r1", "down", keeps_text=True)
        await write(database, answered("r1", caller=ACME), said_so)
        return (await exported(database))[0].feedback

    assert on_database(work) == []


def test_feedback_words_are_not_kept_without_log_text() -> None:
    judged = noting.judged(ACME, "r1", "down", reason="my name is", keeps_text=False)
    assert judged.row(0)["reason"] is None


def test_queue_full_drops_the_oldest_and_counts(on_database: Any, migrated: str) -> None:
    async def work(database: Database) -> Any:
        writer = Writer(database, max_waiting=10)
        for n in range(25):
            writer.append(answered(f"r{n}", ago_s=60 - n))
        assert (writer.n_waiting, writer.dropped) == (10, 15)
        writer.start()
        await writer.close(30.0)
        assert (writer.written, writer.dropped, writer.n_waiting) == (10, 15, 0)
        return [row.request_id for row in await exported(database)]

    assert on_database(work) == [f"r{n}" for n in range(15, 25)]


def test_forgetting_takes_the_tenants_rows_also_those_that_wait(
    migrated: str, on_database: Any
) -> None:
    async def work(database: Database) -> Any:
        judged = noting.judged(ACME, "a1", "up", keeps_text=False)
        await write(database, answered("a1", caller=ACME), judged, answered("p1"))
        writer = Writer(database)
        writer.append(answered("a2", caller=ACME))
        writer.append(answered("p2"))
        async with writer.forgetting(lambda noted: noted.tenant == "acme"):
            gone = await forgetting.forget_tenant(database, "acme")
        writer.start()
        await writer.close(30.0)
        assert gone == forgetting.Forgotten(answers=1, feedback=1)
        return [row.request_id for row in await exported(database)]

    assert sorted(on_database(work)) == ["p1", "p2"]


def test_retention_deletes_what_is_older_in_batches(
    migrated: str, on_database: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(forgetting, "BATCH", 20)

    async def work(database: Database) -> Any:
        old = [answered(f"old{n}", ago_s=3600 + n) for n in range(45)]
        await write(database, *old, answered("new", ago_s=5))
        gone = await forgetting.forget_before(database, NOW - 1800)
        assert gone.answers == 45
        async with database.engine.connect() as connection:
            counts = [
                (await connection.execute(select(func.count()).select_from(table))).scalar()
                for table in (ANSWERS, FEEDBACK)
            ]
        assert counts == [1, 0]
        return [row.request_id for row in await exported(database)]

    assert on_database(work) == ["new"]


def test_export_reads_more_than_a_batch_oldest_first(
    migrated: str, on_database: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(reading, "EXPORT_BATCH", 7)

    async def work(database: Database) -> Any:
        await write(database, *[answered(f"r{n:02}", ago_s=60 - n) for n in range(20)])
        await write(database, answered("acme", caller=ACME, ago_s=90))
        return [
            [row.request_id for row in await exported(database, tenant)]
            for tenant in (None, "acme")
        ]

    everyone, acme = on_database(work)
    assert everyone == ["acme", *[f"r{n:02}" for n in range(20)]]
    assert acme == ["acme"]


def test_appending_to_a_writer_that_nobody_started_does_not_block() -> None:
    async def work() -> int:
        writer = Writer(Database("", "/nonexistent"))
        writer.append(answered())
        await writer.close(0.1)
        return writer.dropped

    assert asyncio.run(work()) == 1

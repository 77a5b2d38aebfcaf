"""The tables of the query log, the same for SQLite and PostgreSQL; migrations make them.

Times are seconds since the epoch, in UTC. Nothing here holds text of users unless LOG_TEXT is on.
"""

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Double,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
)

METADATA = MetaData()
ID_STEPS = 2048
"""Ids there are for each microsecond."""

ROW_ID = BigInteger().with_variant(Integer, "sqlite")
"""SQLite keeps rows in the order of an INTEGER key, and of no other."""

ANSWERS = Table(
    "answers",
    METADATA,
    # Microseconds since the epoch times ID_STEPS, plus a number to tell apart: in order of time,
    # so that a window is a range of the key, and made by the writer, so that a batch sent twice is
    # stored once.
    Column("id", ROW_ID, primary_key=True, autoincrement=False),
    Column("at", Double, nullable=False),
    Column("request_id", String(64), nullable=False),
    Column("tenant", String(128), nullable=False),
    Column("key_id", String(64), nullable=False),
    Column("endpoint", String(64), nullable=False),
    Column("outcome", String(32), nullable=False),
    Column("error", String(32), nullable=False),
    Column("unanswered", Boolean, nullable=False),
    Column("engine", String(64), nullable=False),
    Column("model", String(256), nullable=False),
    Column("prompt_version", String(32), nullable=False),
    Column("experiment", String(64), nullable=False),
    Column("variant", String(64), nullable=False),
    Column("generation", String(64), nullable=False),
    Column("cache", String(16), nullable=False),
    Column("total_ms", Double, nullable=False),
    Column("first_token_ms", Double),
    Column("stages_ms", JSON, nullable=False),
    Column("prompt_tokens", Integer, nullable=False),
    Column("completion_tokens", Integer, nullable=False),
    Column("cost_eur", Double, nullable=False),
    Column("passage_ids", JSON, nullable=False),
    Column("question", Text),
    Column("answer", Text),
    Index("answers_by_request", "request_id"),
    Index("answers_by_tenant", "tenant", "id"),
    Index("answers_by_variant", "experiment", "id"),
)

FEEDBACK = Table(
    "feedback",
    METADATA,
    Column("tenant", String(128), primary_key=True),
    Column("request_id", String(64), primary_key=True),
    Column("key_id", String(64), primary_key=True),
    Column("at", Double, nullable=False),
    Column("rating", String(8), nullable=False),
    Column("reason", Text),
    Column("correct_answer", Text),
    Index("feedback_by_request", "request_id"),
    Index("feedback_by_time", "at"),
)


def first_id(at: float) -> int:
    """Return the smallest id of rows from a time on."""
    return int(at * 1e6) * ID_STEPS

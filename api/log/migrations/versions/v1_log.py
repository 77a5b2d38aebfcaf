"""The log of answers and what people say of them."""

import sqlalchemy as sa
from alembic import op

revision = "v1"
down_revision = None

ROW_ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.create_table(
        "answers",
        sa.Column("id", ROW_ID, primary_key=True, autoincrement=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("request_id", sa.String(64), nullable=False),
        sa.Column("tenant", sa.String(128), nullable=False),
        sa.Column("key_id", sa.String(64), nullable=False),
        sa.Column("endpoint", sa.String(64), nullable=False),
        sa.Column("outcome", sa.String(32), nullable=False),
        sa.Column("error", sa.String(32), nullable=False),
        sa.Column("unanswered", sa.Boolean, nullable=False),
        sa.Column("engine", sa.String(64), nullable=False),
        sa.Column("model", sa.String(256), nullable=False),
        sa.Column("prompt_version", sa.String(32), nullable=False),
        sa.Column("experiment", sa.String(64), nullable=False),
        sa.Column("variant", sa.String(64), nullable=False),
        sa.Column("generation", sa.String(64), nullable=False),
        sa.Column("cache", sa.String(16), nullable=False),
        sa.Column("total_ms", sa.Double, nullable=False),
        sa.Column("first_token_ms", sa.Double),
        sa.Column("stages_ms", sa.JSON, nullable=False),
        sa.Column("prompt_tokens", sa.Integer, nullable=False),
        sa.Column("completion_tokens", sa.Integer, nullable=False),
        sa.Column("cost_eur", sa.Double, nullable=False),
        sa.Column("passage_ids", sa.JSON, nullable=False),
        sa.Column("question", sa.Text),
        sa.Column("answer", sa.Text),
    )
    op.create_index("answers_by_request", "answers", ["request_id"])
    op.create_index("answers_by_tenant", "answers", ["tenant", "id"])
    op.create_index("answers_by_variant", "answers", ["experiment", "id"])
    op.create_table(
        "feedback",
        sa.Column("tenant", sa.String(128), primary_key=True),
        sa.Column("request_id", sa.String(64), primary_key=True),
        sa.Column("key_id", sa.String(64), primary_key=True),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("rating", sa.String(8), nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("correct_answer", sa.Text),
    )
    op.create_index("feedback_by_request", "feedback", ["request_id"])
    op.create_index("feedback_by_time", "feedback", ["at"])


def downgrade() -> None:
    op.drop_table("feedback")
    op.drop_table("answers")

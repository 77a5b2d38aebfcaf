"""What can be set of the database: where it is, what it keeps and for how long."""

from typing import Annotated, Literal

from msgspec import Meta

from api.settings.types import Group, Secret


class DatabaseSettings(Group, frozen=True, kw_only=True):
    database_url: Annotated[
        Secret,
        Meta(
            description="Log of answers and feedback: postgresql://USER:PASSWORD@HOST/NAME or "
            "sqlite:///FILE; empty: a file in RETRIEVAL_INDEX_DIR; off: none"
        ),
    ] = Secret()
    log_text: Annotated[
        Literal["off", "on"],
        Meta(description="on keeps questions, answers and words of feedback as text in the log"),
    ] = "off"
    log_retention_days: Annotated[
        float, Meta(ge=0.01, le=3650, description="The log forgets what is older")
    ] = 30.0

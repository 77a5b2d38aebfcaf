"""Every stack, resolved once."""

from typing import Any

import pytest

from tests.infra.stacks import services


@pytest.fixture(scope="module")
def stacks() -> list[tuple[str, str, dict[str, Any]]]:
    return list(services())

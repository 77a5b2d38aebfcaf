"""What must stay true of the project as a whole: documents, settings, size of rooms."""

import re
from pathlib import Path

import pytest

from api.cli.main import SAMPLE
from api.errors import ERRORS, INTERNAL
from tests.support import settings_pages

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
ROOMS = sorted([*ROOT.glob("api/**/*.py"), *ROOT.glob("retrieval/**/*.py")])


def test_settings_pages_are_the_structs() -> None:
    """`make settings` writes both."""
    assert settings_pages.PAGE.read_text() == settings_pages.page()
    assert settings_pages.EXAMPLE.read_text().startswith(
        settings_pages.example() + settings_pages.COMPOSE_ALONE
    )


def test_docs_error_table_is_the_code() -> None:
    documented = set(
        re.findall(r"^\| (\d{3}) \| `(\w+)` \|", (ROOT / "docs/api.md").read_text(), re.MULTILINE)
    )
    assert documented == {(str(row.status), row.code) for row in [*ERRORS.values(), INTERNAL]}


def test_environment_is_read_in_settings_alone() -> None:
    reading = {
        room.relative_to(ROOT).as_posix()
        for room in ROOMS
        if re.search(r"os\.(environ|getenv)", room.read_text())
    }
    # embedded passes its own environment on to the engine's process, which reads its key there.
    assert reading == {"api/settings/env.py", "api/embedded/children.py", "api/embedded/llama.py"}


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.relative_to(ROOT).as_posix())
def test_room_is_short_and_says_what_it_owns(room: Path) -> None:
    lines = room.read_text().splitlines()
    assert len(lines) <= 300
    assert not lines or lines[0].startswith('"""')


@pytest.mark.parametrize("page", sorted([ROOT / "README.md", *ROOT.glob("docs/*.md")]))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


DEVELOPERS_PAGES = {"docs/architecture.md", "docs/decisions.md"}


def test_sample_is_every_page_but_those_for_developers() -> None:
    pages = {page.relative_to(ROOT).as_posix() for page in ROOT.glob("docs/*.md")}
    assert pages - set(SAMPLE) == DEVELOPERS_PAGES
    assert all((ROOT / name).exists() for name in SAMPLE)
    left_out = (ROOT / ".dockerignore").read_text().splitlines()
    assert set(left_out) >= DEVELOPERS_PAGES  # the image indexes the folder

"""The rooms of the code: who imports whom, and that docs/architecture.md is true."""

import re

import pytest

from tests.support.rooms import ROOT, allowed, arrows, circles, long_files

PAGE = (ROOT / "docs/architecture.md").read_text()


@pytest.mark.parametrize("room", sorted(arrows()))
def test_room_imports_only_what_it_may(room: str) -> None:
    assert arrows()[room] - allowed().get(room, frozenset()) == frozenset()


def test_list_names_no_arrow_that_is_not_there() -> None:
    unused = {room: targets - arrows()[room] for room, targets in allowed().items()}
    assert {room: targets for room, targets in unused.items() if targets} == {}


def test_rooms_import_each_other_in_no_circle() -> None:
    assert circles(arrows()) == []


def test_circle_is_found() -> None:
    around = {"a": frozenset("b"), "b": frozenset("c"), "c": frozenset("a"), "d": frozenset("a")}
    assert circles(around) == [["a", "b", "c"]]


def test_no_file_is_long() -> None:
    assert long_files() == []


@pytest.mark.parametrize(
    "path", sorted(set(re.findall(r"`((?:api|retrieval|tests)/[\w/.]+)`", PAGE)))
)
def test_page_names_a_file_that_is_there(path: str) -> None:
    assert (ROOT / path).exists()


def test_tree_names_every_room() -> None:
    tree = PAGE.split("## The tree", 1)[1].split("```")[1]
    named = set(re.findall(r"^  (\w+)(?:/|\.py)", tree, re.MULTILINE))
    assert {room.partition(".")[2] for room in arrows()} <= named

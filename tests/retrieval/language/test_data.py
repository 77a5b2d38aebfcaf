import os
import subprocess
import sys
from pathlib import Path

import pytest

from retrieval.language.data import LANGUAGES, load_groups, load_lines, load_words

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_has_the_lists_that_are_read_of_all(language: str) -> None:
    assert load_words("negations", language)
    assert load_words("pronouns", language)
    assert load_lines("openers", language)


@pytest.mark.parametrize(
    "name", ["opposites", "synonyms", "people", "irregular", "spellings", "signs", "openers"]
)
def test_lists_are_lower_case_without_comments_and_blank_lines(name: str) -> None:
    lines = load_lines(name)
    assert lines == tuple(line.strip().lower() for line in lines)
    assert all(line and "#" not in line for line in lines)


def test_opposites_have_sides_of_words() -> None:
    for line in load_lines("opposites"):
        sides = line.split("|")
        assert len(sides) >= 2
        assert all(side.split() for side in sides)


@pytest.mark.parametrize(("name", "least"), [("synonyms", 2), ("irregular", 2), ("people", 1)])
def test_groups_have_words_enough(name: str, least: int) -> None:
    assert all(len(words) >= least for words in load_groups(name))


def test_unknown_list_or_language_fails() -> None:
    with pytest.raises(KeyError):
        load_words("directions", "de")
    with pytest.raises(FileNotFoundError):
        load_lines("openers", "xx")


def test_lists_are_found_from_any_folder(tmp_path: Path) -> None:
    code = "from retrieval.language.opposites import sides; assert sides()"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)

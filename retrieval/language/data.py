"""Read the word lists that lie beside this module, one folder a language: en, de, fr, es.

`words.toml` holds short lists, each a string of words between spaces; a `.txt` file holds one
long list, a group of words a line. `#` begins a comment in both.
"""

from functools import lru_cache
from importlib.resources import files

import msgspec

LANGUAGES = ("en", "de", "fr", "es")


def load_words(name: str, language: str = "en") -> tuple[str, ...]:
    """Return a list of `words.toml` in its order. Raises KeyError if the language lacks it."""
    return tuple(_read_toml(language)[name].split())


def load_lines(name: str, language: str = "en") -> tuple[str, ...]:
    """Return the lines of `<name>.txt`, without comments and blank lines."""
    text = _read_text(language, f"{name}.txt")
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return tuple(line for line in lines if line)


def load_groups(name: str, language: str = "en") -> tuple[tuple[str, ...], ...]:
    """Return the words of each line of `<name>.txt`."""
    return tuple(tuple(line.split()) for line in load_lines(name, language))


@lru_cache
def _read_toml(language: str) -> dict[str, str]:
    return msgspec.toml.decode(_read_text(language, "words.toml"), type=dict[str, str])


def _read_text(language: str, file_name: str) -> str:
    return (files("retrieval.language") / language / file_name).read_text(encoding="utf-8")

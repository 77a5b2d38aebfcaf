"""Words that exclude each other, from `en/opposites.txt`: who asks with one wants no answer to the
other."""

from functools import lru_cache

from retrieval.language.data import load_lines
from retrieval.language.vocabulary import stem


@lru_cache
def sides() -> dict[str, tuple[tuple[int, int], ...]]:
    """Stem → each (group, side) that holds it; words on two sides of one group are opposites."""
    found: dict[str, tuple[tuple[int, int], ...]] = {}
    for group, line in enumerate(load_lines("opposites")):
        for side, words in enumerate(line.split("|")):
            for word in {stem(word) for word in words.split()}:
                found[word] = (*found.get(word, ()), (group, side))
    return found

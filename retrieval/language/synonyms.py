"""Words that may stand for one another in a question, from `en/synonyms.txt`."""

from functools import lru_cache

from retrieval.language.data import load_groups
from retrieval.language.vocabulary import stem


@lru_cache
def synonyms() -> dict[str, frozenset[int]]:
    """Stem → the groups that hold it; words of one group are synonyms."""
    found: dict[str, frozenset[int]] = {}
    for group, words in enumerate(load_groups("synonyms")):
        for word in {stem(word) for word in words}:
            found[word] = found.get(word, frozenset()) | {group}
    return found

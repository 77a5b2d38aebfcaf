"""Stems of English words, and short lists of words by what they do in a question.

The lists lie in `en/words.toml`; negations are those of every language there is.
"""

from functools import lru_cache

import Stemmer

from retrieval.language.data import LANGUAGES, load_groups, load_words

NEGATIONS = frozenset(word for language in LANGUAGES for word in load_words("negations", language))
NEGATING_PREFIXES = frozenset(load_words("negating_prefixes"))
OPPOSED_PREFIXES = frozenset(
    pair
    for x, y in (pair.split("-") for pair in load_words("opposed_prefixes"))
    for pair in ((x, y), (y, x))
)
PREFIXES = tuple(
    sorted(NEGATING_PREFIXES | {prefix for pair in OPPOSED_PREFIXES for prefix in pair})
)

FUNCTION_WORDS = frozenset(load_words("function_words"))
"""What a question is made of beside what it is about."""
RELATING = frozenset(load_words("relating"))
"""Prepositions whose two sides are not exchangeable."""
DIRECTIONS = frozenset(load_words("directions"))
COORDINATING = frozenset(load_words("coordinating"))

SIGNS = {sign: name for sign, name in load_groups("signs")}
"""The sign of a unit → its name: % → percent."""
SPELLINGS = {
    **{auxiliary + "nt": (auxiliary, "not") for auxiliary in load_words("auxiliaries")},
    **{written: tuple(words) for written, *words in load_groups("spellings")},
}
"""A word as it is written → the words it stands for: cant → can, not."""
_LEMMAS = {form: lemma for lemma, *forms in load_groups("irregular") for form in forms}

_stemmer = Stemmer.Stemmer("english")
_stemmer.maxCacheSize = 20_000


def stem(word: str) -> str:
    """Return the Snowball stem of a lower-case English word; irregular forms are known."""
    stemmed: str = _stemmer.stemWord(_LEMMAS.get(word, word))
    return stemmed


@lru_cache
def people() -> dict[str, int]:
    """Stem → the person it names, a line of `en/people.txt`."""
    return {
        stem(word): person for person, words in enumerate(load_groups("people")) for word in words
    }

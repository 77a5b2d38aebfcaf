"""Compare two stems: alike by root, synonym or typing error, or opposites by their prefix."""

from functools import lru_cache

from retrieval.language.synonyms import synonyms
from retrieval.language.vocabulary import NEGATING_PREFIXES, OPPOSED_PREFIXES, PREFIXES

_MIN_ROOT = 3
_STEM_SLACK = 2
_MIN_TYPO = 5
_MIN_NAME_TYPO = 6


def are_opposite(x: str, y: str) -> bool:
    """Whether prefixes make them opposites: unsafe and safe, hypo- and hyperthyroidism."""
    of_x, of_y = _splits(x), _splits(y)
    if not (of_x or of_y):
        return False
    return (
        any(prefix in NEGATING_PREFIXES and _is_root(root, y) for prefix, root in of_x)
        or any(prefix in NEGATING_PREFIXES and _is_root(root, x) for prefix, root in of_y)
        or any(
            (p, q) in OPPOSED_PREFIXES and _is_root(root, other)
            for p, root in of_x
            for q, other in of_y
        )
    )


def are_alike(x: str, y: str) -> bool:
    """Whether they are synonyms, of one root, or a typing error apart."""
    groups = synonyms()
    if x in groups and y in groups and not groups[x].isdisjoint(groups[y]):
        return True
    return _shares_root(x, y) or (min(len(x), len(y)) >= _MIN_TYPO and is_typo(x, y))


def _shares_root(x: str, y: str) -> bool:
    n = min(len(x), len(y))
    common = next((at for at in range(n) if x[at] != y[at]), n)
    return common >= 4 and common >= 0.6 * max(len(x), len(y))


def is_typo(x: str, y: str) -> bool:
    """One letter dropped, added, changed or swapped with its neighbour, not the first."""
    if x[0] != y[0] or abs(len(x) - len(y)) > 1:
        return False
    if len(x) > len(y):
        x, y = y, x
    at = next((at for at in range(len(x)) if x[at] != y[at]), len(x))
    if len(x) < len(y):
        return x[at:] == y[at + 1 :]
    changed = x[at + 1 :] == y[at + 1 :]
    return changed or (x[at : at + 2] == y[at : at + 2][::-1] and x[at + 2 :] == y[at + 2 :])


def is_same_name(x: str, y: str) -> bool:
    """Stricter than alike: Austria and Australia are two, India and Indian are one."""
    if len(x) > len(y):
        x, y = y, x
    if len(x) >= 4 and y.startswith(x) and len(y) - len(x) <= 1:
        return True
    return len(x) >= _MIN_NAME_TYPO and is_typo(x, y)


@lru_cache(maxsize=16_384)
def _splits(word: str) -> tuple[tuple[str, str], ...]:
    """Each telling prefix of a word with what follows it."""
    return tuple(
        (prefix, word[len(prefix) :])
        for prefix in PREFIXES
        if word.startswith(prefix) and len(word) - len(prefix) >= _MIN_ROOT
    )


def _is_root(x: str, y: str) -> bool:
    """The stemmer leaves unsaf of unsafe, but safe of safe."""
    if len(x) > len(y):
        x, y = y, x
    return len(x) >= _MIN_ROOT and len(y) - len(x) <= _STEM_SLACK and y.startswith(x)

"""Rules that keep two similar questions from sharing an answer: another number, name, negation.

Embeddings of short questions hardly see a changed number, a "not", another name or a swapped
order: these rules do. They are rules of English, not of a data set; each gives a label for the
metric. A veto costs a hit, never an answer.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Literal

from api.cache.features import Features
from retrieval.language.likeness import are_alike, are_opposite, is_same_name
from retrieval.language.opposites import sides
from retrieval.language.vocabulary import COORDINATING, DIRECTIONS, people

Reason = Literal["number", "negation", "antonym", "entity", "person", "order", "substitution"]

_MAX_ACRONYM = 5
_SLOT_WORDS = 2
_FRAME_WORDS = 8
"""In longer questions one changed word is more often a turn of phrase."""
_SELF = -1
_LAST_LATIN = "\u024f"
_BE = frozenset("is are was were be been".split())


def veto(a: Features, b: Features) -> Reason | None:
    """Return why the answer to `a` may not serve `b`, if there is a reason; symmetric."""
    if a.words == b.words and a.content == b.content:
        return None
    only_a, only_b = _leftovers(a, b)
    if _numbers_differ(a, b):
        return "number"
    if a.negations % 2 != b.negations % 2 or any(
        are_opposite(x, y) for x in only_a for y in only_b
    ):
        return "negation"
    if _are_opposed(only_a, only_b):
        return "antonym"
    if not all(map(_is_latin, (*only_a, *only_b))):
        return "substitution"
    if _names_differ(a, b):
        return "entity"
    if _principals_differ(a, b):
        return "person"
    if _order_differs(a, b):
        return "order"
    if _is_substituted(a, b):
        return "substitution"
    return None


def _leftovers(a: Features, b: Features) -> tuple[list[str], list[str]]:
    in_a, in_b = set(a.words), set(b.words)
    only_a = [word for word in dict.fromkeys(a.words) if word not in in_b]
    only_b = [word for word in dict.fromkeys(b.words) if word not in in_a]
    return only_a, only_b


def _is_latin(word: str) -> bool:
    """These rules, and the small embedding models, are blind in other scripts."""
    return word.isascii() or max(word) <= _LAST_LATIN


def _numbers_differ(a: Features, b: Features) -> bool:
    if a.numbers == b.numbers:
        return False
    differing = set(a.numbers) ^ set(b.numbers)
    if differing == {"1"} and (a.says_one or b.says_one):
        return False
    if differing:
        return True
    of_a, of_b = _counted(a), _counted(b)
    return any(of_a[word].isdisjoint(of_b[word]) for word in of_a.keys() & of_b.keys())


def _counted(features: Features) -> dict[str, set[str]]:
    """Each word that a number stands before, with its numbers: "2 adults, 3 children"."""
    found: dict[str, set[str]] = {}
    for number, word in pairwise(features.content):
        if number in features.numbers:
            found.setdefault(word, set()).add(number)
    return found


def _are_opposed(only_a: Sequence[str], only_b: Sequence[str]) -> bool:
    """Whether each has a side of a contrast that the other lacks."""
    table = sides()
    in_a = {place for word in only_a for place in table.get(word, ())}
    in_b = {place for word in only_b for place in table.get(word, ())}
    groups = {group for group, _ in in_a - in_b}
    return any(group in groups for group, _ in in_b - in_a)


def _names_differ(a: Features, b: Features) -> bool:
    return any(
        not _occurs(name, there.words)
        for here, there in ((a, b), (b, a))
        for name in here.entities
        if name not in _abbreviated(here, there)
    )


def _occurs(name: str, words: Sequence[str]) -> bool:
    return (
        name in words
        or any(is_same_name(name, word) for word in words)
        or name in (x + y for x, y in pairwise(words))
    )


def _abbreviated(a: Features, b: Features) -> set[str]:
    """Names that are an acronym of the other side's names, or the names such an acronym spells."""
    found: set[str] = set()
    for here, there in ((a, b), (b, a)):
        initials = "".join(name[0] for name in there.entities)
        for acronym in here.entities:
            at = initials.find(acronym) if 2 <= len(acronym) <= _MAX_ACRONYM else -1
            if at >= 0:
                found |= {acronym, *there.entities[at : at + len(acronym)]}
    return found


def _principals_differ(a: Features, b: Features) -> bool:
    """Other people, or another of them first: "can my wife see my …", "can I see my wife's …"."""
    people_a, people_b = _people(a), _people(b)
    return people_a != people_b or (bool(people_a) and _first_person(a) != _first_person(b))


def _first_person(features: Features) -> int | None:
    table = {**people(), "i": _SELF}
    return next((table[word] for word in features.words if word in table), None)


def _people(features: Features) -> set[int]:
    table = people()
    return {table[word] for word in features.words if word in table}


def _order_differs(a: Features, b: Features) -> bool:
    if _roles_differ(a, b):
        return True
    if len(a.content) < 3 or sorted(a.content) != sorted(b.content):
        return False
    voice_differs = _prepositions(a) ^ _prepositions(b) == {"by"} and (
        _is_passive(a) != _is_passive(b)
    )
    if a.content == b.content:
        return voice_differs
    return _is_swapped(a, b) and not voice_differs


def _roles_differ(a: Features, b: Features) -> bool:
    """from X to Y against from Y to X: a preposition's word is found elsewhere, both ways.

    After a direction (from, to, than) elsewhere is anywhere; after others, which mean less, it is
    after another preposition.
    """
    if not (a.roles and b.roles):
        return False
    of_a, of_b = _by_preposition(a), _by_preposition(b)
    # Long sentences share words behind the same preposition by chance.
    is_long = max(len(a.content), len(b.content)) > _FRAME_WORDS
    for preposition in of_a.keys() & of_b.keys():
        x, y = of_a[preposition], of_b[preposition]
        lost, found = x - y, y - x
        if not (lost and found):
            continue
        is_direction = preposition in DIRECTIONS
        moved = (
            lost.intersection(b.content if is_direction else _in_roles(of_b)),
            found.intersection(a.content if is_direction else _in_roles(of_a)),
        )
        if all(moved) and (not is_long or moved == (lost, found)):
            return True
    return False


def _in_roles(roles: dict[str, set[str]]) -> set[str]:
    return set().union(*roles.values())


def _prepositions(features: Features) -> set[str]:
    return {role[0] for role in features.roles}


def _by_preposition(features: Features) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for preposition, *words in features.roles:
        found.setdefault(preposition, set()).update(words)
    return found


def _is_swapped(a: Features, b: Features) -> bool:
    """X bites Y against Y bites X; "X and Y" may be said either way, and so may a fronted part."""
    x, y = a.content, b.content
    if _are_coordinated(a, b) or _prepositions(a) != _prepositions(b):
        return False
    if any(x[cut:] + x[:cut] == y for cut in range(1, len(x))):
        return False
    x, y = _middles(x, y)
    n = len(x)
    for left in range(1, n - 1):
        for right in range(1, n - left):
            middle = x[left : n - right]
            if y[0] == x[n - right] and middle and y == x[n - right :] + middle + x[:left]:
                return True
    return False


def _are_coordinated(a: Features, b: Features) -> bool:
    """Both join things with "and", "or" or "between", in any order."""
    return not (COORDINATING.isdisjoint(a.words) or COORDINATING.isdisjoint(b.words))


def _is_passive(features: Features) -> bool:
    return "by" in features.words and not _BE.isdisjoint(features.words)


def _middles(x: tuple[str, ...], y: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What differs between a common start and a common end."""
    while x and y and x[0] == y[0]:
        x, y = x[1:], y[1:]
    while x and y and x[-1] == y[-1]:
        x, y = x[:-1], y[:-1]
    return x, y


def _is_substituted(a: Features, b: Features) -> bool:
    """Two questions alike but for one slot, filled by words that are not known to be equal."""
    if max(len(a.content), len(b.content)) > _FRAME_WORDS:
        return False
    x, y = _middles(a.content, b.content)
    has_frame = len(x) < len(a.content) and len(y) < len(b.content)
    if not has_frame and not len(a.content) == len(b.content) == 1:
        return False
    abbreviated = _abbreviated(a, b)
    x = tuple(word for word in x if word not in {*b.words, *_joined(b), *abbreviated})
    y = tuple(word for word in y if word not in {*a.words, *_joined(a), *abbreviated})
    if not (x and y) or max(len(x), len(y)) > _SLOT_WORDS:
        return False
    return not any(are_alike(one, other) for one in x for other in y)


def _joined(features: Features) -> Iterator[str]:
    """Neighbours as one word: set up → setup."""
    return (x + y for x, y in pairwise(features.words))

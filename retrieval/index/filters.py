"""The documents that a caller may see and asks for: tenant, groups and conditions on metadata.

The rule for one document; `fields` applies the same to a whole index. A field that is missing,
nested, too long or of another type meets no condition but `ne`.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal, get_args

import msgspec

from retrieval.types import PUBLIC

DEEPEST = 4
MOST_CONDITIONS = 32
MOST_VALUES = 100
LONGEST_TEXT = 256
LONGEST_FIELD = 64
LARGEST_WHOLE = 2**53
"""Beyond it not every whole number is a float of its own."""

Operator = Literal["in", "ne", "gte", "gt", "lte", "lt"]
Connective = Literal["and", "or"]
OPERATORS = get_args(Operator)
CONNECTIVES = get_args(Connective)


class Values(msgspec.Struct, frozen=True, omit_defaults=True):
    """Scalars by type, each sorted and once: true is not 1, and 1 is 1.0."""

    texts: tuple[str, ...] = ()
    numbers: tuple[float, ...] = ()
    truths: tuple[bool, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.texts or self.numbers or self.truths)

    def meets(self, other: "Values") -> bool:
        """Whether the two have a value in common."""
        return (
            not set(self.texts).isdisjoint(other.texts)
            or not set(self.numbers).isdisjoint(other.numbers)
            or not set(self.truths).isdisjoint(other.truths)
        )


class Condition(msgspec.Struct, frozen=True, tag="condition"):
    """Equality is `in` one value; the four comparisons have exactly one text or number."""

    field: str
    operator: Operator
    values: Values

    def holds(self, metadata: Mapping[str, object]) -> bool:
        present = filterable(self.field, metadata.get(self.field))
        if self.operator == "in":
            return present.meets(self.values)
        if self.operator == "ne":
            return not present.meets(self.values)
        return any(
            _compares(value, self.operator, bound)
            for values, bounds in (
                (present.texts, self.values.texts),
                (present.numbers, self.values.numbers),
            )
            for value in values
            for bound in bounds
        )


class Filter(msgspec.Struct, frozen=True, tag="filter"):
    """Conditions that must all hold, or one of which must; hashable."""

    connective: Connective
    parts: "tuple[Condition | Filter, ...]"

    def holds(self, metadata: Mapping[str, object]) -> bool:
        held = (part.holds(metadata) for part in self.parts)
        return all(held) if self.connective == "and" else any(held)

    def key(self) -> str:
        """The same for filters that differ in the order of their parts or values alone."""
        return _canonical(self)


class View(msgspec.Struct, frozen=True):
    """What a caller may see (tenant, groups) and asks for (filters); hashable."""

    tenant: str | None = None
    """None: all tenants."""
    groups: tuple[str, ...] = ()
    all_groups: bool = True
    """Sees what any group of its tenant may see."""
    filters: Filter | None = None

    def admits(self, tenant: str, acl: Iterable[str], metadata: Mapping[str, object]) -> bool:
        """Whether a document with these is visible."""
        return (
            (self.tenant is None or tenant in (self.tenant, PUBLIC))
            and (self.all_groups or not (groups := set(acl)) or not groups.isdisjoint(self.groups))
            and (self.filters is None or self.filters.holds(metadata))
        )

    def key(self) -> str:
        """The same for views that see the same by rule."""
        groups = None if self.all_groups else sorted(set(self.groups))
        filters = self.filters.key() if self.filters else None
        return msgspec.json.encode((self.tenant, groups, filters)).decode()


EVERYTHING = View()


def filterable(field: str, value: object) -> Values:
    """The scalars of a document's field that conditions can look at; the rest is left out."""
    if len(field) > LONGEST_FIELD:
        return Values()
    if not isinstance(value, list | tuple):
        value = (value,)
    return _values(value) if len(value) <= MOST_VALUES else Values()


def parse_filters(raw: object) -> Filter:
    """Filters as they come in JSON. Raises ValueError naming the place and the bound."""
    parsed = _parse(raw, "filters", depth=1)
    if (number := sum(1 for _ in _conditions(parsed))) > MOST_CONDITIONS:
        raise ValueError(f"filters has {number} conditions, the most is {MOST_CONDITIONS}")
    return parsed


def _parse(raw: object, place: str, *, depth: int) -> Filter:
    if depth > DEEPEST:
        raise ValueError(f"filters goes deeper than {DEEPEST} levels")
    if not isinstance(raw, dict):
        raise ValueError(f"{place} must be an object")
    if len(raw) > MOST_CONDITIONS:
        raise ValueError(f"{place} has {len(raw)} conditions, the most is {MOST_CONDITIONS}")
    parts: list[Condition | Filter] = []
    for name, value in raw.items():
        if name in CONNECTIVES:
            parts.append(_parse_list(name, value, f"{place}.{name}", depth=depth + 1))
        else:
            parts.extend(_parse_field(name, value, place))
    return Filter("and", tuple(parts))


def _parse_list(connective: Connective, raw: object, place: str, *, depth: int) -> Filter:
    if not isinstance(raw, list) or not 1 <= len(raw) <= MOST_CONDITIONS:
        raise ValueError(f"{place} must be a list of 1 to {MOST_CONDITIONS} objects")
    parts = (_parse(part, f"{place}[{n}]", depth=depth) for n, part in enumerate(raw))
    return Filter(connective, tuple(parts))


def _parse_field(field: object, raw: object, place: str) -> Iterator[Condition]:
    if not isinstance(field, str) or not 1 <= len(field) <= LONGEST_FIELD:
        raise ValueError(f"a field in {place} must have 1 to {LONGEST_FIELD} characters")
    place = f"{place}.{field}"
    if not isinstance(raw, dict):
        yield Condition(field, "in", _parse_values([raw], place))
        return
    if not raw:
        raise ValueError(f"{place} names no operator ({', '.join(OPERATORS)})")
    for operator, value in raw.items():
        yield _parse_operator(field, operator, value, f"{place}.{operator}")


def _parse_operator(field: str, operator: str, raw: object, place: str) -> Condition:
    if operator not in OPERATORS:
        raise ValueError(f"{place[:200]} is not one of {', '.join(OPERATORS)}")
    if operator != "in":
        values = _parse_values([raw], place)
        if operator != "ne" and values.truths:
            raise ValueError(f"{place} must be a text or a number")
        return Condition(field, operator, values)  # type: ignore[arg-type]
    if not isinstance(raw, list) or not 1 <= len(raw) <= MOST_VALUES:
        raise ValueError(f"{place} must be a list of 1 to {MOST_VALUES} values")
    return Condition(field, "in", _parse_values(raw, place))


def _parse_values(raw: list[object], place: str) -> Values:
    for value in raw:
        if not _is_scalar(value):
            raise ValueError(
                f"{place} must be a text of at most {LONGEST_TEXT} characters, true, false or a"
                f" finite number (whole ones up to {LARGEST_WHOLE})"
            )
    return _values(raw)


def _is_scalar(value: object) -> bool:
    if isinstance(value, str):
        return len(value) <= LONGEST_TEXT
    if isinstance(value, bool):
        return True
    if isinstance(value, int):
        return abs(value) <= LARGEST_WHOLE
    return isinstance(value, float) and math.isfinite(value)


def _values(raw: Sequence[object]) -> Values:
    texts: set[str] = set()
    numbers: set[float] = set()
    truths: set[bool] = set()
    for value in raw:
        if not _is_scalar(value):
            continue
        if isinstance(value, str):
            texts.add(value)
        elif isinstance(value, bool):
            truths.add(value)
        elif isinstance(value, int | float):
            numbers.add(float(value) + 0.0)  # -0.0 becomes 0.0
    return Values(tuple(sorted(texts)), tuple(sorted(numbers)), tuple(sorted(truths)))


def _compares(value: str | float, operator: Operator, bound: str | float) -> bool:
    if isinstance(value, str) and isinstance(bound, str):
        return _ordered((value > bound) - (value < bound), operator)
    if isinstance(value, float) and isinstance(bound, float):
        return _ordered((value > bound) - (value < bound), operator)
    return False


def _ordered(sign: int, operator: Operator) -> bool:
    return sign in {"gte": (0, 1), "gt": (1,), "lte": (-1, 0), "lt": (-1,)}[operator]


def _conditions(part: "Condition | Filter") -> Iterator[Condition]:
    if isinstance(part, Condition):
        yield part
    else:
        for inner in part.parts:
            yield from _conditions(inner)


def _canonical(part: "Condition | Filter") -> str:
    if isinstance(part, Condition):
        return msgspec.json.encode(part).decode()
    inner = sorted({_canonical(inner) for inner in part.parts})
    return f'{{"{part.connective}":[{",".join(inner)}]}}'

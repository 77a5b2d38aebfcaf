import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.index.fields import DIGEST_BYTES, Attributes, read_documents_table, write_documents
from retrieval.index.filters import (
    DEEPEST,
    EVERYTHING,
    MOST_CONDITIONS,
    MOST_VALUES,
    View,
    parse_filters,
)
from retrieval.types import IndexCorrupt
from tests.retrieval.fakes import counts_of_one

REPORT = {
    "year": 2020,
    "lang": "en",
    "draft": False,
    "tags": ["tax", "law", 7],
    "author": {"name": "x"},
    "day": "2024-05-01",
}


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ({}, True),
        ({"year": 2020}, True),
        ({"year": 2020.0}, True),
        ({"year": "2020"}, False),
        ({"year": {"gte": 2020, "lt": 2021}}, True),
        ({"year": {"gt": 2020}}, False),
        ({"year": {"lte": "9999"}}, False),
        ({"year": 2020, "lang": "de"}, False),
        ({"lang": {"in": ["de", "en"]}}, True),
        ({"lang": {"ne": "en"}}, False),
        ({"missing": {"ne": "en"}}, True),
        ({"missing": {"gte": ""}}, False),
        ({"missing": ""}, False),
        ({"draft": False}, True),
        ({"draft": 0}, False),
        ({"draft": {"in": [0, 1]}}, False),
        ({"tags": "law"}, True),
        ({"tags": {"gte": 7}}, True),
        ({"tags": {"ne": "law"}}, False),
        ({"author": "x"}, False),
        ({"author": {"ne": "x"}}, True),
        ({"day": {"gte": "2024-04", "lt": "2024-06"}}, True),
        ({"or": [{"year": 1}, {"lang": "en"}]}, True),
        ({"and": [{"year": 2020}, {"or": [{"lang": "de"}, {"draft": True}]}]}, False),
        ({"or": [{"year": 1}], "lang": "en"}, False),
    ],
)
def test_filters_over_one_document_hold_as_documented(raw, expected):
    assert parse_filters(raw).holds(REPORT) is expected


def nested(levels: int) -> dict[str, object]:
    return {"or": [nested(levels - 1)]} if levels > 1 else {"a": 1}


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ([], "filters must be an object"),
        ("x", "filters must be an object"),
        ({"a": None}, "filters.a must be a text"),
        ({"a": [1]}, "filters.a must be a text"),
        ({"a": math.nan}, "finite number"),
        ({"a": math.inf}, "finite number"),
        ({"a": 2**53 + 1}, "whole ones up to"),
        ({"a": "x" * 257}, "at most 256 characters"),
        ({"x" * 65: 1}, "1 to 64 characters"),
        ({"": 1}, "1 to 64 characters"),
        ({"a": {}}, "filters.a names no operator"),
        ({"a": {"like": 1}}, "filters.a.like is not one of in, ne"),
        ({"a": {"gte": True}}, "filters.a.gte must be a text or a number"),
        ({"a": {"gte": [1]}}, "filters.a.gte must be a text"),
        ({"a": {"in": 1}}, "filters.a.in must be a list of 1 to 100"),
        ({"a": {"in": []}}, "1 to 100 values"),
        ({"a": {"in": list(range(MOST_VALUES + 1))}}, "1 to 100 values"),
        ({"or": {}}, "filters.or must be a list of 1 to 32"),
        ({"or": []}, "filters.or must be a list of 1 to 32"),
        ({"or": [1]}, r"filters.or\[0\] must be an object"),
        (nested(DEEPEST + 1), "deeper than 4 levels"),
        ({str(n): n for n in range(MOST_CONDITIONS + 1)}, "33 conditions"),
        ({"or": [{"a": 1, "b": 1} for _ in range(17)]}, "34 conditions"),
    ],
)
def test_parse_filters_out_of_bounds_names_the_place(raw, message):
    with pytest.raises(ValueError, match=message):
        parse_filters(raw)


def test_parse_filters_at_the_bounds_is_taken():
    parse_filters(nested(DEEPEST))
    parse_filters({str(n): {"in": list(range(MOST_VALUES))} for n in range(MOST_CONDITIONS)})
    parse_filters({"x" * 64: "y" * 256, "n": 2**53})


def test_key_knows_neither_order_nor_repetition_but_true_from_one():
    def key(raw: object) -> str:
        return parse_filters(raw).key()

    assert key({"a": 1, "b": "x"}) == key({"b": "x", "a": 1.0})
    assert key({"a": {"in": [2, 1, 1]}}) == key({"a": {"in": [1, 2]}})
    assert key({"or": [{"a": 1}, {"b": 2}]}) == key({"or": [{"b": 2}, {"a": 1}]})
    different = [{"a": 1}, {"a": True}, {"a": "1"}, {"b": 1}, {"a": {"ne": 1}}, {"a": {"gte": 1}}]
    assert len({key(raw) for raw in different}) == len(different)
    assert key({"or": [{"a": 1}, {"b": 2}]}) != key({"and": [{"a": 1}, {"b": 2}]})


def test_views_of_true_and_of_one_are_not_equal():
    one, true = (View(filters=parse_filters({"a": value})) for value in (1, True))
    assert one != true
    assert len({one, true, View(filters=parse_filters({"a": 1.0}))}) == 2
    assert one.key() != true.key()


SCALARS = st.one_of(
    st.sampled_from(["", "a", "b", "é", "zz", "x" * 257]),
    st.integers(-2, 2),
    st.sampled_from([0.0, -0.0, 0.5, 1.0, math.nan, math.inf, 2**53 + 1]),
    st.booleans(),
)
METADATA = st.dictionaries(
    st.sampled_from(["f", "g", "x" * 65]),
    st.one_of(
        SCALARS, st.lists(SCALARS, max_size=3), st.none(), st.just({"f": 1}), st.just([1] * 101)
    ),
    max_size=3,
)
GROUPS = st.lists(st.sampled_from(["red", "blue", ""]), max_size=2)
ATTRIBUTES = st.builds(
    Attributes,
    doc_id=st.just("d"),
    metadata=METADATA,
    tenant=st.sampled_from(["public", "acme", "other"]),
    acl=GROUPS.map(tuple),
)
VALUES = st.one_of(
    st.sampled_from(["", "a", "b", "é"]), st.integers(-2, 2), st.sampled_from([0.0, 0.5])
)
FIELDS = st.sampled_from(["f", "g", "h"])
CONDITIONS = st.one_of(
    st.builds(lambda field, value: {field: value}, FIELDS, VALUES | st.booleans()),
    st.builds(
        lambda field, values: {field: {"in": values}},
        FIELDS,
        st.lists(VALUES | st.booleans(), min_size=1, max_size=3),
    ),
    st.builds(
        lambda field, operator, value: {field: {operator: value}},
        FIELDS,
        st.sampled_from(["gte", "gt", "lte", "lt", "ne"]),
        VALUES,
    ),
)
FILTERS = st.recursive(
    CONDITIONS,
    lambda inner: st.builds(
        lambda name, parts: {name: parts},
        st.sampled_from(["and", "or"]),
        st.lists(inner, min_size=1, max_size=3),
    ),
    max_leaves=4,
).filter(lambda raw: str(raw).count("'and'") + str(raw).count("'or'") < DEEPEST)
VIEWS = st.builds(
    View,
    tenant=st.sampled_from([None, "public", "acme", "nobody"]),
    groups=GROUPS.map(tuple),
    all_groups=st.booleans(),
    filters=st.none() | FILTERS.map(parse_filters),
)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("table")


@settings(max_examples=150, deadline=None)
@given(documents=st.lists(ATTRIBUTES, min_size=1, max_size=6), view=VIEWS)
def test_table_admits_what_the_plain_rule_admits(documents, view, directory):
    digests = bytes(DIGEST_BYTES * len(documents))
    write_documents(documents, counts_of_one(len(documents)), digests, directory)
    table = read_documents_table(directory, len(documents))
    expected = [view.admits(each.tenant, each.acl, each.metadata) for each in documents]
    assert table.admitted(view).tolist() == expected


def test_everything_admits_whatever_there_is():
    assert EVERYTHING.admits("acme", ("red",), REPORT)


def test_read_table_of_another_number_of_passages_raises_index_corrupt(tmp_path):
    write_documents([Attributes("d")], counts_of_one(1), bytes(DIGEST_BYTES), tmp_path)
    for n_rows in (0, 2):
        with pytest.raises(IndexCorrupt, match=f"not of {n_rows} passages"):
            read_documents_table(tmp_path, n_rows)
    (tmp_path / "documents.msgpack").write_bytes(b"\x81")
    with pytest.raises(IndexCorrupt):
        read_documents_table(tmp_path, 1)

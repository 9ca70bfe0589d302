"""Payload's filter language: what is accepted is understood by the server, whatever it is wrapped in."""

from itertools import product
from operator import or_
from typing import Any

import orjson
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from worker.simulator.qs import parse
from worker.simulator.store import Row
from worker.simulator.where import compiled
from worker.sources.payload import OPERATORS, check, encode, id_of

FIELDS = st.from_regex(r"[a-z][A-Za-z0-9]{0,8}(\.[a-z]{1,5})?", fullmatch=True)
SCALARS = st.text(min_size=1, max_size=8) | st.integers() | st.booleans()
COMPARISONS = st.dictionaries(
    FIELDS,
    st.dictionaries(st.sampled_from(sorted(OPERATORS - {"in", "not_in", "all"})), SCALARS, min_size=1, max_size=2)
    | st.dictionaries(st.just("in"), st.lists(SCALARS, min_size=1, max_size=3), min_size=1),
    min_size=1,
    max_size=3,
)
FILTERS = st.recursive(
    COMPARISONS,
    lambda inner: st.dictionaries(
        st.sampled_from(["and", "or"]), st.lists(inner, min_size=1, max_size=3), min_size=1, max_size=1
    ),
    max_leaves=4,
)
# Filters of two fields with two values each, with `and` and `or` beside them or side by side.
SMALL = st.recursive(
    st.dictionaries(
        st.sampled_from(["email", "phone"]), st.fixed_dictionaries({"equals": st.sampled_from("ab")}), min_size=1
    ),
    lambda inner: st.builds(
        or_,
        inner,
        st.dictionaries(st.sampled_from(["and", "or"]), st.lists(inner, min_size=1, max_size=3), max_size=2),
    ),
    max_leaves=6,
)


def as_sent(value: Any) -> Any:
    """Return a filter as the server reads it: every value is text."""
    if isinstance(value, dict):
        return {name: as_sent(part) for name, part in value.items()}
    if isinstance(value, list):
        return [as_sent(part) for part in value]
    return str(value).lower() if isinstance(value, bool) else str(value)


@given(FILTERS)
def test_the_server_reads_the_filter_that_was_written(where: dict[str, Any]) -> None:
    """A filter that is accepted arrives whole beneath our own bounds, however deep it is."""
    if max(name.count("[") for name, _ in encode("where", where)) > 8:
        with pytest.raises(ValueError, match="nested too deeply"):
            check(where)
        return
    assert check(where) == where
    sent = dict([("where[and][0][x][equals]", "1"), *encode("where[and][1]", where)])
    query = "&".join(f"{quoted(name)}={quoted(value)}" for name, value in sent.items())
    assert parse(query) == {"where": {"and": [{"x": {"equals": "1"}}, as_sent(where)]}}


def means(where: Any, doc: dict[str, str]) -> bool:
    """Return whether a filter means a document: all that it says, and of an `or` any."""
    return all(
        any(means(branch, doc) for branch in part)
        if name == "or"
        else all(means(branch, doc) for branch in part)
        if name == "and"
        else doc[name] == part["equals"]
        for name, part in where.items()
    )


def sides(where: Any) -> bool:
    """Return whether `and` and `or` stand side by side anywhere in a filter."""
    lists = [part for part in where.values() if isinstance(part, list)]
    return len(lists) > 1 or any(sides(branch) for part in lists for branch in part)


@given(SMALL)
def test_a_filter_that_is_accepted_matches_what_it_means(where: dict[str, Any]) -> None:
    """As measured, the server heeds only the last of an `and` and an `or` side by side: that is refused."""
    if sides(where):
        with pytest.raises(ValueError, match="has both and/or"):
            check(where)
        return
    sent = list(encode("where", where))
    assume(max(name.count("[") for name, _ in sent) <= 8)
    query = "&".join(f"{quoted(name)}={quoted(value)}" for name, value in sent)
    test = compiled(parse(query)["where"], {"email": "text", "phone": "text"})
    for email, phone in product("ab", repeat=2):
        doc = {"email": email, "phone": phone}
        assert test(Row(1, 1, 0, 0, 1, orjson.dumps(doc)[:-1])) == means(where, doc)


def quoted(text: str) -> str:
    """Percent-encode everything."""
    return "".join(f"%{byte:02X}" for byte in text.encode())


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ({}, "empty"),
        ({"color": "mint"}, "takes an operator"),
        ({"color": {}}, "takes an operator"),
        ({"color": {"equal": "mint"}}, "no operator 'equal'"),
        ({"color": {"equals": None}}, "exists"),
        ({"color": {"equals": ""}}, "takes a text"),
        ({"color": {"equals": ["mint"]}}, "takes a text"),
        ({"color": {"in": []}}, "takes a text"),
        ({"color": {"in": [["mint"]]}}, "takes a text"),
        ({"And": [{"color": {"equals": "mint"}}]}, "takes an operator"),
        ({"and": {"color": {"equals": "mint"}}}, "takes a list"),
        ({"or": []}, "takes a list"),
        (
            {"or": [{"color": {"equals": "mint"}}], "and": [{"size": {"equals": 1}}]},
            "put the or into the list of the and",
        ),
        (
            {"and": [{"and": [{"a": {"equals": 1}}], "or": [{"a": {"equals": 2}}]}]},
            r"where\[and\]\[0\] has both and/or",
        ),
        ({"or": [{}]}, "takes a list"),
        ({"or": ["color"]}, "takes a list"),
        ({"color][or": {"equals": "mint"}}, "no field"),
        ({"color equals": {"equals": "mint"}}, "no field"),
        ({"": {"equals": "mint"}}, "no field"),
        ({"color": {"equals": "m" * 12_500}}, "too long"),
        ({"color": {"equals": "\N{LATIN SMALL LETTER O WITH STROKE}" * 2_100}}, "too long"),
        ({"or": [{"color": {"equals": "m" * 30}}] * 150}, "too long"),
        ({"or": [{"color": {"equals": "mint"}}] * 300}, "too long"),
        ({"or": [{"or": [{"or": [{"or": [{"color": {"equals": "mint"}}]}]}]}]}, "nested too deeply"),
    ],
)
def test_a_filter_that_would_be_misread_is_refused(where: dict[str, Any], said: str) -> None:
    """Each way to misspell a filter is found before it is sent, and said."""
    with pytest.raises(ValueError, match=said):
        check(where)


def test_a_filter_may_be_as_deep_as_the_server_reads() -> None:
    """Three lists in each other still fit beneath our own bounds."""
    where = {"or": [{"and": [{"or": [{"color": {"equals": "mint"}}]}]}]}
    assert check(where) == where
    assert [name for name, _ in encode("where[and][2]", where)] == [
        "where[and][2][or][0][and][0][or][0][color][equals]"
    ]


@pytest.mark.parametrize(
    ("found", "id_"),
    [
        (12, "12"),
        (0, "0"),
        ("65f0c0ffee0000000000abcd", "65f0c0ffee0000000000abcd"),
        (None, None),
        (True, None),
        (1.5, None),
        ("", None),
        ("a\nb", None),
        ("a" * 129, None),
        ([], None),
        ({}, None),
    ],
)
def test_an_id_is_a_number_or_a_text(found: object, id_: str | None) -> None:
    """Only what can name a customer is an id."""
    assert id_of({"id": found}) == id_


def test_a_doc_may_have_no_id() -> None:
    """A doc without an id has none."""
    assert id_of({}) is None

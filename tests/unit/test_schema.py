"""The schemas that are generated from types, and the rule about what breaks a reader."""

import copy
from typing import Any, Literal, NotRequired, TypedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from worker import contract
from worker.schema import breaks, closed, schema_of


class Inner(TypedDict):
    """Something within."""

    kind: Literal["one", "other"]
    size: NotRequired[float]


class Outer(TypedDict):
    """Something."""

    name: str | None
    inner: list[Inner]
    place: tuple[int, str]
    rest: dict[str, Any]


GOOD = {"name": None, "inner": [{"kind": "one"}], "place": [1, "a"], "rest": {"any": []}}


def test_a_type_becomes_the_schema_of_its_values() -> None:
    """What the type allows is valid, what it does not is not, and what it says of itself is the description."""
    schema = schema_of(Outer)
    assert schema["description"] == "Something."
    assert schema["required"] == ["name", "inner", "place", "rest"]
    validator = Draft202012Validator(schema)
    assert validator.is_valid(GOOD)
    wrong = [{"name": 1}, {"inner": [{"kind": "third"}]}, {"place": [1]}, {"place": ["a", 1]}, {"rest": []}]
    assert not any(validator.is_valid(GOOD | change) for change in wrong)


def test_a_closed_schema_refuses_what_it_does_not_name() -> None:
    """The same schema as the tests use it: nothing undocumented may be published."""
    more = {**GOOD, "inner": [{"kind": "one", "secret": 1}]}
    assert Draft202012Validator(schema_of(Outer)).is_valid(more)
    assert not Draft202012Validator(closed(schema_of(Outer))).is_valid(more)
    assert Draft202012Validator(closed(schema_of(Outer))).is_valid(GOOD)


def test_a_type_that_json_has_nothing_for_is_refused() -> None:
    """Nothing is guessed."""
    with pytest.raises(TypeError, match="has no JSON Schema"):
        schema_of(set[int])


def changed(path: str, value: Any) -> dict[str, Any]:
    """Return Outer's schema with another value at a dotted path; None removes it."""
    schema = copy.deepcopy(schema_of(Outer))
    *folders, last = path.split("/")
    part: Any = schema
    for folder in folders:
        part = part[folder]
    if value is None:
        del part[last]
    else:
        part[last] = value
    return schema


TEXT = {"type": "string"}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("properties/rest", None), "has no rest any more"),
        (("required", ["name", "inner", "place"]), "may come without rest"),
        (("properties/name", {"type": "integer"}), "other than"),
        (("properties/inner/type", "string"), "other than array"),
        (("$defs/Inner/properties/kind/enum", ["one", "other", "third"]), "a value that it could not have"),
        (("$defs/Inner/properties/kind", TEXT), "a value that it could not have"),
        (("$defs/Inner/properties/size", None), "has no size any more"),
        (("properties/place/prefixItems", [TEXT, TEXT]), "element 0"),
        (("properties/rest", {"type": "array", "items": {}}), "other than object"),
    ],
)
def test_what_breaks_a_reader_is_found(change: tuple[str, Any], says: str) -> None:
    """Fields removed, retyped, nullable or optional now, and values that a reader cannot know."""
    found = breaks(schema_of(Outer), changed(*change))
    assert found
    assert says in found[0]


@pytest.mark.parametrize(
    "change",
    [
        ("properties/more", TEXT),
        ("properties/name", TEXT),
        ("$defs/Inner/properties/kind/enum", ["one"]),
        ("$defs/Inner/properties/size", {"type": "integer"}),
        ("description", "other words"),
    ],
)
def test_what_a_reader_does_not_notice_is_allowed(change: tuple[str, Any]) -> None:
    """New fields, narrower values, other words."""
    assert breaks(schema_of(Outer), changed(*change)) == []


@pytest.mark.parametrize("name", list(contract.schemas()))
def test_no_schema_breaks_itself(name: str) -> None:
    """And each one is a valid schema."""
    schema = contract.schemas()[name]
    Draft202012Validator.check_schema(schema)
    assert breaks(schema, schema) == []


LEAVES = st.sampled_from([
    {"type": "string"},
    {"type": "integer"},
    {"type": "number"},
    {"type": "null"},
    {"enum": ["a", "b"]},
    {"enum": ["a"]},
    {},
])
SCHEMAS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        inner.map(lambda one: {"type": "array", "items": one}),
        st.lists(inner, min_size=1, max_size=2).map(lambda some: {"anyOf": some}),
        st.tuples(st.dictionaries(st.sampled_from("xy"), inner), st.sets(st.sampled_from("xy"))).map(
            lambda made: {"type": "object", "properties": made[0], "required": sorted(made[1] & made[0].keys())}
        ),
    ),
    max_leaves=5,
)
VALUES = st.recursive(
    st.sampled_from(["a", "b", "c", 1, 1.5, None]),
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(st.sampled_from("xyz"), inner)),
    max_leaves=4,
)


@given(old=SCHEMAS, new=SCHEMAS, values=st.lists(VALUES, min_size=20, max_size=20))
def test_whoever_is_not_broken_can_read_whatever_the_new_schema_allows(old: Any, new: Any, values: list[Any]) -> None:
    """The law behind the rule, but for fields that the new schema does not name at all."""
    if breaks(old, new):
        return
    before, after = Draft202012Validator(old), Draft202012Validator(closed(new))
    assert [value for value in values if after.is_valid(value) and not before.is_valid(value)] == []

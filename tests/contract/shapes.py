"""Whether a value has the shape of a type, exactly: what a type checker proves, held against what the code made."""

import types
from collections.abc import Iterable
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict


def misfit(value: object, type_: Any, where: str = "") -> str | None:
    """Return where `value` is not of `type_` (typed dictionaries included), None if it is throughout."""
    if is_typeddict(type_):
        return _members(value, type_, where)
    match get_origin(type_):
        case origin if origin in {Union, types.UnionType}:
            found = [misfit(value, option, where) for option in get_args(type_)]
            return None if None in found else found[0]
        case origin if origin is list and type(value) is list:
            return _first(misfit(part, *get_args(type_), f"{where}.{index}") for index, part in enumerate(value))
        case origin:
            fits = value in get_args(type_) if origin is Literal else type_ is Any or type(value) is (origin or type_)
            return None if fits else where


def _members(value: object, type_: Any, where: str) -> str | None:
    hints = _hints(type_)
    required: frozenset[str] = type_.__required_keys__
    if type(value) is not dict or not required <= value.keys() <= hints.keys():
        return where or "keys"
    return _first(misfit(part, hints[name], f"{where}.{name}") for name, part in value.items())


@cache
def _hints(type_: Any) -> dict[str, Any]:
    return get_type_hints(type_)


def _first(found: Iterable[str | None]) -> str | None:
    return next((where for where in found if where is not None), None)

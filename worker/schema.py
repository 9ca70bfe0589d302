"""JSON Schema out of the typed dictionaries that are published, and whether a change of a schema breaks a reader.

The schemas are open: a reader has to ignore fields that it does not know, so that fields can be added. Everything else
that was promised stays: `breaks` says where a new schema lets something through that the old one kept out.
"""

import inspect
from collections.abc import Iterator, Mapping
from enum import StrEnum
from types import NoneType, UnionType
from typing import Any, Final, Literal, NotRequired, Union, get_args, get_origin, get_type_hints, is_typeddict

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

_PLAIN: Final[Mapping[object, Mapping[str, Any]]] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    NoneType: {"type": "null"},
    Any: {},
}

Schema = dict[str, Any]


def schema_of(kind: Any) -> Schema:
    """Return the JSON Schema (draft 2020-12) of a type; nested typed dictionaries stand in `$defs`.

    Raises TypeError for a type that JSON has nothing for.
    """
    definitions: dict[str, Schema] = {}
    root = _convert(kind, definitions)
    if "$ref" in root:
        root = definitions.pop(_name(root))
    return root | ({"$defs": dict(sorted(definitions.items()))} if definitions else {})


def _convert(kind: Any, definitions: dict[str, Schema]) -> Schema:
    if kind in _PLAIN:
        return dict(_PLAIN[kind])
    if is_typeddict(kind):
        if kind.__name__ not in definitions:
            definitions[kind.__name__] = {}  # a type that holds itself finds its name taken
            definitions[kind.__name__] = _object(kind, definitions)
        return {"$ref": f"#/$defs/{kind.__name__}"}
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return {"enum": [member.value for member in kind]}
    if get_origin(kind) is Literal:
        return {"enum": list(get_args(kind))}
    return _composed(kind, [_convert(one, definitions) for one in get_args(kind)])


def _composed(kind: Any, parts: list[Schema]) -> Schema:
    """Return the schema of a type that is made of others, whose schemas are `parts`."""
    match get_origin(kind):
        case origin if origin in {Union, UnionType}:
            return {"anyOf": parts}
        case origin if origin is NotRequired:
            return parts[0]
        case origin if origin is list:
            return {"type": "array", "items": parts[0]}
        case origin if origin is tuple:
            return {"type": "array", "prefixItems": parts, "minItems": len(parts), "maxItems": len(parts)}
        case origin if origin is dict:
            return {"type": "object", "additionalProperties": parts[1]}
    raise TypeError(f"{kind!r} has no JSON Schema")


def _object(kind: Any, definitions: dict[str, Schema]) -> Schema:
    hints = get_type_hints(kind, include_extras=True)
    return {
        "type": "object",
        "description": inspect.cleandoc(kind.__doc__ or ""),
        "properties": {name: _convert(hint, definitions) for name, hint in hints.items()},
        "required": [name for name in hints if name in kind.__required_keys__],
    }


def closed(schema: Schema) -> Schema:
    """Return a schema that also refuses fields it does not name: what is published may hold nothing undocumented."""
    return _close(schema)  # type: ignore[no-any-return]


def _close(part: Any) -> Any:
    if isinstance(part, list):
        return [_close(one) for one in part]
    if not isinstance(part, dict):
        return part
    inner = {name: _close(one) for name, one in part.items()}
    return inner | ({"additionalProperties": False} if isinstance(part.get("properties"), dict) else {})


def breaks(old: Schema, new: Schema) -> list[str]:
    """Return what would break a reader who was promised `old` and is given `new`: one sentence each, none if nothing.

    A reader relies on every field that was required, on every type and every closed set of values. New fields break
    nobody. For the schemas that `schema_of` makes.
    """
    return list(_Comparison(old, new).compare(old, new, "the value"))


class _Comparison:
    """Walks two schemas side by side; a pair of named types is compared once."""

    def __init__(self, old: Schema, new: Schema) -> None:
        self._old, self._new = old.get("$defs", {}), new.get("$defs", {})
        self._passed: set[tuple[str, str]] = set()

    def compare(self, old: Schema, new: Schema, where: str) -> Iterator[str]:
        if "$ref" in old and "$ref" in new:
            pair = (_name(old), _name(new))
            if pair in self._passed:
                return
            self._passed.add(pair)
        old, new = _resolved(old, self._old), _resolved(new, self._new)
        if not _rules(old):
            return
        options = new.get("anyOf", [new])
        promised = old.get("anyOf", [old])
        for option in options:
            found = [list(self._option(one, option, where)) for one in promised]
            if all(found):
                yield from min(found, key=len)

    def _option(self, old: Schema, new: Schema, where: str) -> Iterator[str]:
        """Compare two schemas that are no choices; the new one may be one that stands for all values."""
        old, new = _resolved(old, self._old), _resolved(new, self._new)
        if "anyOf" in old or "anyOf" in new:
            yield from self.compare(old, new, where)
        elif "enum" in old:
            strange = [value for value in new.get("enum", [None]) if "enum" not in new or value not in old["enum"]]
            if strange:
                yield f"{where} may have a value that it could not have before"
        elif "type" in old and not _narrower(old["type"], new):
            yield f"{where} may be something other than {old['type']}"
        else:
            yield from self._inside(old, new, where)

    def _inside(self, old: Schema, new: Schema, where: str) -> Iterator[str]:
        for name, promised in old.get("properties", {}).items():
            if name not in new.get("properties", {}):
                yield f"{where} has no {name} any more"
                continue
            if name in old.get("required", []) and name not in new.get("required", []):
                yield f"{where} may come without {name}"
            yield from self.compare(promised, new["properties"][name], f"{name} of {where}")
        for word in ("items", "additionalProperties"):
            if _rules(old.get(word, {})):
                yield from self.compare(old[word], new.get(word, {}), f"an element of {where}")
        yield from self._places(old, new, where)

    def _places(self, old: Schema, new: Schema, where: str) -> Iterator[str]:
        before, after = old.get("prefixItems"), new.get("prefixItems")
        if before is None:
            return
        if after is None or len(before) != len(after):
            yield f"{where} has another number of elements"
            return
        for number, (promised, given) in enumerate(zip(before, after, strict=True)):
            yield from self.compare(promised, given, f"element {number} of {where}")


def _narrower(promised: str, new: Schema) -> bool:
    if "enum" in new:
        return promised == "string"
    return new.get("type") == promised or (promised == "number" and new.get("type") == "integer")


def _rules(schema: Schema) -> Schema:
    return {name: value for name, value in schema.items() if name not in {"description", "$defs", "$id", "$schema"}}


def _name(reference: Schema) -> str:
    return str(reference["$ref"]).rpartition("/")[2]


def _resolved(schema: Schema, definitions: Mapping[str, Schema]) -> Schema:
    return definitions[_name(schema)] if "$ref" in schema else schema

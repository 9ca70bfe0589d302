"""Bracket query strings, read the way the Drivly API's server reads them.

Payload parses its address with the `qs` library (nesting 10 deep, arrays up to 1,000, dots not special). A filter
that is spelled differently is not an error there, it simply is another parameter; this module keeps that trap.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote_plus

DEPTH = 10
"""Bracket pairs that nest; the rest of the key stays one literal name, as in `qs`."""
PARAMETERS = 1_000
"""Parameters read; later ones are ignored, as in `qs`."""


def parse(query: str) -> dict[str, Any]:
    """Read the nested parameters of a raw (still percent-encoded) query string.

    Returns dicts for names, lists for indices and repeated names, strings for values; `+` is read as a space.
    """
    tree: dict[str, Any] = {}
    for part in query.split("&")[:PARAMETERS] if query else ():
        name, _, value = part.partition("=")
        if name:
            _put(tree, _segments(unquote_plus(name)), unquote_plus(value))
    return {name: _arrays(value) for name, value in tree.items()}


def _segments(name: str) -> list[str]:
    root, bracket, rest = name.partition("[")
    if not bracket or not name.endswith("]"):
        return [name]
    inner = rest[:-1].split("][")
    kept = inner[:DEPTH]
    if len(inner) > DEPTH:
        kept.append("[" + "][".join(inner[DEPTH:]) + "]")
    return [root, *kept]


def _put(tree: dict[str, Any], segments: list[str], value: str) -> None:
    for segment in segments[:-1]:
        child = tree.setdefault(segment, {})
        if not isinstance(child, dict):
            child = tree[segment] = {"": child}
        tree = child
    last = segments[-1]
    if last in tree:
        before = tree[last]
        tree[last] = [*before, value] if isinstance(before, list) else [before, value]
    else:
        tree[last] = value


def _arrays(node: Any) -> Any:
    if not isinstance(node, dict):
        return node
    if all(name.isdecimal() for name in node):
        return [_arrays(node[name]) for name in sorted(node, key=int)]
    if set(node) == {""}:
        value = node[""]
        return value if isinstance(value, list) else [_arrays(value)]
    return {name: _arrays(value) for name, value in node.items()}

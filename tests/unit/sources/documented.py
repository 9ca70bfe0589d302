"""What it takes to hold an adapter to an API's document: every field of it, one by one.

A document is an example record with all its fields. Each of them is changed in turn, to see whether the normalized
customer notices: so no field is lost without somebody having said so.
"""

import re
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any, Final

import orjson

from worker.events import Customer
from worker.normalize import Hasher, Normalizer
from worker.sources import Adapter, Response, Row, normalizer

FIELDS: Final = Path(__file__).parents[3] / "docs" / "fields.md"
HASHER = Hasher(b"a pepper for tests")


def normalizing(adapter: Adapter, **settings: Any) -> Normalizer:
    """Return the normalizer of a source with this adapter; `settings` are `region` and `privacy`."""
    return normalizer(type(adapter), type(adapter).Settings.model_construct(**settings), HASHER)


def customer_of(adapter: Adapter, record: dict[str, Any], id_: str = "1", **settings: Any) -> Customer:
    """Return the normalized customer of a record."""
    return adapter.normalize(Row(id_, record), normalizing(adapter, **settings))


def silent(adapter: Adapter, record: dict[str, Any], **settings: Any) -> set[str]:
    """Return the paths of the fields of `record` that a normalized customer does not depend on."""
    before = customer_of(adapter, record, **settings)
    return {path for path, changed in changes(record) if customer_of(adapter, changed, **settings) == before}


def changes(record: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each field's path (that of its list for an element of one) and the record with that field changed."""
    for path in _paths(record):
        changed = deepcopy(record)
        holder: Any = changed
        for step in path[:-1]:
            holder = holder[step]
        holder[path[-1]] = _other(holder[path[-1]])
        yield ".".join(step for step in path if isinstance(step, str)), changed


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    if not entries:
        yield path
    for step, part in entries:
        yield from _paths(part, (*path, step))


def _other(value: Any) -> Any:
    match value:
        case bool():
            return not value
        case int() | float():
            return value + 1
        case str():
            return value + "7"
        case _:
            return "7"


def undocumented(kind: str, record: dict[str, Any]) -> tuple[set[str], set[str]]:
    """Return the fields of `record` that `docs/fields.md` says nothing of, and those that it says no record has."""
    section = FIELDS.read_text(encoding="utf-8").partition(f"\n## {kind}\n")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`([^`]+)`", row)}
    paths = {path for path, _ in changes(record)}
    return {path for path in paths if not _covers(named, path)}, {name for name in named if not _begins(paths, name)}


def _covers(named: set[str], path: str) -> bool:
    return any(path == name or path.startswith(f"{name}.") for name in named)


def _begins(paths: set[str], name: str) -> bool:
    return any(path == name or path.startswith(f"{name}.") for path in paths)


def answer(body: Any, status: int = 200, **headers: str) -> Response:
    """Return an answer with `body` as JSON (bytes: as they are)."""
    raw = body if isinstance(body, bytes) else orjson.dumps(body)
    return Response(status, {name.replace("_", "-"): value for name, value in headers.items()}, raw, "GET /example")

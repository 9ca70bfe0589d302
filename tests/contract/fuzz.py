"""Answers as no API should give them: valid ones, spoiled by seeded chance in bytes, structure, status or headers.

Every text of the answers that are spoiled holds `SECRET`, so that a message that repeats any of it is found out.
"""

import random
from collections.abc import Callable
from typing import Any

import orjson

from worker.sources import Response

SECRET = "c4n4ry"
STATUSES = (201, 204, 206, 301, 302, 400, 403, 404, 409, 410, 418, 422)
HEADERS = (
    ("content-type", "text/html"),
    ("content-type", "application/json; charset=utf-16"),
    ("content-type", f"{SECRET} {SECRET}"),
    ("total-count", "many"),
    ("total-count", "-1"),
    ("total-count", "7"),
    ("retry-after", "soon"),
)
JUNK: tuple[Callable[[random.Random], Any], ...] = (
    lambda _: None,
    lambda chance: chance.random() < 0.5,
    lambda chance: chance.choice([0, -1, 7, 2**53, 2**63, -(2**63), 10**18]),
    lambda chance: chance.choice([0.1, -1e308, 1e-320]),
    lambda _: "",
    lambda _: " \t\n",
    lambda _: f"{SECRET}\0\u202e\ufeff\U0001f600",
    lambda chance: SECRET * chance.choice([40, 400, 4_000]),
    lambda _: [],
    lambda _: {},
    lambda _: [[[SECRET]]],
    lambda _: {"$where": {"id": SECRET}},
    lambda _: [None, SECRET, 7],
    lambda _: nested(20),
    lambda chance: chance.choice(["2025-13-45T99:99:99Z", "9999-12-31T23:59:59-14:00", "0001-01-01", "1e9", "P"]),
    lambda chance: chance.choice(["../..", "a/b?c#d", "%2e%2e", "12abc", "true", "null"]),
)
# What no serializer writes; it takes the place of the marker of the same number.
RAW = (
    b"NaN",
    b"-Infinity",
    b"1e999",
    b"9" * 400,
    b'"\\ud800"',
    b'"\xff\xfe"',
    b"[" * 100_000 + b"]" * 100_000,
    b'{"a":' * 200 + b"1" + b"}" * 200,
    b"[" * 300 + b"]" * 300,
    b'[{"a":' * 450 + b"1" + b"}]" * 450,
    b"undefined",
)
INSTEAD = (
    b"",
    b"null",
    b"0",
    b'"text"',
    b"[]",
    b"{}",
    b"<!DOCTYPE html><html><body>Sign in</body></html>",
    b"\x1f\x8b\x08\x00junk",
    b"\x00" * 64,
    b'{"error":',
)


def nested(levels: int) -> Any:
    """Return lists and objects in each other, so many levels deep."""
    value: Any = SECRET
    for level in range(levels):
        value = [value] if level % 2 else {"below": value}
    return value


def spoiled(chance: random.Random, body: Any) -> Response:
    """Return an answer with `body`, spoiled in one way or in several."""
    raw = _structure(chance, body) if chance.random() < 0.8 else orjson.dumps(body)
    if chance.random() < 0.25:
        raw = _bytes(chance, raw)
    status = chance.choice(STATUSES) if chance.random() < 0.15 else 200
    headers = dict(chance.sample(HEADERS, chance.randrange(3)))
    return Response(status, headers, raw, "GET /example")


def _structure(chance: random.Random, body: Any) -> bytes:
    value = orjson.loads(orjson.dumps(body))
    raws: dict[bytes, bytes] = {}
    for _ in range(chance.choice([1, 1, 2, 3, 8])):
        places = list(_places(value))
        if not places:
            break
        holder, key = chance.choice(places)
        _change(chance, holder, key, raws)
    text = orjson.dumps(value)
    for marker, raw in raws.items():
        text = text.replace(marker, raw)
    return text


def _change(chance: random.Random, holder: Any, key: Any, raws: dict[bytes, bytes]) -> None:
    dice = chance.random()
    if dice < 0.15:
        del holder[key]
    elif dice < 0.25 and isinstance(holder, list):
        holder.append(holder[key])
    elif dice < 0.3:
        marker = f"@raw {len(raws)}@"
        holder[key] = marker
        raws[orjson.dumps(marker)] = chance.choice(RAW)
    else:
        holder[key] = chance.choice(JUNK)(chance)


def _places(value: Any) -> Any:
    """Yield (holder, key) of every value below `value`."""
    holders = [value]
    while holders:
        holder = holders.pop()
        entries = holder.items() if isinstance(holder, dict) else enumerate(holder) if isinstance(holder, list) else ()
        for key, part in list(entries):
            yield holder, key
            holders.append(part)


def _bytes(chance: random.Random, raw: bytes) -> bytes:
    where = chance.randrange(len(raw) + 1)
    return chance.choice([
        lambda: raw[:where],
        lambda: raw[where:],
        lambda: raw[:where] + bytes([chance.randrange(256)]) + raw[where + 1 :],
        lambda: raw[:where] + chance.randbytes(3) + raw[where:],
        lambda: raw + raw,
        lambda: b"\xef\xbb\xbf" + raw,
        lambda: raw.decode("latin-1").encode("utf-16"),
        lambda: raw.replace(b'"', b"'"),
        lambda: chance.choice(INSTEAD),
    ])()

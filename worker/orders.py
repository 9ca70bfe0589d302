"""What operators order of sources, as records on the control topic, and what they are told in return.

An order stands in the partition of the source it is for (its key is the source's name), takes effect in the transaction
that moves the position there, and is answered on the status topic under `command/<id>`: done, or refused and why. A
long list of ids is split over several records, which are written in one transaction; the answer comes with the last.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final, Literal, TypedDict, cast, get_args

import orjson

from worker import answers
from worker.errors import RecordError, UsageError

What = Literal[
    "watch", "unwatch", "pause", "resume", "resync", "look up", "approve", "forget", "delete", "rename", "adopt"
]
Outcome = Literal["done", "refused"]

ADDRESSEE: Final = "source"
_WHATS: Final = frozenset(get_args(What))


class Order(TypedDict):
    """One record of an order. `part` counts from 1 to `parts`; `at` is in ms since the epoch, by the caller's clock.

    watch, unwatch   `ids` on or off the watch list
    look up          the customers `ids`, now
    approve          the plan `plan` of absences, as it was shown
    forget, delete   a source that is not configured any more; rename: to `name`
    adopt            (from one owner to another) customers that had another source's name: `ids`, `seen` of each
    pause, resume, resync   nothing else
    """

    id: str
    to: str
    what: What
    source: str
    who: str
    at: int
    part: int
    parts: int
    ids: list[str]
    seen: list[int]
    plan: str | None
    name: str | None


def order(
    id_: str,
    what: What,
    source: str,
    *,
    who: str,
    at: int,
    ids: Sequence[str] = (),
    seen: Sequence[int] = (),
    plan: str | None = None,
    name: str | None = None,
) -> Order:
    """Return an order in one part."""
    return {
        "id": id_,
        "to": ADDRESSEE,
        "what": what,
        "source": source,
        "who": who,
        "at": at,
        "part": 1,
        "parts": 1,
        "ids": list(ids),
        "seen": list(seen),
        "plan": plan,
        "name": name,
    }


def parts(given: Order, max_bytes: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield (key, value) of the records of an order, none of them much larger than half of `max_bytes`.

    Raises UsageError where a single id is too long for that.
    """
    empty: Order = {**given, "ids": []}
    room = max_bytes // 2 - len(orjson.dumps(empty))
    chunks: list[list[str]] = [[]]
    left = room
    for id_ in given["ids"]:
        size = len(orjson.dumps(id_)) + 1
        if size > room:
            raise UsageError(f"an id of {size} bytes is too long for a record of {max_bytes}")
        if size > left:
            chunks.append([])
            left = room
        chunks[-1].append(id_)
        left -= size
    for number, chunk in enumerate(chunks, 1):
        part: Order = {**given, "part": number, "parts": len(chunks), "ids": chunk}
        yield given["source"].encode(), orjson.dumps(part)


def read(key: bytes | None, value: bytes | None) -> Order | None:
    """Return the order in a record, None where it is for somebody else; raises RecordError where it is none at all."""
    try:
        found: dict[str, Any] = orjson.loads(value or b"")
        if found["to"] != ADDRESSEE:
            return None
        given = order(
            str(found["id"]),
            cast("What", str(found["what"])),
            str(found["source"]),
            who=str(found["who"]),
            at=int(found["at"]),
            ids=[str(id_) for id_ in found.get("ids", [])],
            seen=[int(moment) for moment in found.get("seen", [])],
            plan=found.get("plan"),
            name=found.get("name"),
        )
        given["part"], given["parts"] = int(found.get("part", 1)), int(found.get("parts", 1))
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise RecordError("a record of the control topic is no order") from error
    if given["what"] not in _WHATS or not given["id"] or given["source"].encode() != key:
        raise RecordError("an order is incomplete, or is not in the partition of its source")
    return given


def answer(given: Order, outcome: Outcome, text: str, now: int) -> tuple[bytes, bytes]:
    """Return key and value of what is said on the status topic; `text` is a sentence for the person."""
    said = {name: given[name] for name in ("id", "what", "source", "who", "at")}
    return answers.answer(said, outcome, text, now)

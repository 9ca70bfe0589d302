"""`/_sim/`: the simulators' methods over HTTP, for tests that run one as a process of its own.

Requests under `/_sim/` meet no faults and are not in the log. Bodies and answers are JSON; `docs/simulators.md` lists
them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from datetime import date
from itertools import islice
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote

import orjson

from worker.simulator.answers import Answer, as_json
from worker.simulator.data import Person
from worker.simulator.store import Id, by_order

if TYPE_CHECKING:
    from worker.simulator.server import Simulator

PAGE = 1_000
"""Entries in a page of the truth, the history or the log, unless asked otherwise."""
Body = dict[str, Any]


def answer(sim: Simulator, method: str, path: str, query: str, body: bytes) -> Answer:
    """Do what a control request asks for; 404 for an unknown one or customer, 400 for one that cannot be."""
    name, _, rest = path.removeprefix("/_sim/").partition("/")
    handler = HANDLERS.get((method, name))
    if handler is None:
        return as_json({"error": f"no control request is {method} {name}"}, 404)
    try:
        given = {**dict(parse_qsl(query)), **(orjson.loads(body) if body else {})}
        return as_json(handler(sim, unquote(rest), given))
    except KeyError as error:
        return as_json({"error": str(error.args[0])}, 404)
    except (ValueError, TypeError) as error:
        return as_json({"error": str(error)}, 400)


def _id(sim: Simulator, text: str) -> Id:
    number = int(text) if text.isdecimal() else None
    return number if number is not None and number in sim.store.rows else text


def _create(sim: Simulator, _rest: str, given: Body) -> Body:
    count = int(given.pop("count", 1))
    if "person" in given:
        given["person"] = _person(given["person"])
    return {"ids": [sim.create(**given) for _ in range(count)]}


def _person(given: Body) -> Person:
    return Person(**{**given, "birth": date.fromisoformat(given["birth"])})


def _update(sim: Simulator, rest: str, given: Body) -> Body:
    sim.update(_id(sim, rest), **given)
    return {}


def _delete(sim: Simulator, rest: str, given: Body) -> Body:
    sim.delete(_id(sim, rest), visible_after=float(given.get("visible_after", 0)))
    return {}


def _bulk(sim: Simulator, _rest: str, given: Body) -> Body:
    count = int(given.pop("count", 0))
    live = (row.id for row in sim.store.ordered if not row.tombstone)
    ids = given.pop("ids", None) or list(islice(live, count))
    sim.bulk_update(ids, **given)
    return {"ids": ids}


def _populate(sim: Simulator, _rest: str, given: Body) -> Body:
    return {"ids": sim.populate(int(given["count"]))}


def _churn(sim: Simulator, _rest: str, given: Body) -> Body:
    if "rate" in given:
        sim.keep_churning(float(given["rate"]))
    sim.churn(int(given.get("count", 0)))
    return {"history": len(sim.history)}


def _set_fault(sim: Simulator, _rest: str, given: Body) -> Body:
    return sim.fault(**given).describe()


def _clear_faults(sim: Simulator, rest: str, _given: Body) -> Body:
    sim.clear_faults(int(rest) if rest else None)
    return {}


def _faults(sim: Simulator, _rest: str, _given: Body) -> Body:
    return {"faults": [fault.describe() for fault in sim.faults], "hits": sim.faults.hits}


def _truth(sim: Simulator, _rest: str, given: Body) -> Body:
    rows = sim.store.ordered
    start = bisect_right(rows, orjson.loads(given["after"]), key=by_order) if "after" in given else 0
    page = rows[start : start + int(given.get("limit", PAGE))]
    more = start + len(page) < len(rows)
    return {
        "customers": {str(row.id): sim.served(row) for row in page if not row.tombstone},
        "next": orjson.dumps(page[-1].order).decode() if more and page else None,
    }


def _history(sim: Simulator, _rest: str, given: Body) -> Body:
    start = int(given.get("after", 0))
    page = sim.history[start : start + int(given.get("limit", PAGE))]
    return {"history": [list(change) for change in page], "next": start + len(page), "total": len(sim.history)}


def _requests(sim: Simulator, _rest: str, given: Body) -> Body:
    return {"requests": [list(request) for request in sim.requests][-int(given.get("limit", PAGE)) :]}


def _settings(sim: Simulator, _rest: str, given: Body) -> Body:
    for name, value in given.items():
        if name not in sim.settings:
            raise ValueError(f"{sim.kind} has no setting {name!r}; it has {', '.join(sim.settings)}")
        setattr(sim, name, value)
    return {name: getattr(sim, name) for name in sim.settings}


def _stats(sim: Simulator, _rest: str, _given: Body) -> Body:
    return {
        "kind": sim.kind,
        "now": sim.now(),
        "customers": sum(not row.tombstone for row in sim.store.ordered),
        "history": len(sim.history),
        "requests": {f"{method} {status}": count for (method, status), count in sorted(sim.counts.items())},
        "faults": sim.faults.hits,
    }


HANDLERS: dict[tuple[str, str], Callable[[Simulator, str, Body], Body]] = {
    ("POST", "customers"): _create,
    ("PATCH", "customers"): _update,
    ("DELETE", "customers"): _delete,
    ("POST", "bulk"): _bulk,
    ("POST", "populate"): _populate,
    ("POST", "churn"): _churn,
    ("POST", "faults"): _set_fault,
    ("DELETE", "faults"): _clear_faults,
    ("GET", "faults"): _faults,
    ("GET", "truth"): _truth,
    ("GET", "history"): _history,
    ("GET", "requests"): _requests,
    ("PATCH", "settings"): _settings,
    ("GET", "stats"): _stats,
}

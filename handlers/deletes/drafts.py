"""Which requests follow from what was published: one function for each way a deletion can come to be asked for.

Everything here is a pure function of the routes and of one customer. What cannot be decided safely still becomes a
request, but one that is held for a person, with the reason.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from handlers.deletes.entries import Entry
from handlers.deletes.model import Request, digest
from handlers.deletes.settings import Authority, DeletesSettings, Route
from worker.events import split_key

UNSEEN: Final = "the references of this customer were never seen: nobody knows its id at the target"
UNTOLD: Final = "the departure does not say which clusters it has left: it is from an older program"

# Fields of a pair's evidence that come from one and the same fact count once.
_INDEPENDENT: Final[Mapping[str, str]] = {
    "given": "name",
    "family": "name",
    "birth_date": "birth date",
    "street": "address",
    "house": "address",
    "postcode": "address",
    "city": "address",
}
_INDEPENDENT_KEYS: Final = frozenset({"identifier", "email", "phone", "reference"})


@dataclass(frozen=True, slots=True)
class Cause:
    """What a request follows from: a customer in one version, and what was known of it. Times in ms."""

    source: str
    origin: str
    sequence: int
    as_of: int
    authority: Authority
    live: int | None
    seen_live: int | None
    evidence: dict[str, Any]
    doubt: str | None = None


def request_of(
    cause: Cause, target: str, customer: str | None, now: int, *, route: Route | None = None, seed: str | None = None
) -> Request:
    """Return the request for one customer at one target; its id follows from these, from `seed`, and a dry run."""
    name, dry_run = (route.name, route.dry_run) if route is not None else (None, False)
    asked = (cause.authority, cause.source, cause.origin, cause.sequence, target, customer, name, seed)
    given: Request = {
        "id": digest(*asked, "dry run") if dry_run else digest(*asked),
        "target": target,
        "customer": customer,
        "source": cause.source,
        "origin": cause.origin,
        "sequence": cause.sequence,
        "as_of": cause.as_of,
        "authority": cause.authority,
        "route": name,
        "approval": route is not None and route.mode(cause.authority) == "approval",
        "dry_run": dry_run,
        "not_before": now + _milliseconds(route.cooling if route is not None else None),
        "live": cause.live,
        "held": UNSEEN if customer is None else cause.doubt,
        "seen_live": cause.seen_live,
        "winner": None,
        "cluster": None,
        "cluster_at": None,
        "evidence": cause.evidence,
        "asked_at": now,
        "retry_of": None,
    }
    return given


def by_deletion(settings: DeletesSettings, cause: Cause, entry: Entry, routes: list[Route], now: int) -> list[Request]:
    """Return what follows from the deletion of a customer on the same-id and reference routes among `routes`."""
    return [
        request_of(cause, route.target, customer, now, route=route)
        for route in routes
        if route.link != "cluster" and route.mode(cause.authority) != "off" and route.target in settings.targets
        for customer in _linked(route, cause.origin, entry)
    ]


def by_departure(
    settings: DeletesSettings, cause: Cause, remaining: Mapping[str, str | None], routes: list[Route], now: int
) -> list[Request]:
    """Return what follows on the cluster routes from a customer having left a cluster because it was deleted.

    `remaining`: keys of the customers that it was one with, and the digest of the membership that this has left each
    of them (empty: alone; None: it is not known). Where one of them is of the same source, the person is still there:
    the deletion of the last one asks.
    """
    members = [(*split_key(key.encode()), membership) for key, membership in remaining.items()]
    if any(source == cause.source for source, _, _ in members):
        return []
    doubt = replace(cause, doubt=cause.doubt or UNTOLD)
    return [
        {
            **request_of(doubt if membership is None else cause, route.target, customer, now, route=route),
            "cluster": membership,
        }
        for route in routes
        if route.link == "cluster" and route.mode(cause.authority) != "off" and route.target in settings.targets
        for source, customer, membership in members
        if source == route.target
    ]


def by_duplicate(
    settings: DeletesSettings, cause: Cause, winner: str, cluster: str, routes: list[Route], at: int, now: int
) -> list[Request]:
    """Return what follows from a customer being the losing one of a pair within its source.

    `winner`: id of the one that stays; `cluster`: digest of the cluster's record, published `at` (ms). It cools from
    then on, and from when this version of the customer was published: the search has to have seen that, too.
    """
    found: list[Request] = []
    since = max(at, cause.seen_live or 0)
    for route in routes:
        if route.link != "same_id" or route.mode("duplicate") == "off" or route.target not in settings.targets:
            continue
        cooling = settings.duplicates.cooling if route.cooling is None else route.cooling
        # The same cluster at another time is another question: what was asked the first time was called off.
        made = request_of(cause, route.target, cause.origin, now, route=route, seed=f"{cluster}@{at}")
        found.append({**made, "winner": winner, "cluster": cluster, "not_before": since + _milliseconds(cooling)})
    return found


def by_erasure(settings: DeletesSettings, cause: Cause, entry: Entry, routes: list[Route], now: int) -> list[Request]:
    """Return what an operator's erasure of a customer comes to: its own system, and wherever routes lead from it."""
    found: dict[tuple[str, str | None], Request] = {}
    seed = str(cause.evidence["command"])
    if cause.source in settings.targets:
        found[cause.source, cause.origin] = request_of(cause, cause.source, cause.origin, now, seed=seed)
    for route in routes:
        if route.link == "cluster" or route.mode("erasure") == "off" or route.target not in settings.targets:
            continue
        for customer in _linked(route, cause.origin, entry):
            made = request_of(cause, route.target, customer, now, route=route, seed=seed)
            found.setdefault((route.target, customer), made)
    return list(found.values())


def losing(settings: DeletesSettings, key: str, membership: Mapping[str, Any]) -> str | None:
    """Return the id of the customer that `key` is a duplicate of, within its source and surely enough; None if not.

    Sure is a direct link with the winner, by an exact unique id or a score from two independent fields, and without
    a value that many share. A cluster's record that does not say so is not sure.
    """
    source, _ = split_key(key.encode())
    winner_source, winner = split_key(str(membership["winner"]).encode())
    path = membership["path"]
    if membership["winner"] == key or winner_source != source or len(path) != 1:
        return None
    step = path[0]
    if {step["a"], step["b"]} != {key, membership["winner"]} or step.get("generic", True):
        return None
    independent = {_INDEPENDENT[name] for name, weight in step.get("fields", {}).items() if _counts(name, weight)}
    independent |= _INDEPENDENT_KEYS.intersection(step.get("keys", ()))
    sure = step.get("exact_id") is True or (step["score"] >= settings.duplicates.score and len(independent) > 1)
    return winner if sure else None


def _counts(name: str, weight: float) -> bool:
    return name in _INDEPENDENT and weight > 0


def _linked(route: Route, origin: str, entry: Entry) -> Iterator[str | None]:
    if route.link == "same_id":
        yield origin
    elif entry.references is None:
        yield None
    else:
        yield from sorted({id_ for type_, id_ in entry.references if type_ == route.reference})


def _milliseconds(seconds: float | None) -> int:
    return int((seconds or 0) * 1000)

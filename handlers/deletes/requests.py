"""The first stage, by customer: turns deletions, departures and an operator's erasures into requests by target.

It remembers every customer as it was last published, and so guarantees:

- nothing below a route's horizon (the inputs' ends when the route was first active, or when no state was found) makes
  a request; nor does a replay, unless it says so;
- a customer that is back calls off what its deletion had asked for;
- it vouches for a request, when the executor asks just before the call, only in view of everything it has read, and
  not while it lags behind: an executor that outruns this stage waits for it;
- what was asked for over a route that is no longer configured waits.
"""

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, Final

import orjson

from handlers.deletes import drafts
from handlers.deletes.decisions import Decision, answer, read_decision
from handlers.deletes.drafts import Cause
from handlers.deletes.entries import Entry, objection
from handlers.deletes.model import (
    KIND,
    Message,
    Request,
    forget,
    read_message,
    send_cancel,
    send_check,
    send_clear,
    send_request,
    send_vouch,
)
from handlers.deletes.reading import (
    customer_of,
    departure_of,
    facts_of_link,
    membership_digest,
    membership_of,
    number_of,
    reason_of,
    references_of,
    sequence_of,
)
from handlers.deletes.settings import DeletesSettings, Route
from worker.errors import RecordError
from worker.events import header, split_key
from worker.handling import Dead, Done, Input, Outcome, Record, Retry, Skip, Tx
from worker.redelivery import REPLAY, WITH_DELETES
from worker.times import milliseconds
from worker.topics import Topics

_HORIZON: Final = b"h/"
_WAITING: Final = b"w/"
_SHORTEST_MS: Final = 50
_BUSY_MS: Final = 2_000  # checks may follow each other for so long
_FOR_EXECUTORS: Final = frozenset({"clear", "request", "cancel", "vouch"})


class Requests:
    """The stage `requests`."""

    stage: Final = "requests"
    version: Final = 1

    def __init__(self, topics: Topics, settings: DeletesSettings) -> None:
        """`topics` names them; `settings` is the configuration's section `handlers.deletes`."""
        self._topics = topics
        self._requests = topics.requests
        self._inputs = (
            Input(topics.latest),
            Input(topics.departures, start="latest"),
            Input(topics.approvals, start="latest"),
            Input(topics.clusters),
            Input(topics.requests, start="latest"),
        )
        self._settings = settings
        self._routes = {
            source: [route for route in settings.routes if route.source == source]
            for source in {route.source for route in settings.routes}
        }
        self._standing = {route.name: route for route in settings.routes}
        self._handle: Mapping[str, Callable[[Tx, Record, int], Outcome]] = {
            topics.latest: self._published,
            topics.departures: self._departed,
            topics.approvals: self._decided,
            topics.clusters: self._clustered,
            topics.requests: self._asked,
        }
        self._ends: Mapping[str, int] = {}
        # Only what may be lost: checks that wait to be answered, which the executor asks again.
        self._checks: list[tuple[int, Message]] = []
        self._fresh: list[tuple[int, Message]] = []  # of them those that came since the timer
        self._late = 0  # for how long to read on, since something that came since the timer shows a lag
        self._behind_until = 0
        self._asked_at = 0

    @property
    def inputs(self) -> tuple[Input, ...]:
        """The table of customers, which leads, and what else bears on them."""
        return self._inputs

    def open(self, tx: Tx, partition: int, ends: Mapping[str, int], now: int) -> int | None:  # ruff: ignore[unused-method-argument] - by contract
        """Take up a partition: set the horizon of every route that was not active before."""
        self._ends, self._checks, self._fresh, self._late = ends, [], [], 0
        self._behind_until = now + _ms(self._settings.catch_up) if any(ends.values()) else now
        for route in self._settings.routes:
            key = _HORIZON + _digest(route.name.encode())
            if tx.get(key) is None:
                tx.put(key, orjson.dumps(dict(ends)))
        return now + _ms(self._settings.tick)

    def on_record(self, tx: Tx, record: Record, now: int) -> Outcome:
        """Handle a record of any input."""
        try:
            return self._handle[record.topic](tx, record, now)
        except RecordError as error:
            return Dead(error.message)

    def on_reply(self, tx: Tx, call: object, reply: object, now: int) -> None:
        """Never called: this stage makes no calls."""

    def on_timer(self, tx: Tx, now: int) -> int | None:
        """Answer the checks that have waited long enough, all in one transaction.

        While they keep coming this is looked at more often, but not for each of them. Between two timers the inputs
        are read on, however long that takes: a check waits for the second one, and a lag counts from the first.
        """
        if self._late:
            self._late, self._behind_until = 0, max(self._behind_until, now + self._late)
        if now >= self._behind_until:
            due = [check for moment, check in self._checks if moment <= now]
            self._checks = [waiting for waiting in self._checks if waiting[0] > now]
            for check in due:
                self._vouch(tx, check)
        overdue = any(moment <= now for moment, _ in self._fresh)
        self._checks += self._fresh
        self._fresh = []
        if overdue:
            return now + _SHORTEST_MS
        tick = _ms(self._settings.tick)
        busy = self._checks or now < self._asked_at + _BUSY_MS
        return now + (max(_SHORTEST_MS, min(tick, _ms(self._settings.settle))) if busy else tick)

    # What was published

    def _published(self, tx: Tx, record: Record, now: int) -> Outcome:
        self._note_lag(record, now)
        key = record.key or b""
        source, customer = customer_of(key)
        if not self._settings.targets:
            return Skip("unrouted")
        replay = header(record.headers, REPLAY)
        if replay is not None and not replay.endswith(WITH_DELETES):
            return Skip("replay")
        sequence = sequence_of(record)
        entry = Entry.load(tx, key)
        again = replay is not None and entry is not None and not entry.live and entry.sequence == sequence
        if entry is not None and sequence <= entry.sequence and not again:
            return Skip("seen")
        moment = milliseconds(header(record.headers, "ce_time")) or record.timestamp
        entry = entry or Entry(0, live=False, changed=moment)
        if record.value is not None:
            self._is_live(tx, entry, record, sequence, moment)
            self._ask_duplicate(tx, entry, (source, customer), now)
        else:
            self._is_deleted(tx, entry, record, sequence, moment, customer, now)
        entry.save(tx, key)
        return Done()

    def _is_live(self, tx: Tx, entry: Entry, record: Record, sequence: int, moment: int) -> None:
        references = references_of(record.value or b"")
        for request, target in entry.requested:
            send_cancel(tx, self._requests, request, target, "a newer version of the customer was published")
        entry.sequence, entry.live, entry.changed, entry.seen_live = sequence, True, moment, record.timestamp
        entry.references, entry.requested, entry.reason = references, [], None
        self._stop_waiting(tx, entry, record.key or b"")

    def _is_deleted(
        self, tx: Tx, entry: Entry, record: Record, sequence: int, moment: int, customer: str, now: int
    ) -> None:
        reason, (source, _) = reason_of(record), customer_of(record.key or b"")
        entry.sequence, entry.live, entry.changed, entry.reason = sequence, False, moment, reason
        entry.live_count = number_of(header(record.headers, "ce_live"))
        cause = self._cause(source, customer, entry)
        # A replay that may delete is asked for by a person, and reaches back as far as it is told to.
        asked_for = header(record.headers, REPLAY) is not None
        routes = self._routes.get(source, []) if asked_for else self._above(tx, source, record)
        self._ask(tx, entry, drafts.by_deletion(self._settings, cause, entry, routes, now))
        departure = self._stop_waiting(tx, entry, record.key or b"")
        if departure is not None and departure["sequence"] == sequence:
            self._carry(tx, entry, (source, customer), departure, now)

    @staticmethod
    def _stop_waiting(tx: Tx, entry: Entry, key: bytes) -> dict[str, Any] | None:
        """Return the departure that has waited for this version, or an older one; one of a later deletion waits on."""
        if not entry.waiting:
            return None
        departure: dict[str, Any] = orjson.loads(tx.get(_WAITING + _digest(key)) or b"")
        if departure["sequence"] > entry.sequence:
            return None
        tx.delete(_WAITING + _digest(key))
        entry.waiting = False
        return departure

    def _cause(self, source: str, customer: str, entry: Entry, doubt: str | None = None, **evidence: Any) -> Cause:
        """Return the deletion of a customer, as it was published, as the cause of requests."""
        authority = entry.reason or "absent"
        facts = {"reason": authority, "sequence": entry.sequence, "published": entry.changed, **evidence}
        return Cause(
            source, customer, entry.sequence, entry.changed, authority, entry.live_count, entry.seen_live, facts, doubt
        )

    def _ask(self, tx: Tx, entry: Entry, requests: list[Request]) -> None:
        for request in requests:
            # What a person asks for is no echo; what was published may be.
            send = send_request if request["authority"] == "erasure" else send_clear
            send(tx, self._requests, request)
            if (request["id"], request["target"]) not in entry.requested:
                entry.requested.append((request["id"], request["target"]))

    def _above(self, tx: Tx, source: str, record: Record) -> list[Route]:
        """Return the routes from a source for which this record is not the past."""
        found = []
        for route in self._routes.get(source, []):
            horizon = orjson.loads(tx.get(_HORIZON + _digest(route.name.encode())) or b"{}")
            if record.offset >= horizon.get(record.topic, 0):
                found.append(route)
        return found

    # What left a cluster

    def _departed(self, tx: Tx, record: Record, now: int) -> Outcome:
        self._note_lag(record, now)
        key = record.key or b""
        source, customer = customer_of(key)
        if header(record.headers, REPLAY) is not None:
            return Skip("replay")
        departure = departure_of(record)
        if departure["cause"] != "deleted":
            return Skip("changed")
        above = self._above(tx, source, record)
        routes = [route.name for route in above if route.link == "cluster"]
        if not routes:
            return Skip("unrouted")
        departure["routes"] = routes
        entry = Entry.load(tx, key) or Entry(0, live=False, changed=0)
        if entry.sequence < departure["sequence"]:
            tx.put(_WAITING + _digest(key), orjson.dumps(departure))
            entry.waiting = True
            entry.save(tx, key)
            return Done()
        if entry.live or entry.sequence > departure["sequence"]:
            return Skip("superseded")
        self._carry(tx, entry, (source, customer), departure, now)
        entry.save(tx, key)
        return Done()

    def _carry(self, tx: Tx, entry: Entry, who: tuple[str, str], departure: dict[str, Any], now: int) -> None:
        """Ask for what follows from a departure, now that the deletion behind it has been read too."""
        doubt = departure["doubt"]
        text = f"duplicates are in doubt here: {', '.join(doubt)}" if doubt else None
        links = [facts_of_link(step) for step in departure["evidence"]]
        cause = self._cause(*who, entry, text, cluster=departure["cluster"], links=links)
        routes = [route for route in self._routes.get(who[0], []) if route.name in departure["routes"]]
        memberships = departure.get("memberships", {})  # one that an older program has kept has none
        remaining = {name: memberships.get(name) for name in departure["remaining"]}
        self._ask(tx, entry, drafts.by_departure(self._settings, cause, remaining, routes, now))

    # Clusters as they are

    def _clustered(self, tx: Tx, record: Record, now: int) -> Outcome:
        self._note_lag(record, now)
        key = record.key or b""
        source, customer = customer_of(key)
        if not self._settings.targets:
            return Skip("unrouted")
        if header(record.headers, REPLAY) is not None:
            return Skip("replay")
        entry = Entry.load(tx, key) or Entry(0, live=False, changed=0)
        mark = membership_digest(record.value)
        if mark == entry.cluster:
            return Skip("seen")
        entry.cluster, entry.cluster_at, entry.losing = mark, record.timestamp, None
        membership = membership_of(record)
        winner = membership and drafts.losing(self._settings, key.decode(), membership)
        if membership and winner:
            facts = {"cluster": membership["cluster"], "links": [facts_of_link(membership["path"][0])]}
            routes = [route.name for route in self._above(tx, source, record)]
            entry.losing = {"winner": winner, "facts": facts, "routes": routes}
        self._ask_duplicate(tx, entry, (source, customer), now)
        entry.save(tx, key)
        return Done()

    def _ask_duplicate(self, tx: Tx, entry: Entry, who: tuple[str, str], now: int) -> None:
        """Ask for a duplicate's deletion as it is now, and call off what was asked for an earlier version of it."""
        for request, target in entry.duplicate:
            send_cancel(tx, self._requests, request, target, "the customer or its cluster has changed")
        entry.duplicate = []
        if entry.losing is None or not entry.live:
            return
        winner, at = entry.losing["winner"], entry.cluster_at or 0
        facts = {"winner": f"{who[0]}/{winner}", **entry.losing["facts"]}
        # Its cluster may rest on an older version, and has been told later than what is not polled yet: neither may
        # hide a change of the customer.
        cause = Cause(*who, entry.sequence, entry.changed, "duplicate", None, entry.seen_live, facts)
        routes = [route for route in self._routes.get(who[0], []) if route.name in entry.losing["routes"]]
        for made in drafts.by_duplicate(self._settings, cause, winner, entry.cluster, routes, at, now):
            send_request(tx, self._requests, made)
            entry.duplicate.append((made["id"], made["target"]))

    # What persons want

    def _decided(self, tx: Tx, record: Record, now: int) -> Outcome:
        given = read_decision(record)
        if given["what"] != "erase":
            return Skip("not ours")
        if self._is_unread(tx, given) and (self._late or now < max(self._behind_until, self._latest(record))):
            return Retry(1.0)
        text = self._erase(tx, given, now)
        answer(tx, self._topics.status, given, "refused" if text else "done", text or "the erasure is requested", now)
        return Done()

    def _is_unread(self, tx: Tx, given: Decision) -> bool:
        """Return whether the operator has seen a newer version than this stage."""
        entry = Entry.load(tx, (given["customer"] or "").encode())
        return (0 if entry is None else entry.sequence) < (given["sequence"] or 0)

    def _latest(self, record: Record) -> int:
        """Return until when what was published before a record may be missing (ms since the epoch)."""
        return record.timestamp + _ms(self._settings.catch_up)

    def _erase(self, tx: Tx, given: Decision, now: int) -> str | None:
        """Request an erasure; return why not, where it cannot be."""
        key = (given["customer"] or "").encode()
        source, customer = split_key(key)
        entry = Entry.load(tx, key) or Entry(given["sequence"] or 0, live=False, changed=given["at"])
        if given["sequence"] is not None and entry.sequence != given["sequence"]:
            return "the customer has changed since it was shown; look again and decide anew"
        facts = {"command": given["id"], "who": given["who"], "decided": given["at"]}
        as_of = max(given["at"], entry.changed)
        cause = Cause(source, customer, entry.sequence, as_of, "erasure", None, entry.seen_live, facts)
        made = drafts.by_erasure(self._settings, cause, entry, self._routes.get(source, []), now)
        if not made:
            return f"there is no target for customers of {source}: nothing can be deleted by Rollcall"
        self._ask(tx, entry, made)
        entry.save(tx, key)
        return None

    # What the executor asks

    def _asked(self, tx: Tx, record: Record, now: int) -> Outcome:  # ruff: ignore[unused-method-argument] - see `_handle`
        if record.value is None or header(record.headers, KIND) in _FOR_EXECUTORS:
            return Skip("not ours")
        _, check = read_message(record)
        self._fresh.append((now + _ms(self._settings.settle), check))
        self._asked_at = now
        return Done()

    def _vouch(self, tx: Tx, check: Message) -> None:
        """Object to a request, pass the question on to the next customer it is about, or vouch for it."""
        topic, request = self._requests, check["request"]
        if not self._stands(request):
            return
        (role, key), *rest = check["hops"]
        since = check.get("since", 0)
        why = objection(role, Entry.load(tx, key.encode()), request, since)
        forget(tx, topic, f"{request['id']}:check".encode(), key)  # first: the next one may lie in the same partition
        if why is not None:
            send_cancel(tx, topic, request["id"], request["target"], why)
        elif rest:
            send_check(tx, topic, request, rest, check["serial"], since)
        else:
            send_vouch(tx, topic, request, check["serial"], since)

    def _stands(self, request: Request) -> bool:
        """Return whether a request's route is still there, and on; if not, it waits for it, or for a person's no."""
        if request["route"] is None:
            return True
        route = self._standing.get(request["route"])
        return route is not None and route.mode(request["authority"]) != "off" and route.dry_run <= request["dry_run"]

    def _note_lag(self, record: Record, now: int) -> None:
        """Remember that there is more to read before anything can be vouched for.

        Whether an input has been read up to the end that it had at the start cannot be told by offsets: the last ones
        may be marks of transactions, or compacted. So nothing more may have come for as long as a lag is tolerated.
        """
        catch_up = _ms(self._settings.catch_up)
        if record.offset < self._ends.get(record.topic, 0):
            self._late = max(self._late, catch_up)
        elif now - record.timestamp > catch_up:
            self._late = max(self._late, _ms(self._settings.settle))


def _digest(key: bytes) -> bytes:
    return hashlib.blake2b(key, digest_size=16).digest()


def _ms(seconds: float) -> int:
    return int(seconds * 1000)

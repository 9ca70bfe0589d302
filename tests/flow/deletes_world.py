"""A small world for the deletions: both stages on the harness, and simulated systems to delete from."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any, get_args

import orjson

from handlers.deletes.book import TargetState
from handlers.deletes.decisions import decision, record_of
from handlers.deletes.executor import Executor
from handlers.deletes.reading import membership_digest
from handlers.deletes.requests import Requests
from handlers.deletes.settings import DeletesSettings
from handlers.deletes.undo import Undo
from worker import telemetry
from worker.events import CREATED, DELETED, UPDATED, Headers, customer_key, event_headers
from worker.handling import Call, Handler, Reply
from worker.telemetry import Metric
from worker.testkit import Harness
from worker.times import rfc3339
from worker.topics import Topics

START = 1_700_000_000_000
MINUTE = 60_000


class System:
    """A system that customers are deleted from: its rows by id, and the calls it got.

    `fault` may answer a call in the system's place (None: it answers itself); `after` is told of every call that it
    has answered, and may replace the answer; `silent` says which answers are lost on the way.
    """

    def __init__(self, name: str) -> None:
        """Start empty."""
        self.name = name
        self.rows: dict[str, dict[str, Any]] = {}
        self.calls: list[tuple[int, str, str, int | None]] = []
        self.fault: Callable[[Call], Reply | None] = lambda _: None
        self.after: Callable[[Call, Reply], Reply] = lambda _, reply: reply
        self.silent: Callable[[Call], bool] = lambda _: False

    def add(self, customer: str, updated: int = START - 1000, **fields: Any) -> None:
        """Add a customer, or write over one; `updated` in milliseconds since the epoch."""
        self.rows[customer] = {"id": customer, "updatedAt": rfc3339(updated), "createdAt": rfc3339(updated), **fields}

    def answer(self, call: Call, now: int) -> Reply | None:
        """Answer a call, or return None for an answer that is lost."""
        reply = self.fault(call) or self.after(call, self._usual(call))
        self.calls.append((now, call.method, call.path, reply.status))
        return None if self.silent(call) else reply

    def deletes(self) -> list[str]:
        """Return the ids that a DELETE was sent for, in order."""
        return [path.rpartition("/")[2] for _, method, path, _ in self.calls if method != "GET"]

    def lookups(self) -> list[str]:
        """Return the ids that were looked up, in order; a canary's listing is `customers`."""
        return [path.rpartition("/")[2] for _, method, path, _ in self.calls if method == "GET"]

    def _usual(self, call: Call) -> Reply:
        if call.path == "/customers":
            return Reply(200, body=orjson.dumps({"docs": list(self.rows.values())[:1]}))
        customer = call.path.rpartition("/")[2]
        row = self.rows.get(customer)
        if row is None:
            return Reply(404, body=b'{"errors":[{"message":"Not Found"}]}')
        if call.method != "GET":
            del self.rows[customer]
            return Reply(200, body=orjson.dumps({"doc": row, "message": "Deleted successfully."}))
        return Reply(200, body=orjson.dumps(row))


class World:
    """Topics, both stages, and the systems by name."""

    def __init__(
        self,
        settings: Mapping[str, Any],
        *,
        seed: int = 0,
        undo: Undo | None = None,
        partitions: int = 4,
        before: Callable[[Topics], Sequence[Callable[[], Handler]]] = lambda _: (),
    ) -> None:
        """Build it; every target has one customer that is never deleted, so that canaries work.

        `before`: gives stages that run before these two.
        """
        self.topics = Topics(partitions=partitions)
        self.settings = DeletesSettings.model_validate(settings)
        self.undo = undo
        self.systems = {name: System(name) for name in self.settings.targets}
        for system in self.systems.values():
            system.add("999999")
        self.sequences: dict[bytes, int] = {}
        self.commands = 0
        makers: list[Callable[[], Handler]] = [*before(self.topics), self._requests, self._executor]
        self.harness = Harness(makers, partitions=partitions, answer=self._answer, seed=seed, now=START)

    def _requests(self) -> Handler:
        return Requests(self.topics, self.settings)

    def _executor(self) -> Handler:
        return Executor(self.topics, self.settings, self.undo)

    def _answer(self, call: Call) -> Reply | None:
        return self.systems[call.lane].answer(call, self.harness.now)

    def settle(self, minutes: float = 3) -> None:
        """Let time pass."""
        self.harness.advance(int(minutes * MINUTE))

    # The sources

    def live(
        self,
        source: str,
        customer: str,
        *,
        references: Mapping[str, str] | None = None,
        at: int | None = None,
    ) -> int:
        """Publish a customer as live; return the sequence."""
        key = customer_key(source, customer)
        sequence = self.sequences[key] = self.sequences.get(key, 0) + 1
        typed = [{"type": type_, "id": id_} for type_, id_ in (references or {}).items()]
        value = {"source": source, "id": customer, "references": typed}
        headers = event_headers(
            key=key,
            source=source,
            type_=CREATED if sequence == 1 else UPDATED,
            sequence=sequence,
            time=rfc3339(self.harness.now if at is None else at),
        )
        self.harness.publish(self.topics.latest, key, orjson.dumps(value), headers)
        return sequence

    def deleted(
        self, source: str, customer: str, reason: Any = "tombstone", *, live: int = 1000, extra: Headers | None = None
    ) -> int:
        """Publish a customer as deleted; `live`: customers that the source has left. Return the sequence."""
        key = customer_key(source, customer)
        sequence = self.sequences[key] = self.sequences.get(key, 0) + 1
        headers = event_headers(
            key=key, source=source, type_=DELETED, sequence=sequence, time=rfc3339(self.harness.now), reason=reason
        )
        headers += [("ce_live", b"%d" % live), *(extra or [])]
        self.harness.publish(self.topics.latest, key, None, headers)
        return sequence

    def departed(
        self,
        customer: str,
        remaining: list[str],
        *,
        cause: str = "deleted",
        doubt: list[str] | None = None,
        **more: Any,
    ) -> None:
        """Publish that a customer, as it is now, has left its cluster; those of the others are as published."""
        table = self.harness.table(self.topics.clusters)
        links = [
            {
                "customer": name,
                "score": 21.0,
                "keys": ["email"],
                "fields": {"given": 5.0, "family": 6.0},
                "exact_id": False,
                "generic": False,
                "same_source": False,
            }
            for name in remaining
        ]
        value = {
            "customer": customer,
            "cause": cause,
            "sequence": self.sequences[customer.encode()],
            "cluster": "c0ffee",
            "winner": customer,
            "remaining": remaining,
            "evidence": links,
            "memberships": {name: membership_digest(table.get(name.encode())) for name in remaining},
            "doubt": doubt or [],
            **more,
        }
        self.harness.publish(self.topics.departures, customer.encode(), orjson.dumps(value))

    def clustered(self, customer: str, winner: str | None, *, size: int = 2, **link: Any) -> None:
        """Publish the cluster of a customer, linked with its winner directly; no cluster without a winner."""
        value = None
        if winner is not None:
            step = {
                "a": customer,
                "b": winner,
                "score": 24.0,
                "keys": ["email"],
                "fields": {"given": 5.0, "family": 6.0, "birth_date": 7.0},
                "exact_id": False,
                "generic": False,
                **link,
            }
            value = orjson.dumps({"cluster": "c0ffee", "winner": winner, "size": size, "path": [step]})
        self.harness.publish(self.topics.clusters, customer.encode(), value)

    # The persons

    def decide(self, what: Any, *, id_: str | None = None, **fields: Any) -> str:
        """Write a decision; return its id."""
        self.commands += 1
        name = id_ or f"command-{self.commands}"
        given = decision(name, what, who="operator@example.com", at=self.harness.now, **fields)
        key, value = record_of(given)
        self.harness.publish(self.topics.approvals, key, value)
        return name

    def approve(self, plan: Mapping[str, Any], **fields: Any) -> str:
        """Approve a plan as it was seen."""
        given = {"target": plan["target"], "plan": plan["plan"], "hash_": plan["hash"], **fields}
        return self.decide("approve", **given)

    # What can be read

    def measured(self, metric: Metric, *labels: str) -> float:
        """Return what a metric shows of the executors; a target has one."""
        return sum(task.tx.measured.get((metric, *labels), 0) for task in self.harness._tasks)

    def lines(self) -> list[tuple[str, dict[str, Any]]]:
        """Return what the executors have logged: the name and the fields of each line."""
        return [(name, dict(fields)) for task in self.harness._tasks for _, name, fields in task.tx.log.said]

    def waits(self, target: str = "crm") -> dict[str, int]:
        """Return how much waits for what, where anything does, as the status topic has it; metrics say the same."""
        said: dict[str, int] = self.status(f"deletions/{target}")["waits"]
        for waits_for, many in said.items():
            assert self.measured(telemetry.DELETIONS_OPEN, target, waits_for) == many
        return {waits_for: many for waits_for, many in said.items() if many}

    def state(self, target: str = "crm") -> str:
        """Return a target's state, as metrics have it."""
        states = get_args(TargetState)
        (found,) = [state for state in states if self.measured(telemetry.TARGET_STATE, target, state)]
        return str(found)

    def status(self, key: str) -> dict[str, Any]:
        """Return the newest status under a key."""
        value: dict[str, Any] = orjson.loads(self.harness.table(self.topics.status)[key.encode()])
        return value

    def answered(self, command: str) -> tuple[str, str]:
        """Return outcome and message of a command."""
        found = self.status(f"command/{command}")
        return found["outcome"], found["message"]

    def plans(self, state: str | None = "held") -> list[dict[str, Any]]:
        """Return the plans, the oldest first."""
        table = self.harness.table(self.topics.status)
        found = [orjson.loads(value) for key, value in sorted(table.items()) if key.startswith(b"plan/")]
        return sorted((plan for plan in found if state in {None, plan["state"]}), key=itemgetter("held_at"))

    def ledger(self) -> dict[str, dict[str, Any]]:
        """Return the table of deletions."""
        return {key.decode(): orjson.loads(value) for key, value in self.harness.table(self.topics.deletions).items()}

    def states(self) -> dict[str, str]:
        """Return the newest state by target and customer."""
        return {key: row["state"] for key, row in self.ledger().items()}

    def receipts(self) -> list[dict[str, Any]]:
        """Return the receipts."""
        return [orjson.loads(record.value or b"") for record in self.harness.records(self.topics.receipts)]

    def receipt(self, customer: str, target: str = "crm") -> dict[str, Any]:
        """Return the one receipt for a customer at a target."""
        (found,) = [row for row in self.receipts() if (row["target"], row["customer"]) == (target, customer)]
        return found

    def outcomes(self) -> dict[str, str]:
        """Return the outcome by target and customer, having checked that no request has two receipts."""
        receipts = self.receipts()
        assert len({receipt["request"] for receipt in receipts}) == len(receipts)
        return {f"{receipt['target']}/{receipt['customer']}": receipt["outcome"] for receipt in receipts}

    def requests(self) -> Iterator[dict[str, Any]]:
        """Yield the requests that executors were given, each once."""
        seen = set()
        for record in self.harness.records(self.topics.requests):
            if dict(record.headers).get("kind") == b"request" and record.value is not None:
                request = orjson.loads(record.value)["request"]
                if request["id"] not in seen:
                    seen.add(request["id"])
                    yield request


def drivly(**more: Any) -> dict[str, Any]:
    """Return the settings of a Drivly target."""
    return {"kind": "drivly", "url": "http://127.0.0.1:1/api", "key": {"env": "KEY"}, **more}


def http(**more: Any) -> dict[str, Any]:
    """Return the settings of a configured HTTP target, which has no look-up unless `more` says so."""
    return {"kind": "http", "url": "http://127.0.0.1:1", "path": "/customers/{id}", **more}


def with_lookup(**more: Any) -> dict[str, Any]:
    """Return the settings of a configured HTTP target with a look-up and a canary."""
    fields = {"id_field": "id", "changed_field": "updatedAt", "created_field": "createdAt", "canary_id": "999999"}
    return http(lookup="/customers/{id}", **fields, **more)


def route(source: str = "shop", target: str = "crm", **more: Any) -> dict[str, Any]:
    """Return the settings of a route."""
    return {"source": source, "target": target, **more}


def simple(target: Mapping[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """Return settings with one target, `crm`, and one same-id route to it, from `shop`."""
    return {"targets": {"crm": target or drivly()}, "routes": [route()], **more}

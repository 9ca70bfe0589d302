"""A small world for the deletions: both stages on the harness, and simulated systems to delete from."""

from collections.abc import Callable, Iterator
from typing import Any

import orjson

from handlers.deletes.decisions import decision, record_of
from handlers.deletes.executor import Executor
from handlers.deletes.requests import Requests
from handlers.deletes.settings import DeletesSettings
from handlers.deletes.times import rfc3339
from handlers.deletes.undo import Undo
from worker.events import CREATED, DELETED, UPDATED, customer_key, event_headers
from worker.handling import Call, Reply
from worker.testkit import Harness
from worker.topics import Topics

START = 1_700_000_000_000
SHORT = {"guard": {"window": "60s"}, "catch_up": "5s", "tick": "1s"}


class System:
    """A system that customers are deleted from: its rows by id, its calls, and its faults.

    `fault` may answer a call in the system's place: it returns a reply, or None to go on as usual.
    """

    def __init__(self, prefix: str = "/customers/") -> None:
        self.rows: dict[str, dict[str, Any]] = {}
        self.calls: list[tuple[int, str, str, int | None]] = []
        self.fault: Callable[[Call], Reply | None] = lambda _: None
        self.silent: Callable[[Call], bool] = lambda _: False
        self.prefix = prefix
        self.now = START

    def add(self, customer: str, *, updated: int = START - 1000, **fields: Any) -> None:
        self.rows[customer] = {"id": customer, "updatedAt": rfc3339(updated), "createdAt": rfc3339(updated), **fields}

    def answer(self, call: Call, now: int) -> Reply | None:
        self.now = now
        reply = self.fault(call) or self._usual(call)
        self.calls.append((now, call.method, call.path, reply.status))
        return None if self.silent(call) else reply

    def deletes(self) -> list[str]:
        return [path.removeprefix(self.prefix) for _, method, path, _ in self.calls if method != "GET"]

    def _usual(self, call: Call) -> Reply:
        if call.path == "/customers":
            return Reply(200, body=orjson.dumps({"docs": list(self.rows.values())[:1]}))
        customer = call.path.removeprefix(self.prefix)
        row = self.rows.get(customer)
        if row is None:
            return Reply(404, body=b'{"errors":[{"message":"Not Found"}]}')
        if call.method != "GET":
            del self.rows[customer]
            return Reply(200, body=orjson.dumps({"doc": row, "message": "Deleted successfully."}))
        return Reply(200, body=orjson.dumps(row))


class World:
    """Topics, both stages, and the systems by name."""

    def __init__(self, settings: dict[str, Any], *, seed: int = 0, undo: Undo | None = None, partitions: int = 4) -> None:
        self.topics = Topics(partitions=partitions)
        self.settings = DeletesSettings.model_validate({**SHORT, **settings})
        self.systems = {name: System() for name in self.settings.targets}
        self.sequences: dict[bytes, int] = {}
        self.commands = 0
        makers = [
            lambda: Requests(self.topics, self.settings),
            lambda: Executor(self.topics, self.settings, undo),
        ]
        self.harness = Harness(makers, partitions=partitions, answer=self._answer, seed=seed, now=START)

    def _answer(self, call: Call) -> Reply | None:
        return self.systems[call.lane].answer(call, self.harness.now)

    # The sources

    def live(self, source: str, customer: str, *, references: dict[str, str] | None = None, at: int | None = None) -> None:
        """Publish a customer as live."""
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

    def deleted(
        self, source: str, customer: str, reason: Any = "tombstone", *, live: int = 1000, extra: tuple[tuple[str, bytes], ...] = ()
    ) -> int:
        """Publish a customer as deleted; return the sequence."""
        key = customer_key(source, customer)
        sequence = self.sequences[key] = self.sequences.get(key, 0) + 1
        headers = event_headers(
            key=key, source=source, type_=DELETED, sequence=sequence, time=rfc3339(self.harness.now), reason=reason
        )
        headers += [("ce_live", b"%d" % live), *extra]
        self.harness.publish(self.topics.latest, key, None, headers)
        return sequence

    # The persons

    def decide(self, what: Any, *, id_: str | None = None, **fields: Any) -> str:
        """Write a decision; return its id."""
        self.commands += 1
        given = decision(id_ or f"command-{self.commands}", what, who="operator@example.com", at=self.harness.now, **fields)
        key, value = record_of(given)
        self.harness.publish(self.topics.approvals, key, value)
        return given["id"]

    def approve_all(self) -> None:
        for plan in self.plans("held"):
            self.decide("approve", target=plan["target"], plan=plan["plan"], hash_=plan["hash"])

    # What can be read

    def status(self, key: str) -> dict[str, Any]:
        value: dict[str, Any] = orjson.loads(self.harness.table(self.topics.status)[key.encode()])
        return value

    def plans(self, state: str | None = None) -> list[dict[str, Any]]:
        table = self.harness.table(self.topics.status)
        found = [orjson.loads(value) for key, value in sorted(table.items()) if key.startswith(b"plan/")]
        return [plan for plan in found if state in {None, plan["state"]}]

    def ledger(self) -> dict[str, dict[str, Any]]:
        return {key.decode(): orjson.loads(value) for key, value in self.harness.table(self.topics.deletions).items()}

    def states(self) -> dict[str, str]:
        return {key: row["state"] for key, row in self.ledger().items()}

    def receipts(self) -> list[dict[str, Any]]:
        return [orjson.loads(record.value or b"") for record in self.harness.records(self.topics.receipts)]

    def outcomes(self) -> dict[str, str]:
        """Return the outcome by target and customer; every request has one receipt at most."""
        receipts = self.receipts()
        assert len({receipt["request"] for receipt in receipts}) == len(receipts)
        return {f"{receipt['target']}/{receipt['customer']}": receipt["outcome"] for receipt in receipts}

    def requests(self) -> Iterator[dict[str, Any]]:
        """Yield the requests that an executor was given."""
        seen = set()
        for record in self.harness.records(self.topics.requests):
            if dict(record.headers).get("kind") == b"request" and record.value is not None:
                request = orjson.loads(record.value)["request"]
                if request["id"] not in seen:
                    seen.add(request["id"])
                    yield request


def drivly(**more: Any) -> dict[str, Any]:
    return {"kind": "drivly", "url": "http://127.0.0.1:1/api", "api_key": {"env": "KEY"}, **more}


def http(**more: Any) -> dict[str, Any]:
    return {"kind": "http", "url": "http://127.0.0.1:1", "path": "/customers/{id}", **more}

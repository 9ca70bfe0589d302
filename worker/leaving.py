"""What becomes of the customers of a source that is configured no more: a person says it, and nothing else does.

forget   they stay on the topics as they are, and Rollcall knows nothing of them any more but their sequences
delete   they are published as deleted, by the weakest reason there is (`absent`): nobody has seen them gone upstream
rename   the same, and they are handed over to another source's name: first seen as before, its watch list as before

It is done piece by piece. The position within it is part of the state, so that a successor goes on with it, and no
customer is published twice. What is handed over travels on the control topic, in the very transactions that let go.
"""

from itertools import islice
from typing import Any, Final

import orjson

from worker import changes, orders
from worker.changes import Decision, Entry
from worker.detection import settle_letter
from worker.events import customer_key
from worker.keys import Keys
from worker.orders import Order, Outcome
from worker.publish import publish
from worker.task import Transaction
from worker.topics import Topics, partition_of
from worker.watch import WatchList

_PIECE: Final = 1_000


class Leaving:
    """The jobs of one task."""

    def __init__(self, topics: Topics) -> None:
        """Write to `topics`."""
        self._topics = topics

    def begin(self, tx: Transaction, given: Order) -> tuple[Outcome, str] | None:
        """Note an order down, to be worked off; return why it is refused, None where it is not."""
        source = given["source"]
        keys = Keys(source)
        if tx.get(keys.job) is not None:
            return "refused", f"{source} is being taken off already"
        checkpoint = tx.get(keys.checkpoint)
        if checkpoint is None:
            return "refused", f"nothing is known here of a source {source}"
        live = orjson.loads(checkpoint).get("live", 0)
        tx.put(keys.job, orjson.dumps({"order": given, "after": "", "count": 0, "live": live}))
        return None

    def go_on(self, tx: Transaction, key: bytes, now: int) -> None:
        """Do the next piece of a job; answer when there is none left. `now` is in milliseconds since the epoch."""
        job: dict[str, Any] = orjson.loads(tx.get(key) or b"{}")
        given: Order = job["order"]
        name = given["source"].encode()
        if self._let_go(tx, job, given, now) or self._clear(tx, given):
            tx.put(key, orjson.dumps(job))
            return
        tx.delete(Keys(given["source"]).checkpoint)
        tx.delete(key)
        tx.send(self._topics.status, b"source/" + name, None)
        tx.send(self._topics.status, *orders.answer(given, "done", _told(given, job["count"]), now))

    def _let_go(self, tx: Transaction, job: dict[str, Any], given: Order, now: int) -> bool:
        """Let the next live customers go; return whether there were any entries left."""
        prefix = Keys(given["source"]).entries
        start = prefix + bytes.fromhex(job["after"]) + b"\0" if job["after"] else prefix
        entries = list(islice(tx.scan(prefix, start), _PIECE))
        adopted: list[tuple[str, int]] = []
        for key, raw in entries:
            entry = Entry.unpack(raw)
            if not entry.live:
                continue
            identity = key[len(prefix) :]
            if given["what"] == "forget":
                grave = changes.buried(entry)
            else:
                job["live"] -= 1
                grave = self._delete(tx, given["source"], identity.decode(), changes.gone(entry, "absent"), job, now)
            tx.put(key, grave.pack())
            job["count"] += 1
            adopted.append((identity.decode(), entry.first_seen))
        if entries:
            job["after"] = entries[-1][0][len(prefix) :].hex()
        if given["what"] == "rename" and adopted:
            self._hand_over(tx, given, [id_ for id_, _ in adopted], [seen for _, seen in adopted])
        return bool(entries)

    def _delete(
        self, tx: Transaction, source: str, customer_id: str, decision: Decision, job: dict[str, Any], now: int
    ) -> Entry:
        entry, change = decision.entry, decision.change
        assert entry is not None  # it is live
        assert change is not None
        key = customer_key(source, customer_id)
        publish(tx, self._topics, key, change, {}, updated=None, live=max(0, job["live"]), now=now)
        return entry

    def _clear(self, tx: Transaction, given: Order) -> bool:
        """Remove the next keys of what is remembered beside the customers; return whether there were any."""
        source = given["source"]
        keys = Keys(source)
        for prefix in (keys.aside, keys.listed, keys.fresh):
            found = list(islice(tx.scan(prefix), _PIECE))
            for key, value in found:
                tx.delete(key)
                if prefix == keys.aside:  # nothing will become of what its dead letter tells of
                    settle_letter(tx, self._topics, source, value)
            if prefix == keys.listed and given["what"] == "rename" and found:
                self._hand_over(tx, given, [(value + key[len(prefix) :]).decode() for key, value in found], [])
            if found:
                return True
        return False

    def _hand_over(self, tx: Transaction, given: Order, ids: list[str], seen: list[int]) -> None:
        """Send customers (`seen`: when they were first seen) or, without, the watch list to their new owner.

        Ids of the watch list begin with what stands there: `+` where they are watched, `-` where they were removed.
        """
        name = given["name"] or ""
        for start in range(0, len(ids), _PIECE // 5):
            some = slice(start, start + _PIECE // 5)
            sent = orders.order(
                given["id"], "adopt", name, who=given["who"], at=given["at"], ids=ids[some], seen=seen[some]
            )
            where = partition_of(name.encode(), self._topics.partitions)
            tx.send_to(self._topics.control, where, name.encode(), orjson.dumps(sent), None)

    def adopt(self, tx: Transaction, given: Order, watch: WatchList) -> None:
        """Take customers over: when they are seen for the first time here, they were first seen long ago."""
        if not given["seen"]:
            watch.add(tx, [entry.removeprefix("+") for entry in given["ids"] if entry[:1] != "-"])
            watch.leave_out(tx, [entry[1:] for entry in given["ids"] if entry[:1] == "-"])
            return
        prefix = Keys(given["source"]).entries
        for id_, first_seen in zip(given["ids"], given["seen"], strict=True):
            if tx.get(prefix + id_.encode()) is None:
                tx.put(prefix + id_.encode(), changes.grave(0, first_seen).pack())


def _told(given: Order, count: int) -> str:
    match given["what"]:
        case "forget":
            return f"{count} customers are forgotten; they stay on the topics as they are"
        case "delete":
            return f"{count} customers were published as deleted"
        case _:
            return f"{count} customers were handed over to {given['name']}: configure it, and they are published anew"

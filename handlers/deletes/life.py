"""What happens to one deletion: it moves by the table, its newest state is published, and it ends with a receipt."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

import orjson

from handlers.deletes.book import Book, Recent, number, whom
from handlers.deletes.decisions import Decision
from handlers.deletes.machine import ENDS, Event, Refused, State, step
from handlers.deletes.model import Decided, Deletion, Request, forget
from handlers.deletes.receipts import ledger, ledger_key, receipt
from handlers.deletes.settings import DeletesSettings, Route
from handlers.deletes.targets.contract import Target
from handlers.deletes.undo import Undo
from worker import telemetry
from worker.handling import Tx
from worker.topics import DAY_MS, Topics

# States that pass in moments are published as the one they belong to.
_PUBLISHED_AS: Final[Mapping[State, State]] = {State.CHECKING: State.COOLING, State.LOOKING: State.COOLING}
_HISTORY: Final = 200
_GONE: Final = frozenset({State.VERIFIED, State.DELETED, State.ALREADY_ABSENT})


@dataclass(frozen=True, slots=True)
class Kit:
    """What the executor was given."""

    topics: Topics
    settings: DeletesSettings
    targets: Mapping[str, Target]
    undo: Undo | None
    sources: Collection[str] | None  # that are polled; None: it is not known which
    recent: Recent

    def route_of(self, request: Request) -> Route | None:
        """Return the route that a request came over, None where it is not configured any more, or stops it."""
        route = next((route for route in self.settings.routes if route.name == request["route"]), None)
        if route is None or route.mode(request["authority"]) == "off" or route.dry_run > request["dry_run"]:
            return None
        return route


class Life:
    """The deletions of one executor, within one transaction, at one moment."""

    def __init__(self, kit: Kit, tx: Tx, now: int) -> None:
        """`now`: milliseconds since the epoch."""
        self.kit = kit
        self.tx = tx
        self.now = now
        self.book = Book(tx, kit.recent)

    def move(self, deletion: Deletion, event: Event, reason: str | None = None) -> Refused | None:
        """Move a deletion by the table; return why not, where it cannot be."""
        following = step(deletion.state, event)
        if isinstance(following, Refused):
            return following
        deletion.state, deletion.since, deletion.reason = following, self.now, reason
        deletion.history = [*deletion.history[-_HISTORY:], (self.now, event.value, following.value)]
        self.book.change(deletion)
        return None

    def must(self, deletion: Deletion, event: Event, reason: str | None = None) -> None:
        """Move a deletion where the caller knows that it can be; anything else is a mistake in this package."""
        refused = self.move(deletion, event, reason)
        if refused is not None:
            raise AssertionError(f"{event} came upon {deletion.state}: {refused.why}")

    def decide(self, deletion: Deletion, decided: Decided) -> None:
        """Keep a person's decision with the deletion."""
        deletion.decisions.append(decided)
        self.book.change(deletion)

    def end(self, deletion: Deletion) -> None:
        """Close a deletion that has come to an end: receipt, last published state, and out of everything."""
        request, book = deletion.request, self.book
        book.put(deletion, None)
        self._keep_copy(deletion)
        self.publish(deletion)
        others = book.others(deletion) if deletion.state in _GONE else []
        book.delist(deletion)
        key, value, headers = receipt(deletion, self.now)
        self.tx.send(self.kit.topics.receipts, key, value, headers)
        self.tx.measure(telemetry.DELETIONS, 1, request["target"], deletion.state)
        forget(self.tx, self.kit.topics.requests, request["id"].encode(), request["target"])
        rest: dict[str, object] = {"state": deletion.state, "at": self.now}
        if deletion.state in {State.BLOCKED, State.FAILED}:
            rest["asked"] = request  # it may be retried, also when its origin is long gone
        book.shrink(request["id"], rest)
        copy = book.copy(whom(deletion))
        if copy is not None:
            kept = {"key": ledger_key(request).decode(), "value": ledger(deletion, undo=None)}
            self.tx.put(b"u/" + number(copy.until) + number(deletion.n), orjson.dumps(kept))
        for other in others:
            if other.state == State.HELD and other.group is None:
                self.must(other, Event.SUPERSEDE, f"{request['id']} has done it")
                self.end(other)
        self._uncover(deletion)

    def _keep_copy(self, ended: Deletion) -> None:
        """Keep an undo copy by customer: it is published with whatever request is the newest, until its day."""
        self.book.keep_copy(ended, self.now + int(self.kit.settings.undo_days * DAY_MS))
        if ended.request["authority"] == "erasure" and ended.state in _GONE:
            self.book.drop_copy(whom(ended))
            for other in self.book.others(ended):  # one that was put off at its DELETE has a copy of its own
                other.undo = None
                self.publish_again(other)

    def _uncover(self, ended: Deletion) -> None:
        """Publish the newest request of the customer that is still open: a person may have to see it and decide."""
        others = self.book.others(ended)
        if others:
            self.book.show(others[-1])
            self.publish_again(others[-1])

    def publish_again(self, deletion: Deletion) -> None:
        """Have the state of an open deletion published although it is the same: what goes with it is another."""
        deletion.published = None
        self.book.change(deletion)

    def publish(self, deletion: Deletion) -> None:
        """Publish the state of the newest deletion of a customer, if it is another than before."""
        if deletion.state == State.DELETED and deletion.place is not None and deletion.place[0] == "a":
            return  # the look-up that verifies it is under way
        shown = _PUBLISHED_AS.get(deletion.state, deletion.state)
        mark = f"{shown} {deletion.reason} {len(deletion.attempts)} {len(deletion.decisions)}"
        if mark == deletion.published or not self.book.newest(deletion):
            return
        deletion.published = mark
        undo, of = deletion.undo, deletion.request["id"]
        copy = self.book.copy(whom(deletion))
        if undo is None and copy is not None:
            undo, of = copy.content, copy.request
        value = ledger(deletion, undo=undo, undo_of=None if undo is None else of, state=shown)
        self.tx.send(self.kit.topics.deletions, ledger_key(deletion.request), orjson.dumps(value))

    def flush(self) -> None:
        """Publish and write back what has changed."""
        for deletion in self.book.flush():
            if deletion.state not in ENDS:
                self.publish(deletion)


def decided(given: Decision, refused: str | None = None) -> Decided:
    """Return what is kept of a decision with each deletion it is about; `refused`: why it was not carried out."""
    return {
        "what": given["what"],
        "who": given["who"],
        "at": given["at"],
        "command": given["id"],
        "plan": given["plan"],
        "refused": refused,
    }

"""What the executor does with what it is told: requests taken in once, called off, vouched for, passed on or not.

Our own DELETE, coming back as an event of a system that is also a source, is recognised here: the request that would
follow from it passes through the executor of that system first, whose state has noted every DELETE before it was sent.
"""

from collections.abc import Mapping
from typing import Any, Final

import orjson

from handlers.deletes.dispatch import Dispatch
from handlers.deletes.guard import Guard
from handlers.deletes.life import Kit, Life
from handlers.deletes.machine import Event, State
from handlers.deletes.model import Deletion, Request, person, send_request
from handlers.deletes.targets.contract import Target
from worker.handling import Done, Outcome, Skip, Tx
from worker.topics import DAY_MS

ECHO_DOUBT: Final = "it may be the echo of our own deletion: its customer was published as live after that"
UNKNOWN_DOUBT: Final = "it may be the echo of our own deletion: what became of that, a day ago or more, is not known"
FORGOTTEN: Final = "it may be the echo of our own deletion: the executor has lost its memory of those"
BAD_ID: Final = "the id is not one that this target gives out"


class Work:
    """The executor's parts, within one transaction, at one moment."""

    def __init__(self, kit: Kit, tx: Tx, now: int) -> None:
        """`now`: milliseconds since the epoch."""
        self.kit = kit
        self.life = Life(kit, tx, now)
        self.guard = Guard(self.life)
        self.dispatch = Dispatch(self.life)

    def take(self, request: Request, *, recovered: bool = False) -> Outcome:
        """Take a request in, once. `recovered`: it is from before the executor's memory."""
        life, id_ = self.life, request["id"]
        ended = life.book.ended(id_)
        if life.book.deletion(id_) is not None or (ended is not None and "cancelled" not in ended):
            return Skip("seen")
        deletion = Deletion(request, State.REQUESTED, life.book.arrive(), life.now)
        life.book.runtime(request["target"])
        life.book.enlist(deletion)
        life.book.change(deletion)
        if ended is not None:
            life.must(deletion, Event.SUPERSEDE, ended["cancelled"])
            life.end(deletion)
        elif not _can_be_meant(self.kit.targets.get(request["target"]), request["customer"]):
            life.must(deletion, Event.BLOCK, BAD_ID)
            life.end(deletion)
        else:
            self._judge(deletion, recovered=recovered)
        return Done()

    def _judge(self, deletion: Deletion, *, recovered: bool) -> None:
        """Hold a request, let it run, or gather it with others, to be judged together."""
        request = deletion.request
        why = request["held"] or self._doubt(deletion)
        if why is not None and not recovered:
            self.life.must(deletion, Event.HOLD, why)
            self.life.book.put(deletion, "h", self.life.now)
        elif not recovered and (request["authority"] == "erasure" or request["retry_of"] is not None):
            self.guard.release(deletion)
            self.dispatch.pump(request["target"])
        else:
            self.guard.gather(deletion, recovered=recovered)

    def _doubt(self, deletion: Deletion) -> str | None:
        """Return why nobody can know whom a DELETE would meet: without a look-up, after one that was done."""
        request, target = deletion.request, self.kit.targets.get(deletion.request["target"])
        known = self.life.book.done(deletion)
        if known is None or target is None or request["retry_of"] is not None:
            return None
        (by, done), seen = known, request["seen_live"]
        if target.lookup(request["customer"] or "") is not None or (seen is not None and seen > done):
            return None
        return f"{by} has deleted it, and nothing has shown it since" if done < request["as_of"] else None

    def cancel(self, id_: str, reason: str) -> Outcome:
        """Call a request off, as far as that is possible; one that has not come yet is called off when it comes."""
        book = self.life.book
        deletion = book.deletion(id_)
        if deletion is None:
            if book.ended(id_) is None:
                book.shrink(id_, {"cancelled": reason})
            return Skip("ended")
        if self.life.move(deletion, Event.SUPERSEDE, reason) is not None:
            return Skip("late")
        self.guard.leave(deletion)
        self.life.end(deletion)
        self.dispatch.pump(deletion.request["target"])
        return Done()

    def vouch(self, id_: str, serial: int, since: int) -> Outcome:
        """Take the word of the requests stage that a request is still wanted, if it was asked for just that.

        `since`: when the duplicate's winner had last been gone (`Book.winner_gone`) as the requests stage was asked; 0
        from an older program. If it was seen to be gone again since, the word is out of date.
        """
        deletion = self.life.book.deletion(id_)
        if deletion is None or deletion.state != State.CHECKING or deletion.serial != serial:
            return Skip("late")
        if self.life.book.winner_gone(deletion) > since:
            return Skip("late")
        self.life.book.put(deletion, "y", self.life.now)
        self.dispatch.pump(deletion.request["target"])
        return Done()

    def clear(self, request: Request, *, forgetful: bool) -> Outcome:
        """Pass a request on to its target, unless the deletion it follows from is our own.

        `forgetful`: this executor has lost its memory lately, so a DELETE of ours may not be known.
        """
        tx, topic = self.life.tx, self.kit.topics.requests
        key = b"d/" + person(request["source"], request["origin"])
        own = orjson.loads(tx.get(key) or b"null")
        if own is None or own["echo"] not in {None, request["sequence"]}:
            if own is None and forgetful and request["source"] in self.kit.targets:
                request["held"] = FORGOTTEN
            send_request(tx, topic, request)
            return Done()
        doubt = self._echo_doubt(own, request["seen_live"])
        if own["echo"] is None and doubt is not None:
            request["held"] = doubt
            send_request(tx, topic, request)
            return Done()
        first = own["echo"] is None  # else it is another route's request that the same event led to
        own["echo"] = request["sequence"]
        if own["done"] is None:  # it may yet turn out that ours was not carried out
            own["kept"] = [*own.get("kept", []), request]
        tx.put(key, orjson.dumps(own))
        if first:
            self._tell_echo(request, own["request"])
        return Skip("echo")

    def _echo_doubt(self, own: Mapping[str, Any], live: int | None) -> str | None:
        """Return why a deletion may be another than the noted one of ours; `live`: when it was last published so."""
        since = own["done"] or own.get("sent") or 0
        if live is not None and live > since:
            return ECHO_DOUBT
        unknown = own["done"] is None and self.life.now > since + DAY_MS
        return UNKNOWN_DOUBT if unknown else None

    def _tell_echo(self, request: Request, own: str) -> None:
        """Report an echo on the status topic."""
        tx, key = self.life.tx, f"echo/{request['source']}".encode()
        count = int(tx.get(key) or b"0") + 1
        tx.put(key, b"%d" % count)
        last = {"origin": request["origin"], "sequence": request["sequence"], "deletion": own, "at": self.life.now}
        value = {"kind": "echo", "target": request["source"], "count": count, "last": last}
        tx.send(self.kit.topics.status, key, orjson.dumps(value))


def _can_be_meant(target: Target | None, customer: str | None) -> bool:
    """Return whether an id is one that the target gives out, as far as either is known."""
    return target is None or customer is None or target.valid(customer)

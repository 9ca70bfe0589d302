"""What the executor asks of others: the requests stage's word, look-ups, the DELETE itself, canaries.

Every call moves its deletion, or its target's canary, first: whatever is sent was committed before.
"""

from typing import Final

import orjson

from handlers.deletes.health import Health
from handlers.deletes.life import Life
from handlers.deletes.machine import Event, State
from handlers.deletes.model import Deletion, Role, person, send_check, send_clear
from handlers.deletes.targets.contract import Ask, Found, Target
from worker.handling import Call

CANARY: Final = "canary:"
UNKNOWN: Final = "it is not known whether it was done, and the target has no look-up"
VOUCHED_FOR_MS: Final = 5_000
"""How long the word of the requests stage is taken: until the look-up is sent, and again until the DELETE is."""
_UNDO_BYTES: Final = 256 * 1024


class Calls:
    """The calls of one executor, within one transaction, at one moment."""

    def __init__(self, life: Life, health: Health) -> None:
        """Work on the deletions of `life`."""
        self._life = life
        self._book = life.book
        self._health = health
        self._settings = life.kit.settings

    def check(self, deletion: Deletion) -> None:
        """Ask the requests stage whether a deletion is still wanted, in view of every customer it is about."""
        request, sources = deletion.request, self._life.kit.sources
        hops: list[tuple[Role, str]] = [("origin", f"{request['source']}/{request['origin']}")]
        if sources is None or request["target"] in sources:
            hops.append(("subject", f"{request['target']}/{request['customer']}"))
        if request["winner"] is not None:
            hops.append(("winner", f"{request['target']}/{request['winner']}"))
        deletion.serial += 1
        self._book.put(deletion, "k", self._life.now)
        since = self._book.winner_gone(deletion)
        send_check(self._life.tx, self._life.kit.topics.requests, request, hops, deletion.serial, since)

    def take_up(self, target: Target, deletion: Deletion) -> None:
        """Look a customer up, before the DELETE or after one; where there is no look-up, do what that leaves."""
        if deletion.state == State.CHECKING:
            self._life.must(deletion, Event.VOUCH)
            deletion.stays = False
        customer = deletion.sought
        if customer is None or not target.valid(customer):
            self.block(deletion, looked_up(deletion, "the id is not one that this target gives out"))
            return
        ask = target.lookup(customer)
        if ask is not None:
            self._call(deletion, ask)
        elif deletion.state != State.LOOKING:
            self.block(deletion, UNKNOWN)
        elif deletion.request["authority"] == "duplicate":
            self.block(deletion, "the target has no look-up: a duplicate's relations cannot be seen")
        else:
            self._execute_blindly(target, deletion)

    def _execute_blindly(self, target: Target, deletion: Deletion) -> None:
        """Send the DELETE without a look-up, unless one of ours has done it: whoever has the id since is another.

        Where it is not known whether one has, only a person's `retry` has another sent.
        """
        unsettled = self._book.unsettled(deletion)
        if unsettled is not None and deletion.request["retry_of"] is None:
            self.block(deletion, f"it is not known whether {unsettled} has done it, and the target has no look-up")
            return
        by, done = self._book.done(deletion) or ("", 0)
        if done >= deletion.request["as_of"]:
            self._life.must(deletion, Event.GONE, f"{by} has done it")
            self._life.end(deletion)
        else:
            self.execute(target, deletion, None)

    def execute(self, target: Target, deletion: Deletion, found: Found | None) -> None:
        """Commit to the DELETE; it is sent once this transaction is committed.

        Where the look-up took too long, or the rate limit holds the DELETE up, the customer may be back meanwhile: all
        is asked anew, with more patience each time, since a slow target is one in the end.
        """
        request, life = deletion.request, self._life
        latest = deletion.since + (VOUCHED_FOR_MS << deletion.tries)
        if life.now > latest:
            deletion.tries += 1
            self.look_later(deletion, after=0)
            return
        if self._book.has_open_half(deletion):
            self.look_later(deletion, after=0)  # asked for meanwhile: it stands back
            return
        if request["dry_run"]:
            life.must(deletion, Event.REHEARSE)
            life.end(deletion)
            return
        if not self._copy(deletion, found):
            self.block(deletion, "the record is too large for an undo copy")
            return
        life.must(deletion, Event.EXECUTE)
        deletion.sent, deletion.absent = life.now, False
        self._note_own(deletion)
        self._call(deletion, target.delete(request["customer"] or ""), latest)

    def _note_own(self, deletion: Deletion) -> None:
        """Note that the DELETE is ours, to know its echo by; what stood there comes back if it is not carried out."""
        tx, key = self._life.tx, own_key(deletion)
        before = orjson.loads(tx.get(key) or b"null")
        if before is not None:
            before.pop("before", None)  # its own attempt has been answered, or never will be
        own = {"request": deletion.request["id"], "done": None, "echo": None, "sent": deletion.sent, "before": before}
        tx.put(key, orjson.dumps(own))

    def not_done(self, deletion: Deletion) -> None:
        """Take it that the newest DELETE was not carried out: a deletion that its system reports is no echo of it.

        The note of an earlier DELETE that was done, or whose outcome is not known, is put back. What was taken for an
        echo of the newest one is judged again by that note.
        """
        tx, key = self._life.tx, own_key(deletion)
        own = orjson.loads(tx.get(key) or b"{}")
        if own.get("request") != deletion.request["id"] or "before" not in own:
            return
        if own["before"] is None:
            tx.delete(key)
        else:
            tx.put(key, orjson.dumps(own["before"]))
        for kept in own.get("kept", []):
            send_clear(tx, self._life.kit.topics.requests, kept)

    def _copy(self, deletion: Deletion, found: Found | None) -> bool:
        """Keep an undo copy where one is wanted; return whether that could be done."""
        request, undo = deletion.request, self._life.kit.undo
        wanted = self._settings.targets[request["target"]].undo and request["authority"] != "erasure"
        if undo is None or found is None or not wanted:
            return True
        if len(found.body) > _UNDO_BYTES:
            return False
        deletion.undo = undo.encrypt(request["id"], f"{request['target']}/{request['customer']}", found.body)
        return True

    def _call(self, deletion: Deletion, ask: Ask, latest: int | None = None) -> None:
        deletion.serial += 1
        self._book.put(deletion, "a", self._life.now)
        id_ = f"{deletion.request['id']}:{deletion.serial}"
        target = deletion.request["target"]
        self._life.tx.call(Call(id_, target, ask.method, ask.path, ask.query, ask.json, latest=latest))

    def look_first(self, deletion: Deletion) -> None:
        """Look again, ahead of all that wait for their turn."""
        self.look_later(deletion, after=-self._life.now)

    def look_later(self, deletion: Deletion, *, after: int | None = None) -> None:
        """Look again after a while (`after` milliseconds where given); where no DELETE is out, from the start."""
        when = self._life.now + (self._health.backoff(deletion.failures) if after is None else after)
        if deletion.state == State.LOOKING:
            self._life.must(deletion, Event.POSTPONE)
            self._book.put(deletion, "q", when)
        else:
            if deletion.state == State.EXECUTING:
                self._life.must(deletion, Event.LOSE)
            self._book.put(deletion, "v", when)

    def block(self, deletion: Deletion, why: str) -> None:
        """Leave a deletion to a person."""
        self._life.must(deletion, Event.BLOCK, why)
        self._life.end(deletion)

    # The canary

    def wait_for_canary(self, target: Target, deletion: Deletion, doubt: str | None, otherwise: str) -> None:
        """Have an answer wait for a canary that is sent after it, and shows whether the target answers rightly at all.

        `doubt`: why the answer cannot be read, None if the customer is gone then. `otherwise`: why a person has to
        decide where the target has no canary.
        """
        name, ask = deletion.request["target"], target.canary()
        if ask is None:
            self.block(deletion, looked_up(deletion, otherwise))
            return
        runtime = self._health.runtime(name)
        deletion.doubt = doubt
        self._book.put(deletion, "e", runtime.canaries + 1)
        self.canary(name, target)

    def canary(self, name: str, target: Target) -> bool:
        """Send a target's canary, if it has one and none is under way; return whether it was sent."""
        runtime, ask = self._health.runtime(name), target.canary()
        if ask is None or runtime.canary:
            return False
        runtime.canaries += 1
        runtime.canary, runtime.canary_at = runtime.canaries, self._life.now
        id_ = f"{CANARY}{name}:{runtime.canary}"
        self._life.tx.call(Call(id_, name, ask.method, ask.path, ask.query, ask.json))
        return True


def own_key(deletion: Deletion) -> bytes:
    """Return the state's key of our own DELETE of a customer."""
    return b"d/" + person(deletion.request["target"], deletion.request["customer"] or "")


def looked_up(deletion: Deletion, why: str) -> str:
    """Return what is wrong with a look-up, and whose it was where that is not the customer to be deleted."""
    return f"of the customer that was to stay: {why}" if deletion.seeks_winner else why

"""How one source is doing, as it is published: at once where something is the matter, soon where counts moved."""

import time
from typing import Any, Final

import orjson

from worker.committer import Committer
from worker.condition import Condition
from worker.detection import Detector
from worker.errors import RollcallError
from worker.task import Transaction
from worker.times import now_ms
from worker.watch import WatchList

_STATUS_SECONDS: Final = 60.0
_COUNTS_SECONDS: Final = 2.0
_COUNTS: Final = ("live", "watched", "not_looked_up")


class Status:
    """The status of one source, on the status topic."""

    def __init__(
        self, topic: str, detector: Detector, committer: Committer, condition: Condition, watch: WatchList | None
    ) -> None:
        """Publish to `topic`; `watch` is None for a source that lists its customers."""
        self._topic = topic
        self._detector = detector
        self._committer = committer
        self._condition = condition
        self._watch = watch
        self._told: tuple[dict[str, Any], dict[str, Any]] = {}, {}
        self._told_at = 0.0

    async def tell(self) -> None:
        """Publish what is news, and all of it now and then."""
        aside = self._detector.checkpoint.set_aside
        if aside:
            error = RollcallError(f"{aside} records are set aside", hint="See `rollcall deadletters list`.")
            self._condition.begin("degraded", error)
        else:
            self._condition.end("degraded")
        news, counts = self._news()
        told, counted = self._told
        due = _STATUS_SECONDS if counts == counted else _COUNTS_SECONDS
        if news != told or time.monotonic() - self._told_at > due:
            self._told, self._told_at = (news, counts), time.monotonic()
            await self._committer.put(self.publish)

    def publish(self, tx: Transaction) -> None:
        """Publish the status with a transaction."""
        tx.send(self._topic, f"source/{self._condition.source}".encode(), orjson.dumps(self._record(now_ms())))

    def _news(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return what of the status is published as soon as it changes, and what a little later."""
        record = self._record(0)
        del record["polled_at"], record["scanned_at"], record["checkpoint_at"], record["scans"]
        return record, {name: record.pop(name) for name in _COUNTS if name in record}

    def _record(self, now: int) -> dict[str, Any]:
        record, watch = self._condition.record(self._detector.checkpoint, now), self._watch
        if watch is not None:
            record |= {"watched": watch.watched, "not_looked_up": watch.not_looked_up}
        return record

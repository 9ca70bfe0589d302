"""The three stages, driven record by record in memory: as fast as they are themselves, with nothing around them.

The handlers are those that run on Kafka; only the loop is replaced. Everything is in one partition, and whatever a
stage sends is handled at once.
"""

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator
from typing import Any

import orjson

from handlers.dedupe import DedupeSettings, stages
from worker.events import Headers
from worker.handling import Dead, Handler, Record
from worker.privacy import Hasher
from worker.topics import Topics

# The state's keys are scanned by match key only: the letter and nine bytes.
_PREFIX = 10


class FastState:
    """An ordered enough map of bytes: `scan` is quick for the prefix that the pairs stage uses."""

    def __init__(self) -> None:
        """Start empty."""
        self.data: dict[bytes, bytes] = {}
        self.members: dict[bytes, dict[bytes, bytes]] = defaultdict(dict)

    def get(self, key: bytes) -> bytes | None:
        """Return the value of `key`."""
        return self.members[key[:_PREFIX]].get(key) if key[:1] == b"m" else self.data.get(key)

    def put(self, key: bytes, value: bytes) -> None:
        """Set `key`."""
        if key[:1] == b"m":
            self.members[key[:_PREFIX]][key] = value
        else:
            self.data[key] = value

    def delete(self, key: bytes) -> None:
        """Remove `key`."""
        if key[:1] == b"m":
            self.members[key[:_PREFIX]].pop(key, None)
        else:
            self.data.pop(key, None)

    def scan(self, prefix: bytes, start: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        """Yield (key, value) under a prefix, in order."""
        found = (
            self.members[prefix]
            if len(prefix) == _PREFIX
            else {key: value for key, value in self.data.items() if key.startswith(prefix)}
        )
        return iter(sorted(item for item in found.items() if start is None or item[0] >= start))


class Pipeline:
    """Feeds the stages; `published` has the newest value by topic and key, `count` the records by topic."""

    def __init__(self, settings: DedupeSettings | None = None, pepper: bytes = b"a pepper for benchmarks") -> None:
        """Open the stages over empty state."""
        topics = self.topics = Topics(partitions=1)
        self.handlers: dict[str, Handler] = {}
        self.state: dict[str, FastState] = {}
        self.published: dict[str, dict[bytes, Any]] = defaultdict(dict)
        self.identity: list[tuple[Headers, bytes]] = []
        self.count: Counter[str] = Counter()
        self._queue: deque[tuple[str, bytes, bytes | None, Headers]] = deque()
        for make in stages(settings or DedupeSettings(), topics, Hasher(pepper)):
            handler = make()
            topic = handler.inputs[0].topic
            self.handlers[topic], self.state[topic] = handler, FastState()
            handler.open(self._tx(topic), 0, {topic: 0}, 0)

    def feed(self, key: bytes, value: bytes | None, headers: Headers) -> None:
        """Put a record on `customers.latest` and work until at rest."""
        self._queue.append((self.topics.latest, key, value, headers))
        while self._queue:
            topic, key, value, headers = self._queue.popleft()
            handler = self.handlers.get(topic)
            if handler is None:
                self._publish(topic, key, value, headers)
                continue
            record = Record(topic, 0, self.count[topic], 0, key, value, headers)
            self.count[topic] += 1
            tx = self._tx(topic)
            outcome = handler.on_record(tx, record, 0)
            tx.commit()
            if isinstance(outcome, Dead):
                raise TypeError(outcome.reason)

    def clusters(self) -> dict[str, set[str]]:
        """Return the members by cluster id."""
        found: dict[str, set[str]] = defaultdict(set)
        for key, value in self.published[self.topics.clusters].items():
            if value is not None:
                found[orjson.loads(value)["cluster"]].add(key.decode())
        return dict(found)

    def _tx(self, topic: str) -> "_Tx":
        return _Tx(self.state[topic], self._queue)

    def _publish(self, topic: str, key: bytes, value: bytes | None, headers: Headers) -> None:
        self.count[topic] += 1
        if topic == self.topics.identity:
            self.identity.append((headers, value or b""))
        else:
            self.published[topic][key] = value


class _Tx:
    def __init__(self, state: FastState, queue: deque[tuple[str, bytes, bytes | None, Headers]]) -> None:
        self.get, self.put, self.delete, self.scan = state.get, state.put, state.delete, state.scan
        self._queue = queue
        self._left: list[Callable[[], None]] = []

    def at_end(self, work: Callable[[], None]) -> None:
        self._left.append(work)

    def commit(self) -> None:
        while self._left:
            self._left.pop()()

    def send(
        self,
        topic: str,
        key: bytes,
        value: bytes | None,
        headers: Headers | None = None,
        *,
        partition_key: bytes | None = None,  # ruff: ignore[unused-method-argument] - there is one partition
    ) -> None:
        self._queue.append((topic, key, value, headers or []))

    def call(self, call: object) -> None:
        raise NotImplementedError(call)

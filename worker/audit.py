"""`rollcall audit`: what the upstream has, held against what was published and what is remembered.

It reads the upstream by itself, through the adapter and under the source's own credential, and compares customer by
customer and field by field. The upstream goes on changing meanwhile: what differs is looked at again until it has been
published, or patience is over, and only then is it a finding. No value of a field is shown, only its name.
"""

import asyncio
import contextlib
import hashlib
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import orjson

from worker import changes, inspect, ordering
from worker.changes import Entry
from worker.checkpoint import Checkpoint, tag
from worker.config import Config, Source
from worker.detection import SORTED
from worker.errors import CursorExpiredError, UpstreamUnavailableError, UsageError
from worker.events import header
from worker.handling import decoded
from worker.keys import Keys
from worker.sources import Exists, Missing, Row, Tombstone, normalizer
from worker.times import milliseconds
from worker.upstream import Upstream

Kind = Literal["missed", "differs", "extra", "set aside", "unclear", "state"]
Progress = Callable[[str, int, int], None]  # what is being done, how many are done, of how many

_AGAIN_SECONDS: Final = 2.0
_TRIES: Final = 5
_HASH: Final = 4
_TIMES: Final = frozenset({"created_at", "updated_at"})


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong with one customer; `fields` are those that differ."""

    id: str
    kind: Kind
    fields: tuple[str, ...] = ()


@dataclass
class Report:
    """The outcome. Delays are in seconds, from the upstream's change time to the record on the topic."""

    source: str
    upstream: int = 0
    published: int = 0
    remembered: int = 0
    compared: int = 0
    held: int = 0
    late: int = 0
    delays: list[float] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Return whether nothing differs; absences that are held for a person's approval are allowed to."""
        return not self.findings

    def fields(self) -> dict[str, int]:
        """Return how many customers differ in which field."""
        return dict(Counter(name for finding in self.findings for name in finding.fields).most_common())

    def delay(self, share: float) -> float | None:
        """Return the delay that this share of the changes stayed below; None where none is known."""
        return sorted(self.delays)[min(len(self.delays) - 1, int(share * len(self.delays)))] if self.delays else None

    def as_json(self) -> dict[str, Any]:
        """Return it for machines."""
        kinds = Counter(finding.kind for finding in self.findings)
        delays = {name: self.delay(share) for name, share in (("p50", 0.5), ("p95", 0.95), ("max", 1.0))}
        return {
            "source": self.source,
            "clean": self.clean,
            "customers": {"upstream": self.upstream, "published": self.published, "checkpoint": self.remembered},
            "compared": self.compared,
            "held": self.held,
            "published_late": self.late,
            "delay_seconds": delays if self.delays else None,
            "findings": dict(kinds),
            "fields": self.fields(),
            "customers_with_findings": [
                {"id": one.id, "kind": one.kind, "fields": list(one.fields)} for one in self.findings
            ],
        }


@dataclass(frozen=True, slots=True)
class _Published:
    """What is kept of a record of `customers.latest`: a hash a field, and when it was published."""

    hashes: bytes
    sequence: int
    time: int
    at: int
    first_seen: str
    timed: bool


@dataclass
class _Remembered:
    """What the state says: the living, who is set aside, who is watched or no more, and the checkpoint."""

    live: dict[str, Entry] = field(default_factory=dict)
    aside: set[str] = field(default_factory=set)
    watched: set[str] = field(default_factory=set)
    removed: set[str] = field(default_factory=set)
    checkpoint: Checkpoint | None = None


def _hashes(customer: Mapping[str, Any]) -> bytes:
    parts = changes.rewritten(customer).values()
    return b"".join(hashlib.blake2b(part, digest_size=_HASH).digest() for part in parts)


class Audit:
    """One audit of one source."""

    def __init__(
        self, config: Config, name: str, *, rate: float | None = None, progress: Progress | None = None
    ) -> None:
        """Prepare; `rate` is how many requests a second it may send beside the poller's, by default half of those."""
        ordering.configured(config, name)
        self._config = config
        self._name = name
        source = config.sources[name]
        settings = source.settings.model_copy(update={"rate": rate or source.settings.rate / 2})
        self._source = Source(source.adapter, settings)
        hasher = config.hasher()
        self._normalizer = normalizer(source.adapter, settings, hasher)
        self._fingerprint = hasher.fingerprints(tag(source.adapter, settings).encode())
        self._upstream = Upstream(name, source.adapter, settings)
        self._progress = progress or (lambda *_: None)
        self._known = _Remembered()
        self._report = Report(name)

    async def run(self, *, sample: int | None = None, patience: float = 60.0) -> Report:
        """Audit everybody, or a random `sample`; look again for up to `patience` seconds at what differs.

        Raises UsageError, UpstreamError, KafkaUnavailableError.
        """
        try:
            published, self._known = await self._published(), await self._remembered()
            if self._source.adapter.feeds() and sample is None:
                suspects = await self._everybody(published)
            else:
                suspects = await self._some(published, sample)
            await self._settle(suspects, patience)
        finally:
            await self._upstream.close()
        return self._report

    # Reading

    async def _published(self) -> dict[str, _Published]:
        found: dict[str, _Published] = {}
        prefix = f"{self._name}/"
        async for record in inspect.read_all(self._config, self._config.topics.latest):
            key = (record.key or b"").decode()
            if not key.startswith(prefix):
                continue
            id_ = key[len(prefix) :]
            if record.value is None:
                found.pop(id_, None)
                continue
            customer = decoded(record)
            found[id_] = _Published(
                _hashes(customer),
                int(header(record.headers, "ce_sequence") or 0),
                milliseconds(header(record.headers, "ce_time")) or 0,
                record.timestamp,
                customer["first_seen"],
                customer["updated_at"] is not None,
            )
        return found

    async def _remembered(self) -> _Remembered:
        """Read the state of the source's poll task, as it is in Kafka."""
        keys = Keys(self._name)
        entries, aside, listed = keys.entries, keys.aside, keys.listed
        found = _Remembered()
        async for record in ordering.state_of(self._config, self._name):
            key, value = record.key, record.value
            if key.startswith(entries):
                entry = None if value is None else Entry.unpack(value)
                id_ = key[len(entries) :].decode()
                if entry is not None and entry.live:
                    found.live[id_] = entry
                else:
                    found.live.pop(id_, None)
            elif key.startswith(aside):
                (found.aside.discard if value is None else found.aside.add)(key[len(aside) :].decode(errors="replace"))
            elif key.startswith(listed):
                id_ = key[len(listed) :].decode()
                (found.watched.add if value == b"+" else found.watched.discard)(id_)
                (found.removed.add if value == b"-" else found.removed.discard)(id_)
            elif key == keys.checkpoint and value is not None:
                found.checkpoint = Checkpoint.unpack(value)
        return found

    async def _rows(self, total: int) -> AsyncIterator[Row | Tombstone]:
        """Yield what the first feed shows from its start to its end: that is everybody."""
        adapter, feed = self._source.adapter, self._source.adapter.feeds()[0].name
        cursor, more, count = None, True, 0
        while more:
            await self._upstream.prepare()
            moment = self._upstream.moment()
            request = adapter.request(feed, cursor, moment)
            if request is None:
                return
            page = adapter.read(feed, cursor, moment, await self._patiently(request))
            for item in page.items:
                if isinstance(item, Row | Tombstone):
                    yield item
            count += len(page.items)
            self._progress("reading the upstream", count, max(total, count))
            cursor, more = page.cursor, page.more

    async def _patiently(self, request: Any) -> Any:
        for attempt in range(1, _TRIES + 1):
            try:
                return await self._upstream.ask(request)
            except UpstreamUnavailableError as error:
                if attempt == _TRIES:
                    raise
                await asyncio.sleep(max(error.retry_after or 0.0, 0.5 * 2**attempt))
        raise AssertionError  # not reached

    # Comparing

    def _compare(self, row: Row, published: _Published | None) -> Finding | None:
        if published is None:
            return Finding(row.id, "missed")
        hashes = _hashes(self._source.adapter.normalize(row, self._normalizer))
        names = changes.differing(published.hashes, hashes)
        if not names or (_TIMES.issuperset(names) and self._is_known(row)):  # times that move alone bring no event
            return None
        return Finding(row.id, "differs", tuple(names))

    def _is_known(self, row: Row) -> bool:
        """Return whether the record is, in its essence, the one that was entered last (`Adapter.essence`)."""
        entry, essence = self._known.live.get(row.id), self._source.adapter.essence(row)
        return entry is not None and self._fingerprint(orjson.dumps(essence, option=SORTED)) == entry.fingerprint

    async def _everybody(self, published: Mapping[str, _Published]) -> dict[str, Finding]:
        """Compare all; begin anew where the upstream has forgotten how far it was read, as a poller does."""
        for _ in range(_TRIES - 1):
            with contextlib.suppress(CursorExpiredError):
                return await self._all(published)
        return await self._all(published)

    async def _all(self, published: Mapping[str, _Published]) -> dict[str, Finding]:
        suspects: dict[str, Finding] = {}
        seen: set[str] = set()
        async for item in self._rows(len(published)):
            suspects.pop(item.id, None)
            if isinstance(item, Tombstone):
                seen.discard(item.id)
                continue
            seen.add(item.id)
            finding = self._compare(item, published.get(item.id))
            if finding is not None:
                suspects[item.id] = finding
        suspects |= {id_: Finding(id_, "extra") for id_ in published.keys() - seen}
        self._report.upstream, self._report.compared = len(seen), len(seen)
        return suspects

    async def _some(self, published: Mapping[str, _Published], sample: int | None) -> dict[str, Finding]:
        """Look customers up one by one: a sample of those published, or all of a watch list.

        One that was removed from that stays published as it was then, and is left out.
        """
        ids = sorted((published.keys() | self._known.watched) - self._known.removed)
        if sample is not None and sample < len(ids):
            ids = random.sample(ids, sample)
        if ids and not self._upstream.looks_up(ids[0]):
            raise UsageError(f"{self._name} has no look-up by id", hint="Audit all of it, without --sample.")
        suspects, found = {}, 0
        for count, id_ in enumerate(ids, 1):
            finding, there = await self._look(id_, published.get(id_))
            found += there
            if finding is not None:
                suspects[id_] = finding
            self._progress("looking up", count, len(ids))
        self._report.upstream, self._report.compared = found, len(ids)
        return suspects

    async def _look(self, id_: str, published: _Published | None) -> tuple[Finding | None, bool]:
        """Compare by a look-up; return what was found, and whether the upstream has the customer."""
        await self._upstream.prepare()
        request = self._source.adapter.lookup(id_)
        if request is None:
            return Finding(id_, "unclear"), False
        match self._source.adapter.read_lookup(id_, await self._patiently(request)):
            case Exists(row):
                return self._compare(row, published), True
            case Missing():
                return (Finding(id_, "extra") if published is not None else None), False
            case _:
                return Finding(id_, "unclear"), False

    async def _settle(self, suspects: dict[str, Finding], patience: float) -> None:
        """Look at suspects again until they are as published, or patience is over; what is left are findings."""
        report, deadline, first = self._report, time.monotonic() + patience, len(suspects)
        while True:
            published, self._known = await self._published(), await self._remembered()
            suspects = await self._again(suspects, published)
            strange = _strange(published, self._known.live)
            if not (suspects or strange) or time.monotonic() > deadline:
                break
            self._progress("looking again at what differs", first - len(suspects), first)
            await asyncio.sleep(_AGAIN_SECONDS)
        report.published, report.remembered = len(published), len(self._known.live)
        report.late = first - len(suspects)
        report.delays = _delays(published)
        self._find(suspects, strange)

    async def _again(self, suspects: Mapping[str, Finding], published: Mapping[str, _Published]) -> dict[str, Finding]:
        if suspects and not self._upstream.looks_up(next(iter(suspects))):
            return await self._everybody(published)
        found = {}
        for id_ in suspects:
            finding, _ = await self._look(id_, published.get(id_))
            if finding is not None:
                found[id_] = finding
        return found

    def _find(self, suspects: Mapping[str, Finding], strange: Sequence[Finding]) -> None:
        """Sort what is left into findings and what is withheld on purpose."""
        report, checkpoint = self._report, self._known.checkpoint
        waiting = 0
        if checkpoint is not None:
            waiting = (checkpoint.held or {}).get("missing", 0) + (checkpoint.unobserved or {}).get("customers", 0)
        extra = [finding for finding in suspects.values() if finding.kind == "extra"]
        if len(extra) <= waiting:
            report.held, extra = len(extra), []
        rest = [finding for finding in suspects.values() if finding.kind != "extra"]
        report.findings = [
            Finding(one.id, "set aside", one.fields) if one.id in self._known.aside else one
            for one in sorted([*rest, *extra, *strange], key=lambda finding: finding.id)
        ]


def _strange(published: Mapping[str, _Published], live: Mapping[str, Entry]) -> list[Finding]:
    """Return where what was published and what is remembered are not of one mind."""
    ids = published.keys() ^ live.keys()
    ids |= {id_ for id_, one in published.items() if id_ in live and live[id_].sequence != one.sequence}
    return [Finding(id_, "state") for id_ in sorted(ids)]


def _delays(published: Mapping[str, _Published]) -> list[float]:
    """Return how long changes took that happened upstream after the source was first read."""
    began = min((milliseconds(one.first_seen) or 0 for one in published.values()), default=0)
    return [(one.at - one.time) / 1000 for one in published.values() if one.timed and one.time > began]

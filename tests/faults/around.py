"""More of what a run has to leave behind: whole headers, a lineage without holes, and nothing half done in Kafka.

The design's own words for each check are in its docstring. As in `checking`, nothing of the product takes part but its
formats.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import lmdb
import orjson
from aiokafka import TopicPartition

from tests.faults.checking import ENVELOPE, LINEAGE, OFFSETS, OPEN, STORES, TABLE, Verdict, sequence, table
from tests.faults.reading import Log, Read

_NOT_DESCRIBING: Final = {"source", "id", "first_seen"}
_POSITION: Final = "\x00p/"


def partition_of(key: bytes, partitions: int) -> int:
    """Return the partition of a key as Kafka's own DefaultPartitioner finds it (Utils.murmur2, toPositive)."""
    mask, m = 0xFFFFFFFF, 0x5BD1E995
    value = (0x9747B28C ^ len(key)) & mask
    whole = len(key) // 4 * 4
    for at in range(0, whole, 4):
        k = int.from_bytes(key[at : at + 4], "little") * m & mask
        k = (k ^ (k >> 24)) * m & mask
        value = (value * m & mask) ^ k
    if rest := key[whole:]:
        value = (value ^ int.from_bytes(rest, "little")) * m & mask
    value = (value ^ (value >> 13)) * m & mask
    return ((value ^ (value >> 15)) & 0x7FFFFFFF) % partitions


def check_places(verdict: Verdict, log: Log, topics: Iterable[str], partitions: int) -> None:
    """Every record of a public topic lies where Java and KafkaJS look for its key: murmur2."""
    for where, records in log.items():
        if where.topic in topics:
            for key in {record.key for record in records}:
                if partition_of(key.encode(), partitions) != where.partition:
                    verdict.say(ENVELOPE, f"{where.topic}: {key} lies in partition {where.partition}")


def check_envelopes(verdict: Verdict, events: Mapping[str, list[Read]], latest: Mapping[str, list[Read]]) -> None:
    """Each event says truly what it is, and `latest` has the same headers."""
    ids = Counter(record.headers["ce_id"] for records in events.values() for record in records)
    for twice in [one for one, count in ids.items() if count > 1]:
        verdict.say(ENVELOPE, f"the id {twice} is that of {ids[twice]} events")
    for key, records in events.items():
        before: dict[str, Any] | None = None
        for record in records:
            before = _check_event(verdict, key, record, before)
        wanted = [dict(record.headers) for record in records]
        if wanted != [dict(record.headers) for record in latest.get(key, [])]:
            verdict.say(ENVELOPE, f"{key}: the headers in latest are others")


def _check_event(verdict: Verdict, key: str, record: Read, before: dict[str, Any] | None) -> dict[str, Any] | None:
    """Check an event against the customer of the one before; return its own."""
    data = orjson.loads(record.value or b"{}")
    customer: dict[str, Any] | None = data["customer"]
    what = f"{key}, version {sequence(record)}"
    kind = "deleted" if customer is None else "created" if before is None else "updated"
    wanted = {
        "ce_specversion": "1.0",
        "ce_subject": key,
        "ce_type": f"customer.{kind}",
        "content-type": "application/json",
    }
    if any(record.headers.get(name) != value for name, value in wanted.items()):
        verdict.say(ENVELOPE, f"{what}: {record.headers.get('ce_type')} of {record.headers.get('ce_subject')}")
    if f"{data['source']}/{data['id']}" != key:
        verdict.say(ENVELOPE, f"{what}: its data is of another customer")
    if (customer is None) != (record.headers.get("ce_reason") in {"absent", "gone", "tombstone"}):
        verdict.say(ENVELOPE, f"{what}: its reason is {record.headers.get('ce_reason')}")
    if customer is not None and before is not None:
        names = customer.keys() - _NOT_DESCRIBING
        changed = {name for name in names if customer[name] != before[name]}
        if changed != set(data["changed"]):
            verdict.say(ENVELOPE, f"{what}: it says that {data['changed']} changed, and that is {sorted(changed)}")
        if customer["first_seen"] != before["first_seen"]:
            verdict.say(ENVELOPE, f"{what}: it was first seen at another time")
    return customer


def check_lineage(verdict: Verdict, identity: Iterable[Read], clusters: Mapping[str, Any]) -> None:
    """No cluster's id comes, goes or changes its winner without an identity event that says so."""
    winners: set[tuple[str | None, str | None]] = set()
    ended: set[str] = set()
    ids: Counter[str] = Counter()
    for record in identity:
        ids[record.headers["ce_id"]] += 1
        event, kind = orjson.loads(record.value or b"{}"), record.headers["ce_type"]
        if kind == "customer.split":
            ended.add(event["cluster"])
            winners |= {(part["cluster"], part["winner"]) for part in event["parts"]}
        elif kind != "customer.review":
            winners.add((event["cluster"], event["winner"]))
            ended |= set(event.get("absorbed", []))
    for twice in [one for one, count in ids.items() if count > 1]:
        verdict.say(LINEAGE, f"the id {twice} is that of {ids[twice]} identity events")
    shown = {(membership["cluster"], membership["winner"]) for membership in clusters.values()}
    for cluster, winner in shown - winners:
        verdict.say(LINEAGE, f"the cluster {cluster} with the winner {winner} was never announced")
    for cluster in {one for one, _ in winners if one is not None} - {one for one, _ in shown} - ended:
        verdict.say(LINEAGE, f"the cluster {cluster} is no more, and nothing says so")
    sizes = Counter(membership["cluster"] for membership in clusters.values())
    for name, membership in clusters.items():
        if sizes[membership["cluster"]] != membership["size"]:
            verdict.say(LINEAGE, f"{name}: its cluster has {sizes[membership['cluster']]}, not {membership['size']}")


def check_ledger(verdict: Verdict, deletions: Iterable[Read], receipts: Iterable[Read]) -> None:
    """`deletions` holds the newest deletion of each customer, in the state that its receipt names."""
    shown = table(deletions)
    outcomes = {}
    customers: set[str] = set()
    for record in receipts:
        receipt = orjson.loads(record.value or b"{}")
        outcomes[receipt["request"]] = receipt["outcome"]
        if receipt["customer"]:
            customers.add(f"{receipt['target']}/{receipt['customer']}")
    for key, entry in shown.items():
        outcome = outcomes.get(entry["request"]["id"])
        if outcome != entry["state"]:
            verdict.say(TABLE, f"{key}: {entry['state']}, and its receipt says {outcome}")
    for key in customers - shown.keys():
        verdict.say(TABLE, f"{key} has a receipt and is not there")


def check_closed(verdict: Verdict, stable: Mapping[TopicPartition, int], ends: Mapping[TopicPartition, int]) -> None:
    """No transaction is left open: a `read_committed` reader comes as far as any other did a moment before (`ends`)."""
    for where, end in ends.items():
        if stable[where] < end:
            verdict.say(OPEN, f"{where.topic}/{where.partition}: {stable[where]} of {end} can be read")


def check_offsets(verdict: Verdict, log: Log, state: str, primary: str, group: Mapping[TopicPartition, int]) -> None:
    """A stage's offsets in its group are the positions in its state: they were committed together."""
    for where, records in log.items():
        if where.topic == state:
            key = _POSITION + primary
            position = next((int(one.value) for one in reversed(records) if one.key == key and one.value), 0)
            committed = group.get(TopicPartition(primary, where.partition), 0)
            if position != committed:
                verdict.say(OFFSETS, f"{state}/{where.partition}: position {position}, in the group {committed}")


def check_store(verdict: Verdict, folder: Path, records: Iterable[Read]) -> None:
    """A local store that was closed holds what its changelog says, up to the offset that it names."""
    env = lmdb.open(str(folder), max_dbs=3, readonly=True, lock=False)
    try:
        data, info = (env.open_db(name, create=False) for name in (b"data", b"info"))
        with env.begin() as txn:
            offset = int(orjson.loads(txn.get(b"meta", db=info))["offset"])
            found = {bytes(key).decode(errors="surrogateescape"): bytes(value) for key, value in txn.cursor(data)}
    finally:
        env.close()
    wanted = {record.key: record.value for record in records if record.offset < offset}
    wanted = {key: value for key, value in wanted.items() if value is not None}
    for key in found.keys() | wanted.keys():
        if found.get(key) != wanted.get(key):
            verdict.say(STORES, f"{'/'.join(folder.parts[-2:])} at {offset}: {key[:40]!r} differs")

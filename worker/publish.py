"""Writes a customer's change to the topics: the event and the newest customer, or neither.

Pure but for the transaction that it writes to.
"""

from collections.abc import Mapping
from typing import Final, Protocol

import orjson

from worker.changes import Change
from worker.events import FIELDS, Headers, event_headers, split_key
from worker.handling import Tx
from worker.times import rfc3339
from worker.topics import Topics


class SizedTx(Tx, Protocol):
    """A transaction that can tell what would be too large, before it is written."""

    def check_size(self, topic: str, key: bytes, value: bytes | None, headers: Headers | None) -> None:
        """Raise RecordTooLargeError if the record cannot be sent."""

    def partition(self, key: bytes) -> int:
        """Return the partition of a key."""

    def send_to(self, topic: str, partition: int, key: bytes, value: bytes | None, headers: Headers | None) -> None:
        """Publish a record, already checked, to a partition."""


def publish(
    tx: SizedTx,
    topics: Topics,
    key: bytes,
    change: Change,
    parts: Mapping[str, bytes],
    *,
    updated: int | None,
    live: int | None,
    now: int,
) -> None:
    """Send the event and the newest customer; raises RecordTooLargeError, having sent neither.

    `parts` are the customer's fields as JSON, which were written for hashing already (none on a deletion); `updated` is
    the upstream's own time of the change, `live` the number of customers that the source has left (on a deletion).
    """
    source, customer_id = split_key(key)
    headers = event_headers(
        key=key,
        source=source,
        type_=change.type,
        sequence=change.sequence,
        time=rfc3339(now if updated is None else updated),
        reason=change.reason,
    )
    who = b'"source":%s,"id":%s' % (orjson.dumps(source), orjson.dumps(customer_id))
    first_seen = rfc3339(change.first_seen).encode()
    customer = _CUSTOMER % (who, first_seen, *parts.values()) if parts else None
    data = _EVENT % (
        who,
        customer or b"null",
        orjson.dumps(change.changed),
        first_seen,
        rfc3339(now).encode(),
        b"null" if change.reason is None else orjson.dumps(change.reason),
        b"null" if live is None else b"%d" % live,
    )
    tx.check_size(topics.events, key, data, headers)  # the larger one of the two
    if live is not None:
        headers.append(("ce_live", b"%d" % live))
    partition = tx.partition(key)
    tx.send_to(topics.events, partition, key, data, headers)
    tx.send_to(topics.latest, partition, key, customer, headers)


_EVENT: Final = b'{%s,"customer":%s,"changed":%s,"first_seen":"%s","detected_at":"%s","reason":%s,"live":%s}'
# Of the parts in the order of FIELDS, in which `changes.rewritten` gives them.
_CUSTOMER: Final = b'{%%s,"first_seen":"%%s",%s}' % b",".join(b'"%s":%%s' % name.encode() for name in FIELDS)

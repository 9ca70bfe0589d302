"""Writes a customer's change to the topics: the event and the newest customer, or neither.

Pure but for the transaction that it writes to.
"""

from typing import Final, Protocol

import orjson

from worker.changes import Change, rfc3339
from worker.events import FIELDS, Customer, Headers, event_headers, split_key
from worker.handling import Tx
from worker.topics import Topics


class SizedTx(Tx, Protocol):
    """A transaction that can tell what would be too large, before it is written."""

    def check_size(self, topic: str, key: bytes, value: bytes | None, headers: Headers | None) -> None:
        """Raise RecordTooLargeError if the record cannot be sent."""


def publish(
    tx: SizedTx,
    topics: Topics,
    key: bytes,
    change: Change,
    parts: dict[str, bytes],
    *,
    updated: int | None,
    live: int | None,
    now: int,
) -> None:
    """Send the event and the newest customer; raises RecordTooLargeError, having sent neither.

    `parts` are the customer's fields as JSON, `updated` is the upstream's own time of the change, `live` the number of
    customers that the source has left (on a deletion).
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
    customer = None if change.customer is None else _customer_json(change.customer, parts)
    data = (
        b'{"source":%s,"id":%s,"customer":%s,"changed":%s,"first_seen":"%s","detected_at":"%s","reason":%s,"live":%s}'
        % (
            orjson.dumps(source),
            orjson.dumps(customer_id),
            customer or b"null",
            orjson.dumps(change.changed),
            rfc3339(change.first_seen).encode(),
            rfc3339(now).encode(),
            orjson.dumps(change.reason),
            orjson.dumps(live),
        )
    )
    tx.check_size(topics.events, key, data, headers)  # the larger one of the two
    if live is not None:
        headers.append(("ce_live", b"%d" % live))
    tx.send(topics.events, key, data, headers)
    tx.send(topics.latest, key, customer, headers)


def _customer_json(customer: Customer, parts: dict[str, bytes]) -> bytes:
    """Put a customer's JSON together of its fields, which were written for hashing already."""
    head = orjson.dumps({"source": customer["source"], "id": customer["id"], "first_seen": customer["first_seen"]})
    return _CUSTOMER % (head[:-1], *parts.values())


# Of the parts in the order of FIELDS, in which `changes.rewritten` gives them.
_CUSTOMER: Final = b"%%s,%s}" % b",".join(b'"%s":%%s' % name.encode() for name in FIELDS)

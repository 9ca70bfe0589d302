"""Invariant 7: every deletion that was carried from the crm to the shop, held against what was true at that moment.

The witnesses are the committed events, the receipts, and the shop's own list of look-ups and DELETEs.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import orjson

from tests.faults.checking import DELETES, Verdict, sequence
from tests.faults.reading import Read
from tests.faults.upstreams import CRM, SHOP, Delete, Shop, World, Write

# A return that was committed so shortly before the DELETE was sent is not known to whoever sent it: the word that the
# request is still wanted is 5 s old at most when the look-up is sent, and the look-up takes 5 s at most.
UNAWARE: Final = 10.0


@dataclass(frozen=True)
class Asked:
    """A published deletion in the crm, which asks for one in the shop."""

    origin: str
    sequence: int
    customer: str
    back: float | None
    """When a later event showed that the crm's customer is back (seconds since the epoch)."""


def asked(events: Mapping[str, list[Read]]) -> dict[tuple[str, int], Asked]:
    """Return what the crm's published deletions ask for, by origin and version."""
    found = {}
    for key, records in events.items():
        if not key.startswith(f"{CRM}/"):
            continue
        customer = ""
        for place, record in enumerate(records):
            data = orjson.loads(record.value or b"{}")["customer"]
            if data is not None:
                customer = next(ref["id"] for ref in data["references"] if ref["type"] == "customerId")
            elif place:
                back = records[place + 1].timestamp / 1000 if place + 1 < len(records) else None
                found[key, sequence(record)] = Asked(key, sequence(record), customer, back)
    return found


def check_deletions(verdict: Verdict, world: World, events: Mapping[str, list[Read]], receipts: Iterable[Read]) -> None:
    """Check receipts against what was asked for, and every DELETE against what was known."""
    wanted, shop = asked(events), world.shop
    writes = world.upstreams[SHOP].writes
    by_customer: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    answered: Counter[tuple[str, int]] = Counter()
    for record in receipts:
        receipt = orjson.loads(record.value or b"{}")
        answered[receipt["origin"], receipt["sequence"]] += 1
        by_customer[receipt["customer"]].append(receipt)
        _check_receipt(verdict, receipt, wanted, writes.get(receipt["customer"], []), shop)
    for ask in wanted:
        if answered[ask] != 1:
            verdict.say(DELETES, f"{ask[0]}, version {ask[1]}: {answered[ask]} receipts")
    for delete in shop.deletes:
        _check_delete(verdict, delete, by_customer[delete.customer], wanted, world)
    verdict.receipts, verdict.deletes = sum(answered.values()), len(shop.deletes)


def _check_receipt(
    verdict: Verdict,
    receipt: Mapping[str, Any],
    wanted: Mapping[tuple[str, int], Asked],
    writes: list[Write],
    shop: Shop,
) -> None:
    customer, outcome = receipt["customer"], receipt["outcome"]
    what = f"{receipt['origin']} for {customer}: {outcome} ({receipt['reason']})"
    ask = wanted.get((receipt["origin"], receipt["sequence"]))
    if ask is None or ask.customer != customer:
        verdict.say(DELETES, f"{what}: nobody has asked for it")
        return
    ended = _seconds(receipt["ended_at"])
    deleted = any(delete.customer == customer and delete.found for delete in shop.deletes)
    changed = any(write.facts is not None and write.at * 1000 > as_of(receipt) - _skew() for write in writes)
    # Whether a call that nobody got an answer to has done it cannot be told from one that came too late.
    unknown = any(attempt["status"] is None for attempt in receipt["attempts"])
    gone = not writes or any(write.facts is None and write.at < ended + _skew() / 1000 for write in writes)
    grounds = {
        "VERIFIED": deleted or (unknown and gone),
        "ALREADY_ABSENT": gone,
        "SUPERSEDED": ask.back is not None or changed,
        "BLOCKED": not customer.isdigit(),
    }
    if not grounds.get(outcome):
        verdict.say(DELETES, f"{what}: without grounds")


def _check_delete(
    verdict: Verdict,
    delete: Delete,
    receipts: Iterable[Mapping[str, Any]],
    wanted: Mapping[tuple[str, int], Asked],
    world: World,
) -> None:
    what = f"DELETE of {delete.customer}"
    looks = [
        at
        for at, customer, status in world.shop.looks
        if customer == delete.customer and status == 200 and at < delete.at
    ]
    covering = [receipt for receipt in receipts if _seconds(receipt["requested_at"]) - _skew() / 1000 <= delete.at]
    if not covering:
        verdict.say(DELETES, f"{what}: no receipt speaks of it")
        return
    receipt = covering[-1]
    ask = wanted.get((receipt["origin"], receipt["sequence"]))
    if not looks:
        verdict.say(DELETES, f"{what}: it was not looked up before")
        return
    if ask is not None and ask.back is not None and ask.back < delete.at - UNAWARE:
        verdict.say(DELETES, f"{what}: {ask.origin} had been back for {delete.at - ask.back:.1f} s")
    changes = [write.at for write in world.upstreams[SHOP].writes[delete.customer] if write.facts is not None]
    late = [at for at in changes if as_of(receipt) + _skew() < at * 1000 and at < looks[-1]]
    if late:
        verdict.say(DELETES, f"{what}: it had changed {delete.at - late[-1]:.1f} s before, and the look-up showed it")
    others = [one for one in world.shop.deletes if one.customer == delete.customer and looks[-1] < one.at < delete.at]
    if any(one.found for one in others):
        verdict.say(DELETES, f"{what}: twice after one look-up")


def as_of(receipt: Mapping[str, Any]) -> float:
    """Return the time (ms since the epoch) after which a change calls the deletion off."""
    return float(receipt["evidence"]["published"])


def _skew() -> float:
    """Return by how much two clocks of a run may differ, in ms."""
    return 1000.0


def _seconds(time: str) -> float:
    return datetime.fromisoformat(time).timestamp()

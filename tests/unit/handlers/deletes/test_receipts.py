"""Receipts and the ledger: what is published of a deletion, as CloudEvents that others can read."""

from typing import Any

import orjson
import pytest
from cloudevents.core.bindings import kafka

from handlers.deletes.machine import State
from handlers.deletes.model import LATER, Deletion, Request, encode
from handlers.deletes.receipts import ledger, ledger_key, receipt

NOW = 1_700_000_000_000


def request(**more: Any) -> Request:
    """Return a request."""
    given: Any = {
        "id": "r-1",
        "target": "crm",
        "customer": "7",
        "source": "shop",
        "origin": "a",
        "sequence": 3,
        "as_of": NOW,
        "authority": "gone",
        "route": "shop>crm:same_id",
        "approval": False,
        "dry_run": False,
        "not_before": NOW,
        "live": 10,
        "held": None,
        "seen_live": None,
        "winner": None,
        "cluster": None,
        "cluster_at": None,
        "evidence": {"reason": "gone"},
        "asked_at": NOW,
        "retry_of": None,
    }
    made: Request = given | more
    return made


def deletion(state: State, **more: Any) -> Deletion:
    """Return a deletion with one attempt."""
    made = Deletion(request(), state, 1, NOW, **more)
    made.attempts.append({"at": NOW, "status": 200, "error": None})
    return made


def test_a_receipt_is_a_cloud_event_that_other_implementations_read() -> None:
    """The CNCF's own SDK; its id is the request's, so that the same receipt is the same event."""
    key, value, headers = receipt(deletion(State.VERIFIED, verified=NOW), NOW + 5)
    event = kafka.from_binary_event(kafka.KafkaMessage(dict(headers), key, value))
    assert (event.get_id(), event.get_type(), event.get_subject()) == ("r-1", "customer.deletion.receipt", "crm/7")
    data = orjson.loads(value)
    assert event.get_data() == data
    assert data["outcome"] == "VERIFIED"
    assert data["attempts"] == [{"at": "2023-11-14T22:13:20.000Z", "status": 200, "error": None}]
    assert data["verification"] == {"how": "look-up", "at": "2023-11-14T22:13:20.000Z"}
    assert data["ended_at"] == "2023-11-14T22:13:20.005Z"


@pytest.mark.parametrize(
    ("state", "verification"),
    [(State.DELETED, {"how": "the target's answer", "at": None}), (State.BLOCKED, None), (State.REJECTED, None)],
)
def test_a_receipt_says_how_it_is_known(state: State, verification: Any) -> None:
    """A look-up, the target's word, or not at all."""
    assert orjson.loads(receipt(deletion(state), NOW)[1])["verification"] == verification


def test_the_ledgers_key_is_target_and_customer() -> None:
    """The origin stands in where nobody knows the customer's id."""
    assert ledger_key(request()) == b"crm/7"
    assert ledger_key(request(customer=None)) == b"crm/shop/a"


def test_the_ledger_has_everything_that_a_retry_needs() -> None:
    """The whole request, also when its origin is long gone."""
    entry = ledger(deletion(State.BLOCKED), undo="copy")
    assert entry["request"] == request()
    assert (entry["state"], entry["undo"]) == ("BLOCKED", "copy")


def test_a_deletion_is_kept_as_it_is() -> None:
    """What is written is read back; what a program of before does not know stands apart."""
    made = deletion(State.COOLING, place=("q", 5), history=[(1, "gather", "GATHERING")], stays=True)
    assert not LATER.keys() & orjson.loads(encode(made)[0]).keys()
    read = Deletion.decode(*encode(made))
    assert encode(read) == encode(made)
    assert (read.state, read.place, read.stays) == (State.COOLING, ("q", 5), True)

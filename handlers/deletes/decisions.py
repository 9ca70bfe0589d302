"""What a person decides about deletions, as records on the approvals topic, and what they are told in return.

Who may decide is the topic's ACL; `who` in a record is what the caller claims and is kept with what it decided. Every
decision has an id of its own and is answered once, on the status topic under `command/<id>`: done, or refused and why.
A decision that arrives a second time is not carried out again.
"""

from typing import Any, Final, Literal, TypedDict, get_args

import orjson

from worker import answers
from worker.errors import RecordError
from worker.events import split_key
from worker.handling import Record, Tx

What = Literal["approve", "reject", "retry", "erase"]
_WHATS: Final = frozenset(get_args(What))
Outcome = Literal["done", "refused"]


class Decision(TypedDict):
    """One decision. Of plan, request, target and customer, exactly the one that is decided on is set.

    approve, reject   a plan (with the hash of what was seen) or one request
    retry             one request that is blocked or has failed, or a whole target that is paused
    erase             one customer (`<source>/<customer id>`), in the version that was seen
    """

    id: str
    what: What
    who: str
    at: int  # milliseconds since the epoch, by the caller's clock
    plan: str | None
    hash: str | None
    request: str | None
    target: str | None
    customer: str | None
    sequence: int | None


def decision(
    id_: str,
    what: What,
    *,
    who: str,
    at: int,
    plan: str | None = None,
    hash_: str | None = None,
    request: str | None = None,
    target: str | None = None,
    customer: str | None = None,
    sequence: int | None = None,
) -> Decision:
    """Return a decision; `target` is the addressee of all but an erase, `at` in milliseconds since the epoch."""
    return {
        "id": id_,
        "what": what,
        "who": who,
        "at": at,
        "plan": plan,
        "hash": hash_,
        "request": request,
        "target": target,
        "customer": customer,
        "sequence": sequence,
    }


def record_of(given: Decision) -> tuple[bytes, bytes]:
    """Return key and value of the record on the approvals topic; the key leads to whoever carries it out."""
    addressee = given["customer"] if given["what"] == "erase" else given["target"]
    if not addressee:
        message = f"a decision to {given['what']} names the {'customer' if given['what'] == 'erase' else 'target'}"
        raise ValueError(message)
    return addressee.encode(), orjson.dumps(given)


def read_decision(record: Record) -> Decision:
    """Return the decision in a record; raises RecordError where it is none."""
    try:
        value: dict[str, Any] = orjson.loads(record.value or b"")
        given = decision(
            str(value["id"]),
            value["what"],
            who=str(value["who"]),
            at=int(value["at"]),
            plan=value.get("plan"),
            hash_=value.get("hash"),
            request=value.get("request"),
            target=value.get("target"),
            customer=value.get("customer"),
            sequence=value.get("sequence"),
        )
        complete = given["what"] in _WHATS and given["id"] and record_of(given)[0] == record.key
        if given["what"] == "erase":
            split_key((given["customer"] or "").encode())
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise RecordError("a record of the approvals topic is no decision") from error
    if not complete:
        raise RecordError("a decision is incomplete, or is not in the partition of its addressee")
    return given


def answer(tx: Tx, topic: str, given: Decision, outcome: Outcome, text: str, now: int) -> None:
    """Say on the status topic what became of a decision; `text` is a sentence for the person."""
    tx.send(topic, *answers.answer(given, outcome, text, now))

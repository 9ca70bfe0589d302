"""What an operator sees and decides: pure functions over the contents of topics, for the command line to print.

Every one takes records as they are read (old and new ones of a key, or only the newest) and works on the newest. What
is to be done comes back as decisions, to be written to the approvals topic; nothing here does anything itself.
"""

import base64
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, Literal, TypedDict

import orjson

from handlers.deletes.decisions import Decision, decision
from handlers.deletes.receipts import ledger_key
from handlers.deletes.settings import DeletesSettings
from handlers.deletes.undo import Undo
from worker.errors import UsageError
from worker.events import header, split_key
from worker.handling import Record, decoded


class Row(TypedDict):
    """A deletion in a list."""

    request: str
    target: str
    customer: str
    state: str
    since: str
    authority: str
    origin: str
    plan_or_reason: str | None


def newest(records: Iterable[Record]) -> dict[str, Any]:
    """Return the newest value of each key, decoded, as compaction would leave it."""
    found: dict[str, Any] = {}
    for record in records:
        key = (record.key or b"").decode()
        if record.value is None:
            found.pop(key, None)
        else:
            found[key] = decoded(record)
    return found


def listing(
    deletions: Iterable[Record],
    *,
    state: str | None = None,
    target: str | None = None,
    source: str | None = None,
    plans: Iterable[Mapping[str, Any]] = (),
) -> list[Row]:
    """Return the newest deletion of each customer, the latest first, only those asked for.

    `plans` that are held are named as a person decides on them.
    """
    names = {plan["plan"]: handle(plan) for plan in plans}
    rows = [_row(entry, names) for entry in newest(deletions).values()]
    kept = [
        row
        for row in rows
        if state in {None, row["state"]}
        and target in {None, row["target"]}
        and source in {None, row["origin"].partition("/")[0]}
    ]
    return sorted(kept, key=itemgetter("since", "request"), reverse=True)


def plans(status: Iterable[Record]) -> list[dict[str, Any]]:
    """Return the plans on the status topic that wait for a person, the oldest first."""
    found = [value for key, value in newest(status).items() if key.startswith("plan/")]
    return sorted((plan for plan in found if plan["state"] == "held"), key=itemgetter("held_at"))


def show(
    deletions: Iterable[Record], receipts: Iterable[Record], name: str, undo: Undo | None = None
) -> dict[str, Any]:
    """Return everything that is known of a deletion, by its request's id or by `<target>/<customer id>`.

    With `undo`, the content of the undo copy is under `copy` (as JSON where it is JSON, else base64). Raises UsageError
    where there is no such deletion, or the copy cannot be opened.
    """
    key, entry = _find(newest(deletions), name)
    id_ = name if entry is None else entry["request"]["id"]
    receipt = next((decoded(record) for record in receipts if record.key == id_.encode()), None)
    if entry is None and receipt is None:
        raise UsageError(f"there is no deletion {name!r}", hint="`rollcall deletions list` shows what there is.")
    shown: dict[str, Any] = {"deletion": entry, "receipt": receipt}
    if entry is not None and undo is not None and entry["undo"] is not None:
        content = undo.decrypt(entry.get("undo_of") or entry["request"]["id"], key, entry["undo"])
        try:
            shown["copy"] = orjson.loads(content)
        except orjson.JSONDecodeError:
            shown["copy"] = base64.b64encode(content).decode()
    return shown


@dataclass(frozen=True, slots=True)
class Command:
    """A command as it was given: its own id, who gave it (as claimed), and when, in milliseconds since the epoch."""

    id: str
    who: str
    at: int


def handle(plan: Mapping[str, Any]) -> str:
    """Return the name by which a person decides on a plan as it was shown: `<plan>@<hash>`."""
    return f"{plan['plan']}@{plan['hash']}"


def approve_or_reject(
    what: Literal["approve", "reject"],
    status: Iterable[Record],
    deletions: Iterable[Record],
    name: str,
    command: Command,
) -> Decision:
    """Return the decision on a plan (`<plan>@<hash>`; a rejection without a hash: as it is now) or on a single request.

    A request is named by its id or by `<target>/<customer id>`. Raises UsageError where there is neither, and for an
    approval that does not say by its hash what was seen.
    """
    short, _, seen = name.partition("@")
    plan = newest(status).get(f"plan/{short}")
    if plan is not None:
        if what == "approve" and not seen:
            hint = "`rollcall deletions list` shows the plan as it is now, under that name."
            raise UsageError(f"an approval is of a plan as it was seen: {short}@<hash>", hint=hint)
        return decision(
            command.id,
            what,
            who=command.who,
            at=command.at,
            plan=short,
            hash_=seen or plan["hash"],
            target=plan["target"],
        )
    _, entry = _find(newest(deletions), name)
    if entry is None:
        raise UsageError(f"there is no plan and no request {name!r}", hint="`rollcall deletions list` shows both.")
    request = entry["request"]
    return decision(command.id, what, who=command.who, at=command.at, request=request["id"], target=request["target"])


def retry(
    deletions: Iterable[Record],
    settings: DeletesSettings,
    name: str,
    command: Command,
    receipts: Iterable[Record] = (),
) -> Decision:
    """Return the decision to have a request made anew that is blocked or has failed, or to let a target go on.

    A request that another one of its customer hides is known by its receipt. Raises UsageError where there is no target
    and no request of that name.
    """
    if name in settings.targets:
        return decision(command.id, "retry", who=command.who, at=command.at, target=name)
    _, entry = _find(newest(deletions), name)
    if entry is not None:
        id_, target = entry["request"]["id"], entry["request"]["target"]
    else:
        receipt = next((decoded(record) for record in receipts if record.key == name.encode()), None)
        if receipt is None:
            hint = "Requests: `rollcall deletions list`."
            raise UsageError(f"there is no target and no request {name!r}", hint=hint)
        id_, target = receipt["request"], receipt["target"]
    return decision(command.id, "retry", who=command.who, at=command.at, request=id_, target=target)


def export(receipts: Iterable[Record]) -> Iterator[bytes]:
    """Yield the receipts as lines of JSON: CloudEvents in structured mode (CloudEvents JSON format, section 3)."""
    for record in receipts:
        attributes = {name[3:]: value.decode() for name, value in record.headers if name.startswith("ce_")}
        content = header(record.headers, "content-type")
        yield orjson.dumps({**attributes, "datacontenttype": content, "data": decoded(record)}) + b"\n"


@dataclass(frozen=True, slots=True)
class Erasure:
    """What an erasure would do. `customers`: the sequence of each; `targets`: where each is to be deleted.

    `unreachable`: those that no target can delete; `staying`: these, and those whose own system is no target.
    """

    customers: Mapping[str, int]
    targets: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    unreachable: tuple[str, ...] = ()
    staying: tuple[str, ...] = ()


def erasure(
    latest: Iterable[Record],
    clusters: Iterable[Record],
    settings: DeletesSettings,
    *,
    customer: str | None = None,
    email: str | None = None,
) -> Erasure:
    """Return the plan of an erasure, by customer or by e-mail (case-insensitive): everybody in their clusters as well.

    `latest` and `clusters` are the contents of those tables. Raises UsageError where nobody is found.
    """
    people: dict[str, int] = {}
    wanted: set[str] = set()
    for record in latest:
        key, sequence = (record.key or b"").decode(), header(record.headers, "ce_sequence")
        people.pop(key, None)
        wanted.discard(key)
        if record.value is None or sequence is None:
            continue
        people[key] = int(sequence)
        if key == customer or (email is not None and _has_email(decoded(record), email)):
            wanted.add(key)
    together = newest(clusters)
    names = {together[key]["cluster"] for key in wanted if key in together}
    wanted |= {key for key, entry in together.items() if entry["cluster"] in names and key in people}
    if not wanted:
        raise UsageError("there is no such customer", hint="Is it spelled <source>/<customer id>?")
    targets = {key: tuple(sorted(_targets(settings, key))) for key in sorted(wanted)}
    unreachable = tuple(key for key, names in targets.items() if not names)
    staying = tuple(key for key in targets if split_key(key.encode())[0] not in settings.targets)
    return Erasure({key: people[key] for key in sorted(wanted)}, targets, unreachable, staying)


def erase(plan: Erasure, command: Command) -> list[Decision]:
    """Return the decisions that carry out the plan of an erasure, one for each customer that can be reached."""
    reached = [key for key in plan.customers if key not in plan.unreachable]
    return [
        decision(
            f"{command.id}-{number}",
            "erase",
            who=command.who,
            at=command.at,
            customer=key,
            sequence=plan.customers[key],
        )
        for number, key in enumerate(reached, 1)
    ]


def _row(entry: dict[str, Any], plans: Mapping[str, str]) -> Row:
    """Return a deletion as it is listed; `plans`: the full names of held plans by the short ones."""
    request, reason = entry["request"], entry["reason"]
    for short, full in plans.items():
        reason = reason and reason.replace(short, full)
    return {
        "request": request["id"],
        "target": request["target"],
        "customer": ledger_key(request).decode().partition("/")[2],
        "state": entry["state"],
        "since": entry["since"],
        "authority": request["authority"],
        "origin": f"{request['source']}/{request['origin']}",
        "plan_or_reason": reason,
    }


def _find(ledger: Mapping[str, Any], name: str) -> tuple[str, Any]:
    if name in ledger:
        return name, ledger[name]
    for key, entry in ledger.items():
        if entry["request"]["id"] == name:
            return key, entry
    return name, None


def _has_email(customer: Mapping[str, Any], email: str) -> bool:
    wanted = email.strip().casefold()
    return any(
        wanted in {(given["value"] or "").casefold(), (given["normalized"] or "").casefold()}
        for given in customer["emails"]
    )


def _targets(settings: DeletesSettings, key: str) -> set[str]:
    source, _ = split_key(key.encode())
    routed = {
        route.target
        for route in settings.routes
        if route.source == source and route.link != "cluster" and route.mode("erasure") != "off"
    }
    return routed | ({source} & set(settings.targets))

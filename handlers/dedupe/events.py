"""What the clusters stage publishes: memberships, identity events with their lineage, and departures.

Plain typed dictionaries, out of which the JSON Schemas are made. Customers are named by their key,
`<source>/<customer id>`; nothing else of a customer's data is in here.
"""

from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, Final, Literal, NotRequired, TypedDict

from worker.events import Headers

MERGED: Final = "customer.merged"
SPLIT: Final = "customer.split"
WINNER_CHANGED: Final = "customer.winner_changed"
REVIEW: Final = "customer.review"
IDENTITY_SCHEMA: Final = "urn:rollcall:identity-event:1"

IdentityType = Literal["customer.merged", "customer.split", "customer.winner_changed", "customer.review"]
Cause = Literal["deleted", "changed"]


class Step(TypedDict):
    """A link between two customers."""

    a: str
    b: str
    score: float


class Proof(Step):
    """A link with what it rests on.

    `keys` are the kinds of values in common that count (`identifier`, `email`, `phone`, `reference`); `fields` the
    weights of the other fields; `exact_id`: an identifier in common; `generic`: a value in common that too many
    customers share, which was not counted. `one_to_one` is there, and true, where something speaks against the link,
    which counts only because the two systems have the same people and neither customer can be anybody else there.
    """

    keys: list[str]
    fields: dict[str, float]
    exact_id: bool
    generic: bool
    one_to_one: NotRequired[bool]


class Membership(TypedDict):
    """The value on `customers.clusters`: the cluster a customer is in, and the links from it to the winner."""

    cluster: str
    winner: str
    size: int
    path: list[Proof]


class Merged(TypedDict):
    """A cluster has come to be, or has grown. `absorbed`: clusters that are in it now; `joined`: who has come in."""

    cluster: str
    winner: str
    members: list[str]
    joined: list[str]
    absorbed: list[str]
    links: list[Step]
    sources: Literal["same", "several"]
    rebuilt: bool


class Part(TypedDict):
    """What has become of some members of a cluster; `cluster` and `winner` are null for one that is alone now."""

    cluster: str | None
    winner: str | None
    members: list[str]


class Split(TypedDict):
    """A cluster is no longer what it was: it fell apart, shrank, dissolved, or has lost its founder and so its id."""

    cluster: str
    parts: list[Part]
    gone: list[str]
    rebuilt: bool


class WinnerChanged(TypedDict):
    """Another customer stands for the cluster now."""

    cluster: str
    winner: str
    previous: str
    rebuilt: bool


class Review(TypedDict):
    """Two customers that a person should look at, or (`closed`) no longer need to.

    `reason`: `score` (between review and link), `email_clash` (one source and kind, the same e-mail address),
    `unique_id`, `cap_customers`, `cap_emails`, `cap_phones`, `opposed` (linked, but their clusters may not be joined;
    `opposed`: more of their members are held for two people than are linked), `component` (in a tangle too large to be
    resolved). On a closed one it is the reason it was open for.
    """

    status: Literal["open", "closed"]
    reason: str
    a: str
    b: str
    score: float
    sources: Literal["same", "several"]
    rebuilt: bool


class Evidence(TypedDict):
    """The direct link of a departed customer with one that remains.

    `keys` are the kinds of match keys that met; `fields` the weights of the other fields; `exact_id`: an identifier in
    common; `generic`: a value in common that too many customers share, which was not counted; `lifted`: given names or
    birth dates speak against it, which the rest outweighs.
    """

    customer: str
    score: float
    keys: list[str]
    fields: dict[str, float]
    exact_id: bool
    generic: bool
    lifted: bool
    same_source: bool


class Departure(TypedDict):
    """A customer has left its cluster: it was deleted, or is another person's since it changed.

    `sequence` is that of the deletion or change. `remaining` are the members it has left, as they were linked with its
    last live version; `evidence` has those of them with a direct link; `memberships` says how this leaves each of
    them: the digest (BLAKE2b, 8 bytes) of its value on `customers.clusters`, empty where it has none. `doubt` says why
    the deletion of others must not follow from this: `late` (the evidence did not come in time), `unverified` (the last
    live version is not known), `moved` (it was published together with others than its last version is linked with),
    `one_to_one` (a link in its cluster counts only because two systems have the same people), `rebuilt` (from the past,
    after a loss of state). Empty where there is none.
    """

    customer: str
    cause: Cause
    sequence: int
    cluster: str
    winner: str
    remaining: list[str]
    evidence: list[Evidence]
    memberships: dict[str, str]
    doubt: list[str]


def identity_type(event: Mapping[str, Any]) -> IdentityType:
    """Return the type of what has happened to a cluster."""
    return WINNER_CHANGED if "previous" in event else MERGED if "joined" in event else SPLIT


def identity_headers(type_: IdentityType, cluster: str, time: str, origin: bytes) -> Headers:
    """Return the CloudEvents headers of an identity event; `origin` names what caused it, for a deterministic id."""
    seed = b"%s#%s#%s" % (type_.encode(), cluster.encode(), origin)
    return [
        ("ce_specversion", b"1.0"),
        ("ce_id", blake2b(seed, digest_size=16).hexdigest().encode()),
        ("ce_source", b"/rollcall/duplicates"),
        ("ce_type", type_.encode()),
        ("ce_subject", cluster.encode()),
        ("ce_time", time.encode()),
        ("ce_dataschema", IDENTITY_SCHEMA.encode()),
        ("content-type", b"application/json"),
    ]

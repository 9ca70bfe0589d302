"""The systems that customers are deleted from: how a call is built, and what its answer means.

A target knows one API and nothing else; it has no clock, no socket and no state. It never builds a DELETE without the
one customer's id in the path, encoded, and only for an id that is exactly what that API gives out.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Protocol
from urllib.parse import quote

import orjson

from worker.handling import Reply
from worker.times import http_date


@dataclass(frozen=True, slots=True)
class Ask:
    """An HTTP request below the target's base URL; `path` is already encoded."""

    method: str
    path: str
    query: tuple[tuple[str, str], ...] = ()
    json: object | None = None


class Answer(Enum):
    """What the answer to a DELETE says."""

    DONE = auto()  # it is deleted
    ACCEPTED = auto()  # it will be
    GONE = auto()  # there is none such, if the address is right
    DENIED = auto()  # the credential is not accepted
    CONFLICT = auto()  # something stands against it that may go away: look again
    LATER = auto()  # not done, try later
    REFUSED = auto()  # not done, and never will be
    UNKNOWN = auto()  # may or may not have been done


@dataclass(frozen=True, slots=True)
class Found:
    """A look-up shows the customer; times are milliseconds since the epoch, None where the API has none.

    `related`: names of the relations that are not empty; `unseen`: of those that should be shown, and are not. `body`
    is what an undo copy is made of.
    """

    changed: int | None
    created: int | None
    related: tuple[str, ...]
    body: bytes
    unseen: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Missing:
    """A look-up says that there is none such, if the address is right."""


@dataclass(frozen=True, slots=True)
class Unread:
    """A look-up's answer cannot be taken for either, for `reason`; only a person can tell."""

    reason: str


@dataclass(frozen=True, slots=True)
class Fault:
    """A look-up got no usable answer: DENIED, LATER or UNKNOWN (a failure of the target)."""

    answer: Answer


Sight = Found | Missing | Unread | Fault


class Target(Protocol):
    """What every target does. All methods are pure."""

    def valid(self, customer: str) -> bool:
        """Return whether this is exactly an id of this API."""

    def delete(self, customer: str) -> Ask:
        """Return the DELETE of one customer; ValueError for an id that is not valid."""

    def read_delete(self, reply: Reply) -> Answer:
        """Return what the answer to `delete` says."""

    def lookup(self, customer: str) -> Ask | None:
        """Return the look-up of one customer, None where the API has none; ValueError for an id that is not valid."""

    def read_lookup(self, customer: str, reply: Reply) -> Sight:
        """Return what the answer to `lookup` shows."""

    def canary(self) -> Ask | None:
        """Return a look-up that succeeds as long as address and credential are right, None where there is none."""

    def read_canary(self, reply: Reply) -> Sight:
        """Return what the answer to `canary` shows."""

    def authorize(self, secrets: Mapping[str, str]) -> Mapping[str, str]:
        """Return the headers that carry the credential; `secrets` has the values of the settings' secrets by name."""


def encoded(customer: str) -> str:
    """Return an id as one segment of a path; ValueError for dots only, which would go up in it instead."""
    if not customer.strip("."):
        raise ValueError("the id is empty or made of dots")
    return quote(customer, safe="")


def general(status: int | None, *, sent: bool) -> Answer:
    """Return what a status means in general; `status` None is no answer, `sent` False if it never left."""
    if status is None:
        return Answer.UNKNOWN if sent else Answer.LATER
    named = {
        202: Answer.ACCEPTED,
        401: Answer.DENIED,
        403: Answer.DENIED,
        404: Answer.GONE,
        408: Answer.UNKNOWN,
        409: Answer.CONFLICT,
        410: Answer.GONE,
        412: Answer.CONFLICT,
        423: Answer.CONFLICT,
        429: Answer.LATER,
        503: Answer.LATER,
    }
    if status in named:
        return named[status]
    if 200 <= status < 300:  # ruff: ignore[magic-value-comparison] - RFC 9110, section 15.3
        return Answer.DONE
    return Answer.UNKNOWN if status >= 500 else Answer.REFUSED  # ruff: ignore[magic-value-comparison] - RFC 9110, section 15.6


def fault(reply: Reply) -> Fault | Unread:
    """Return what the answer to a look-up that is neither 200 nor 'none such' comes to."""
    match general(reply.status, sent=reply.sent):
        case Answer.DENIED:
            return Fault(Answer.DENIED)
        case Answer.LATER | Answer.CONFLICT:
            return Fault(Answer.LATER)
        case Answer.UNKNOWN:
            return Fault(Answer.UNKNOWN)
        case Answer.DONE | Answer.ACCEPTED | Answer.GONE | Answer.REFUSED:
            return Unread(f"the look-up was answered with {reply.status}")


def retry_after(headers: Mapping[str, str], now: int) -> int | None:
    """Return how many milliseconds the target asks to wait: `Retry-After` in seconds or as a date (RFC 9110, 10.2.3).

    A date is read against the target's own clock (`Date`) where it says it, else against `now` (ms since the epoch).
    """
    value = headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        return min(int(value), 86_400) * 1000
    until = http_date(value)
    if until is None:
        return None
    since = http_date(headers.get("date", ""))
    return max(0, min(until - (now if since is None else since), 86_400_000))


def json_object(body: bytes) -> dict[str, Any] | None:
    """Return the JSON object in the body of an answer, None where it holds anything else."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None


def filled(value: Any) -> bool:
    """Return whether a relation has anything in it."""
    return value not in (None, "", [], {}, False)

"""The contract between a source adapter and the poller, and the registry of adapters.

An adapter knows one API and nothing else: it builds requests and reads answers. It has no clock, no socket and no
state; the poller owns HTTP, time, retries, limits and what was seen before. What an API offers is described as feeds:
each is a cursor that is read page by page. A feed that lists every customer (`enumerates`) is the only thing that can
prove a customer's absence, and only when one uninterrupted owner has read it from its start to its end.

One file an adapter; the file's name is the `kind` in the configuration. Adapters are found by the entry point group
`rollcall.sources`, so a third party's works like ours.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import Any, ClassVar, Final, Protocol

from worker.errors import ConfigError
from worker.events import Customer
from worker.normalize import Hasher, Normalizer
from worker.settings import SourceSettings, Treatment

ENTRY_POINTS: Final = "rollcall.sources"

# A place in a feed: a JSON object that only the adapter understands, kept in the source's checkpoint.
Cursor = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Request:
    """An HTTP request below the source's base URL. `path` is already encoded, `query` is not."""

    method: str
    path: str
    query: tuple[tuple[str, str], ...] = ()
    json: object | None = None
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Response:
    """A whole answer; names of headers are in lower case, `url` is the address that was asked, for messages."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    url: str = ""

    @property
    def origin(self) -> "Origin":
        """Return what a dead letter says of where a record came from."""
        return Origin(self.url.rpartition(" ")[2], self.status)


@dataclass(frozen=True, slots=True)
class Origin:
    """The request that was answered, by its path, and the answer's status: of a page, or of a look-up."""

    path: str
    status: int


@dataclass(slots=True)
class Row:
    """A customer as the upstream gave it. `updated` is the upstream's change time in ms since the epoch, or None.

    Nobody changes it; it is not frozen because to make a frozen one costs three times as much, for every record.
    """

    id: str
    body: dict[str, Any]
    updated: int | None = None


@dataclass(frozen=True, slots=True)
class Stub:
    """Word that a customer exists (and when it last changed), without its record: it is read if that is news."""

    id: str
    updated: int | None = None


@dataclass(frozen=True, slots=True)
class Tombstone:
    """The upstream says itself that this customer was deleted, at `deleted` (ms since the epoch) where it says when."""

    id: str
    deleted: int | None = None


@dataclass(frozen=True, slots=True)
class Bad:
    """A record that has an id but cannot be read, for `reason` (no customer data in it): it is set aside.

    The scan goes on, proving no absence. A page with a record without an id is refused (`MalformedPageError`), since
    nobody could tell what was lost. `size` is in bytes of JSON; `record` is only hashed.
    """

    id: str
    reason: str
    size: int
    record: object = field(default=None, repr=False, compare=False)


Item = Row | Stub | Tombstone | Bad


@dataclass(frozen=True, slots=True)
class Page:
    """What one answer of a feed held.

    `cursor` is where to read on, committed together with what the page changed. `more`: another page is there to be
    asked for at once; of an enumeration, False says that it has ended as the API ends one. `total` is the number of
    customers that the upstream says it has, `uncounted` that the page may show some whom that leaves out. `note` is a
    sentence for the operator, where the adapter had to fall back. The poller sets `origin`.
    """

    items: Sequence[Item]
    cursor: Cursor
    more: bool
    total: int | None = None
    note: str | None = None
    uncounted: bool = False
    origin: Origin | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Feed:
    """A way to read the source: `interval` is the number of seconds from the end of one reading to the next.

    `enumerates`: a reading lists every customer, so the cursor starts at None each time and absence may be concluded.
    `after`: the feed is not read before that other feed has been read to its end once (a sweep that compares before
    anything was read would look up everything, one by one).
    """

    name: str
    interval: float
    enumerates: bool = False
    after: str | None = None


@dataclass(frozen=True, slots=True)
class Exists:
    """A look-up found the customer; the poller sets `origin`."""

    row: Row
    origin: Origin | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Missing:
    """A look-up says that there is no such customer.

    `conclusive`: the answer cannot also mean "not visible to you" (a deletion is then `gone`, else only `absent`).
    """

    conclusive: bool = True


@dataclass(frozen=True, slots=True)
class Unsure:
    """A look-up's answer proves nothing, for `reason` (no customer data in it); the poller sets `answer`."""

    reason: str
    answer: Response | None = field(default=None, repr=False, compare=False)


Verdict = Exists | Missing | Unsure


@dataclass(frozen=True, slots=True)
class Token:
    """An access token and the number of seconds that it lives."""

    value: str
    expires_in: float


@dataclass(frozen=True, slots=True)
class Moment:
    """The time, as the poller knows it: `now` is ours, `server` the upstream's own clock by its last `Date` header.

    Both are milliseconds since the epoch; `server` is None before the first answer.
    """

    now: int
    server: int | None = field(default=None)


class Adapter(Protocol):
    """What every adapter does. All methods are pure; the poller calls them in any order and any number of times.

    Raised by the `read_*` methods: `MalformedPageError` where the answer is not what the document describes,
    `RefusedError` for a status that will not get better, `CredentialError` where the credential is not accepted,
    `CursorExpiredError` where the feed has to start over. Statuses 401, 408, 429 and 5xx never arrive here.

    An adapter may have more, as class attributes unless something else is said:

    - `fields`, a frozen set of the fields that its API's document names: a privacy policy that names another one, which
      is not in the settings' `own_fields` either, is refused as misspelt;
    - `references`, a frozen set of the types of its customers' references: a route by another type is refused;
    - `recycles_ids`: True where an id that was deleted may later be given to another customer;
    - `related`, a method: the ids of other customers that a record names (`worker.rounds.Following`).
    """

    kind: ClassVar[str]
    # Raised when a record would be normalized differently than before: everything is then published anew.
    version: ClassVar[int]
    Settings: ClassVar[type[SourceSettings]]
    # What becomes of which of the upstream's fields unless the settings say otherwise (see `worker.privacy`).
    privacy: ClassVar[Mapping[str, Treatment]]

    def __init__(self, name: str, settings: Any) -> None:
        """`name` is the source's; `settings` an instance of `Settings`."""

    def feeds(self) -> tuple[Feed, ...]:
        """Return the feeds, the most urgent first. Empty for a source that can only be asked by id (a watch list)."""

    def request(self, feed: str, cursor: Cursor | None, moment: Moment) -> Request | None:
        """Return the request for the next page after `cursor` (None: from the start), None if nothing is due yet."""

    def read(self, feed: str, cursor: Cursor | None, moment: Moment, response: Response) -> Page:
        """Read the answer to `request` of the same feed, cursor and moment."""

    def lookup(self, customer_id: str) -> Request | None:
        """Return the request that looks one customer up; None if the id is none of this API's, or it has none."""

    def read_lookup(self, customer_id: str, response: Response) -> Verdict:
        """Read the answer to `lookup`."""

    def authorize(self, secrets: Mapping[str, str], token: str | None) -> Mapping[str, str]:
        """Return the headers that carry the credential. `secrets` has the values of the settings' secrets by name."""

    def token_request(self, secrets: Mapping[str, str]) -> Request | None:
        """Return the request for an access token, None where the API needs none."""

    def read_token(self, response: Response) -> Token:
        """Read the answer to `token_request`."""

    def essence(self, row: Row) -> object:
        """Return what of the record is fingerprinted: all but what moves without the customer having changed."""

    def normalize(self, row: Row, normalizer: Normalizer) -> Customer:
        """Return the normalized customer, with `first_seen` left empty. Never raises over bad data in a field."""


def policy(adapter: Adapter | type[Adapter], settings: SourceSettings) -> dict[str, Treatment]:
    """Return the privacy policy of a source: what its adapter ships, and what the configuration puts over it."""
    return {**adapter.privacy, **settings.privacy}


def normalizer(adapter: Adapter | type[Adapter], settings: SourceSettings, hasher: Hasher) -> Normalizer:
    """Return the normalizer of a source, by its region and its privacy policy."""
    return Normalizer(settings.region, hasher, policy(adapter, settings))


def available() -> dict[str, type[Adapter]]:
    """Return the adapters that are installed, by kind."""
    return {point.name: point.load() for point in entry_points(group=ENTRY_POINTS)}


def adapter_class(kind: str, adapters: Mapping[str, type[Adapter]]) -> type[Adapter]:
    """Return the adapter of `kind`; raises ConfigError naming the ones there are."""
    try:
        return adapters[kind]
    except KeyError:
        raise ConfigError([f"there is no source kind {kind!r}; there are {', '.join(sorted(adapters))}"]) from None

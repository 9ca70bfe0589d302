"""dintero: customers behind the Dintero Customers API, `GET /v1/accounts/{aid}/customers/users`.

The `since` feed reads what was added, modified or deleted since a time, page by page: the next page is asked for with
the newest time seen. It begins by reading everything once by `starting_after`, and does so again whenever more
customers share one time than a page holds. The `check` feed lists everybody at a slow interval and proves absences.

What the document leaves open is not relied on: each bound is a millisecond below the newest time seen, so it may be
inclusive or not; the order inside a page means nothing; a page is not taken for the last one because it is short. A
new reading asks for what has changed since `lookback` before the last one began, by the server's clock, so that what
becomes visible that late is still found.
"""

import json
import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Annotated, ClassVar, Final, Literal

from pydantic import Field, model_validator

from worker.errors import CredentialError, CursorExpiredError, MalformedPageError
from worker.events import Customer
from worker.normalize import Normalizer
from worker.settings import Duration, Secret, SourceSettings, Treatment
from worker.sources import Cursor, Feed, Item, Moment, Page, Request, Response, Row, Token, Unsure, Verdict
from worker.sources.dintero_users import CUSTOMER_ID, User, brought, essence, items, newest, normalize, of_type, own
from worker.sources.documented import DINTERO
from worker.sources.lists import follow, twice
from worker.sources.reading import malformed, named, parse, refuse
from worker.times import rfc3339

_MOST: Final = 100
_OVERLAP_MS: Final = 1
_EXPIRED: Final = frozenset({HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_FOUND, HTTPStatus.GONE})
_NO_CREDENTIAL: Final = frozenset({HTTPStatus.BAD_REQUEST, HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})
_CODE: Final = re.compile(r"[\w.:-]{1,60}").fullmatch
_COUNT: Final = re.compile(r"[0-9]{1,10}").fullmatch
_EVERYBODY: Final = (("type", "any"),)
_FILTERS: Final = ("type", "token_value", "token_type", "email", "phone_number", "search", "tag_id")

Text = Annotated[str, Field(min_length=1)]


class DinteroSettings(SourceSettings):
    """The settings of a dintero source; `url` ends before `/v1`."""

    kind: Literal["dintero"] = "dintero"
    aid: str = Field(pattern=r"^[PT]\d{8}$", description="The account: P or T and eight digits")
    client_id: Secret
    client_secret: Secret
    audience: str | None = Field(default=None, description="Of the access token; default: <url>/v1/accounts/<aid>")
    lookback: Duration = Field(default=30.0, description="How long a change may take to become visible")
    page_size: int = Field(default=_MOST, ge=1, le=_MOST)
    type: Literal["customer", "company", "contact", "employee", "other", "any"] = Field(
        default="any", description="Only users of this type; without it the API leaves contacts out"
    )
    token_value: Text | None = Field(default=None, description="Only who has a token of this value")
    token_type: Text | None = Field(default=None, description="Only who has a token of this type")
    email: Text | None = Field(default=None, description="Only these e-mail addresses; matches by prefix")
    phone_number: Text | None = Field(default=None, description="Only these phone numbers (E.164); matches by prefix")
    search: Text | None = Field(default=None, description="Only whose name, number, customer_id or e-mail matches")
    tag_id: Text | None = Field(default=None, description="Only who has this tag")
    attributes_keys: tuple[Text, ...] = Field(default=(), max_length=4, description="Only who has all of these")
    attributes_values: tuple[Text, ...] = Field(default=(), max_length=4, description="One for each of the keys")

    @model_validator(mode="after")
    def _paired(self) -> "DinteroSettings":
        if self.attributes_values and len(self.attributes_values) != len(self.attributes_keys):
            raise ValueError("attributes_values needs one value for each of attributes_keys")
        return self

    def filters(self) -> tuple[tuple[str, str], ...]:
        """Return the configured filters as query parameters, not yet percent-encoded; all of them must match."""
        single = [(name, getattr(self, name)) for name in _FILTERS]
        keys = [("attributes_keys", key) for key in self.attributes_keys]
        values = [("attributes_values", value) for value in self.attributes_values]
        return (*((name, value) for name, value in single if value), *keys, *values)

    def scope(self) -> str:
        """Return what decides which customers are seen, as canonical JSON."""
        return json.dumps([self.aid, self.filters()])

    def filtered(self) -> bool:
        """Return whether only some of the customers are seen."""
        return self.filters() != _EVERYBODY


class Dintero:
    """One dintero source.

    A cursor of `since` is `{since, floor}` where it reads changes, `{after, trail, floor}` where it lists everybody;
    `floor` is where the next reading begins. A cursor of `check` is `{after, trail, total}`.
    """

    kind: ClassVar[str] = "dintero"
    version: ClassVar[int] = 1
    Settings: ClassVar[type[SourceSettings]] = DinteroSettings
    fields: ClassVar[frozenset[str]] = DINTERO
    references: ClassVar[frozenset[str]] = frozenset({CUSTOMER_ID})
    privacy: ClassVar[Mapping[str, Treatment]] = {}

    def __init__(self, name: str, settings: DinteroSettings) -> None:
        """Prepare what every request has in common."""
        self.name = name
        self._settings = settings
        self._account = f"/v1/accounts/{settings.aid}"
        self._filters = settings.filters()
        self._narrowed = any(name != "type" for name, _ in self._filters)
        self._lookback = round(settings.lookback * 1000)

    def feeds(self) -> tuple[Feed, ...]:
        """Return `since`, which sees changes and tombstones, and `check`, which lists everybody."""
        since = Feed("since", self._settings.interval)
        return since, Feed("check", self._settings.scan_interval, enumerates=True, after="since")

    def request(self, feed: str, cursor: Cursor | None, moment: Moment) -> Request:  # ruff: ignore[unused-method-argument] - always due
        """Return the request for the next page; `check` first asks how many customers there are."""
        if feed == "check" and cursor is None:
            # Without the deleted ones, so that the total counts nothing but customers.
            return self._users(("limit", "1"), ("total", "true"))
        paging = [("include_deleted", "true"), ("limit", str(self._settings.page_size))]
        if cursor and "since" in cursor:
            paging.append(("since_datetime", rfc3339(cursor["since"])))
        elif cursor and "after" in cursor:
            paging.append(("starting_after", cursor["after"]))
        return self._users(*paging)

    def _users(self, *paging: tuple[str, str]) -> Request:
        return Request("GET", f"{self._account}/customers/users", (*self._filters, *paging))

    def read(self, feed: str, cursor: Cursor | None, moment: Moment, response: Response) -> Page:
        """Read a page of either feed."""
        doing = f"{self.name}: reading a page of {feed}"
        if response.status in _EXPIRED and cursor and "after" in cursor:
            message = f"{doing}: the paging token was answered {response.status}"
            raise CursorExpiredError(message, hint="It is no longer known; the listing starts over.")
        users = _users(doing, response)
        if feed == "check" and cursor is None:
            total = _total(response)
            return Page((), {"total": total}, more=True, total=total)
        if cursor and "since" in cursor:
            return self._changed(users, cursor, moment)
        if feed == "check":
            return self._listed(doing, users, cursor or {}, end={})
        floor = (cursor or {}).get("floor")
        floor = self._floor(moment, newest(users)) if floor is None else floor
        return self._listed(doing, users, {**(cursor or {}), "floor": floor}, end={"since": floor})

    def _listed(self, doing: str, users: Sequence[User], cursor: Cursor, end: Cursor) -> Page:
        """Go on behind the page's last user; only an empty page is the `end`."""
        total = cursor.get("total")
        if not users:
            return Page((), end, more=False, total=total)
        last = own(users)[-1]
        token = last.get("paging_token")
        after = token if isinstance(token, str) and token else str(last["id"])
        following = {**cursor, "after": after, "trail": follow(cursor.get("trail"), after, doing)}
        found, note = self._items(users)
        # Whom a contact is linked to the API shows without regard to the filters, and does not count.
        return Page(found, following, more=True, total=total, note=note, uncounted=self._narrowed and brought(users))

    def _items(self, users: Sequence[User]) -> tuple[list[Item], str | None]:
        """Return what a page says of those asked for, and what to tell the operator of it."""
        ours = of_type(users, self._settings.type)
        found = items(ours)
        return found, twice(len(ours), len(found))

    def _changed(self, users: Sequence[User], cursor: Cursor, moment: Moment) -> Page:
        """Go on with the newest time of the page; where that leads nowhere, end there, or list everybody instead."""
        since, time = cursor["since"], newest(users)
        found, note = self._items(users)
        visible = self._floor(moment, time, since)
        floor = cursor.get("floor", visible)
        if time is not None and time - _OVERLAP_MS > since:
            return Page(found, {"since": time - _OVERLAP_MS, "floor": floor}, more=True, note=note)
        if len(users) < self._settings.page_size:
            return Page(found, {"since": floor}, more=False, note=note)
        stuck = f"{len(users)} customers with one time fill a page of changes: everybody is read by starting_after"
        return Page(found, {"floor": visible}, more=True, note=stuck)

    def _floor(self, moment: Moment, time: int | None, least: int = 0) -> int:
        """Return up to when everything is visible by now, in ms since the epoch: `lookback` before the server's clock.

        That may be before where it was: then the clock was wrong. Before the server has told its time, the newest time
        that it has written stands for it (it is no later), and `least` where it has written none that is newer.
        """
        if moment.server is not None:
            return max(0, moment.server - self._lookback)
        return max(least, min(time or 0, moment.now) - self._lookback)

    def lookup(self, customer_id: str) -> Request | None:  # ruff: ignore[unused-method-argument] - see below
        """Return None: the API looks up by `customer_id`, which is not the id, and may change."""
        return None

    def read_lookup(self, customer_id: str, response: Response) -> Verdict:  # ruff: ignore[unused-method-argument] - see `lookup`
        """Conclude nothing: there is no look-up by id."""
        return Unsure("the API has no look-up by id")

    def authorize(self, secrets: Mapping[str, str], token: str | None) -> Mapping[str, str]:  # ruff: ignore[unused-method-argument] - the token's
        """Return the Authorization header with the access token."""
        return {"Authorization": f"Bearer {token or ''}"}

    def token_request(self, secrets: Mapping[str, str]) -> Request:
        """Return the request for an access token (OAuth 2.0 client credentials: RFC 6749, section 4.4)."""
        pair = f"{secrets['client_id']}:{secrets['client_secret']}"
        audience = self._settings.audience or f"{str(self._settings.url).rstrip('/')}{self._account}"
        body = {"grant_type": "client_credentials", "audience": audience}
        basic = ("Authorization", f"Basic {b64encode(pair.encode()).decode()}")
        return Request("POST", f"{self._account}/auth/token", json=body, headers=(basic,))

    def read_token(self, response: Response) -> Token:
        """Read the access token."""
        doing = f"{self.name}: asking for an access token"
        if response.status in _NO_CREDENTIAL:
            message = f"{doing}: it was refused ({response.status} {_code(response)})"
            raise CredentialError(message, hint="Are client_id, client_secret, aid and audience those of one client?")
        if response.status != HTTPStatus.OK:
            refuse(response, doing, _code(response))
        answer = parse(response, doing)
        value = answer.get("access_token") if isinstance(answer, dict) else None
        lives = answer.get("expires_in") if isinstance(answer, dict) else None
        if not isinstance(value, str) or not re.fullmatch(r"[!-~]+", value):
            raise malformed(doing, "there is no usable access_token")
        if isinstance(lives, bool) or not isinstance(lives, int | float) or lives <= 0:
            raise malformed(doing, "expires_in does not say how long the token lives")
        return Token(value, float(lives))

    def essence(self, row: Row) -> object:
        """Return the record without its paging token."""
        return essence(row)

    def normalize(self, row: Row, normalizer: Normalizer) -> Customer:
        """Return the normalized customer."""
        return normalize(self.name, row, normalizer)


def _users(doing: str, response: Response) -> list[User]:
    if response.status != HTTPStatus.OK:
        refuse(response, doing, _code(response))
    answer = parse(response, doing)
    if not isinstance(answer, list):
        raise malformed(doing, "the answer is no list of customers")
    users = [user for user in answer if isinstance(user, dict) and named(user.get("id"))]
    if len(users) < len(answer):
        raise malformed(doing, f"{len(answer) - len(users)} of {len(answer)} customers have no id")
    return users


def _code(response: Response) -> str:
    """Return the API's code for an error, as far as it can be shown."""
    try:
        answer = parse(response, "")
    except MalformedPageError:
        return ""
    error = answer.get("error") if isinstance(answer, dict) else None
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, str) and _CODE(code) else ""


def _total(response: Response) -> int | None:
    value = response.headers.get("total-count", "").strip()
    return int(value) if _COUNT(value) else None

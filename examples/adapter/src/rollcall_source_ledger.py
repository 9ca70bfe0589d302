"""ledger: customers behind an invented API, `GET /people`. An adapter of a third party: one file, no IO.

The API lists everybody by number (`{"people": [...], "next": 17}`, null at the end) and has `GET /people/{number}`. It
has no change feed, so the only feed reads everything, again and again, and proves absences too.
"""

import json
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, ClassVar, Final, Literal

from pydantic import Field

from worker.errors import MalformedPageError, RefusedError
from worker.events import Customer
from worker.normalize import Normalizer, milliseconds, text
from worker.settings import Secret, SourceSettings, Treatment
from worker.sources import (
    Cursor,
    Exists,
    Feed,
    Missing,
    Moment,
    Page,
    Request,
    Response,
    Row,
    Unsure,
    Verdict,
)
from worker.sources.reading import Tokenless, malformed, parse, refuse

_NUMBER: Final = re.compile(r"[1-9][0-9]{0,8}").fullmatch


class LedgerSettings(SourceSettings):
    """The settings of a ledger source; `url` ends before `/people`."""

    kind: Literal["ledger"] = "ledger"
    key: Secret = Field(description="Sent as the bearer token")
    city: str | None = Field(default=None, description="Only customers there")

    def scope(self) -> str:
        """Return what decides who is seen: when it changes, nobody is taken for absent because of that."""
        return json.dumps(self.city)


class Ledger(Tokenless):
    """One ledger source."""

    kind: ClassVar[str] = "ledger"
    version: ClassVar[int] = 1  # raised when a record is normalized differently: everything is then published anew
    Settings: ClassVar[type[SourceSettings]] = LedgerSettings
    privacy: ClassVar[Mapping[str, Treatment]] = {"passport": "hash"}

    def __init__(self, name: str, settings: LedgerSettings) -> None:
        """Keep both."""
        self.name = name
        self._settings = settings

    def feeds(self) -> tuple[Feed, ...]:
        """Return the one feed: it lists everybody."""
        return (Feed("scan", self._settings.interval, enumerates=True),)

    def request(self, feed: str, cursor: Cursor | None, moment: Moment) -> Request:  # ruff: ignore[unused-method-argument] - one feed, no time
        """Return the request for the next page."""
        query = [("limit", str(self._settings.page_size))]
        if self._settings.city is not None:
            query.append(("city", self._settings.city))
        if cursor:
            query.append(("after", str(cursor["after"])))
        return Request("GET", "/people", tuple(query))

    def read(self, feed: str, cursor: Cursor | None, moment: Moment, response: Response) -> Page:  # ruff: ignore[unused-method-argument] - see above
        """Read a page; whatever is not as the API's document says is refused, so that nobody is passed over."""
        doing = f"{self.name}: reading a page of the {feed}"
        body = _object(doing, response)
        people, following = body.get("people"), body.get("next")
        if not isinstance(people, list) or not (following is None or type(following) is int):
            raise malformed(doing, "there is no list of people, or no place to go on from")
        if following is not None and cursor is not None and following <= cursor["after"]:
            raise malformed(doing, "the page does not lead on")
        rows = {row.id: row for row in (_row(doing, person) for person in people)}
        return Page(list(rows.values()), {"after": following or 0}, more=following is not None)

    def lookup(self, customer_id: str) -> Request | None:
        """Return the request for one customer; None for what is no number."""
        return Request("GET", f"/people/{customer_id}") if _NUMBER(customer_id) else None

    def read_lookup(self, customer_id: str, response: Response) -> Verdict:
        """Read a look-up: 404 says that there is no such customer, and only its own number that there is."""
        if response.status == HTTPStatus.NOT_FOUND:
            return Missing()
        try:
            row = _row(self.name, _object(f"{self.name}: looking a customer up", response))
        except (MalformedPageError, RefusedError) as error:
            return Unsure(error.message)
        return Exists(row) if row.id == customer_id else Unsure("the look-up was answered with another customer")

    def authorize(self, secrets: Mapping[str, str], token: str | None) -> Mapping[str, str]:  # ruff: ignore[unused-method-argument] - no tokens
        """Return the header that carries the key."""
        return {"Authorization": f"Bearer {secrets['key']}"}

    def essence(self, row: Row) -> object:
        """Return the record without the count of its visits, which moves without the customer having changed."""
        return {name: value for name, value in row.body.items() if name != "visits"}

    def normalize(self, row: Row, normalizer: Normalizer) -> Customer:
        """Return the normalized customer; what has no place of its own is left in the attributes."""
        body, secret = normalizer.screen(row.body)
        take = body.pop
        for name in ("number", "visits"):
            take(name, None)
        email = normalizer.email(take("mail", None), preferred=True)
        address = normalizer.address({"line1": take("street", None), "city": take("city", None)})
        updated = normalizer.timestamp(take("modified", None))
        return {
            "source": self.name,
            "id": row.id,
            "kind": "person",
            "name": normalizer.full_name(take("name", None)),
            "company": None,
            "emails": [email] if email else [],
            "phones": [],
            "addresses": [address] if address else [],
            "date_of_birth": normalizer.date(take("born", None)),
            "locale": text(take("language", None)),
            "status": None,
            "references": [],
            "identifiers": [found for type_, value in secret if (found := normalizer.identifier(type_, value))],
            "consents": [],
            "tags": [],
            "metadata": {},
            "attributes": normalizer.attributes(body),
            "created_at": None,
            "updated_at": updated,
            "first_seen": "",
        }


def _object(doing: str, response: Response) -> dict[str, Any]:
    if response.status != HTTPStatus.OK:
        refuse(response, doing)
    body = parse(response, doing)
    if not isinstance(body, dict):
        raise malformed(doing, "the answer is no object")
    return body


def _row(doing: str, person: object) -> Row:
    number = person.get("number") if isinstance(person, dict) else None
    if not isinstance(person, dict) or type(number) is not int or not _NUMBER(str(number)):
        raise malformed(doing, "a customer has no number")
    return Row(str(number), person, milliseconds(person.get("modified")))

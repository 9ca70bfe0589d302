"""drivly: customers behind a Payload CMS REST API, `GET /customers`.

The API has no change feed and no tombstones; what it has is `updatedAt`. Two cursors walk along (updatedAt, id), so
that no row is passed over however many share a time. The head reads what is new at once. A row may become visible after
one with a later stamp, so the tail follows `lookback` behind the server's clock and reads every row a second time: what
becomes visible within `lookback` is not lost; where no answer bears a `Date` there is no tail, and that is said. The
sweep lists every id with its `updatedAt`: it finds what was deleted, and what was written with a time in the past.

Every answer is held against what was asked. The server ignores a sort or a filter that it does not know and answers
something else: a page that is not in the order asked for, or does not lie behind the cursor, is refused.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from http import HTTPStatus
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import AfterValidator, Field

from worker.errors import MalformedPageError
from worker.events import Customer, Identifier, Reference
from worker.normalize import Normalizer, text
from worker.settings import Duration, Secret, SourceSettings, Treatment
from worker.sources import (
    Bad,
    Cursor,
    Exists,
    Feed,
    Item,
    Missing,
    Moment,
    Page,
    Request,
    Response,
    Row,
    Stub,
    Unsure,
    Verdict,
)
from worker.sources.documented import DRIVLY
from worker.sources.lists import twice
from worker.sources.payload import IDS, Document, Place, Walk, check, documents, encode, id_of, listing, total_of
from worker.sources.reading import Tokenless, malformed, parse, size_of
from worker.times import milliseconds, rfc3339

_ONLY_TIMES: Final = (("select[id]", "true"), ("select[updatedAt]", "true"))
# A row stamped in the future is left to the sweep, else the head would wait at it until that time has come.
_AHEAD_MS: Final = 60_000

_UNDATED: Final = "its answers bear no Date: what becomes visible late is found by the sweep only"

_LICENCE: Final = "drivers_licence"
_IDENTIFIERS: Final = {
    "consumerSocialSecurity": "ssn",
    "consumerDriversLicense": _LICENCE,
    "consumerDriversLicenseNumber": _LICENCE,
}
_REFERENCES: Final = ("customerId", "consumerConsumerId", "consumerCreditApplicationId")
_PREVIOUS: Final = {
    "line1": "consumerPreviousAddressLine1",
    "line2": "consumerPreviousAddressLine2",
    "city": "consumerPreviousAddressCity",
    "region": "consumerPreviousAddressState",
    "postcode": "consumerPreviousZip",
}
_NAMES: Final = ("consumerFirstName", "consumerMiddleName", "consumerLastName", "consumerSuffix")

_HASHED: Final = tuple(_IDENTIFIERS)
_DROPPED: Final = (
    "consumerProvideProofOfIncome",
    "consumerLoginToBank",
    "consumerIncome",
    "consumerIncomeInterval",
    "consumerOtherIncomeDescription",
    "consumerOtherIncomeAmount",
    "consumerEmploymentStatusCode",
    "consumerEmploymentDuration",
    "consumerEmploymentTitle",
    "consumerEmployerName",
    "consumerEmployerPhone",
    "consumerPreviousEmployerName",
    "consumerPreviousEmployerPhone",
    "consumerPreviousEmploymentTitle",
    "consumerPreviousEmploymentDuration",
    "consumerPreviousEmploymentincome",
)


class DrivlySettings(SourceSettings):
    """The settings of a drivly source; `url` ends before `/customers`, as in `https://commerce.example.com/api`."""

    kind: Literal["drivly"] = "drivly"
    key: Secret = Field(description="Whole value of the Authorization header; stock Payload wants: users API-Key <key>")
    lookback: Duration = Field(default=30.0, description="How long a row may take to become visible after its stamp")
    locale: str | None = Field(default=None, pattern="^[A-Za-z0-9_-]{1,35}$", description="Of localized fields")
    fallback_locale: str | None = Field(
        default=None, pattern="^[A-Za-z0-9_-]{1,35}$", description="Where a field has no value in the locale"
    )
    where: Annotated[dict[str, Any], AfterValidator(check)] | None = Field(
        default=None, description="Only these customers: a filter in Payload's own language"
    )
    id_type: Literal["auto", "number", "objectid", "uuid"] = Field(
        default="auto", description="What ids look like; others are never looked up (the server reads ids loosely)"
    )

    def scope(self) -> str:
        """Return what decides which customers are seen, as canonical JSON."""
        return json.dumps(self.where, sort_keys=True)

    def filtered(self) -> bool:
        """Return whether only some of the customers are seen."""
        return self.where is not None


class Drivly(Tokenless):
    """One drivly source."""

    kind: ClassVar[str] = "drivly"
    version: ClassVar[int] = 1
    # Payload on SQLite gives the highest id out again after its deletion. A PATCH may change `createdAt`, too.
    recycles_ids: ClassVar[bool] = True
    Settings: ClassVar[type[SourceSettings]] = DrivlySettings
    fields: ClassVar[frozenset[str]] = DRIVLY
    references: ClassVar[frozenset[str]] = frozenset(_REFERENCES)
    privacy: ClassVar[Mapping[str, Treatment]] = {
        **dict.fromkeys(_HASHED, "hash"),
        **dict.fromkeys(_DROPPED, "drop"),
    }

    def __init__(self, name: str, settings: DrivlySettings) -> None:
        """Prepare what every request has in common."""
        self.name = name
        self._settings = settings
        self._lookback = round(settings.lookback * 1000)
        locales = (("locale", settings.locale), ("fallback-locale", settings.fallback_locale))
        self._common = (("depth", "0"), *((name, value) for name, value in locales if value))

    def feeds(self) -> tuple[Feed, ...]:
        """Return head and tail, which see every change, and the sweep, which sees deletions and backdated rows."""
        interval = self._settings.interval
        sweep = Feed("sweep", self._settings.scan_interval, enumerates=True, after="head")
        return Feed("head", interval), Feed("tail", interval), sweep

    def request(self, feed: str, cursor: Cursor | None, moment: Moment) -> Request | None:
        """Return the request for the next page; None of the tail while its bound has not moved.

        A tail that was read until far beyond it was read by a clock that was wrong.
        """
        if feed == "sweep":
            return self._list("id", [[("[id][greater_than]", str(cursor["id"]))]] if cursor else [], _ONLY_TIMES)
        bound = self._bound(feed, moment)
        read_until = cursor.get("until") if cursor else None
        if bound is None or (read_until is not None and bound <= read_until <= bound + self._lookback):
            return None
        within = [("[updatedAt][less_than_equal]", rfc3339(bound))]
        return self._list("updatedAt,id", [_behind(cursor), within] if cursor and "id" in cursor else [within])

    def _bound(self, feed: str, moment: Moment) -> int | None:
        if feed == "head":
            return max(moment.now, moment.server or 0) + _AHEAD_MS
        return None if moment.server is None else moment.server - self._lookback

    def _list(
        self, sort: str, conditions: Sequence[Sequence[tuple[str, str]]], more: Sequence[tuple[str, str]] = ()
    ) -> Request:
        query = [*self._common, *more, ("limit", str(self._settings.page_size)), ("sort", sort)]
        for index, condition in enumerate(conditions):
            query += [(f"where[and][{index}]{path}", value) for path, value in condition]
        if self._settings.where:
            query += encode(f"where[and][{len(conditions)}]", self._settings.where)
        return Request("GET", "/customers", tuple(query))

    def read(self, feed: str, cursor: Cursor | None, moment: Moment, response: Response) -> Page:
        """Read a page; one that is not in order, or from which there is no going on, is refused."""
        walk = Walk(f"{self.name}: reading a page of the {feed}", _place(cursor))
        body = listing(walk.doing, response)
        docs = documents(walk.doing, body)
        more = len(docs) >= self._settings.page_size or body["hasNextPage"]
        if feed == "sweep":
            total = cursor["total"] if cursor else total_of(walk.doing, body)
            page = _swept(walk, docs, total, more=more)
        else:
            bound = self._bound(feed, moment)
            page = _changed(walk, docs, cursor or {}, bound, more=more)
            if feed == "tail" and not more:
                page.cursor["until"] = bound
            if feed == "head" and moment.server is None and "date" not in response.headers:
                page = replace(page, note=page.note or _UNDATED)
        if more and not walk.moved:
            raise malformed(walk.doing, "the page does not lead on, although there is more")
        return page

    def lookup(self, customer_id: str) -> Request | None:
        """Return the request for one customer; None for an id that the server would read as another one's."""
        wanted = self._settings.id_type
        shapes = IDS.values() if wanted == "auto" else (IDS[wanted],)
        if not any(shape(customer_id) for shape in shapes):
            return None
        return Request("GET", f"/customers/{customer_id}", self._common)

    def read_lookup(self, customer_id: str, response: Response) -> Verdict:
        """Read a look-up: only Payload's own 404 says that a customer is gone, and only its own id that it exists.

        A 403 may be about this customer alone: whether it is the key's fault, the next page tells.
        """
        doing = f"{self.name}: looking a customer up"
        if response.status not in {HTTPStatus.OK, HTTPStatus.NOT_FOUND}:
            return Unsure(f"the look-up was answered {response.status}")
        try:
            body = parse(response, doing)
        except MalformedPageError as error:
            return Unsure(error.message)
        if response.status == HTTPStatus.NOT_FOUND:
            ours = isinstance(body, dict) and isinstance(body.get("errors"), list) and body["errors"]
            return Missing() if ours else Unsure("the look-up was answered 404, but not in the API's words")
        if not isinstance(body, dict) or id_of(body) != customer_id:
            return Unsure("the look-up was answered with something else than this customer")
        return Exists(Row(customer_id, body, milliseconds(body.get("updatedAt"))))

    def authorize(self, secrets: Mapping[str, str], token: str | None) -> Mapping[str, str]:  # ruff: ignore[unused-method-argument] - no tokens
        """Return the Authorization header; its whole value is configured."""
        return {"Authorization": secrets["key"]}

    def essence(self, row: Row) -> object:
        """Return the whole record; `updatedAt` too, since the published customer shows it and the sweep compares it."""
        return row.body

    def normalize(self, row: Row, normalizer: Normalizer) -> Customer:
        """Return the normalized customer; `docs/fields.md` says field by field what becomes of the document."""
        # What is taken out of the copy is found a place here; what is left are the attributes.
        doc, secret = normalizer.screen(row.body)
        take = doc.pop
        take("id", None)
        identifiers = _identifiers(doc, secret, normalizer)
        name = normalizer.name(*[take(field, None) for field in _NAMES])
        company = text(take("companyName", None))
        email = normalizer.email(take("email", None))
        phone = normalizer.phone(take("phone", None))
        if phone:
            phone["label"] = text(take("consumerPhoneType", None))
        previous = normalizer.address({part: take(field, None) for part, field in _PREVIOUS.items()}, "previous")
        tags = _tags(take("consumerLeadSource", None))
        types = _tags(take("companyType", None))
        return {
            "source": self.name,
            "id": row.id,
            "kind": "company" if (company or types) and not name else "person",
            "name": name,
            "company": {"name": company, "organization_number": None} if company else None,
            "emails": [email] if email else [],
            "phones": [phone] if phone else [],
            "addresses": [previous] if previous else [],
            "date_of_birth": normalizer.date(take("consumerDateOfBirth", None)),
            "locale": None,
            "status": text(take("consumerStatus", None)),
            "references": _references(doc),
            "identifiers": identifiers,
            "consents": [],
            "tags": tags + types,
            "metadata": {},
            "created_at": normalizer.timestamp(take("createdAt", None)),
            "updated_at": normalizer.timestamp(take("updatedAt", None)),
            "attributes": normalizer.attributes(doc),
            "first_seen": "",
        }


def _place(cursor: Cursor | None) -> Place | None:
    return (milliseconds(cursor.get("updatedAt")) or 0, cursor["id"]) if cursor and "id" in cursor else None


def _behind(cursor: Cursor) -> list[tuple[str, str]]:
    return [
        ("[or][0][updatedAt][greater_than]", cursor["updatedAt"]),
        ("[or][1][and][0][updatedAt][equals]", cursor["updatedAt"]),
        ("[or][1][and][1][id][greater_than]", str(cursor["id"])),
    ]


def _swept(walk: Walk, docs: Sequence[tuple[str | Bad, Document]], total: int, *, more: bool) -> Page:
    items: dict[str, Item] = {}
    for named, doc in docs:
        walk.on((0, doc["id"]))
        item = named if isinstance(named, Bad) else Stub(named, milliseconds(doc.get("updatedAt")))
        items[item.id] = item
    cursor = {"id": walk.place[1], "total": total} if walk.place else {}
    return Page(list(items.values()), cursor, more, total, twice(len(docs), len(items)))


def _changed(
    walk: Walk, docs: Sequence[tuple[str | Bad, Document]], cursor: Cursor, bound: int | None, *, more: bool
) -> Page:
    # The cursor keeps the time exactly as the server wrote it.
    stamp = cursor.get("updatedAt")
    items: dict[str, Item] = {}
    for named, doc in docs:
        updated = milliseconds(doc.get("updatedAt"))
        if updated is None:
            why = "updatedAt is missing or is no time"
            bad = named if isinstance(named, Bad) else Bad(named, why, size_of(doc), doc)
            items[bad.id] = bad
            continue
        if bound is None or updated > bound:
            raise malformed(walk.doing, "a row is newer than asked for")
        walk.on((updated, doc["id"]))
        stamp = doc["updatedAt"]
        item = named if isinstance(named, Bad) else Row(named, doc, updated)
        items[item.id] = item
    following = {"updatedAt": stamp, "id": walk.place[1]} if walk.place else {}
    return Page(list(items.values()), following, more, None, twice(len(docs), len(items)))


def _references(doc: Document) -> list[Reference]:
    """Take the references out of `doc`; what should be one but holds no single value stays an attribute."""
    found: list[Reference] = []
    for field in _REFERENCES:
        value = doc.get(field)
        if type(value) is str or type(value) is int:
            found.append({"type": field, "id": str(value).strip()})
            del doc[field]
    return [reference for reference in found if reference["id"]]


def _identifiers(doc: Document, secret: Sequence[tuple[str, Any]], normalizer: Normalizer) -> list[Identifier]:
    found: list[Identifier] = []
    for field, value in secret:
        type_ = _IDENTIFIERS.get(field, field)
        issuer = _state(doc) if type_ == _LICENCE else None
        identifier = normalizer.identifier(type_, value, issuer)
        if identifier is not None and identifier not in found:
            found.append(identifier)
    return found


def _state(doc: Document) -> object:
    return doc.get("consumerDriversLicenseState") or doc.get("consumerDriversLicenceState")


def _tags(value: object) -> list[str]:
    if not value:
        return []
    return [tag for tag in map(text, value if isinstance(value, list) else [value]) if tag]

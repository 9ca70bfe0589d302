"""Ten thousand spoiled answers for each adapter: none crashes it, loses a customer in silence, or gets into a message.

What an adapter may do with an answer is to refuse it by one of the contract's errors, or to read it: then every
customer in it is told of, each row can be normalized, and the cursor leads on to a request.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import starmap
from operator import itemgetter
from typing import Any

import orjson
import pytest

from tests.contract.fuzz import SECRET, spoiled
from tests.contract.shapes import misfit
from worker.errors import CredentialError, CursorExpiredError, MalformedPageError, RefusedError
from worker.events import Customer
from worker.normalize import Hasher, Normalizer
from worker.simulator import Connect as ConnectSimulator
from worker.simulator import Dintero as DinteroSimulator
from worker.simulator import Drivly as DrivlySimulator
from worker.simulator import MyKaarma as MykaarmaSimulator
from worker.sources import (
    Adapter,
    Bad,
    Cursor,
    Exists,
    Item,
    Missing,
    Moment,
    Page,
    Request,
    Response,
    Row,
    Stub,
    Token,
    Tombstone,
    Unsure,
    Verdict,
    normalizer,
)
from worker.sources.connect import Connect
from worker.sources.dintero import Dintero
from worker.sources.drivly import Drivly
from worker.sources.mykaarma import Mykaarma
from worker.sources.reading import parse

NOW = 1_750_000_000_000
MOMENT = Moment(NOW, NOW)
ROUNDS, TIMES = 10, 1_000
LONGEST_TOLD = 1_000
ERRORS = (MalformedPageError, RefusedError, CredentialError, CursorExpiredError)
URL = {"url": "https://api.example.com"}
UUID = "9f1c7c9e-0d44-4b50-8888-8dd25736052a"
Records = list[dict[str, Any]]


@dataclass(frozen=True)
class Subject:
    """An adapter and valid answers to what it asks.

    `feeds`: (feed, cursor, answer). `members` finds the customers in an answer and `key` is their id; `gone` are the
    statuses by which a look-up may say that a customer is missing.
    """

    adapter: Adapter
    feeds: Sequence[tuple[str, Cursor | None, Any]]
    members: Callable[[Any], Records]
    key: str
    lookup: tuple[str, Any] | None
    gone: frozenset[int] = frozenset()
    token: Any = None


def records(simulator: Any) -> Records:
    """Return a few customers as the upstream serves them, each with secrets in plain, listed and nested texts."""
    secret = {"email": f"{SECRET}@example.com", "name": SECRET, "first_name": SECRET, "consumerFirstName": SECRET}
    more = {"note": SECRET, "extra": {"texts": [SECRET]}}
    return [
        {**record, **secret, **more} for record in simulator(customers=3, clock=lambda: NOW / 1000).customers().values()
    ]


def connect() -> Subject:
    """Return connect and its answers, in either edition."""
    checked = Connect.Settings.model_validate({**URL, "key": {"env": "KEY"}})
    items = records(ConnectSimulator)
    listing = {"items": items, "pagination": {"nextCursor": SECRET}}
    older = {"items": items, "total": 6, "limit": 3, "offset": 0}
    feeds = [("scan", None, listing), ("scan", {"cursor": "x", "trail": []}, listing), ("scan", {"offset": 3}, older)]
    found = (items[0]["customerId"], items[0])
    return Subject(Connect("telco", checked), feeds, itemgetter("items"), "customerId", found, frozenset({404, 410}))


def dintero() -> Subject:
    """Return dintero and its answers to both feeds, with a tombstone and a contact."""
    checked = Dintero.Settings.model_validate({
        **URL,
        "aid": "P12345678",
        "client_id": {"env": "ID"},
        "client_secret": {"env": "SECRET"},
        "page_size": 7,
    })
    users = records(DinteroSimulator)
    users.append({"id": "dead", "customer_id": SECRET, "deleted_at": "2025-06-15T15:00:00.000Z", "deleted_by": SECRET})
    users[0] |= {"type": "contact", "contact_for": [{"customer_id": users[1]["customer_id"]}]}
    cursors = (None, {"since": 0}, {"since": NOW - 10, "floor": 5}, {"floor": 5}, {"floor": 5, "after": "x"})
    feeds = [("since", cursor, users) for cursor in cursors]
    feeds += [("check", cursor, users) for cursor in (None, {"total": 3}, {"total": None, "after": "x", "trail": []})]
    token = {"access_token": "ey.x.y", "token_type": "Bearer", "expires_in": 86400, "note": SECRET}
    return Subject(Dintero("shop", checked), feeds, lambda body: body, "id", None, token=token)


def drivly() -> Subject:
    """Return drivly and its answers to its three feeds."""
    checked = Drivly.Settings.model_validate({**URL, "key": {"env": "KEY"}, "page_size": 4})
    docs = records(DrivlySimulator)
    listing = {"docs": docs, "totalDocs": 3, "limit": 4, "page": 1, "hasNextPage": False, "nextPage": None}
    swept = {**listing, "docs": [{"id": doc["id"], "updatedAt": doc["updatedAt"]} for doc in docs]}
    feeds = [("head", None, listing), ("tail", None, listing), ("sweep", None, swept)]
    found = (str(docs[0]["id"]), docs[0])
    return Subject(Drivly("deals", checked), feeds, itemgetter("docs"), "id", found, frozenset({404}))


def mykaarma() -> Subject:
    """Return mykaarma, with orders, and its answer to a look-up."""
    credential = {"username": {"env": "USER"}, "password": {"env": "PASSWORD"}}
    who = {"requester_user_uuid": UUID, "dealer_uuids": [UUID]}
    checked = Mykaarma.Settings.model_validate({**URL, **credential, **who, "orders": True})
    answers = records(MykaarmaSimulator)
    info = {**answers[0]["customerInfo"], "fname": SECRET, "lname": SECRET}
    found = {**answers[0], "customerInfo": info, "errors": [{"errorCode": 1, "errorMessage": SECRET}], "warnings": []}
    return Subject(Mykaarma("dealer", checked), [], lambda body: [], "uuid", (info["uuid"], found), frozenset({204}))


SUBJECTS = {make.__name__: make() for make in (connect, dintero, drivly, mykaarma)}


@pytest.fixture(params=sorted(SUBJECTS))
def subject(request: pytest.FixtureRequest) -> Subject:
    """Return each of the adapters in turn."""
    return SUBJECTS[request.param]


@pytest.fixture(params=range(ROUNDS))
def chance(request: pytest.FixtureRequest, subject: Subject) -> random.Random:
    """Return the chance of one round, decided by its number."""
    return random.Random(f"{subject.adapter.kind} {request.param}")


def test_a_spoiled_answer_is_refused_or_read(subject: Subject, chance: random.Random) -> None:
    """Of a thousand spoiled answers each is refused by the contract's errors, or read as the contract says."""
    asked = _questions(subject)
    outcomes = {chance.choice(asked)(chance) for _ in range(TIMES)}
    assert outcomes >= {"refused", "read"}


Question = Callable[[random.Random], str]


def _questions(subject: Subject) -> list[Question]:
    adapter, normal = subject.adapter, normalizer(type(subject.adapter), _settings(subject), Hasher(b"pepper"))

    def page(feed: str, cursor: Cursor | None, body: Any) -> Question:
        def ask(chance: random.Random) -> str:
            response = spoiled(chance, body)
            read = _attempt(lambda: adapter.read(feed, cursor, MOMENT, response))
            return "refused" if read is None else _page(subject, feed, read, response, normal)

        return ask

    def look(customer_id: str, body: Any) -> Question:
        def ask(chance: random.Random) -> str:
            response = spoiled(chance, body)
            verdict = _attempt(lambda: adapter.read_lookup(customer_id, response))
            return "refused" if verdict is None else _verdict(subject, customer_id, verdict, response, normal)

        return ask

    def token(chance: random.Random) -> str:
        read: Token | None = _attempt(lambda: adapter.read_token(spoiled(chance, subject.token)))
        assert read is None or (read.value and read.expires_in > 0)
        return "refused" if read is None else "read"

    asked = list(starmap(page, subject.feeds))
    asked += [look(*subject.lookup)] if subject.lookup else []
    return [*asked, token] if subject.token else asked


def _settings(subject: Subject) -> Any:
    return type(subject.adapter).Settings.model_construct(region="US", privacy={})


def _attempt(read: Callable[[], Any]) -> Any:
    """Return what was read, None where one of the contract's errors was raised, which says nothing secret."""
    try:
        return read()
    except ERRORS as error:
        said = str(error)
    assert SECRET not in said
    return None


def _page(subject: Subject, feed: str, page: Page, response: Response, normal: Normalizer) -> str:
    assert response.status == 200
    assert SECRET not in (page.note or "")
    assert page.total is None or page.total >= 0
    cursor = orjson.loads(orjson.dumps(page.cursor))
    if page.more:
        _sendable(subject.adapter.request(feed, cursor, MOMENT))
    for item in page.items:
        _item(subject, item, normal)
    told = {item.id for item in page.items}
    there = subject.members(parse(response, "testing"))
    if page.items or page.cursor.keys() != {"total"}:
        ids = {str(record[subject.key])[:LONGEST_TOLD] for record in there}
        assert told == ids, "a customer on the page was not told of"
    return "read"


def _verdict(subject: Subject, customer_id: str, verdict: Verdict, response: Response, normal: Normalizer) -> str:
    match verdict:
        case Exists(row):
            assert (row.id, response.status) == (customer_id, 200)
            _item(subject, row, normal)
            return "read"
        case Missing():
            assert response.status in subject.gone
            return "missing"
        case Unsure(reason):
            assert SECRET not in reason
            return "refused"


def _sendable(request: Request | None) -> None:
    if request is not None:
        assert request.path.isascii()
        assert all(name.isprintable() and value.encode() for name, value in request.query)


def _item(subject: Subject, item: Item, normal: Normalizer) -> None:
    assert isinstance(item.id, str)
    assert item.id.encode()
    match item:
        case Row():
            _row(subject.adapter, item, normal)
        case Bad(_, reason, size):
            assert SECRET not in reason
            assert size >= 0
        case Tombstone(_, time) | Stub(_, time):
            assert time is None or isinstance(time, int)


def _row(adapter: Adapter, row: Row, normal: Normalizer) -> None:
    """Hold a row to the contract: it is fingerprinted the same each time, and its customer has the promised shape."""
    try:
        essence = orjson.dumps(adapter.essence(row), option=orjson.OPT_SORT_KEYS)
    except orjson.JSONEncodeError:
        return  # nested deeper than can be written: the poller sets it aside
    customer = adapter.normalize(row, normal)
    assert misfit(customer, Customer) is None
    assert (customer["id"], customer["first_seen"]) == (row.id, "")
    assert orjson.dumps(adapter.essence(row), option=orjson.OPT_SORT_KEYS) == essence, "normalizing changed the row"
    assert adapter.normalize(row, normal) == customer

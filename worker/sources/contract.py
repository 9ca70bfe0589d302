"""The contract of an adapter as checks that its author can run, ours and a third party's alike.

Make a `Specimen` of the adapter and a small API of a few customers; `CHECKS` are functions of it that raise
AssertionError with what was wrong. With pytest:

    @pytest.mark.parametrize("check", CHECKS)
    def test_my_adapter_keeps_the_contract(check):
        check(SPECIMEN)

The poller's guarantees rest on these promises: what a reading shows is complete, it can go on from any page, a look-up
never speaks of another customer, and no data, however bad, gets out of an adapter as anything but a row that can be
written or an error of the contract.
"""

import copy
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Final, ParamSpec, TypeVar, get_args

import orjson

from worker.errors import CredentialError, CursorExpiredError, MalformedPageError, RefusedError
from worker.events import Customer, Kind
from worker.settings import NAME_PATTERN, SourceSettings, Treatment
from worker.sources import Bad, Exists, Missing, Response, Unsure
from worker.sources.specimen import Specimen

__all__ = ["CHECKS", "Specimen"]

_P = ParamSpec("_P")
_T = TypeVar("_T")

_ERRORS: Final = (MalformedPageError, RefusedError, CredentialError, CursorExpiredError)
_STRANGE_IDS: Final = (
    "",
    " ",
    "..",
    "../1",
    "1/2",
    "1?x=1",
    "1#x",
    "1%2f2",
    "1\n",
    "\0",
    "\N{SNOWMAN}",
    "x" * 5_000,
)
_STRANGE_VALUES: Final[tuple[Any, ...]] = (
    None,
    True,
    -1,
    2**63,
    1e300,
    "",
    "  ",
    "\0\N{SNOWMAN}",
    "x" * 10_000,
    [],
    [None, 1, ["x"]],
    {},
    {"id": {"id": None}},
)
_OTHER_STATUSES: Final = (204, 206, 301, 302, 304, 400, 403, 404, 409, 410, 418, 431)
_OTHER_BODIES: Final = (
    b"",
    b"null",
    b"0",
    b'"x"',
    b"{}",
    b"[1]",
    b"[[]]",
    b"<html></html>",
    b"\x1f\x8b\x08",
    b"[NaN]",
    b'{"errors":[{"message":"x","data":[{"path":7}]}]}',
    b"[" * 100_000,
)
_PATH: Final = re.compile(r"(?:/(?:[A-Za-z0-9._~:@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+)+/?").fullmatch
_CUTS: Final = 50
# Shorter texts are found by chance.
_TELLING: Final = 4


def describes_itself(specimen: Specimen) -> None:
    """Check that kind, version, settings and privacy policy are what the configuration and the poller need."""
    adapter = specimen.adapter
    assert re.match(NAME_PATTERN, adapter.kind), "kind is no name"
    assert adapter.version >= 1, "version starts at 1"
    assert issubclass(adapter.Settings, SourceSettings), "Settings extend SourceSettings"
    assert specimen.checked.kind == adapter.kind, "the settings are of another kind"
    assert set(specimen.checked.secrets()) == set(specimen.secrets), "the settings name other secrets"
    assert set(adapter.privacy.values()) <= set(get_args(Treatment)), (
        "privacy says something else than keep, hash, drop"
    )


def has_feeds_that_fit_together(specimen: Specimen) -> None:
    """Check that each feed has a name of its own and an interval, and waits for no feed that is none."""
    feeds = specimen.make().feeds()
    names = [feed.name for feed in feeds]
    assert len(set(names)) == len(names), "two feeds have one name"
    for feed in feeds:
        assert feed.interval > 0, f"{feed.name}: no interval"
        assert feed.after is None or (feed.after in names and feed.after != feed.name), f"{feed.name}: waits for nobody"


def asks_below_its_base(specimen: Specimen) -> None:
    """Check that requests only read, below the base URL, and that no secret is in them but by `authorize`."""
    requests = [exchange.request for exchange in specimen.exchanges()] + [request for _, request in specimen.lookups()]
    for request in requests:
        assert request.method in {"GET", "POST"}, "reading neither changes nor deletes"
        assert _PATH(request.path), f"{request.path} is not an encoded path"
        assert all(type(part) is str for pair in request.query for part in pair), "a query has texts"
        sent = orjson.dumps([request.path, request.query, request.json, request.headers]).decode()
        assert not any(secret in sent for secret in specimen.secrets.values()), "a secret is in a request"


def is_pure(specimen: Specimen) -> None:
    """Check that the same question gives the same request and page, whoever asks, and that nothing is changed."""
    for exchange in specimen.exchanges():
        cursor = copy.deepcopy(exchange.cursor)
        for adapter in (specimen.make(), specimen.make()):
            assert adapter.request(exchange.feed, cursor, specimen.moment) == exchange.request
            assert adapter.read(exchange.feed, cursor, specimen.moment, exchange.response) == exchange.page
        assert cursor == exchange.cursor, f"{exchange.feed}: the cursor was changed in place"


def shows_every_customer(specimen: Specimen) -> None:
    """Check that a reading shows every customer and nobody else, and that a total is their number."""
    for feed in specimen.make().feeds():
        pages = [exchange.page for exchange in specimen.reading(feed.name)]
        shown = {item.id for page in pages for item in page.items}
        assert shown == specimen.customers, f"{feed.name}: {len(shown ^ specimen.customers)} too many or too few"
        assert {page.total for page in pages} <= {None, len(shown)}, f"{feed.name}: a total is not {len(shown)}"
        assert not any(isinstance(item, Bad) for page in pages for item in page.items), (
            f"{feed.name}: a good one is bad"
        )


def goes_on_from_any_page(specimen: Specimen) -> None:
    """Check that after a crash a feed is read on from any committed cursor, and nobody is passed over."""
    for feed in specimen.make().feeds():
        before: set[str] = set()
        for exchange in list(specimen.reading(feed.name)):
            rest = {item.id for later in specimen.reading(feed.name, exchange.cursor) for item in later.page.items}
            assert before | rest == specimen.customers, f"{feed.name}: passed over {specimen.customers - before - rest}"
            before |= {item.id for item in exchange.page.items}


def looks_up_the_one_asked_for(specimen: Specimen) -> None:
    """Check that a look-up finds each customer, does not find the absent one, and never speaks of another."""
    asked = list(specimen.lookups())
    for customer_id, request in asked:
        verdict = specimen.look_up(customer_id, request)
        if customer_id == specimen.absent:
            assert isinstance(verdict, Missing | Unsure), "an absent customer was found"
        else:
            assert isinstance(verdict, Exists), "a customer was not found"
            assert verdict.row.id == customer_id, "another customer was found"
    for (customer_id, _), (_, other) in zip(asked, asked[1:] + asked[:1], strict=True):
        believed = _attempt(specimen.look_up, customer_id, other)
        assert not isinstance(believed, Exists), "another customer's record was taken for this one's"


def asks_for_no_strange_id(specimen: Specimen) -> None:
    """Check that an id that is none of the API's is not looked up, or in a path that cannot mean anything else."""
    for strange in _STRANGE_IDS:
        request = specimen.make().lookup(strange)
        if request is not None:
            assert _PATH(request.path), "the id is not encoded"
            assert "/../" not in f"{request.path}/", "the id leads elsewhere"


def bears_other_answers(specimen: Specimen) -> None:
    """Check that what is not the API's own answer is refused by an error of the contract, and shows no customer."""
    adapter = specimen.make()
    answers = [Response(status, {}, b"{}") for status in _OTHER_STATUSES]
    answers += [Response(200, {"content-type": "text/html"}, body) for body in _OTHER_BODIES]
    for response in answers:
        for feed in adapter.feeds():
            page = _attempt(adapter.read, feed.name, None, specimen.moment, response)
            assert page is None or not page.items, f"{feed.name}: {response.status} showed customers"
        for customer_id, _ in specimen.lookups():
            verdict = _attempt(adapter.read_lookup, customer_id, response)
            assert not isinstance(verdict, Exists), f"{response.status} showed a customer"


def bears_cut_answers(specimen: Specimen) -> None:
    """Check that an answer that was cut off is refused, wherever it was cut."""
    adapter = specimen.make()
    for exchange in specimen.exchanges():
        body = exchange.response.body
        for end in range(0, len(body), 1 + len(body) // _CUTS):
            cut = replace(exchange.response, body=body[:end])
            page = _attempt(adapter.read, exchange.feed, exchange.cursor, specimen.moment, cut)
            assert page is None, f"{exchange.feed}: {end} bytes of {len(body)} were taken for a page"


def _attempt(read: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T | None:
    try:
        return read(*args, **kwargs)
    except _ERRORS:
        return None


def normalizes(specimen: Specimen) -> None:
    """Check that each customer is whole and can be written, and that its record is left as it was."""
    adapter = specimen.make()
    rows = specimen.rows()
    assert {row.id for row in rows} == specimen.customers, "not every customer's record could be had"
    for row in rows:
        essence = orjson.dumps(adapter.essence(row), option=orjson.OPT_SORT_KEYS)
        customer = adapter.normalize(row, specimen.normalizer)
        assert set(customer) == set(Customer.__annotations__), "keys are missing, or too many"
        assert (customer["source"], customer["id"], customer["first_seen"]) == (specimen.name, row.id, "")
        assert customer["kind"] in get_args(Kind), "no such kind"
        types = {reference["type"] for reference in customer["references"]}
        assert types <= getattr(adapter, "references", types), "a reference is of a type that was not declared"
        assert orjson.dumps(customer) == orjson.dumps(adapter.normalize(row, specimen.normalizer)), "not the same twice"
        assert orjson.dumps(adapter.essence(row), option=orjson.OPT_SORT_KEYS) == essence, "the record was changed"


def publishes_nothing_private(specimen: Specimen) -> None:
    """Check that no field that the policy drops or hashes is in a customer, neither its name nor its value."""
    private = {path.rpartition(".")[2] for path, treatment in specimen.adapter.privacy.items() if treatment != "keep"}
    for row in specimen.rows():
        customer = specimen.make().normalize(row, specimen.normalizer)
        attributes = orjson.dumps(customer["attributes"])
        assert not any(b'"%s":' % name.encode() in attributes for name in private), "a private field is an attribute"
        published, kept = orjson.dumps(customer), orjson.dumps(specimen.normalizer.screen(row.body)[0])
        hidden = [leaf for leaf in _leaves(row.body) if len(leaf) >= _TELLING and leaf not in kept]
        assert not any(leaf in published for leaf in hidden), "a private value is published"


def _leaves(value: object) -> Iterator[bytes]:
    if isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _leaves(part)
    else:
        yield orjson.dumps(value).strip(b'"')


def bears_bad_fields(specimen: Specimen) -> None:
    """Check that whatever stands in a field, there is a customer that can be written, and an essence."""
    adapter = specimen.make()
    row = max(specimen.rows(), key=lambda row: len(row.body))
    for name in row.body:
        for value in _STRANGE_VALUES:
            bad = replace(row, body={**row.body, name: value})
            orjson.dumps(adapter.essence(bad), option=orjson.OPT_SORT_KEYS)
            orjson.dumps(adapter.normalize(bad, specimen.normalizer))


CHECKS: Final[Sequence[Callable[[Specimen], None]]] = (
    describes_itself,
    has_feeds_that_fit_together,
    asks_below_its_base,
    is_pure,
    shows_every_customer,
    goes_on_from_any_page,
    looks_up_the_one_asked_for,
    asks_for_no_strange_id,
    bears_other_answers,
    bears_cut_answers,
    normalizes,
    publishes_nothing_private,
    bears_bad_fields,
)

"""The adapter keeps Rollcall's contract: the checks are Rollcall's own, the small API below is ours."""

from collections.abc import Callable
from typing import Any

import orjson
import pytest
from rollcall_source_ledger import Ledger

from worker.sources import Moment, Request, Response, available
from worker.sources.contract import CHECKS, Specimen

PEOPLE: dict[int, dict[str, Any]] = {
    number: {
        "number": number,
        "name": f"Ann Example{number}",
        "mail": f"Ann.{number}@Example.com",
        "street": f"{number} Example Street",
        "city": "Exampleton" if number % 2 else "Sampleham",
        "born": "1980-02-03",
        "passport": f"XX{number:07d}",
        "modified": "2025-01-02T03:04:05Z",
        "visits": 7,
        "note": "likes examples",
    }
    for number in range(1, 11)
}


def ledger(request: Request) -> Response:
    """Answer as the API does."""
    query = dict(request.query)
    if dict(request.headers).get("Authorization") != "Bearer letmein":
        return Response(401, {}, b"{}")
    if request.path != "/people":
        person = PEOPLE.get(int(request.path.rpartition("/")[2]))
        return Response(200 if person else 404, {}, orjson.dumps(person))
    rest = [person for number, person in PEOPLE.items() if number > int(query.get("after", 0))]
    page = rest[: int(query["limit"])]
    following = page[-1]["number"] if len(rest) > len(page) else None
    return Response(200, {}, orjson.dumps({"people": page, "next": following}))


SPECIMEN = Specimen(
    adapter=Ledger,
    settings={"kind": "ledger", "url": "https://ledger.example.com", "key": {"env": "LEDGER_KEY"}, "page_size": 3},
    secrets={"key": "letmein"},
    answer=ledger,
    customers=frozenset(map(str, PEOPLE)),
    absent="999",
    moment=Moment(1_750_000_000_000),
)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_adapter_keeps_the_contract(check: Callable[[Specimen], None]) -> None:
    """Rollcall's guarantees rest on it."""
    check(SPECIMEN)


def test_rollcall_finds_the_adapter() -> None:
    """By its entry point, once the package is installed beside Rollcall."""
    assert available()["ledger"] is Ledger


def test_a_customer_is_normalized() -> None:
    """What the contract cannot know: which field means what."""
    row = next(row for row in SPECIMEN.rows() if row.id == "1")
    customer = SPECIMEN.make().normalize(row, SPECIMEN.normalizer)
    assert customer["name"] is not None
    assert customer["name"]["family"] == "Example1"
    assert customer["emails"][0]["normalized"] == "ann.1@example.com"
    assert customer["attributes"] == {"note": "likes examples"}
    assert [identifier["type"] for identifier in customer["identifiers"]] == ["passport"]

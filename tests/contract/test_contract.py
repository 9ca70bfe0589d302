"""The contract's checks find what they look for: an adapter with one promise broken fails the check of that promise."""

import secrets
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.contract.test_adapters import SPECIMENS
from worker.events import Customer
from worker.normalize import Normalizer
from worker.sources import Cursor, Exists, Feed, Missing, Moment, Page, Request, Response, Row, Verdict
from worker.sources import contract as the
from worker.sources.contract import CHECKS, Specimen
from worker.sources.drivly import Drivly

WHOLE = SPECIMENS["drivly on postgres"]


class NoName(Drivly):
    """An adapter whose kind cannot stand in a configuration."""

    kind = "No Name"


class NeverAsked(Drivly):
    """An adapter with a feed that waits for one that does not exist."""

    def feeds(self) -> tuple[Feed, ...]:
        """Wait for nobody."""
        return tuple(replace(feed, after="nobody") for feed in super().feeds())


class Deleting(Drivly):
    """An adapter that does more than read."""

    def lookup(self, customer_id: str) -> Request | None:
        """Delete it."""
        request = super().lookup(customer_id)
        return request and replace(request, method="DELETE")


class Telling(Drivly):
    """An adapter that writes the credential into the address."""

    def request(self, feed: str, cursor: Cursor | None, moment: Moment) -> Request | None:
        """Tell everybody."""
        request = super().request(feed, cursor, moment)
        return request and replace(request, query=(*request.query, ("key", WHOLE.secrets["key"])))


class Moody(Drivly):
    """An adapter that asks differently each time."""

    def request(self, feed: str, cursor: Cursor | None, moment: Moment) -> Request | None:
        """Add something by chance."""
        request = super().request(feed, cursor, moment)
        return request and replace(request, query=(*request.query, ("x", secrets.token_hex())))


class Forgetful(Drivly):
    """An adapter that loses the last customer of a page."""

    def read(self, feed: str, cursor: Cursor | None, moment: Moment, response: Response) -> Page:
        """Lose one."""
        page = super().read(feed, cursor, moment, response)
        return replace(page, items=page.items[:-1])


class Hasty(Drivly):
    """An adapter that keeps its place in memory, and a checkpoint that is behind it by nothing and ahead by a page."""

    place: tuple[Cursor, Cursor] | None = None

    def request(self, feed: str, cursor: Cursor | None, moment: Moment) -> Request | None:
        """Go on from memory."""
        if feed == "sweep" and self.place and cursor == self.place[0]:
            cursor = self.place[1]
        return super().request(feed, cursor, moment)

    def read(self, feed: str, cursor: Cursor | None, moment: Moment, response: Response) -> Page:
        """Say to be further than it is."""
        if feed == "sweep" and self.place and cursor == self.place[0]:
            cursor = self.place[1]
        page = super().read(feed, cursor, moment, response)
        if feed == "sweep" and page.cursor:
            self.place = ({**page.cursor, "id": page.cursor["id"] + 3}, page.cursor)
            return replace(page, cursor=self.place[0])
        return page


class Believing(Drivly):
    """An adapter that takes whatever it is given for the customer it asked for."""

    def read_lookup(self, customer_id: str, response: Response) -> Verdict:
        """Believe it."""
        found = super().read_lookup(customer_id, response)
        return found if isinstance(found, Missing) else Exists(Row(customer_id, {"id": customer_id}))


class Loose(Drivly):
    """An adapter that puts an id into the path as it is."""

    def lookup(self, customer_id: str) -> Request | None:
        """Ask for anything."""
        return Request("GET", f"/customers/{customer_id}")


class Crashing(Drivly):
    """An adapter that reads an answer without looking."""

    def read(self, feed: str, cursor: Cursor | None, moment: Moment, response: Response) -> Page:
        """Trip over anything that is no page."""
        if response.status == 200 and response.body[:1] != b"{":
            raise KeyError(feed)
        return super().read(feed, cursor, moment, response)


class Patient(Drivly):
    """An adapter that takes half an answer for an empty page."""

    def read(self, feed: str, cursor: Cursor | None, moment: Moment, response: Response) -> Page:
        """Make the best of it."""
        whole = response.body.endswith(b"}")
        return super().read(feed, cursor, moment, response) if whole else Page([], cursor or {}, more=False)


class Changing(Drivly):
    """An adapter that takes from the record what it normalizes."""

    def normalize(self, row: Row, normalizer: Normalizer) -> Customer:
        """Take the e-mail address away."""
        customer = super().normalize(row, normalizer)
        row.body.pop("email", None)
        return customer


class Lacking(Drivly):
    """An adapter that leaves a key out."""

    def normalize(self, row: Row, normalizer: Normalizer) -> Customer:
        """Leave consents out."""
        customer: Any = super().normalize(row, normalizer)
        del customer["consents"]
        return customer  # type: ignore[no-any-return]


class Leaking(Drivly):
    """An adapter that publishes a hashed value elsewhere."""

    def normalize(self, row: Row, normalizer: Normalizer) -> Customer:
        """Publish it as a tag."""
        customer = super().normalize(row, normalizer)
        customer["tags"] = [str(row.body.get("consumerSocialSecurity"))]
        return customer


class Listing(Drivly):
    """An adapter that publishes a dropped field."""

    def normalize(self, row: Row, normalizer: Normalizer) -> Customer:
        """Publish it as an attribute."""
        customer = super().normalize(row, normalizer)
        customer["attributes"]["consumerIncome"] = "1"
        return customer


class Trusting(Drivly):
    """An adapter that relies on the type of a field."""

    def normalize(self, row: Row, normalizer: Normalizer) -> Customer:
        """Expect a text."""
        customer = super().normalize(row, normalizer)
        customer["status"] = row.body["consumerStatus"].upper()
        return customer


BROKEN: tuple[tuple[Callable[[Specimen], None], type[Drivly]], ...] = (
    (the.describes_itself, NoName),
    (the.has_feeds_that_fit_together, NeverAsked),
    (the.asks_below_its_base, Deleting),
    (the.asks_below_its_base, Telling),
    (the.is_pure, Moody),
    (the.shows_every_customer, Forgetful),
    (the.goes_on_from_any_page, Hasty),
    (the.looks_up_the_one_asked_for, Believing),
    (the.asks_for_no_strange_id, Loose),
    (the.bears_other_answers, Crashing),
    (the.bears_cut_answers, Patient),
    (the.normalizes, Changing),
    (the.normalizes, Lacking),
    (the.publishes_nothing_private, Leaking),
    (the.publishes_nothing_private, Listing),
    (the.bears_bad_fields, Trusting),
)


@pytest.mark.parametrize(("check", "broken"), BROKEN, ids=lambda value: value.__name__)
def test_a_broken_promise_is_found(check: Callable[[Specimen], None], broken: type[Drivly]) -> None:
    """The check of a promise fails for the adapter that breaks it."""
    with pytest.raises((AssertionError, KeyError, AttributeError)):
        check(replace(WHOLE, adapter=broken))


def test_every_check_is_seen_to_fail() -> None:
    """There is a broken adapter for each check."""
    assert {check for check, _ in BROKEN} == set(CHECKS)

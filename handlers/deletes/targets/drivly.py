"""Drivly's documented `DELETE /customers/{id}` (a Payload CMS REST API), with its look-up.

Payload parses the id loosely (`12abc` deletes customer 12) and deletes everything that a filter matches where the path
has no id: an id is therefore only taken in the exact form that this API gives out, and a DELETE has no query at all.
A wrong key is answered with 403, or, where the server filters by access, with an empty listing: so the canary is a
listing that has to show somebody, or the look-up of the customer that is configured for it.
"""

import re
from collections.abc import Mapping
from typing import Final

from handlers.deletes.settings import DrivlyTarget
from handlers.deletes.targets.contract import (
    Answer,
    Ask,
    Found,
    Missing,
    Sight,
    Unread,
    encoded,
    fault,
    filled,
    general,
    json_object,
)
from worker.handling import Reply
from worker.times import milliseconds

# The ids of Payload's data bases: serial numbers (Postgres, SQLite), ObjectIDs (MongoDB), UUIDs where so configured.
_ID: Final = re.compile(
    r"0|[1-9][0-9]{0,18}|[0-9a-f]{24}|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.ASCII
)
_DEPTH: Final = (("depth", "0"),)


class Drivly:
    """The Drivly API as a target."""

    def __init__(self, settings: DrivlyTarget) -> None:
        """Take the settings of one target."""
        self._settings = settings

    def valid(self, customer: str) -> bool:
        """Return whether this is a serial number, an ObjectID or a UUID, as Payload writes them."""
        return _ID.fullmatch(customer) is not None

    def delete(self, customer: str) -> Ask:
        """Return the documented DELETE, without any query."""
        return Ask("DELETE", self._path(customer))

    def read_delete(self, reply: Reply) -> Answer:
        """Return what the status means."""
        return general(reply.status, sent=reply.sent)

    def lookup(self, customer: str) -> Ask | None:
        """Return the look-up, with ids in place of related documents."""
        return Ask("GET", self._path(customer), _DEPTH)

    def read_lookup(self, customer: str, reply: Reply) -> Sight:
        """Return what the look-up shows; an answer about somebody else is not read."""
        if reply.status in {404, 410}:
            return Missing()
        if reply.status != 200:  # ruff: ignore[magic-value-comparison] - only a plain 200 shows a customer
            return fault(reply)
        body = json_object(reply.body)
        if body is None or str(body.get("id")) != customer:
            return Unread("the look-up's answer is not that customer")
        changed = milliseconds(body.get("updatedAt"))
        if changed is None:
            return Unread("the look-up's answer does not say when the customer was changed")
        return Found(
            changed,
            milliseconds(body.get("createdAt")),
            tuple(name for name in self._settings.relations if filled(body.get(name))),
            reply.body,
        )

    def canary(self) -> Ask | None:
        """Return the look-up of the configured canary, else a listing of one."""
        if self._settings.canary_id is not None:
            return self.lookup(self._settings.canary_id)
        return Ask("GET", "/customers", (("limit", "1"), *_DEPTH, ("select[id]", "true")))

    def read_canary(self, reply: Reply) -> Sight:
        """Return what the canary shows: an empty listing proves nothing."""
        if self._settings.canary_id is not None:
            return self.read_lookup(self._settings.canary_id, reply)
        if reply.status in {404, 410}:
            return Missing()
        if reply.status != 200:  # ruff: ignore[magic-value-comparison] - only a plain 200 shows a customer
            return fault(reply)
        docs = (json_object(reply.body) or {}).get("docs")
        if isinstance(docs, list) and docs and isinstance(docs[0], dict) and filled(docs[0].get("id")):
            return Found(None, None, (), reply.body)
        return Missing()

    def authorize(self, secrets: Mapping[str, str]) -> Mapping[str, str]:
        """Return the Authorization header: its whole value is the secret."""
        return {"Authorization": secrets["key"]}

    def _path(self, customer: str) -> str:
        if not self.valid(customer):
            raise ValueError("the id is none that this API gives out")
        return f"/customers/{encoded(customer)}"

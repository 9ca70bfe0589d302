"""A downstream that is described by configuration: method, path with the id, and what its statuses mean."""

import re
from collections.abc import Mapping
from typing import Any, Final

from handlers.deletes.settings import HttpTarget
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

# Numbers of seconds since 1970 are below this, of milliseconds above it, up to a thousand times as much: until 5138.
_SECONDS: Final = 10**11


class Http:
    """A configured HTTP target."""

    def __init__(self, settings: HttpTarget) -> None:
        """Take the settings of one target."""
        self._settings = settings
        self._pattern = re.compile(settings.id_pattern)

    def valid(self, customer: str) -> bool:
        """Return whether the whole id matches the configured pattern."""
        return self._pattern.fullmatch(customer) is not None and bool(customer.strip("."))

    def delete(self, customer: str) -> Ask:
        """Return the configured call with the id in its path."""
        return Ask(self._settings.method, self._path(self._settings.path, customer), json=self._settings.body)

    def read_delete(self, reply: Reply) -> Answer:
        """Return what the status means: as configured, else in general."""
        settings, status = self._settings, reply.status
        if status in settings.done:
            return Answer.DONE
        if status in settings.gone:
            return Answer.GONE
        if status in settings.retry:
            return Answer.LATER
        return general(status, sent=reply.sent)

    def lookup(self, customer: str) -> Ask | None:
        """Return the configured look-up."""
        path = self._settings.lookup
        return None if path is None else Ask("GET", self._path(path, customer))

    def read_lookup(self, customer: str, reply: Reply) -> Sight:
        """Return what the look-up shows; an answer about somebody else is not read."""
        settings = self._settings
        if reply.status in settings.gone:
            return Missing()
        if reply.status != 200:  # ruff: ignore[magic-value-comparison] - only a plain 200 shows a customer
            return fault(reply)
        body = json_object(reply.body)
        if body is None:
            if settings.id_field or settings.changed_field or settings.created_field or settings.relations:
                return Unread("the look-up's answer is not a JSON object")
            return Found(None, None, (), reply.body)
        if settings.id_field is not None and str(body.get(settings.id_field)) != customer:
            return Unread("the look-up was answered with another customer")
        return self._found(body, reply)

    def _found(self, body: dict[str, Any], reply: Reply) -> Found | Unread:
        """Return what is shown of a customer; without a time that should be there nobody can tell if it has changed."""
        settings = self._settings
        times = [name for name in (settings.changed_field, settings.created_field) if name is not None]
        unread = [name for name in times if _moment(body.get(name)) is None]
        if unread:
            return Unread(f"the look-up's answer has no time that can be read in {', '.join(unread)}")
        return Found(
            _moment(body.get(settings.changed_field or "")),
            _moment(body.get(settings.created_field or "")),
            tuple(name for name in settings.relations if filled(body.get(name))),
            reply.body,
            tuple(name for name in settings.relations if name not in body),
        )

    def canary(self) -> Ask | None:
        """Return the look-up of the configured canary."""
        return None if self._settings.canary_id is None else self.lookup(self._settings.canary_id)

    def read_canary(self, reply: Reply) -> Sight:
        """Return what the canary's look-up shows."""
        return self.read_lookup(self._settings.canary_id or "", reply)

    def authorize(self, secrets: Mapping[str, str]) -> Mapping[str, str]:
        """Return the configured headers."""
        return {name: secrets[f"headers.{name}"] for name in self._settings.headers}

    def _path(self, template: str, customer: str) -> str:
        if not self.valid(customer):
            raise ValueError("the id does not match the target's id_pattern")
        return template.replace("{id}", encoded(customer))


def _moment(value: object) -> int | None:
    """Return a time in milliseconds since the epoch: ISO 8601, or a number of seconds or milliseconds since 1970.

    None where it is neither, or not after 1970: many an API writes zero where it has no time.
    """
    found: int | None = None
    if isinstance(value, int | float) and not isinstance(value, bool) and value < _SECONDS * 1000:
        found = int(value * 1000 if value < _SECONDS else value)
    elif isinstance(value, str) and not value.isdigit():  # digits may look like a date of the basic format
        found = milliseconds(value)
    return found if found is not None and found > 0 else None

"""One source's API as the poller speaks to it: under its credential, at its pace, knowing its clock.

Guarantees: a rotated secret is taken up within seconds; a 401 renews the credential once, and is an error after that; a
page that the server says is unchanged (`ETag`) is not sent again; a single customer whose look-up fails for ever stops
nobody else.
"""

import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from http import HTTPStatus
from typing import Final

from worker.errors import CredentialError, TooManyRequestsError, UpstreamUnavailableError
from worker.http import Answer, Lane, TooLargeError
from worker.settings import SourceSettings
from worker.sources import Adapter, Exists, Missing, Moment, Request, Response, Unsure, Verdict
from worker.times import http_date, now_ms

_SECRETS_SECONDS: Final = 5.0
_TOKEN_SHARE: Final = 0.8  # of an access token's life, after which it is renewed
_KEPT_BYTES: Final = 4 * 1024 * 1024
_TRIES: Final = 3


class Upstream:
    """The way to one source's API."""

    def __init__(self, name: str, adapter: Adapter, settings: SourceSettings) -> None:
        """Prepare; nothing is sent before the first request."""
        self.name = name
        self.secrets: dict[str, str] = {}
        self._adapter = adapter
        self._settings = settings
        self._lane = Lane(name, settings)
        self._read_at = -_SECRETS_SECONDS
        self._token: tuple[str, float] | None = None
        self._server: tuple[int, float] | None = None
        self._pages = _Pages()
        self._answers = 0
        self._failed: dict[str, tuple[int, int]] = {}  # by customer: look-ups failed in a row, answers when that began

    async def prepare(self) -> None:
        """Read the secrets, now and then, and get a token where the API wants one; raises CredentialError."""
        if time.monotonic() - self._read_at >= _SECRETS_SECONDS:
            found = self._secrets()
            if found != self.secrets:
                self.secrets, self._token = found, None
                self._pages.clear()
            self._read_at = time.monotonic()
        request = self._adapter.token_request(self.secrets)
        if request is not None and (self._token is None or time.monotonic() >= self._token[1]):
            token = self._adapter.read_token(await self._send(request, {}))
            self._token = (token.value, time.monotonic() + _TOKEN_SHARE * token.expires_in)

    def _secrets(self) -> dict[str, str]:
        try:
            return {name: secret.read_line() for name, secret in self._settings.secrets().items()}
        except ValueError as error:
            message = f"{self.name}: a secret cannot be read: {error}"
            raise CredentialError(message, hint="It is tried again every half minute.") from error

    async def ask(self, request: Request) -> Response:
        """Ask under our credential; a 401 renews it once. Raises CredentialError, and what `Lane.fetch` raises."""
        for renewed in (False, True):
            token = None if self._token is None else self._token[0]
            response = await self._send(request, self._adapter.authorize(self.secrets, token))
            if response.status != HTTPStatus.UNAUTHORIZED:
                self._answers += 1
                return response
            if not renewed:
                self._read_at, self._token = -_SECRETS_SECONDS, None
                await self.prepare()
        message = f"{self.name}: {response.url} answered 401 to our credential, also after renewing it"
        raise CredentialError(message, hint="Mend the secret; it is read again every half minute.")

    async def lookup(self, customer_id: str) -> Verdict:
        """Look one customer up.

        One whose look-up fails several times in a row while other requests are answered, or is answered with too much,
        is given up, as `Unsure`, until it is asked for again: it would hold up all the others.
        """
        request = self._adapter.lookup(customer_id)
        if request is None:
            return Unsure("there is no look-up for it")
        try:
            response = await self.ask(request)
        except TooManyRequestsError:
            raise
        except UpstreamUnavailableError:
            failures, since = self._failed.get(customer_id, (0, self._answers))
            self._failed[customer_id] = failures + 1, since
            if failures + 1 < _TRIES or self._answers == since:
                raise
            del self._failed[customer_id]
            return Unsure(f"its look-up failed {failures + 1} times, while others were answered")
        except TooLargeError:
            self._failed.pop(customer_id, None)
            return Unsure("its look-up is answered with more than max_response_bytes")
        self._failed.pop(customer_id, None)
        verdict = self._adapter.read_lookup(customer_id, response)
        match verdict:
            case Exists():
                return replace(verdict, origin=response.origin)
            case Unsure():
                return replace(verdict, answer=response)
            case Missing():
                return verdict

    def looks_up(self, customer_id: str) -> bool:
        """Return whether there is a look-up for this id."""
        return self._adapter.lookup(customer_id) is not None

    async def _send(self, request: Request, credential: Mapping[str, str]) -> Response:
        headers = {**credential, **dict(request.headers), **self._pages.condition(request)}
        answer = await self._lane.fetch(
            request.method, request.path, query=request.query, json=request.json, headers=headers
        )
        date = http_date(answer.headers["date"]) if "date" in answer.headers else None
        if date is not None:
            self._server = (date, time.monotonic())
        return self._pages.keep(request, answer)

    def moment(self) -> Moment:
        """Return the time, ours and the server's by its last `Date` header."""
        server = None
        if self._server is not None:
            server = self._server[0] + int((time.monotonic() - self._server[1]) * 1000)
        return Moment(now_ms(), server)

    async def close(self) -> None:
        """Close the connections."""
        await self._lane.close()


_Asked = tuple[str, tuple[tuple[str, str], ...]]


class _Pages:
    """The last answers that came with an `ETag`, up to a few megabytes (RFC 9110, sections 8.8.3 and 13.1.2).

    A 304 brings headers of now: they replace those kept, but for what they say of a body (RFC 9111, section 3.2).
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[_Asked, tuple[str, Response]] = OrderedDict()
        self._size = 0

    def condition(self, request: Request) -> dict[str, str]:
        known = self._kept.get((request.path, request.query)) if request.method == "GET" else None
        return {} if known is None else {"If-None-Match": known[0]}

    def keep(self, request: Request, answer: Answer) -> Response:
        """Return the answer, or, where the server says that it is the same as before, that one."""
        response = Response(answer.status, answer.headers, answer.body, answer.url)
        if request.method != "GET":
            return response
        asked = (request.path, request.query)
        known = self._kept.pop(asked, None)
        if known is not None:
            self._size -= len(known[1].body)
            if answer.status == HTTPStatus.NOT_MODIFIED:
                fresh = {name: value for name, value in answer.headers.items() if not name.startswith("content-")}
                same = replace(known[1], headers={**known[1].headers, **fresh})
                self._add(asked, known[0], same)
                return same
        tag = answer.headers.get("etag")
        if tag and answer.status == HTTPStatus.OK and len(answer.body) <= _KEPT_BYTES:
            self._add(asked, tag, response)
        return response

    def _add(self, asked: "_Asked", tag: str, response: Response) -> None:
        self._kept[asked] = (tag, response)
        self._size += len(response.body)
        while self._size > _KEPT_BYTES:
            _, (_, oldest) = self._kept.popitem(last=False)
            self._size -= len(oldest.body)

    def clear(self) -> None:
        self._kept.clear()
        self._size = 0

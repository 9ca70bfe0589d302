"""HTTP to the upstreams and targets: one lane each, with its session, rate limit, time-outs and size cap.

A lane makes one attempt at a time and never repeats one by itself: a poller may ask again, a deletion must look first.
Every attempt takes a token of the lane's rate limit. Redirects are not followed (a credential would travel along), TLS
is verified, private addresses are refused unless the configuration allows them, and no body is ever logged.
"""

import asyncio
import ipaddress
import socket
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self
from urllib.request import getproxies, proxy_bypass

import aiohttp
import orjson
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import DefaultResolver
from yarl import URL

from worker import security, telemetry
from worker.errors import ConfigError, CredentialError, TooManyRequestsError, UpstreamError, UpstreamUnavailableError
from worker.settings import HttpSettings
from worker.times import http_date

_CHUNK: Final = 64 * 1024
_LONGEST_WAIT: Final = 86_400.0
_TOO_MANY: Final = 429
_SERVER_ERRORS: Final = 500


class TooLargeError(UpstreamError):
    """An answer is larger than the configuration allows; `sent` requests may have been carried out."""


class CalledOffError(UpstreamError):
    """Whoever asked for a request did not want it any more when its turn came; nothing was sent."""


class MisplacedError(UpstreamError):
    """A request's path would not be in the path of its URL, but in a query, say; nothing was sent."""


class PrivateAddressError(UpstreamError):
    """The name resolves to an address that the configuration does not allow."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer: names of headers in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    url: str


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Return the seconds that `Retry-After` asks for (RFC 9110, section 10.2.3: a number or a date), None without one.

    `now` is in seconds since the epoch. More than a day is taken for a day.
    """
    value = headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        return min(float(value), _LONGEST_WAIT)
    moment = http_date(value)
    return None if moment is None else min(max(0.0, moment / 1000 - now), _LONGEST_WAIT)


class RateLimit:
    """A token bucket: `rate` tokens a second, at most `burst` saved up."""

    def __init__(self, rate: float, burst: int) -> None:
        """Start full."""
        self._rate = rate
        self._burst = float(burst)
        self._tokens = float(burst)
        self._at = time.monotonic()
        self._lock = asyncio.Lock()

    async def take(self, wanted: Callable[[], bool] = lambda: True) -> bool:
        """Wait for a token; callers are served in order. One that is not `wanted` any more in its turn takes none.

        Returns whether it was taken; `wanted` is asked last thing before it is.
        """
        async with self._lock:
            while True:
                now = time.monotonic()
                self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
                self._at = now
                if not wanted():
                    return False
                if self._tokens >= 1:
                    self._tokens -= 1
                    return True
                await asyncio.sleep((1 - self._tokens) / self._rate)


class _PublicResolver(AbstractResolver):
    """Resolves names, and refuses private addresses."""

    def __init__(self) -> None:
        self._resolver = DefaultResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        results = await self._resolver.resolve(host, port, family)
        for result in results:
            refuse_private(result["host"], host)
        return results

    async def close(self) -> None:
        await self._resolver.close()


def refuse_private(address: str, host: str) -> None:
    """Raise PrivateAddressError if `address` (of `host`) is not a public one."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return
    if not found.is_global:
        message = f"{host} is at a private address"
        raise PrivateAddressError(message, hint="Set allow_private_addresses: true if that is meant.")


def _proxy(url: URL) -> str | None:
    """Return the proxy that the environment names for `url` (http_proxy, https_proxy, no_proxy).

    aiohttp's own reading of the environment would also send what a .netrc says in place of the credential.
    """
    return None if proxy_bypass(url.host or "") else getproxies().get(url.scheme)


class Lane:
    """The way to one API. Use as an async context manager, or `close` it."""

    def __init__(
        self,
        name: str,
        settings: HttpSettings,
        authorize: Callable[[], Mapping[str, str]] | None = None,
        traces: Sequence[aiohttp.TraceConfig] = (),
    ) -> None:
        """`name` is the source's or target's, for messages and metrics; `traces` are told of each request.

        `authorize` gives the headers of the credential, anew for each request (a rotated secret is taken up), and
        raises ValueError where there is none.
        """
        self.name = name
        self._authorize = authorize
        self._traces = list(traces)
        self._settings = settings
        self._base = str(settings.url).rstrip("/")
        self._root = URL(self._base, encoded=True).raw_path.rstrip("/")
        self._limit = RateLimit(settings.rate, settings.burst)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        """Return itself."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close."""
        await self.close()

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            settings, url = self._settings, URL(self._base)
            if not settings.allow_private_addresses:
                refuse_private(url.host or "", url.host or "")
            proxy = _proxy(url)
            context = self._trusting()
            # Behind a proxy only the proxy's own name is resolved here, and it may well be at a private address.
            resolver = None if settings.allow_private_addresses or proxy else _PublicResolver()
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=context, resolver=resolver, limit=64, keepalive_timeout=4),
                proxy=proxy,
                timeout=aiohttp.ClientTimeout(total=settings.timeout),
                cookie_jar=aiohttp.DummyCookieJar(),
                json_serialize=lambda value: orjson.dumps(value).decode(),
                max_line_size=32_768,
                max_field_size=32_768,
                trace_configs=self._traces,
            )
            # aiohttp would send GET, PUT and DELETE again over a new connection where the old one was lost: a repeated
            # DELETE that found nothing left would hide that the first one was carried out.
            self._session._retry_connection = False  # ruff: ignore[private-member-access] - there is no public switch
        return self._session

    async def send(
        self,
        method: str,
        path: str,
        *,
        query: tuple[tuple[str, str], ...] = (),
        json: object | None = None,
        headers: Mapping[str, str] | None = None,
        wanted: Callable[[], bool] = lambda: True,
    ) -> Answer:
        """Make one attempt and return the whole answer, whatever its status.

        `path` is already encoded, `query` is not. `wanted` is asked when the rate limit has let the request through,
        last thing before it is sent. Raises UpstreamUnavailableError where there is no (whole) answer, TooLargeError;
        PrivateAddressError, CredentialError, MisplacedError and CalledOffError where nothing was sent.
        """
        url = URL(self._base + path, encoded=True)
        if url.raw_path != self._root + path or url.raw_query_string:
            message = f"{self.name}: {method} was not sent: its path would not be in the URL's path"
            raise MisplacedError(message, hint="Does the base URL have a query?")
        sent = {**(headers or {}), **self._credential()}
        if not await self._limit.take(wanted):
            raise CalledOffError(f"{self.name}: {method} {path} was called off before it was sent")
        if query:
            url = url.with_query(list(query))
        started = time.monotonic()
        outcome = "error"
        try:
            more: dict[str, Any] = {} if json is None else {"json": json}
            async with self._open().request(method, url, headers=sent, allow_redirects=False, **more) as response:
                body = await self._read(response)
                outcome = str(response.status)
                found = {name.lower(): value for name, value in response.headers.items()}
                return Answer(response.status, found, body, f"{method} {url.path}")
        except (PrivateAddressError, CredentialError):
            raise
        except TimeoutError as error:
            outcome = "timeout"
            message = f"{self.name}: {method} {url.path} got no whole answer within {self._settings.timeout:g} s"
            raise UpstreamUnavailableError(message) from error
        except aiohttp.ClientConnectorError as error:
            outcome = "unreachable"
            message = f"{self.name}: {url.origin()} cannot be reached ({error.os_error.strerror or error.os_error})"
            raise UpstreamUnavailableError(message, hint="Is the url right, and the network policy open?") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            message = f"{self.name}: {method} {url.path} failed ({type(error).__name__})"
            raise UpstreamUnavailableError(message) from error
        finally:
            telemetry.REQUESTS.labels(self.name, outcome).inc()
            telemetry.REQUEST_SECONDS.labels(self.name).observe(time.monotonic() - started)

    def _trusting(self) -> ssl.SSLContext:
        try:
            return security.trusting(self._settings.ca_file, "ca_file")
        except ConfigError as error:  # not the network: nothing is sent, and only a person can mend it
            raise CredentialError(f"{self.name}: {error.problems[0]}") from error

    def _credential(self) -> Mapping[str, str]:
        if self._authorize is None:
            return {}
        try:
            return self._authorize()
        except ValueError as error:
            raise CredentialError(f"{self.name}: its credential cannot be read: {error}") from error

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        limit = self._settings.max_response_bytes
        chunks, size = [], 0
        async for chunk in response.content.iter_chunked(_CHUNK):
            size += len(chunk)
            if size > limit:
                response.close()
                message = f"{self.name}: {response.url.path} answered more than max_response_bytes ({limit})"
                raise TooLargeError(message, hint="Lower page_size, or raise max_response_bytes.")
            chunks.append(chunk)
        return b"".join(chunks)

    async def fetch(
        self,
        method: str,
        path: str,
        *,
        query: tuple[tuple[str, str], ...] = (),
        json: object | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Make one attempt; statuses 408, 429 and 5xx raise UpstreamUnavailableError with the wait they ask for."""
        answer = await self.send(method, path, query=query, json=json, headers=headers)
        if answer.status in {408, _TOO_MANY} or answer.status >= _SERVER_ERRORS:
            message = f"{self.name}: {answer.url} answered {answer.status}"
            kind = TooManyRequestsError if answer.status == _TOO_MANY else UpstreamUnavailableError
            raise kind(message, retry_after=retry_after(answer.headers, time.time()))
        return answer

    async def close(self) -> None:
        """Close the session."""
        if self._session is not None:
            await self._session.close()
            self._session = None

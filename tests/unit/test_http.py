"""The way to an API: one attempt at a time, under a rate limit, a time-out and a size cap, and to public addresses."""

import asyncio
import datetime as dt
import gzip
import ipaddress
import ssl
import tracemalloc
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from email.utils import formatdate
from pathlib import Path
from typing import Any, cast

import orjson
import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from worker import http
from worker.errors import CredentialError, UpstreamUnavailableError
from worker.http import CalledOffError, Lane, MisplacedError, PrivateAddressError, RateLimit, TooLargeError
from worker.settings import HttpSettings

Answering = Callable[[web.Request], web.Response]
Talking = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
MB = 1024 * 1024


@asynccontextmanager
async def serving(answer: Answering, context: ssl.SSLContext | None = None) -> AsyncGenerator[str]:
    """Serve every request by `answer`; gives the base URL."""

    async def whole(request: web.BaseRequest) -> web.Response:
        await request.read()
        return answer(cast("web.Request", request))

    runner = web.ServerRunner(web.Server(whole, access_log=None), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    try:
        yield f"{'http' if context is None else 'https'}://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def listening(talk: Talking) -> AsyncGenerator[str]:
    """Have `talk` with everyone who connects, byte by byte; gives the base URL."""

    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await talk(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(once, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


def settings(url: str, **changed: Any) -> HttpSettings:
    """Return settings that allow private addresses and are in no hurry."""
    return HttpSettings.model_validate({"url": url, "allow_private_addresses": True, "rate": 1e6} | changed)


def lane(url: str, authorize: Callable[[], Mapping[str, str]] | None = None, **changed: Any) -> Lane:
    """Return a lane to `url`."""
    return Lane("crm", settings(url, **changed), authorize)


def ok(_: web.Request) -> web.Response:
    """Answer that all is well."""
    return web.json_response({"ok": True})


# What is sent, and what comes back


async def test_what_is_asked_arrives_as_it_is_meant() -> None:
    """A plus is a plus, also in a value; brackets, spaces and other letters arrive too; the path is taken as it is."""
    asked: list[tuple[str, list[tuple[str, str]]]] = []

    def answer(request: web.Request) -> web.Response:
        asked.append((request.raw_path.partition("?")[0], list(request.query.items())))
        return web.Response()

    query = (("where[and][0][phone][equals]", "+1 555 0100&x=y"), ("name", "Ærøskøbing"), ("name", "twice"))
    async with serving(answer) as url, lane(f"{url}/api/") as one:
        await one.send("GET", "/customers/a%2Fb", query=query)
    assert asked == [("/api/customers/a%2Fb", list(query))]


@pytest.mark.parametrize(
    ("base", "path"),
    [("/api?tenant=7", "/people/5"), ("/api#x", "/people/5"), ("/api?", "/people/5"), ("", "/people?id=5"), ("", "5")],
)
async def test_a_path_that_would_not_be_in_the_urls_path_is_not_sent(base: str, path: str) -> None:
    """A DELETE of `/people` with the id in a query could be one of everybody."""
    asked: list[str] = []

    def answer(request: web.Request) -> web.Response:
        asked.append(request.raw_path)
        return web.Response()

    async with serving(answer) as url, lane(url) as one:
        unchecked = one._settings.model_copy(update={"url": url + base})
        async with Lane("crm", unchecked) as other:
            with pytest.raises(MisplacedError, match="would not be in the URL's path"):
                await other.send("DELETE", path)
    assert asked == []


async def test_an_answer_is_whole_with_its_headers_in_lower_case() -> None:
    """Whatever its status; the body as bytes, the path without its query for messages."""

    def answer(request: web.Request) -> web.Response:
        assert orjson.loads(request._read_bytes or b"") == {"reason": "test"}
        return web.Response(status=404, body=b"\xff\x00", headers={"X-Total-COUNT": "7"})

    async with serving(answer) as url, lane(url) as one:
        found = await one.send("DELETE", "/customers/7", query=(("depth", "0"),), json={"reason": "test"})
    assert (found.status, found.body, found.headers["x-total-count"]) == (404, b"\xff\x00", "7")
    assert found.url == "DELETE /customers/7"


async def test_a_credential_is_asked_for_at_each_request() -> None:
    """A rotated secret is taken up; one that is not there is a matter of credentials, and nothing is sent."""
    keys = iter(["one", "two"])
    seen = []

    def authorize() -> dict[str, str]:
        try:
            return {"Authorization": next(keys)}
        except StopIteration:
            raise ValueError("the environment variable KEY is empty or not set") from None

    def answer(request: web.Request) -> web.Response:
        seen.append(request.headers["Authorization"])
        return web.Response()

    async with serving(answer) as url, lane(url, authorize) as one:
        await one.send("GET", "/")
        await one.send("GET", "/")
        with pytest.raises(CredentialError, match="KEY is empty"):
            await one.send("GET", "/")
    assert seen == ["one", "two"]


async def test_no_credential_of_the_machine_travels_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A .netrc is for people; the configuration says what the API is told."""
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login someone password something\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    seen = []

    def answer(request: web.Request) -> web.Response:
        seen.append(request.headers.get("Authorization"))
        return web.Response()

    async with serving(answer) as url, lane(url) as one:
        await one.send("GET", "/", headers={"Authorization": "users API-Key k"})
        await one.send("GET", "/")
    assert seen == ["users API-Key k", None]


async def test_cookies_are_not_kept() -> None:
    """A session of one request is none of the next one's business."""
    seen = []

    def answer(request: web.Request) -> web.Response:
        seen.append(request.headers.get("Cookie"))
        return web.Response(headers={"Set-Cookie": "session=1"})

    async with serving(answer) as url, lane(url) as one:
        await one.send("GET", "/")
        await one.send("GET", "/")
    assert seen == [None, None]


async def test_a_redirect_is_an_answer_and_is_not_followed() -> None:
    """The credential would travel along."""
    asked = []

    def answer(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.Response(status=302, headers={"Location": "/elsewhere"})

    async with serving(answer) as url, lane(url) as one:
        assert (await one.send("GET", "/here")).status == 302
    assert asked == ["/here"]


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_a_request_is_sent_once_also_where_the_connection_is_lost(method: str) -> None:
    """A kept connection that closes under a request may have carried it out: who asked decides what to do."""
    asked = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (line := await reader.readline()).strip():
            while (await reader.readline()).strip():
                pass
            asked.append(line.split()[0].decode())
            if len(asked) > 1:
                return
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    async with listening(talk) as url, lane(url) as one:
        await one.send("GET", "/")
        with pytest.raises(UpstreamUnavailableError, match="ServerDisconnected"):
            await one.send(method, "/customers/7")
    assert asked == ["GET", method]


async def test_a_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless the environment excepts the host; and the proxy may be at a private address."""
    asked = []

    def answer(request: web.Request) -> web.Response:
        asked.append(request.raw_path)
        return web.Response()

    async with serving(answer) as proxy:
        monkeypatch.setenv("http_proxy", proxy.replace("127.0.0.1", "localhost"))
        async with lane("http://api.example.com/v1", allow_private_addresses=False) as one:
            await one.send("GET", "/customers")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        async with lane(proxy) as one:
            await one.send("GET", "/direct")
    assert asked == ["http://api.example.com/v1/customers", "/direct"]


# No whole answer


async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Take the request and never answer."""
    await reader.read()


async def dribble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer a byte at a time, for ever."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
    while not reader.at_eof():
        writer.write(b"x")
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("talk", [hang, dribble])
async def test_an_answer_that_takes_too_long_is_none(talk: Talking) -> None:
    """The time-out is for all of it, to the last byte."""
    async with listening(talk) as url, lane(url, timeout=0.1) as one:
        with pytest.raises(UpstreamUnavailableError, match=r"GET /customers got no whole answer within 0\.1 s"):
            await one.send("GET", "/customers", query=(("secret", "x"),))


@pytest.mark.parametrize(
    "start",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{",
        b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{"a"\r\n',
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nnope",
        b"SSH-2.0-OpenSSH\r\n",
    ],
)
async def test_an_answer_that_is_cut_is_none(start: bytes) -> None:
    """Nor is one that is no HTTP; a part of a body is never taken for the whole."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(start)

    async with listening(talk) as url, lane(url) as one:
        with pytest.raises(UpstreamUnavailableError, match="crm: GET /customers failed"):
            await one.send("GET", "/customers")


async def test_an_api_that_cannot_be_reached_is_named() -> None:
    """With its address, and what to look at."""
    async with listening(hang) as url:
        pass
    async with lane(f"{url}/api") as one:
        with pytest.raises(UpstreamUnavailableError, match=f"{url} cannot be reached") as caught:
            await one.send("GET", "/customers")
    assert "network policy" in (caught.value.hint or "")


def certificate(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """Return a server's context with a self-signed certificate for 127.0.0.1, and the file to trust."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = dt.datetime.now(dt.UTC)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    signed = (
        x509
        .CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(address, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    files = folder / "cert.pem", folder / "key.pem"
    files[0].write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*files)
    return context, files[0]


async def test_a_certificate_that_is_not_trusted_is_refused(tmp_path: Path) -> None:
    """And one that the configuration names is trusted."""
    context, file = certificate(tmp_path)
    async with serving(ok, context) as url:
        async with lane(url) as one:
            with pytest.raises(UpstreamUnavailableError, match=r"CERTIFICATE_VERIFY_FAILED|certificate verify failed"):
                await one.send("GET", "/")
        async with lane(url, ca_file=file) as one:
            assert (await one.send("GET", "/")).status == 200


@pytest.mark.parametrize(
    ("file", "says"), [("none", "No such file or directory"), ("empty", "it holds no usable certificate or key")]
)
async def test_a_ca_file_that_is_of_no_use_is_named(tmp_path: Path, file: str, says: str) -> None:
    """It is not taken for the network: nothing was sent."""
    (tmp_path / "empty").touch()
    async with lane("https://127.0.0.1:1/", ca_file=tmp_path / file) as one:
        with pytest.raises(CredentialError, match=f"crm: ca_file: .*{file}: {says}"):
            await one.send("GET", "/")


# Too much


@pytest.mark.parametrize("how", ["whole", "chunked"])
async def test_an_answer_above_the_limit_is_refused_and_one_at_it_is_not(how: str) -> None:
    """Whether it says its size before or not."""

    def answer(request: web.Request) -> web.Response:
        response = web.Response(body=b"x" * int(request.query["size"]))
        if how == "chunked":
            response.enable_chunked_encoding()
        return response

    async with serving(answer) as url, lane(url, max_response_bytes=2000) as one:
        assert len((await one.send("GET", "/", query=(("size", "2000"),))).body) == 2000
        with pytest.raises(TooLargeError, match=r"more than max_response_bytes \(2000\)"):
            await one.send("GET", "/", query=(("size", "2001"),))
        assert (await one.send("GET", "/", query=(("size", "1"),))).body == b"x"


async def test_an_answer_is_measured_as_it_is_unpacked() -> None:
    """A few bytes that unpack to many are refused before they take the memory."""
    bomb = gzip.compress(bytes(64 * MB))

    def answer(_: web.Request) -> web.Response:
        return web.Response(body=bomb, headers={"Content-Encoding": "gzip"})

    async with serving(answer) as url, lane(url, max_response_bytes=MB) as one:
        tracemalloc.start()
        try:
            with pytest.raises(TooLargeError):
                await one.send("GET", "/")
            assert tracemalloc.get_traced_memory()[1] < 16 * MB
        finally:
            tracemalloc.stop()


# Statuses


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
async def test_a_status_that_says_later_is_no_answer_to_fetch(status: int) -> None:
    """It says how long to wait, where the API does; `send` gives it as it came."""

    def answer(_: web.Request) -> web.Response:
        return web.Response(status=status, headers={"Retry-After": "7"})

    async with serving(answer) as url, lane(url) as one:
        assert (await one.send("GET", "/")).status == status
        with pytest.raises(UpstreamUnavailableError, match=f"GET /customers answered {status}") as caught:
            await one.fetch("GET", "/customers")
    assert caught.value.retry_after == pytest.approx(7)


@pytest.mark.parametrize("status", [200, 204, 301, 400, 401, 403, 404, 410])
async def test_any_other_status_is_for_the_adapter_to_read(status: int) -> None:
    """Nobody else knows what it means."""

    def answer(_: web.Request) -> web.Response:
        return web.Response(status=status)

    async with serving(answer) as url, lane(url) as one:
        assert (await one.fetch("GET", "/")).status == status


NOW = 1_700_000_000


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        (" 120 ", 120.0),
        (formatdate(NOW + 90, usegmt=True), 90.0),
        (formatdate(NOW - 90, usegmt=True), 0.0),
        ("Tuesday, 14-Nov-23 22:14:50 GMT", 90.0),
        ("9" * 400, 86_400.0),
        ("Tue, 14 Nov 2023 22:14:50 +" + "9" * 14, None),
        (formatdate(NOW + 10**9, usegmt=True), 86_400.0),
        ("-1", None),
        ("1.5", None),
        ("soon", None),
        ("²", None),
        ("", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str, seconds: float | None) -> None:
    """As RFC 9110 has it; a day at most, and what cannot be read is as if it were not there."""
    assert http.retry_after({"retry-after": value}, NOW) == seconds


def test_without_retry_after_nothing_is_asked_for() -> None:
    """The caller has a pause of its own."""
    assert http.retry_after({}, NOW) is None


@given(st.text() | st.from_regex(r"[A-Za-z]{3}, [0-9]{1,3} [A-Za-z]{3} [0-9]{1,6} [0-9:]{1,9} ?[+-]?[0-9]{0,30}"))
def test_no_header_can_stop_a_poll(value: str) -> None:
    """Whatever stands where a date should."""
    wait = http.retry_after({"retry-after": value}, NOW)
    assert wait is None or 0 <= wait <= 86_400


# Addresses


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "10.0.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.0", "[::1]", "[fd00::1]", "[::ffff:127.0.0.1]"],
)
async def test_a_private_address_is_refused(host: str) -> None:
    """A metadata service is no customer API. Nothing is sent, and the source says so rather than its worker."""
    async with lane(f"http://{host}:1/", allow_private_addresses=False) as one:
        with pytest.raises(PrivateAddressError, match="private address") as caught:
            await one.send("GET", "/")
    assert "allow_private_addresses" in (caught.value.hint or "")


async def test_a_name_of_a_private_address_is_refused() -> None:
    """What the name resolves to counts, at each connection."""
    async with lane("http://localhost:1/", allow_private_addresses=False) as one:
        with pytest.raises(PrivateAddressError, match="localhost is at a private address"):
            await one.send("GET", "/")


def test_a_public_address_is_not_refused() -> None:
    """Nor is a name: it is looked at when it is resolved."""
    http.refuse_private("203.0.114.1", "api.example.com")
    http.refuse_private("api.example.com", "api.example.com")


# Rate limit


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        """Return the time."""
        return self.now

    async def sleep(self, seconds: float) -> None:
        """Let time pass, a little at least: no clock is exact."""
        self.now += max(seconds, 1e-9)


@given(
    rate=st.floats(0.1, 1000),
    burst=st.integers(1, 20),
    gaps=st.lists(st.floats(0, 10) | st.just(0.0), min_size=1, max_size=60),
)
def test_a_rate_limit_lets_through_no_more_than_it_says_and_no_less(rate: float, burst: int, gaps: list[float]) -> None:
    """In any stretch of time at most the burst and the rate; and nobody waits longer than that demands."""
    clock = Clock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(http, "time", clock)
        patch.setattr("asyncio.sleep", clock.sleep)
        taken = asyncio.run(take_all(RateLimit(rate, burst), clock, gaps))
    for first, start in enumerate(taken):
        for last in range(first, len(taken)):
            assert last - first + 1 <= burst + rate * (taken[last] - start) + 1e-3
    tokens, before = float(burst), 1000.0
    wanted = 1000.0
    for gap, at in zip(gaps, taken, strict=True):
        wanted = max(wanted, before) + gap
        tokens = min(burst, tokens + (wanted - before) * rate)
        earliest = wanted if tokens >= 1 else wanted + (1 - tokens) / rate
        tokens = max(tokens - 1, 0.0)
        assert at <= earliest + 1e-3
        before = wanted = at


async def take_all(limit: RateLimit, clock: Clock, gaps: list[float]) -> list[float]:
    """Take a token after each gap; return when it was had."""
    taken = []
    for gap in gaps:
        clock.now += gap
        await limit.take()
        taken.append(clock.now)
    return taken


async def test_those_who_wait_are_served_in_order() -> None:
    """A look-up is not overtaken for ever by pages."""
    limit, served = RateLimit(1000, 1), list[int]()

    async def take(number: int) -> None:
        await limit.take()
        served.append(number)

    await asyncio.gather(*(take(number) for number in range(20)))
    assert served == list(range(20))


async def test_who_gives_up_waiting_takes_no_token_and_blocks_nobody() -> None:
    """A cancelled request is none."""
    limit = RateLimit(50, 1)
    await limit.take()
    waiting = [asyncio.ensure_future(limit.take()) for _ in range(2)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    await waiting[1]
    assert waiting[0].cancelled()


async def test_who_is_not_wanted_any_more_is_not_sent_and_takes_no_token() -> None:
    """The token is there for the next one."""
    asked: list[str] = []

    def answer(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.Response()

    async with serving(answer) as url, lane(url, burst=1, rate=1e-3) as one:
        with pytest.raises(CalledOffError):
            await one.send("DELETE", "/second", wanted=lambda: False)
        await one.send("GET", "/third")
    assert asked == ["/third"]


def test_whether_one_is_wanted_is_asked_once_its_turn_has_come() -> None:
    """What it rests on may be too old by that time."""
    clock = Clock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(http, "time", clock)
        patch.setattr("asyncio.sleep", clock.sleep)
        limit, start = RateLimit(0.1, 1), clock.now
        assert asyncio.run(limit.take())
        assert not asyncio.run(limit.take(lambda: clock.now < start + 5))
        assert asyncio.run(limit.take(lambda: clock.now < start + 15))


async def test_every_attempt_takes_a_token() -> None:
    """Also one that fails."""
    async with listening(hang) as url:
        pass
    async with lane(url, burst=3, rate=1e-3) as one:
        for _ in range(3):
            with pytest.raises(UpstreamUnavailableError):
                await one.send("GET", "/")
        assert one._limit._tokens < 1

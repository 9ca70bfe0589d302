"""Reading answers: what servers get slightly wrong is read, what is no JSON is refused, and no body is ever quoted."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.errors import CredentialError, MalformedPageError, RefusedError, UpstreamError
from worker.sources import Bad, Response
from worker.sources.reading import named, parse, refuse, size_of, unusable

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


def answer(body: bytes, status: int = 200, content_type: str = "application/json") -> Response:
    """Return an answer."""
    return Response(status, {"content-type": content_type}, body, "GET /api/customers")


@given(JSON)
def test_json_is_read(value: Any) -> None:
    """What one JSON library writes is read."""
    assert parse(answer(orjson.dumps(value)), "reading") == value


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b'{"name":"half \\ud83d an emoji"}', {"name": "half \N{REPLACEMENT CHARACTER} an emoji"}),
        (b'{"\\udc00":["\\udc00"]}', {"\N{REPLACEMENT CHARACTER}": ["\N{REPLACEMENT CHARACTER}"]}),
        (b"\xef\xbb\xbf[1]", [1]),
        ('["\N{LATIN SMALL LETTER O WITH STROKE}"]'.encode("utf-16"), ["\N{LATIN SMALL LETTER O WITH STROKE}"]),
        (b"[1e999, 0.5]", ["1e999", 0.5]),
        (
            b'["\\ud800", 123456789012345678901234567890, 7]',
            ["\N{REPLACEMENT CHARACTER}", 123456789012345678901234567890.0, 7],
        ),
        (b'["\\ud800", 1' + b"0" * 400 + b"]", ["\N{REPLACEMENT CHARACTER}", "1" + "0" * 400]),
        (b"[-1" + b"0" * 5_000 + b", 7]", ["-1" + "0" * 5_000, 7]),
        (
            b'["\\ud800", 9223372036854775807, -9223372036854775808]',
            ["\N{REPLACEMENT CHARACTER}", 2**63 - 1, -(2.0**63)],
        ),
    ],
)
def test_what_is_slightly_wrong_is_read(body: bytes, value: Any) -> None:
    """Half a surrogate pair, a byte order mark, UTF-16 and endless numbers block no source, and can be written."""
    found = parse(answer(body), "reading")
    assert found == value
    orjson.dumps(found)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>customer@example.com</html>",
        b'{"docs":[{"email":"customer@example.com"',
        b'[NaN, "customer@example.com"]',
        b'["\xff\xfe customer@example.com"]',
        b"[" * 100_000,
        b"[" * 5_000 + b"]" * 5_000,
    ],
)
def test_what_is_no_json_is_refused(body: bytes) -> None:
    """What cannot be read fails the scan; the message says how long it was, and nothing that was in it."""
    with pytest.raises(
        MalformedPageError, match=rf"reading: the answer is not JSON \({len(body)} bytes, text/html\)"
    ) as raised:
        parse(answer(body, content_type="text/html; charset=utf-8"), "reading")
    assert "example" not in str(raised.value)


@pytest.mark.parametrize("content_type", ["", "nonsense", "a/b customer@example.com", "x" * 100 + "/y"])
def test_a_strange_content_type_is_not_quoted(content_type: str) -> None:
    """Only what looks like a media type is repeated in a message."""
    with pytest.raises(MalformedPageError, match="of no known type"):
        parse(answer(b"", content_type=content_type), "reading")


@pytest.mark.parametrize(
    ("status", "error", "said"),
    [
        (401, CredentialError, "credential"),
        (403, CredentialError, "credential"),
        (302, RefusedError, "redirects"),
        (400, RefusedError, "url"),
        (404, RefusedError, "url"),
        (431, RefusedError, "url"),
    ],
)
def test_a_status_says_whose_fault_it_is(status: int, error: type[UpstreamError], said: str) -> None:
    """A refused credential, a redirect and a refused request each have an error that says what to do."""
    with pytest.raises(error, match=said) as raised:
        refuse(answer(b"customer@example.com", status), "reading", "because")
    assert str(raised.value).startswith(f"reading: GET /api/customers answered {status} (because)")
    assert "example" not in str(raised.value)


def test_an_id_that_cannot_be_used_still_names_its_record() -> None:
    """A text or a number does; without end it is cut, so that its dead letter can be sent."""
    assert [named(id_) for id_ in ("a\n", 7, "", None, True, 1.5, [])] == [True, True, *[False] * 5]
    assert unusable("x" * 2_000_000, {}) == Bad("x" * 1_000, "its id cannot be used", 2)
    assert unusable("a\n", {"id": "a\n"}).record == {"id": "a\n"}


def test_the_size_of_a_record_is_that_of_its_json() -> None:
    """A record's size is in bytes of JSON; one that cannot be written has none."""
    deep: Any = 1
    for _ in range(500):
        deep = [deep]
    assert size_of({"a": "\N{LATIN SMALL LETTER O WITH STROKE}"}) == 10
    assert size_of({"a": deep}) == 0

"""Reading answers: what every adapter needs, and what is easily got wrong.

`parse` takes a body in any of the ways in which servers get JSON slightly wrong, so that one customer with half an
emoji in its name does not block a source, and returns only what can be written again: text without lone surrogates,
numbers that JSON has. No message holds anything of a body.
"""

import json
import math
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final, NoReturn, TypeGuard

import orjson

from worker.errors import CredentialError, MalformedPageError, RefusedError
from worker.sources import Bad, Request, Response, Token

_SURROGATES: Final = re.compile(r"[\ud800-\udfff]")
_REPLACEMENT: Final = "\N{REPLACEMENT CHARACTER}"
_INTEGER_BITS: Final = 63
_INTEGER_DIGITS: Final = 20
_TOLD: Final = 1_000
_LONGEST_ID: Final = 255


class Tokenless:
    """Base of an adapter whose API has no access tokens: the credential is sent as it is."""

    name: str

    def token_request(self, secrets: Mapping[str, str]) -> Request | None:  # ruff: ignore[unused-method-argument] - no tokens
        """Return None."""
        return None

    def read_token(self, response: Response) -> Token:
        """Refuse."""
        raise malformed(f"{self.name}: reading a token", f"the API has none ({response.status})")


def parse(response: Response, doing: str) -> Any:
    """Return the JSON of an answer; raises MalformedPageError where there is none. `doing`: for the message.

    What `orjson` refuses is read again by the more patient `json`: half a surrogate pair becomes U+FFFD, a byte order
    mark and UTF-16 are read, a number that no double can hold becomes text. NaN is refused by both.
    """
    try:
        return orjson.loads(response.body)
    except orjson.JSONDecodeError:
        pass
    try:
        return _clean(json.loads(response.body, parse_constant=_refuse, parse_float=_float, parse_int=_int))
    except (ValueError, RecursionError) as error:
        message = f"{doing}: the answer is not JSON ({len(response.body)} bytes, {content_type(response)})"
        hint = "Is the base URL that of the API? A proxy, a log-in page or a cut connection answers like this."
        raise MalformedPageError(message, hint=hint) from error


def malformed(doing: str, what: str) -> MalformedPageError:
    """Return the error for an answer that is JSON, but not what the API's document describes."""
    hint = "The scan has failed and its checkpoint stays. Has the API changed, or is something else answering for it?"
    return MalformedPageError(f"{doing}: {what}", hint=hint)


def refuse(response: Response, doing: str, reason: str = "") -> NoReturn:
    """Raise what a status outside 2xx means: CredentialError for 401 and 403, RefusedError for any other."""
    message = f"{doing}: {response.url or 'the API'} answered {response.status}{reason and f' ({reason})'}"
    if response.status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        raise CredentialError(message, hint="The credential is not accepted: replace it, or give it access.")
    redirected = HTTPStatus.MULTIPLE_CHOICES <= response.status < HTTPStatus.BAD_REQUEST
    hint = "It redirects; write the address it redirects to as the url." if redirected else "Is the url right?"
    raise RefusedError(message, hint=hint)


def content_type(response: Response) -> str:
    """Return the media type of an answer, for messages."""
    declared = response.headers.get("content-type", "").partition(";")[0].strip()
    return declared if re.fullmatch(r"[\w.+-]{1,60}/[\w.+-]{1,60}", declared) else "of no known type"


def named(id_: object) -> TypeGuard[str | int]:
    """Return whether a record has an id, be it one that cannot be used: a text or an integer."""
    return type(id_) is int or (type(id_) is str and bool(id_))


def usable(id_: object) -> TypeGuard[str]:
    """Return whether an id is a text that can be shown and looked up: printable, not blank, of no more than 255."""
    return isinstance(id_, str) and 0 < len(id_) <= _LONGEST_ID and id_.isprintable() and not id_.isspace()


def objects(value: object) -> list[dict[str, Any]]:
    """Return the objects of a list, leaving out whatever else is in it; none where `value` is no list."""
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def unusable(id_: str | int, record: Mapping[str, Any]) -> Bad:
    """Return a record as one that is set aside, because its id cannot be used.

    Such an id may be of any length: it is cut, so that its dead letter is not larger than Kafka takes.
    """
    return Bad(str(id_)[:_TOLD], "its id cannot be used", size_of(record), record)


def size_of(record: Mapping[str, Any]) -> int:
    """Return the size of a record in bytes of JSON, 0 if it cannot be written (nested too deeply)."""
    try:
        return len(orjson.dumps(record))
    except orjson.JSONEncodeError:
        return 0


def _refuse(_: str) -> NoReturn:
    raise ValueError("NaN and Infinity are not JSON")


def _float(text: str) -> float | str:
    number = float(text)
    return number if math.isfinite(number) else text


def _int(text: str) -> int | float | str:
    # Python's int() refuses thousands of digits.
    number = int(text) if len(text) <= _INTEGER_DIGITS else None
    return number if number is not None and number.bit_length() <= _INTEGER_BITS else _float(text)


def _clean(value: Any) -> Any:
    if type(value) is str:
        return _SURROGATES.sub(_REPLACEMENT, value)
    if type(value) is list:
        return [_clean(element) for element in value]
    if type(value) is dict:
        return {_clean(name): _clean(element) for name, element in value.items()}
    return value

"""Times between systems: RFC 3339 in UTC or HTTP dates outside, milliseconds since the epoch inside."""

import time
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Final

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_NAIVE: Final = datetime(1970, 1, 1)  # ruff: ignore[call-datetime-without-tzinfo] - UTC; written without its offset
_MILLISECOND: Final = timedelta(milliseconds=1)
_FIRST: Final = (datetime.min.replace(tzinfo=UTC) - _EPOCH) // _MILLISECOND
_LAST: Final = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // _MILLISECOND


def now_ms() -> int:
    """Return the time in milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def milliseconds(value: object) -> int | None:
    """Return an ISO 8601 time as milliseconds since the epoch (without a zone it is UTC), None if it is none."""
    if type(value) is not str:
        return None
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return None
    found = ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - _EPOCH) // _MILLISECOND
    return found if _FIRST <= found <= _LAST else None


def http_date(value: str) -> int | None:
    """Return an HTTP date (RFC 9110, section 5.6.7) as milliseconds since the epoch, None if it is none."""
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, OverflowError):  # the latter over a zone that no integer holds
        return None
    return ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - _EPOCH) // _MILLISECOND


def rfc3339(moment: int) -> str:
    """Return milliseconds since the epoch as RFC 3339 in UTC, with milliseconds.

    A time outside the years 1 to 9999 is written as the nearest one within them.
    """
    within = min(max(moment, _FIRST), _LAST)
    return f"{(_NAIVE + within * _MILLISECOND).isoformat(timespec='milliseconds')}Z"

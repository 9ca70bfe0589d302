"""Times between systems: RFC 3339 outside, milliseconds since the epoch inside."""

from datetime import UTC, datetime


def milliseconds(value: object) -> int | None:
    """Return an ISO 8601 time as milliseconds since the epoch, None where it is none; without a zone it is UTC."""
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return round(moment.timestamp() * 1000)


def rfc3339(moment: int) -> str:
    """Return milliseconds since the epoch as RFC 3339 in UTC."""
    return datetime.fromtimestamp(moment / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")

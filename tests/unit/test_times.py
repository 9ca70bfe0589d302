"""Times read and written."""

import time
from datetime import UTC, datetime
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.times import http_date, milliseconds, rfc3339


@given(st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31)))  # ruff: ignore[call-datetime-without-tzinfo]  # Hypothesis wants them so
def test_times_are_written_to_the_millisecond(moment: datetime) -> None:
    """No rounding moves a time, however far away it is."""
    moment = moment.replace(microsecond=moment.microsecond // 1000 * 1000, tzinfo=UTC)
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    written = (since.days * 86_400 + since.seconds) * 1000 + since.microseconds // 1000
    text = rfc3339(written)
    assert text == moment.strftime("%Y").zfill(4) + moment.strftime("-%m-%dT%H:%M:%S.") + f"{moment:%f}"[:3] + "Z"


def test_a_time_that_no_date_has_is_written_as_the_nearest_one() -> None:
    """An upstream's last millisecond of the year 9999, rounded up, does not stop a poll."""
    assert rfc3339(2**62) == "9999-12-31T23:59:59.999Z"
    assert rfc3339(-(2**62)) == "0001-01-01T00:00:00.000Z"


@given(st.integers(-62_135_596_800_000, 253_402_300_799_999))
def test_reading_and_writing_are_inverse(moment: int) -> None:
    """A time written and read again is the same, to the millisecond."""
    assert milliseconds(rfc3339(moment)) == moment


@given(st.integers(-(2**33), 2**37), st.sampled_from(["GMT", "-0000", "+0000", ""]))
def test_an_http_date_is_utc_wherever_it_is_read(second: int, zone: str) -> None:
    """A zone that says nothing of where it was written, or none, is not that of this machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        try:
            assert http_date(formatdate(second, usegmt=True).replace("GMT", zone)) == second * 1000
        finally:
            patch.undo()
            time.tzset()


@given(st.text() | st.from_regex(r"[A-Za-z]{3}, [0-9]{1,3} [A-Za-z]{3} [0-9]{1,6} [0-9:]{1,9} ?[+-]?[0-9]{0,30}"))
def test_what_is_no_http_date_is_none(value: str) -> None:
    """Whatever stands where a date should."""
    moment = http_date(value)
    assert moment is None or isinstance(moment, int)

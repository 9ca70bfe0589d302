"""What is shown of dead letters without Kafka: where they came from, and nothing of what is in them unasked."""

import orjson
import pytest

from worker import deadletters
from worker.config import parse
from worker.errors import UsageError
from worker.events import Headers
from worker.handling import Record
from worker.redelivery import Letter, letter_headers, mended_headers, open_letters, resolved_headers

SAID = {"source": "crm", "id": "7", "reason": "too_large", "size": 9}
MORE = {"path": "/api/customers", "status": 200, "hash": "0f" * 16}


def of_upstream(value: bytes) -> Letter:
    """Return the dead letter of a record of an upstream."""
    headers = [("rollcall-dead-stage", b"poll"), ("rollcall-dead-reason", b"too_large")]
    return Letter.read(Record("customers.deadletters", 0, 17, 0, b"crm/7", value, headers))


def test_a_letter_of_an_upstream_is_shown_with_path_status_size_and_hash() -> None:
    """They are its content; an earlier version wrote fewer of them."""
    letter = of_upstream(orjson.dumps(SAID | MORE))
    shown = deadletters.shown(letter, payload=False)
    assert {name: shown[name] for name in ("path", "status", "size", "hash")} == {**MORE, "size": 9}
    assert deadletters.place(letter) == "/api/customers 200"
    earlier = of_upstream(orjson.dumps(SAID))
    assert deadletters.shown(earlier, payload=False)["hash"] is None
    assert not deadletters.place(earlier)
    assert not deadletters.place(of_upstream(b"no JSON"))


def test_a_letter_of_a_topics_record_is_shown_with_its_place() -> None:
    """What is in the record may say anything, and is not read; also an order, which the stage `poll` sets aside."""
    for stage in ("keys", "poll"):
        record = Record("rollcall.control", 1, 5, 0, b"crm/7", orjson.dumps(MORE))
        headers = letter_headers(record, stage, "Dead", "no order")
        letter = Letter.read(Record("customers.deadletters", 0, 17, 0, b"crm/7", record.value, headers))
        assert "hash" not in deadletters.shown(letter, payload=False)
        assert deadletters.place(letter) == "rollcall.control 1-5"


@pytest.mark.parametrize(
    ("topic", "reason"), [("rollcall.control", "which is no order"), ("", "whose record is read again with every poll")]
)
async def test_what_the_poller_has_set_aside_is_not_retried(topic: str, reason: str) -> None:
    """An upstream's record comes again by itself; what is no order never does, and has to be given anew."""
    record = Record(topic, 1, 5, 0, b"crm/7", b"{}")
    headers = letter_headers(record, "poll", "Dead", "no")
    letter = Letter.read(Record("customers.deadletters", 0, 17, 0, b"crm/7", b"{}", headers))
    with pytest.raises(UsageError, match=f"0-17 .*{reason}"):
        await deadletters.settle(parse({"pepper": {"env": "X"}}), [letter], "retry", "me")


def test_a_letter_that_was_written_again_is_one_letter() -> None:
    """Its record is in one place, and a customer of an upstream has one; another stage's is another."""
    record = Record("customers.events", 1, 5, 0, b"crm/7", b"{}")
    ours, others = (letter_headers(record, stage, "Dead", "no") for stage in ("mine", "yours"))
    upstream = [("rollcall-dead-stage", b"poll")]
    rows = [
        Record("customers.deadletters", 0, offset, 0, b"crm/7", b"{}", headers)
        for offset, headers in enumerate((ours, upstream, others, upstream, ours))
    ]
    assert [letter.name for letter in open_letters(rows)] == ["0-2", "0-3", "0-4"]
    settled = Record("customers.deadletters", 0, 5, 0, b"crm/7", None, resolved_headers("0-4", "mine", "done"))
    assert [letter.name for letter in open_letters([*rows, settled])] == ["0-2", "0-3"]


def test_a_letter_that_was_written_again_is_settled_under_its_older_name() -> None:
    """It was retried by that name, and its record is the same; one that is set aside after that waits again.

    What an upstream has now may be bad in another way than what was let be.
    """

    def letter(offset: int, headers: Headers) -> Record:
        return Record("customers.deadletters", 0, offset, 0, b"crm/7", b"{}", headers)

    def settled(offset: int, name: str, stage: str) -> Record:
        headers = resolved_headers(name, stage, "done")
        return Record("customers.deadletters", 0, offset, 0, b"crm/7", None, headers)

    ours = letter_headers(Record("customers.events", 1, 5, 0, b"crm/7", b"{}"), "mine", "Dead", "no")
    rows = [letter(17, ours), letter(40, ours), settled(41, "0-17", "mine")]
    assert open_letters(rows) == []
    assert [one.name for one in open_letters([*rows, letter(42, ours)])] == ["0-42"]
    upstream = [("rollcall-dead-stage", b"poll")]
    rows = [letter(17, upstream), letter(40, upstream), settled(41, "0-17", "poll")]
    assert [one.name for one in open_letters(rows)] == ["0-40"]


def test_what_is_mended_upstream_is_no_open_letter() -> None:
    """Of this customer only; and it may be set aside anew."""
    upstream = [("rollcall-dead-stage", b"poll")]
    places = [(b"crm/7", b"{}"), (b"crm/8", b"{}"), (b"crm/7", b"{}"), (b"crm/7", None), (b"crm/9", None)]
    rows = [
        Record("customers.deadletters", 0, offset, 0, key, value, mended_headers() if value is None else upstream)
        for offset, (key, value) in enumerate(places)
    ]
    assert [letter.name for letter in open_letters(rows)] == ["0-1"]
    again = Record("customers.deadletters", 0, 5, 0, b"crm/7", b"{}", upstream)
    assert [letter.name for letter in open_letters([*rows, again])] == ["0-1", "0-5"]


def test_a_record_without_a_value_that_no_stage_could_handle_settles_nothing() -> None:
    """It stands at a place of its own."""
    record = Record("rollcall.control", 1, 5, 0, b"crm/7", None)
    rows = [
        Record("customers.deadletters", 0, 0, 0, b"crm/7", b"{}", [("rollcall-dead-stage", b"poll")]),
        Record("customers.deadletters", 0, 1, 0, b"crm/7", None, letter_headers(record, "poll", "Dead", "no order")),
    ]
    assert [letter.name for letter in open_letters(rows)] == ["0-0", "0-1"]

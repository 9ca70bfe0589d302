"""`rollcall deadletters` on a running deployment: the real stages answer, nothing personal is shown unasked."""

import orjson
import pytest

from tests.subscribers.conftest import Demo
from tests.waiting import until
from worker import deadletters
from worker.handling import Record
from worker.kafka import Connection
from worker.redelivery import Letter, letter_headers, letter_key


async def bury(demo: Demo, record: Record, stage: str) -> Letter:
    """Write a dead letter as a stage would, and return it."""
    config = demo.config
    headers = letter_headers(record, stage, "Dead", "not a normalized customer")
    row = (config.topics.deadletters, letter_key(record), record.value, headers)
    await Connection(config.file.kafka).publish(config.topics, [row])

    async def there() -> list[Letter]:
        found = await deadletters.waiting(config)
        return [letter for letter in found if letter.record.key == record.key and letter.stage == stage]

    found = await until(there)
    assert isinstance(found, list)
    return found[-1]


async def customer(demo: Demo, number: int) -> Record:
    """Return a live customer as it stands on the table."""
    newest = {row.key: row for row in await demo.records("latest")}
    return [row for row in newest.values() if row.value is not None][number]


async def test_a_letter_is_listed_shown_and_found_out_of_date(demo: Demo) -> None:
    """The list has no payload; the keys stage has seen that version and says so; then nothing waits any more."""
    record = await customer(demo, 0)
    letter = await bury(demo, record, "keys")
    code, output, _ = await demo.rollcall("deadletters", "list", "--stage", "keys", "--json")
    (line,) = map(orjson.loads, output.splitlines())
    assert code == 0
    assert (line["name"], line["offset"], line["reason"]) == (letter.name, record.offset, "not a normalized customer")
    assert "value" not in line
    email = orjson.loads(record.value or b"")["emails"][0]["value"]
    _, shown, _ = await demo.rollcall("deadletters", "show", letter.name)
    assert email not in shown
    _, shown, _ = await demo.rollcall("deadletters", "show", letter.name, "--payload")
    assert email in shown
    code, output, _ = await demo.rollcall("deadletters", "retry", letter.name)
    assert (code, output) == (0, f"{letter.name} superseded: nothing was left to do (seen)\n")
    code, _, errors = await demo.rollcall("deadletters", "retry", letter.name)
    assert code == 2
    assert "that waits for anything" in errors


async def test_a_letter_that_fails_again_stays_and_may_be_discarded(demo: Demo) -> None:
    """Exit code 1 while one fails; a record without a sequence can be handled by nobody."""
    record = await customer(demo, 1)
    letter = await bury(demo, Record(record.topic, 0, 0, 0, record.key, record.value), "keys")
    code, output, errors = await demo.rollcall("deadletters", "retry", "--stage", "keys", "--who", "tester")
    assert (code, output) == (1, f"{letter.name} failed: no sequence\n")
    assert "still waits" in errors
    code, output, _ = await demo.rollcall("deadletters", "discard", letter.name)
    assert (code, output) == (0, f"{letter.name} discarded: it is let be\n")
    assert await deadletters.waiting(demo.config) == []


async def test_what_a_poller_set_aside_is_mended_upstream(demo: Demo) -> None:
    """It cannot be retried, and the reason is said; it can be let be."""
    record = Record("", 0, 0, 0, b"crm/none", b'{"source":"crm","id":"none","reason":"too_large","size":9}')
    letter = await bury(demo, record, "poll")
    code, _, errors = await demo.rollcall("deadletters", "retry", letter.name)
    assert code == 2
    assert "read again with every poll" in errors
    code, _, _ = await demo.rollcall("deadletters", "discard", "--source", "crm")
    assert code == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["retry"], "say which"),
        (["retry", "1-1", "--stage", "keys"], "say which"),
        (["discard", "99-99"], "there is no dead letter 99-99"),
        (["show", "nothing"], "there is no dead letter nothing"),
    ],
)
async def test_what_cannot_be_is_refused(demo: Demo, arguments: list[str], says: str) -> None:
    """Exit code 2, and one sentence that says why."""
    code, output, errors = await demo.rollcall("deadletters", *arguments)
    assert (code, output) == (2, "")
    assert says in errors


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "say where to"),
        (["--to", "topic:billing", "--from", "1h"], "there is no topic billing"),
        (["--to", "deletes", "--from", "1h"], "deletes nothing downstream unless"),
        (["--to", "dedupe", "--from", "1h"], "rollcall rebuild dedupe"),
        (["--to", "group:billing", "--from", "1h", "--source", "crm"], "nothing can be left out"),
        (["--to", "group:billing", "--from", "1h", "--until", "2h"], "not after --from"),
        (["--to", "topic:customers.events", "--from", "1h"], "Rollcall's own"),
        (["--resume", "none"], "there is no replay 'none'"),
    ],
)
async def test_a_replay_that_cannot_be_is_refused(demo: Demo, arguments: list[str], says: str) -> None:
    """Exit code 2, before anything is read or written."""
    code, output, errors = await demo.rollcall("replay", *arguments)
    assert (code, output) == (2, "")
    assert says in errors
    assert "Traceback" not in errors

"""`rollcall tail` on a running deployment: what it shows, from where to where, in which form."""

import asyncio
import sys
from datetime import UTC, datetime

import orjson
import pytest

from tests.subscribers.conftest import Demo
from worker.events import header


async def lines(demo: Demo, *arguments: str) -> list[dict[str, object]]:
    """Return what `rollcall tail` prints into a pipe, decoded."""
    code, output, errors = await demo.rollcall("tail", *arguments)
    assert code == 0, errors
    return [orjson.loads(line) for line in output.splitlines()]


async def test_everything_that_is_there_is_shown_once(demo: Demo) -> None:
    """From the beginning, without following: every record, with headers and value."""
    shown = await lines(demo, "events", "--from", "beginning", "--no-follow")
    records = await demo.records("events")
    assert len(shown) == len(records)
    assert {(one["partition"], one["offset"]) for one in shown} == {(one.partition, one.offset) for one in records}
    assert all(one["headers"]["ce_subject"] == one["key"] for one in shown)  # type: ignore[index]


async def test_only_what_is_wanted_is_shown(demo: Demo) -> None:
    """By source, type, customer and fields; several types are one choice."""
    deleted = await lines(demo, "--from", "beginning", "--no-follow", "--source", "crm", "--type", "deleted")
    assert {one["headers"]["ce_type"] for one in deleted} == {"customer.deleted"}  # type: ignore[index]
    assert len(deleted) == sum(
        header(one.headers, "ce_type") == "customer.deleted" and (one.key or b"").startswith(b"crm/")
        for one in await demo.records("events")
    )
    customer = str(deleted[0]["key"])
    fields = ("--fields", "reason,customer.emails.value,ce_sequence")
    told = await lines(demo, "--from", "beginning", "--no-follow", "--customer", customer, *fields)
    assert {one["key"] for one in told} == {customer}
    assert [one["value"]["ce_sequence"] for one in told] == [str(n + 1) for n in range(len(told))]  # type: ignore[index]
    assert told[-1]["value"]["reason"] in {"gone", "absent", "tombstone"}  # type: ignore[index]


async def test_a_part_of_a_topic_is_shown(demo: Demo) -> None:
    """Between two times, and from an offset of one partition on."""
    records = sorted(await demo.records("events"), key=lambda one: one.timestamp)
    middle = records[len(records) // 2].timestamp
    at = datetime.fromtimestamp(middle / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    before = await lines(demo, "--from", "1970-01-01", "--until", at)
    assert len(before) == sum(one.timestamp < middle for one in records)
    after = await lines(demo, "--from", at, "--no-follow")
    assert len(after) == sum(one.timestamp >= middle for one in records)
    last = max(one.offset for one in records if one.partition == 1)
    assert [one["offset"] for one in await lines(demo, "--from", f"1-{last}", "--no-follow")] == [last]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nothing"], "there is no topic 'nothing'"),
        (["--from", "yesterday"], "neither a time nor an offset"),
        (["--from", "9999-01-01"], "in the future"),
        (["--from", "1h", "--until", "2h"], "not after --from"),
        (["--from", "20", "--until", "10"], "not after --from"),
        (["--from", "77-1", "--no-follow"], "no partition 77"),
        (["--until", "end", "--follow", "--from", "1h"], "two things"),
    ],
)
async def test_what_cannot_be_is_refused(demo: Demo, arguments: list[str], says: str) -> None:
    """Exit code 2, and one sentence that says why."""
    code, output, errors = await demo.rollcall("tail", *arguments)
    assert (code, output) == (2, "")
    assert says in errors
    assert "Traceback" not in errors


async def test_it_stops_when_nobody_reads_on(demo: Demo) -> None:
    """`rollcall tail | head -1` ends without a word."""
    command = f"{sys.executable} -m worker.cli --config {demo.path} tail --from beginning | head -1"
    process = await asyncio.create_subprocess_shell(
        command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(60):
        output, errors = await process.communicate()
    assert len(output.splitlines()) == 1
    assert errors == b""

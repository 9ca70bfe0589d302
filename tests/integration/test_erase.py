"""`rollcall erase` as a script meets it: a process over a real broker, a worker that answers it, and its exit code."""

from pathlib import Path
from typing import Any

import pytest

from tests.integration.polling import Poller
from worker.kafka import Connection
from worker.settings import KafkaSettings
from worker.testkit import latest, person

pytestmark = pytest.mark.timeout(180)


async def erased(poller: Poller, customer: str) -> tuple[int, str]:
    """Erase whoever has the e-mail address of a customer; return the exit code, and what it has said."""
    code, output, errors = await poller.rollcall("erase", "--email", f"{customer}@example.com", "--yes")
    return code, " ".join((output + errors).split())


async def test_an_erasure_that_leaves_somebody_ends_with_1(
    kafka: KafkaSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A script must not take it for done: nobody has a target, or only some have."""
    monkeypatch.setenv("T_KEY", "key")
    target: dict[str, Any] = {"kind": "drivly", "url": "https://crm.example.com/api", "key": {"env": "T_KEY"}}
    poller = Poller(kafka, tmp_path)
    await poller.configure({}, {"targets": {"crm": target}})
    people = [("crm", "1", "ada"), ("crm", "2", "bea"), ("erp", "2", "bea"), ("erp", "3", "cleo")]
    records = [latest(person(source, id_, emails=[f"{name}@example.com"]), 1) for source, id_, name in people]
    topics = poller.config.topics
    await Connection(kafka).publish(topics, [(topics.latest, key, value, headers) for key, value, headers in records])
    code, text = await erased(poller, "cleo")  # needs no worker: nothing is asked for
    assert (code, text.endswith("1 of 1 stays in its own system, which is no target: erp/3")) == (1, True), text
    async with poller.running("requests"):
        code, text = await erased(poller, "bea")
        assert (code, "done: the erasure is requested" in text) == (1, True), text
        assert text.endswith("1 of 2 stays in its own system, which is no target: erp/2")
        code, text = await erased(poller, "ada")
        assert (code, text.endswith("done: the erasure is requested")) == (0, True), text

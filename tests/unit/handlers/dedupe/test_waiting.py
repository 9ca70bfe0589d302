"""Changes whose evidence does not come: what is done without it once patience ends, and what is said of that."""

from typing import Any

import orjson

from handlers.dedupe import Clusters, Rules
from handlers.dedupe.wire import Link, NodeMessage, ack_key, version_of
from tests.unit.handlers.dedupe.test_stages import RULES, TOPICS, linked, record
from worker.events import header
from worker.testkit import MemoryTx

PATIENCE = int(RULES.patience * 1000)


class Stalled:
    """The clusters stage, with crm/1 and shop/1 as one cluster; from then on no bucket says anything."""

    def __init__(self) -> None:
        """Have the two linked."""
        self.tx, self.stage, self.now = MemoryTx(), Clusters(TOPICS, Rules(RULES)), 0
        self.stage.open(self.tx, 0, {TOPICS.links: 0}, self.now)
        self.told = linked()
        for said in self.told:
            self.stage.on_record(self.tx, said, self.now)
        self.tx.commit()
        self.offset = len(self.told)

    def take(self, key: bytes, value: bytes | None, headers: Any) -> None:
        """Give the stage a record."""
        self.stage.on_record(self.tx, record(key, value, headers, offset=self.offset), self.now)
        self.offset += 1
        self.tx.commit()

    def change(self, sequence: int) -> None:
        """Let what is compared of shop/1 change, which one partition of buckets has to acknowledge."""
        (data,) = [NodeMessage.read(said.value, ()).data for said in self.told if said.key == b"nshop/1"]
        version = version_of(sequence)
        self.take(b"nshop/1", *NodeMessage(version, version, 1, data).record())

    def delete(self, sequence: int) -> None:
        """Delete shop/1, which one partition of buckets has to acknowledge."""
        version, last = version_of(sequence), version_of(sequence - 1)
        self.take(b"nshop/1", *NodeMessage(version, last, 1, None).record())

    def acknowledge(self, sequence: int) -> None:
        """Let the buckets have seen a version of shop/1."""
        self.take(ack_key(0, b"shop/1"), None, [("v", b"%d" % version_of(sequence))])

    def link(self, sequence: int) -> None:
        """Let the buckets say again what they said of the two, with a version of shop/1."""
        for said in self.told:
            if (said.key or b"").startswith(b"l"):
                link = Link.decode(said.value or b"")
                versions = (link.versions[0], version_of(sequence))
                self.take(said.key or b"", link._replace(versions=versions).encode(), [])

    def wait(self, milliseconds: int) -> None:
        """Let time pass, and the timer fire."""
        self.now += milliseconds
        self.stage.on_timer(self.tx, self.now)
        self.tx.commit()

    @property
    def departures(self) -> list[dict[str, Any]]:
        """Return the departures so far."""
        return [orjson.loads(value or b"") for topic, _, value, _, _ in self.tx.sent if topic == TOPICS.departures]

    @property
    def deletions(self) -> list[tuple[int, list[str], list[str]]]:
        """Return sequence, who remains and what is in doubt of the departures of deleted customers."""
        return [
            (departure["sequence"], departure["remaining"], departure["doubt"])
            for departure in self.departures
            if departure["cause"] == "deleted"
        ]


def test_a_deletion_behind_a_change_is_told_when_both_are_given_up() -> None:
    """In doubt, with those whom the change's missing evidence took away: held, and not lost."""
    here = Stalled()
    here.change(2)
    here.delete(3)
    here.wait(PATIENCE)
    assert here.deletions == [(3, ["crm/1"], ["late", "moved"])]
    assert {departure["cluster"] for departure in here.departures} == {here.departures[0]["cluster"]}
    assert {departure["winner"] for departure in here.departures} == {"crm/1"}


def test_a_deletion_behind_changes_is_told_when_all_are_given_up() -> None:
    """The second change finds nobody any more: those whom the first one took away are not forgotten."""
    here = Stalled()
    here.change(2)
    here.change(3)
    here.delete(4)
    here.wait(PATIENCE)
    assert here.deletions == [(4, ["crm/1"], ["late", "moved"])]


def test_every_change_has_all_of_patience() -> None:
    """One that comes behind another is not given up with it, nor when the other is acknowledged late."""
    for acknowledged in (False, True):
        here = Stalled()
        here.change(2)
        here.wait(PATIENCE - 1000)
        here.delete(3)
        if acknowledged:
            here.link(2)
            here.acknowledge(2)
        here.wait(1000)
        here.wait(PATIENCE - 1001)
        assert here.deletions == []
        here.wait(1)
        assert here.deletions == [(3, ["crm/1"], ["late"] if acknowledged else ["late", "moved"])]


def test_a_deletion_that_is_acknowledged_follows_the_evidence_on_the_last_version() -> None:
    """What an earlier change left in doubt does not count: that version has nothing in common with anybody."""
    here = Stalled()
    here.change(2)
    here.wait(PATIENCE - 1)
    here.change(3)
    here.delete(4)
    here.wait(1)
    assert [departure["sequence"] for departure in here.departures] == [2]
    here.acknowledge(3)
    here.acknowledge(4)
    assert here.deletions == []


def test_a_change_that_is_given_up_says_so() -> None:
    """Who leaves its cluster for want of evidence does so in doubt; who leaves it with all evidence does not."""
    given_up, told = Stalled(), Stalled()
    for here in (given_up, told):
        here.change(2)
    told.acknowledge(2)
    given_up.wait(PATIENCE)
    said = [(one["cause"], one["remaining"], one["doubt"]) for here in (given_up, told) for one in here.departures]
    assert said == [("changed", ["crm/1"], ["late"]), ("changed", ["crm/1"], [])]


def test_events_that_time_sets_off_have_ids_of_their_own() -> None:
    """Each change that is given up has its own, and the same one if its transaction has to be done again."""
    once, again = given_up_twice(), given_up_twice()
    assert len(once) == len(set(once)) > 2
    assert once == again


def given_up_twice() -> list[str]:
    """Return the ids of the identity events where two changes are given up, with the links back in between."""
    here = Stalled()
    for sequence in (2, 4):
        here.change(sequence)
        here.wait(PATIENCE)
        here.link(sequence)
    sent = [headers for topic, _, _, headers, _ in here.tx.sent if topic == TOPICS.identity]
    return [header(headers, "ce_id") or "" for headers in sent]

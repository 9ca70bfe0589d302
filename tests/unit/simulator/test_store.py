"""Rows, their two orders and their history stay true to each other, whatever is written."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.unit.simulator.conftest import Clock
from worker.simulator import Drivly
from worker.simulator.store import by_change, by_order


class Writes(RuleBasedStateMachine):
    """Any sequence of writes against a plain dictionary of what should be there."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.sim = Drivly(clock=self.clock, detail="compact")
        self.model: dict[str, str] = {}

    def pick(self, number: int) -> str:
        """Choose one of the customers that exist."""
        return sorted(self.model)[number % len(self.model)]

    @rule(name=st.text(max_size=3), past=st.integers(0, 5))
    def create(self, name: str, past: int) -> None:
        """Add one, perhaps in the past."""
        key = self.sim.create({"companyName": name}, at=self.clock.now - past)
        self.model[str(key)] = name

    @rule(count=st.integers(65, 80))
    def populate(self, count: int) -> None:
        """Add many at once."""
        for key in self.sim.populate(count):
            self.model[str(key)] = ""

    @precondition(lambda self: self.model)
    @rule(number=st.integers(0, 99), name=st.text(max_size=3))
    def update(self, number: int, name: str) -> None:
        """Change one."""
        key = self.pick(number)
        self.sim.update(int(key), {"companyName": name})
        self.model[key] = name

    @precondition(lambda self: self.model)
    @rule(name=st.text(max_size=3))
    def bulk_update(self, name: str) -> None:
        """Change all with one stamp."""
        self.sim.bulk_update([int(key) for key in self.model], {"companyName": name})
        self.model = dict.fromkeys(self.model, name)
        assert len({row.updated for row in self.sim.store.ordered}) == 1

    @precondition(lambda self: self.model)
    @rule(number=st.integers(0, 99))
    def delete(self, number: int) -> None:
        """Take one away."""
        key = self.pick(number)
        self.sim.delete(int(key))
        del self.model[key]

    @rule(seconds=st.sampled_from([0.001, 1.0]))
    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.clock.now += seconds

    @invariant()
    def the_rows_are_the_models(self) -> None:
        """Compare what is served with what was written."""
        truth = self.sim.customers()
        assert {key: customer.get("companyName", "") for key, customer in truth.items()} == self.model

    @invariant()
    def both_orders_hold_every_row_once(self) -> None:
        """Find both indices sorted and complete."""
        rows = list(self.sim.store.rows.values())
        assert self.sim.store.ordered == sorted(rows, key=by_order)
        assert self.sim.store.changed == sorted(rows, key=by_change)

    @invariant()
    def the_history_tells_it_all(self) -> None:
        """Replayed, the history gives the versions and who is there."""
        alive: dict[str, int] = {}
        versions: dict[str, int] = {}
        for change in self.sim.history:
            key = str(change.id)
            assert change.version == versions.get(key, 0) + 1
            assert (key in alive) is (change.op != "create")
            versions[key] = alive[key] = change.version
            if change.op == "delete":
                del alive[key]
        assert alive == {key: self.sim.store.rows[int(key)].version for key in self.model}


TestWrites = Writes.TestCase
TestWrites.settings = settings(max_examples=30, stateful_step_count=20, deadline=None)


def test_a_late_row_becomes_visible_behind_a_later_stamp() -> None:
    """A write that commits late keeps its early stamp, and the history has the time at which it showed."""
    clock = Clock()
    sim = Drivly(clock=clock)
    late = sim.create({"email": "late@example.com"}, visible_after=1.1)
    clock.now += 0.5
    early = sim.create({"email": "early@example.com"})
    assert list(sim.customers()) == [str(early)]
    clock.now += 0.6
    assert list(sim.customers()) == [str(late), str(early)]
    assert sim.customers()[str(late)]["updatedAt"] < sim.customers()[str(early)]["updatedAt"]
    assert [change.id for change in sim.history] == [early, late]
    assert sim.history[1].time == pytest.approx(clock.now)


def test_a_late_update_shows_the_old_row_until_it_commits() -> None:
    """Readers see the last committed version; the row is there all the time."""
    clock = Clock()
    sim = Drivly(clock=clock)
    key = sim.create({"email": "old@example.com"})
    sim.update(key, {"email": "new@example.com"}, visible_after=2)
    assert sim.customers()[str(key)]["email"] == "old@example.com"
    clock.now += 2
    assert sim.customers()[str(key)]["email"] == "new@example.com"


def test_a_write_waits_for_the_row_that_another_one_holds() -> None:
    """A second write of a row commits after the first, as row locks make it: nothing is lost or resurrected."""
    clock = Clock()
    sim = Drivly(clock=clock)
    key = sim.create({"email": "a@example.com"})
    sim.update(key, {"email": "b@example.com"}, visible_after=9)
    sim.delete(key)
    clock.now += 10
    assert sim.customers() == {}
    assert [change.op for change in sim.history] == ["create", "update", "delete"]


def test_of_two_writes_the_later_one_stays() -> None:
    """A late write never comes back over one that was made after it."""
    clock = Clock()
    sim = Drivly(clock=clock)
    key = sim.create({"email": "a@example.com"})
    sim.update(key, {"email": "b@example.com"}, visible_after=9)
    sim.update(key, {"email": "c@example.com"})
    clock.now += 10
    assert sim.customers()[str(key)]["email"] == "c@example.com"


def test_versions_go_on_over_deletion_and_re_creation() -> None:
    """A customer that returns under its id does not start again at version 1."""
    sim = Drivly()
    key = sim.create({"email": "a@example.com"})
    sim.delete(key)
    sim.create({"email": "b@example.com"}, id=key)
    assert [(change.op, change.version) for change in sim.history] == [("create", 1), ("delete", 2), ("create", 3)]


def test_a_write_to_nobody_is_a_key_error() -> None:
    """What does not exist is not changed, and the message says which customer of which system."""
    with pytest.raises(KeyError, match="drivly has no customer 7"):
        Drivly().update(7)

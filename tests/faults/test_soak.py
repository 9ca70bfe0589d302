"""The soak in short: one seed, each of these faults once and in this order, then everything is checked."""

from pathlib import Path

import pytest

from tests.faults import kinds
from tests.faults.soak import Run, soak

SCHEDULE = (
    kinds.kill_mid_transaction,
    kinds.lose_end_txn,
    kinds.kill_mid_restore,
    kinds.upstream_outage,
    kinds.kill_broker,
    kinds.kill_mid_rebalance,
    kinds.damage_state,
    kinds.stall,
)


@pytest.mark.timeout(800)  # longer than it may take to settle: what is wrong then is said
async def test_exactly_once_whatever_is_killed(tmp_path: Path) -> None:
    """Nothing is lost, published twice, out of order or wrongly deleted, and everything that was hurt goes on."""
    run = Run(7, 0, SCHEDULE)
    await soak(tmp_path, run, rate=40, customers=100)
    assert run.faults.total() == len(SCHEDULE), (run.failed, run.missed)
    assert {kind: found[:5] for kind, found in run.verdict.wrong.items() if found} == {}
    assert (run.dead, run.stuck, run.complaints, run.failed) == ([], [], [], [])
    assert run.kills >= 6  # every kill in the schedule, and the one that makes room for the next
    assert min(run.verdict.events, run.verdict.stores, run.writes) > 0

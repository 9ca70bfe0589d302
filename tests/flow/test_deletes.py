"""Deletions carried downstream, as whole flows in virtual time: from what a source published to the receipt."""

from tests.flow.deletes_world import World, drivly

SAME_ID = {"targets": {"crm": drivly()}, "routes": [{"source": "shop", "target": "crm"}]}


def test_a_tombstone_is_carried_to_the_target_and_accounted_for() -> None:
    """What the source says is deleted is looked up, deleted, verified and receipted at the target."""
    world = World(SAME_ID)
    world.systems["crm"].add("12")
    world.systems["crm"].add("13")
    world.live("shop", "12")
    world.harness.advance(5_000)
    world.deleted("shop", "12", "tombstone")
    world.harness.advance(120_000)
    assert list(world.systems["crm"].rows) == ["13"]
    assert world.outcomes() == {"crm/12": "VERIFIED"}
    assert world.states() == {"crm/12": "VERIFIED"}
    assert [method for _, method, _, _ in world.systems["crm"].calls] == ["GET", "DELETE", "GET"]

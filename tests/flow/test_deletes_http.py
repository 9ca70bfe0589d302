"""What the answers of a target lead to: each HTTP rule, and each way in which an answer is lost or wrong."""

import itertools
from collections.abc import Callable, Iterable
from operator import itemgetter
from typing import Any

import pytest

from tests.flow.deletes_world import World, drivly, http, route, simple, with_lookup
from worker.handling import CALLED_OFF, STOPPING, Call, Reply
from worker.times import rfc3339


def once(*replies: Reply, method: str = "DELETE") -> Callable[[Call], Reply | None]:
    """Return a fault that answers the first calls of a method so, without anything being done."""
    left = list(replies)
    return lambda call: left.pop(0) if left and call.method == method else None


def always(reply: Reply, method: str | None = None) -> Callable[[Call], Reply | None]:
    """Return a fault that answers every call (of a method) so."""
    return lambda call: reply if method in {None, call.method} else None


def one(target: dict[str, Any] | None = None, **more: Any) -> World:
    """Return a world in which customer 1 has just been deleted at the source."""
    world = World(simple(target, **more))
    world.systems["crm"].add("1")
    world.deleted("shop", "1")
    return world


def statuses(world: World) -> list[int | None]:
    """Return what the attempts for customer 1 were answered with."""
    return [attempt["status"] for attempt in world.receipt("1")["attempts"]]


# Done


def test_a_target_without_look_up_is_taken_at_its_word() -> None:
    """The receipt says that nobody has looked."""
    world = one(http())
    world.settle()
    assert world.outcomes() == {"crm/1": "DELETED"}
    assert world.receipt("1")["verification"] == {"how": "the target's answer", "at": None}


def test_an_accepted_deletion_is_polled_until_it_is_done() -> None:
    """202: the target does it later."""
    world = one(with_lookup())
    world.systems["crm"].fault = once(Reply(202))
    world.settle(3)
    assert world.states() == {"crm/1": "ACCEPTED"}
    del world.systems["crm"].rows["1"]
    world.settle(10)
    assert world.outcomes() == {"crm/1": "VERIFIED"}
    assert world.systems["crm"].deletes() == ["1"]


def test_an_accepted_deletion_that_never_happens_goes_to_a_person() -> None:
    """It is not asked for again by itself."""
    world = one(with_lookup(), tick="10s")
    world.systems["crm"].fault = once(Reply(202))
    world.settle(5 * 60)
    assert world.outcomes() == {"crm/1": "BLOCKED"}
    assert world.systems["crm"].deletes() == ["1"]


def test_an_accepted_deletion_cannot_be_followed_without_a_look_up() -> None:
    """Nobody can see whether it was done."""
    world = one(http())
    world.systems["crm"].fault = once(Reply(202))
    world.settle()
    assert world.outcomes() == {"crm/1": "BLOCKED"}


def test_a_target_that_says_done_and_still_shows_the_customer_goes_to_a_person() -> None:
    """A second DELETE by itself could hit somebody else."""
    world = one()
    world.systems["crm"].fault = once(Reply(200))
    world.settle(10)
    assert world.outcomes() == {"crm/1": "BLOCKED"}
    assert world.systems["crm"].deletes() == ["1"]


def test_a_new_customer_under_a_deleted_ones_id_is_left_alone() -> None:
    """SQLite gives the highest id out again: the look-up after the DELETE sees somebody made later."""
    world = one()

    def reuse(call: Call, reply: Reply) -> Reply:
        if call.method == "DELETE":
            world.systems["crm"].add("1", world.harness.now + 5)
        return reply

    world.systems["crm"].after = reuse
    world.settle()
    assert world.outcomes() == {"crm/1": "VERIFIED"}
    assert "1" in world.systems["crm"].rows


def test_a_new_customer_with_the_id_of_the_one_to_be_deleted_is_left_alone() -> None:
    """Made after the deletion at the source: somebody else, also where the target tells no time of a change."""
    fields = {"id_field": "id", "created_field": "createdAt", "canary_id": "999999"}
    world = one(http(lookup="/customers/{id}", **fields))
    world.systems["crm"].add("1", world.harness.now + 5)
    world.settle()
    assert world.outcomes() == {"crm/1": "SUPERSEDED"}
    assert world.systems["crm"].deletes() == []


@pytest.mark.parametrize("field", ["updatedAt", "createdAt"])
def test_a_time_that_the_look_up_does_not_show_goes_to_a_person(field: str) -> None:
    """Nobody can tell whether it is still the customer that was meant."""
    world = one(with_lookup())
    del world.systems["crm"].rows["1"][field]
    world.settle()
    assert world.outcomes() == {"crm/1": "BLOCKED"}
    assert field in world.receipt("1")["reason"]
    assert world.systems["crm"].deletes() == []


def test_a_change_is_seen_in_a_number_too() -> None:
    """Seconds since 1970."""
    world = one(with_lookup())
    world.systems["crm"].rows["1"]["updatedAt"] = world.harness.now // 1000 + 1
    world.settle()
    assert world.outcomes() == {"crm/1": "SUPERSEDED"}
    assert world.systems["crm"].deletes() == []


# None such


def test_a_customer_that_is_gone_already_is_done_if_the_canary_is_there() -> None:
    """404 at the look-up: no DELETE is sent at all."""
    world = World(simple())
    world.deleted("shop", "1")
    world.settle()
    assert world.outcomes() == {"crm/1": "ALREADY_ABSENT"}
    assert world.systems["crm"].lookups() == ["1", "customers", "1"]  # and once more, now that the canary is there
    assert world.systems["crm"].deletes() == []


def test_a_customer_that_is_seen_again_ends_the_canarys_word() -> None:
    """An outage that showed a 404 before the DELETE may show one after it: that counts only behind another canary."""
    world = one()
    world.systems["crm"].fault = once(Reply(404, body=b'{"errors":[{"message":"Not Found"}]}'), method="GET")
    world.systems["crm"].after = lambda call, reply: Reply(500) if call.method == "DELETE" else reply
    world.settle()
    assert world.systems["crm"].lookups() == ["1", "customers", "1", "1", "customers", "1"]
    assert world.outcomes() == {"crm/1": "VERIFIED"}


def test_a_404_at_the_end_of_an_outage_is_not_believed() -> None:
    """The look-up still gets the outage's 404, the canary does not: the customer is looked up again, and deleted."""
    world = one()
    world.systems["crm"].fault = once(Reply(404), method="GET")
    world.settle()
    assert world.outcomes() == {"crm/1": "VERIFIED"}
    assert world.systems["crm"].deletes() == ["1"]


@pytest.mark.parametrize("status", [404, 410])
def test_404_for_everything_proves_nothing_and_pauses_the_target(status: int) -> None:
    """A wrong base URL: the canary is not found either, nothing is done, and it goes on once the address is right."""
    world = one()
    world.systems["crm"].fault = always(Reply(status))
    world.settle(10)
    assert world.receipts() == []
    told = world.status("target/crm")
    assert told["state"] == "paused"
    assert "base URL" in told["reason"]
    world.systems["crm"].fault = lambda _: None
    world.settle(10)
    assert world.outcomes() == {"crm/1": "VERIFIED"}
    assert world.status("target/crm")["state"] == "working"


def test_an_empty_listing_is_no_canary() -> None:
    """A revoked key may be answered with 200 and nobody."""
    world = World(simple())
    world.systems["crm"].rows.clear()
    world.deleted("shop", "1")
    world.settle()
    assert world.receipts() == []
    assert world.status("target/crm")["state"] == "paused"


def test_a_404_to_the_delete_itself_waits_for_the_canary_too() -> None:
    """Two deletions of one customer at once: the other one was faster."""
    world = one()

    def faster(call: Call) -> Reply | None:
        if call.method == "DELETE":
            world.systems["crm"].rows.pop("1", None)
        return None

    world.systems["crm"].fault = faster
    world.settle()
    assert world.outcomes() == {"crm/1": "ALREADY_ABSENT"}
    assert world.systems["crm"].lookups() == ["1", "customers", "1"]


def test_a_404_to_the_delete_at_the_end_of_an_outage_is_not_believed() -> None:
    """The canary is there, and so is the customer: it is deleted after all."""
    world = one()

    def fault(call: Call) -> Reply | None:
        return Reply(404) if call.method == "DELETE" and len(world.systems["crm"].deletes()) == 0 else None

    world.systems["crm"].fault = fault
    world.settle()
    assert world.outcomes() == {"crm/1": "VERIFIED"}
    assert statuses(world) == [404, 200]


def test_a_404_to_the_delete_while_everything_is_404_is_looked_up_again_later() -> None:
    """The address broke in between: the customer is found still there, and deleted then."""
    world = one()
    broken = [False]

    def fault(call: Call) -> Reply | None:
        broken[0] = broken[0] or call.method == "DELETE"
        return Reply(404) if broken[0] else None

    world.systems["crm"].fault = fault
    world.settle(10)
    assert world.states() == {"crm/1": "UNKNOWN"}
    world.systems["crm"].fault = lambda _: None
    world.settle(10)
    assert world.outcomes() == {"crm/1": "VERIFIED"}


def test_many_404_share_a_canary() -> None:
    """One canary after them clears all those that came before it was sent."""
    world = World(simple(drivly(concurrency=32)), partitions=1)
    for number in range(1, 11):
        world.deleted("shop", str(number))
    world.settle()
    assert set(world.outcomes().values()) == {"ALREADY_ABSENT"}
    assert world.systems["crm"].lookups().count("customers") <= 10


def test_many_that_are_gone_already_all_end() -> None:
    """However long the queue is: the second look comes while the canary's word is still believed."""
    world = World(simple(drivly(rate=10), guard={"window": "1s", "count": 1000, "cap": 1000}), partitions=1)

    def tenth(_: Call) -> Reply | None:
        world.harness.now += 100
        return None

    world.systems["crm"].fault = tenth
    for number in range(1, 201):
        world.deleted("shop", str(number))
    world.settle(3)
    assert list(world.outcomes().values()) == ["ALREADY_ABSENT"] * 200


# Refused


@pytest.mark.parametrize("status", [400, 405, 422, 451])
def test_what_the_target_refuses_goes_to_a_person_and_can_be_retried(status: int) -> None:
    """The retry is a request of its own, with a receipt of its own that names the first."""
    world = one()
    world.systems["crm"].fault = once(Reply(status))
    world.settle()
    assert world.outcomes() == {"crm/1": "BLOCKED"}
    first = world.receipt("1")["request"]
    command = world.decide("retry", target="crm", request=first)
    world.settle()
    assert world.answered(command)[0] == "done"
    receipts = {receipt["outcome"]: receipt for receipt in world.receipts()}
    assert receipts["VERIFIED"]["retry_of"] == first
    assert receipts["VERIFIED"]["decisions"][0]["what"] == "retry"
    assert len(receipts) == 2


def test_only_what_is_blocked_or_failed_can_be_retried() -> None:
    """A verified deletion is not done again."""
    world = one()
    world.settle()
    command = world.decide("retry", target="crm", request=world.receipt("1")["request"])
    world.settle()
    assert world.answered(command)[0] == "refused"


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_a_refused_credential_pauses_the_target(status: int, method: str) -> None:
    """Nothing is lost or sent meanwhile; the canary is tried, and the deletions go on when it works."""
    world = one()
    world.systems["crm"].fault = always(Reply(status), method)
    world.settle(1.5)
    assert world.status("target/crm")["state"] == "paused"
    world.systems["crm"].fault = always(Reply(status))
    sent = len(world.systems["crm"].deletes())
    for number in range(2, 6):
        world.systems["crm"].add(str(number))
        world.deleted("shop", str(number))
    world.settle(10)
    assert len(world.systems["crm"].deletes()) == sent
    assert world.receipts() == []
    world.systems["crm"].fault = lambda _: None
    world.settle(10)
    assert set(world.outcomes().values()) == {"VERIFIED"}
    assert len(world.receipts()) == 5


def test_a_paused_target_without_canary_goes_on_when_a_person_says_so() -> None:
    """It has nothing that could be tried in safety."""
    world = one(http())
    world.systems["crm"].fault = once(Reply(401))
    world.settle(10)
    assert world.systems["crm"].deletes() == ["1"]
    command = world.decide("retry", target="crm")
    world.settle()
    assert world.answered(command)[0] == "done"
    assert world.outcomes() == {"crm/1": "DELETED"}
    assert statuses(world) == [401, 200]
    again = world.decide("retry", target="crm")
    world.settle()
    assert world.answered(again) == ("refused", "the target is not paused")


@pytest.mark.parametrize("pause", [0, 10], ids=["at once", "later"])
@pytest.mark.parametrize("concurrency", [1, 4])
@pytest.mark.parametrize("status", [401, 403])
def test_a_customer_that_alone_may_not_be_deleted_goes_to_a_person(status: int, concurrency: int, pause: int) -> None:
    """The target is paused at first; refused again though others are deleted, this one holds nobody up."""
    world = World(simple(drivly(canary_id="999999", concurrency=concurrency)))
    world.systems["crm"].fault = lambda call: (
        Reply(status) if call.method == "DELETE" and call.path.endswith("/1") else None
    )
    for number in range(1, 9):
        world.systems["crm"].add(str(number))
        world.deleted("shop", str(number))
        if number in {1, 4}:
            world.settle(pause)
    world.settle(10)
    outcomes = world.outcomes()
    assert len(outcomes) == 8
    assert outcomes.pop("crm/1") == "BLOCKED"
    assert set(outcomes.values()) == {"VERIFIED"}
    assert f"refuses this one ({status})" in world.receipt("1")["reason"]
    assert world.status("target/crm")["state"] == "working"


def test_a_key_that_may_delete_nobody_any_more_loses_nothing() -> None:
    """What it has deleted before says nothing of now: the target is paused, and everything waits."""
    world = World(simple(drivly(canary_id="999999")))
    for number in range(1, 9):
        world.systems["crm"].add(str(number))
        world.deleted("shop", str(number))
        if number == 4:
            world.settle()
            world.systems["crm"].fault = always(Reply(403), "DELETE")
    for _ in range(5):
        world.settle(30)
        world.harness.crash("executor")
    assert len(world.receipts()) == 4
    world.systems["crm"].fault = lambda _: None
    world.settle(30)
    assert set(world.outcomes().values()) == {"VERIFIED"}
    assert len(world.receipts()) == 8


def test_a_key_that_is_back_for_a_moment_only_loses_nothing() -> None:
    """Some of whom it had refused before are taken for exceptions, but not more and more of them."""
    world = World(simple(drivly(canary_id="999999", concurrency=4)))
    left = 0

    def refuse(call: Call) -> Reply | None:
        nonlocal left
        if call.method != "DELETE":
            return None
        left -= 1
        return Reply(403) if left < 0 else None

    world.systems["crm"].fault = refuse
    for number in range(1, 41):
        world.systems["crm"].add(str(number))
        world.deleted("shop", str(number), live=100_000)
    world.settle(25)
    left = 3
    world.settle(3)
    assert world.status("target/crm")["state"] == "paused"
    left = 1_000
    world.settle(30)
    outcomes = list(world.outcomes().values())
    assert (outcomes.count("VERIFIED"), outcomes.count("BLOCKED")) == (35, 5)


@pytest.mark.parametrize("status", [409, 412, 423])
def test_a_conflict_is_looked_at_again(status: int) -> None:
    """A second DELETE follows a second look-up."""
    world = one()
    world.systems["crm"].fault = once(Reply(status))
    world.settle()
    assert world.outcomes() == {"crm/1": "VERIFIED"}
    assert statuses(world) == [status, 200]
    assert [method for _, method, _, _ in world.systems["crm"].calls] == ["GET", "DELETE"] * 2 + ["GET"]


def test_a_conflict_that_does_not_go_away_has_failed_in_the_end() -> None:
    """Five attempts, every one in the receipt."""
    world = one()
    world.systems["crm"].fault = always(Reply(409), "DELETE")
    world.settle(30)
    assert world.outcomes() == {"crm/1": "FAILED"}
    assert statuses(world) == [409] * 5


def test_a_conflict_waits_by_the_attempts_that_were_made() -> None:
    """However often the target had put the deletion off before."""
    world = one()
    world.systems["crm"].fault = once(*[Reply(429)] * 12, Reply(409))
    world.settle(120)
    assert statuses(world) == [429] * 12 + [409, 200]
    times = [now for now, method, _, _ in world.systems["crm"].calls if method == "DELETE"]
    assert times[-1] - times[-2] < 10_000


# Later


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("value", ["300", "Tue, 14 Nov 2023 22:19:20 GMT"])
def test_retry_after_is_kept_to(status: int, value: str) -> None:
    """In seconds, or as a date, which is read against the target's own clock."""
    headers = {"retry-after": value, "date": "Tue, 14 Nov 2023 22:14:20 GMT"}
    world = one()
    world.systems["crm"].fault = once(Reply(status, headers))
    world.settle(30)
    assert world.outcomes() == {"crm/1": "VERIFIED"}
    times = [now for now, method, _, _ in world.systems["crm"].calls if method == "DELETE"]
    assert 300_000 <= times[1] - times[0] < 305_000


def test_nothing_is_asked_of_a_target_that_wants_to_be_left_alone() -> None:
    """A 429 for one deletion holds back the others of that target."""
    world = one(drivly(concurrency=1))
    world.systems["crm"].add("2")
    world.deleted("shop", "2")
    world.systems["crm"].fault = once(Reply(429, {"retry-after": "600"}))
    world.settle(9)
    assert len(world.systems["crm"].deletes()) == 1
    world.settle(5)
    assert set(world.outcomes().values()) == {"VERIFIED"}


def test_a_storm_of_429_neither_fails_nor_loses_anything() -> None:
    """Waits grow, and nobody counts as tried."""
    world = one()
    world.systems["crm"].fault = once(*[Reply(429)] * 12)
    world.settle(120)
    assert world.outcomes() == {"crm/1": "VERIFIED"}
    assert statuses(world) == [429] * 12 + [200]


@pytest.mark.parametrize("method", ["DELETE", "GET"])
def test_a_429_that_says_no_time_is_asked_ever_more_seldom(method: str) -> None:
    """Whatever else the target answers in between: up to five minutes."""
    world = one()
    world.systems["crm"].fault = always(Reply(429), method)
    world.settle(60)
    times = [now for now, called, _, _ in world.systems["crm"].calls if called == method]
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert gaps[-1] >= 300_000
    assert len(times) <= 6 + 12  # the wait doubles six times, and then it is five minutes


def test_a_deletion_that_is_put_off_for_hours_stays_small() -> None:
    """Of the attempts at which nothing was done the first and the last are kept, and how many were between them."""
    world = one()
    world.systems["crm"].fault = always(Reply(429, {"retry-after": "5"}), "DELETE")
    world.settle(20)
    world.systems["crm"].fault = once(*[Reply(409)] * 2)
    world.settle(20)
    attempts = world.receipt("1")["attempts"]
    deletes = [now for now, called, _, _ in world.systems["crm"].calls if called == "DELETE"]
    assert len(deletes) > 100
    assert len(attempts) == 50 + 3
    assert [attempt["status"] for attempt in attempts] == [429] * 50 + [409, 409, 200]
    assert [attempt["left_out"] for attempt in attempts if "left_out" in attempt] == [len(deletes) - len(attempts)]
    assert [attempt["at"] for attempt in attempts] == [rfc3339(at) for at in (*deletes[:25], *deletes[-28:])]


# Unknown


def test_500_after_success_is_looked_up_and_not_deleted_again() -> None:
    """It was done: the look-up finds nobody, and the canary is there."""
    world = one()
    world.systems["crm"].after = lambda call, reply: Reply(500) if call.method == "DELETE" else reply
    world.settle()
    assert world.outcomes() == {"crm/1": "VERIFIED"}
    assert statuses(world) == [500]
    assert world.systems["crm"].deletes() == ["1"]


def test_500_without_success_is_looked_up_and_tried_again() -> None:
    """It was not done: the look-up finds the customer unchanged."""
    world = one()
    world.systems["crm"].fault = once(Reply(500), Reply(502))
    world.settle(5)
    assert world.outcomes() == {"crm/1": "VERIFIED"}
    assert statuses(world) == [500, 502, 200]
    methods = [method for _, method, path, _ in world.systems["crm"].calls if path.endswith("/1")]
    assert methods == ["GET", "DELETE", "GET", "GET", "DELETE", "GET", "GET", "DELETE", "GET"]


def test_a_customer_that_changed_after_a_lost_answer_is_not_deleted_again() -> None:
    """The DELETE was not done, and somebody works on the customer now."""
    world = one()

    def fault(call: Call) -> Reply | None:
        if call.method == "DELETE":
            world.systems["crm"].add("1", world.harness.now)
            world.systems["crm"].rows["1"]["createdAt"] = "2020-01-01T00:00:00.000Z"
            return Reply(500)
        return None

    world.systems["crm"].fault = fault
    world.settle(5)
    assert world.outcomes() == {"crm/1": "SUPERSEDED"}
    assert world.systems["crm"].deletes() == ["1"]


@pytest.mark.parametrize("lost", [Reply(None, error="timeout"), Reply(500), Reply(502), Reply(504), Reply(408)])
def test_an_unknown_outcome_without_look_up_goes_to_a_person(lost: Reply) -> None:
    """It is never tried blindly again."""
    world = one(http())
    world.systems["crm"].fault = once(lost)
    world.settle(30)
    assert world.outcomes() == {"crm/1": "BLOCKED"}
    assert world.systems["crm"].deletes() == ["1"]


def test_a_call_that_certainly_never_left_is_tried_again() -> None:
    """Nothing to look up: nothing was sent."""
    world = one(http())
    world.systems["crm"].fault = once(Reply(None, error="connection", sent=False))
    world.settle(5)
    assert world.outcomes() == {"crm/1": "DELETED"}


@pytest.mark.parametrize("concurrency", [1, 10])
def test_a_delete_that_was_committed_to_while_the_worker_stopped_is_sent_by_the_next(concurrency: int) -> None:
    """It certainly never left: nobody has to look, and the target has not failed."""
    world = World(simple(http(concurrency=concurrency)))
    for customer in map(str, range(1, 10)):
        world.systems["crm"].add(customer)
        world.deleted("shop", customer)
    world.systems["crm"].fault = once(*[Reply(None, error=STOPPING, sent=False)] * 8)
    world.settle()
    assert set(world.outcomes().values()) == {"DELETED"}
    assert world.status("target/crm")["state"] == "working"


@pytest.mark.parametrize("customer", ["1", "999999"], ids=["look-up", "canary"])
def test_what_a_stopping_worker_never_asked_is_no_failure(customer: str) -> None:
    """Neither a look-up nor a canary: the next worker asks at once."""
    world = World(simple(with_lookup()))
    world.systems["crm"].add("999999")
    world.deleted("shop", "1")  # it is gone there, too: the canary is asked
    left = 6

    def stopping(call: Call) -> Reply | None:
        nonlocal left
        if not call.path.endswith(f"/{customer}") or not left:
            return None
        left -= 1
        return Reply(None, error=STOPPING, sent=False)

    world.systems["crm"].fault = stopping
    world.settle()
    assert left == 0
    assert world.outcomes() == {"crm/1": "ALREADY_ABSENT"}
    times = [now for now, _, _, _ in world.systems["crm"].calls]
    assert times[-1] - times[0] < 30_000


@pytest.mark.parametrize("done", [True, False])
def test_an_answer_that_never_comes_is_given_up_and_looked_up(*, done: bool) -> None:
    """Whether or not the DELETE was done, exactly the rest of the work is done."""
    world = one()
    world.systems["crm"].silent = lambda call: call.method == "DELETE"
    if not done:
        world.systems["crm"].fault = once(Reply(None))
    world.settle(3)
    assert world.states() == {"crm/1": "EXECUTING"}
    world.systems["crm"].silent = lambda _: False
    world.settle(10)
    assert world.outcomes() == {"crm/1": "VERIFIED"}
    assert len(world.systems["crm"].deletes()) == (1 if done else 2)


# Crashes


@pytest.mark.parametrize("done", [True, False])
def test_a_handler_killed_during_the_call_looks_up_what_became_of_it(*, done: bool) -> None:
    """EXECUTING without an answer is an unknown outcome, and never a second DELETE before a look-up."""
    world = one()
    calls = world.systems["crm"].calls
    world.systems["crm"].silent = lambda call: call.method == "DELETE"
    if not done:
        world.systems["crm"].fault = once(Reply(None))
    world.settle(1.5)
    assert world.states() == {"crm/1": "EXECUTING"}
    world.systems["crm"].silent = lambda _: False
    world.harness.crash("executor")
    before = len(calls)
    world.settle()
    assert calls[before][1] == "GET"
    assert world.outcomes() == {"crm/1": "VERIFIED"}
    assert world.receipt("1")["attempts"][0]["error"] == "interrupted"
    assert len(world.systems["crm"].deletes()) == (1 if done else 2)


def test_a_handler_killed_during_the_call_of_a_target_without_look_up_leaves_it_to_a_person() -> None:
    """Nobody can know."""
    world = one(http())
    world.systems["crm"].silent = lambda _: True
    world.settle(1.5)
    world.harness.crash("executor")
    world.settle()
    assert world.outcomes() == {"crm/1": "BLOCKED"}
    assert world.systems["crm"].deletes() == ["1"]


@pytest.mark.parametrize("steps", range(1, 120, 4))
def test_a_handler_killed_at_any_step_ends_every_request_once(steps: int) -> None:
    """Before, during and after the call, either stage."""
    world = World(simple(guard={"window": "0s"}), seed=steps)
    for number in range(1, 4):
        world.systems["crm"].add(str(number))
        world.deleted("shop", str(number))
    world.harness.work(steps)
    world.harness.crash("executor")
    world.harness.advance(1000)
    world.harness.work(steps)
    world.harness.crash("requests")
    world.harness.crash("executor")
    world.settle(5)
    assert world.outcomes() == {f"crm/{number}": "VERIFIED" for number in range(1, 4)}
    assert sorted(world.systems["crm"].deletes()) == ["1", "2", "3"]


# The breaker


def down(world: World, minutes: Iterable[float]) -> list[int]:
    """Return how many calls a target that is down gets in each stretch of time."""
    counts = []
    for stretch in minutes:
        before = len(world.systems["crm"].calls)
        world.settle(stretch)
        counts.append(len(world.systems["crm"].calls) - before)
    return counts


def test_a_target_that_is_down_is_left_alone_and_the_others_go_on() -> None:
    """Five failures in a row open the breaker; a call now and then finds out when the target is back."""
    world = World({"targets": {"crm": drivly(), "erp": drivly()}, "routes": [route(), route(target="erp")]})
    for number in range(1, 9):
        for system in world.systems.values():
            system.add(str(number))
        world.deleted("shop", str(number))
    world.systems["crm"].fault = always(Reply(None, error="connection"))
    first, *later = down(world, [2, 60, 60])
    assert first <= 12
    assert all(count <= 30 for count in later)
    assert {key for key, state in world.outcomes().items() if state == "VERIFIED"} == {f"erp/{n}" for n in range(1, 9)}
    world.systems["crm"].fault = lambda _: None
    world.settle(15)
    assert set(world.outcomes().values()) == {"VERIFIED"}
    assert len(world.receipts()) == 16


def test_a_target_that_fails_often_is_left_alone_too() -> None:
    """20 % of the last 50 calls, without five in a row."""
    world = World(simple(drivly(concurrency=1), guard={"count": 100}))
    for number in range(1, 61):
        world.systems["crm"].add(str(number))
        world.deleted("shop", str(number))
    count = [0]

    def fault(call: Call) -> Reply | None:
        count[0] += 1
        return Reply(500) if count[0] % 4 == 0 else None

    world.systems["crm"].fault = fault
    world.settle(2)
    assert world.status("target/crm")["state"] == "circuit open"
    world.systems["crm"].fault = lambda _: None
    world.settle(30)
    assert set(world.outcomes().values()) == {"VERIFIED"}


def test_no_more_calls_than_the_concurrency_are_under_way() -> None:
    """A slow target is asked no more at once than it may be."""
    world = World(simple(drivly(concurrency=3), guard={"count": 100}), partitions=1)
    for number in range(1, 31):
        world.systems["crm"].add(str(number))
        world.deleted("shop", str(number))
    counts: list[int] = []

    def count(call: Call) -> Reply | None:
        counts.append(1 + sum(len(task.under_way) for task in world.harness._tasks))
        return None

    world.systems["crm"].fault = count
    world.settle()
    assert max(counts) == 3
    assert len(world.outcomes()) == 30


# Several at once


def test_two_requests_for_one_customer_are_carried_out_one_after_the_other() -> None:
    """Two sources ask at once: the second finds nobody, and has not failed."""
    world = World({**simple(), "routes": [route(), route("erp")]})
    world.systems["crm"].add("1")
    world.deleted("shop", "1")
    world.deleted("erp", "1")
    world.settle(5)
    assert sorted(receipt["outcome"] for receipt in world.receipts()) == ["ALREADY_ABSENT", "VERIFIED"]
    assert world.systems["crm"].deletes() == ["1"]


def test_a_late_answer_to_a_call_that_was_given_up_changes_nothing() -> None:
    """The deletion has ended since."""
    world = one()
    late: list[Call] = []

    def silent(call: Call) -> bool:
        if call.method == "DELETE" and not late:
            late.append(call)
            return True
        return False

    world.systems["crm"].silent = silent
    world.settle(10)
    assert world.outcomes() == {"crm/1": "VERIFIED"}
    (task,) = [task for task in world.harness._tasks if task.handler.stage == "executor" and b"t/crm" in task.tx.data]
    before = dict(task.tx.data)
    task.handler.on_reply(task.tx, late[0], Reply(500), world.harness.now)
    assert task.tx.data == before


def test_a_late_answer_while_a_newer_call_is_under_way_changes_nothing() -> None:
    """It belongs to an older call than the newest: a 404 to the DELETE would be taken for the look-up's."""
    world, late, unmoved = one(), list[Call](), list[bool]()

    def silent(call: Call) -> bool:
        if call.method == "DELETE":
            late.append(call)
        return call.method == "DELETE"

    def answer_late(call: Call) -> Reply | None:
        if late and call.method == "GET" and not unmoved:
            tasks = [task for task in world.harness._tasks if task.handler.stage == "executor"]
            (task,) = [task for task in tasks if b"t/crm" in task.tx.data]
            before = dict(task.tx.data)
            task.handler.on_reply(task.tx, late[0], Reply(404, body=b'{"errors":[{}]}'), world.harness.now)
            unmoved.append(task.tx.data == before)
        return None

    world.systems["crm"].silent, world.systems["crm"].fault = silent, answer_late
    world.settle(10)
    assert unmoved == [True]
    assert world.outcomes() == {"crm/1": "VERIFIED"}
    assert world.systems["crm"].deletes() == ["1"]


def test_calls_carry_no_query_with_a_delete() -> None:
    """A filter beside an id could delete more than one."""
    world = one()
    seen: list[Call] = []

    def note(call: Call) -> Reply | None:
        seen.append(call)
        return None

    world.systems["crm"].fault = note
    world.settle()
    assert [(call.path, call.query, call.json) for call in seen if call.method == "DELETE"] == [
        ("/customers/1", (), None)
    ]


def test_a_configured_target_is_spoken_to_as_configured() -> None:
    """Method, path, body and the statuses that mean done are its own."""
    settings = http(method="POST", path="/people/{id}/erase", body={"reason": "gone"}, done=[204], gone=[304])
    world = World({"targets": {"crm": settings}, "routes": [route()]})
    seen: list[Call] = []

    def note(call: Call) -> Reply:
        seen.append(call)
        return Reply(204)

    world.systems["crm"].fault = note
    world.deleted("shop", "1")
    world.settle()
    assert [(call.method, call.path, call.json) for call in seen] == [("POST", "/people/1/erase", {"reason": "gone"})]
    assert world.outcomes() == {"crm/1": "DELETED"}


def test_an_answer_that_is_no_json_blocks_rather_than_guesses() -> None:
    """A look-up that cannot be read shows neither the customer nor its absence: a person has to look."""
    world = one()
    page = Reply(200, body=b"<html>")
    world.systems["crm"].fault = lambda call: page if call.path == "/customers/1" else None
    world.settle()
    assert world.outcomes() == {"crm/1": "BLOCKED"}
    assert world.receipt("1")["attempts"] == []
    assert world.systems["crm"].lookups().count("1") == 5


@pytest.mark.parametrize("body", [b'{"id":"1","upda', b"{}", b"<html>"])
def test_an_answer_that_is_spoiled_once_is_asked_for_again(body: bytes) -> None:
    """Half an answer, from a proxy that was cut off: nobody has to look at that."""
    world = one()
    world.systems["crm"].fault = once(Reply(200, body=body), method="GET")
    world.settle()
    assert world.outcomes() == {"crm/1": "VERIFIED"}
    assert world.systems["crm"].lookups()[:3] == ["1", "customers", "1"]


def slow(world: World, seconds: int, meanwhile: Callable[[], Any] = lambda: None) -> None:
    """Have every look-up of customer 1 take so long; `meanwhile` happens during the first."""
    happens = [meanwhile]

    def after(call: Call, reply: Reply) -> Reply:
        if call.method == "GET" and call.path == "/customers/1":
            world.harness.now += seconds * 1000
            while happens:
                happens.pop()()
        return reply

    world.systems["crm"].after = after


@pytest.mark.parametrize("seed", range(8))
def test_a_customer_that_is_back_before_a_slow_look_up_ends_is_not_deleted(seed: int) -> None:
    """What was said before the look-up is too old after it: it is asked for once more."""
    world = World(simple(), seed=seed)
    world.systems["crm"].add("1")
    world.deleted("shop", "1")
    slow(world, 6, lambda: world.live("shop", "1"))
    world.settle()
    assert world.outcomes() == {"crm/1": "SUPERSEDED"}
    assert world.systems["crm"].deletes() == []


def called_off(world: World, times: int) -> list[tuple[int, int]]:
    """Have the rate limit hold up the first DELETEs until they are called off; return when each was, and its latest."""
    seen: list[tuple[int, int]] = []

    def hold_up(call: Call) -> Reply | None:
        if call.method != "DELETE":
            return None
        assert call.latest is not None
        seen.append((world.harness.now, call.latest))
        return Reply(None, error=CALLED_OFF, sent=False) if len(seen) <= times else None

    world.systems["crm"].fault = hold_up
    return seen


@pytest.mark.parametrize("target", [drivly(), http()], ids=["with a look-up", "blind"])
def test_a_delete_that_the_rate_limit_holds_up_is_called_off_and_all_is_asked_anew(target: dict[str, Any]) -> None:
    """The word that it is wanted is good for 5 s, look-up and DELETE together; for twice as long each time."""
    world = World(simple(target))
    world.systems["crm"].add("1")
    world.deleted("shop", "1")
    seen = called_off(world, 7)
    world.settle()
    assert [latest - at for at, latest in seen] == [5000 << times for times in range(8)]
    assert set(world.outcomes().values()) <= {"VERIFIED", "DELETED"}
    assert statuses(world) == [200]
    assert world.status("target/crm")["state"] == "working"  # the breaker has counted nothing


def test_a_customer_that_is_back_while_the_rate_limit_holds_its_delete_up_is_not_deleted() -> None:
    """It was too late to call the DELETE off; but it was not sent in time, and is not wanted any more after that."""
    world = one()
    seen = called_off(world, 1)
    world.settle(0.9)
    while not seen:
        world.harness.advance(50)
    assert world.states() == {"crm/1": "COOLING"}
    world.live("shop", "1")
    world.settle()
    assert world.outcomes() == {"crm/1": "SUPERSEDED"}
    assert len(seen) == 1


def test_a_target_that_is_always_slow_is_not_asked_for_ever() -> None:
    """Its look-ups get twice as long each time."""
    world = one()
    slow(world, 25)
    world.settle(10)
    assert world.outcomes() == {"crm/1": "VERIFIED"}
    assert world.systems["crm"].lookups().count("1") == 5  # allowed were 5, 10, 20 and 40 s; and one after the DELETE


def test_a_page_that_stands_before_the_whole_target_pauses_it() -> None:
    """Where the canary cannot be read either, it is not this one customer that a person has to look at."""
    world = one()
    world.systems["crm"].fault = always(Reply(200, body=b"<html>"))
    world.settle(10)
    assert world.receipts() == []
    assert world.status("target/crm")["state"] == "paused"
    world.systems["crm"].fault = lambda _: None
    world.settle(10)
    assert world.outcomes() == {"crm/1": "VERIFIED"}


def test_an_accepted_deletion_is_not_believed_while_everything_is_404() -> None:
    """The canary counts for it as well."""
    world = one(with_lookup())
    world.systems["crm"].fault = once(Reply(202))
    world.settle(1.05)
    world.systems["crm"].fault = always(Reply(404))
    world.settle(10)
    assert world.states() == {"crm/1": "ACCEPTED"}
    world.systems["crm"].fault = lambda _: None
    del world.systems["crm"].rows["1"]
    world.settle(20)
    assert world.outcomes() == {"crm/1": "VERIFIED"}


def test_retry_after_nothing_is_no_busy_loop() -> None:
    """A target that says 0 is asked once a second at most."""
    world = one()
    world.systems["crm"].fault = always(Reply(429, {"retry-after": "0"}), "DELETE")
    world.settle(3)
    assert 40 < len(world.systems["crm"].deletes()) < 130


# One DELETE a customer, where nothing can be looked up


def blind() -> World:
    """Return a world in which two sources lead to one customer of a target without a look-up."""
    routes = [route(), route("erp", classes={"gone": "approval"})]
    world = World({"targets": {"crm": http()}, "routes": routes})
    world.systems["crm"].add("1")
    return world


def test_a_second_request_for_a_customer_that_was_deleted_blindly_sends_no_second_delete() -> None:
    """It is what the first has done; whoever has the id since is somebody else."""
    world = blind()
    world.deleted("shop", "1")
    world.deleted("erp", "1")
    world.settle(5)
    assert sorted(receipt["outcome"] for receipt in world.receipts()) == ["ALREADY_ABSENT", "DELETED"]
    first, second = sorted(world.receipts(), key=itemgetter("outcome"), reverse=True)
    assert second["reason"] == f"{first['request']} has done it"
    assert world.systems["crm"].deletes() == ["1"]


def test_a_plan_that_is_approved_late_does_not_delete_who_has_the_id_since() -> None:
    """It waited for a person while another request was carried out."""
    world = blind()
    world.deleted("erp", "1", "gone")
    world.settle()
    world.deleted("shop", "1")
    world.settle()
    world.systems["crm"].add("1", name="somebody else")
    world.approve(*world.plans())
    world.settle(5)
    assert sorted(receipt["outcome"] for receipt in world.receipts()) == ["ALREADY_ABSENT", "DELETED"]
    assert world.systems["crm"].deletes() == ["1"]


@pytest.mark.parametrize("authority", ["tombstone", "erasure"])
def test_a_later_request_for_a_customer_that_was_deleted_blindly_is_held(authority: str) -> None:
    """Nothing has shown since then that the customer is there again: a person decides."""
    world = blind()
    world.live("erp", "1")
    world.settle()
    world.deleted("shop", "1")
    world.settle(5)
    if authority == "erasure":
        world.decide("erase", customer="crm/1")
    else:
        world.deleted("erp", "1")
    world.settle(5)
    assert world.states() == {"crm/1": "HELD"}
    assert world.systems["crm"].deletes() == ["1"]
    world.decide("approve", target="crm", request=world.ledger()["crm/1"]["request"]["id"])
    world.settle(5)
    assert world.systems["crm"].deletes() == ["1", "1"]


@pytest.mark.parametrize("lost", [Reply(None, error="timeout"), Reply(500), Reply(202)], ids=["none", "500", "202"])
def test_no_second_delete_is_sent_blindly_while_nobody_knows_what_the_first_has_done(lost: Reply) -> None:
    """Another source asks for the same customer: that goes to a person too, whose `retry` has it sent."""
    world = blind()
    world.systems["crm"].fault = once(lost)
    world.deleted("shop", "1")
    world.deleted("erp", "1")
    world.settle(5)
    first, second = sorted(world.receipts(), key=lambda receipt: len(receipt["attempts"]), reverse=True)
    assert [first["outcome"], second["outcome"]] == ["BLOCKED", "BLOCKED"]
    assert first["request"] in second["reason"]
    assert world.systems["crm"].deletes() == ["1"]
    world.decide("retry", target="crm", request=second["request"])
    world.settle(5)
    assert sorted(receipt["outcome"] for receipt in world.receipts()) == ["BLOCKED", "BLOCKED", "DELETED"]
    assert world.systems["crm"].deletes() == ["1", "1"]


def test_a_blind_delete_that_found_nobody_holds_up_no_other() -> None:
    """A 404 has deleted nobody, and that is known: whoever asks after the base URL was mended has it sent."""
    world = blind()
    world.systems["crm"].fault = once(Reply(404))
    world.deleted("shop", "1")
    world.settle(5)
    world.deleted("erp", "1")
    world.settle(5)
    assert [receipt["outcome"] for receipt in world.receipts()] == ["BLOCKED", "DELETED"]


def test_a_customer_that_is_back_after_a_blind_delete_of_unknown_outcome_is_deleted_again() -> None:
    """Its source has published it as live since: it is there, whatever the first DELETE has done."""
    world = blind()
    world.systems["crm"].fault = once(Reply(500))
    world.deleted("shop", "1")
    world.settle()
    world.live("shop", "1")
    world.settle()
    world.deleted("shop", "1")
    world.settle()
    assert [receipt["outcome"] for receipt in world.receipts()] == ["BLOCKED", "DELETED"]
    assert world.systems["crm"].deletes() == ["1", "1"]


def test_a_customer_that_is_back_after_a_blind_deletion_is_deleted_again() -> None:
    """Its source has published it as live since."""
    world = blind()
    world.deleted("shop", "1")
    world.settle()
    world.systems["crm"].add("1")
    world.live("shop", "1")
    world.settle()
    world.deleted("shop", "1")
    world.settle()
    assert [receipt["outcome"] for receipt in world.receipts()] == ["DELETED", "DELETED"]
    assert world.systems["crm"].deletes() == ["1", "1"]

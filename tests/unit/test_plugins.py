"""Handlers that others write: what they may do, what becomes of their failures, and in which order events come."""

import asyncio
from collections import UserDict
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from handlers.parking import Batch, Runner
from handlers.plugins import Caller, Context, Event, Plugin, PluginSettings, load, problems
from worker.errors import ConfigError, FencedError, RecordTooLargeError, StoreError, TransactionError
from worker.handling import Dead, Done, Outcome, Record, Retry, Skip
from worker.plugin_testkit import Trial, deletion, event
from worker.plugins import PluginLoop
from worker.redelivery import Redelivery
from worker.task import Task
from worker.testkit import person
from worker.topics import DAY_MS, Topics


async def count(event: Event, context: Context) -> None:  # ruff: ignore[unused-async] - a handler is one
    """Count the events of a customer, and publish the number."""
    seen = (context.get("seen") or 0) + 1
    context.put("seen", seen)
    context.send("counts", event.key, {"seen": seen, "type": event.type})


async def test_state_and_outputs_are_those_of_the_customer() -> None:
    """Each customer has a state of its own; what is sent is sent in order."""
    trial = Trial(count, outputs=["counts"])
    await trial.give(event(person("crm", "1"), 1), event(person("crm", "2"), 1), deletion("crm", "1", 2))
    assert sorted(trial.sent, key=lambda one: (one[1], one[2]["seen"])) == [
        ("counts", "crm/1", {"seen": 1, "type": "customer.created"}),
        ("counts", "crm/1", {"seen": 2, "type": "customer.deleted"}),
        ("counts", "crm/2", {"seen": 1, "type": "customer.created"}),
    ]
    assert trial.state("crm/1") == {"seen": 2}


async def test_bytes_may_be_sent_that_are_neither_text_nor_json() -> None:
    """A trial shows them as they are."""

    async def handle(event: Event, context: Context) -> None:  # ruff: ignore[unused-async] - a handler is one
        context.send("out", b"\xff\x01", b"\x00\x01binary")
        context.send("out", b"text", b'{"a": 1}')
        context.send("out", "text", None)

    trial = Trial(handle, outputs=["out"])
    await trial.give(event(person("crm", "1"), 1))
    assert trial.sent == [("out", b"\xff\x01", b"\x00\x01binary"), ("out", "text", {"a": 1}), ("out", "text", None)]


async def test_an_event_has_what_subscribers_have() -> None:
    """Key, version, type, data; None is no replay."""
    seen: list[Event] = []

    async def handle(event: Event, context: Context) -> None:  # ruff: ignore[unused-async] - a handler is one
        seen.append(event)

    await Trial(handle).give(event(person("crm", "a/b", given="Ada"), 3, changed=["name"]))
    (found,) = seen
    assert (found.source, found.customer_id, found.key, found.sequence) == ("crm", "a/b", "crm/a/b", 3)
    assert (found.type, found.data["changed"], found.replay) == ("customer.updated", ["name"], None)


class Flaky:
    """Fails as often as it is told to, by customer; remembers the order of what it handled."""

    def __init__(self, failures: dict[str, int]) -> None:
        self.failures = dict(failures)
        self.handled: list[tuple[str, int]] = []

    async def handle(self, event: Event, context: Context) -> Outcome | None:
        """Fail, or remember the event."""
        await asyncio.sleep(0)
        context.put("last", event.sequence)
        if self.failures.get(event.key, 0) > 0:
            self.failures[event.key] -= 1
            raise ConnectionError(event.key)
        self.handled.append((event.key, event.sequence))
        return None


async def test_a_failure_is_tried_again_with_the_same_state() -> None:
    """After growing pauses; what the failed call wrote is nowhere."""
    trial = Trial(Flaky, settings={"failures": {"crm/1": 3}}, attempts=5, retry="2s")
    await trial.give(event(person("crm", "1"), 1))
    assert trial.pauses == [2.0, 4.0, 8.0]
    assert trial.instance.handled == [("crm/1", 1)]
    assert trial.state("crm/1") == {"last": 1}
    assert trial.dead == []


async def test_the_last_failure_is_a_dead_letter_and_later_events_wait_behind_it() -> None:
    """The error's class is said, its text is not; other customers go on; a retry brings it all, in order."""
    trial = Trial(Flaky, settings={"failures": {"crm/1": 5}}, attempts=5)
    await trial.give(event(person("crm", "1"), 1), event(person("crm", "1"), 2), event(person("crm", "2"), 1))
    await trial.give(deletion("crm", "1", 3))
    assert trial.dead == [("crm/1", "it failed 5 times, at last with ConnectionError")]
    assert trial.instance.handled == [("crm/2", 1)]
    assert trial.state("crm/1") == {}
    assert await trial.retry("crm/1") == "done"
    assert trial.instance.handled == [("crm/2", 1), ("crm/1", 1), ("crm/1", 2), ("crm/1", 3)]
    assert await trial.retry("crm/1") == "superseded"
    await trial.give(event(person("crm", "1"), 4))
    assert trial.instance.handled[-1] == ("crm/1", 4)
    assert not [key for key in trial.data if key[:1] in b"kqd"]


async def test_a_header_without_a_value_waits_like_any_other() -> None:
    """Another program may write one; the event stays as it came."""
    trial = Trial(Flaky, settings={"failures": {"crm/1": 1}}, attempts=1)
    odd = [
        replace(one, headers=[*one.headers, ("odd", None)]) for one in (event(person("crm", "1"), n) for n in (1, 2))
    ]
    await trial.give(*odd)
    assert trial.letters["crm/1"].headers[-1] == ("odd", None)
    assert await trial.retry("crm/1") == "done"
    assert trial.instance.handled == [("crm/1", 1), ("crm/1", 2)]


async def test_a_retry_that_fails_leaves_everything_as_it_is() -> None:
    """The letter still waits, and so does what is behind it; there is no second letter."""
    trial = Trial(Flaky, settings={"failures": {"crm/1": 4}}, attempts=2)
    await trial.give(event(person("crm", "1"), 1), event(person("crm", "1"), 2))
    assert await trial.retry("crm/1") == "failed"
    assert len(trial.dead) == 1
    assert await trial.retry("crm/1") == "done"
    assert trial.instance.handled == [("crm/1", 1), ("crm/1", 2)]


async def test_a_discarded_letter_lets_the_others_pass() -> None:
    """The event itself is never handled."""
    trial = Trial(Flaky, settings={"failures": {"crm/1": 1}}, attempts=1)
    await trial.give(event(person("crm", "1"), 1), event(person("crm", "1"), 2))
    assert await trial.discard("crm/1") == "discarded"
    assert trial.instance.handled == [("crm/1", 2)]


async def test_what_waited_may_fail_in_its_turn() -> None:
    """Then it is the dead letter, and the rest waits behind it."""
    trial = Trial(Flaky, settings={"failures": {"crm/1": 1}}, attempts=1)
    await trial.give(*(event(person("crm", "1"), number) for number in (1, 2, 3)))
    trial.instance.failures["crm/1"] = 1
    assert await trial.discard("crm/1") == "discarded"
    assert [reason for _, reason in trial.dead] == ["it failed 1 times, at last with ConnectionError"] * 2
    assert trial.instance.handled == []
    assert await trial.retry("crm/1") == "done"
    assert trial.instance.handled == [("crm/1", 2), ("crm/1", 3)]


@pytest.mark.parametrize(
    ("outcome", "kept", "dead"),
    [(None, True, 0), (Done(), True, 0), (Skip("no"), True, 0), (Dead("never"), False, 1), ("done", False, 1)],
)
async def test_a_handler_says_what_came_of_it(*, outcome: Any, kept: bool, dead: int) -> None:
    """What it wrote is kept unless it gave up, or returned what is no outcome."""

    async def handle(event: Event, context: Context) -> Any:  # ruff: ignore[unused-async] - a handler is one
        context.put("x", 1)
        return outcome

    trial = Trial(handle)
    await trial.give(event(person("crm", "1"), 1))
    assert trial.state("crm/1") == ({"x": 1} if kept else {})
    assert len(trial.dead) == dead


@pytest.mark.parametrize(
    ("outcome", "says"),
    [
        (Retry("30"), "a Retry after what is no number of seconds"),  # type: ignore[arg-type]
        (Retry(float("nan")), "a Retry after what is no number of seconds"),
        (Retry(float("inf")), "a Retry after what is no number of seconds"),
        (Dead(ValueError("Ada")), "a Dead for a reason that is no text"),  # type: ignore[arg-type]
        (Skip(None), "a Skip for a reason that is no text"),  # type: ignore[arg-type]
        (False, "bool, which is no outcome"),
    ],
)
async def test_an_outcome_has_in_it_what_belongs_there(*, outcome: Any, says: str) -> None:
    """Else the event is a dead letter, and other customers go on."""

    async def handle(event: Event, context: Context) -> Any:  # ruff: ignore[unused-async] - a handler is one
        return outcome if event.customer_id == "1" else None

    trial = Trial(handle)
    await trial.give(event(person("crm", "1"), 1), event(person("crm", "2"), 1))
    assert trial.dead == [("crm/1", f"the handler returned {says}")]
    assert trial.outcomes[1] == Done()


@pytest.mark.parametrize("prefix", [b"s", b"k"], ids=["what the handler keeps", "whether something waits"])
async def test_a_store_that_cannot_be_read_is_no_fault_of_the_events(prefix: bytes) -> None:
    """It is said as such, for the task to begin anew over a fresh one."""

    class Torn(UserDict[bytes, bytes]):
        """A state, of which a part is damaged."""

        def get(self, key: bytes, default: Any = None) -> Any:
            if key.startswith(prefix):
                raise StoreError("the store cannot be read")
            return super().get(key, default)

    trial = Trial(count, outputs=["counts"])
    trial.data = cast("dict[bytes, bytes]", Torn())
    with pytest.raises(StoreError):
        await trial.give(event(person("crm", "1"), 1), event(person("crm", "2"), 1))
    assert (trial.dead, trial.pauses) == ([], [])


class Session:
    """Fails when it is entered or left, whichever it is told."""

    def __init__(self, fails: str) -> None:
        self.fails = fails

    async def __aenter__(self) -> None:
        if self.fails == "enter":
            raise ValueError(self.fails)

    async def __aexit__(self, *raised: object) -> None:
        if self.fails == "leave":
            raise KeyError(self.fails)

    async def handle(self, event: Event, context: Context) -> None:
        """Do nothing."""


async def entered(fails: str, within: Exception | None = None) -> None:
    """Enter and leave a session as its task does, with an error of the work's between."""
    plugin = Plugin("mine", PluginSettings(settings={"fails": fails}), Session)
    task = SimpleNamespace(topics=Topics(), partition=0, stopping=asyncio.Event())
    async with PluginLoop(plugin, cast("Task", task))._entered():
        if within is not None:
            raise within


@pytest.mark.parametrize(("fails", "kind"), [("enter", "ValueError"), ("leave", "KeyError")])
async def test_what_a_plugin_fails_with_at_its_start_or_end_is_its_tasks_failure(fails: str, kind: str) -> None:
    """The task begins again after a pause; the worker goes on, and only the error's class is said."""
    with pytest.raises(TransactionError, match=f"^mine: to enter or to leave it failed with {kind}$"):
        await entered(fails)


@pytest.mark.parametrize("fails", ["never", "leave"])
async def test_what_ended_the_work_goes_before_what_leaving_fails_with(fails: str) -> None:
    """A fenced task is not begun again before the group was joined anew."""
    with pytest.raises(FencedError):
        await entered(fails, FencedError("another worker owns it"))


async def test_not_now_is_no_failure() -> None:
    """`Retry` waits as long as it says, as often as it says so."""

    async def handle(event: Event, context: Context) -> Outcome | None:  # ruff: ignore[unused-async] - a handler is one
        answers.pop()
        return Retry(7.0) if answers else None

    answers = list(range(20))
    trial = Trial(handle, attempts=1)
    await trial.give(event(person("crm", "1"), 1))
    assert trial.pauses == [7.0] * 19
    assert trial.dead == []


async def test_calls_are_counted_and_failures_are() -> None:
    """The handler is told how often it was called; only failures make a dead letter."""
    seen: list[int] = []

    async def handle(event: Event, context: Context) -> Outcome | None:  # ruff: ignore[unused-async] - a handler is one
        seen.append(context.attempt)
        if context.attempt % 3:
            return Retry(7.0)
        raise ConnectionError

    trial = Trial(handle, attempts=2, retry="1s")
    await trial.give(event(person("crm", "1"), 1))
    assert seen == [1, 2, 3, 4, 5, 6]
    assert trial.pauses == [7.0, 7.0, 1.0, 7.0, 7.0]
    assert trial.dead == [("crm/1", "it failed 2 times, at last with ConnectionError")]


async def test_every_failure_is_said_by_its_class() -> None:
    """One line for each, with no word of what the error says, nor of the customer."""
    trial = Trial(Flaky, settings={"failures": {"crm/1": 2}}, attempts=3)
    with capture_logs() as logs:
        await trial.give(event(person("crm", "1"), 4))
    line = {"event": "handler_failed", "log_level": "warning", "stage": "trial", "error": "ConnectionError"}
    place = {"topic": "customers.events", "partition": 0, "offset": 4}
    assert logs == [line | place | {"attempt": 1}, line | place | {"attempt": 2}]


@pytest.mark.parametrize(
    ("raises", "outcome", "error"),
    [
        (ConnectionError(), None, "ConnectionError"),
        (RecordTooLargeError("a record takes too much", size=1), None, "RecordTooLargeError"),
        (None, Dead("never"), "Dead"),
        (None, "done", "Dead"),
    ],
)
async def test_a_dead_letter_has_the_class_of_its_error(raises: Exception | None, outcome: Any, error: str) -> None:
    """`Dead` where it was decided; also where what has waited fails in its turn."""

    async def handle(event: Event, context: Context) -> Any:  # ruff: ignore[unused-async] - a handler is one
        if raises is not None:
            raise raises
        return outcome

    trial = Trial(handle, attempts=1)
    batches: list[Batch] = []
    trial._keep = lambda batch, keep=trial._keep: batches.append(batch) or keep(batch)  # type: ignore[method-assign]
    await trial.give(event(person("crm", "1"), 1), event(person("crm", "1"), 2))
    assert await trial.discard("crm/1") == "discarded"
    assert [error for batch in batches for _, error, _ in batch.buried] == [error, error]


async def test_a_call_that_takes_too_long_is_a_failure() -> None:
    """It is cut off."""

    async def handle(event: Event, context: Context) -> None:
        await asyncio.Event().wait()

    trial = Trial(handle, timeout="10ms", attempts=2)
    await trial.give(event(person("crm", "1"), 1))
    assert trial.dead == [("crm/1", "it failed 2 times, at last with TimeoutError")]


class Shared:
    """Customers share one log-in, which a time-out of any of them cancels for all; odd ones need none."""

    def __init__(self) -> None:
        self.login: asyncio.Future[bool] | None = None
        self.handled: list[str] = []

    async def handle(self, event: Event, context: Context) -> None:
        """Wait for the log-in, made once and never answered."""
        if int(event.customer_id) % 2 == 0:
            self.login = self.login or asyncio.ensure_future(asyncio.Event().wait())
            await self.login
        self.handled.append(event.key)


async def test_what_a_handler_waits_for_may_be_cancelled_under_it() -> None:
    """That is its failure, and nothing of it touches its neighbours; nor what waits behind a dead letter."""
    trial = Trial(Shared, timeout="10ms", attempts=2)
    await trial.give(*(event(person("crm", id_), n) for id_, n in (("2", 1), ("4", 1), ("4", 2), ("7", 1))))
    assert trial.instance.handled == ["crm/7"]
    assert sorted(trial.letters) == ["crm/2", "crm/4"]
    assert trial.dead[0][1] == "it failed 2 times, at last with CancelledError"
    assert await trial.discard("crm/4") == "discarded"
    assert trial.letters["crm/4"].offset == 2


async def test_a_call_is_cancelled_with_the_task_that_makes_it() -> None:
    """That is no failure of the handler's: nothing is counted, and nothing called again."""
    begun: list[int] = []

    async def handle(event: Event, context: Context) -> None:
        begun.append(event.sequence)
        await asyncio.Event().wait()

    trial = Trial(handle)
    giving = asyncio.ensure_future(trial.give(event(person("crm", "1"), 1)))
    while not begun:
        await asyncio.sleep(0)
    giving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await giving
    assert (begun, trial.pauses, trial.dead) == ([1], [], [])


@pytest.mark.parametrize(
    ("topic", "value", "reason"),
    [("elsewhere", {}, "LookupError"), ("counts", "x" * 2_000_000, "more than kafka.max_record_bytes")],
)
async def test_it_may_write_only_what_it_said(topic: str, value: Any, reason: str) -> None:
    """Topics that are not configured, and records that the broker would refuse."""

    async def handle(event: Event, context: Context) -> None:  # ruff: ignore[unused-async] - a handler is one
        context.send(topic, event.key, value)

    trial = Trial(handle, outputs=["counts"], attempts=1)
    await trial.give(event(person("crm", "1"), 1))
    assert reason in trial.dead[0][1]
    assert trial.sent == []


async def test_replays_are_for_those_who_want_them() -> None:
    """A copy is passed over unless `replays` is set; then the event says so."""
    copy = event(person("crm", "1"), 1, replay="r1")
    shy, keen = Trial(count, outputs=["counts"]), Trial(count, outputs=["counts"], replays=True)
    await shy.give(copy)
    await keen.give(copy)
    assert shy.outcomes == [Skip("replay")]
    assert keen.outcomes == [Done()]


async def test_a_foreign_record_is_a_dead_letter() -> None:
    """Whatever is on the topic, the handler sees customers' events only."""
    trial = Trial(count, outputs=["counts"])
    await trial.give(
        Record("customers.events", 0, 0, 0, None, b"{}"), Record("customers.events", 0, 1, 0, b"crm/1", b"\xff")
    )
    assert [reason for _, reason in trial.dead] == ["not a customer's event"] * 2


async def test_nothing_waits_behind_what_is_no_customers() -> None:
    """A record without a key is a dead letter by itself, which an operator settles; nothing of it is kept."""
    trial = Trial(count, outputs=["counts"])
    foreign = [Record("customers.events", 0, offset, 0, None, b"{}") for offset in (7, 8, 9)]
    await trial.give(*foreign, event(person("crm", "1"), 1))
    assert [key for key, _ in trial.dead] == [f"customers.events/0/{offset}" for offset in (7, 8, 9)]
    assert await trial.discard("customers.events/0/7") == "superseded"
    assert await trial.retry("customers.events/0/8") == "superseded"
    assert not [key for key in trial.data if key[:1] != b"s"]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=25), st.integers(1, 5), st.integers(1, 7))
async def test_whatever_fails_each_customer_is_handled_once_and_in_order(
    story: list[tuple[str, bool]], concurrency: int, step: int
) -> None:
    """The law: after all dead letters were retried, every event was handled once, in the order of its customer."""
    bad = {(customer, at) for at, (customer, fails) in enumerate(story, 1) if fails}
    handled: list[tuple[str, int]] = []

    async def handle(event: Event, context: Context) -> None:
        await asyncio.sleep(0)
        if (event.customer_id, event.sequence) in bad:
            raise ConnectionError
        handled.append((event.customer_id, event.sequence))

    trial = Trial(handle, attempts=1, concurrency=concurrency)
    events = [event(person("crm", customer), at) for at, (customer, _) in enumerate(story, 1)]
    for start in range(0, len(events), step):
        await trial.give(*events[start : start + step])
    bad.clear()
    for customer in {customer for customer, fails in story if fails}:
        assert await trial.retry(f"crm/{customer}") == "done"
    for customer in "abc":
        wanted = [at for at, (name, _) in enumerate(story, 1) if name == customer]
        assert [at for name, at in handled if name == customer] == wanted
    assert not [key for key in trial.data if key[:1] in b"kqd"]


class Strict:
    """Takes one setting."""

    def __init__(self, url: str) -> None:
        self.url = url

    async def handle(self, event: Event, context: Context) -> None:
        """Do nothing."""


def plain(event: Event, context: Context) -> None:
    """Not a coroutine."""


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"target": "no.such.module:handle"}, "plugins.mine.target: ModuleNotFoundError"),
        ({"target": "tests.unit.test_plugins:nothing"}, "plugins.mine.target: AttributeError"),
        ({"target": "tests.unit.test_plugins:plain"}, "it is not async def handle"),
        ({"target": "tests.unit.test_plugins:Strict"}, "plugins.mine.settings: TypeError"),
        ({}, "no entry point 'mine' in the group rollcall.handlers"),
    ],
)
def test_what_is_no_handler_is_said_at_the_start(settings: dict[str, Any], says: str) -> None:
    """With its path in the configuration."""
    with pytest.raises(ConfigError, match="problem") as raised:
        load("mine", PluginSettings(**settings))
    assert says in str(raised.value)


def test_a_target_is_found_by_module_and_name() -> None:
    """A class is given its settings by name."""
    given_ = PluginSettings(target="tests.unit.test_plugins:Strict", settings={"url": "x"})
    _, instance = load("mine", given_).make()
    assert instance.url == "x"


def test_names_and_topics_of_rollcall_are_not_for_plugins() -> None:
    """Neither the name of a built-in handler or of a role, whose rights it would get, nor one of our topics."""
    own = PluginSettings(target="a:b", outputs=["customers.events", "orders.out"])
    other = PluginSettings(target="a:b")
    assert problems({"dedupe": other, "approver": other, "mine": own}, Topics()) == [
        "plugins.dedupe: this is the name of a built-in handler or role",
        "plugins.approver: this is the name of a built-in handler or role",
        "plugins.mine.outputs: customers.events is Rollcall's own",
    ]


def ending(called: list[str], most: int) -> Runner:
    """Return what runs a plug-in that notes its calls, and has to end after so many of them."""

    async def handle(event: Event, context: Context) -> None:
        await asyncio.sleep(0)
        called.append(event.key)

    async def wait(seconds: float) -> bool:  # ruff: ignore[unused-async] - a contract
        return True

    plugin = Plugin("trial", PluginSettings(), handle)
    return Runner(Caller(plugin, handle, lambda *_: None, wait), "trial", 2, lambda: len(called) >= most)


async def test_where_work_has_to_end_no_further_event_is_begun() -> None:
    """What was begun is finished and counts; the rest is given again."""
    called: list[str] = []
    runner = ending(called, 3)
    batch = await runner.handle([event(person("crm", str(n)), 1) for n in range(50)], lambda _: None, replays=False)
    assert (batch.count, called) == (4, ["crm/0", "crm/1", "crm/2", "crm/3"])
    again = await runner.handle([event(person("crm", "9"), n) for n in (1, 2, 3)], lambda _: None, replays=False)
    assert (again.count, len(called)) == (0, 4)


async def test_a_letter_that_nobody_settles_is_written_again_before_it_is_forgotten() -> None:
    """Its topic keeps it for 30 days; its customer's events wait behind it for as long as it takes."""
    trial = Trial(Flaky, settings={"failures": {"crm/1": 1}}, attempts=1)
    events = [replace(event(person("crm", "1"), n), timestamp=n * 10 * DAY_MS) for n in range(1, 8)]
    for one in events:
        await trial.give(one)
    written = [reason for _, reason in trial.dead]
    assert len(written) == 1 + 4  # on days 30, 40, 60 and 70, each the first after another 15 days
    assert all(
        again == f"{written[0]}; its customer's events wait behind it since 1970-01-11T00:00:00.000Z"
        for again in written[1:]
    )
    assert trial.letters["crm/1"].offset == events[0].offset
    assert await trial.retry("crm/1") == "done"
    assert not [key for key in trial.data if key[:1] != b"s"]  # nothing waits; what the plug-in keeps stays


async def test_where_work_has_to_end_what_waits_behind_a_letter_waits_on() -> None:
    """It follows when the plug-in runs again."""
    trial = Trial(Flaky, settings={"failures": {"crm/1": 1}}, attempts=1)
    await trial.give(*(event(person("crm", "1"), n) for n in range(1, 5)))
    letter = trial.letters["crm/1"]
    given = Redelivery("trial", "discard", letter, "command", "letter").headers()
    called: list[str] = []
    runner = ending(called, 2)
    settled = await runner.handle([Record("replays", 0, 0, 0, letter.key, None, given)], trial.data.get, replays=True)
    kept = {key: value for key, value in (trial.data | settled.writes).items() if value is not None}
    drained = await runner.drain(kept.get, lambda start: iter(sorted(one for one in kept.items() if start in one[0])))
    assert drained is not None
    assert (drained.outcomes, called) == ([Done(), Done()], ["crm/1"] * 2)

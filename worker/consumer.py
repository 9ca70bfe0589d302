"""The handler loop: reads a task's inputs, has the handler decide, commits what came of it, makes the calls asked for.

Many records share one transaction. Guarantees:

- outputs, state and positions of all inputs are committed together; the group's offset goes with them;
- a record that cannot be handled goes to the dead letters, alone: the records around it are handled;
- a dead letter that an operator has retried is handled once more, and what became of it is said in that transaction;
- retries and a replay's copies that were deleted before they were read are said to be lost, and nobody waits for them;
- an HTTP call is made after the transaction that asked for it has been committed, and only while the partition is ours;
- what is asked for while the worker stops is not made, and its reply says so;
- lost input is never skipped in silence: where retention has passed a position, the worker stops and says what is lost;
- a position also passes what is no record (ends of transactions, what was aborted), which retention deletes as well.
"""

import asyncio
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, Final

import aiohttp
import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError, OffsetOutOfRangeError

from worker import redelivery, telemetry
from worker.errors import (
    CredentialError,
    RecordError,
    RecordTooLargeError,
    RollcallError,
    StateError,
    TransactionError,
    UpstreamError,
    UpstreamUnavailableError,
)
from worker.handling import (
    CALLED_OFF,
    STOPPING,
    Call,
    Dead,
    Done,
    Handler,
    Input,
    Outcome,
    Record,
    Reply,
    Retry,
    Skip,
)
from worker.http import CalledOffError, Lane, MisplacedError, PrivateAddressError
from worker.kafka import MARKERS_SECONDS, bounded_stop, emptied, linger, undecodable
from worker.redelivery import Redelivery
from worker.task import POSITION, Task, Transaction
from worker.times import now_ms
from worker.topics import remedy

log = structlog.get_logger()

_READ_RECORDS: Final = 2_000
# A transaction is closed after so many seconds of work on its records, so that the heartbeats are sent in time.
_WORK_SECONDS: Final = 0.5
_READ_MS: Final = 200
# How long a broker waits for something to send: the answer holds up the next fetch, also of an input that has more.
_FETCH_IDLE_MS: Final = 500
_FETCH_BUSY_MS: Final = 20
_IDLE_SECONDS: Final = 0.2
_REPLIES: Final = 500
_PASSED_SECONDS: Final = 1.0
_MARKERS: Final = "Ends of transactions take offsets as records do: which these were cannot be known any more."

Lanes = Mapping[str, Lane]


class HandlerLoop:
    """Runs one handler on one started task."""

    def __init__(self, handler: Handler, task: Task, lanes: Lanes) -> None:
        """`lanes`: by the name that the handler's calls give."""
        self._handler = handler
        self._inputs = (*handler.inputs, Input(task.topics.replays, start="latest"))
        self._task = task
        self._lanes = lanes
        self._replies: asyncio.Queue[tuple[Call, Reply]] = asyncio.Queue()
        self._calls: set[asyncio.Task[None]] = set()
        self._timer: int | None = None
        self._resume_at: dict[TopicPartition, float] = {}
        self._kept: dict[TopicPartition, int] = {}
        # How far was read what called for nothing: it is kept with the next transaction, or by the moment `_keep_by`
        # (of ends of transactions `_markers_by`: soon after the start, then seldom), and when stopping.
        self._passed: dict[TopicPartition, int] = {}
        self._keep_by = math.inf
        self._markers_by = 0.0
        self.log = log.bind(stage=handler.stage, partition=task.partition)

    async def run(self) -> None:
        """Handle until the task is stopping; calls under way are waited for, as far as the grace period goes."""
        inputs = [TopicPartition(given.topic, self._task.partition) for given in self._inputs]
        consumer = await self._task.connection.consumer(max_partition_fetch_bytes=2 * 1024 * 1024)
        try:
            consumer.assign(inputs)
            await self._open(consumer, inputs)
            self._task.working = True
            while not self._task.stopping.is_set():
                await self._step(consumer, inputs)
            while self._calls or not self._replies.empty():
                await self._take_replies(wait=True)
            if self._passed:
                await self._transact(self._catch_up)
        finally:
            for call in self._calls:
                call.cancel()
            for call in list(self._calls):
                with suppress(asyncio.CancelledError):
                    await call
            for where in inputs:
                telemetry.LAG.remove(self._handler.stage, where.topic, str(where.partition))
            await bounded_stop(consumer.stop(), f"inputs of {self._handler.stage}")

    async def _open(self, consumer: AIOKafkaConsumer, inputs: Sequence[TopicPartition]) -> None:
        """Go to where the state says, and let the handler take up the partition."""
        starts = await consumer.beginning_offsets(inputs)
        ends = await consumer.end_offsets(inputs)
        for given, where in zip(self._inputs, inputs, strict=True):
            self._kept[where] = self._position(given, where, starts[where], ends[where])
            consumer.seek(where, self._kept[where])
        by_topic = {where.topic: offset for where, offset in ends.items()}

        def take_up(tx: Transaction) -> None:
            for where in inputs:
                key, raw = POSITION + where.topic.encode(), b"%d" % self._kept[where]
                if tx.get(key) != raw:
                    tx.put(key, raw)
            self._timer = self._handler.open(tx, self._task.partition, by_topic, now_ms())

        await self._transact(take_up)
        self._markers_by = time.monotonic() + _PASSED_SECONDS

    def _position(self, given: Input, where: TopicPartition, start: int, end: int) -> int:
        with self._task.store.reading() as state:
            raw = state.get(POSITION + given.topic.encode())
        if raw is None:
            return start if given.start == "earliest" else end
        position = int(raw)
        if emptied(position, start, end):
            self.log.warning("input_emptied", topic=where.topic, position=position)
            return start
        if given.topic == self._task.topics.replays and not start <= position <= end:
            # Most of it was for others, and whoever gave what was for us was not answered: no reason to stand still.
            self.log.error("orders_lost", topic=where.topic, partition=where.partition, position=position)
            return start
        if position < start:
            message = (
                f"{self._handler.stage}: {where.topic}/{where.partition} starts at offset {start} now, but was handled "
                f"only up to {position}: {start - position} offsets were deleted unread"
            )
            raise StateError(message, hint=f"{_MARKERS} {remedy(self._handler.stage)}")
        if position > end:
            message = (
                f"{self._handler.stage}: {where.topic}/{where.partition} ends at offset {end}, but was handled up to "
                f"{position}: the topic was made anew, or lost records"
            )
            raise StateError(message, hint=remedy(self._handler.stage))
        return position

    async def _transact(self, work: Callable[[Transaction], Any]) -> Any:
        """Commit `work`, then make the calls that it asked for."""
        calls: list[Call] = []

        def with_calls(tx: Transaction) -> Any:
            result = work(tx)
            tx.settle()
            if tx.changes or tx.outputs:
                self._catch_up(tx)
            calls.extend(tx.calls)
            return result

        result = await self._task.transact(with_calls)
        if self._task.stopping.is_set():
            # Who is killed leaves it open whether they were made; who has the time says that they were not.
            for call in calls:
                self._replies.put_nowait((call, Reply(None, error=STOPPING, sent=False)))
            return result
        for call in calls:
            running = asyncio.ensure_future(self._make(call))
            self._calls.add(running)
            running.add_done_callback(self._calls.discard)
        return result

    async def _step(self, consumer: AIOKafkaConsumer, inputs: Sequence[TopicPartition]) -> None:
        """Handle what has come: replies first, then the timer, then records."""
        await self._take_replies(wait=False)
        if self._timer is not None and self._timer <= now_ms():
            await self._transact(self._fire)
        now = time.monotonic()
        if self._passed and now > self._keep_by:
            await self._transact(self._catch_up)
        for where in [where for where, moment in self._resume_at.items() if moment <= now]:
            del self._resume_at[where]
            consumer.resume(where)
        try:
            read = await consumer.getmany(*inputs, timeout_ms=self._patience(), max_records=_READ_RECORDS)
        except OffsetOutOfRangeError as error:
            message = f"{self._handler.stage}: an input does not have its position any more ({error})"
            raise StateError(message, hint=remedy(self._handler.stage)) from error
        except UnicodeDecodeError:
            raise await undecodable(consumer, inputs) from None
        except KafkaError as error:
            message = f"{self._handler.stage}: an input cannot be read ({type(error).__name__})"
            raise TransactionError(message) from error
        for where, raw in read.items():
            records = [
                Record(row.topic, row.partition, row.offset, row.timestamp, row.key, row.value, row.headers)
                for row in raw
            ]
            await self._handle(consumer, where, records)
        lag = 0
        for where in inputs:
            end = consumer.highwater(where)
            if end is not None:
                position = await consumer.position(where)  # behind the last record handled, and the markers after it
                self._pass(where, position, self._markers_by)
                behind = end - position
                telemetry.LAG.labels(self._handler.stage, where.topic, str(where.partition)).set(behind)
                lag += behind
        linger(consumer, _FETCH_BUSY_MS if lag else _FETCH_IDLE_MS)

    def _patience(self) -> int:
        """Return how long to wait for records, in milliseconds: not past the timer, nor while calls are under way."""
        if self._calls or not self._replies.empty():
            return 5
        if self._timer is None:
            return _READ_MS
        return max(1, min(_READ_MS, self._timer - now_ms()))

    def _fire(self, tx: Transaction) -> None:
        self._timer = self._handler.on_timer(tx, now_ms())

    async def _handle(self, consumer: AIOKafkaConsumer, where: TopicPartition, records: Sequence[Record]) -> None:
        """Handle records of one input in one transaction; where that fails, in smaller ones down to the culprit."""
        done, size = 0, len(records)
        outcome: Outcome = Done()
        while done < len(records) and not isinstance(outcome, Retry) and not self._task.stopping.is_set():
            chunk = records[done : done + size]
            try:
                count, outcome = await self._transact(partial(self._decide, where=where, records=chunk))
            except RollcallError as error:
                if not isinstance(error, RecordError | RecordTooLargeError):
                    raise
                kind, text = type(error).__name__, error.message
            except Exception as error:  # ruff: ignore[blind-except] - a handler's bug; its text may quote the record: only its class is kept
                kind, text = type(error).__name__, "the handler failed on this record"
            else:
                done += count
                continue
            if len(chunk) > 1:
                size = len(chunk) // 2
                continue
            await self._set_aside(where, chunk[0], kind, text)
            done += 1
        if done < len(records):
            self._put_back(consumer, where, records[done].offset, outcome)

    async def _set_aside(self, where: TopicPartition, record: Record, kind: str, text: str) -> None:
        def work(tx: Transaction) -> None:
            given = Redelivery.read(record) if where.topic == self._task.topics.replays else None
            if given is not None and given.verb == "retry":
                self.answer(tx, given, "failed", f"{text} ({kind})", now_ms())
            else:
                self.bury(tx, record if given is None else given.record, kind, text)
            self._move(tx, where, record.offset + 1)

        await self._transact(work)

    def _put_back(self, consumer: AIOKafkaConsumer, where: TopicPartition, offset: int, outcome: Outcome) -> None:
        consumer.seek(where, offset)
        if isinstance(outcome, Retry):
            consumer.pause(where)
            self._resume_at[where] = time.monotonic() + outcome.after

    def _decide(self, tx: Transaction, where: TopicPartition, records: Sequence[Record]) -> tuple[int, Outcome]:
        """Have the handler decide on records in order; stop before one that has to wait."""
        now, latest = now_ms(), time.monotonic() + _WORK_SECONDS
        outcome: Outcome = Done()
        counts: dict[str, int] = {}
        done = 0
        replays = where.topic == self._task.topics.replays
        for record in records:
            outcome = self._redeliver(tx, record, now) if replays else self._handler.on_record(tx, record, now)
            name = _named(outcome)
            counts[name] = counts.get(name, 0) + 1
            if isinstance(outcome, Retry):
                break
            if isinstance(outcome, Dead):
                self.bury(tx, record, "Dead", outcome.reason)
            done += 1
            if time.monotonic() > latest:
                break
        tx.settle()
        for name, count in counts.items():
            self._count(name, count)
        if done and (tx.changes or tx.outputs or tx.calls):
            self._move(tx, where, records[done - 1].offset + 1)
        elif done:
            self._pass(where, records[done - 1].offset + 1, time.monotonic() + _PASSED_SECONDS)
        return done, outcome

    def _pass(self, where: TopicPartition, offset: int, by: float) -> None:
        """Note that nothing is left to do before `offset`: it is kept by the moment `by` of the monotonic clock."""
        if offset > self._passed.get(where, self._kept[where]):
            self._passed[where] = offset
            self._keep_by = min(self._keep_by, by)

    def _catch_up(self, tx: Transaction) -> None:
        """Move past what called for nothing."""
        for where, offset in list(self._passed.items()):
            self._move(tx, where, offset)
        self._keep_by, self._markers_by = math.inf, time.monotonic() + MARKERS_SECONDS

    def _move(self, tx: Transaction, where: TopicPartition, offset: int) -> None:
        self._passed.pop(where, None)
        self._kept[where] = offset
        tx.put(POSITION + where.topic.encode(), b"%d" % offset)
        if where.topic == self._handler.inputs[0].topic:
            tx.group_offsets[where] = offset

    def _count(self, outcome: str, count: int = 1) -> None:
        telemetry.RECORDS_IN.labels(self._handler.stage, outcome).inc(count)

    def _redeliver(self, tx: Transaction, carrier: Record, now: int) -> Outcome:
        """Have the handler decide on a record that is given to it once more; a retry is answered."""
        given = Redelivery.read(carrier)
        if given is None or given.to != self._handler.stage:
            return Skip("not_ours")
        record = given.record
        if given.verb == "replay":  # it comes now, whenever it first came
            record = replace(record, offset=int(tx.get(POSITION + record.topic.encode()) or b"0"))
        outcome = self._handler.on_record(tx, record, now)
        match outcome:
            case Retry():
                return outcome
            case Dead(reason) if given.verb == "replay":
                self.bury(tx, given.record, "Dead", reason)
            case _ if given.verb == "retry":
                self._answer_retry(tx, given, outcome, now)
        return Skip("dead") if isinstance(outcome, Dead) else outcome

    def _answer_retry(self, tx: Transaction, given: Redelivery, outcome: Done | Skip | Dead, now: int) -> None:
        match outcome:
            case Done():
                self.answer(tx, given, "done", "it was handled", now)
            case Skip(reason):
                self.answer(tx, given, "superseded", f"nothing was left to do ({reason})", now)
            case Dead(reason):
                self.answer(tx, given, "failed", reason, now)

    def answer(self, tx: Transaction, given: Redelivery, outcome: str, message: str, now: int) -> None:
        """Say what became of a retry or a discard; unless it failed, nothing more is to be done about the letter.

        A generation that is being built is given it as well, and leaves it to the one at work to say that.
        """
        if self._task.topics.shadow:
            return
        if given.command:
            tx.send(self._task.topics.status, *redelivery.answer(given, outcome, message, now))
        if outcome != "failed" and given.letter:
            key = redelivery.letter_key(given.record)
            where = (self._task.topics.deadletters, tx.partition(key))
            tx.send_to(*where, key, None, redelivery.resolved_headers(given.letter, self._handler.stage, outcome))

    def bury(self, tx: Transaction, record: Record, error: str, reason: str) -> None:
        """Write a dead letter: the record's bytes and headers, and what was wrong with it."""
        telemetry.DEAD_LETTERS.labels(self._handler.stage).inc()
        self.log.error("record_set_aside", topic=record.topic, offset=record.offset, error=error)
        key = redelivery.letter_key(record)
        where = (self._task.topics.deadletters, tx.partition(key))
        tx.send_to(*where, key, record.value, redelivery.letter_headers(record, self._handler.stage, error, reason))

    # Calls

    async def _take_replies(self, *, wait: bool) -> None:
        """Give the handler the replies that have come, many in one transaction."""
        if wait and self._replies.empty():
            with suppress(TimeoutError):
                async with asyncio.timeout(_IDLE_SECONDS):
                    first = await self._replies.get()
                    self._replies.put_nowait(first)
        batch: list[tuple[Call, Reply]] = []
        while not self._replies.empty() and len(batch) < _REPLIES:
            batch.append(self._replies.get_nowait())
        if batch:

            def take(tx: Transaction) -> None:
                for call, reply in batch:
                    self._handler.on_reply(tx, call, reply, now_ms())
                self._fire(tx)

            await self._transact(take)

    def _may_call(self, call: Call) -> bool:
        """Return whether a call may still be sent: a halted owner wakes up and calls nobody.

        The partition is ours, as far as can be known, and it is not too late for what the call rests on.
        """
        if call.latest is not None and now_ms() > call.latest:
            return False
        return self._task.dead is None and self._task.ours()

    async def _make(self, call: Call) -> None:
        """Make a call and queue its reply, whatever came of it."""
        lane = self._lanes.get(call.lane)
        if lane is None:
            await self._replies.put((call, Reply(None, error="unknown_target", sent=False)))
            return
        try:
            answer = await lane.send(
                call.method,
                call.path,
                query=call.query,
                json=call.json,
                headers=dict(call.headers),
                wanted=partial(self._may_call, call),
            )
        except UpstreamUnavailableError as error:
            self.log.warning("call_unanswered", lane=call.lane, reason=error.message)
            cause = error.__cause__ or error  # without a connection nothing can have been sent
            sent = not isinstance(cause, aiohttp.ClientConnectorError)
            reply = Reply(None, error=type(cause).__name__, sent=sent)
        except CalledOffError:
            reply = Reply(None, error=CALLED_OFF, sent=False)
        except UpstreamError as error:
            self.log.warning("call_failed", lane=call.lane, reason=error.message)
            never_left = isinstance(error, CredentialError | MisplacedError | PrivateAddressError)
            reply = Reply(None, error=type(error).__name__, sent=not never_left)
        else:
            reply = Reply(answer.status, answer.headers, answer.body)
        await self._replies.put((call, reply))


def _named(outcome: Outcome) -> str:
    """Return the name under which an outcome is counted."""
    match outcome:
        case Done():
            return "done"
        case Skip(reason):
            return reason
        case Dead():
            return "dead"
        case Retry():
            return "retry"

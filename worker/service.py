"""A worker process: checks that it may start, joins the groups of its stages, serves probes and metrics, and drains.

Guarantee: it starts over declared topics only, says every reason why it does not, and after SIGTERM ends within the
grace period, saying what it had to cut.
"""

import asyncio
import gc
import os
import signal
import threading
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import structlog
from aiohttp import web
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST, generate_latest

import handlers
from worker import comparing, plugins, state, telemetry
from worker.config import Config
from worker.consumer import HandlerLoop, Lanes
from worker.control import Control
from worker.deployment import Deployment, claim
from worker.detection import Detector
from worker.errors import ConfigError, TopicError, UsageError
from worker.handling import Handler
from worker.http import Lane
from worker.kafka import CLOSE_TIMEOUT, Connection, demand_assertions, plan_topics
from worker.membership import Membership
from worker.poller import Source
from worker.privacy import Hasher
from worker.task import Task, TaskSpec
from worker.topics import POLL, STAGES, Topics, partition_of

if TYPE_CHECKING:
    from worker.tracing import Tracing

log = structlog.get_logger()

POLL_VERSION: Final = 1
# Beyond the grace period: for closing what had to be cut.
_OVERDUE_SECONDS: Final = 15.0

Result = TypeVar("Result")
Ids = tuple[str, dict[str, str]]  # of the cluster, and of the topics by name


# Of either one OpenTelemetry knows where traces go ("Environment Variable Specification").
_COLLECTOR: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


@dataclass(frozen=True)
class _Shared:
    """What the stages of one worker share; `traces` is None where no collector is configured."""

    connection: Connection
    hasher: Hasher
    lanes: Lanes
    traces: "Tracing | None"

    def maker(self, topics: Topics, spec: TaskSpec) -> Callable[[int], Task]:
        """Return what makes the task of a partition."""
        if self.traces is None:
            return lambda partition: Task(self.connection, topics, spec, partition)
        return partial(self.traces.task, self.connection, topics, spec)

    def handler(self, handler: Handler) -> Handler:
        """Return the handler as it is run."""
        return handler if self.traces is None else self.traces.handler(handler)


class Probes:
    """The HTTP server of /livez, /readyz and /metrics."""

    def __init__(self, address: tuple[str, int], memberships: Sequence[Membership]) -> None:
        """`address` is host and port."""
        self._host, self._port = address
        self._memberships = memberships
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Listen; raises ConfigError where the address cannot be had."""
        app = web.Application()
        app.router.add_get("/livez", self._live)
        app.router.add_get("/readyz", self._ready)
        app.router.add_get("/metrics", self._metrics)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._host, self._port)
        try:
            await site.start()
        except OSError as error:
            raise ConfigError([f"listen: {self._host}:{self._port} cannot be had: {error.strerror}"]) from error
        host, port, *_ = self._runner.addresses[0]
        log.info("listening", host=host, port=port)

    async def _live(self, _: web.Request) -> web.Response:
        """Answer as long as the event loop turns: Kafka away, or state being restored, is no reason to be killed."""
        return web.Response(text="ok\n")

    async def _ready(self, _: web.Request) -> web.Response:
        waiting = [membership.name for membership in self._memberships if not membership.ready]
        if waiting:
            return web.Response(status=503, text=f"not ready: {', '.join(waiting)}\n")
        return web.Response(text="ok\n")

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(
            body=generate_latest(telemetry.REGISTRY),  # type: ignore[no-untyped-call]
            headers={"Content-Type": CONTENT_TYPE_LATEST},
        )

    async def stop(self) -> None:
        """Stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()


async def serve(config: Config, stages: Sequence[str], *, stop: asyncio.Event | None = None) -> None:
    """Run the given stages until SIGTERM or SIGINT (or `stop`).

    Raises ConfigError, TopicError, KafkaUnavailableError, StateError.
    """
    demand_assertions()
    collect_seldom()
    stopping = stop or asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stopping.set)
    bound = asyncio.ensure_future(_bounded(stopping, config.file.grace, whole=stop is None))
    try:
        await _serve(config, stages, stopping)
    finally:
        bound.cancel()
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(name)
    log.info("stopped")


def collect_seldom() -> None:
    """Have Python look for garbage in cycles less often: a worker makes little, and keeps large caches.

    Looking through those cost a tenth of the time of the duplicate search, the more the fuller they were.
    """
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


async def _bounded(stopping: asyncio.Event, grace: float, *, whole: bool) -> None:
    """Once the worker is to stop, say so, and end the process where something that is not ours does not end.

    `whole`: the process is the worker's alone, and the end of its event loop is under the same bound.
    """
    await stopping.wait()
    log.info("stopping", grace_seconds=grace)
    timer = _leave_after(grace + _OVERDUE_SECONDS)
    try:
        await asyncio.Event().wait()
    finally:
        if not whole:
            timer.cancel()


def _leave_after(seconds: float) -> threading.Timer:
    """End the process by then, unless the timer is cancelled: the last resort."""

    def leave() -> None:
        log.error("stop_overdue", after_seconds=seconds)
        os._exit(1)

    timer = threading.Timer(seconds, leave)
    timer.daemon = True
    timer.start()
    return timer


async def _unless(stopping: asyncio.Event, work: Coroutine[Any, Any, Result]) -> Result | None:
    """Return the result of `work`, or None where the worker is asked to stop before that."""
    working, stopped = asyncio.ensure_future(work), asyncio.ensure_future(stopping.wait())
    try:
        await asyncio.wait([working, stopped], return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        for one in (working, stopped):
            one.cancel()
        await asyncio.wait([working, stopped], timeout=CLOSE_TIMEOUT)


async def _serve(config: Config, stages: Sequence[str], stopping: asyncio.Event) -> None:
    hasher = config.hasher()
    connection = Connection(config.file.kafka)
    ids = await _unless(stopping, _topics_of_ours(config, connection, stages, hasher))
    if ids is None:
        return
    folder, lock = state.claim(config.file.state_dir)
    ways = handlers.lanes(config.file.handlers) if "executor" in stages else {}
    traces = _traces()
    lanes = {
        name: Lane(name, target, authorize, () if traces is None else [traces.calls_to(name)])
        for name, (target, authorize) in ways.items()
    }
    shared = _Shared(connection, hasher, lanes, traces)
    said = asyncio.ensure_future(comparing.compare(config, stages))
    try:
        memberships = [
            _membership(config, stage, _spec(config, stage, folder, ids, hasher), shared) for stage in stages
        ]
        probes = Probes(config.address, memberships)
        await probes.start()
        log.info("starting", stages=list(stages), prefix=config.file.prefix, state=str(folder))
        await _run(memberships, probes, stopping)
    finally:
        said.cancel()
        await asyncio.wait([said], timeout=CLOSE_TIMEOUT)
        for lane in lanes.values():
            await lane.close()
        if traces is not None:
            await traces.stop()
        lock.close()


def _traces() -> "Tracing | None":
    """Return what makes traces, None where the environment names no collector (OpenTelemetry's own variables).

    Raises ConfigError where it does, and the extra `telemetry` is not installed.
    """
    named = any(os.environ.get(name) for name in _COLLECTOR)
    if not named or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    try:
        from worker.tracing import Tracing  # ruff: ignore[import-outside-top-level] - no cost where it is off
    except ImportError as error:
        problem = f"{_COLLECTOR[0]} is set, and OpenTelemetry is not installed: install rollcall-cdc[telemetry]"
        raise ConfigError([problem]) from error
    return Tracing.start()


async def _run(memberships: Sequence[Membership], probes: Probes, stopping: asyncio.Event) -> None:
    serving = [asyncio.ensure_future(membership.serve(stopping)) for membership in memberships]
    try:
        done, _ = await asyncio.wait(serving, return_when=asyncio.FIRST_EXCEPTION)
        stopping.set()
        await asyncio.gather(*serving, return_exceptions=True)
        for one in done:
            one.result()
    finally:
        await probes.stop()


async def _topics_of_ours(config: Config, connection: Connection, stages: Sequence[str], hasher: Hasher) -> Ids:
    """Return the cluster's id and the ids of the state topics.

    Raises TopicError unless every topic is as declared, and StateError where they are another deployment's.
    """
    wanted = await plan_topics(config.file.kafka, config.topics)
    if not wanted.empty:
        lines = "\n".join(f"  - {line}" for line in wanted.problems())
        message = f"the topics are not as declared:\n{lines}"
        raise TopicError(message, hint="`rollcall topics plan` shows it, `rollcall topics apply` mends what can be.")
    mine = Deployment(hasher.check(), config.file.kafka.partitions, config.file.deployment)
    await claim(connection, config.topics, mine)
    async with connection.admin() as admin:
        return await admin.topic_ids([config.topics.state(stage) for stage in stages])


def _spec(config: Config, stage: str, folder: Path, ids: Ids, hasher: Hasher) -> TaskSpec:
    cluster_id, topic_ids = ids
    return TaskSpec(stage, _version(config, stage, hasher), folder, cluster_id, topic_ids[config.topics.state(stage)])


def _version(config: Config, stage: str, hasher: Hasher) -> int:
    """Return the format version of a stage's state."""
    if stage == POLL:
        return POLL_VERSION
    plugin = config.file.handlers.plugins.get(stage)
    return plugin.version if plugin else handlers.version(stage, config.file.handlers, config.topics, hasher)


def _membership(config: Config, stage: str, spec: TaskSpec, shared: _Shared) -> Membership:
    topics, connection, hasher = config.topics, shared.connection, shared.hasher
    if stage == POLL:
        topic, run = topics.state(POLL), _poll(config, hasher)
    elif (own := config.file.handlers.plugins.get(stage)) is not None:
        topic, run = topics.events, plugins.runner(plugins.find(stage, own))
    else:
        make = handlers.factory(stage, config.file.handlers, topics, hasher, config.sources)
        topic, run = make().inputs[0].topic, _handle(make, shared)
    return Membership(
        connection,
        topics.group(stage),
        topic,
        shared.maker(topics, spec),
        run,
        grace=config.file.grace,
    )


def _poll(config: Config, hasher: Hasher) -> Callable[[Task], Awaitable[None]]:
    async def run(task: Task) -> None:
        task.working = True
        sources = {
            name: _source(name, config, hasher, task)
            for name in config.sources
            if partition_of(name.encode(), config.file.kafka.partitions) == task.partition
        }
        control = Control(task, sources)
        await control.prepare()
        running = [asyncio.ensure_future(work) for work in (control.run(), *(one.run() for one in sources.values()))]
        try:
            await asyncio.gather(*running)
        finally:
            for one in running:
                one.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    return run


def _source(name: str, config: Config, hasher: Hasher, task: Task) -> Source:
    source = config.sources[name]
    detector = Detector(name, source.adapter, source.settings, hasher, config.topics)
    return Source(name, source.adapter, source.settings, detector, task)


def _handle(make: Callable[[], Handler], shared: _Shared) -> Callable[[Task], Awaitable[None]]:
    async def run(task: Task) -> None:
        await HandlerLoop(shared.handler(make()), task, shared.lanes).run()

    return run


def stages_of(names: Sequence[str], own: Sequence[str] = ()) -> list[str]:
    """Return the stages that were asked for: names of stages, of handlers (`dedupe`, `deletes`), or `all`.

    `own` are the plug-ins that are configured. Raises UsageError for any other name.
    """
    stages = [*STAGES[1:], *own]
    groups = {"all": stages, **handlers.GROUPS}
    wanted: list[str] = []
    for name in names or ["all"]:
        if name not in groups and name not in stages:
            known = ", ".join([*groups, *stages])
            raise UsageError(f"there is no handler or stage {name!r}; there are {known}")
        wanted += groups.get(name, [name])
    return list(dict.fromkeys(wanted))

"""A whole deployment on a secured broker: two upstreams, and a worker for each stage under a principal of its own."""

import asyncio
import os
import re
from collections import defaultdict
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests import programs
from tests.secure.conftest import Secured
from worker import acls, demo, inspect, service, telemetry
from worker import config as configuration
from worker.config import Config
from worker.demo.world import KEY, World
from worker.kafka import apply_topics
from worker.settings import KafkaSettings
from worker.topics import Topics

_LONG = 6


def words(found: object) -> set[str]:
    """Return every text in a JSON value that is long enough to be told from others, and not a system's own word."""
    match found:
        case str():
            own = found.replace("_", "").isupper() or len(found) < _LONG
            return set() if own else {found}
        case dict():
            return set().union(*map(words, found.values()))
        case list():
            return set().union(*map(words, found))
    return set()


def connection(settings: KafkaSettings) -> dict[str, Any]:
    """Return settings as they stand in a file."""
    return settings.model_dump(mode="json", exclude_defaults=True, exclude_none=True)


class Plant:
    """The deployment; `world` has its upstreams."""

    def __init__(self, secured: Secured, admin: KafkaSettings, topics: Topics, folder: Path) -> None:
        """Nothing is started yet."""
        self.secured = secured
        self.topics = topics
        self.folder = folder
        self.world = World(1)
        self.admin = admin

    async def prepare(self, customers: int) -> None:
        """Start the upstreams with so many customers each, and make the topics."""
        os.environ["DEMO_KEY"] = KEY
        await self.world.start(customers)
        await apply_topics(self.admin, self.topics)

    def configure(self, name: str, settings: KafkaSettings, **more: Any) -> Config:
        """Write and read the configuration of a worker that connects so."""
        content = demo.settings(settings.bootstrap, self.world)
        content |= {"prefix": self.topics.prefix, "kafka": connection(settings), "log": {"level": "debug"}} | more
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(content | {"state_dir": str(self.folder / name)}), "utf-8")
        return configuration.load(path)

    async def role(self, role: str) -> Config:
        """Return the configuration of a principal who may do exactly what its role needs."""
        given = acls.grants(role, self.topics, group=f"{self.topics.prefix}.reader")
        who = await self.secured.user(f"{self.topics.prefix}-{role}", given)
        return self.configure(role, self.secured.settings(**who))

    @asynccontextmanager
    async def running(self, configs: dict[str, Config]) -> AsyncGenerator[None]:
        """Run a worker for each stage for as long as the context lasts; one that ends by itself fails the test."""
        stop, shown = asyncio.Event(), self.shown()
        workers = [
            asyncio.ensure_future(service.serve(config, [stage], stop=stop)) for stage, config in configs.items()
        ]
        body = asyncio.current_task()
        for worker in workers:
            worker.add_done_callback(lambda done: None if stop.is_set() or body is None else body.cancel(str(done)))
        try:
            yield
        finally:
            stop.set()
            ended = await asyncio.gather(*workers, return_exceptions=True)
            if failed := [error for error in ended if error is not None]:
                raise ExceptionGroup("workers", [error for error in failed if isinstance(error, Exception)])
        left = [one for one in self.shown() if one not in shown]
        assert not left, "a gauge stays of what is not the workers' any more"

    def shown(self) -> list[Any]:
        """Return what the gauges of this process say of the sources and inputs of the deployment."""
        gauges = [metric for metric in telemetry.REGISTRY.collect() if metric.type == "gauge"]
        labels = [sample.labels for metric in gauges for sample in metric.samples]
        return [one for one in labels if "source" in one or self.topics.prefix in one.get("topic", "")]

    async def live(self, config: Config, topic: str) -> list[str]:
        """Return the keys of a topic that have a value, each as often as it was written since it last had none."""
        found: list[str] = []
        for record in await inspect.records(config, topic):
            key = (record.key or b"").decode()
            found = [*found, key] if record.value is not None else [other for other in found if other != key]
        return found


async def rollcall(config: Config, *arguments: str, code: int = 0) -> str:
    """Run a command as its user does, and return what it prints."""
    found, said, complained = await programs.rollcall(config.path, *arguments)
    assert found == code, complained
    return said


_RULED = re.compile(
    r"Principal = User:(?P<who>\S+) is (?P<verdict>Allowed|Denied) operation = (?P<operation>\w+) .*? "
    r"on resource = (?P<kind>\w+):LITERAL:(?P<name>\S+) .*? based on rule (?P<rule>.*) \(logger\)"
)
_RULE = re.compile(r"resourceType=(\w+), resourceName=([^,]+), .*? operation=(\w+),")
_KINDS: dict[str, acls.Resource] = {"TOPIC": "topic", "GROUP": "group", "TRANSACTIONAL_ID": "transactional-id"}
_WORDS: dict[str, acls.Operation] = {"DESCRIBE_CONFIGS": "DescribeConfigs", "ALTER_CONFIGS": "AlterConfigs"}

Right = tuple[str, str, str]  # a kind of resource, a name, an operation


@dataclass
class Rulings:
    """What the broker's authorizer has ruled on a principal: the rights that were used, and what was refused."""

    used: set[Right] = field(default_factory=set)
    refused: set[Right] = field(default_factory=set)


def rulings(log: Path, since: int) -> dict[str, Rulings]:
    """Read the broker's log from an offset on; return by principal what was ruled."""
    found: defaultdict[str, Rulings] = defaultdict(Rulings)
    with log.open("rb") as lines:
        lines.seek(since)
        for ruled in map(_RULED.search, lines.read().decode("utf-8", "replace").splitlines()):
            if ruled is None:
                continue
            if ruled["verdict"] == "Denied":
                found[ruled["who"]].refused.add((ruled["kind"], ruled["name"], ruled["operation"]))
            elif rule := _RULE.search(ruled["rule"]):
                kind, name, operation = rule.groups()
                word = _WORDS.get(operation, operation.capitalize())
                found[ruled["who"]].used.add((_KINDS.get(kind, "cluster"), name, word))
    return found

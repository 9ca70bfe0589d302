"""Everything that `rollcall check` looks at: what would keep workers from running, each with its path and what to do.

Nothing is changed anywhere, nothing is published, and one mistake hides no other: a wrong setting counts as not set,
and what rests on it is not looked at, which is said. A source is asked for one page of one customer.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from worker import acls
from worker import config as configuration
from worker.checking import apis, cluster, machine, own, secrets

Look = Callable[[], Awaitable[list[str]]]


@dataclass
class Findings:
    """What was found: problems, and what could not be looked at because of one; `sources` were looked at."""

    problems: list[str] = field(default_factory=list)
    passed_over: list[str] = field(default_factory=list)
    sources: int = 0


async def check(path: Path, wanted: Sequence[str] = ()) -> Findings:
    """Look at everything that the `wanted` roles need, by default all stages.

    Raises ConfigError where the file cannot be read at all, UsageError for a role that there is not.
    """
    problems, config, doubtful = configuration.examine(path)
    found = Findings(problems)
    if config is None:
        found.passed_over.append("anything but the file itself")
        return found
    roles = wanted or (*acls.WORKERS, *config.topics.plugins)
    for role in roles:
        acls.require(role, config.topics)
    found.sources = len(config.sources)
    found.problems += secrets.problems(config, roles)
    steps: list[tuple[str, set[str], Look]] = [
        ("the sources and targets", set(), lambda: apis.problems(config, roles)),
        ("the plug-ins", set(), lambda: own.problems(config, roles)),
        ("Kafka, its topics and rights", {"kafka", "prefix"}, lambda: cluster.problems(config, roles)),
    ]
    if any(map(acls.is_worker, roles)):
        steps += [
            ("the state folder", {"state_dir"}, lambda: asyncio.to_thread(machine.state, config)),
            ("the address to listen on", {"listen"}, lambda: machine.listen(config)),
        ]
    found.passed_over += [what for what, rests_on, _ in steps if rests_on & doubtful]
    looks = [look() for _, rests_on, look in steps if not rests_on & doubtful]
    for lines in await asyncio.gather(*looks):
        found.problems += lines
    return found

"""What the demo shows beyond the churn: an outage that must not delete anybody, and a mass deletion that must wait.

Each scene plays against the running workers, by the commands that an operator would give, and ends in a check. `say`
is given what there is to see.
"""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import orjson

from worker import inspect
from worker.config import Config
from worker.demo.checks import Check
from worker.demo.world import CRM, World
from worker.errors import RollcallError

_PATIENCE: Final = 40.0
_POLL: Final = 0.5
_SHOWN: Final = 50
AT_ONCE: Final = 40


async def outage(world: World, config: Config, say: Callable[[str], None]) -> Check:
    """Have the crm list only its first customers, as if that were all: an alarm is raised and nobody is deleted."""
    crm = world.systems[CRM]
    deleted = await _deletions(config)
    crm.fault("short", keep=_SHOWN)
    alarm = await _until(lambda: _alarm(config))
    crm.clear_faults()
    wrong = [] if alarm else ["no alarm was raised"]
    say(f"  `rollcall status` shows the alarm: {alarm}")
    calm = await _until(lambda: _calm(config))
    wrong += [] if calm else ["the alarm stayed on after the outage"]
    lost = await _deletions(config) - deleted
    wrong += [f"{lost} customers were taken for deleted"] if lost else []
    missing = len(crm.customers()) - _SHOWN
    return Check("outage: an alarm for the customers hidden, nobody deleted", missing, wrong)


async def mass_deletion(world: World, path: Path, say: Callable[[str], None]) -> Check:
    """Delete many crm customers at once: their deletions downstream wait until `rollcall deletions approve`."""
    world.delete_at_once(AT_ONCE)
    held = await _until(lambda: _held(path))
    wrong = [] if held else ["no plan was held"]
    for plan in held or []:
        say(f"  held: {plan['count']} deletions in the {plan['target']} ({plan['reason']})")
        say(f"  rollcall deletions approve {plan['plan']}@{plan['hash']} --who demo")
        answer = await rollcall(path, "deletions", "approve", f"{plan['plan']}@{plan['hash']}", "--who", "demo")
        wrong += [] if answer.startswith(b"done") else [f"plan {plan['plan']} was not approved: {answer.decode()}"]
    return Check("mass deletion: held, approved by the command, done", AT_ONCE, wrong)


async def _until(condition: Callable[[], Awaitable[Any]]) -> Any:
    """Wait until a condition gives something; return it, or None when patience is over."""
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        if found := await condition():
            return found
        await asyncio.sleep(_POLL)
    return None


async def _crm(config: Config) -> dict[str, Any]:
    rows = [row for row in await inspect.statuses(config) if row.get("kind") == "source" and row["source"] == CRM]
    return rows[0] if rows else {}


async def _alarm(config: Config) -> str | None:
    found: str | None = (await _crm(config)).get("alarm")
    return found


async def _calm(config: Config) -> bool:
    return not await _alarm(config)


async def _deletions(config: Config) -> int:
    return sum(record.value is None for record in await inspect.records(config, config.topics.latest))


async def _held(path: Path) -> list[dict[str, Any]]:
    """Return the plans that wait, once they hold all of the mass deletion."""
    lines = (await rollcall(path, "deletions", "list", "--json")).splitlines()
    plans = [plan for plan in map(orjson.loads, lines) if plan.get("kind") == "plan"]
    return plans if sum(plan["count"] for plan in plans) >= AT_ONCE else []


async def rollcall(path: Path, *arguments: str) -> bytes:
    """Run the command line, and return what it printed; raises RollcallError where it fails."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "worker.cli", "--config", str(path), *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    if process.returncode:
        raise RollcallError(f"rollcall {' '.join(arguments)} ended with {process.returncode}: {errors.decode()}")
    return output

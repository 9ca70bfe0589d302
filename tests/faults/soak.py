"""`python -m tests.faults.soak --seed 1 --seconds 300`: faults by a seeded schedule, and what they have done.

The first half of the time faults overlap as they come; in the second each one is left alone until everything works
again, so that its recovery can be judged. Then the upstreams rest, and what is on the topics has to be right. A run with
no time (`seconds` is 0) carries each of its kinds out once, in their order: `test_soak` does that.
"""

import argparse
import asyncio
import logging
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import orjson

from tests.faults import report
from tests.faults.checking import Verdict
from tests.faults.fleet import Worker, tail
from tests.faults.kinds import KILLS, OTHERS, Hand, Kind, NothingToHurtError
from tests.faults.recovery import recovery
from tests.faults.site import Site, site
from worker.errors import KafkaUnavailableError, TopicError

WORKERS: Final[Mapping[str, int]] = {"handler": 2, "poller": 2}
SETTLE: Final = 400.0
_ATTEMPTS: Final = 3
_AT_ONCE: Final = 3
_SAMPLE_SECONDS: Final = 3.0


@dataclass
class Run:
    """One run and what has come of it."""

    seed: int
    seconds: float
    kinds: Sequence[Kind]
    faults: Counter[str] = field(default_factory=Counter)
    missed: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)
    recoveries: list[tuple[str, float]] = field(default_factory=list)
    together: float = 0.0
    """How long it took to recover from the overlapping faults."""
    stuck: list[str] = field(default_factory=list)
    dead: list[str] = field(default_factory=list)
    unavailable: int = 0
    """Workers that ended because Kafka could not be reached when they started."""
    refused: int = 0
    """Workers that did not start because a fault had altered a topic's settings just then, as they should not."""
    complaints: list[str] = field(default_factory=list)
    writes: int = 0
    kills: int = 0
    settled: float = 0.0
    verdict: Verdict = field(default_factory=Verdict)

    @property
    def slow(self) -> list[str]:
        """Return the faults that came alone after which work took too long to go on."""
        return [f"{kind}: {took:.1f} s" for kind, took in self.recoveries if took > report.WITHIN]

    @property
    def well(self) -> bool:
        """Return whether nothing was wrong."""
        return self.verdict.right and not (self.stuck or self.slow or self.dead or self.complaints or self.failed)


class Soak:
    """Carries a run out on a site."""

    def __init__(self, run: Run, running: Site, *, verbose: bool) -> None:
        """`verbose` tells on standard error what happens."""
        self._run = run
        self._site = running
        self._chance = random.Random(f"faults {run.seed}")
        self._hand = Hand(running, self._chance)
        self._verbose = verbose
        self._started = time.monotonic()

    def say(self, text: str) -> None:
        """Tell what happens."""
        if self._verbose:
            print(f"{time.monotonic() - self._started:6.1f} s  {text}", file=sys.stderr, flush=True)

    async def carry_out(self, rate: float) -> None:
        """Let the upstreams change `rate` times a second and the faults happen, then settle and check."""
        world, run = self._site.world, self._run
        churn = asyncio.ensure_future(world.churn(rate))
        watch = asyncio.ensure_future(self._watch())
        try:
            if run.seconds:
                await self._overlapping(run.seconds / 2)
                await self._spaced(run.seconds / 2)
            else:
                await self._in_order(run.kinds)
        finally:
            for name, going_on in (("churn", churn), ("watch", watch), ("follower", self._site.following)):
                if going_on.done():
                    why = "cancelled" if going_on.cancelled() else repr(going_on.exception())
                    run.failed.append(f"the {name} ended by itself: {why}")
            churn.cancel()
            await asyncio.wait([churn])
        world.finish()
        run.writes, run.kills = world.writes, self._site.fleet.kills
        await self._settle()
        watch.cancel()
        await asyncio.wait([watch])

    async def _watch(self) -> None:
        """Start workers that ended by themselves again, as Kubernetes does, and note that they did."""
        workers = self._site.fleet
        while True:
            for worker in [worker for worker in workers.workers.values() if worker.process and not worker.runs]:
                if not worker.busy:
                    self._note_end(worker)
                    await workers.start(worker.name)
            workers.sample()
            await asyncio.sleep(_SAMPLE_SECONDS)

    def _note_end(self, worker: Worker) -> None:
        code = worker.process.returncode if worker.process is not None else None
        if code == KafkaUnavailableError.exit_code:
            self._run.unavailable += 1
        elif code == TopicError.exit_code and "max.message.bytes should be" in tail(worker.log):
            self._run.refused += 1
        else:
            self._run.dead.append(f"{worker.name} ended with {code}: {tail(worker.log)}")
            self.say(self._run.dead[-1])

    def _bag(self) -> list[Kind]:
        """Return every kind once, and kills twice more, in a random order."""
        bag = [kind for kind in (*KILLS, *KILLS, *KILLS, *OTHERS) if kind in self._run.kinds]
        self._chance.shuffle(bag)
        return bag

    async def _fault(self, kind: Kind) -> bool:
        try:
            await kind(self._hand)
        except NothingToHurtError:
            self._run.missed[kind.__name__] += 1
            return False
        except Exception as error:
            self._run.failed.append(f"{kind.__name__}: {type(error).__name__}: {error}")
            self.say(self._run.failed[-1])
            return False
        self._run.faults[kind.__name__] += 1
        return True

    async def _in_order(self, kinds: Sequence[Kind]) -> None:
        """Let faults come one after another, without waiting for a recovery; one whose moment does not come, again."""
        for kind in kinds:
            for _ in range(_ATTEMPTS):
                self.say(kind.__name__)
                if await self._fault(kind):
                    break
        await self._recovered()

    async def _recovered(self) -> None:
        slowest, took, stuck = await recovery(self._site)
        self._run.together = took
        self.say(f"all overlapping faults are over; recovered in {took:.1f} s ({slowest})")
        self._run.stuck += [f"after the overlapping faults: {name}" for name in stuck]

    async def _overlapping(self, seconds: float) -> None:
        """Let faults come as they like, several at a time."""
        end = time.monotonic() + seconds
        under_way: set[asyncio.Task[bool]] = set()
        bag: list[Kind] = []
        while time.monotonic() < end:
            bag = bag or self._bag()
            kind = bag.pop()
            self.say(kind.__name__)
            under_way.add(asyncio.ensure_future(self._fault(kind)))
            await asyncio.sleep(self._chance.uniform(0.5, 4.0))
            under_way = {one for one in under_way if not one.done()}
            while len(under_way) >= _AT_ONCE:
                _, under_way = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
        if under_way:
            await asyncio.wait(under_way)
        await self._recovered()

    async def _spaced(self, seconds: float) -> None:
        """Let one fault come at a time, and wait until everything works again."""
        end = time.monotonic() + seconds
        bag: list[Kind] = []
        while time.monotonic() < end:
            bag = bag or self._bag()
            kind = bag.pop()
            if not await self._fault(kind):
                continue
            self.say(kind.__name__)
            slowest, took, stuck = await recovery(self._site)
            self.say(f"{kind.__name__}: recovered in {took:.1f} s ({slowest})")
            self._run.recoveries.append((kind.__name__, took))
            self._run.stuck += [f"after {kind.__name__}: {name}" for name in stuck]

    async def _settle(self) -> None:
        """Wait until everything is right; keep what still is not in the end."""
        started = time.monotonic()
        while True:
            now = time.monotonic()
            self._run.settled = now - started
            verdict = await self._site.verdict(whole=False)
            if verdict.right or self._run.settled > SETTLE:
                verdict = await self._site.verdict()
            self._run.verdict = verdict
            some = [text for found in verdict.wrong.values() for text in found][:2]
            self.say(f"settling: {dict(+verdict.counts())} {some or ''}")
            if verdict.right or self._run.settled > SETTLE:
                return
            await asyncio.sleep(3)


async def soak(
    folder: Path,
    run: Run,
    *,
    rate: float,
    customers: int = 200,
    verbose: bool = False,
) -> list[report.Row]:
    """Carry out a run; what has come of it is in `run`, the workers' memory is returned."""
    loop, mine = asyncio.get_running_loop(), asyncio.current_task()
    if mine is not None:
        loop.add_signal_handler(signal.SIGTERM, mine.cancel)
    try:
        async with site(folder, seed=run.seed, customers=customers, workers=WORKERS) as running:
            await Soak(run, running, verbose=verbose).carry_out(rate)
            await running.check_stores(run.verdict)
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
    run.complaints = running.complaints()
    for worker in running.fleet.workers.values():
        run.dead += [f"{worker.name} ended with {code} after SIGTERM" for code in worker.codes if code]
    return report.memory(running.fleet)


def main() -> int:
    """Run by the command line; return the exit code: 0 where nothing was wrong."""
    names = {kind.__name__: kind for kind in (*KILLS, *OTHERS)}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--rate", type=float, default=75, help="writes a second in all upstreams")
    parser.add_argument("--only", choices=names, nargs="*", default=list(names), help="these kinds of faults only")
    parser.add_argument("--write", type=Path, help="write what has come of it to this file, as JSON")
    parser.add_argument("--keep", type=Path, help="keep logs and data in this folder")
    given = parser.parse_args()
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # our readers live through the faults too
    run = Run(given.seed, given.seconds, [names[name] for name in given.only])
    with tempfile.TemporaryDirectory(prefix="rollcall-soak-", ignore_cleanup_errors=True) as temporary:
        memory = asyncio.run(soak(given.keep or Path(temporary), run, rate=given.rate, verbose=True))
    report.show(run, memory)
    if given.write:
        given.write.write_bytes(orjson.dumps(report.facts(run, memory)))
    return 0 if run.well and not report.not_flat(memory) else 1


if __name__ == "__main__":
    sys.exit(main())

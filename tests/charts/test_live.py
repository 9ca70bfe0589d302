"""What the chart runs, run: the topics job against a real broker, and a rolling update of real workers.

There is no kubelet here. Its part is played by what it does to a pod: start the new one, ask its probes, and when it is
ready send SIGTERM to the old one, ask on, and SIGKILL it when its grace period is over. Configuration, commands,
probes and grace period are those that the chart renders.
"""

import asyncio
import http
import itertools
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
import yaml

from tests.charts.rendering import STAGES, Manifest, Rendered, merged, render, value_set
from tests.faults.conftest import Site, site
from worker import embedded
from worker.demo.workers import Workers

DEADLINE_SECONDS = 180.0
ALL = {"workloads": {"requests": {"enabled": True}, "executor": {"enabled": True}}}


def rendered_for(bootstrap: str, partitions: int) -> Rendered:
    """Render the chart for a broker."""
    kafka = {"kafka": {"bootstrap": bootstrap, "partitions": partitions, "replication": 1}}
    return render(merged(value_set("minimal"), merged(ALL, {"config": kafka})))


def program() -> str:
    """Return the command of the image's entry point, as it is here."""
    return f"{sys.executable} -m worker.cli"


async def carried_out(container: Manifest, over: Mapping[str, str]) -> tuple[int, str]:
    """Run a container's command with its environment, and `over` put over that; return exit code and output."""
    environment = {one["name"]: one["value"] for one in container["env"]} | dict(over)
    process = await asyncio.create_subprocess_exec(
        *(container["command"] + container.get("args", [])),
        env={"PATH": os.environ["PATH"], **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    out, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode()


async def test_the_topics_job_makes_the_topics_and_then_finds_nothing_to_do(tmp_path: Path) -> None:
    """The job's own script, with its own configuration, twice: the second time it changes nothing."""
    async with embedded.cluster(tmp_path / "kafka") as kafka:
        rendered = rendered_for(kafka.bootstrap, 2)
        path = tmp_path / "rollcall.yaml"
        path.write_text(rendered.config("-topics"), encoding="utf-8")
        (container,) = rendered.one("Job", "-topics")["spec"]["template"]["spec"]["containers"]
        over = {"ROLLCALL": f"{program()} --config {path}"}
        code, said = await carried_out(container, over)
        assert code == 0, said
        assert "topic customers.events is missing" in said
        assert "made customers.events (2 partitions, delete)" in said
        code, said = await carried_out(container, over)
        assert code == 0, said
        assert "made" not in said
        assert said.count("the topics are as declared") == 3


def port_of(workers: Workers, name: str) -> int | None:
    """Return the port that a worker listens on, once it has said so."""
    for line in workers.log(name).splitlines():
        if line.startswith("{") and (event := orjson.loads(line)).get("event") == "listening":
            return int(event["port"])
    return None


async def asked(session: aiohttp.ClientSession, port: int, path: str) -> int | None:
    """Ask a probe as a kubelet does; None where nobody answers."""
    try:
        async with session.get(f"http://127.0.0.1:{port}{path}", timeout=aiohttp.ClientTimeout(5)) as answer:
            return answer.status
    except (aiohttp.ClientError, TimeoutError):
        return None


async def replaced(old: Workers, new: Workers, stage: str, container: Manifest) -> list[int]:
    """Replace a stage's pod as a Deployment does; return what the old one's liveness probe was answered meanwhile."""
    live = container["livenessProbe"]["httpGet"]["path"]
    await new.start(f"{stage}-new")
    await new.ready()
    port = port_of(old, f"{stage}-old")
    assert port is not None
    answers: list[int] = []
    async with aiohttp.ClientSession() as session:
        stopping = asyncio.ensure_future(old.stop(f"{stage}-old"))
        while not stopping.done():
            if (status := await asked(session, port, live)) is not None:
                answers.append(status)
            await asyncio.wait([stopping], timeout=0.5)
    assert stopping.result() == 0, old.log(f"{stage}-old")[-2000:]
    return answers


async def settled(it: Site) -> list[str]:
    """Wait until everything is as it must be; return what is not when the time is over."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while (wrong := await it.wrong()) and time.monotonic() < deadline:
        await asyncio.sleep(1)
    return wrong


@pytest.mark.timeout(600)
async def test_a_rolling_update_loses_nothing_and_repeats_nothing(tmp_path: Path) -> None:
    """All workloads are replaced while customers change: every old pod drains in time, and the topics are right."""
    rendered = rendered_for("127.0.0.1:1", 4)
    workloads = rendered.workloads()
    commands = {stage: rendered.worker(stage)["args"][2:] for stage in STAGES}
    grace = yaml.safe_load(rendered.config())["grace"]
    periods = {w["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] for w in workloads.values()}
    assert periods == {grace + 20}
    old: Mapping[str, Sequence[str]] = {f"{stage}-old": commands[stage] for stage in STAGES}
    new = {f"{stage}-new": commands[stage] for stage in STAGES}
    over: dict[str, Any] = {"grace": grace}
    async with site(tmp_path, customers=60, roles=old, over=over) as it:
        fresh = Workers(it.config.path, tmp_path, new)
        try:
            churn = asyncio.ensure_future(it.world.churn(30))
            for stage in STAGES:
                answers = await replaced(it.workers, fresh, stage, rendered.worker(stage))
                assert set(answers) <= {http.HTTPStatus.OK}
            await churn
            assert await settled(it) == []
            assert fresh.died() == []
            settings = it.config.file.kafka
            longest = settings.rebalance_timeout + settings.session_timeout
            stamps = sorted(record.timestamp for record in (await it.topics()).events)
            gaps = [(after - before) / 1000 for before, after in itertools.pairwise(stamps)]
            assert max(gaps) < longest, "publishing stood still for longer than a rebalance"
        finally:
            await fresh.stop_all()


async def test_helm_test_sees_that_every_partition_has_its_owner(tmp_path: Path) -> None:
    """The script of `helm test` counts what real workers say of themselves, and fails while a stage has no owner."""
    stages = ("keys", "pairs")
    async with site(tmp_path, customers=4, roles={"both": ["handle", *stages]}) as it:
        port = port_of(it.workers, "both")
        rendered = rendered_for("127.0.0.1:1", it.config.file.kafka.partitions)
        (container,) = rendered.one("Pod", "-test")["spec"]["containers"]
        script = tmp_path / "workers.py"
        script.write_text(rendered.one("ConfigMap", "-test")["data"]["workers.py"], encoding="utf-8")
        container["command"] = [sys.executable, str(script)]
        over = {"WORKERS": "127.0.0.1", "PORT": str(port), "STAGES": " ".join(stages), "SECONDS": "60"}
        code, said = await carried_out(container, over)
        assert code == 0, said
        assert "keys: 4 of 4, pairs: 4 of 4" in said
        code, said = await carried_out(container, over | {"STAGES": "keys clusters", "SECONDS": "0"})
        assert code == 1
        assert "clusters: 0 of 4" in said

"""What the documentation tells a reader to do works as it is written, in the order in which it is written."""

import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from tests.programs import run
from tests.subscribers.conftest import Demo
from worker import inspect
from worker.kafka import Connection
from worker.topics import TopicSpec

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"(<!-- not run: [^\n]+ -->\n)?```(\w+)\n(.*?)```", re.DOTALL)
TOPICS = ("welcome.letters", "billing.replay")


def blocks(page: str) -> list[tuple[str, str]]:
    """Return (language, text) of the code in a page, but for what it says is not run."""
    found = BLOCK.findall((ROOT / "docs" / page).read_text(encoding="utf-8"))
    return [(language, text) for skipped, language, text in found if not skipped]


def merged(one: Any, other: Any) -> Any:
    """Return a configuration with another laid over it."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one | {name: merged(one.get(name), value) for name, value in other.items()}
    return other


def as_a_reader(folder: Path, text: str, language: str) -> None:
    """Write a file as the page shows it: its name stands in the first line."""
    name = text.splitlines()[0].removeprefix("# ")
    if language == "yaml":
        config = yaml.safe_load((folder / name).read_text(encoding="utf-8"))
        text = yaml.safe_dump(merged(config, yaml.safe_load(text)), sort_keys=False)
    (folder / name).write_text(text, encoding="utf-8")


@pytest.fixture(scope="session")
async def folder(demo: Demo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder as a reader has it: the repository's examples, the demo's configuration, two topics."""
    place = tmp_path_factory.mktemp("reader")
    shutil.copytree(ROOT / "examples", place / "examples")
    config = yaml.safe_load(demo.path.read_text(encoding="utf-8"))
    config["state_dir"] = str(place / "state")
    (place / "rollcall.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    async with Connection(demo.config.file.kafka).admin() as admin:
        await admin.create([TopicSpec(name, "", "delete", 3, True, {}) for name in TOPICS])
    return place


async def shell(folder: Path, script: str) -> str:
    """Run a block as a shell does, and fail where one of its commands fails."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environ = ["env", f"PATH={path}", "DEMO_KEY=synthetic"]
    code, output, errors = await run([*environ, "bash", "-eu", "-o", "pipefail", "-c", script], 240, folder)
    assert code == 0, f"{script}\n{output}\n{errors}"
    return output


@pytest.mark.parametrize("page", ["subscribe.md", "handlers.md", "recover.md"])
async def test_the_page_works_as_it_is_written(page: str, folder: Path, demo: Demo) -> None:
    """Files are written and commands run, one block after the other."""
    seen = 0
    for language, text in blocks(page):
        if language == "sh":
            await shell(folder, text)
            seen += 1
        else:
            as_a_reader(folder, text, language)
    assert seen >= 3
    if page == "handlers.md":
        await the_plugin_has_greeted(demo)


async def the_plugin_has_greeted(demo: Demo) -> None:
    """Check what the page's handler has done: one letter for every customer with an e-mail address, live or not."""
    wanted = set()
    for row in await demo.records("events"):
        customer = orjson.loads(row.value or b"")["customer"]
        if customer and any(email["normalized"] for email in customer["emails"]):
            wanted.add((row.key or b"").decode())
    config = demo.config
    raw = config.file.model_copy(update={"kafka": config.file.kafka.model_copy(update={"partitions": 3})})
    rows = await inspect.records(type(config)(config.path, raw, config.sources), "welcome.letters")
    assert sorted((row.key or b"").decode() for row in rows) == sorted(wanted)


async def test_the_class_in_the_page_is_a_handler(folder: Path) -> None:
    """It is loaded as the configuration would load it."""
    for language, text in blocks("handlers.md"):
        if language == "python":
            as_a_reader(folder, text, language)
    script = """python - <<'END'
from handlers.plugins import PluginSettings, load
load("notify", PluginSettings(target="notify:Notify", settings={"url": "https://example.com"}))
END"""
    await shell(folder, script)


NOTIFY_LATER = """python - <<'END'
import asyncio
from aiohttp import web
from aiohttp.test_utils import TestServer
from notify import Notify
from worker.handling import Retry
from handlers.plugins import Event
from worker.plugin_testkit import event
from worker.testkit import person

ANSWERS = [("7", 7.0), ("Wed, 21 Oct 2015 07:28:00 GMT", 5.0), (None, 5.0)]
given = iter(ANSWERS)
EVENT = Event.read(event(person("crm", "7"), 1))

async def later(request):
    value, _ = next(given)
    return web.Response(status=503, headers={"Retry-After": value} if value else {})

async def main():
    app = web.Application()
    app.router.add_post("/", later)
    async with TestServer(app) as server, Notify(str(server.make_url("/"))) as notify:
        for _, seconds in ANSWERS:
            assert await notify.handle(EVENT, None) == Retry(seconds)

asyncio.run(main())
END"""


async def test_the_class_in_the_page_waits_as_it_is_asked_to(folder: Path) -> None:
    """`Retry-After` is a number of seconds or a date (RFC 9110, section 10.2.3), and may be missing."""
    for language, text in blocks("handlers.md"):
        if language == "python":
            as_a_reader(folder, text, language)
    await shell(folder, NOTIFY_LATER)

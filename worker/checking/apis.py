"""The APIs: each source and target is there, speaks as its document says, takes our credential, and has our time."""

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Final, assert_never

import handlers
from handlers.deletes.targets.contract import Answer, Fault, Found, Missing, Sight, Unread
from handlers.deletes.targets.registry import target_of
from worker.checking.clocks import Clocks, answered, apart
from worker.checking.secrets import readable
from worker.config import Config, Source
from worker.errors import RollcallError, UpstreamError
from worker.handling import Reply
from worker.http import Lane
from worker.settings import HttpSettings
from worker.sources import Adapter
from worker.upstream import Upstream

_SECONDS: Final = 10.0
# No customer, but an id of the form that a source without feeds may ask for.
_ANYONE: Final = "00000000-0000-4000-8000-000000000000"


async def problems(config: Config, roles: Sequence[str]) -> list[str]:
    """Ask every source and target once, all at the same time; return what is wrong with them."""
    looks: list[Awaitable[list[str]]] = []
    if "poll" in roles:
        looks += [_source(f"sources.{name}", name, source) for name, source in config.sources.items()]
    if "executor" in roles:
        looks += [_target(f"handlers.deletes.targets.{name}", name, config) for name in _targets(config)]
    return [line for lines in await asyncio.gather(*looks) for line in lines]


def _targets(config: Config) -> list[str]:
    return [name for name, target in config.file.handlers.deletes.targets.items() if target.enabled]


async def _source(path: str, name: str, source: Source) -> list[str]:
    """Ask a source for one customer under its credential."""
    settings = source.settings.model_copy(update={"page_size": 1, "timeout": min(source.settings.timeout, _SECONDS)})
    if not readable(settings.secrets(), lines=True):
        return []
    adapter: Adapter = type(source.adapter)(name, settings)
    upstream = Upstream(name, adapter, settings)
    try:
        async with asyncio.timeout(2 * _SECONDS):
            await upstream.prepare()
            clocks = await _ask_once(adapter, upstream)
    except (RollcallError, TimeoutError) as error:
        return [f"{path}: {_said(error, name)}"]
    finally:
        await upstream.close()
    return apart(f"{path}.url", clocks)


async def _ask_once(adapter: Adapter, upstream: Upstream) -> Clocks | None:
    """Ask for a first page, or where there are none for any customer; return the upstream's clock beside ours."""
    feeds = adapter.feeds()
    moment = upstream.moment()
    request = adapter.request(feeds[0].name, None, moment) if feeds else adapter.lookup(_ANYONE)
    if request is None:
        return None
    response = await upstream.ask(request)
    if feeds:
        adapter.read(feeds[0].name, None, moment, response)
    else:
        adapter.read_lookup(_ANYONE, response)
    return answered(response.headers.get("date"))


async def _target(path: str, name: str, config: Config) -> list[str]:
    """Have a target's canary looked up."""
    settings = config.file.handlers.deletes.targets[name]
    canary = target_of(settings).canary()
    if canary is None or not readable(settings.secrets(), lines=True):
        return []
    ways = handlers.lanes(config.file.handlers)
    bounded: HttpSettings = settings.model_copy(update={"timeout": min(settings.timeout, _SECONDS)})
    async with Lane(name, bounded, ways[name][1]) as lane:
        try:
            answer = await lane.send(canary.method, canary.path, query=canary.query, json=canary.json)
        except UpstreamError as error:
            return [f"{path}: {_said(error, name)}"]
    sight = target_of(settings).read_canary(Reply(answer.status, answer.headers, answer.body))
    clocks = apart(f"{path}.url", answered(answer.headers.get("date")))
    return [f"{path}{problem}" for problem in _not_seen(sight, answer.status)] or clocks


def _not_seen(sight: Sight, status: int) -> list[str]:
    """Return why the canary was not seen, from the target's path on."""
    match sight:
        case Found():
            return []
        case Missing():
            return [".canary_id: no customer is found there: is the url right, and does the canary exist?"]
        case Unread(reason):
            return [f".url: the canary cannot be read: {reason}"]
        case Fault(Answer.DENIED):
            return [f": it refuses the credential (status {status}): mend the secret"]
        case Fault():
            return [f": it answered {status}: try again later"]
        case _:
            assert_never(sight)


def _said(error: Exception, name: str) -> str:
    if not isinstance(error, RollcallError):
        return f"no whole answer within {_SECONDS:g} s: is the url right, and the network policy open?"
    text = error.message.removeprefix(f"{name}: ")
    return text if error.hint is None else f"{text}. {error.hint}"

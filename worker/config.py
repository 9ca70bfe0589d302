"""The whole configuration: one YAML file, checked once, every problem reported at once with its path in the file.

Secrets are never in it, only references to them. `json_schema` is what editors use to complete and check the file.
"""

import copy
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, cast

import yaml
from pydantic import AfterValidator, Field, ValidationError

from handlers import plugins
from handlers.dedupe.settings import DedupeSettings
from handlers.deletes.settings import DeletesSettings
from handlers.plugins import PluginSettings
from worker.contacts import calling_code
from worker.errors import ConfigError
from worker.http import PrivateAddressError, refuse_private
from worker.privacy import Hasher
from worker.settings import (
    NAME_PATTERN,
    Duration,
    HttpSettings,
    KafkaSettings,
    Model,
    Secret,
    SourceName,
    SourceSettings,
)
from worker.sources import Adapter, adapter_class, available, documented
from worker.topics import LONGEST_PREFIX, PREFIX_PATTERN, Topics, prefix_problem

_LISTEN: Final = r"^([^:\s\[\]]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}$"
_LAST_PORT: Final = 65_535
PATHS: Final = (Path("rollcall.yaml"), Path("/etc/rollcall/rollcall.yaml"))


class LogSettings(Model):
    """How log lines look."""

    level: str = Field(default="info", pattern="^(debug|info|warning|error)$")
    format: str | None = Field(default=None, pattern="^(json|text)$", description="Default: text on a terminal")


class HandlersSettings(Model):
    """The built-in handlers, and one's own by name."""

    dedupe: DedupeSettings = Field(default_factory=DedupeSettings)
    deletes: DeletesSettings = Field(default_factory=DeletesSettings)
    dedupe_generation: int = Field(default=1, ge=1, description="Of its state; `rollcall rebuild dedupe` says when")
    plugins: dict[SourceName, PluginSettings] = Field(default_factory=dict)


def _prefix(value: str) -> str:
    problem = prefix_problem(value)
    if problem is not None:
        raise ValueError(problem)
    return value


def _listen(value: str) -> str:
    if re.fullmatch(_LISTEN, value) is None:
        raise ValueError(f"{value!r} is no address; write host:port, such as 0.0.0.0:8080, or [IPv6]:port")
    port = int(value.rpartition(":")[2])
    if port > _LAST_PORT:
        raise ValueError(f"{port} is no port")
    return value


class _File(Model):
    """The file but for its sources, whose settings depend on their kind."""

    prefix: Annotated[str, AfterValidator(_prefix)] = Field(
        default="customers", pattern=PREFIX_PATTERN, max_length=LONGEST_PREFIX, description="Of the public topics"
    )
    deployment: str = Field(
        default="",
        pattern=r"^[A-Za-z0-9._-]*$",
        max_length=63,
        description="Its name: workers with another one are refused under the same prefix, also with the same pepper",
    )
    kafka: KafkaSettings = Field(default_factory=KafkaSettings)
    pepper: Secret = Field(default=Secret(env="ROLLCALL_PEPPER"), description="The secret of all keyed hashes")
    state_dir: Path = Field(default=Path(".rollcall/state"), description="A cache of the state; may be lost")
    listen: Annotated[str, AfterValidator(_listen)] = Field(
        default="127.0.0.1:0",
        json_schema_extra={"pattern": _LISTEN},
        description="host:port or [IPv6]:port of /livez, /readyz and /metrics; port 0 takes a free one and logs it",
    )
    grace: Duration = Field(default=25.0, gt=0, description="How long a worker may take to finish after SIGTERM")
    log: LogSettings = Field(default_factory=LogSettings)
    receipts_retention: Duration | None = Field(default=None, gt=0, description="Of receipts; default: for ever")
    handlers: HandlersSettings = Field(default_factory=HandlersSettings)
    sources: dict[SourceName, Any] = Field(default_factory=dict)


@dataclass(frozen=True)
class Source:
    """A configured source: its adapter, ready to use, and its settings."""

    adapter: Adapter
    settings: SourceSettings


@dataclass(frozen=True)
class Config:
    """A checked configuration. `path` is the file it came from."""

    path: Path
    file: _File
    sources: Mapping[str, Source]

    @property
    def address(self) -> tuple[str, int]:
        """Return the host and the port to listen on: an IPv6 address without its brackets."""
        host, _, port = self.file.listen.rpartition(":")
        return host.strip("[]"), int(port)

    @property
    def topics(self) -> Topics:
        """Return the topics' names."""
        kept = self.file.receipts_retention
        retention = -1 if kept is None else int(kept * 1000)
        own = self.file.handlers
        return Topics(
            self.file.prefix,
            self.file.kafka.partitions,
            retention,
            tuple(sorted(own.plugins)),
            own.dedupe_generation,
        )

    def hasher(self) -> Hasher:
        """Return the keyed hashes; raises ConfigError where the pepper is not set."""
        try:
            return Hasher(self.file.pepper.read().encode())
        except ValueError as error:
            raise ConfigError([f"pepper: {error}"], where=str(self.path)) from error


def find(path: Path | None) -> Path:
    """Return the file to read: `path`, or the first of `PATHS` that exists; raises ConfigError where there is none."""
    if path is not None:
        return path
    for candidate in PATHS:
        if candidate.is_file():
            return candidate
    raise ConfigError(["there is no configuration: name a file with --config, or write rollcall.yaml"])


def load(path: Path) -> Config:
    """Read and check the configuration; raises ConfigError with every problem there is."""
    raw, twice = _parsed(path)
    try:
        config = parse(raw, path)
    except ConfigError as error:
        raise ConfigError([*twice, *error.problems], where=str(path)) from error
    if twice:
        raise ConfigError(twice, where=str(path))
    return config


def examine(path: Path) -> tuple[list[str], Config | None, frozenset[str]]:
    """Return (every problem in the file, what of it can be used, the sections of it that are in doubt).

    For whoever looks further than the first mistakes: a wrong setting counts as not set there, and a wrong source as
    not there. Raises ConfigError where the file cannot be read at all.
    """
    raw, problems = _parsed(path)
    try:
        return problems, parse(raw, path), frozenset()
    except ConfigError as error:
        problems += error.problems
    file, doubtful = _salvage(raw)
    return problems, None if file is None else Config(path, file, _sources(raw, [])), doubtful


def _salvage(raw: object) -> tuple[_File | None, frozenset[str]]:
    """Return what the file says without what is wrong in it, and the sections that had something wrong."""
    left, doubtful = copy.deepcopy(raw), set[str]()
    while True:
        try:
            return _File.model_validate(left), frozenset(doubtful)
        except ValidationError as error:
            problem = error.errors(include_url=False, include_input=False)[0]
        if not _cut(left, problem["loc"]):
            return None, frozenset(doubtful)
        if problem["type"] != "extra_forbidden":
            doubtful.add(str(problem["loc"][0]))


def _cut(raw: Any, where: tuple[int | str, ...]) -> bool:
    """Take out the innermost part that leads to `where`; return whether there was one."""
    found: tuple[Any, int | str] | None = None
    for part in where:
        try:
            found, raw = (raw, part), raw[part]
        except (KeyError, IndexError, TypeError):  # the name of a kind, or a setting that is missing
            continue
    if found is not None:
        del found[0][found[1]]
    return found is not None


def _parsed(path: Path) -> tuple[object, list[str]]:
    """Return what the file holds, and which keys are written twice; raises ConfigError where it cannot be read."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError([f"it cannot be read: {reason}"], where=str(path)) from error
    try:
        return _read(text)
    # A ValueError: a date that is none; the last three: `!!bool x`, `!!int ""`, `!!timestamp x`.
    except (yaml.YAMLError, ValueError, RecursionError, KeyError, IndexError, AttributeError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}: " if mark is not None else ""
        problem = getattr(error, "problem", None) or "it is not YAML"
        raise ConfigError([line + problem], where=str(path)) from error


def _read(text: str) -> tuple[object, list[str]]:
    """Return what a YAML text holds, and which keys are written twice: YAML would take the last one in silence."""
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return {}, []
        twice = [f"line {line}: {key!r} is written twice" for line, key in sorted(_twice(node, set()))]
        return loader.construct_document(node), twice
    finally:
        loader.dispose()


def _twice(node: yaml.Node, passed: set[int]) -> Iterator[tuple[int, str]]:
    if id(node) in passed or isinstance(node, yaml.ScalarNode):
        return
    passed.add(id(node))
    seen: set[tuple[str, str]] = set()
    for part in node.value:
        if isinstance(part, tuple) and isinstance(part[0], yaml.ScalarNode):
            key = part[0].tag, part[0].value
            if key in seen:
                yield part[0].start_mark.line + 1, part[0].value
            seen.add(key)
        for below in part if isinstance(part, tuple) else (part,):
            yield from _twice(below, passed)


def parse(raw: object, path: Path = Path("rollcall.yaml")) -> Config:
    """Check a configuration that was read already; raises ConfigError with every problem there is."""
    problems: list[str] = []
    file: _File | None
    try:
        file, doubtful = _File.model_validate({} if raw is None else raw), frozenset[str]()
    except ValidationError as error:
        problems += _problems(error)
        file, doubtful = _salvage(raw)
    sources = _sources(raw, problems)
    if file is not None:
        problems += _across(file, sources, doubtful)
    if problems or file is None:
        raise ConfigError(problems, where=str(path))
    return Config(path, file, sources)


def _sources(raw: object, problems: list[str]) -> dict[str, Source]:
    """Return the sources that are right, and add what is wrong with others to `problems`."""
    listed = raw.get("sources") if isinstance(raw, dict) else None
    sources: dict[str, Source] = {}
    adapters = available()
    for name, settings in (listed if isinstance(listed, dict) else {}).items():
        try:
            sources[str(name)] = _source(str(name), settings, adapters)
        except ValidationError as error:
            problems += _problems(error, f"sources.{name}")
        except ConfigError as error:
            problems += [f"sources.{name}: {problem}" for problem in error.problems]
    return sources


def _source(name: str, settings: object, adapters: Mapping[str, type[Adapter]]) -> Source:
    if not isinstance(settings, dict) or "kind" not in settings:
        raise ConfigError([f"kind is missing; there are {', '.join(sorted(adapters))}"])
    kind = adapter_class(str(settings["kind"]), adapters)
    checked = kind.Settings.model_validate(settings)
    problems = _misspelt(kind, checked)
    if not calling_code(checked.region):
        problems.append(f"region: {checked.region} is no country with phone numbers (ISO 3166-1); the UK is GB")
    if problems:
        raise ConfigError(problems)
    return Source(kind(name, checked), checked)


def _misspelt(kind: type[Adapter], settings: SourceSettings) -> list[str]:
    """Return what is wrong with the fields that a privacy policy names, where the adapter knows what fields there are.

    A misspelt one would let pass what somebody wanted kept back.
    """
    known: frozenset[str] | None = getattr(kind, "fields", None)
    if known is None:
        return []
    strange = documented.unknown(settings.privacy, known.union(settings.own_fields))
    return [
        f"privacy.{name}: {kind.kind} has no such field{f'; did you mean {meant}?' if meant else ';'}"
        " One that only your API has is to be named in own_fields, too."
        for name, meant in strange.items()
    ]


def _across(file: _File, sources: Mapping[str, Source], doubtful: frozenset[str]) -> list[str]:
    """Return the problems between parts of the file.

    Where something is wrong in the handlers (they are among the `doubtful` sections), a route is not held against the
    targets that are left.
    """
    targets = file.handlers.deletes.targets
    apis: dict[str, HttpSettings] = {f"sources.{name}": source.settings for name, source in sources.items()}
    apis |= {f"handlers.deletes.targets.{name}": target for name, target in targets.items()}
    urls = {name: str(source.settings.url) for name, source in sources.items()}
    between = [] if "handlers" in doubtful else file.handlers.deletes.problems(frozenset(file.sources), urls)
    between += plugins.problems(file.handlers.plugins, Topics(file.prefix, file.kafka.partitions))
    between += [
        f"deletes.routes.{number}.reference: {route.source} has no {route.reference}, but {', '.join(sorted(types))}"
        for number, route in enumerate(file.handlers.deletes.routes)
        if route.link == "reference"
        and (source := sources.get(route.source)) is not None
        and (types := getattr(source.adapter, "references", None)) is not None
        and route.reference not in types
    ]
    return [
        *(f"{path}.url: {problem}" for path, api in apis.items() if (problem := _private(api))),
        *(f"handlers.{problem}" for problem in between),
    ]


def _private(api: HttpSettings) -> str | None:
    """Return what is wrong with an address that is private by itself; what a name resolves to is seen at run time."""
    host = (api.url.host or "").strip("[]")
    try:
        if not api.allow_private_addresses:
            refuse_private(host, host)
    except PrivateAddressError:
        return f"{host} is a private address; set allow_private_addresses: true if that is meant"
    return None


# What is said instead of pydantic's own words, which speak of Python.
_WORDS: Final = {
    "extra_forbidden": "there is no such setting",
    "_File": "the file holds no settings: write name: value",
    "model_type": "write its settings below it, as name: value",
    "model_attributes_type": "write its settings below it, as name: value",
    "Secret": "write {env: NAME} or {file: PATH}: a secret itself never stands in the file",
    "dict_type": "write its entries below it, as name: value",
    "tuple_type": "write a list: [one, two]",
    "list_type": "write a list: [one, two]",
    "frozen_set_type": "write a list: [one, two]",
    "path_type": "write a path",
    "union_tag_not_found": "kind is missing",
}
# Where a word was wanted that may have become a truth value before anybody looked at it.
_OF_WORDS: Final = frozenset({"string_type", "literal_error", "path_type", "url_type"})
_TARGETS: Final = ("handlers", "deletes", "targets")


def _problems(error: ValidationError, prefix: str = "") -> list[str]:
    found = []
    for problem in error.errors(include_url=False):  # with what was written, of which nothing is said
        path = ".".join(filter(None, [prefix, *map(str, _place(problem["loc"]))]))
        more = problem.get("ctx", {})
        what = more.get("class_name", problem["type"])
        text = _WORDS.get(what) or _WORDS.get(problem["type"]) or problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "union_tag_invalid":
            kinds = more["expected_tags"].replace("'", "")
            text = f"there is no kind {more['tag']!r}; there are {kinds}"
        if problem["type"] in _OF_WORDS and isinstance(problem["input"], bool):
            text += "; YAML takes a bare off, no, n, on, yes or y for a truth value: put it in quotes"
        found.append(f"{path}: {text}" if path else text)
    return found


def _place(where: tuple[int | str, ...]) -> list[int | str]:
    """Return a place in the file, without what pydantic says of it besides: that it is a key, a target's kind."""
    parts = [part for part in where if part != "[key]"]
    if tuple(parts[:3]) == _TARGETS:
        del parts[4:5]
    return parts


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of the file, with the settings of every installed kind of source."""
    schema = _File.model_json_schema()
    definitions = cast("dict[str, Any]", schema.setdefault("$defs", {}))
    kinds = []
    for kind, adapter in sorted(available().items()):
        own = adapter.Settings.model_json_schema(ref_template="#/$defs/{model}")
        definitions |= own.pop("$defs", {})
        own["properties"]["kind"] = {"const": kind}
        own["required"] = ["kind", *own.get("required", [])]
        definitions[f"source-{kind}"] = own
        kinds.append({"$ref": f"#/$defs/source-{kind}"})
    sources = {"patternProperties": {NAME_PATTERN: {"oneOf": kinds}}, "additionalProperties": False}
    schema["properties"]["sources"] |= sources
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "Rollcall's configuration"
    return schema

"""The whole configuration: one YAML file, checked once, every problem reported at once with its path in the file.

Secrets are never in it, only references to them. `json_schema` is what editors use to complete and check the file.
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import yaml
from pydantic import Field, ValidationError

from handlers.dedupe.settings import DedupeSettings
from handlers.deletes.settings import DeletesSettings
from worker.errors import ConfigError
from worker.privacy import Hasher
from worker.settings import Duration, KafkaSettings, Model, Secret, SourceName, SourceSettings
from worker.sources import Adapter, adapter_class, available
from worker.topics import Topics

PATHS: Final = (Path("rollcall.yaml"), Path("/etc/rollcall/rollcall.yaml"))


class LogSettings(Model):
    """How log lines look."""

    level: str = Field(default="info", pattern="^(debug|info|warning|error)$")
    format: str | None = Field(default=None, pattern="^(json|text)$", description="Default: text on a terminal")


class HandlersSettings(Model):
    """The built-in handlers."""

    dedupe: DedupeSettings = Field(default_factory=DedupeSettings)
    deletes: DeletesSettings = Field(default_factory=DeletesSettings)


class _File(Model):
    """The file but for its sources, whose settings depend on their kind."""

    prefix: str = Field(default="customers", pattern=r"^[a-z][a-z0-9._-]{0,62}$", description="Of the public topics")
    kafka: KafkaSettings = Field(default_factory=KafkaSettings)
    pepper: Secret = Field(default=Secret(env="ROLLCALL_PEPPER"), description="The secret of all keyed hashes")
    state_dir: Path = Field(default=Path(".rollcall/state"), description="A cache of the state; may be lost")
    listen: str = Field(
        default="127.0.0.1:0",
        pattern=r"^[^:\s]+:\d{1,5}$",
        description="host:port of /livez, /readyz and /metrics; port 0 takes a free one and logs it",
    )
    grace: Duration = Field(default=25.0, gt=0, description="To come to an end in after SIGTERM")
    log: LogSettings = Field(default_factory=LogSettings)
    receipts_retention: Duration | None = Field(default=None, description="Of receipts; default: for ever")
    handlers: HandlersSettings = Field(default_factory=HandlersSettings)
    sources: dict[SourceName, dict[str, Any]] = Field(default_factory=dict)


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
    def topics(self) -> Topics:
        """Return the topics' names."""
        kept = self.file.receipts_retention
        retention = -1 if kept is None else int(kept * 1000)
        return Topics(self.file.prefix, self.file.kafka.partitions, retention)

    def hasher(self) -> Hasher:
        """Return the keyed hashes; raises ConfigError where the pepper is not set."""
        try:
            return Hasher(self.file.pepper.read().encode())
        except ValueError as error:
            raise ConfigError([f"pepper: {error}"], where=str(self.path)) from error


class _Loader(yaml.SafeLoader):
    """YAML without the silent loss of a key that is written twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:  # ruff: ignore[boolean-type-hint-positional-argument, boolean-default-value-positional-argument]
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                problem = f"line {key_node.start_mark.line + 1}: {key!r} is written twice"
                raise ConfigError([problem])
            seen.add(key)
        return super().construct_mapping(node, deep)


def find(path: Path | None) -> Path:
    """Return the file to read: `path`, or the first of `PATHS` that exists; raises ConfigError where there is none."""
    if path is not None:
        return path
    for candidate in PATHS:
        if candidate.is_file():
            return candidate
    message = "there is no configuration: name a file with --config, or write rollcall.yaml"
    raise ConfigError([message])


def load(path: Path) -> Config:
    """Read and check the configuration; raises ConfigError with every problem there is."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError([f"it cannot be read: {reason}"], where=str(path)) from error
    try:
        raw = yaml.load(text, Loader=_Loader)  # ruff: ignore[unsafe-yaml-load] - a SafeLoader
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}: " if mark is not None else ""
        problem = getattr(error, "problem", None) or "it is not YAML"
        raise ConfigError([line + problem], where=str(path)) from error
    except ConfigError as error:
        raise ConfigError(error.problems, where=str(path)) from error
    return parse({} if raw is None else raw, path)


def parse(raw: object, path: Path = Path("rollcall.yaml")) -> Config:
    """Check a configuration that was read already; raises ConfigError with every problem there is."""
    problems: list[str] = []
    file: _File | None = None
    try:
        file = _File.model_validate(raw)
    except ValidationError as error:
        problems += _problems(error)
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
    if file is not None:
        problems += _across(file, sources)
    if problems or file is None:
        raise ConfigError(problems, where=str(path))
    return Config(path, file, sources)


def _source(name: str, settings: object, adapters: Mapping[str, type[Adapter]]) -> Source:
    if not isinstance(settings, dict) or "kind" not in settings:
        raise ConfigError([f"kind is missing; there are {', '.join(sorted(adapters))}"])
    kind = adapter_class(str(settings["kind"]), adapters)
    checked = kind.Settings.model_validate(settings)
    return Source(kind(name, checked), checked)


def _across(file: _File, sources: Mapping[str, Source]) -> list[str]:
    """Return the problems between parts of the file."""
    urls = {name: str(source.settings.url) for name, source in sources.items()}
    return [f"handlers.{problem}" for problem in file.handlers.deletes.problems(urls)]


def _problems(error: ValidationError, prefix: str = "") -> list[str]:
    found = []
    for problem in error.errors(include_url=False, include_input=False):
        path = ".".join(str(part) for part in (*filter(None, [prefix]), *problem["loc"]))
        text = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            text = "there is no such setting"
        found.append(f"{path}: {text}" if path else text)
    return found


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of the file, with the settings of every installed kind of source."""
    schema = _File.model_json_schema()
    definitions = cast("dict[str, Any]", schema.setdefault("$defs", {}))
    kinds = []
    for kind, adapter in sorted(available().items()):
        own = adapter.Settings.model_json_schema(ref_template="#/$defs/{model}")
        definitions |= own.pop("$defs", {})
        own["properties"]["kind"] = {"const": kind}
        definitions[f"source-{kind}"] = own
        kinds.append({"$ref": f"#/$defs/source-{kind}"})
    schema["properties"]["sources"]["additionalProperties"] = {"oneOf": kinds}
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "Rollcall's configuration"
    return schema

"""The configuration: one file, every problem at once, each with its path."""

import string
from pathlib import Path
from typing import Any

import jsonschema
import orjson
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from worker import config
from worker.config import Config
from worker.demo import settings as demo_settings
from worker.demo.world import World
from worker.errors import ConfigError
from worker.simulator import Connect, Dintero, Drivly, MyKaarma, Simulator
from worker.sources import available
from worker.topics import DAY_MS

SOURCE = {"kind": "drivly", "url": "https://crm.example.com/api", "key": {"env": "KEY"}}
GOOD = {"sources": {"crm": SOURCE}}
VALIDATOR = jsonschema.Draft202012Validator(config.json_schema())


def problems(raw: object) -> list[str]:
    """Return what is wrong with a configuration."""
    try:
        config.parse(raw)
    except ConfigError as error:
        return list(error.problems)
    return []


def written(folder: Path, text: str) -> Path:
    """Write a configuration file."""
    path = folder / "rollcall.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def load(folder: Path, text: str) -> Config:
    """Read a configuration from a file."""
    return config.load(written(folder, text))


def refused(folder: Path, text: str) -> list[str]:
    """Return what is wrong with a file."""
    with pytest.raises(ConfigError) as caught:
        load(folder, text)
    assert str(folder) in str(caught.value)
    return list(caught.value.problems)


# What is read


def test_an_empty_file_is_all_defaults(tmp_path: Path) -> None:
    """Nothing is polled then, and the topics have their usual names."""
    loaded = load(tmp_path, "")
    assert loaded.sources == {}
    assert (loaded.topics.prefix, loaded.topics.partitions, loaded.topics.receipts_retention_ms) == ("customers", 8, -1)


def test_a_source_is_an_adapter_with_its_settings(tmp_path: Path) -> None:
    """Its kind decides which settings there are."""
    text = """
    prefix: crm.customers
    receipts_retention: 3650d
    kafka: {partitions: 4}
    sources:
      crm: {kind: drivly, url: "https://crm.example.com/api", key: {env: KEY}, interval: 500ms, lookback: 1m}
    """
    loaded = load(tmp_path, text)
    crm = loaded.sources["crm"]
    assert (crm.adapter.kind, crm.settings.interval) == ("drivly", 0.5)
    assert loaded.topics.receipts_retention_ms == 3650 * DAY_MS
    assert loaded.topics.events == "crm.customers.events"


def test_anchors_and_merge_keys_work(tmp_path: Path) -> None:
    """Two sources may share what they have in common."""
    text = """
    sources:
      crm: &common {kind: drivly, url: "https://crm.example.com/api", key: {env: KEY}, rate: 5}
      shop: {<<: *common, url: "https://shop.example.com/api"}
    """
    loaded = load(tmp_path, text)
    assert [source.settings.rate for source in loaded.sources.values()] == [5, 5]
    assert str(loaded.sources["shop"].settings.url) == "https://shop.example.com/api"


def test_the_pepper_is_read_when_it_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A configuration without it can be checked."""
    monkeypatch.delenv("ROLLCALL_PEPPER", raising=False)
    checked = config.parse(GOOD)
    with pytest.raises(ConfigError, match="pepper: the environment variable ROLLCALL_PEPPER is empty or not set"):
        checked.hasher()
    monkeypatch.setenv("ROLLCALL_PEPPER", "x")
    assert checked.hasher().check() == checked.hasher().check()


def test_the_file_is_looked_for_where_it_usually_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that is named comes first, and need not exist to be named in the message."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(config, "PATHS", (Path("rollcall.yaml"), tmp_path / "etc.yaml"))
    with pytest.raises(ConfigError, match="--config"):
        config.find(None)
    (tmp_path / "etc.yaml").touch()
    assert config.find(None) == tmp_path / "etc.yaml"
    (tmp_path / "rollcall.yaml").touch()
    assert config.find(None) == Path("rollcall.yaml")
    assert config.find(Path("other.yaml")) == Path("other.yaml")


# What is refused


def test_every_problem_is_reported_at_once_with_its_path() -> None:
    """Ten mistakes, ten sentences."""
    kinds = ", ".join(sorted(available()))
    found = problems({
        "prefix": "rollcall.x",
        "listen": "127.0.0.1:99999",
        "log": {"level": "loud"},
        "kafka": {"partitions": 0, "bootsrap": "localhost:9092", "commit_timeout": "fast"},
        "sources": {
            "Crm": SOURCE,
            "shop": SOURCE | {"kind": "shopify"},
            "erp": SOURCE | {"intervall": "5s", "key": "users API-Key canary"},
            "old": {"url": "https://old.example.com"},
        },
        "handlers": {"deletes": {"routes": [{"source": "crm", "target": "nowhere"}]}},
    })
    assert sorted(found) == sorted([
        "prefix: internal topics start with rollcall: choose another prefix",
        "kafka.bootsrap: there is no such setting",
        "kafka.commit_timeout: 'fast' is not a duration; write a number with a unit: 500ms, 30s, 5m, 1h, 7d",
        "kafka.partitions: Input should be greater than or equal to 1",
        "listen: 99999 is no port",
        "log.level: String should match pattern '^(debug|info|warning|error)$'",
        "handlers.deletes: routes.0.target: there is no target 'nowhere'",
        "sources.Crm: String should match pattern '^[a-z][a-z0-9_-]{0,62}$'",
        "sources.erp.intervall: there is no such setting",
        "sources.erp.key: write {env: NAME} or {file: PATH}: a secret itself never stands in the file",
        f"sources.old: kind is missing; there are {kinds}",
        f"sources.shop: there is no source kind 'shopify'; there are {kinds}",
    ])


@pytest.mark.parametrize("raw", [[], "text", 7, True])
def test_a_file_that_is_no_mapping_says_so(raw: object) -> None:
    """In the words of a user."""
    assert problems(raw) == ["the file holds no settings: write name: value"]


@pytest.mark.parametrize("source", [None, [], "drivly", {}, {"kind": None}])
def test_a_source_without_settings_says_what_is_missing(source: object) -> None:
    """Once."""
    (problem,) = problems({"sources": {"crm": source}})
    assert problem.startswith("sources.crm: ")
    assert "kind" in problem


def test_a_key_that_is_written_twice_is_named_with_its_line(tmp_path: Path) -> None:
    """YAML would take the last one in silence; other problems are named beside it."""
    text = "prefix: customers\nsources:\n  crm: {}\n  crm: {}\nprefix: b\nlisten: nowhere\n"
    found = refused(tmp_path, text)
    assert found[:2] == ["line 4: 'crm' is written twice", "line 5: 'prefix' is written twice"]
    assert any(line.startswith("listen: ") for line in found)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: b: c", "line 1: mapping values are not allowed here"),
        ("a: [1", "line 1: expected ',' or ']'"),
        ("? [a]\n: b", "line 1: found unhashable key"),
        ("? {a: 1}\n: b", "line 1: found unhashable key"),
        ("a: !!python/object:os.system x", "line 1: could not determine a constructor for the tag"),
        ("a: *b", "line 1: found undefined alias"),
        ("a: \x07", "it is not YAML"),
        ("a: !!bool x", "it is not YAML"),
        ('a: !!int ""', "it is not YAML"),
        ("a: !!timestamp x", "it is not YAML"),
    ],
)
def test_what_is_no_yaml_is_named_with_its_line(tmp_path: Path, text: str, problem: str) -> None:
    """And nothing in it is ever run."""
    (found,) = refused(tmp_path, text)
    assert found.startswith(problem)


def test_a_file_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    """It is missing, a folder, or no text."""
    (tmp_path / "latin").write_bytes(b"prefix: \xe6")
    for path, reason in [
        (tmp_path / "none", "No such file or directory"),
        (tmp_path, "Is a directory"),
        (tmp_path / "latin", "it is not UTF-8"),
    ]:
        with pytest.raises(ConfigError, match=f"it cannot be read: {reason}"):
            config.load(path)


def test_a_private_address_is_named_when_the_file_is_read() -> None:
    """Of a source or of a target, unless it is allowed; what a name resolves to is seen at run time."""
    target: dict[str, Any] = {"kind": "drivly", "url": "http://[::1]/api", "key": {"env": "KEY"}}
    raw: dict[str, Any] = {
        "sources": {"crm": SOURCE | {"url": "http://10.0.0.1/api"}, "erp": SOURCE | {"url": "http://localhost/api"}},
        "handlers": {"deletes": {"targets": {"shop": target}}},
    }
    why = "is a private address; set allow_private_addresses: true if that is meant"
    assert problems(raw) == [f"sources.crm.url: 10.0.0.1 {why}", f"handlers.deletes.targets.shop.url: ::1 {why}"]
    raw["sources"]["crm"]["allow_private_addresses"] = True
    target["allow_private_addresses"] = True
    assert problems(raw) == []


def test_what_is_wrong_in_one_section_hides_nothing_in_another() -> None:
    """What rests on what is right is looked at all the same."""
    found = problems({
        "kafka": {"partitions": 0, "heartbeat_interval": "9s", "cert_file": "client.crt"},
        "sources": {"crm": SOURCE | {"url": "http://10.0.0.1/api"}},
        "handlers": {"plugins": {"approver": {"target": "a:b"}}},
    })
    assert found == [
        "kafka.partitions: Input should be greater than or equal to 1",
        "sources.crm.url: 10.0.0.1 is a private address; set allow_private_addresses: true if that is meant",
        "handlers.plugins.approver: this is the name of a built-in handler or role",
    ]
    (found,) = problems({"kafka": {"heartbeat_interval": "9s", "cert_file": "client.crt"}})
    assert "cert_file and key_file go together" in found
    assert "heartbeat_interval must be below session_timeout" in found


@pytest.mark.parametrize(
    "bootstrap", ["kafka", "kafka:9092", "a:1, b:2", "[::1]:9092", "127.0.0.1:9092,kafka_1.x:65535"]
)
def test_brokers_are_hosts_with_ports(bootstrap: str) -> None:
    """Several have commas between them; a port may be left out."""
    assert problems({"kafka": {"bootstrap": bootstrap}}) == []


@pytest.mark.parametrize(
    "bootstrap", ["k:abc", "k:", "a:1,,b:2", "::1:1", "PLAINTEXT://k:1", "a:1;b:2", "k:0", "k:65536"]
)
def test_what_is_no_broker_s_address_is_refused(bootstrap: str) -> None:
    """Here, and not by Kafka's client, which does not say what is wrong."""
    (found,) = problems({"kafka": {"bootstrap": bootstrap}})
    assert found.startswith("kafka.bootstrap: ")
    assert "is no host:port" in found


@pytest.mark.parametrize("listen", [":8080", "8080", "localhost", "::1:8080", "http://0.0.0.0:80", "0.0.0.0:80\n"])
def test_an_address_to_listen_on_is_host_and_port(listen: str) -> None:
    """What is not is answered with an example, not with a regular expression."""
    what = f"{listen!r} is no address; write host:port, such as 0.0.0.0:8080, or [IPv6]:port"
    assert problems({"listen": listen}) == [f"listen: {what}"]
    for right in ("0.0.0.0:8080", "[::]:8080", "localhost:0"):
        assert problems({"listen": right}) == []


TRUTH = "YAML takes a bare off, no, n, on, yes or y for a truth value: put it in quotes"


@pytest.mark.parametrize(
    ("setting", "path"),
    [
        ("region: NO", "region"),
        ("locale: no", "locale"),
        ("privacy: {email: off}", "privacy.email"),
        ("own_fields: [on]", "own_fields.0"),
    ],
)
def test_a_word_that_yaml_takes_for_a_truth_value_is_to_be_quoted(tmp_path: Path, setting: str, path: str) -> None:
    """It is Norway that somebody meant; the same in quotes is taken, or refused for what it is."""
    crm = "sources:\n  crm:\n    kind: drivly\n    url: https://crm.example.com/api\n    key: {env: KEY}\n    "
    (problem,) = refused(tmp_path, crm + setting)
    assert problem.startswith(f"sources.crm.{path}: ")
    assert problem.endswith(f"; {TRUTH}")
    assert load(tmp_path, crm + 'region: "NO"').sources["crm"].settings.region == "NO"
    assert TRUTH not in refused(tmp_path, crm + "region: 7")[0]


def test_a_class_that_is_off_may_be_written_bare(tmp_path: Path) -> None:
    """As the documentation of deletions has it, with quotes and without; an editor underlines neither."""
    raw: dict[str, Any] = GOOD | {
        "handlers": {
            "deletes": {
                "targets": {"shop": SOURCE | {"url": "https://shop.example.com/api"}},
                "routes": [{"source": "crm", "target": "shop", "classes": {"gone": "off", "absent": False}}],
            }
        }
    }
    (route,) = load(tmp_path, yaml.safe_dump(raw)).file.handlers.deletes.routes
    assert [route.mode("gone"), route.mode("absent")] == ["off", "off"]
    assert complaints(raw) == []


def test_settings_of_a_target_are_named_by_their_place_in_the_file() -> None:
    """The kind of the target is no part of it."""
    targets = {
        "shop": {"kind": "drivly", "key": {"env": "KEY"}},
        "mail": {
            "kind": "http",
            "url": "https://mail.example.com",
            "path": "/{id}",
            "headers": {"A": "b"},
            "done": 200,
        },
        "none": {"url": "https://none.example.com"},
        "other": {"kind": "drivley", "url": "https://other.example.com"},
        "empty": None,
    }
    found = problems(GOOD | {"handlers": {"deletes": {"targets": targets}}})
    assert [problem.removeprefix("handlers.deletes.targets.") for problem in found] == [
        "shop.url: Field required",
        "mail.headers.A: write {env: NAME} or {file: PATH}: a secret itself never stands in the file",
        "mail.done: write a list: [one, two]",
        "none: kind is missing",
        "other: there is no kind 'drivley'; there are drivly, http",
        "empty: write its settings below it, as name: value",
    ]


@pytest.mark.parametrize(
    ("handlers", "problem"),
    [
        ({"dedupe": {"keys": "NEP"}}, "handlers.dedupe.keys: write a list: [one, two]"),
        ({"dedupe": {"scopes": ["crm"]}}, "handlers.dedupe.scopes: write its entries below it, as name: value"),
        ({"deletes": {"routes": {"crm": "shop"}}}, "handlers.deletes.routes: write a list: [one, two]"),
        (
            {"plugins": {"welcome": {"target": "welcome:handle", "outputs": "welcomes"}}},
            "handlers.plugins.welcome.outputs: write a list: [one, two]",
        ),
    ],
)
def test_a_list_is_a_list_and_no_tuple(handlers: dict[str, Any], problem: str) -> None:
    """What was wanted is said in the words of YAML, not of Python."""
    assert problems(GOOD | {"handlers": handlers}) == [problem]


@pytest.mark.parametrize("region", ["UK", "ZZ"])
def test_a_region_that_has_no_phones_is_refused(region: str) -> None:
    """No national phone number would ever normalize."""
    (found,) = problems({"sources": {"crm": SOURCE | {"region": region}}})
    assert found == f"sources.crm: region: {region} is no country with phone numbers (ISO 3166-1); the UK is GB"


def test_a_section_without_anything_in_it_says_what_to_write() -> None:
    """In the words of a user."""
    assert problems({"kafka": None}) == ["kafka: write its settings below it, as name: value"]


def test_a_route_from_a_source_that_has_a_problem_is_not_blamed() -> None:
    """The source is there, if not in order."""
    target = {"kind": "drivly", "url": "https://shop.example.com/api", "key": {"env": "KEY"}}
    deletes = {"targets": {"shop": target}, "routes": [{"source": "crm", "target": "shop"}]}
    found = problems({"sources": {"crm": SOURCE | {"rate": 0}}, "handlers": {"deletes": deletes}})
    assert found == ["sources.crm.rate: Input should be greater than 0"]


def test_a_route_goes_by_a_reference_that_the_source_has() -> None:
    """Over another one nothing would ever be carried, and nobody would be told."""
    target = {"kind": "drivly", "url": "https://shop.example.com/api", "key": {"env": "KEY"}}
    route = {"source": "crm", "target": "shop", "link": "reference"}
    routes = [route | {"reference": "customerId"}, route | {"reference": "customerID"}]
    deletes = {"targets": {"shop": target}, "routes": routes}
    found = problems({"sources": {"crm": SOURCE}, "handlers": {"deletes": deletes}})
    types = "consumerConsumerId, consumerCreditApplicationId, customerId"
    assert found == [f"handlers.deletes.routes.1.reference: crm has no customerID, but {types}"]


def test_scopes_and_priority_may_name_a_source_that_has_left() -> None:
    """Its customers stay on the topics, and in their clusters."""
    dedupe = {"scopes": {"group": ["crm", "old"]}, "priority": ["old", "crm"]}
    assert problems({"sources": {"crm": SOURCE}, "handlers": {"dedupe": dedupe}}) == []


def test_a_target_at_the_address_of_a_source_must_have_its_name() -> None:
    """Otherwise nobody would see that a deletion found there is our own."""
    target = {"kind": "drivly", "url": SOURCE["url"], "key": {"env": "KEY"}}
    found = problems({"sources": {"crm": SOURCE}, "handlers": {"deletes": {"targets": {"other": target}}}})
    assert len(found) == 1
    assert found[0].startswith("handlers.deletes.targets.other: has the address of the source crm")


# The schema for editors


def complaints(raw: object) -> list[str]:
    """Return what an editor would underline."""
    return [error.message for error in VALIDATOR.iter_errors(orjson.loads(orjson.dumps(raw)))]


def test_the_schema_is_one() -> None:
    """By its own rules."""
    jsonschema.Draft202012Validator.check_schema(config.json_schema())


@pytest.mark.parametrize("all_kinds", [True, False])
def test_the_demos_configuration_is_in_order(*, all_kinds: bool) -> None:
    """To the schema as to the program; with all kinds of systems, and with the two that the fault tests have."""
    systems: dict[str, Simulator] = {name: Drivly() for name in ("crm", "shop")}
    if all_kinds:
        systems |= {"telco": Connect(), "garage": MyKaarma(), "club": Dintero()}
    for port, system in enumerate(systems.values(), 4711):
        system.url = f"http://127.0.0.1:{port}"
    made = yaml.safe_load(yaml.safe_dump(demo_settings("127.0.0.1:9092", World(1, systems=systems))))
    assert complaints(made) == []
    assert {name: source.settings.kind for name, source in config.parse(made).sources.items()} == {
        name: system.kind for name, system in systems.items()
    }


@pytest.mark.parametrize(
    ("field", "meant"),
    [
        ("consumerSocialSecurty", "did you mean consumerSocialSecurity?"),
        ("ConsumerIncome", "did you mean consumerIncome?"),
        ("zzz", "drivly has no such field; One"),
    ],
)
def test_a_misspelt_field_of_a_privacy_policy_is_refused(field: str, meant: str) -> None:
    """With its path in the file and the nearest name that there is: it would keep nothing back."""
    (found,) = problems(GOOD | {"sources": {"crm": SOURCE | {"privacy": {field: "drop", "email": "drop"}}}})
    assert found.startswith(f"sources.crm: privacy.{field}: ")
    assert meant in found


def test_a_field_of_ones_own_may_be_named_in_a_privacy_policy() -> None:
    """Once the source's `own_fields` say that it is no mistake; and what is below a field may be named anyway."""
    privacy = {"loyaltyCard": "drop", "loyaltyCard.number": "hash", "phone.number": "drop"}
    assert problems({"sources": {"crm": SOURCE | {"privacy": privacy, "own_fields": ["loyaltyCard"]}}}) == []
    assert len(problems({"sources": {"crm": SOURCE | {"privacy": privacy}}})) == 2


durations = st.one_of(
    st.floats(0.001, 1e6), st.integers(1, 10**6), st.from_regex(r"\A[0-9]{1,4}(\.[0-9])?(ms|s|m|h|d)\Z"), st.just("5 s")
)
names = st.text(string.ascii_lowercase + string.digits + "_-", min_size=1, max_size=5)
# A number in a text or a truth value for a number is taken too, though an editor underlines it.
odd = (
    st.none()
    | st.integers(-5, 5)
    | st.text(string.ascii_letters + " .:", max_size=5)
    | st.just([])
    | st.just({})
    | durations
)
secrets = st.sampled_from([{"env": "KEY"}, {"file": "/run/secrets/key"}])
sources = st.fixed_dictionaries(
    {"kind": st.just("drivly"), "url": st.just("https://crm.example.com/api"), "key": secrets},
    optional={
        "interval": durations | odd,
        "rate": st.floats(0, 100) | odd,
        "page_size": st.integers(0, 2000) | odd,
        "privacy": st.dictionaries(names, st.sampled_from(["keep", "hash", "drop", "encrypt"]), max_size=2) | odd,
        "locale": st.sampled_from(["en", "nb-NO", "x y"]) | odd,
        "region": st.sampled_from(["US", "us", "NO"]) | odd,
        "colour": odd,
    },
)
files = st.fixed_dictionaries(
    {},
    optional={
        "prefix": st.sampled_from(["customers", "a.b", "A", "a..b", ""]) | odd,
        "grace": durations | odd,
        "receipts_retention": durations | odd,
        "listen": st.sampled_from(["127.0.0.1:0", "0.0.0.0:8080", "nowhere"]) | odd,
        "log": st.fixed_dictionaries({}, optional={"level": st.sampled_from(["info", "loud"]) | odd, "format": odd}),
        "kafka": st.fixed_dictionaries({}, optional={"partitions": odd, "session_timeout": durations, "username": odd}),
        "pepper": secrets | odd,
        "sources": st.dictionaries(names, sources, max_size=2) | odd,
        "handlers": st.just({}) | odd,
        "colour": odd,
    },
)


@given(files)
def test_whatever_the_program_takes_the_editor_does_not_underline(raw: dict[str, Any]) -> None:
    """A configuration that runs is valid by the schema."""
    if not problems(raw):
        assert complaints(raw) == []


# Rules between two settings, and what a name or a text means, are not in the schema; nor is what YAML's numbers mean.
BEYOND = (
    "rollcall",
    "state",
    "port",
    "below",
    "private",
    "needs username",
    "no use of",
    "either env or file",
    "than 0",
)


@given(files)
def test_what_the_editor_does_not_underline_the_program_takes(raw: dict[str, Any]) -> None:
    """Up to the rules that no schema can say, and those of the kinds' own fields."""
    if not complaints(raw):
        assert [problem for problem in problems(raw) if not any(word in problem for word in BEYOND)] == []


@pytest.mark.parametrize(
    "source",
    [
        {key: value for key, value in SOURCE.items() if key != "kind"},
        {key: value for key, value in SOURCE.items() if key != "key"},
        SOURCE | {"kind": "shopify"},
        SOURCE | {"intervall": "5s"},
        SOURCE | {"interval": "5"},
        SOURCE | {"key": "text"},
    ],
)
def test_an_editor_underlines_what_is_wrong_with_a_source(source: dict[str, Any]) -> None:
    """Its kind and its settings are checked, whatever its name."""
    assert complaints({"sources": {"crm": SOURCE}}) == []
    assert complaints({"sources": {"crm": source}}) != []
    assert complaints({"sources": {"Not A Name": SOURCE}}) != []


def test_every_setting_is_described() -> None:
    """An editor shows what it is for; names that say it by themselves are excepted."""
    schema = config.json_schema()
    plain = {"kafka", "log", "handlers", "sources", "level", "kind"}
    bare = [name for name, part in schema["properties"].items() if "description" not in part and name not in plain]
    assert bare == []

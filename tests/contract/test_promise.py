"""The contract with subscribers as it stands in the repository: what was promised is kept, and is what is generated."""

from pathlib import Path

import orjson
import pytest

from worker import contract
from worker.errors import RollcallError
from worker.schema import breaks
from worker.topics import Topics

PROMISED = Path(__file__).parents[2] / "docs" / "schemas"


@pytest.mark.parametrize("name", list(contract.schemas()))
def test_no_reader_of_a_promised_schema_is_broken(name: str) -> None:
    """A type may gain fields; anything else needs a new type under a new urn."""
    promised = orjson.loads((PROMISED / f"{name}.json").read_bytes())
    assert breaks(promised, contract.schemas()[name]) == []


def test_the_documents_are_those_of_the_types() -> None:
    """After a change that breaks nobody: `rollcall schema --write docs/schemas`."""
    written = {path.stem: path.read_bytes() for path in PROMISED.glob("*.json")}
    assert written == {name: contract.encode(made) for name, made in contract.documents(Topics()).items()}


def test_a_promise_is_not_written_over(tmp_path: Path) -> None:
    """Nothing is written where one of the schemas would break its readers."""
    contract.write(tmp_path, Topics())
    path = tmp_path / "customer.json"
    promised = orjson.loads(path.read_bytes())
    promised["properties"]["nickname"] = {"type": "string"}
    path.write_bytes(orjson.dumps(promised))
    with pytest.raises(RollcallError, match="customer: the value has no nickname any more"):
        contract.write(tmp_path, Topics())
    assert orjson.loads(path.read_bytes()) == promised


def test_the_document_names_the_topics_of_its_deployment() -> None:
    """Another prefix is another address; every public topic is there and nothing internal is."""
    topics = Topics("acme", partitions=3)
    document = contract.asyncapi(topics)
    addresses = {channel["address"] for channel in document["channels"].values()}
    assert addresses == {spec.name for spec in topics.declared() if spec.public}
    assert document["channels"]["events"]["bindings"]["kafka"]["partitions"] == 3


def test_it_is_said_which_schema_the_table_follows() -> None:
    """Its headers are the event's, `ce_dataschema` too, but its value is the event's `customer`."""
    (customer,) = (made for made in contract.CONTRACTS if made.name == "customer")
    message = contract.asyncapi(Topics())["channels"]["latest"]["messages"]["customer"]
    assert message["payload"] == {"$ref": "#/components/schemas/customer"}
    assert customer.urn in message["summary"]
    assert customer.urn in message["headers"]["properties"]["ce_dataschema"]["description"]
    page = (PROMISED.parent / "subscribe.md").read_text(encoding="utf-8")
    assert customer.urn in page


def test_the_page_for_subscribers_names_every_header() -> None:
    """What comes with an event is explained where a subscriber reads."""
    page = (PROMISED.parent / "subscribe.md").read_text(encoding="utf-8")
    for name in contract.header_schemas()["events"]["properties"]:
        assert f"`{name}`" in page, name

"""What is really published, held against the documents that subscribers are given."""

import shutil
from pathlib import Path

import orjson
import pytest
from jsonschema import Draft202012Validator

from tests.programs import run
from tests.subscribers.conftest import Demo
from worker import contract
from worker.schema import closed
from worker.topics import Topics

CHECK = """
import { Parser } from '@asyncapi/parser'
import fs from 'node:fs'
const { document, diagnostics } = await new Parser().parse(fs.readFileSync(process.argv[2], 'utf8'))
const wrong = diagnostics.filter((one) => one.severity <= 1)
console.log(JSON.stringify({ wrong, channels: document ? document.channels().all().map((one) => one.address()) : [] }))
"""


@pytest.mark.parametrize(
    ("topic", "schema"),
    [
        ("events", "customer-event"),
        ("latest", "customer"),
        ("clusters", "membership"),
        ("identity", "identity-event"),
        ("deletions", "deletion"),
        ("receipts", "receipt"),
    ],
)
async def test_every_published_record_is_as_the_schemas_say(demo: Demo, topic: str, schema: str) -> None:
    """Values and headers of every record, and no field that is not documented."""
    records = await demo.records(topic)
    value_of = Draft202012Validator(closed(contract.schemas()[schema]))
    headers_of = Draft202012Validator(closed(contract.header_schemas().get(topic, {})))
    assert any(record.value is not None for record in records)
    for record in records:
        if record.value is not None:
            value_of.validate(orjson.loads(record.value))
        headers_of.validate({name: value.decode() for name, value in record.headers})


async def test_the_document_is_valid_by_its_own_tooling(packages: Path) -> None:
    """AsyncAPI's own parser finds no error and no warning in what `rollcall schema` prints."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("there is no Node here")
    (packages / "check.mjs").write_text(CHECK)
    (packages / "asyncapi.json").write_bytes(contract.encode(contract.asyncapi(Topics())))
    code, output, errors = await run([node, "check.mjs", "asyncapi.json"], cwd=packages)
    assert code == 0, errors
    assert orjson.loads(output) == {
        "wrong": [],
        "channels": [spec.name for spec in Topics().declared() if spec.public],
    }

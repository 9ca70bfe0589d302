"""The fields that a privacy policy may name: those of the documents, as the docs say field by field."""

import re

import pytest

from tests.unit.sources.documented import FIELDS
from worker.sources import available
from worker.sources.documented import CONNECT, DRIVLY, unknown

KINDS = ("drivly", "connect", "mykaarma", "dintero")


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_of_the_docs_may_be_named_and_every_default_is_one(kind: str) -> None:
    """In a policy, mykaarma's fields of `customerInfo` are named without it."""
    section = FIELDS.read_text(encoding="utf-8").partition(f"\n## {kind}\n")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    named = {name.removeprefix("customerInfo.") for row in rows for name in re.findall(r"`([^`]+)`", row)}
    adapter = available()[kind]
    known: frozenset[str] = adapter.fields  # type: ignore[attr-defined]
    assert unknown(named - {"errors", "warnings"}, known) == {}
    assert unknown(adapter.privacy, known) == {}


def test_what_a_field_is_below_and_what_is_below_a_field_are_known() -> None:
    """Unless the document says all that is below it."""
    assert unknown(["billing", "billing.address", "billing.address.zip", "metadata.colour"], CONNECT) == {}
    assert unknown(["billing.adress.zip", "contact.mail"], CONNECT) == {
        "billing.adress.zip": "billing.address.zip",
        "contact.mail": "contact.email",
    }


def test_what_is_like_no_field_is_named_alone() -> None:
    """A suggestion that is far from it would not help."""
    assert unknown(["zzz", "Email"], DRIVLY) == {"zzz": None, "Email": "email"}

"""What can be configured about the search for duplicates: what could not work is refused when the file is read."""

import pytest
from pydantic import ValidationError

from handlers.dedupe.settings import DedupeSettings, Generic


@pytest.mark.parametrize("phone", ["+47(", "[", r"*\d", "+4712345678", "(?i)x", "1{99999999999}"])
def test_a_generic_phone_is_a_regular_expression(phone: str) -> None:
    """One that is none is named: the stage that reads the customers would end with it."""
    with pytest.raises(ValidationError, match="is not a regular expression") as caught:
        Generic.model_validate({"phones": [r"\+4799999999", phone]})
    (problem,) = caught.value.errors()
    assert problem["loc"] == ("phones", 1)
    assert repr(phone) in problem["msg"]


@pytest.mark.parametrize(
    ("groups", "scopes", "message"),
    [
        ([["crm"]], {}, "at least 2 items"),
        ([["crm", "shop"], ["mail", "crm"]], {}, "named twice: crm"),
        ([["crm", "crm"]], {}, "named twice: crm"),
        ([["crm", "shop"]], {"retail": ["shop"]}, "crm and shop are in different scopes"),
    ],
)
def test_sources_that_are_one_to_one_can_be_compared(
    groups: list[list[str]], scopes: dict[str, list[str]], message: str
) -> None:
    """Two and more in one scope, each in one group."""
    with pytest.raises(ValidationError, match=message):
        DedupeSettings.model_validate({"one_to_one": groups, "scopes": scopes})
    assert DedupeSettings.model_validate({"one_to_one": [["crm", "shop"], ["mail", "erp"]]})

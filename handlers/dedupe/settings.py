"""What can be configured about finding duplicate customers: scopes, match keys, weights, vetoes, caps, generic values.

Everything has a default that was measured; `docs/truth.md` has the figures and says on which data.
"""

import re
from collections import Counter
from collections.abc import Iterable
from typing import Annotated, Final

from pydantic import AfterValidator, Field, model_validator

from worker.settings import Duration, Model, SourceName

DEFAULT_SCOPE: Final = "default"

# The kinds of match keys, by the one-letter tag under which they travel.
KEY_KINDS: Final[dict[str, str]] = {
    "N": "identifier",
    "E": "email",
    "P": "phone",
    "R": "reference",
    "D": "birth date and name",
    "S": "given and family name",
    "Z": "postcode and name",
    "H": "house number and street",
    "B": "birth date and postcode",
}

Tag = Annotated[str, Field(pattern=f"^[{''.join(KEY_KINDS)}]$")]


class Weights(Model):
    """What the agreement (or not) of one field adds to the score of a pair. A missing value adds nothing."""

    identifier: float = Field(default=12, description="The same identifier, such as a national id or a licence")
    identifier_one_edit: float = Field(default=6, description="Two identifiers of one type, a typing error apart")
    identifier_differs: float = Field(default=-3, description="Two identifiers of one type, and none in common")
    email: float = Field(default=8, description="An e-mail address in common")
    mobile: float = Field(default=6, description="A phone number in common, unless both call it a landline")
    landline: float = Field(default=3, description="A phone number in common that both call home, work or fax")
    reference: float = Field(default=6, description="A typed reference in common")
    birth_date: float = 7
    birth_date_one_edit: float = 4
    birth_date_two_edits: float = -3
    birth_date_differs: float = -4
    given: float = 5
    given_similar: float = 3
    given_differs: float = -3
    family: float = 6
    family_similar: float = 4
    family_differs: float = Field(default=-4, le=0)
    street: float = 4
    street_differs: float = -1
    house: float = 2
    postcode: float = 3
    postcode_one_edit: float = Field(default=1, description="A postcode a typing error apart, in the same city")
    postcode_differs: float = -1
    city: float = 2
    city_differs: float = -1
    uncorroborated: float = Field(
        default=6, description="Taken off where only what a household shares, or only the names, agree"
    )


class Vetoes(Model):
    """What keeps a pair apart whatever its score. Much else in common outweighs any of them but `unique`."""

    given_below: float = Field(default=0.8, ge=0, le=1, description="Jaro-Winkler similarity of the given names")
    birth_date_edits: int = Field(default=3, ge=1, description="Edits between the birth dates, from this on")
    grown_up: int = Field(
        default=30, ge=0, description="Age from which two birth dates alike in one home are not taken for twins"
    )
    generation: tuple[int, int] = Field(
        default=(14, 50),
        description="Years between namesakes in one home who are taken for parent and child, from and to",
    )
    borrowed: bool = Field(
        default=True,
        description="Review an identifier in common where it may be another family member's, by all that is known; "
        "false where identifiers are verified",
    )
    unique: tuple[str, ...] = Field(
        default=("ssn", "national_id", "organization_number"),
        description="Types of identifiers of which a customer has one: two different ones always keep a pair apart",
    )


class Caps(Model):
    """How large a cluster may become; what goes over is reviewed, not merged."""

    customers: int = Field(default=20, ge=2)
    emails: int = Field(default=5, ge=1)
    phones: int = Field(default=5, ge=1)
    identifiers: int = Field(default=1, ge=1, description="Of each unique type")
    opposed: float = Field(
        default=1,
        ge=0,
        description="Pairs held for two people, by how clearly, that are allowed for each link between two clusters",
    )
    component: int = Field(
        default=250, ge=2, description="Linked customers that are looked at together; a larger tangle merges nobody"
    )


def _expression(value: str) -> str:
    try:
        re.compile(value)
        re.compile(f"(?:{value})")  # as a part of a larger one, where no (?i) may stand
    except (re.error, OverflowError) as error:
        raise ValueError(f"{value!r} is not a regular expression: {error}") from error
    return value


class Generic(Model):
    """Values that identify nobody. What is missing here is found by the size of its bucket (`bucket`)."""

    bucket: int = Field(default=50, ge=2, description="Customers that may share a match key before it says nothing")
    emails: tuple[str, ...] = (
        "none@none.com",
        "no@email.com",
        "noemail@noemail.com",
        "na@na.com",
        "a@a.com",
        "email@email.com",
        "customer@example.com",
    )
    email_names: tuple[str, ...] = Field(
        default=(
            *("test", "noreply", "no-reply", "no_reply", "donotreply", "do-not-reply", "none", "null", "unknown"),
            *("na", "n/a", "noemail", "no-email", "nomail", "anonymous", "example", "user", "nobody", "asdf"),
        ),
        description="What stands before the @",
    )
    phones: tuple[Annotated[str, AfterValidator(_expression)], ...] = Field(
        default=(
            r"\+1\d{3}55501\d\d",
            r"\+1\d{3}5551212",
            r"\+4799999999",
            r"\+\d{1,3}?(\d)\1{6,}",
            r"\+\d{0,3}1234567(8(90?)?)?",
            r"\+\d{1,3}?0{5,}\d*",
        ),
        description="Regular expressions, matched with the whole number in E.164",
    )
    names: tuple[str, ...] = (
        *("unknown", "none", "null", "na", "n a", "test", "tester", "testing", "customer", "guest", "anonymous"),
        *("not provided", "not available", "no name", "noname", "first", "last", "firstname", "lastname", "name"),
        *("first name", "last name", "tbd", "xxx", "asdf", "deleted", "unnamed"),
        *("declined", "refused", "occupant", "resident", "husband", "wife", "father", "mother", "daughter", "child"),
        *("dad", "mom", "son of", "daughter of", "brother", "sister", "grandson", "granddaughter", "grandchild"),
        *("respondent", "inmate", "lady", "gentleman", "house", "kid", "baby boy", "baby girl", "mr", "mrs", "ms"),
        *("infant", "adult", "male", "female", "man", "woman", "boy", "girl", "person", "oldest", "youngest"),
    )
    postcodes: tuple[str, ...] = ("00000", "0000", "000000", "99999", "9999", "12345")
    birth_dates: tuple[str, ...] = ("1900-01-01", "1901-01-01", "1970-01-01", "0001-01-01", "9999-12-31")
    streets: tuple[str, ...] = ("unknown", "none", "na", "n a", "general delivery", "homeless", "no fixed address")
    identifiers: tuple[str, ...] = Field(
        default=("000000000", "111111111", "123456789", "999999999", "078051120", "219099999"),
        description="Without punctuation; compared by their hashes",
    )


def _twice(groups: Iterable[Iterable[str]]) -> list[str]:
    """Return what is in the groups more than once."""
    named = Counter(name for group in groups for name in group)
    return sorted(name for name, times in named.items() if times > 1)


class DedupeSettings(Model):
    """The section `handlers.dedupe` of the configuration."""

    scopes: dict[SourceName, tuple[SourceName, ...]] = Field(
        default_factory=dict,
        description="Sources whose customers are compared with one another, by scope; the rest are one scope",
    )
    keys: tuple[Tag, ...] = Field(default=tuple(KEY_KINDS), description="The match keys in use, by tag")
    link: float = Field(default=10, description="Score from which two customers are linked")
    review: float = Field(default=6, description="Score from which two customers are reported for review")
    weights: Weights = Weights()
    vetoes: Vetoes = Vetoes()
    caps: Caps = Caps()
    generic: Generic = Generic()
    priority: tuple[SourceName, ...] = Field(
        default=(), description="Sources whose customers win a cluster, the first one first; others come after"
    )
    one_to_one: tuple[Annotated[tuple[SourceName, ...], Field(min_length=2)], ...] = Field(
        default=(),
        description="Groups of sources that have the same people, each of them once: two of their customers whom only "
        "a doubt keeps apart are linked, if neither can be anybody else there",
    )
    patience: Duration = Field(
        default=900.0, description="How long a change waits for the evidence on it, before it is done in doubt"
    )

    @model_validator(mode="after")
    def _consistent(self) -> "DedupeSettings":
        if self.review > self.link:
            raise ValueError("review must not be above link")
        if twice := _twice(self.scopes.values()):
            raise ValueError(f"a source belongs to one scope; in several: {', '.join(twice)}")
        if twice := _twice(self.one_to_one):
            raise ValueError(f"a source is one to one with those of one group; named twice: {', '.join(twice)}")
        for group in self.one_to_one:
            if len(scopes := {self.scope_of(source): source for source in group}) > 1:
                raise ValueError(f"one_to_one: {' and '.join(sorted(scopes.values()))} are in different scopes")
        return self

    def scope_of(self, source: str) -> str:
        """Return the scope of a source."""
        return next((scope for scope, sources in self.scopes.items() if source in sources), DEFAULT_SCOPE)

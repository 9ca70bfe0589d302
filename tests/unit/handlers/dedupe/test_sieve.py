"""What is sorted out at a glance would have been kept apart by comparing, too."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from handlers.dedupe import DedupeSettings
from handlers.dedupe.comparand import parse
from handlers.dedupe.profile import Refined, Refiner, extract
from handlers.dedupe.scoring import Judge, Scorer
from handlers.dedupe.sieve import Sieve, glance
from handlers.dedupe.wire import Member
from worker.events import Customer
from worker.privacy import Hasher
from worker.testkit import person

HASHER = Hasher(b"a pepper for tests")
NAMES = ("Ada", "Adah", "Archer", "Bob", "Robert", "Maria", "Marie", "Brian", "A", "")
BORN = (None, "1980-02-03", "1980-02-04", "1980-03-14", "1991-07-21")
HOMES = (
    None,
    ("12 Mill Lane", "Springfield", "62701"),
    ("14 Mill Lane", "Springfield", "62701"),
    ("40 High Street", "Springfield", "62701"),
)
RULES = (
    DedupeSettings(),
    DedupeSettings.model_validate({"weights": {"uncorroborated": 3}}),
    DedupeSettings.model_validate({"vetoes": {"birth_date_edits": 2}}),
)
IDS = (None, None, "111-22-3333", "111-22-3334", "987-65-4320")


@st.composite
def customers(draw: st.DrawFn) -> Customer:
    """Draw a customer out of few values, so that two of them agree in much."""
    names = st.sampled_from(NAMES)
    made = person(
        draw(st.sampled_from(("crm", "shop"))),
        draw(st.sampled_from("123")),
        given=draw(names),
        family=draw(names),
        born=draw(st.sampled_from(BORN)),
        emails=draw(st.sampled_from(((), ("ada@example.com",)))),
        phones=draw(st.sampled_from(((), ("+12025550799",)))),
        address=draw(st.sampled_from(HOMES)),
    )
    if made["name"] is not None:
        made["name"]["middle"] = draw(names)
    if (known := draw(st.sampled_from(IDS))) is not None:
        made["identifiers"] = [{"type": "ssn", "hash": HASHER.identifier("ssn", known)}]
    return made


def member(refined: Refined) -> bytes:
    """Return it as the keys stage sends it."""
    return Member(1, False, refined.identified, 0, b"".join(refined.keys), refined.brief, refined.profile).encode()


@given(customers(), customers(), st.sampled_from(RULES))
def test_of_a_hopeless_pair_no_bucket_says_anything(one: Customer, other: Customer, rules: DedupeSettings) -> None:
    """It is not linked, not to be reviewed, and no clash."""
    refiner = Refiner(rules, HASHER)
    a, b = (refiner.refine(extract(customer)) for customer in (one, other))
    if Sieve(rules).hopeless(glance(member(a)), member(b)):
        first, second = (parse(b"".join(known.keys), known.profile) for known in (a, b))
        compared = Scorer(rules).compare(first, second)
        assert not compared.clash
        assert Judge(rules).standing(compared.fields, compared.need, compared.best()) < rules.review


def glimpsed(one: Customer, other: Customer) -> bool:
    """Return whether two customers are sorted out, whichever of the two comes first."""
    refiner, hopeless = Refiner(DedupeSettings(), HASHER), Sieve(DedupeSettings()).hopeless
    a, b = (member(refiner.refine(extract(customer))) for customer in (one, other))
    assert hopeless(glance(a), b) == hopeless(glance(b), a)
    return hopeless(glance(a), b)


def test_two_given_names_in_one_street_are_hopeless() -> None:
    """It does sort out what is met most: neighbours, and members of a family."""
    home: dict[str, Any] = {"family": "Archer", "address": HOMES[1]}
    ada, brian = person("crm", "1", given="Ada", **home), person("crm", "2", given="Brian", **home)
    assert glimpsed(ada, brian)
    assert not glimpsed(ada, ada)


def test_namesakes_in_one_town_are_hopeless() -> None:
    """Two of one given name and two family names, unless birth dates or a house are alike, or a phone is the same."""
    ada: dict[str, Any] = {"given": "Ada", "address": HOMES[1]}
    one = person("crm", "1", family="Archer", born="1980-02-03", phones=["+12025550799"], **ada)
    away: dict[str, Any] = {"given": "Ada", "family": "Lovelace", "address": HOMES[2]}
    assert glimpsed(one, person("crm", "2", family="Lovelace", born="1991-07-21", **ada))
    assert glimpsed(one, person("crm", "3", **away))
    assert not glimpsed(one, person("crm", "4", phones=["+12025550799"], **away))
    assert not glimpsed(one, person("crm", "5", born="1980-02-04", **away))
    assert not glimpsed(one, person("crm", "6", family="Archer", born="1991-07-21", **ada))
    assert not glimpsed(one, person("crm", "7", family="Lovelace", **ada))


def test_who_share_a_phone_alone_are_hopeless() -> None:
    """A household's, or an office's; an e-mail address is looked at closely, since it may clash."""
    ada, brian = {"given": "Ada", "family": "Archer"}, {"given": "Brian", "family": "Lovelace"}
    phones, emails = ["+12025550799"], ["ada@example.com"]
    assert glimpsed(person("crm", "1", phones=phones, **ada), person("crm", "2", phones=phones, **brian))
    assert not glimpsed(person("crm", "1", emails=emails, **ada), person("crm", "2", emails=emails, **brian))

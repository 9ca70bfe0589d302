"""What is sorted out at a glance would have been kept apart by comparing, too."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from handlers.dedupe import DedupeSettings
from handlers.dedupe.comparand import parse
from handlers.dedupe.profile import Refined, Refiner, extract
from handlers.dedupe.scoring import Judge, Scorer
from handlers.dedupe.sieve import glance, hopeless
from handlers.dedupe.wire import Member
from worker.events import Customer
from worker.privacy import Hasher
from worker.testkit import person

HASHER = Hasher(b"a pepper for tests")
NAMES = ("Ada", "Adah", "Archer", "Bob", "Robert", "Maria", "Marie", "Brian", "A", "")
BORN = (None, "1980-02-03", "1980-02-04", "1991-07-21")
HOMES = (None, ("12 Mill Lane", "Springfield", "62701"), ("40 High Street", "Springfield", "62701"))
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


def member(refined: Refined, customer: Customer) -> bytes:
    """Return it as the keys stage sends it."""
    parsed = parse(b"".join(refined.keys), refined.profile)
    brief = f"{parsed.given}\0{parsed.middle}\0{parsed.family}\0{parsed.born}".encode()
    return Member(1, False, bool(customer["identifiers"]), b"".join(refined.keys), brief, refined.profile).encode()


@given(customers(), customers())
def test_a_hopeless_pair_is_out_of_the_question(one: Customer, other: Customer) -> None:
    """And it does not clash: nothing that a bucket says is lost."""
    rules = DedupeSettings()
    refiner = Refiner(rules, HASHER)
    a, b = (refiner.refine(extract(customer)) for customer in (one, other))
    if hopeless(glance(member(a, one)), member(b, other), rules.vetoes.given_below):
        first, second = (parse(b"".join(known.keys), known.profile) for known in (a, b))
        compared = Scorer(rules).compare(first, second)
        assert not compared.clash
        assert Judge(rules).standing(compared.fields, compared.need, compared.best()) == float("-inf")


def test_two_given_names_in_one_street_are_hopeless() -> None:
    """It does sort out what is met most: neighbours, and members of a family."""
    home: dict[str, Any] = {"family": "Archer", "address": HOMES[1]}
    ada, brian = person("crm", "1", given="Ada", **home), person("crm", "2", given="Brian", **home)
    refiner = Refiner(DedupeSettings(), HASHER)
    one, other = (member(refiner.refine(extract(customer)), customer) for customer in (ada, brian))
    assert hopeless(glance(one), other, 0.8)
    assert not hopeless(glance(one), one, 0.8)

"""When two customers are taken for one person, field by field, and what keeps them apart."""

import itertools
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from handlers.dedupe import DedupeSettings, fields
from handlers.dedupe.comparand import Profile, parse
from handlers.dedupe.fields import Alike
from handlers.dedupe.profile import Refiner, extract
from handlers.dedupe.scoring import FIELDS, Comparison, Judge, Scorer, best_of
from handlers.dedupe.settings import Vetoes
from worker.events import Customer
from worker.normalize import Normalizer
from worker.privacy import Hasher
from worker.testkit import person

HASHER = Hasher(b"a pepper for tests")
NORMALIZER = Normalizer("US", HASHER, {})
SETTINGS = DedupeSettings()
PARIS = ("26 boulevard Saint-Michel", "Paris", "75006")
LYON = ("26 boulevard Saint-Michel", "Lyon", "69001")
ANNE: dict[str, Any] = {"given": "Anne", "family": "Marchand"}
numbers = itertools.count(1)


def made(ssn: str | None = None, middle: str | None = None, suffix: str | None = None, **known: Any) -> Customer:
    """Return a customer as the adapters make it."""
    customer = person("drivly", str(next(numbers)), **known)
    if customer["name"] is not None:
        customer["name"]["middle"], customer["name"]["suffix"] = middle, suffix
    identifier = NORMALIZER.identifier("ssn", ssn)
    customer["identifiers"] = [identifier] if identifier else []
    return customer


def profile(customer: Customer, settings: DedupeSettings = SETTINGS) -> Profile:
    """Return what the buckets know of a customer."""
    refined = Refiner(settings, HASHER).refine(extract(customer))
    return parse(b"".join(refined.keys), refined.profile)


def compared(a: Customer, b: Customer, settings: DedupeSettings = SETTINGS) -> Comparison:
    """Return the comparison of two customers."""
    return Scorer(settings).compare(profile(a, settings), profile(b, settings))


def verdict(a: Customer, b: Customer, settings: DedupeSettings = SETTINGS) -> str:
    """Return what becomes of the pair where they meet."""
    found = compared(a, b, settings)
    standing = Judge(settings).standing(found.fields, found.need, found.best())
    if found.block or standing < settings.review:
        return "apart"
    return "linked" if standing >= settings.link else "review"


def added(a: Customer, b: Customer) -> dict[str, float]:
    """Return what the fields add, those that say nothing left out."""
    return {name: weight for name, weight in zip(FIELDS, compared(a, b).fields, strict=True) if weight}


class TestFields:
    """What each field adds."""

    @pytest.mark.parametrize(
        ("one", "other", "weight", "edits"),
        [
            ("1980-02-03", "1980-02-03", 7, 0),
            ("1980-02-03", "1980-02-04", 4, 1),
            ("1980-02-13", "1980-02-31", 4, 1),
            ("1980-02-05", "1980-05-02", 4, 1),
            ("1980-02-03", "1980-03-04", -3, 2),
            ("1980-02-03", "1980-74-03", 4, 1),
            ("1980-02-03", "1980-02-93", 4, 1),
            ("1980-02-03", "1974-11-73", -4, 4),
            ("1980-02-03", "1974-11-23", -4, 5),
            ("", "1980-02-03", 0, -1),
            ("", "", 0, -1),
        ],
    )
    def test_birth_dates(self, one: str, other: str, weight: float, edits: int) -> None:
        """By the edits between them; day and month swapped are one, and the one in an impossible date is none."""
        assert fields.birth_dates(one, other, SETTINGS.weights) == (weight, edits)

    @pytest.mark.parametrize(
        ("one", "other", "alike"),
        [
            ("robert", "robert", Alike.SAME),
            ("robert", "bob", Alike.SAME),
            ("phillip", "philip", Alike.SAME),
            ("jonathan", "jonahtan", Alike.SAME),
            ("nicholas", "nichoals", Alike.SAME),
            ("margaret", "marqaret", Alike.MISTYPED),
            ("ben", "bwn", Alike.MISTYPED),
            ("ben", "jen", Alike.OTHER),
            ("bwn", "dwn", Alike.OTHER),
            ("ronnie", "ronald", Alike.SAME),
            ("marquita", "maria", Alike.DIFFERENT),
            ("carol", "carlo", Alike.DIFFERENT),
            ("beth", "lisa", Alike.OTHER),
            ("robert", "r", Alike.MISSING),
            ("robert", "", Alike.MISSING),
            ("", "", Alike.MISSING),
        ],
    )
    def test_given_names(self, one: str, other: str, alike: Alike) -> None:
        """Short forms are the same; two names in their own right are two, however alike."""
        assert fields.likeness(one, other, 0.8) == alike

    def test_swapped_names_agree(self) -> None:
        """Given and family name in each other's field count as straight ones do."""
        swapped = made(given="Marchand", family="Anne")
        assert added(made(**ANNE), swapped) == {"given": 5, "family": 6}

    def test_one_name_in_the_others_field_counts_and_the_rest_says_nothing(self) -> None:
        """Swapped, and one of them mistaken besides; where neither birth dates nor identifiers tell, it is chance."""
        born: dict[str, Any] = {"born": "1980-02-03"}
        crossed = {"given": "Marchand", "family": "Jules"}
        assert added(made(**ANNE, **born), made(**crossed, **born)) == {"birth_date": 7, "given": 3}
        assert added(made(**ANNE), made(**crossed)) == {"given": -3, "family": -4}

    def test_who_goes_by_the_middle_name_is_known_by_it(self) -> None:
        """Unless another middle name says that it is somebody else: a brother who has the name of the other."""
        robert = made(given="Andrew", middle="Robert", family="Marchand")
        assert added(robert, made(given="Robert", family="Marchand"))["given"] == 3
        assert added(robert, made(given="Robert", middle="A", family="Marchand"))["given"] == 3
        assert added(robert, made(given="Robert", middle="M", family="Marchand"))["given"] == -3

    @pytest.mark.parametrize(("family", "weight"), [("Marchand", 6), ("Marchant", 4), ("Lefevre", -4), (None, 0)])
    def test_family_names(self, family: str | None, weight: float) -> None:
        """Equal, spelt alike, different; a missing one says nothing."""
        assert added(made(**ANNE), made(given="Anne", family=family)).get("family", 0) == weight

    def test_a_short_family_name_with_one_letter_off_is_alike(self) -> None:
        """Meyer and Myer."""
        assert added(made(given="Anne", family="Meyer"), made(given="Anne", family="Myer"))["family"] == 4

    def test_the_addresses_that_agree_best_count(self) -> None:
        """Of several addresses the best pair is taken; what differs in it counts against."""
        assert added(made(address=PARIS), made(address=PARIS)) == {"street": 4, "house": 2, "postcode": 3, "city": 2}
        assert added(made(address=PARIS), made(address=LYON)) == {"street": 4, "house": 2, "postcode": -1, "city": -1}
        both = made(address=LYON)
        both["addresses"] += made(address=PARIS)["addresses"]
        assert added(made(address=PARIS), both) == {"street": 4, "house": 2, "postcode": 3, "city": 2}

    @pytest.mark.parametrize(
        ("postcode", "city", "weight"),
        [("75006", "Paris", 3), ("75060", "Paris", 1), ("75060", "Lyon", -1), ("69001", "Paris", -1), ("", "Paris", 0)],
    )
    def test_postcodes(self, postcode: str, city: str, weight: float) -> None:
        """One that is a typing error apart counts a little in the same city: in another it is a neighbouring one's."""
        there = ("26 boulevard Saint-Michel", city, postcode)
        assert added(made(address=PARIS), made(address=there)).get("postcode", 0) == weight

    @pytest.mark.parametrize("unique", SETTINGS.vetoes.unique)
    @pytest.mark.parametrize("other", ["card", "drivers_licence", "passport", "tax_id", "vehicle", "employee"])
    def test_a_near_identifier_hides_no_conflict(self, unique: str, other: str) -> None:
        """Where two of one type are a typing error apart, two of another one may still be two people's."""
        near = [NORMALIZER.identifier("ssn", number) for number in ("234567891", "234657891")]
        one, two = profile(made(**ANNE)), profile(made(**ANNE))
        for known, value, variants in ((one, "a", near[0]), (two, "b", near[1])):
            assert variants is not None
            known.identifiers.update({f"{unique}/": {value: ""}, f"{other}/NY": {value: variants["near"]}})
        found = fields.identifiers(one, two, SETTINGS.weights, frozenset(SETTINGS.vetoes.unique))
        assert found == (SETTINGS.weights.identifier_one_edit, True, True)

    @pytest.mark.parametrize(
        ("other", "weight"), [("234-56-7891", 0), ("234-65-7891", 6), ("234567899", -3), ("345678912", -3), (None, 0)]
    )
    def test_identifiers(self, other: str | None, weight: float) -> None:
        """A typing error counts for the pair, another number against it; equal ones are match keys instead."""
        found = compared(made("234567891", **ANNE), made(other, **ANNE))
        assert found.fields[0] == weight
        assert found.best().get("N", 0) == (12 if other == "234-56-7891" else 0)
        assert found.block == ("unique_id" if weight < 0 else None)

    def test_values_in_common_add_up_the_same_in_any_order(self) -> None:
        """Floats do not: a pair must not be linked in one process, and left apart in another."""
        values = [("E", 0.1), ("P", 0.2), ("R", 0.3), ("P", -0.5)]
        said = {tuple(best_of(order).items()) for order in itertools.permutations(values)}
        assert said == {(("E", 0.1), ("P", 0.2), ("R", 0.3))}


class TestVerdicts:
    """What becomes of pairs that are often confused."""

    def test_the_same_person_is_linked(self) -> None:
        """Name and birth date are enough."""
        assert verdict(made(**ANNE, born="1980-02-03"), made(**ANNE, born="1980-02-03")) == "linked"

    def test_a_name_alone_links_nobody(self) -> None:
        """There are many of one name."""
        assert verdict(made(**ANNE), made(**ANNE)) != "linked"

    def test_namesakes_in_one_street_of_two_towns_are_not_linked(self) -> None:
        """A street and a number are a home only together with the town."""
        assert verdict(made(**ANNE, address=PARIS), made(**ANNE, address=PARIS)) == "linked"
        assert verdict(made(**ANNE, address=PARIS), made(**ANNE, address=LYON)) == "review"

    def test_a_street_without_its_town_is_no_home(self) -> None:
        """Every town has a Main Street."""
        nowhere = ("26 boulevard Saint-Michel", "", "")
        assert verdict(made(**ANNE, address=PARIS), made(**ANNE, address=nowhere)) == "review"

    def test_a_household_is_several_people(self) -> None:
        """Family name, address, phone and e-mail address in common do not make one person of two given names."""
        shared: dict[str, Any] = {"address": PARIS, "emails": ["family@example.com"], "phones": ["+14155550700"]}
        one, other = made(given="Anne", family="Marchand", **shared), made(given="Jules", family="Marchand", **shared)
        assert verdict(one, other) == "apart"

    def test_twins_are_two(self) -> None:
        """A birth date and a home in common neither, for children."""
        born: dict[str, Any] = {"family": "Marchand", "born": "2012-05-06", "address": PARIS}
        assert verdict(made(given="Anne", **born), made(given="Jules", **born)) == "apart"

    def test_one_birth_date_in_one_home_is_not_two_people_of_age(self) -> None:
        """Twins live together as children; but where middle names differ as well, no error explains it."""
        born: dict[str, Any] = {"family": "Marchand", "born": "1960-05-06", "address": PARIS}
        assert verdict(made(given="Anne", **born), made(given="Jules", **born)) == "linked"
        pair = made(given="Anne", middle="M", **born), made(given="Jules", middle="P", **born)
        assert verdict(*pair) == "apart"
        mistyped = {**born, "address": ("26 boulevard Saint-Michel", "Paris", "75060")}
        assert verdict(made(given="Anne", **born), made(given="Jules", **mistyped)) == "linked"

    def test_two_names_alike_of_one_birth_date_are_two_people_where_middle_names_differ(self) -> None:
        """Twins of age live in one home at times; a given name mistyped and another middle name are two errors."""
        born: dict[str, Any] = {"family": "Marchand", "born": "1960-05-06", "address": PARIS}
        assert verdict(made(given="Diane", **born), made(given="Daniel", **born)) == "linked"
        pair = made(given="Diane", middle="J", **born), made(given="Daniel", middle="M", **born)
        assert compared(*pair).veto is None
        assert verdict(*pair) == "review"

    def test_a_lost_given_name_is_not_made_up_for_by_a_twin_s_birth_date_and_home(self) -> None:
        """Two systems know a child, and one has lost its name; one system that has two has twins."""
        child: dict[str, Any] = {"family": "Marchand", "born": "2015-02-24", "address": PARIS}
        one, other = made(given="Anne", **child), made(**child)
        assert verdict(one, other) == "review"
        elsewhere: Customer = {**other, "source": "connect"}
        assert verdict(one, elsewhere) == "linked"

    def test_a_name_in_no_list_is_a_mistake_unless_a_twin_may_have_it(self) -> None:
        """One birth date and one middle name are one person's; children in one home may be two."""
        born: dict[str, Any] = {"middle": "J", "family": "Marchand", "born": "2012-05-06"}
        assert verdict(made(given="Anne", **born), made(given="Qwhrty", **born)) == "linked"
        at_home = {**born, "address": PARIS}
        assert verdict(made(given="Anne", **at_home), made(given="Qwhrty", **at_home)) == "apart"

    def test_namesakes_in_one_street_are_not_linked(self) -> None:
        """Names and streets are few in some places: another house number, and somebody has to look."""
        neighbour = ("8 boulevard Saint-Michel", "Paris", "75006")
        assert verdict(made(**ANNE, address=PARIS), made(**ANNE, address=neighbour)) == "review"

    def test_the_partner_of_one_given_name_is_somebody_else(self) -> None:
        """A home and a given name in common, and two family names, are not enough."""
        home: dict[str, Any] = {"given": "Anne", "address": PARIS}
        assert verdict(made(family="Marchand", **home), made(family="Lefevre", **home)) != "linked"

    def test_a_lost_given_name_does_not_split_a_grown_up(self) -> None:
        """Birth date, family name and street are one person's, unless they may be twins who live with their parents."""
        neighbour = ("8 boulevard Saint-Michel", "Paris", "75006")

        def pair(born: str) -> tuple[Customer, Customer]:
            known = made(given="Anne", family="Marchand", born=born, address=PARIS)
            return known, made(family="Marchand", born=born, address=neighbour)

        assert verdict(*pair("1960-05-06")) == "linked"
        assert verdict(*pair("2012-05-06")) == "review"

    def test_a_near_identifier_outweighs_one_error_and_not_two(self) -> None:
        """Sixty years between the birth dates are none that one equal name explains."""
        old, young = {"born": "1934-04-24"}, {"born": "1994-11-05"}
        near = "234657891"
        assert verdict(made("234567891", **ANNE, **old), made(near, **ANNE, **young, address=PARIS)) == "linked"
        assert verdict(made("234567891", **ANNE, **old, address=PARIS), made(near, given="Anne", **young)) == "apart"
        other = made(near, given="Anne", family="Lefevre", address=PARIS, **young)
        assert verdict(made("234567891", **ANNE, **old, address=PARIS), other) == "apart"

    def test_father_and_son_of_one_name_are_two(self) -> None:
        """In one home, a generation apart."""
        shared: dict[str, Any] = {"given": "Daniel", "family": "Marchand", "address": PARIS}
        pair = made(**shared, born="1960-04-24"), made(**shared, born="1988-11-05")
        assert verdict(*pair) == "apart"
        assert compared(*pair).opposed == 2

    def test_two_birth_dates_of_namesakes_in_one_home_are_a_mistake_unless_one_system_has_both(self) -> None:
        """Two systems know a person, and one of them has the birth date wrong; one system has somebody once, mostly."""
        shared: dict[str, Any] = {"given": "Daniel", "family": "Marchand", "address": PARIS}
        one, other = made(**shared, born="1980-02-03"), made(**shared, born="1975-11-27")
        assert compared(one, other).veto == "birth_date"
        assert verdict(one, other) == "apart"
        elsewhere: Customer = {**other, "source": "connect"}
        assert verdict(one, elsewhere) == "linked"

    def test_senior_and_junior_are_two(self) -> None:
        """Whatever else agrees, without an identifier."""
        senior = made(**ANNE, suffix="Sr", address=PARIS, emails=["a@example.org"])
        assert verdict(senior, made(**ANNE, suffix="Jr", address=PARIS, emails=["a@example.org"])) == "apart"

    def test_a_suffix_on_one_side_needs_more_than_a_name_and_a_home(self) -> None:
        """Senior and whoever has none may be father and son: without birth dates, two kinds of values have to agree."""
        senior = made(**ANNE, suffix="Sr", address=PARIS)
        assert verdict(senior, made(**ANNE, address=PARIS)) == "review"
        contacts: dict[str, Any] = {"address": PARIS, "emails": ["a@example.org"], "phones": ["+14155550700"]}
        assert verdict(made(**ANNE, suffix="Sr", **contacts), made(**ANNE, **contacts)) == "linked"
        assert verdict(made(**ANNE, suffix="Sr", born="1950-03-04"), made(**ANNE, born="1950-03-04")) == "linked"

    def test_two_national_ids_always_keep_apart(self) -> None:
        """Even with everything else the same."""
        same: dict[str, Any] = {**ANNE, "born": "1980-02-03", "address": PARIS, "emails": ["a@example.org"]}
        assert verdict(made("234567891", **same), made("345678912", **same)) == "apart"

    def test_an_identifier_may_be_the_husbands(self) -> None:
        """With another given name and nothing that speaks for one person, somebody has to look; verified ones link."""
        known: dict[str, Any] = {"ssn": "234567891", "family": "Marchand", "address": PARIS}
        pair = made(given="Anne", **known), made(given="Jules", **known)
        assert verdict(*pair) == "review"
        assert verdict(*pair, DedupeSettings(vetoes=Vetoes(borrowed=False))) == "linked"

    def test_an_identifier_under_two_whole_names_is_not_enough(self) -> None:
        """Neither name in common: one of the two has it by mistake."""
        one = made("234567891", middle="M", given="Anne", family="Marchand")
        assert verdict(one, made("234567891", middle="M", given="Xylon", family="Lefevre")) != "linked"

    def test_an_identifier_links_over_an_error_in_the_birth_date(self) -> None:
        """The veto of birth dates gives way to it."""
        pair = made("234567891", **ANNE, born="1980-02-03"), made("234567891", **ANNE, born="1974-11-23")
        assert verdict(*pair) == "linked"

    def test_a_company_is_no_person(self) -> None:
        """Whatever they have in common."""
        same: dict[str, Any] = {**ANNE, "emails": ["a@example.org"], "phones": ["+14155550700"]}
        assert compared(made(**same), made(kind="company", **same)).block == "kind"


ABSURD: dict[str, list[Any]] = {
    "given": [None, "Unknown", "N/A", "test", "Declined", "wife", "XXX"],
    "family": [None, "none", "not provided", "Customer", "-"],
    "born": [None, "1900-01-01", "0001-01-01", "9999-12-31", "no date"],
    "emails": [[], ["none@none.com"], ["test@acme.example"], ["noreply@acme.example"], ["na@na.com"]],
    "phones": [[], ["+4799999999"], ["+12025550123"], ["+11111111111"], ["+10000000000"]],
    "address": [None, ("unknown", "n/a", "00000"), ("none", "unknown", "99999")],
}
nobodies = st.fixed_dictionaries({name: st.sampled_from(values) for name, values in ABSURD.items()})
ids = st.sampled_from([None, "000-00-0000", "111-11-1111", "123-45-6789", "***-**-1234", "on file"])
somebodies = st.fixed_dictionaries({
    "given": st.sampled_from([None, "Anne", "Ann", "Jules", "Marchand", "Unknown"]),
    "family": st.sampled_from([None, "Marchand", "Marchant", "Anne", "none"]),
    "born": st.sampled_from([None, "1980-02-03", "1980-02-04", "2008-07-13", "1900-01-01"]),
    "emails": st.lists(st.sampled_from(["a@example.org", "b@example.org", "none@none.com"]), max_size=2),
    "phones": st.lists(st.sampled_from(["+14155550700", "+14155550801"]), max_size=2),
    "address": st.sampled_from([None, PARIS, LYON]),
    "middle": st.sampled_from([None, "M", "Jane"]),
    "suffix": st.sampled_from([None, "Jr", "Sr"]),
    "ssn": st.sampled_from([None, "234567891", "234657891", "345678912", "111-11-1111"]),
})


class TestLaws:
    """What holds for any two customers."""

    @given(nobodies, ids, nobodies, ids)
    def test_absurd_values_never_match(self, one: dict[str, Any], a: str, other: dict[str, Any], b: str) -> None:
        """Missing values and placeholders are no match keys, add nothing and link nobody, not even with themselves."""
        for first, second in ((made(a, **one), made(b, **other)), (made(a, **one), made(a, **one))):
            assert profile(first).keys == frozenset()
            found = compared(first, second)
            assert [weight for weight in found.fields if weight > 0] == []
            assert found.agreed == {}
            assert verdict(first, second) == "apart"

    @given(somebodies, somebodies)
    @example({"given": "Anne", "family": "Marchant"}, {"given": "Marchand", "family": "Anne"})
    def test_a_comparison_is_symmetric(self, one: dict[str, Any], other: dict[str, Any]) -> None:
        """It does not matter who comes first."""
        a, b = made(**one), made(**other)
        assert compared(a, b) == compared(b, a)

    @given(somebodies, somebodies, st.randoms())
    def test_the_order_of_values_does_not_matter(self, one: dict[str, Any], other: dict[str, Any], random: Any) -> None:
        """E-mail addresses, phones and addresses may stand in any order."""
        a, b = made(**one), made(**other)
        b["addresses"] += a["addresses"]
        before = compared(a, b)
        for values in (b["emails"], b["phones"], b["addresses"]):
            random.shuffle(values)
        assert compared(a, b) == before

    @given(somebodies, somebodies)
    def test_conflicting_unique_ids_always_block(self, one: dict[str, Any], other: dict[str, Any]) -> None:
        """Two national ids that are not a typing error apart."""
        pair = made(**one | {"ssn": "234567891"}), made(**other | {"ssn": "345678912"})
        assert compared(*pair).block is not None
        assert verdict(*pair) == "apart"

    @given(somebodies)
    def test_nothing_of_a_person_is_in_a_key(self, one: dict[str, Any]) -> None:
        """A match key is a letter and a keyed hash of eight bytes."""
        customer = made(**one)
        for key in profile(customer).keys:
            assert len(key) == 9
        other = Refiner(SETTINGS, Hasher(b"another pepper")).refine(extract(customer)).keys
        assert not profile(customer).keys & set(other)

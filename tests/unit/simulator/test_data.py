"""The synthetic people are nobody's data, the same for a seed, and meet only where they are made to."""

from __future__ import annotations

import random
import re

import phonenumbers
import pytest

from worker.simulator import People
from worker.simulator.drivly_shape import shaped
from worker.simulator.locales import LOCALES, reserved_phones

RESERVED = re.compile(
    r"\+1\d{3}55501\d\d|"  # NANPA: 555-0100 to 555-0199
    r"\+44(1\d{2}496|207946|191498|289649|292018)0\d{3}|"  # Ofcom: numbers for use in drama
    r"\+33(19900|26191|35301|46571|53649)\d{4}|"  # ARCEP: audiovisual works
    r"\+46(701740[6]\d\d|313900[6]\d\d|406280[4]\d\d|846500[4]\d\d)"  # PTS: fictitious numbers
)
# The members of the vendor's document, less id and time stamps.
DOCUMENT = """
customerId leads address shippingContact deals createdBy lastModifiedBy email phone insurancePolicies tenants
consumerStatus consumerFirstName consumerMiddleName consumerLastName consumerSuffix consumerDateOfBirth
consumerEducationLevel consumerVehicles consumerPhoneType consumerDriversLicense consumerDriversLicenseState
consumerDriversLicenseNumber consumerDriversLicenseExp consumerDriversLicenseExpiration consumerPreApprovals
consumerGetPreApproved consumerProvideProofOfInsurance consumerLoginToBank consumerConnectCar
consumerProvideProofOfIncome consumerConsumerId consumerCreditApplicationId deals2 consumerSocialSecurity
consumerDriversLicenceState consumerIncome consumerIncomeInterval consumerEmploymentStatusCode
consumerEmploymentDuration consumerEmployerName consumerEmployerPhone consumerEmploymentTitle
consumerPreviousEmployerName consumerPreviousEmployerPhone consumerPreviousEmploymentTitle
consumerPreviousEmploymentDuration consumerPreviousEmploymentincome consumerTimeAtResidence
consumerPreviousAddressLine1 consumerPreviousAddressLine2 consumerPreviousAddressCity consumerPreviousAddressState
consumerPreviousZip consumerPreviousAddressDuration consumerResidenceType consumerRentMortgage
consumerOtherIncomeDescription consumerOtherIncomeAmount consumerLeadSource companyName companyDealerDeals
companyDealsFacilitated companyInsuranceQuotes companyType companyWebsite companyStripeConnectLink
companyCustomerPortalLink companyServiceQuotes companyServiceOrders companyServiceQuotesPartners companyVisibility
companyTenants2 companyCustomer companyTrades companyTenants3 companyPartnerBrand companyDeals3 companyRouteOneDealer
companyTransportServiceOrders
"""


def test_a_seed_gives_the_same_people() -> None:
    """And another seed gives others."""
    assert People(3).people(50) == People(3).people(50)
    assert People(3).people(50) != People(4).people(50)


def test_nothing_about_them_can_belong_to_anybody() -> None:
    """Addresses at reserved domains, telephone numbers kept for fiction, social security numbers never assigned."""
    for person in People(1).people(5_000):
        assert person.email.rpartition("@")[2] in {"example.com", "example.org", "example.net"}
        assert person.phone is None or RESERVED.fullmatch(person.phone)
        assert re.fullmatch(r"9\d\d-(0[1-9]|[1-4]\d)-\d{4}", person.national_id)


def test_people_of_different_seeds_share_nothing() -> None:
    """Eight systems side by side: whatever meets was planted."""
    people = [person for seed in range(8) for person in People(seed).people(3_000)]
    for field in ("number", "email", "phone", "national_id", "licence"):
        values = [getattr(person, field) for person in people if getattr(person, field) is not None]
        assert len(set(values)) == len(values), field


def test_the_reserved_numbers_are_valid_and_distinct() -> None:
    """So that they normalize like real ones; Norway reserves none."""
    for locale in LOCALES:
        numbers = list(reserved_phones(locale.country))
        assert len(set(numbers)) == len(numbers)
        sample = random.Random(1).sample(numbers, min(200, len(numbers)))
        assert all(phonenumbers.is_valid_number(phonenumbers.parse(number)) for number in sample)
    assert not list(reserved_phones("NO"))


def test_everybody_still_has_an_email_when_the_numbers_are_used_up() -> None:
    """Beyond the ranges there is no telephone number, rather than one twice."""
    people = People(2).people(30_000)
    phones = [person.phone for person in people if person.phone]
    assert len(set(phones)) == len(phones) < len(people)
    assert len({person.email for person in people}) == len(people)


@pytest.mark.parametrize("seed", range(20))
def test_a_variation_is_the_same_person_written_otherwise(seed: int) -> None:
    """A slip changes the family name by one letter, a swap exchanges the names, case changes no letter."""
    people = People(seed)
    person = people.person()
    slipped = people.vary(person, typo=True)
    assert slipped.family != person.family or len(set(person.family)) < len(person.family)
    assert abs(len(slipped.family) - len(person.family)) <= 1
    swapped = people.vary(person, swapped=True)
    assert (swapped.given, swapped.family) == (person.family, person.given)
    loud = people.vary(person, case=True)
    assert loud.email != person.email
    assert loud.email.casefold() == person.email.casefold()
    assert people.vary(person, phone=None).phone is None


def test_drivlys_full_field_set_is_the_documents() -> None:
    """Every member that the document shows is filled in."""
    customer = shaped(People(1).person(), random.Random(1), "full")
    assert customer.keys() == set(DOCUMENT.split())
    assert None not in customer.values()

"""A person as a Drivly customer: the field set of the vendor's document, filled with synthetic values.

Ids and time stamps are the system's own and are added there. Chance decides what is filled in; what is personal comes
from the person, so that the same person is recognizable across the systems.
"""

from __future__ import annotations

import random
from typing import Any, Literal

from worker.simulator.data import Person

Detail = Literal["compact", "usual", "full"]
"""How much of the documented field set is filled: about 0.3, 1.4 or 4 kB of JSON a customer."""
Doc = dict[str, Any]

RELATIONS = (
    "leads", "deals", "insurancePolicies", "tenants", "consumerVehicles", "consumerPreApprovals", "deals2",
    "companyDealerDeals", "companyDealsFacilitated", "companyInsuranceQuotes", "companyServiceQuotes",
    "companyServiceQuotesPartners", "companyTenants2", "companyCustomer", "companyTrades", "companyTenants3",
    "companyDeals3", "companyTransportServiceOrders",
)  # fmt: skip
"""Fields of a drivly customer that hold lists of related documents."""
RELATION = ("address", "shippingContact", "createdBy", "lastModifiedBy", "companyPartnerBrand")
"""Fields of a drivly customer that hold one related document."""
NUMBERS = (
    "consumerIncome", "consumerEmploymentDuration", "consumerPreviousEmploymentDuration",
    "consumerPreviousEmploymentincome", "consumerTimeAtResidence", "consumerPreviousAddressDuration",
    "consumerRentMortgage", "consumerOtherIncomeAmount",
)  # fmt: skip
LISTS = ("consumerLeadSource", "companyType")
TEXTS = (
    "customerId", "email", "phone", "consumerStatus", "consumerFirstName", "consumerMiddleName", "consumerLastName",
    "consumerSuffix", "consumerDateOfBirth", "consumerEducationLevel", "consumerPhoneType",
    "consumerDriversLicense", "consumerDriversLicenseState", "consumerDriversLicenseNumber",
    "consumerDriversLicenseExp", "consumerDriversLicenseExpiration", "consumerGetPreApproved",
    "consumerProvideProofOfInsurance", "consumerLoginToBank", "consumerConnectCar", "consumerProvideProofOfIncome",
    "consumerConsumerId", "consumerCreditApplicationId", "consumerSocialSecurity", "consumerDriversLicenceState",
    "consumerIncomeInterval", "consumerEmploymentStatusCode", "consumerEmployerName", "consumerEmployerPhone",
    "consumerEmploymentTitle", "consumerPreviousEmployerName", "consumerPreviousEmployerPhone",
    "consumerPreviousEmploymentTitle", "consumerPreviousAddressLine1", "consumerPreviousAddressLine2",
    "consumerPreviousAddressCity", "consumerPreviousAddressState", "consumerPreviousZip", "consumerResidenceType",
    "consumerOtherIncomeDescription", "companyName", "companyWebsite", "companyStripeConnectLink",
    "companyCustomerPortalLink", "companyServiceOrders", "companyVisibility", "companyRouteOneDealer",
)  # fmt: skip


def shaped(person: Person, chance: random.Random, detail: Detail = "usual") -> Doc:
    """Render a person as a Drivly customer; None stands where nothing is filled in."""
    core = {
        "customerId": f"CUS-{person.number:07d}",
        "email": person.email,
        "phone": person.phone,
        "consumerStatus": chance.choice(("NEW", "ACTIVE", "SOLD", "LOST")),
        "consumerFirstName": person.given,
        "consumerMiddleName": person.middle,
        "consumerLastName": person.family,
        "consumerSuffix": person.suffix,
    }
    if detail == "compact":
        return core
    usual = core | _usual(person, chance) | _company(person, chance)
    if detail == "usual":
        return usual
    return usual | {name: value for name, value in _rest(person, chance).items() if usual.get(name) is None}


def _usual(person: Person, chance: random.Random) -> Doc:
    return {
        "leads": _links(chance, 2),
        "address": person.number + 1,
        "deals": _links(chance, 3),
        "createdBy": chance.randrange(1, 20),
        "lastModifiedBy": chance.randrange(1, 20),
        "insurancePolicies": _links(chance, 2),
        "tenants": [1],
        "consumerDateOfBirth": person.birth.isoformat(),
        "consumerVehicles": _links(chance, 2),
        "consumerPhoneType": "MOBILE",
        "consumerDriversLicenseNumber": person.licence,
        "consumerDriversLicenseState": person.state,
        "consumerDriversLicenseExpiration": f"{chance.randrange(2027, 2036)}-06-30",
        "consumerSocialSecurity": person.national_id,
        "consumerIncome": chance.randrange(20, 200) * 1000,
        "consumerIncomeInterval": "YEARLY",
        "consumerEmploymentStatusCode": "EMPLOYED",
        "consumerEmployerName": f"Example Works {chance.randrange(100)}",
        "consumerEmploymentTitle": chance.choice(("Engineer", "Nurse", "Teacher", "Driver", "Clerk")),
        "consumerEmploymentDuration": chance.randrange(1, 240),
        "consumerPreviousEmployerName": f"Example Mills {chance.randrange(100)}",
        "consumerPreviousEmploymentDuration": chance.randrange(1, 240),
        "consumerEducationLevel": chance.choice(("HIGH_SCHOOL", "COLLEGE", "MASTER")),
        "consumerConsumerId": f"CON-{person.number:09d}",
        "consumerCreditApplicationId": f"APP-{person.number:09d}",
        "consumerTimeAtResidence": chance.randrange(1, 300),
        "consumerPreviousAddressLine1": person.street_line,
        "consumerPreviousAddressCity": person.city,
        "consumerPreviousAddressState": person.state,
        "consumerPreviousZip": person.postcode,
        "consumerResidenceType": chance.choice(("RENT", "OWN")),
        "consumerRentMortgage": chance.randrange(500, 4000),
        "consumerLeadSource": ["Car Concierge (Andrew)"],
    }


def _company(person: Person, chance: random.Random) -> Doc:
    if person.company is None:
        return {}
    return {
        "companyName": person.company,
        "companyType": [chance.choice(("Dealer", "Partner"))],
        "companyWebsite": f"https://www.example.com/{person.number}",
        "companyVisibility": "PRIVATE",
    }


def _rest(person: Person, chance: random.Random) -> Doc:
    texts = {name: f"synthetic {name} {person.number}" for name in TEXTS}
    return {
        **texts,
        **{name: chance.randrange(1, 5000) for name in NUMBERS},
        **{name: _links(chance, 3) or [person.number + 1] for name in RELATIONS},
        **{name: chance.randrange(1, 5000) for name in RELATION},
        "companyType": ["Dealer"],
    }


def _links(chance: random.Random, most: int) -> list[int]:
    return [chance.randrange(1, 100_000) for _ in range(chance.randrange(most + 1))]

"""The fields that each API's document names, as `docs/fields.md` has them: what a privacy policy may speak of.

A field of a field is named with dots. A privacy policy that names another one is refused, since a misspelt name would
let a field pass that somebody wanted kept back.
"""

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from difflib import get_close_matches
from itertools import accumulate
from typing import Final


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


DRIVLY: Final = _names(
    """
    address companyCustomer companyCustomerPortalLink companyDealerDeals companyDeals3 companyDealsFacilitated
    companyInsuranceQuotes companyName companyPartnerBrand companyRouteOneDealer companyServiceOrders
    companyServiceQuotes companyServiceQuotesPartners companyStripeConnectLink companyTenants2 companyTenants3
    companyTrades companyTransportServiceOrders companyType companyVisibility companyWebsite consumerConnectCar
    consumerConsumerId consumerCreditApplicationId consumerDateOfBirth consumerDriversLicenceState
    consumerDriversLicense consumerDriversLicenseExp consumerDriversLicenseExpiration
    consumerDriversLicenseNumber consumerDriversLicenseState consumerEducationLevel consumerEmployerName
    consumerEmployerPhone consumerEmploymentDuration consumerEmploymentStatusCode consumerEmploymentTitle
    consumerFirstName consumerGetPreApproved consumerIncome consumerIncomeInterval consumerLastName
    consumerLeadSource consumerLoginToBank consumerMiddleName consumerOtherIncomeAmount
    consumerOtherIncomeDescription consumerPhoneType consumerPreApprovals consumerPreviousAddressCity
    consumerPreviousAddressDuration consumerPreviousAddressLine1 consumerPreviousAddressLine2
    consumerPreviousAddressState consumerPreviousEmployerName consumerPreviousEmployerPhone
    consumerPreviousEmploymentDuration consumerPreviousEmploymentTitle consumerPreviousEmploymentincome
    consumerPreviousZip consumerProvideProofOfIncome consumerProvideProofOfInsurance consumerRentMortgage
    consumerResidenceType consumerSocialSecurity consumerStatus consumerSuffix consumerTimeAtResidence
    consumerVehicles createdAt createdBy customerId deals deals2 email id insurancePolicies lastModifiedBy leads
    phone shippingContact tenants updatedAt
    """
)
CONNECT: Final = _names(
    """
    billing.address.attention billing.address.city billing.address.country billing.address.region
    billing.address.state billing.address.street1 billing.address.street2 billing.address.zip billing.autoPay
    billing.currency billing.defaultPaymentProfileId billing.email billing.method contact.email contact.msisdn
    contactPerson.name contactPerson.role contactPerson.userId contactPersonUserId createdAt customerId
    customerType humanReadableId identity metadata name preferredLocale referenceId shipping.address.attention
    shipping.address.city shipping.address.country shipping.address.region shipping.address.state
    shipping.address.street1 shipping.address.street2 shipping.address.zip shipping.instructions shipping.msisdn
    shipping.name updatedAt users.name users.role users.userId
    """
)
MYKAARMA: Final = _names(
    """
    addressList.addressType addressList.city addressList.country addressList.countryCode addressList.dealerID
    addressList.id addressList.line1 addressList.line2 addressList.phone addressList.stateCode
    addressList.stateDescription addressList.zip addressList.zipExt addressListV2.addressType addressListV2.city
    addressListV2.country addressListV2.isPreferred addressListV2.isValid addressListV2.line1
    addressListV2.line2 addressListV2.state addressListV2.type addressListV2.updateTS addressListV2.uuid
    addressListV2.zip communications.commLabel communications.commType communications.commValue
    communications.id communications.preferred company customerKey dealerId dealerOrderInfoList
    dealerOrderInfoList.transactions.ccNumber fname id lname secondaryCustomerData.customerId
    secondaryCustomerData.customerKey secondaryCustomerData.fname secondaryCustomerData.guid
    secondaryCustomerData.lname uuid vehicles.bodyStyle vehicles.engine vehicles.id vehicles.imageUrl
    vehicles.isValid vehicles.make vehicles.model vehicles.trim vehicles.uuid vehicles.vehicleKey vehicles.vin
    vehicles.year
    """
)
DINTERO: Final = _names(
    """
    addresses.address_line addresses.address_line_2 addresses.comment addresses.country addresses.custom_type
    addresses.latitude addresses.longitude addresses.postal_code addresses.postal_place addresses.type
    attributes company.business_name company.bussiness_name company.department company.industry company.name
    company.number_of_employees company.organization_number company.website contact_for.customer_id created_at
    created_by customer_id date_of_birth deleted_at deleted_by email enrolled_by.type enrolled_by.value
    favorite_store first_name gender id last_name marketing_consent metadata paging_token phone_number status
    tags term.accepted_at term.id type updated_at
    """
)


def unknown(named: Iterable[str], known: AbstractSet[str]) -> dict[str, str | None]:
    """Return the names that are none of the `known` fields, each with the one that was most likely meant.

    Known is also what `known` fields are below (`billing`), and all below one of which no more is said (`metadata`).
    """
    all_known = {part for name in known for part in _steps(name)}
    strange = [name for name in named if name not in all_known and known.isdisjoint(_steps(name))]
    return {name: _meant(name, all_known) for name in strange}


def _steps(name: str) -> Iterable[str]:
    """Return a name, and those of what it is below: `billing` and `billing.email` of `billing.email`."""
    return accumulate(name.split("."), "{}.{}".format)


def _meant(name: str, known: AbstractSet[str]) -> str | None:
    by_folded = {one.casefold(): one for one in sorted(known)}
    found = get_close_matches(name.casefold(), by_folded, n=1, cutoff=0.6)
    return by_folded[found[0]] if found else None

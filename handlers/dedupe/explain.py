"""Why two customers are taken for one person, or are not; and what the published topics say about duplicates.

`why` needs nothing but the two customers as they are on `customers.latest`: the rules are the stages' own. What a rule
cannot see from two customers is how many others share a value: `crowded` says which match keys do.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, TypedDict

import orjson

from handlers.dedupe.comparand import Profile, parse
from handlers.dedupe.events import REVIEW, Membership, Review
from handlers.dedupe.profile import Hasher, Refiner, extract
from handlers.dedupe.scoring import FIELDS, Judge, Need, Scorer
from handlers.dedupe.settings import KEY_KINDS, DedupeSettings
from worker.events import Customer, header
from worker.handling import Record


class Why(TypedDict):
    """The whole account of a pair.

    `met` are the kinds of match keys in common (without any, the two are never compared); `fields` what each field
    adds, `values` what each kind of value in common adds; `score` their sum, `standing` what is held against the
    thresholds (null: out of the question); `needs` what has to be in common beside the score; `vetoes` every veto
    tried, with whether it holds; `lifted`: it holds and is outweighed; `blocked`: why nothing can link the two.
    `verdict`: `linked`, `review` or `apart`. It is that of the pair alone; the cluster may have other members and caps.
    """

    a: str
    b: str
    met: list[str]
    fields: dict[str, float]
    values: dict[str, float]
    score: float
    standing: float | None
    needs: str
    vetoes: dict[str, bool]
    lifted: bool
    blocked: str | None
    email_clash: bool
    sources: str
    verdict: str


class Group(TypedDict):
    """A cluster as `rollcall duplicates list` shows it."""

    cluster: str
    winner: str
    members: list[str]


def why(
    a: Customer, b: Customer, settings: DedupeSettings, hasher: Hasher, crowded: Collection[bytes] = frozenset()
) -> Why:
    """Explain the pair; `crowded` are match keys (see `match_keys`) with more than `generic.bucket` customers."""
    one, other = sorted((a, b), key=_key)
    first, second = _profile(one, settings, hasher), _profile(other, settings, hasher)
    compared = Scorer(settings).compare(first, second)
    met = sorted((first.keys & second.keys) - set(crowded))
    agreed = {key: weight for key, weight in compared.agreed.items() if key not in crowded}
    best = compared._replace(agreed=agreed).best()
    standing = Judge(settings).standing(compared.fields, compared.need, best)
    if not met or compared.block:
        standing = float("-inf")
    return {
        "a": _key(one),
        "b": _key(other),
        "met": list(dict.fromkeys(KEY_KINDS[chr(key[0])] for key in met)),
        "fields": {name: weight for name, weight in zip(FIELDS, compared.fields, strict=True) if weight},
        "values": {KEY_KINDS[tag]: weight for tag, weight in best.items()},
        "score": sum(compared.fields) + sum(best.values()),
        "standing": standing if standing > float("-inf") else None,
        "needs": Need(compared.need).name.lower(),
        "vetoes": {name: compared.veto == name for name in ("given_name", "middle_name", "birth_date", "suffix")},
        "lifted": compared.lifted,
        "blocked": compared.block,
        "email_clash": compared.clash and any(key[:1] == b"E" for key in met),
        "sources": "same" if compared.same_source else "several",
        "verdict": "linked" if standing >= settings.link else "review" if standing >= settings.review else "apart",
    }


def match_keys(customer: Customer, settings: DedupeSettings, hasher: Hasher) -> tuple[bytes, ...]:
    """Return the match keys of a customer, keyed hashes after a letter for their kind."""
    return Refiner(settings, hasher).refine(extract(customer)).keys


def groups(clusters: Mapping[bytes, bytes | None]) -> Iterator[Group]:
    """Yield the clusters out of the table `customers.clusters` (newest value by key), in the order of their ids."""
    found: dict[str, Group] = {}
    for customer, value in clusters.items():
        if value is not None:
            known: Membership = orjson.loads(value)
            group: Group = {"cluster": known["cluster"], "winner": known["winner"], "members": []}
            found.setdefault(known["cluster"], group)["members"].append(customer.decode())
    for cluster in sorted(found):
        found[cluster]["members"].sort()
        yield found[cluster]


def open_reviews(identity: Iterable[Record]) -> list[Review]:
    """Return the pairs that are still to be looked at, out of the log `customers.identity` read in order."""
    newest: dict[tuple[str, str], Review] = {}
    for record in identity:
        if header(record.headers, "ce_type") == REVIEW and record.value is not None:
            event: Review = orjson.loads(record.value)
            newest[event["a"], event["b"]] = event
    return [event for _, event in sorted(newest.items()) if event["status"] == "open"]


def export(clusters: Mapping[bytes, bytes | None]) -> Iterator[dict[str, Any]]:
    """Yield a row a customer of a cluster, for a file: cluster, customer, whether it is the winner, size, path."""
    for customer, value in sorted(clusters.items()):
        if value is not None:
            known: Membership = orjson.loads(value)
            name = customer.decode()
            steps = " ".join(f"{step['a']}={step['b']}:{step['score']:g}" for step in known["path"])
            yield {
                "cluster": known["cluster"],
                "customer": name,
                "winner": name == known["winner"],
                "size": known["size"],
                "path": steps,
            }


def _key(customer: Customer) -> str:
    return f"{customer['source']}/{customer['id']}"


def _profile(customer: Customer, settings: DedupeSettings, hasher: Hasher) -> Profile:
    refined = Refiner(settings, hasher).refine(extract(customer))
    return parse(b"".join(refined.keys), refined.profile)

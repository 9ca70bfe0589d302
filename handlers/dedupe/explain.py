"""Why two customers are taken for one person, or are not; and what the published topics say about duplicates.

`why` needs nothing but the two customers as they are on `customers.latest`: the rules are the stages' own. What a rule
cannot see from two customers is how many others share a value: `Census` counts that. No value of a customer is in
anything that is returned, only kinds, weights and names (`<source>/<id>`).
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypedDict

import orjson

from handlers.dedupe.comparand import Profile, parse
from handlers.dedupe.events import REVIEW, Membership, Proof, Review
from handlers.dedupe.graph import source_of
from handlers.dedupe.profile import Hasher, Refiner, extract
from handlers.dedupe.scoring import FIELDS, Judge, Need, Scorer
from handlers.dedupe.settings import KEY_KINDS, DedupeSettings
from worker.events import Customer, header
from worker.handling import Record


class Why(TypedDict):
    """The whole account of a pair.

    `scopes`: customers of different ones are never compared. `met` are the kinds of match keys in common that count
    (without any, the two are never compared), `crowded` those that do not count because too many customers have them;
    `fields` what each field adds, `values` what each kind of value in common adds; `score` their sum, `standing` what
    is held against the thresholds `link` and `review` (null: out of the question); `needs` what has to be in common
    beside the score; `vetoes` each veto, with whether it holds; `lifted`: the first that does is outweighed; `blocked`:
    why nothing can link the two. `verdict`: `linked`, `review` or `apart`. It is that of the pair alone; the cluster
    may have other members and caps. `one_to_one`: the score would link the two, and their sources have the same people,
    so that they are linked all the same if neither may be anybody else there.
    """

    a: str
    b: str
    scopes: tuple[str, str]
    met: list[str]
    crowded: list[str]
    fields: dict[str, float]
    values: dict[str, float]
    score: float
    standing: float | None
    link: float
    review: float
    needs: str
    vetoes: dict[str, bool]
    lifted: bool
    blocked: str | None
    email_clash: bool
    sources: str
    one_to_one: bool
    verdict: str


class Group(TypedDict):
    """A cluster as `rollcall duplicates list` shows it.

    `sources`: `same` where all members are of one source, else `several`; `members_by_source` counts them, so that a
    cluster of several with two members of one source shows.
    """

    cluster: str
    winner: str
    members: list[str]
    sources: Literal["same", "several"]
    members_by_source: dict[str, int]


class Published(TypedDict):
    """What is published about two customers: the cluster of each, the links from one to the other, an open review."""

    clusters: tuple[str | None, str | None]
    path: list[Proof]
    review: str | None


def why(
    a: Customer, b: Customer, settings: DedupeSettings, hasher: Hasher, crowded: Collection[bytes] = frozenset()
) -> Why:
    """Explain the pair; `crowded` are the match keys that too many have (see `Census`)."""
    one, other = sorted((a, b), key=_key)
    first, second = _profile(one, settings, hasher), _profile(other, settings, hasher)
    scorer = Scorer(settings)
    compared = scorer.compare(first, second)
    met = sorted((first.keys & second.keys) - set(crowded))
    agreed = {key: weight for key, weight in compared.agreed.items() if key not in crowded}
    best = compared._replace(agreed=agreed).best()
    judge = Judge(settings)
    standing = judge.standing(compared.fields, compared.need, best)
    apart = not met or compared.block is not None
    if apart:
        standing = float("-inf")
    only = judge.one_to_one(first.source, second.source) and judge.linked_but_for_doubt(compared.fields, best)
    return {
        "a": _key(one),
        "b": _key(other),
        "scopes": (first.scope, second.scope),
        "crowded": sorted({KEY_KINDS[chr(key[0])] for key in first.keys & second.keys & set(crowded)}),
        "met": list(dict.fromkeys(KEY_KINDS[chr(key[0])] for key in met)),
        "fields": {name: weight for name, weight in zip(FIELDS, compared.fields, strict=True) if weight},
        "values": {KEY_KINDS[tag]: weight for tag, weight in best.items()},
        "score": sum(compared.fields) + sum(best.values()),
        "standing": standing if standing > float("-inf") else None,
        "link": settings.link,
        "review": settings.review,
        "needs": Need(compared.need).name.lower(),
        "vetoes": scorer.vetoes(first, second),
        "lifted": compared.lifted,
        "blocked": compared.block,
        "email_clash": compared.clash and any(key[:1] == b"E" for key in met),
        "sources": "same" if compared.same_source else "several",
        "one_to_one": only and not apart and standing < settings.link,
        "verdict": "linked" if standing >= settings.link else "review" if standing >= settings.review else "apart",
    }


class Census:
    """Counts who has the match keys that two customers have in common, out of `customers.latest` in order."""

    def __init__(self, a: Customer, b: Customer, settings: DedupeSettings, hasher: Hasher) -> None:
        """Count for the pair; `wanted` are the match keys they share."""
        self._refiner = Refiner(settings, hasher)
        self._limit = settings.generic.bucket
        self.wanted = self._keys(a) & self._keys(b)
        self._holders: dict[bytes, frozenset[bytes]] = {}

    def take(self, customer: bytes, value: bytes | None) -> None:
        """Take a customer's newest value; ValueError or KeyError for what is none."""
        shared = self._keys(orjson.loads(value)) & self.wanted if value is not None else frozenset()
        if shared:
            self._holders[customer] = shared
        else:
            self._holders.pop(customer, None)

    def crowded(self) -> set[bytes]:
        """Return the match keys that too many customers have."""
        counts = Counter(key for keys in self._holders.values() for key in keys)
        return {key for key, count in counts.items() if count > self._limit}

    def _keys(self, customer: Customer) -> frozenset[bytes]:
        return frozenset(self._refiner.refine(extract(customer)).keys)


def published(a: str, b: str, clusters: Mapping[bytes, bytes | None], reviews: Iterable[Review]) -> Published:
    """Return what is published about two customers, out of `customers.clusters` and the open reviews."""
    known: list[Membership | None] = [orjson.loads(clusters.get(name.encode()) or b"null") for name in (a, b)]
    one, other = known
    path: list[Proof] = []
    if one and other and one["cluster"] == other["cluster"]:
        # Both paths end at the winner: what they have in common leads there and back.
        path = [step for step in one["path"] if step not in other["path"]]
        path += [step for step in reversed(other["path"]) if step not in one["path"]]
    review = next((event["reason"] for event in reviews if {event["a"], event["b"]} == {a, b}), None)
    return {
        "clusters": (one["cluster"] if one else None, other["cluster"] if other else None),
        "path": path,
        "review": review,
    }


def groups(clusters: Mapping[bytes, bytes | None]) -> Iterator[Group]:
    """Yield the clusters out of the table `customers.clusters` (newest value by key), in the order of their ids."""
    found: dict[str, Group] = {}
    for customer, value in clusters.items():
        if value is not None:
            known: Membership = orjson.loads(value)
            group: Group = {
                "cluster": known["cluster"],
                "winner": known["winner"],
                "members": [],
                "sources": "same",
                "members_by_source": {},
            }
            found.setdefault(known["cluster"], group)["members"].append(customer.decode())
    for _, group in sorted(found.items()):
        group["members"].sort()
        group["members_by_source"] = dict(Counter(map(source_of, group["members"])))
        group["sources"] = "same" if len(group["members_by_source"]) == 1 else "several"
        yield group


class Reviews:
    """The pairs that are still to be looked at, out of the log `customers.identity` read in order."""

    def __init__(self) -> None:
        """Start with none."""
        self._open: dict[tuple[str, str], Review] = {}

    def take(self, headers: Sequence[tuple[str, bytes]], value: bytes | None) -> None:
        """Take a record of the log."""
        if header(headers, "ce_type") != REVIEW or value is None:
            return
        event: Review = orjson.loads(value)
        if event["status"] == "open":
            self._open[event["a"], event["b"]] = event
        else:
            self._open.pop((event["a"], event["b"]), None)

    def open(self) -> list[Review]:
        """Return them, in the order of the customers' ids."""
        return [event for _, event in sorted(self._open.items())]


def open_reviews(identity: Iterable[Record]) -> list[Review]:
    """Return the pairs that are still to be looked at, out of the log `customers.identity` read in order."""
    reviews = Reviews()
    for record in identity:
        reviews.take(record.headers, record.value)
    return reviews.open()


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

"""Which linked customers become one cluster, and which links are refused."""

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.dedupe.graph import Edge, Partition, cluster_id, founder_id, partition, path, winner
from handlers.dedupe.settings import Caps
from worker.normalize import Normalizer
from worker.privacy import Hasher

NORMALIZER = Normalizer("US", Hasher(b"a pepper for tests"), {})


def node(ssn: str | None = None, emails: tuple[str, ...] = (), seen: str = "2025", full: int = 5) -> dict[str, Any]:
    """Return what the clusters know of a customer."""
    found = NORMALIZER.identifier("ssn", ssn)
    unique = [[found["type"], found["hash"][:16], found.get("near", "")]] if found else []
    return {
        "unique": unique,
        "emails": list(emails),
        "phones": [],
        "seen": seen,
        "full": full,
        "old": seen,
        "source": "s",
    }


def parted(
    nodes: dict[str, dict[str, Any]],
    links: dict[str, float],
    caps: Caps | None = None,
    opposed: dict[str, int] | None = None,
) -> Partition:
    """Return the clusters; links and oppositions by the two letters."""
    edges = [Edge(pair[0], pair[1], score) for pair, score in links.items()]
    return partition(nodes, edges, caps or Caps(), lambda a, b, _: (opposed or {}).get(a + b, 0))


def test_links_join_over_others() -> None:
    """Two that have nothing in common belong together through a third."""
    assert parted({name: node() for name in "abc"}, {"ab": 12, "bc": 11}).clusters == (("a", "b", "c"),)


def test_different_national_ids_are_never_in_one_cluster() -> None:
    """The stronger link wins; the other is refused with its reason."""
    nodes = {"a": node("234567891"), "b": node(), "c": node("345678912")}
    found = parted(nodes, {"ab": 12, "bc": 11})
    assert found.clusters == (("a", "b"),)
    assert found.refused == ((Edge("b", "c", 11), "unique_id"),)


def test_a_mistyped_national_id_is_no_other_one() -> None:
    """Two digits swapped are one person's, as far as nothing else is against it."""
    nodes = {"a": node("234567891"), "b": node(), "c": node("234657891")}
    assert parted(nodes, {"ab": 12, "bc": 11}).clusters == (("a", "b", "c"),)


CAPS = [(Caps(customers=2), "cap_customers"), (Caps(emails=2), "cap_emails"), (Caps(phones=2), "cap_phones")]


@pytest.mark.parametrize(("caps", "reason"), CAPS)
def test_a_cap_refuses_what_goes_over(caps: Caps, reason: str) -> None:
    """The clusters stay as they were before that link."""
    nodes = {name: {**node(emails=(f"{name}@example.org",)), "phones": [f"+1212555010{name}"]} for name in "abc"}
    found = parted(nodes, {"ab": 12, "bc": 11}, caps)
    assert found.clusters == (("a", "b"),)
    assert [why for _, why in found.refused] == [reason]


def test_clusters_that_quarrel_stay_apart() -> None:
    """A son's record that looks like the father's does not make one of the two, whose birth dates are known."""
    nodes = {name: node() for name in "abc"}
    assert parted(nodes, {"ab": 19, "bc": 18}, opposed={"ac": 1}).clusters == (("a", "b", "c"),)
    found = parted(nodes, {"ab": 19, "bc": 18}, opposed={"ac": 2})
    assert found.clusters == (("a", "b"),)
    assert found.refused == ((Edge("b", "c", 18), "opposed"),)


def test_who_is_linked_to_both_is_named_with_them() -> None:
    """Of two that are held for two people, it is asked who stands between them, in their two clusters only."""
    asked: dict[str, set[str]] = {}

    def opposed(a: str, b: str, between: Iterable[str]) -> int:
        asked[a + b] = set(between)
        return 0

    links = {"ab": 19, "bc": 18, "ad": 17, "cd": 16}
    edges = [Edge(pair[0], pair[1], score) for pair, score in links.items()]
    partition({name: node() for name in "abcd"}, edges, Caps(), opposed)
    assert asked == {"ac": {"b"}, "bd": {"a", "c"}}


def test_the_founder_names_the_cluster() -> None:
    """Whoever was seen first, by id among equals."""
    nodes = {"a": node(seen="2026"), "b": node(seen="2025"), "c": node(seen="2025")}
    assert cluster_id("abc", nodes) == founder_id("b")


def test_the_winner_is_the_most_complete() -> None:
    """Then the oldest, then by id."""
    nodes = {"a": node(full=3), "b": node(full=7, seen="2026"), "c": node(full=7, seen="2025")}
    assert winner("abc", nodes, ()) == "c"


def test_a_path_leads_from_one_to_the_other() -> None:
    """Over the links that made the cluster, in order."""
    tree = [Edge("a", "b", 1), Edge("b", "c", 1), Edge("c", "d", 1)]
    assert path(tree, "d", "a") == tree[::-1]
    assert path(tree, "a", "a") == []


names = "abcdefg"
links = st.dictionaries(
    st.sampled_from([one + other for one in names for other in names if one < other]), st.integers(10, 20), max_size=15
)
known = st.fixed_dictionaries({name: st.sampled_from([None, "234567891", "234657891", "345678912"]) for name in names})


@given(links, known, st.randoms())
def test_the_order_of_links_does_not_matter(given_links: dict[str, float], ids: dict[str, Any], random: Any) -> None:
    """The clusters are a function of customers and links, whatever came first; no one is in two of them."""
    nodes = {name: node(ids[name]) for name in names}
    found = parted(nodes, given_links, Caps(customers=4))
    shuffled, customers = list(given_links.items()), list(nodes.items())
    random.shuffle(shuffled)
    random.shuffle(customers)
    again = parted(dict(customers), dict(shuffled), Caps(customers=4))
    assert (again.clusters, sorted(again.refused)) == (found.clusters, sorted(found.refused))
    members = [name for cluster in found.clusters for name in cluster]
    assert len(members) == len(set(members))
    assert all(len(cluster) <= 4 for cluster in found.clusters)
    assert not any({"234567891", "345678912"} <= {ids[name] for name in cluster} for cluster in found.clusters)

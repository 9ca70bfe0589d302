"""The benchmark's own arithmetic: how right clusters are."""

from benchmarks.identity.measures import Rate, measure

TRUTH = {"a": "1", "b": "1", "c": "1", "d": "2", "e": "2", "f": "3"}


def test_what_is_all_right() -> None:
    """Everybody's customers together and nobody else's."""
    found = measure(TRUTH, [{"a", "b", "c"}, {"d", "e"}])
    assert (found.pairs.precision, found.pairs.recall, found.pairs.f1) == (1, 1, 1)
    assert (found.clusters.f1, found.wrong, found.worst) == (1, 0, 0)


def test_a_wrong_member_costs_every_pair_it_makes() -> None:
    """Pairs are counted after closure, clusters only where they are exactly right."""
    found = measure(TRUTH, [{"a", "b", "d"}, {"e", "f"}])
    assert found.pairs == Rate(right=1, found=4, true=4)
    assert found.clusters == Rate(right=0, found=2, true=2)
    assert (found.wrong, found.people, found.worst) == (2, 2, 3)


def test_nothing_found() -> None:
    """Nothing is wrong then, and nothing found."""
    found = measure(TRUTH, [])
    assert (found.pairs.precision, found.pairs.recall, found.pairs.f1) == (1, 0, 0)

"""Bracket query strings are read as the `qs` library reads them."""

import pytest

from worker.simulator.qs import parse


@pytest.mark.parametrize(
    ("query", "tree"),
    [
        ("", {}),
        ("limit=5&page=2", {"limit": "5", "page": "2"}),
        ("where[id][equals]=3", {"where": {"id": {"equals": "3"}}}),
        ("where%5Bid%5D%5Bequals%5D=3", {"where": {"id": {"equals": "3"}}}),
        ("where[or][1][id]=2&where[or][0][id]=1", {"where": {"or": [{"id": "1"}, {"id": "2"}]}}),
        ("sort[]=a&sort[]=b", {"sort": ["a", "b"]}),
        ("sort=a&sort=b", {"sort": ["a", "b"]}),
        ("where.id.equals=3", {"where.id.equals": "3"}),
        ("time=12:00:00+00:00&name=a%2Bb", {"time": "12:00:00 00:00", "name": "a+b"}),
        ("a[1][2][3][4][5][6][7][8][9][10][11]=x", {"a": [[[[[[[[[[{"[11]": "x"}]]]]]]]]]]}),
    ],
)
def test_a_query_string_becomes_a_tree(query: str, tree: object) -> None:
    """Brackets nest, indices make lists, dots mean nothing, a plus is a space, ten brackets are the deepest."""
    assert parse(query) == tree

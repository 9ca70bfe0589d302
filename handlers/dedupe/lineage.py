"""What has happened to the clusters: the old ones and the new ones compared, so that no id changes without a trace."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from handlers.dedupe.events import Merged, Part, Split, WinnerChanged
from handlers.dedupe.graph import Edge, source_of


@dataclass(frozen=True, slots=True)
class Shape:
    """A cluster: its members (sorted), who stands for it, and the links that hold it together."""

    members: tuple[str, ...]
    winner: str
    tree: tuple[Edge, ...] = ()


def changes(
    old: Mapping[str, Shape], new: Mapping[str, Shape], gone: Sequence[str], *, rebuilt: bool
) -> list[Merged | Split | WinnerChanged]:
    """Return the events that lead from `old` to `new`, both by cluster id; `gone` are customers that are no more.

    Splits come first. Every old id that is not there any more, or has lost members, has one; every new id that was not
    there before, or has gained members, has a merge, unless it is the whole rest of one old cluster.
    """
    before = {name: cluster for cluster, shape in old.items() for name in shape.members}
    after = {name: cluster for cluster, shape in new.items() for name in shape.members}
    grown = {cluster for cluster, shape in new.items() if len({before.get(name, name) for name in shape.members}) > 1}
    found: list[Merged | Split | WinnerChanged] = [
        _split(cluster, shape, new, gone, rebuilt=rebuilt)
        for cluster, shape in sorted(old.items())
        if {after.get(name) for name in shape.members} not in [{cluster}, *({target} for target in grown)]
    ]
    for cluster, shape in sorted(new.items()):
        if cluster in grown:
            found.append(_merged(cluster, shape, old, before, rebuilt=rebuilt))
        if cluster in old and old[cluster].winner != shape.winner:
            previous = old[cluster].winner
            found.append({"cluster": cluster, "winner": shape.winner, "previous": previous, "rebuilt": rebuilt})
    return found


def _split(cluster: str, shape: Shape, new: Mapping[str, Shape], gone: Sequence[str], *, rebuilt: bool) -> Split:
    after = {name: part for part, other in new.items() for name in other.members}
    parts: dict[str, list[str]] = {}
    alone: list[Part] = []
    for name in shape.members:
        if name in gone:
            continue
        if name in after:
            parts.setdefault(after[name], []).append(name)
        else:
            alone.append({"cluster": None, "winner": None, "members": [name]})
    kept: list[Part] = [
        {"cluster": part, "winner": new[part].winner, "members": members} for part, members in sorted(parts.items())
    ]
    lost = [name for name in shape.members if name in gone]
    return {"cluster": cluster, "parts": kept + alone, "gone": lost, "rebuilt": rebuilt}


def _merged(
    cluster: str, shape: Shape, old: Mapping[str, Shape], before: Mapping[str, str], *, rebuilt: bool
) -> Merged:
    was = set(old[cluster].members) if cluster in old else set()
    return {
        "cluster": cluster,
        "winner": shape.winner,
        "members": list(shape.members),
        "joined": [name for name in shape.members if name not in was],
        "absorbed": sorted({before[name] for name in shape.members if name in before} - {cluster}),
        "links": [{"a": edge.a, "b": edge.b, "score": edge.score} for edge in shape.tree],
        "sources": "same" if len({source_of(name) for name in shape.members}) == 1 else "several",
        "rebuilt": rebuilt,
    }

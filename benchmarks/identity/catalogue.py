"""Which data sets there are, what each one was used for, the goals, and what others have published on them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from benchmarks.identity import sets
from handlers.dedupe import DedupeSettings
from handlers.dedupe.settings import Vetoes
from worker.events import Customer

Use = Literal["tuning", "run before", "reporting"]

DEFAULT = DedupeSettings()
# For sources that check an identifier when they take it: then one in common is not that of the husband or wife.
VERIFIED = DedupeSettings(vetoes=Vetoes(borrowed=False))
# For who would rather keep one person in two records than merge twins of age who live together.
TWINS = DedupeSettings(vetoes=Vetoes(grown_up=200))
# For FEBRL4, whose two files have the same people, each of them once, as its linkages with one match each assume.
FILES = DedupeSettings(one_to_one=(("dataset4a", "dataset4b"),))
# Whoever is in the census is known to social security, noise aside. Taxes know two thirds of them.
SAME = DedupeSettings(one_to_one=(("census", "ssa"),))
NOT_THE_SAME = DedupeSettings(one_to_one=(("census", "tax1040"),))


@dataclass(frozen=True)
class Goal:
    """What is to be reached at least."""

    precision: float = 0.0
    recall: float = 0.0
    f1: float = 0.0


@dataclass(frozen=True)
class DataSet:
    """A set: `use` says whether rules and weights were chosen by it, or its figures were known when they were."""

    name: str
    use: Use
    read: Callable[[Path], Iterator[tuple[str, Customer]]]
    settings: DedupeSettings = DEFAULT
    goal: Goal = Goal()


@dataclass(frozen=True)
class Published:
    """A figure of others, as they published it or as it was measured with their code."""

    data: str
    who: str
    precision: float | None
    recall: float | None
    f1: float


def _febrl(name: str, _: Path) -> Iterator[tuple[str, Customer]]:
    return sets.febrl(name)


def _rldata(name: str, folder: Path) -> Iterator[tuple[str, Customer]]:
    return sets.rldata(name, folder / "rldata")


def _pseudopeople(
    seed: int, folder: Path, *, postcodes: bool = False, middle: bool = True
) -> Iterator[tuple[str, Customer]]:
    for person, customer in sets.pseudopeople(folder / f"pseudopeople-{seed}", overlay=True, postcodes=postcodes):
        if customer["name"] is not None and not middle:
            customer["name"]["middle"] = None
        yield person, customer


_FEBRL3 = Goal(precision=0.9995, f1=0.997)
_FEBRL4 = Goal(precision=0.9995, f1=0.999)
_PEOPLE = Goal(precision=0.9995, recall=0.95)


def _people(use: Use, seeds: Sequence[int], *, postcodes: bool = False) -> list[DataSet]:
    """Return the sets of pseudopeople with the defaults and their goal, one for each draw of the noise."""
    more = ", postcodes" if postcodes else ""
    return [
        DataSet(f"pseudopeople-{seed}{more}", use, partial(_pseudopeople, seed, postcodes=postcodes), goal=_PEOPLE)
        for seed in seeds
    ]


CATALOGUE = (
    DataSet("FEBRL1", "tuning", partial(_febrl, "FEBRL1")),
    DataSet("FEBRL2", "tuning", partial(_febrl, "FEBRL2")),
    DataSet("FEBRL3", "tuning", partial(_febrl, "FEBRL3"), goal=_FEBRL3),
    DataSet("FEBRL4", "tuning", partial(_febrl, "FEBRL4"), goal=_FEBRL4),
    DataSet("FEBRL3, ids verified", "tuning", partial(_febrl, "FEBRL3"), VERIFIED, _FEBRL3),
    DataSet("FEBRL4, ids verified", "tuning", partial(_febrl, "FEBRL4"), VERIFIED, _FEBRL4),
    DataSet("FEBRL4, one to one", "tuning", partial(_febrl, "FEBRL4"), FILES, _FEBRL4),
    DataSet("RLdata500", "tuning", partial(_rldata, "RLdata500")),
    *_people("tuning", (101, 202, 505, 606)),
    *_people("tuning", (101, 202, 505, 606), postcodes=True),
    # What a setting, and data without middle names, cost: no goals.
    DataSet("FEBRL3, grown_up 200", "tuning", partial(_febrl, "FEBRL3"), TWINS),
    DataSet("FEBRL4, grown_up 200", "tuning", partial(_febrl, "FEBRL4"), TWINS),
    DataSet("pseudopeople-101, ids verified", "tuning", partial(_pseudopeople, 101), VERIFIED),
    DataSet(
        "pseudopeople-101, postcodes, no middle names",
        "tuning",
        partial(_pseudopeople, 101, postcodes=True, middle=False),
    ),
    DataSet(
        "pseudopeople-101, postcodes, no middle names, grown_up 200",
        "tuning",
        partial(_pseudopeople, 101, postcodes=True, middle=False),
        TWINS,
    ),
    DataSet("pseudopeople-101, census and ssa one to one", "tuning", partial(_pseudopeople, 101), SAME),
    DataSet("pseudopeople-101, census and taxes one to one", "tuning", partial(_pseudopeople, 101), NOT_THE_SAME),
    DataSet("RLdata10000", "run before", partial(_rldata, "RLdata10000")),
    *_people("run before", (303, 404, 707, 808, 909, 1010)),
    *_people("run before", (707, 808, 909, 1010), postcodes=True),
    *_people("reporting", (1111, 1212)),
    *_people("reporting", (1111, 1212), postcodes=True),
    DataSet("pseudopeople-707, census and ssa one to one", "run before", partial(_pseudopeople, 707), SAME),
)

PUBLISHED = (
    Published("FEBRL3", "GoldenMatch (its bake-off page)", 1.000, 0.982, 0.991),
    Published("FEBRL3", "GoldenMatch (the page's refreshed figure)", None, None, 0.996),
    Published("FEBRL3", "Splink, tuned by hand (the same page: a competitor's harness)", 0.998, 0.935, 0.965),
    Published("FEBRL3", "recordlinkage, its deterministic example (re-run)", 0.997, 0.949, 0.973),
    Published("FEBRL4", "recordlinkage, its deterministic example (re-run)", None, None, 0.989),
)

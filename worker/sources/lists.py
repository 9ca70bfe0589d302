"""Lists as servers give them: pages that may lead in a circle, and lists whose order means nothing.

Pure, and bounded in memory: the trail of a paging of any length is four small values in its cursor.
"""

import hashlib
from collections.abc import Iterable
from typing import Any, Final

from worker.errors import MalformedPageError
from worker.sources.reading import malformed

# [hash of the last place, of a place passed before, steps since that, steps after which another is remembered instead]
Trail = list[Any]

_DIGEST_BYTES: Final = 8
_SCALARS: Final = (str, int, float, bool)


def follow(trail: Trail | None, place: str, doing: str) -> Trail:
    """Return the trail of a paging that goes on at `place` (None: it begins there).

    Raises MalformedPageError where the paging has been at `place` before: it would go round for ever. Beside the last
    place, one is remembered at a time, for twice as many steps as the one before (Brent's cycle detection), so that any
    circle is found within three times the pages that it takes to come into it and go round it once.
    """
    digest = hashlib.blake2b(place.encode(), digest_size=_DIGEST_BYTES).hexdigest()
    last, passed, steps, most = trail or ("", "", 0, 1)
    if digest in {last, passed}:
        raise _circle(doing)
    steps += 1
    return [digest, digest, 0, most * 2] if steps >= most else [digest, passed, steps, most]


def _circle(doing: str) -> MalformedPageError:
    return malformed(doing, "the cursor repeats: the API leads in a circle, and the listing would never end")


def twice(came: int, kept: int) -> str | None:
    """Return what to tell the operator where `came` entries of a page were `kept` customers, None if as many."""
    return f"{came - kept} entries of a page stood there twice; each was taken once" if came > kept else None


def in_order(values: object) -> Any:
    """Return a list sorted by what is in it, so that it is the same in whatever order it came; anything else as it is.

    Objects are told apart by their plain fields (text, numbers), which is where their ids are.
    """
    return sorted(values, key=_place) if isinstance(values, list) and len(values) > 1 else values


def _place(value: object) -> list[tuple[str, str]]:
    fields: Iterable[tuple[str, Any]] = value.items() if isinstance(value, dict) else (("", value),)
    return sorted((name, str(field)) for name, field in fields if isinstance(field, _SCALARS))

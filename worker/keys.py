"""Under which keys a poll task keeps what it knows; whoever reads its state elsewhere looks there, too."""

from typing import Final

CHECKPOINTS: Final = b"s/"
ENTRIES: Final = b"c/"
JOBS: Final = b"j/"
ORDERS: Final = b"o/"  # what the first records of a long order came to (`control`)


class Keys:
    """Where what is known of one source stands: under two keys, and under keys that start alike and end in an id.

    checkpoint   how far it was read
    job          that it is being taken off (`leaving`)
    entries      an entry of `changes` for each customer ever seen
    aside        what is set aside (`detection`)
    listed       who is on its watch list, `fresh` who of them was not looked up yet (`watch`)
    """

    def __init__(self, source: str) -> None:
        """Of the source of that name."""
        name = source.encode()
        self.checkpoint = CHECKPOINTS + name
        self.job = JOBS + name
        self.entries = b"%s%s/" % (ENTRIES, name)
        self.aside = b"b/%s/" % name
        self.listed = b"w/%s/" % name
        self.fresh = b"n/%s/" % name

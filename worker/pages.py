"""Whether LMDB can walk a file without meeting a page that is not what it has to be.

LMDB trusts its file: over a damaged page its own assertions end the whole process, and with it every other task of the
worker, before anybody can throw the store away. So the pages are walked here first, from the roots down, as `mdb.c` of
LMDB 0.9 lays them out: a page has its own number, is of its kind and at its depth, and its nodes lie within it. What
the values hold is not checked.
"""

import mmap
import struct
from pathlib import Path
from typing import Final

_META: Final = struct.Struct("<QHH4xIIQQ")  # MDB_page's header, then MDB_meta: magic, version, address, map size
_DB: Final = struct.Struct("<IHHQQQQQ")  # MDB_db: pad, flags, depth, pages of three kinds, entries, root
_LAST: Final = struct.Struct("<QQ")  # the last page, the transaction
_NUMBER: Final = struct.Struct("<Q")
_HEADER: Final = struct.Struct("<QHHHH")  # page number, pad, flags, lower, upper
_MAGIC: Final = 0xBEEFC0DE
_BRANCH, _LEAF, _OVERFLOW, _IS_META = 1, 2, 4, 8
_BIG, _SUB = 1, 2  # flags of a node: its data is on pages of their own; it is a database
_NONE: Final = 2**64 - 1
_HEAD: Final = 16
_NODE: Final = 8


class _DamagedError(Exception):
    """A page is not what it has to be."""


def sound(file: Path) -> bool:
    """Return whether every page of an LMDB file that can be reached is what it has to be; raises OSError.

    It takes some microseconds a page, and reads them all.
    """
    try:
        with (
            file.open("rb") as opened,
            mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
            memoryview(mapped) as view,
            view.cast("H") as words,
        ):
            _Walk(view, words).everything()
    except (_DamagedError, struct.error, IndexError, ValueError, TypeError):
        return False
    return True


class _Walk:
    """One walk over a file."""

    def __init__(self, view: memoryview, words: memoryview) -> None:
        """`words` is the same in halves of 32 bits."""
        self._view = view
        self._words = words
        self._left = 0
        self._size = 0

    def everything(self) -> None:
        """Walk from both roots of the newer of the two meta pages."""
        first = _DB.unpack_from(self._view, _META.size)
        self._size = first[0]  # the page size stands where the free list has no use for its field
        newest, at = max((self._meta(number), number * self._size) for number in (0, 1))
        self._left = newest[1] + 1
        for place in (0, 1):
            self._tree(at + _META.size + place * _DB.size)

    def _meta(self, number: int) -> tuple[int, int]:
        """Return (transaction, last page) of a meta page."""
        at = number * self._size
        own, _, flags, magic, *_ = _META.unpack_from(self._view, at)
        if (own, flags & 0xF, magic) != (number, _IS_META, _MAGIC):
            raise _DamagedError
        last, transaction = _LAST.unpack_from(self._view, at + _META.size + 2 * _DB.size)
        return transaction, last

    def _tree(self, at: int) -> None:
        """Walk the database whose record stands at `at`."""
        _, _, depth, _, _, overflow, _, root = _DB.unpack_from(self._view, at)
        if root == _NONE:
            return
        level = [root]
        for _ in range(depth - 1):
            level = [child for page in level for child in self._children(page)]
        # The nodes of a leaf are of interest where they lead to other pages: to large values, or to databases.
        leaf = self._leaf if overflow or at % self._size < _META.size + 2 * _DB.size else self._plain_leaf
        for page in level:
            leaf(page)

    def _head(self, page: int, kind: int) -> tuple[int, int]:
        """Return where a page's list of nodes ends, and where its nodes begin."""
        self._left -= 1
        own, _, flags, lower, upper = _HEADER.unpack_from(self._view, page * self._size)
        if own != page or flags & 0xF != kind or self._left < 0 or not _HEAD <= lower <= upper <= self._size:
            raise _DamagedError
        return lower, upper

    def _plain_leaf(self, page: int) -> None:
        self._head(page, _LEAF)

    def _nodes(self, page: int, kind: int) -> list[int]:
        """Return where the nodes of a page lie, in bytes from the page's start."""
        lower, upper = self._head(page, kind)
        base = page * self._size // 2
        nodes: list[int] = self._words[base + _HEAD // 2 : base + lower // 2].tolist()
        if nodes and not (upper <= min(nodes) and max(nodes) <= self._size - _NODE):
            raise _DamagedError
        return nodes

    def _children(self, page: int) -> list[int]:
        words, base = self._words, page * self._size // 2
        nodes = [base + node // 2 for node in self._nodes(page, _BRANCH)]
        return [words[at] | words[at + 1] << 16 | words[at + 2] << 32 for at in nodes]

    def _leaf(self, page: int) -> None:
        words, base = self._words, page * self._size // 2
        nodes = self._nodes(page, _LEAF)
        for node in [node for node in nodes if words[base + node // 2 + 2]]:
            flags, key = words[base + node // 2 + 2], words[base + node // 2 + 3]
            data = page * self._size + node + _NODE + key
            if flags & _BIG:
                self._overflow(*_NUMBER.unpack_from(self._view, data))
            elif flags & _SUB:
                self._tree(data)

    def _overflow(self, page: int) -> None:
        own, _, flags, low, high = _HEADER.unpack_from(self._view, page * self._size)
        self._left -= low | high << 16
        if own != page or flags & 0xF != _OVERFLOW or self._left < 0:
            raise _DamagedError

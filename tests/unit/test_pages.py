"""A damaged LMDB file is known before LMDB walks it, and a sound one is never taken for damaged."""

import random
from pathlib import Path

import lmdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.pages import sound

PAGE = 4096


def filled(folder: Path, seed: int, count: int, *, large: bool = False) -> Path:
    """Write and delete at random, in several transactions and databases; return the file."""
    chance = random.Random(seed)
    env = lmdb.open(str(folder), max_dbs=3, map_size=2**30, sync=False)
    databases = [env.open_db(name) for name in (b"data", b"info", b"scratch")]
    for _ in range(4):
        with env.begin(write=True) as txn:
            for _ in range(count):
                key, database = b"%d" % chance.randrange(count * 2), chance.choice(databases[:2])
                if chance.random() < 0.3:
                    txn.delete(key, db=database)
                else:
                    txn.put(key, chance.randbytes(chance.choice((1, 50, 9000 if large else 300))), db=database)
    env.close()
    return folder / "data.mdb"


def content(folder: Path) -> list[list[tuple[bytes, bytes]]]:
    """Read everything."""
    env = lmdb.open(str(folder), max_dbs=3, readonly=True, lock=False)
    try:
        with env.begin() as txn:
            databases = [env.open_db(name, txn=txn, create=False) for name in (b"data", b"info", b"scratch")]
            return [list(txn.cursor(database)) for database in databases]
    finally:
        env.close()


@settings(max_examples=25)
@given(seed=st.integers(0, 2**20), count=st.integers(0, 2000), large=st.booleans())
def test_what_lmdb_has_written_is_sound(
    tmp_path_factory: pytest.TempPathFactory, *, seed: int, count: int, large: bool
) -> None:
    """Whatever was written and deleted, in however many transactions."""
    assert sound(filled(tmp_path_factory.mktemp("sound"), seed, count, large=large))


@pytest.mark.parametrize("spoiled", [bytes(PAGE), b"\xff" * PAGE], ids=["zeroed", "ones"])
def test_a_page_that_is_spoiled_is_found_or_is_not_in_use(tmp_path: Path, spoiled: bytes) -> None:
    """Page by page: either the file is known to be damaged, or it reads as before."""
    file = filled(tmp_path, 1, 600)
    whole, before = file.read_bytes(), content(tmp_path)
    found = 0
    for at in range(0, len(whole), PAGE):
        file.write_bytes(whole[:at] + spoiled + whole[at + PAGE :])
        if sound(file):
            assert content(tmp_path) == before
        else:
            found += 1
    assert found > 10


def test_a_large_value_whose_first_page_is_lost_is_found(tmp_path: Path) -> None:
    """LMDB would give back zeros for it."""
    env = lmdb.open(str(tmp_path))
    with env.begin(write=True) as txn:
        txn.put(b"a", b"1" * 3 * PAGE)
    env.close()
    file = tmp_path / "data.mdb"
    assert sound(file)
    whole = file.read_bytes()
    at = whole.index(b"1" * 100) // PAGE * PAGE
    file.write_bytes(whole[:at] + bytes(PAGE) + whole[at + PAGE :])
    assert not sound(file)


@pytest.mark.parametrize("size", [1, PAGE, 5 * PAGE])
def test_a_file_that_was_cut_short_is_found(tmp_path: Path, size: int) -> None:
    """Pages that are not there are damaged too; so is a file that is none of LMDB's."""
    file = filled(tmp_path, 1, 600)
    file.write_bytes(file.read_bytes()[:size])
    assert not sound(file)
    file.write_bytes(random.Random(1).randbytes(10 * PAGE))
    assert not sound(file)

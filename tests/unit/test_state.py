"""The local store: a cache that tells by itself whether it may be used."""

import os
import random
import subprocess
import sys
import textwrap
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import lmdb
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker import state
from worker.errors import StateError, StoreError
from worker.state import Identity, Store, StoreTransaction

HERE = Identity("cluster", "topic")
OLD, NEW = 1_000, 2_000


def opened(path: Path, identity: Identity = HERE, *, oldest: int = OLD, map_size: int = 64 * 1024 * 1024) -> Store:
    """Open a store that is kept if its newest record is not older than `oldest`."""
    return Store(path, identity, oldest=oldest, map_size=map_size)


@contextmanager
def store(path: Path, identity: Identity = HERE, *, oldest: int = OLD) -> Generator[Store]:
    """Open a store and close it in order."""
    one = opened(path, identity, oldest=oldest)
    try:
        yield one
    finally:
        one.close()


def write(one: Store, offset: int = 5, more: Mapping[str, bytes] | None = None, **few: bytes) -> None:
    """Commit values."""
    tx = one.begin()
    for key, value in {**(more or {}), **few}.items():
        tx.put(key.encode(), value)
    one.commit(offset, NEW)


def content(one: Store) -> dict[bytes, bytes]:
    """Return all that is committed."""
    with one.reading() as view:
        return dict(view.scan(b""))


# Kept, or read anew


def test_a_store_that_was_closed_goes_on_where_it_was(tmp_path: Path) -> None:
    """Data and offset."""
    with store(tmp_path / "s") as one:
        assert one.wiped == "it is new"
        assert one.offset == 0
        write(one, 7, a=b"1")
    with store(tmp_path / "s") as one:
        assert one.wiped is None
        assert one.offset == 7
        assert content(one) == {b"a": b"1"}
        assert one.entries() == 1


@pytest.mark.parametrize(
    ("identity", "oldest", "reason"),
    [
        (Identity("another", "topic"), OLD, "cluster_id"),
        (Identity("cluster", "another"), OLD, "topic_id"),
        (HERE, NEW + 1, "older than the changelog remembers"),
    ],
)
def test_a_store_of_something_else_is_read_anew(tmp_path: Path, identity: Identity, oldest: int, reason: str) -> None:
    """Another cluster, a topic made anew, or one that slept too long; and its successor is kept."""
    with store(tmp_path / "s") as one:
        write(one, a=b"1")
    with store(tmp_path / "s", identity, oldest=oldest) as one:
        assert reason in (one.wiped or "")
        assert (one.offset, content(one)) == (0, {})
        write(one, b=b"2")
    with store(tmp_path / "s", identity) as one:
        assert one.wiped is None


def killed(path: Path) -> None:
    """Leave a store open, as a process does that is killed: its files stay as they are."""
    one = opened(path)
    write(one, 7, a=b"1")
    one._env.close()


def test_a_killed_process_loses_nothing(tmp_path: Path) -> None:
    """What was committed is in the machine's memory, if not on its disk."""
    killed(tmp_path / "s")
    with store(tmp_path / "s") as one:
        assert one.wiped is None
        assert (one.offset, content(one)) == (7, {b"a": b"1"})


def of_another_boot(path: Path) -> None:
    """Make it look as if the machine had gone down since the store in `path` was opened."""
    marker = path / "open"
    marker.write_bytes(orjson.dumps(orjson.loads(marker.read_bytes()) | {"boot": "another boot"}))


def test_a_store_that_was_open_when_the_machine_went_down_is_read_anew(tmp_path: Path) -> None:
    """LMDB writes without flushing: nobody knows what of it reached the disk."""
    killed(tmp_path / "s")
    of_another_boot(tmp_path / "s")
    with store(tmp_path / "s") as one:
        assert one.wiped == "the machine went down with it open"


def test_what_lmdb_itself_says_is_not_believed_after_the_machine_went_down(tmp_path: Path) -> None:
    """The page that said `closed` may be the last that reached the disk, though others were overwritten since."""
    path = tmp_path / "s"
    with store(path) as one:
        write(one, 7, a=b"1")
    closed = (path / "data.mdb").read_bytes()
    killed(path)
    (path / "data.mdb").write_bytes(closed)
    of_another_boot(path)
    with store(path) as one:
        assert one.wiped == "the machine went down with it open"


def test_a_store_that_was_closed_survives_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Closing flushes."""
    with store(tmp_path / "s") as one:
        write(one, a=b"1")
    monkeypatch.setattr(state, "boot_id", lambda: "another boot")
    with store(tmp_path / "s") as one:
        assert one.wiped is None


def test_a_store_over_which_processes_die_is_read_anew(tmp_path: Path) -> None:
    """After three in a row; closing it in order starts the count anew."""
    for _ in range(3):
        killed(tmp_path / "s")
    with store(tmp_path / "s") as one:
        assert one.wiped == "it was opened 3 times without being closed"
        write(one, a=b"1")
    killed(tmp_path / "s")
    killed(tmp_path / "s")
    with store(tmp_path / "s") as one:
        assert one.wiped is None


@pytest.mark.parametrize("left", [b"", b"\xff\xfe", b"{}", b'{"openings": "many"}', b"[1]"])
def test_a_mark_that_cannot_be_read_means_that_the_store_is_not_trusted(tmp_path: Path, left: bytes) -> None:
    """The process may have been killed while it wrote it."""
    killed(tmp_path / "s")
    (tmp_path / "s" / "open").write_bytes(left)
    with store(tmp_path / "s") as one:
        assert one.wiped == "nobody knows how it was left"


@pytest.mark.parametrize("keep", [0, 100, 5_000, 20_000])
def test_a_file_that_was_cut_short_is_read_anew(tmp_path: Path, keep: int) -> None:
    """Also within LMDB's own first pages."""
    with store(tmp_path / "s") as one:
        write(one, more={f"key{number}": bytes(500) for number in range(100)})
    data = tmp_path / "s" / "data.mdb"
    os.truncate(data, keep)
    with store(tmp_path / "s") as one:
        assert one.wiped is not None
        assert content(one) == {}


def test_a_store_whose_own_record_is_garbage_is_read_anew(tmp_path: Path) -> None:
    """Whatever stands there instead."""
    for garbage in (b"", b"\xff", b"[]", b"{}", b'{"cluster_id": "cluster", "topic_id": "topic", "newest": "x"}'):
        with store(tmp_path / "s") as one:
            write(one, a=b"1")
        env = lmdb.open(str(tmp_path / "s"), max_dbs=3, map_size=2**26)
        with env.begin(write=True) as txn:
            txn.put(b"meta", garbage, db=env.open_db(b"info", txn))
        env.close()
        with store(tmp_path / "s") as one:
            assert one.wiped is not None
            assert content(one) == {}


CHILD = textwrap.dedent("""
    import sys
    from pathlib import Path
    from worker.errors import StateError
    from worker.state import Identity, Store

    store = Store(Path(sys.argv[1]), Identity("cluster", "topic"), oldest=0, map_size=2**26)
    try:
        with store.reading() as view:
            found = sum(1 for _ in view.scan(b""))
        store.apply(((b"key%d" % number, b"new") for number in range(0, 2000, 7)), 9, 2000)
    except StateError:
        store.close()
        sys.exit(3)
    print(store.wiped, found)
    store.close()
""")


def damage(path: Path, chance: random.Random) -> None:
    """Write random bytes over some of the pages of a store."""
    with path.open("r+b") as file:
        pages = path.stat().st_size // 4096
        for page in chance.sample(range(pages), chance.randint(1, pages)):
            file.seek(page * 4096)
            file.write(chance.randbytes(4096))


@pytest.mark.parametrize("seed", range(6))
def test_a_damaged_file_costs_no_process(tmp_path: Path, seed: int) -> None:
    """LMDB would crash over it, and take every other task with it: the damage is known before LMDB meets it."""
    path = tmp_path / "s"
    with store(path) as one:
        write(one, more={f"key{number}": b"x" * 50 for number in range(2000)})
    damage(path / "data.mdb", random.Random(seed))
    child = subprocess.run(
        [sys.executable, "-c", CHILD, str(path)], capture_output=True, text=True, check=False, timeout=60
    )
    assert child.returncode == 0, child.stderr


def test_a_key_that_is_too_long_is_no_damage(tmp_path: Path) -> None:
    """It is the fault of the record that it came from, and is told apart."""
    with store(tmp_path / "s") as one:
        write(one, a=b"1")
        with pytest.raises(lmdb.BadValsizeError), one.guarded():
            one.begin().put(b"x" * 600, b"1")
        one.abort()
    with store(tmp_path / "s") as one:
        assert one.wiped is None


def test_a_store_that_is_distrusted_is_read_anew(tmp_path: Path) -> None:
    """Though it was closed in order."""
    with store(tmp_path / "s") as one:
        write(one, a=b"1")
        one.distrust()
    with store(tmp_path / "s") as one:
        assert one.wiped == "it could not be read or written"
        write(one, a=b"1")
    with store(tmp_path / "s") as one:
        assert one.wiped is None


def test_an_error_of_lmdb_in_a_transaction_is_remembered(tmp_path: Path) -> None:
    """A damaged file is read anew, and not opened again and again; nobody takes it for a fault of the record's."""

    def work(one: Store) -> None:
        with one.guarded():
            one.begin()
            raise lmdb.CorruptedError("a page that cannot be")

    with store(tmp_path / "s") as one:
        write(one, a=b"1")
        with pytest.raises(StoreError, match="CorruptedError"):
            work(one)
    with store(tmp_path / "s") as one:
        assert one.wiped == "it could not be read or written"


# Transactions


def test_a_transaction_sees_its_own_writes_and_nobody_else_does(tmp_path: Path) -> None:
    """Before it is committed; afterwards everybody does."""
    with store(tmp_path / "s") as one:
        write(one, a=b"1", b=b"2")
        tx = one.begin()
        tx.put(b"c", b"3")
        tx.put(b"a", b"9")
        tx.delete(b"b")
        assert dict(tx.scan(b"")) == {b"a": b"9", b"c": b"3"}
        assert tx.get(b"b") is None
        assert content(one) == {b"a": b"1", b"b": b"2"}
        one.commit(9, NEW)
        assert content(one) == {b"a": b"9", b"c": b"3"}
        assert one.offset == 9


def test_an_abort_leaves_nothing(tmp_path: Path) -> None:
    """Neither data nor marks, and the offset stays; aborting twice is harmless."""
    with store(tmp_path / "s") as one:
        write(one, 7, a=b"1")
        tx = one.begin()
        tx.put(b"b", b"2")
        tx.mark(b"m")
        one.abort()
        one.abort()
        assert (one.offset, content(one)) == (7, {b"a": b"1"})
        with one.reading() as view:
            assert not view.marked(b"m")


def test_one_transaction_at_a_time(tmp_path: Path) -> None:
    """And none may be committed that was not begun."""
    with store(tmp_path / "s") as one:
        one.begin()
        with pytest.raises(RuntimeError, match="open already"):
            one.begin()
        one.abort()
        with pytest.raises(RuntimeError, match="no transaction"):
            one.commit(1, NEW)


def test_a_view_that_somebody_still_refers_to_is_over(tmp_path: Path) -> None:
    """It takes none of the few places of readers: a coroutine's frame may keep it for as long as a source is ours."""
    with store(tmp_path / "s") as one:
        kept = []
        for _ in range(40):
            with one.reading() as view:
                assert view.get(b"a") is None
                kept.append(view)
        with pytest.raises(AttributeError):
            kept[0].get(b"a")


def test_closing_drops_an_open_transaction(tmp_path: Path) -> None:
    """Kafka's commit has not succeeded then."""
    one = opened(tmp_path / "s")
    write(one, 7, a=b"1")
    one.begin().put(b"b", b"2")
    one.close()
    with store(tmp_path / "s") as one:
        assert (one.wiped, one.offset, content(one)) == (None, 7, {b"a": b"1"})


def test_changes_are_what_the_changelog_has_to_hold(tmp_path: Path) -> None:
    """The last value by key, None for what was there and is not; marks never."""
    with store(tmp_path / "s") as one:
        write(one, a=b"1", b=b"2")
        tx = one.begin()
        tx.put(b"c", b"3")
        tx.put(b"c", b"4")
        tx.delete(b"a")
        tx.delete(b"never there")
        tx.mark(b"m")
        assert tx.changes == {b"c": b"4", b"a": None}


keys = st.binary(min_size=1, max_size=4)
writes = st.lists(st.tuples(keys, st.none() | st.binary(max_size=4)), max_size=30)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """One store for many examples: opening one flushes the disk."""
    with store(tmp_path_factory.mktemp("shared") / "s") as one:
        yield one


@given(before=writes, during=writes, prefix=keys | st.just(b""), start=st.none() | keys)
def test_a_scan_is_in_byte_order_from_its_start_under_its_prefix(
    shared: Store,
    before: list[tuple[bytes, bytes | None]],
    during: list[tuple[bytes, bytes | None]],
    prefix: bytes,
    start: bytes | None,
) -> None:
    """Also of what the open transaction has written and deleted, as a plain dictionary has it."""
    shared.apply([*((key, None) for key in content(shared)), *before], 5, NEW)
    expected = {key: value for key, value in dict(before).items() if value is not None}
    tx = shared.begin()
    for key, value in during:
        expected.pop(key, None)
        if value is None:
            tx.delete(key)
        else:
            tx.put(key, value)
            expected[key] = value
    low = max(prefix, start or prefix)
    found = list(tx.scan(prefix, start))
    shared.abort()
    assert found == sorted((k, v) for k, v in expected.items() if k.startswith(prefix) and k >= low)


def test_marks_are_set_once_and_removed_by_prefix(tmp_path: Path) -> None:
    """They outlive a transaction and are no part of the data."""
    with store(tmp_path / "s") as one:
        tx = one.begin()
        assert tx.mark(b"a/1")
        assert not tx.mark(b"a/1")
        assert tx.mark(b"a/2")
        assert tx.mark(b"b/1")
        one.commit(0, NEW)
        tx = one.begin()
        tx.unmark(b"a/")
        tx.unmark(b"zzz/")
        assert [tx.marked(key) for key in (b"a/1", b"a/2", b"b/1")] == [False, False, True]
        assert list(tx.scan(b"")) == []


def test_the_changelog_is_applied_with_its_offset(tmp_path: Path) -> None:
    """A null value deletes, also what was never there."""
    with store(tmp_path / "s") as one:
        one.apply([(b"a", b"1"), (b"b", b""), (b"a", None), (b"c", None)], 12, NEW)
        assert (one.offset, content(one)) == (12, {b"b": b""})


def values(count: int) -> Iterator[tuple[bytes, bytes]]:
    """Return keys and values of 2 kB each."""
    return ((b"%d" % number, bytes(2000)) for number in range(count))


def fill(tx: StoreTransaction) -> None:
    """Write more than the small store of the next tests can take."""
    for key, value in values(1000):
        tx.put(key, value)


def test_a_full_disk_says_so_while_the_changelog_is_read(tmp_path: Path) -> None:
    """The store is read anew when it is opened next."""
    one = opened(tmp_path / "s", map_size=256 * 1024)
    with pytest.raises(StateError, match="cannot be written"):
        one.apply(values(1000), 9, NEW)
    one.close()
    with store(tmp_path / "s") as one:
        assert one.wiped == "it could not be read or written"


def test_a_full_disk_says_so_at_the_commit(tmp_path: Path) -> None:
    """Nothing hangs on the transaction that failed."""
    one = opened(tmp_path / "s", map_size=256 * 1024)
    tx = one.begin()
    with pytest.raises(lmdb.MapFullError):
        fill(tx)
    with pytest.raises(StateError, match="cannot be written"):
        one.commit(9, NEW)
    assert content(one) == {}
    one.close()
    with store(tmp_path / "s") as one:
        assert one.wiped == "it could not be read or written"


# Slots


def test_two_workers_on_one_machine_have_a_slot_each(tmp_path: Path) -> None:
    """And a restarted one finds its slot again."""
    first, lock = state.claim(tmp_path)
    code = "import sys; from pathlib import Path; from worker import state; print(state.claim(Path(sys.argv[1]))[0])"
    command = [sys.executable, "-c", code, str(tmp_path)]
    second = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()
    assert (first.name, Path(second).name) == ("slot-0", "slot-1")
    lock.close()
    again, lock = state.claim(tmp_path)
    assert again == first
    lock.close()


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    """With the setting that says where it is."""
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StateError, match="Set state_dir"):
        state.claim(tmp_path / "file")


def test_a_file_system_without_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not taken for one whose slots are all in use."""

    def refuse(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(StateError, match="No locks available"):
        state.claim(tmp_path)

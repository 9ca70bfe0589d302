"""The local store of one task: an LMDB environment that holds the data and the changelog offset it corresponds to.

The disk is a cache of the changelog topic; Kafka is the truth. A store tells by itself whether it may be used: it holds
the ids of the cluster and of the topic and the time of the newest record in it, and while it is open a file beside it
says so (LMDB writes without flushing, which survives the process but not the machine). Its pages are walked before it
is used, since LMDB may crash the process over a damaged one. If anything is wrong it is wiped and read anew from the
changelog. Data and offset move in one LMDB transaction, so it is never between two offsets.

Guarantee: the writes of an open transaction are seen by its own reads and by nobody else, and they reach the store only
by `commit`, which is called after Kafka's commit has succeeded.
"""

import fcntl
import os
import shutil
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Final, cast

import lmdb
import orjson

from worker import pages
from worker.errors import StateError, StoreError

MAP_SIZE: Final = 64 * 1024**3
_META: Final = b"meta"
_OPEN: Final = "open"
_MAX_OPENINGS: Final = 3
_UNREADABLE: Final = "what it says of itself cannot be read"


@dataclass(frozen=True, slots=True)
class Identity:
    """What a store's content depends on: another value of any of these, and it is worth nothing."""

    cluster_id: str
    topic_id: str


def boot_id() -> str:
    """Return the id of the machine's present boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def claim(state_dir: Path) -> tuple[Path, IO[str]]:
    """Return a folder under `state_dir` that belongs to this process as long as the returned file stays open.

    Several workers on one machine may share a `state_dir`; each has a slot of its own, and a restarted worker finds its
    old slot free again. Raises StateError where the folder cannot be written.
    """
    for slot in range(1024):
        folder = state_dir / f"slot-{slot}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = (folder / "lock").open("a", encoding="ascii")
        except OSError as error:
            message = f"the state folder {state_dir} cannot be used: {error.strerror}"
            raise StateError(message, hint="Set state_dir to a folder that this user may write to.") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            continue
        except OSError as error:
            lock.close()
            message = f"the state folder {state_dir} cannot be used: {error.strerror}"
            raise StateError(message, hint="Set state_dir to a folder on a local file system.") from error
        return folder, lock
    raise StateError(f"all 1024 slots of the state folder {state_dir} are taken")


class Store:
    """The store of one task. Not to be shared between threads; at most one transaction is open at a time."""

    def __init__(self, path: Path, identity: Identity, *, oldest: int, map_size: int = MAP_SIZE) -> None:
        """Open the store in folder `path`, wiping it where it is of no use.

        `oldest`: a store whose newest record is older (ms since the epoch) is wiped, since the changelog may have
        forgotten tombstones that it never saw. `wiped` says why it was, None if it was not.
        """
        self.path = path
        self.identity = identity
        self.wiped: str | None = None
        self._map_size = map_size
        self._txn: lmdb.Transaction | None = None
        self._trusted = True
        reason = self._open()
        if reason is None:
            reason = self._unusable(oldest)
        if reason is not None:
            self._wipe(reason)

    def _open(self) -> str | None:
        """Open the environment; return why what is on disk cannot be used, None if it opened."""
        self.path.mkdir(parents=True, exist_ok=True)
        data = self.path / "data.mdb"
        reason = self._announce()
        if reason is not None and data.exists():
            return reason
        try:
            self._env = lmdb.open(
                str(self.path),
                map_size=self._map_size,
                max_dbs=3,
                sync=False,
                metasync=False,
                readahead=False,
                max_readers=16,
            )
            if data.stat().st_size < (self._env.info()["last_pgno"] + 1) * self._env.stat()["psize"]:
                return "its file is cut short"
            if not pages.sound(data):
                return "a page of its file is damaged"
            self._data = self._env.open_db(b"data")
            self._scratch = self._env.open_db(b"scratch")
            self._info = self._env.open_db(b"info")
            with self._env.begin() as txn:
                found = txn.get(_META, db=self._info)
            said = orjson.loads(found) if found is not None else {}
            if not isinstance(said, dict):
                return _UNREADABLE
            self._meta: dict[str, Any] = said
        except (lmdb.Error, orjson.JSONDecodeError) as error:
            return f"it cannot be read ({type(error).__name__})"
        return None

    def _announce(self) -> str | None:
        """Say on the disk that the store is open; return why it cannot be used as it was left, None if it can.

        The word stands there before LMDB writes anything, and goes when LMDB has flushed everything: what LMDB itself
        says after a crash of the machine may be older than the pages it speaks of.
        """
        marker, boot = self.path / _OPEN, boot_id()
        openings, reason = 0, None
        try:
            left = orjson.loads(marker.read_bytes())
            openings = int(left["openings"])
            if left["boot"] != boot:
                reason = "the machine went down with it open"
            elif openings >= _MAX_OPENINGS:
                reason = f"it was opened {openings} times without being closed"
            elif left["distrusted"]:
                reason = "it could not be read or written"
        except FileNotFoundError:
            pass
        except (ValueError, KeyError, TypeError):
            reason = "nobody knows how it was left"
        self._mark_open(openings + 1, distrusted=False)
        return reason

    def _mark_open(self, openings: int, *, distrusted: bool) -> None:
        word = orjson.dumps({"openings": openings, "boot": boot_id(), "distrusted": distrusted})
        with (self.path / _OPEN).open("wb") as file:
            file.write(word)
            file.flush()
            os.fsync(file.fileno())
        folder = os.open(self.path, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)

    def _unusable(self, oldest: int) -> str | None:
        meta = self._meta
        if not meta:
            return "it is new"
        try:
            for name, value in asdict(self.identity).items():
                if meta[name] != value:
                    return f"its {name} is another one"
            if int(meta["newest"]) < oldest:
                return "it is older than the changelog remembers deletions"
            int(meta["offset"])
        except (ValueError, KeyError, TypeError):
            return _UNREADABLE
        return None

    def _wipe(self, reason: str) -> None:
        self.wiped = reason
        if hasattr(self, "_env"):
            self._env.close()
        shutil.rmtree(self.path)
        again = self._open()
        if again is not None:
            message = f"a fresh store in {self.path} cannot be opened: {again}"
            raise StateError(message, hint="Is the disk full, or does it fail?")
        self._meta = asdict(self.identity) | {"offset": 0, "newest": 0}

    @property
    def offset(self) -> int:
        """Return the next changelog offset that the store has not seen."""
        return int(self._meta["offset"])

    def begin(self) -> "StoreTransaction":
        """Open the transaction; RuntimeError if one is open."""
        if self._txn is not None:
            raise RuntimeError("a transaction is open already")
        self._txn = self._env.begin(write=True, db=self._data)
        return StoreTransaction(self._txn, self._data, self._scratch)

    @contextmanager
    def reading(self) -> Generator["StoreTransaction"]:
        """Open a view of what is committed, for the block; nothing can be written through it.

        Raises StoreError where the file is damaged.
        """
        with self.guarded("read"), self._env.begin(db=self._data) as txn:
            view = StoreTransaction(txn, self._data, self._scratch)
            try:
                yield view
            finally:
                view.close()

    @contextmanager
    def guarded(self, what: str = "used") -> Generator[None]:
        """Turn LMDB's errors in the block into StoreError, and have the store read anew when it is opened next.

        A key that is too long is the fault of whoever gave it, and stays what it is.
        """
        try:
            yield
        except lmdb.BadValsizeError:
            raise
        except lmdb.Error as error:
            self.distrust()
            message = f"the store in {self.path} cannot be {what} ({type(error).__name__})"
            hint = "Is the disk full, or does it fail? The store is read anew from Kafka."
            raise StoreError(message, hint=hint) from error

    def distrust(self) -> None:
        """Have the store read anew when it is opened next, because LMDB has raised an error over it."""
        self._trusted = False

    def commit(self, offset: int, newest: int) -> None:
        """Keep what the open transaction wrote, and that the store now stands at changelog `offset`.

        `newest` is the time of the last record in it (ms since the epoch). Raises StoreError where the disk is full.
        """
        if self._txn is None:
            raise RuntimeError("no transaction is open")
        meta = self._meta | {"offset": offset, "newest": newest}
        try:
            with self.guarded("written"):
                self._txn.put(_META, orjson.dumps(meta), db=self._info)
                self._txn.commit()
        except StoreError:
            self.abort()
            raise
        self._txn = None
        self._meta = meta

    def abort(self) -> None:
        """Drop what the open transaction wrote; nothing happens if none is open."""
        if self._txn is not None:
            self._txn.abort()
            self._txn = None

    def apply(self, records: Iterable[tuple[bytes, bytes | None]], offset: int, newest: int) -> None:
        """Put records of the changelog into the store (a None value deletes), which then stands at `offset`."""
        try:
            with self.guarded("written"):
                transaction = self.begin()
                for key, value in records:
                    if value is None:
                        transaction.remove(key)
                    else:
                        transaction.write(key, value)
        except StoreError:
            self.abort()
            raise
        self.commit(offset, newest)

    def entries(self) -> int:
        """Return the number of keys."""
        with self._env.begin() as txn:
            return int(txn.stat(self._data)["entries"])

    def close(self) -> None:
        """Flush and close; an open transaction is dropped."""
        self.abort()
        try:
            self._env.sync(force=True)
        except lmdb.Error:
            self.distrust()
        self._env.close()
        if self._trusted:
            (self.path / _OPEN).unlink(missing_ok=True)
        else:
            with suppress(OSError):  # a full disk: what is left of the word is not trusted either
                self._mark_open(1, distrusted=True)


class StoreTransaction:
    """An open LMDB transaction as the state of a handler, remembering what has to go into the changelog."""

    __slots__ = ("changes", "database", "get", "remove", "scratch", "txn", "write")

    def __init__(self, txn: lmdb.Transaction, database: Any, scratch: Any) -> None:
        """Wrap `txn`; `changes` is by key what was written (None: deleted), in the order of first writing."""
        self.txn = txn
        self.database = database
        self.scratch = scratch
        self.changes: dict[bytes, bytes | None] = {}
        # Bound at once: a look-up is the most frequent thing that is done. LMDB gives bytes unless asked for views.
        self.get = cast("Callable[[bytes], bytes | None]", txn.get)
        self.write = cast("Callable[[bytes, bytes], bool]", txn.put)
        self.remove = cast("Callable[[bytes], bool]", txn.delete)

    def close(self) -> None:
        """Let go of LMDB's transaction: it takes one of few places of readers for as long as anybody refers to it."""
        del self.txn, self.get, self.write, self.remove

    def put(self, key: bytes, value: bytes) -> None:
        """Set `key`."""
        self.write(key, value)
        self.changes[key] = value

    def delete(self, key: bytes) -> None:
        """Remove `key`."""
        if self.remove(key):
            self.changes[key] = None

    def scan(self, prefix: bytes, start: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        """Yield (key, value) under `prefix` in byte order, from `start` on."""
        cursor = self.txn.cursor(self.database)  # it is closed with the generator
        if cursor.set_range(prefix if start is None or start < prefix else start):
            for key, value in cast("Iterator[tuple[bytes, bytes]]", cursor):
                if not key.startswith(prefix):
                    return
                yield key, value

    def mark(self, key: bytes) -> bool:
        """Set a mark that only this store knows (never in Kafka); return whether it was not set before."""
        return bool(self.txn.put(key, b"", overwrite=False, db=self.scratch))

    def marked(self, key: bytes) -> bool:
        """Return whether a mark is set."""
        return self.txn.get(key, db=self.scratch) is not None

    def note(self, key: bytes, value: bytes) -> None:
        """Set a note that, like a mark, only this store knows."""
        self.txn.put(key, value, db=self.scratch)

    def noted(self, key: bytes) -> bytes | None:
        """Return a note, None if there is none."""
        return cast("bytes | None", self.txn.get(key, db=self.scratch))

    def unmark(self, prefix: bytes) -> None:
        """Remove all marks and notes that start with `prefix`."""
        with self.txn.cursor(self.scratch) as cursor:
            found = cursor.set_range(prefix)
            while found and bytes(cursor.key()).startswith(prefix):
                found = cursor.delete()

"""One source's changes: what is published, what is remembered, and that the two agree."""

from collections.abc import Callable, Mapping
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.changes import Entry
from worker.checkpoint import Checkpoint
from worker.detection import Detector
from worker.errors import StateError
from worker.events import CREATED, DELETED, UPDATED, header
from worker.normalize import Normalizer
from worker.privacy import Hasher
from worker.sources import Bad, Origin, Response, Row, Stub, Tombstone, Unsure
from worker.sources.drivly import Drivly, DrivlySettings
from worker.testkit import MemoryPollTx
from worker.topics import Topics

NOW = 1_700_000_000_000
TOPICS = Topics()
HASHER = Hasher(b"pepper")
EVENTS, LATEST, DEAD = TOPICS.events, TOPICS.latest, TOPICS.deadletters
PAGE = Origin("/api/customers", 200)


def settings(**changed: Any) -> DrivlySettings:
    """Return the settings of a drivly source."""
    return DrivlySettings.model_validate({"url": "https://crm.example.com/api", "key": {"env": "KEY"}, **changed})


def detector(
    tx: MemoryPollTx | None = None, adapter: type[Drivly] = Drivly, hasher: Hasher = HASHER, **changed: Any
) -> Detector:
    """Return the detector of source `crm`, with the checkpoint that is in the state."""
    checked = settings(**changed)
    made = Detector("crm", adapter("crm", checked), checked, hasher, TOPICS)
    made.set_scope("", {"key": "secret"})
    if tx is not None:
        made.load(tx.get(made.position))
    return made


def row(number: int, given: str = "Ann", updated: int = NOW, **fields: Any) -> Row:
    """Return a drivly record."""
    return Row(
        str(number), {"id": number, "consumerFirstName": given, "consumerLastName": "Example", **fields}, updated
    )


def mark_shown(one: Detector, tx: MemoryPollTx, mark: bytes) -> None:
    """Mark whom an enumeration has shown, as is done where they are not just those who live."""
    for note in range(one.notes(tx, mark)):
        one.count(tx, mark, note)


def sent(tx: MemoryPollTx, topic: str) -> list[tuple[str, Any, dict[str, str]]]:
    """Return (key, value, headers) of what was sent to a topic."""
    return [
        (key.decode(), None if value is None else orjson.loads(value), {name: raw.decode() for name, raw in headers})
        for to, key, value, headers, _ in tx.sent
        if to == topic
    ]


def entry(tx: MemoryPollTx, customer_id: str) -> Entry:
    """Return what is known of a customer."""
    raw = tx.get(b"c/crm/" + customer_id.encode())
    assert raw is not None
    return Entry.unpack(raw)


# What is published


def test_a_new_customer_is_an_event_and_a_row_of_the_table() -> None:
    """Both carry the same CloudEvents headers; the table's value is the customer of the event."""
    tx = MemoryPollTx()
    detector().row(tx, row(7), NOW + 5, None)
    (key, data, headers), (latest_key, customer, latest_headers) = sent(tx, EVENTS) + sent(tx, LATEST)
    assert key == latest_key == "crm/7"
    assert headers == latest_headers
    assert headers["ce_type"] == CREATED
    assert headers["ce_sequence"] == "1"
    assert headers["ce_subject"] == "crm/7"
    assert headers["ce_time"] == "2023-11-14T22:13:20.000Z"
    assert data["customer"] == customer
    assert data["changed"] == ["kind", "name"]
    assert customer["name"]["full"] == "Ann Example"
    assert customer["first_seen"] == data["first_seen"] == data["detected_at"] == "2023-11-14T22:13:20.005Z"


def test_a_record_without_a_time_is_dated_by_its_detection() -> None:
    """`ce_time` is the upstream's own change time only where it has one."""
    tx = MemoryPollTx()
    detector().row(tx, Row("7", {"id": 7}), NOW, None)
    assert sent(tx, EVENTS)[0][2]["ce_time"] == "2023-11-14T22:13:20.000Z"


def test_an_unchanged_record_writes_nothing() -> None:
    """Neither to Kafka nor to the state."""
    tx, one = MemoryPollTx(), detector()
    one.row(tx, row(7), NOW, None)
    tx.sent.clear()
    tx.commit()
    one.row(tx, row(7), NOW + 1, None)
    assert tx.sent == []
    assert tx._undo == {}
    assert one.counts == {CREATED: 1, "unchanged": 1}


def test_an_update_says_which_fields_changed() -> None:
    """The sequence rises by one."""
    tx, one = MemoryPollTx(), detector()
    one.row(tx, row(7), NOW, None)
    one.row(tx, row(7, given="Anna", updated=NOW + 9), NOW, None)
    _, data, headers = sent(tx, EVENTS)[-1]
    assert (headers["ce_type"], headers["ce_sequence"], data["changed"]) == (UPDATED, "2", ["name"])


def test_a_page_says_what_its_records_say_one_by_one() -> None:
    """Also where one of them cannot be read, is as it was, or stands there twice."""
    page = [row(8), row(7, given="Ann"), Row("x" * 500, {}), row(9), row(8, given="Bo"), row(8)]
    for rows in (page, [row(7), row(8, given="Bo"), row(9)]):
        together, apart = (MemoryPollTx(), detector()), (MemoryPollTx(), detector())
        for tx, one in (together, apart):
            one.rows(tx, [row(7), row(9)], NOW, None)
        together[1].rows(together[0], rows, NOW + 1, b"mark")
        for record in rows:
            apart[1].row(apart[0], record, NOW + 1, b"mark")
        assert sorted(together[0].sent, key=repr) == sorted(apart[0].sent, key=repr)
        assert together[0].data == apart[0].data
        assert together[1].counts == apart[1].counts


@pytest.mark.parametrize("reason", ["tombstone", "gone", "absent"])
def test_a_deletion_says_why_and_holds_no_personal_data(reason: Any) -> None:
    """The event has the count of who is left; the table's value is null, its headers stay."""
    tx, one = MemoryPollTx(), detector()
    one.row(tx, row(7), NOW, None)
    one.row(tx, row(8), NOW, None)
    one.gone(tx, "7", reason, NOW + 9)
    _, data, headers = sent(tx, EVENTS)[-1]
    _, customer, latest_headers = sent(tx, LATEST)[-1]
    assert data == {
        "source": "crm",
        "id": "7",
        "customer": None,
        "changed": [],
        "first_seen": "2023-11-14T22:13:20.000Z",
        "detected_at": "2023-11-14T22:13:20.009Z",
        "reason": reason,
        "live": 1,
    }
    assert customer is None
    assert (headers["ce_type"], headers["ce_sequence"], headers["ce_reason"]) == (DELETED, "2", reason)
    assert latest_headers == headers | {"ce_live": "1"}


def test_a_tombstone_is_dated_by_the_upstream() -> None:
    """Where it says when it happened."""
    tx, one = MemoryPollTx(), detector()
    one.row(tx, row(7), NOW, None)
    one.tombstone(tx, Tombstone("7", NOW + 60_000), NOW + 99_000)
    assert sent(tx, EVENTS)[-1][2]["ce_time"] == "2023-11-14T22:14:20.000Z"


def test_a_customer_that_returns_is_created_again_under_the_next_sequence() -> None:
    """Also after a restart: the grave keeps the count."""
    tx, one = MemoryPollTx(), detector()
    one.row(tx, row(7), NOW, None)
    one.gone(tx, "7", "gone", NOW)
    one.save(tx)
    detector(tx).row(tx, row(7), NOW, None)
    _, data, headers = sent(tx, EVENTS)[-1]
    assert (headers["ce_type"], headers["ce_sequence"]) == (CREATED, "3")
    assert data["first_seen"] == "2023-11-14T22:13:20.000Z"


# What was made under other rules


def test_a_changed_policy_publishes_everything_anew() -> None:
    """Likewise another region or another version of the adapter: the feeds start over, and each record is an update."""

    class Newer(Drivly):
        version = Drivly.version + 1

    for change in ({"privacy": {"phone": "drop"}}, {"region": "NO"}, {"adapter": Newer}):
        tx, one = MemoryPollTx(), detector()
        one.row(tx, row(7), NOW, None)
        one.checkpoint.cursors["head"] = {"id": 7}
        one.checkpoint.read.append("head")
        one.save(tx)
        other = detector(None, **change)
        assert other.load(tx.get(other.position))
        assert (other.checkpoint.cursors, other.checkpoint.read, other.checkpoint.live) == ({}, [], 1)
        other.row(tx, row(7), NOW, None)
        assert sent(tx, EVENTS)[-1][2]["ce_type"] == UPDATED
        other.save(tx)
        again = detector(None, **change)
        assert not again.load(tx.get(again.position))


def test_nobody_is_taken_for_another_customer_while_everything_is_published_anew() -> None:
    """Another version may write a time of creation differently; outside of that it is another customer."""
    tx, one = MemoryPollTx(), detector()
    one.row(tx, row(7, createdAt="2024-01-01T00:00:00.000Z"), NOW, None)
    one.checkpoint.republishing = True
    one.row(tx, row(7, createdAt="2024-01-01T00:00:01.000Z"), NOW, None)
    one.checkpoint.republishing = False
    one.row(tx, row(7, createdAt="2024-01-02T00:00:00.000Z"), NOW, None)
    assert [headers["ce_type"] for _, _, headers in sent(tx, EVENTS)] == [CREATED, UPDATED, DELETED, CREATED]


@pytest.mark.parametrize("updated", [NOW, None])
@pytest.mark.parametrize(
    ("created", "types"),
    [
        ("2023-11-14T22:13:20.000Z", [CREATED, UPDATED]),
        ("2020-01-01T00:00:00.000Z", [CREATED, UPDATED]),
        ("soon", [CREATED, UPDATED]),
        (None, [CREATED, UPDATED]),
        ("2023-11-14T22:13:20.001Z", [CREATED, DELETED, CREATED]),
    ],
)
def test_another_customer_is_one_who_was_created_after_all_that_is_known(
    created: str | None, types: list[str], updated: int | None
) -> None:
    """NOW is when the one known was changed, or first seen where its record has no such time."""
    tx, one = MemoryPollTx(), detector()
    for time in ("2023-01-01T00:00:00.000Z", created):
        one.row(tx, Row("7", {"id": 7, "createdAt": time}, updated), NOW, None)
    assert [headers["ce_type"] for _, _, headers in sent(tx, EVENTS)] == types


def test_the_same_rules_publish_nothing_anew() -> None:
    """A restart goes on where it was."""
    tx, one = MemoryPollTx(), detector()
    one.row(tx, row(7), NOW, None)
    one.checkpoint.cursors["head"] = {"id": 7}
    one.save(tx)
    other = detector()
    assert not other.load(tx.get(other.position))
    assert other.checkpoint.cursors == {"head": {"id": 7}}
    assert not detector().load(None)


def test_state_of_a_newer_version_is_left_alone() -> None:
    """Two versions that take turns, as in a rolling update, would publish everything again and again."""

    class Newer(Drivly):
        version = Drivly.version + 1

    tx, one = MemoryPollTx(), detector(adapter=Newer)
    one.row(tx, row(7), NOW, None)
    one.checkpoint.cursors["head"] = {"id": 7}
    one.save(tx)
    older = detector()
    assert not older.load(tx.get(older.position))
    assert older.outdated
    assert older.checkpoint.cursors == {"head": {"id": 7}}
    older.start_over()
    assert not older.outdated
    assert older.checkpoint.cursors == {}


@pytest.mark.parametrize("change", [{"where": {"email": {"exists": True}}}, {"locale": "nb"}])
def test_another_filter_reads_everything_anew_without_publishing_it_anew(change: dict[str, Any]) -> None:
    """What is read differs, what is made of a record does not: an unchanged one brings no event."""
    tx, one = MemoryPollTx(), detector()
    one.row(tx, row(7), NOW, None)
    one.checkpoint.cursors["head"] = {"id": 7}
    one.save(tx)
    other = detector(None, **change)
    assert not other.load(tx.get(other.position))
    assert other.checkpoint.cursors == {}
    tx.sent.clear()
    other.row(tx, row(7), NOW, None)
    assert tx.sent == []


def test_another_credential_reads_everything_anew() -> None:
    """One not seen under the new one would stay unobserved until it changes; a restart under it goes on."""
    tx, one = MemoryPollTx(), detector()
    one.checkpoint.cursors["head"] = {"id": 7}
    one.checkpoint.read.append("head")
    assert not one.set_scope("", {"key": "secret"})
    assert (one.checkpoint.cursors, one.checkpoint.read) == ({"head": {"id": 7}}, ["head"])
    assert one.set_scope("", {"key": "another secret"})
    assert (one.checkpoint.cursors, one.checkpoint.read) == ({}, [])
    one.save(tx)
    again = detector()
    again.load(tx.get(again.position))
    assert not again.set_scope("", {"key": "another secret"})


def test_the_unobserved_count_as_missed_only_where_a_person_says_so() -> None:
    """From then on they are missed like anybody else."""
    tx, one = MemoryPollTx(), detector()
    one.row(tx, row(7), NOW, None)
    one.set_scope("", {"key": "another secret"})
    assert one.missed(tx, b"7") == 0
    assert one.missed(tx, b"7", adopt=True) == 1
    assert one.missed(tx, b"7") == 2


def test_another_pepper_is_refused() -> None:
    """Its hashes would make every customer another one."""
    tx, one = MemoryPollTx(), detector()
    one.save(tx)
    with pytest.raises(StateError, match="another pepper"):
        detector(tx, hasher=Hasher(b"another"))


def test_a_checkpoint_is_written_only_where_it_has_changed() -> None:
    """A re-poll that found nothing leaves it alone."""
    tx, one = MemoryPollTx(), detector()
    one.save(tx)
    tx.commit()
    one.save(tx)
    assert tx._undo == {}
    again = detector(tx)
    again.save(tx)
    assert tx._undo == {}


# What cannot be published


def test_a_record_that_is_too_large_is_set_aside_once() -> None:
    """Nothing of it is published, nothing of it is in the dead letter, and the poll goes on."""
    tx, one = MemoryPollTx(max_bytes=5_000), detector()
    huge = row(7, given="x" * 6_000)
    one.row(tx, huge, NOW, None)
    one.row(tx, huge, NOW + 1, None)
    one.row(tx, row(8), NOW, None)
    assert [key for key, _, _ in sent(tx, EVENTS)] == [key for key, _, _ in sent(tx, LATEST)] == ["crm/8"]
    ((key, detail, headers),) = sent(tx, DEAD)
    assert key == "crm/7"
    assert detail == {"source": "crm", "id": "7", "reason": "too_large", "size": detail["size"], "hash": detail["hash"]}
    assert detail["size"] > 6_000
    assert (headers["rollcall-dead-stage"], headers["rollcall-dead-reason"]) == ("poll", "too_large")
    assert (one.checkpoint.set_aside, one.checkpoint.live) == (1, 1)


def test_a_customer_whose_new_record_is_too_large_keeps_the_old_one() -> None:
    """It goes on with its sequence when the record fits again."""
    tx, one = MemoryPollTx(max_bytes=5_000), detector()
    for given_ in ("Ann", "x" * 6_000, "Anna"):
        one.row(tx, row(7, given=given_), NOW, None)
    assert [headers["ce_sequence"] for _, _, headers in sent(tx, EVENTS)] == ["1", "2"]
    assert one.checkpoint.set_aside == 0


@pytest.mark.parametrize(
    "mend",
    [
        lambda one, tx: one.row(tx, row(7), NOW, None),
        lambda one, tx: one.row(tx, row(7, given="Anna"), NOW, None),
        lambda one, tx: one.gone(tx, "7", "gone", NOW),
    ],
    ids=["as it was", "changed", "deleted"],
)
@pytest.mark.parametrize("known", [True, False])
def test_a_record_that_was_set_aside_is_cleared_when_it_is_mended(
    mend: Callable[[Detector, MemoryPollTx], None],
    known: bool,  # ruff: ignore[boolean-type-hint-positional-argument]
) -> None:
    """Whether it comes back changed, as it was before, or is deleted: nothing is left of it."""
    tx, one = MemoryPollTx(), detector()
    if known:
        one.row(tx, row(7), NOW, None)
    for _ in range(2):
        one.bad(tx, Bad("7", "updatedAt is missing or is no time", 300), None)
    assert (one.checkpoint.set_aside, len(sent(tx, DEAD))) == (1, 1)
    mend(one, tx)
    assert one.checkpoint.set_aside == 0
    assert list(tx.scan(b"b/")) == []
    assert sent(tx, DEAD)[1:] == [("crm/7", None, {"rollcall-dead-stage": "poll", "rollcall-dead-outcome": "done"})]


def test_the_letter_of_an_id_that_is_too_long_is_settled_under_its_own_key() -> None:
    """It stands in the state by a hash."""
    tx, one = MemoryPollTx(), detector()
    long = "7" * 401
    one.row(tx, Row(long, {"id": long}), NOW, None)
    one.nothing_aside(tx, long)
    assert [(key, value is None) for key, value, _ in sent(tx, DEAD)] == [(f"crm/{long}", False), (f"crm/{long}", True)]


def test_a_bad_record_that_changes_is_another_dead_letter_of_the_same_customer() -> None:
    """It is counted once."""
    tx, one = MemoryPollTx(), detector()
    one.bad(tx, Bad("7", "updatedAt is missing or is no time", 300), None)
    one.bad(tx, Bad("7", "updatedAt is missing or is no time", 301), None)
    assert (one.checkpoint.set_aside, len(sent(tx, DEAD))) == (1, 2)


@pytest.mark.parametrize(
    "take",
    [
        lambda one, tx, record: one.bad(tx, Bad("7", "a reason", 300, record), None, PAGE),
        lambda one, tx, record: one.row(tx, Row("7", record), NOW, None, PAGE),
        lambda one, tx, record: one.row(tx, Row("7" * 401, record), NOW, None, PAGE),
    ],
    ids=["unreadable", "too large", "id too long"],
)
def test_a_dead_letter_says_where_its_record_came_from_and_its_hash(
    take: Callable[[Detector, MemoryPollTx, dict[str, Any]], None],
) -> None:
    """Never its content. The hash is the same for the same record, in whatever order, under the same pepper only."""
    record = {"id": 7, "consumerFirstName": "Ann" * 2_000, "tags": {"a": 1, "b": 2}}
    same = {"tags": {"b": 2, "a": 1}, "consumerFirstName": "Ann" * 2_000, "id": 7}
    letters = []
    for hasher, given_ in ((HASHER, record), (HASHER, same), (HASHER, record | {"id": 8}), (Hasher(b"other"), record)):
        tx, one = MemoryPollTx(max_bytes=5_000), detector(hasher=hasher)
        take(one, tx, given_)
        ((_, letter, _),) = sent(tx, DEAD)
        assert "AnnAnn" not in str(letter)
        assert (letter["path"], letter["status"], len(letter["hash"])) == ("/api/customers", 200, 32)
        letters.append(letter["hash"])
    assert letters[0] == letters[1]
    assert len(set(letters)) == 3


def test_an_answer_that_proves_nothing_is_one_dead_letter_however_its_words_change() -> None:
    """An error often carries a time, or a number of its own: its size and its hash are no news."""
    tx, one = MemoryPollTx(), detector()
    for body in (b'{"errors":[],"at":1}', b'{"errors":[],"at":12}'):
        answer = Response(400, {}, body, "POST /api/customers/7")
        one.unsure(tx, "7", Unsure("the look-up was answered 400", answer))
    ((key, letter, headers),) = sent(tx, DEAD)
    digest = letter.pop("hash")
    assert letter == {
        "source": "crm",
        "id": "7",
        "reason": "the look-up was answered 400",
        "size": 20,
        "path": "/api/customers/7",
        "status": 400,
    }
    assert (key, len(digest), one.checkpoint.set_aside) == ("crm/7", 32, 1)
    assert headers["rollcall-dead-reason"] == "the look-up was answered 400"


def test_what_was_set_aside_and_is_listed_no_more_is_forgotten() -> None:
    """A customer that was never published leaves no event, and its source is not degraded for ever."""
    tx, one = MemoryPollTx(), detector()
    for number in (7, 8):
        one.bad(tx, Bad(str(number), "updatedAt is missing or is no time", 300), b"crm/sweep/" if number == 8 else None)
    mark_shown(one, tx, b"crm/sweep/")
    one.forget_set_aside(tx, b"crm/sweep/")
    assert one.checkpoint.set_aside == 1
    assert [key for key, _ in tx.scan(b"b/")] == [b"b/crm/8"]
    assert sent(tx, EVENTS) == []


def test_a_record_that_nests_too_deeply_to_be_hashed_is_set_aside() -> None:
    """It can be read, but not written again."""
    tx, one = MemoryPollTx(), detector()
    deep = orjson.loads(b"[" * 300 + b"]" * 300)
    one.row(tx, row(7, odd=deep), NOW, b"crm/sweep/")
    one.row(tx, row(8), NOW, None)
    assert [detail["id"] for _, detail, _ in sent(tx, DEAD)] == ["7"]
    assert [key for key, _, _ in sent(tx, EVENTS)] == ["crm/8"]
    mark_shown(one, tx, b"crm/sweep/")
    assert tx.marked(b"crm/sweep/7")


def test_a_record_over_which_its_adapter_stumbles_is_set_aside() -> None:
    """A bug of an adapter costs one record, and its text, which may quote the record, is not kept."""

    class Stumbling(Drivly):
        def normalize(self, row: Row, normalizer: Normalizer) -> Any:
            if row.id == "7":
                message = f"cannot make sense of {row.body}"
                raise KeyError(message)
            return super().normalize(row, normalizer)

    tx, one = MemoryPollTx(), detector(adapter=Stumbling)
    one.row(tx, row(7, given="Canary"), NOW, None)
    one.row(tx, row(8), NOW, None)
    assert [(detail["id"], detail["reason"]) for _, detail, _ in sent(tx, DEAD)] == [("7", "KeyError")]
    assert [key for key, _, _ in sent(tx, EVENTS)] == ["crm/8"]
    assert not any(b"Canary" in (value or b"") for _, _, value, _, _ in tx.sent)


def test_an_id_that_is_too_long_for_a_key_is_set_aside() -> None:
    """Wherever it turns up; a deletion of it is none of ours."""
    tx, one = MemoryPollTx(), detector()
    long = "\N{SNOWMAN}" * 255
    one.row(tx, Row(long, {"id": long}), NOW, b"crm/sweep/")
    assert not one.stub(tx, Stub(long, NOW), b"crm/sweep/")
    one.tombstone(tx, Tombstone("\N{COMET}" * 255), NOW)
    assert [detail["reason"] for _, detail, _ in sent(tx, DEAD)] == ["id_too_long"]
    assert one.checkpoint.set_aside == 1
    assert all(len(key) <= 500 for key in [*tx.data, *tx.marks])


# Stubs, misses, scopes


def test_a_stub_asks_for_the_record_only_where_it_is_news() -> None:
    """Unknown, deleted, or with another time."""
    tx, one = MemoryPollTx(), detector()
    one.row(tx, row(7), NOW, None)
    assert not one.stub(tx, Stub("7", NOW), b"m/")
    assert one.stub(tx, Stub("7", NOW + 1), b"m/")
    assert one.stub(tx, Stub("8", NOW), b"m/")
    one.gone(tx, "7", "gone", NOW)
    assert one.stub(tx, Stub("7", NOW), None)
    mark_shown(one, tx, b"m/")
    assert tx.marks == {b"m/7", b"m/8"}


def test_a_known_customer_that_is_set_aside_is_read_anew() -> None:
    """Its listing has the time that is known, and its record could not be read after that: nobody else would ask."""
    tx, one = MemoryPollTx(), detector()
    one.row(tx, row(7), NOW, None)
    one.bad(tx, Bad("7", "its name is no text", 40), None, PAGE)
    one.begin(tx, b"m/")
    assert one.stub(tx, Stub("7", NOW), b"m/")
    one.row(tx, row(7), NOW, None)
    assert one.checkpoint.set_aside == 0
    assert not one.stub(tx, Stub("7", NOW), b"m/")


@pytest.mark.parametrize(
    "show",
    [
        lambda one, tx: one.row(tx, row(7), NOW, b"m/"),
        lambda one, tx: one.stub(tx, Stub("7", NOW), b"m/"),
        lambda one, tx: one.bad(tx, Bad("7", "a reason", 9), b"m/"),
        lambda one, tx: one.row(tx, row(7, given="x" * 9_000), NOW, b"m/"),
    ],
    ids=["record", "stub", "bad record", "too large record"],
)
def test_whatever_shows_a_customer_ends_its_misses(show: Callable[[Detector, MemoryPollTx], None]) -> None:
    """Only misses in a row count, also where the record that was shown cannot be used."""
    tx, one = MemoryPollTx(max_bytes=5_000), detector()
    one.row(tx, row(7), NOW, None)
    assert one.missed(tx, b"7") == 1
    show(one, tx)
    assert one.missed(tx, b"7") == 1
    assert one.missed(tx, b"7") == 2


def test_misses_mean_nothing_under_another_credential() -> None:
    """Nor for the unknown and the dead."""
    tx, one = MemoryPollTx(), detector()
    one.row(tx, row(7), NOW, None)
    one.set_scope("", {"key": "another secret"})
    assert one.missed(tx, b"7") == 0
    assert one.missed(tx, b"8") == 0
    one.gone(tx, "7", "gone", NOW)
    assert one.missed(tx, b"7") == 0


def test_marks_are_counted_by_customer() -> None:
    """Whoever is shown twice by one enumeration is one customer."""
    tx, one = MemoryPollTx(), detector()
    for _ in range(2):
        one.row(tx, row(7), NOW, b"m/")
        one.stub(tx, Stub("8", NOW), b"m/")
        one.bad(tx, Bad("9", "a reason", 9), b"m/")
    mark_shown(one, tx, b"m/")
    mark_shown(one, tx, b"m/")  # as where that was cut short
    assert one.shown[b"m/"] == 3


def listing(one: Detector, tx: MemoryPollTx, *ids: int) -> bool:
    """List customers; return whether they are just those who live."""
    one.begin(tx, b"m/")
    for number in ids:
        one.row(tx, row(number), NOW, b"m/")
    return one.everybody(b"m/")


def test_a_listing_of_just_those_who_live_is_known_without_marks() -> None:
    """Not one that leaves somebody out, shows somebody twice or in somebody else's place; and not after a deletion."""
    tx, one = MemoryPollTx(), detector()
    assert listing(one, tx, 1, 2, 3)
    assert listing(one, tx, 3, 1, 2)
    assert not listing(one, tx, 1, 2)
    assert not listing(one, tx, 1, 2, 2)
    assert not listing(one, tx, 1, 2, 3, 3)
    one.gone(tx, "3", "gone", NOW)
    assert listing(one, tx, 1, 2)
    assert not listing(one, tx, 1, 4)
    assert not tx.marks


def test_who_lives_is_learnt_from_a_listing_that_was_proved_whole() -> None:
    """After a restart the sum is unknown, until an enumeration was counted one by one and showed everybody once."""
    tx, one = MemoryPollTx(), detector()
    assert listing(one, tx, 1, 2)
    one.save(tx)
    again = detector(tx)
    assert not listing(again, tx, 1, 2)
    again.learn(b"m/")
    assert listing(again, tx, 2, 1)
    assert listing(again, tx, 2, 1, 3)


@given(st.lists(st.integers(1, 2_500), max_size=40), st.integers(1, 2_500))
def test_notes_lose_nobody(repeated: list[int], count: int) -> None:
    """However many there are, and however often they are shown, each is marked once."""
    tx, one = MemoryPollTx(), detector()
    one.begin(tx, b"m/")
    for number in [*range(count), *repeated]:
        one.stub(tx, Stub(str(number)), b"m/")
    mark_shown(one, tx, b"m/")
    assert tx.marks == {b"m/%d" % number for number in {*range(count), *repeated}}
    assert one.shown[b"m/"] == len(tx.marks)
    one.begin(tx, b"m/")
    assert not tx.marks
    assert not tx.notes


# Laws over any history

IDS = ["1", "2", "3"]
contents = st.sampled_from(["Ann", "Bob", "x" * 9_000])
steps = st.lists(
    st.one_of(
        st.tuples(st.just("row"), st.sampled_from(IDS), contents, st.integers(0, 3)),
        st.tuples(st.just("bad"), st.sampled_from(IDS), st.just(""), st.integers(0, 3)),
        st.tuples(st.sampled_from(["tombstone", "gone"]), st.sampled_from(IDS), st.just(""), st.integers(0, 3)),
        st.tuples(
            st.sampled_from(["missed", "restart", "policy", "scope"]), st.sampled_from(IDS), st.just(""), st.just(0)
        ),
    ),
    max_size=40,
)


def play(history: list[tuple[str, str, str, int]]) -> tuple[MemoryPollTx, Detector]:
    """Let things happen to three customers."""
    tx, one, policy = MemoryPollTx(max_bytes=5_000), detector(), 0
    for moment, (what, customer_id, content, time) in enumerate(history):
        match what:
            case "row":
                one.row(tx, row(int(customer_id), given=content, updated=NOW + time), NOW + moment, None)
            case "bad":
                one.bad(tx, Bad(customer_id, "a reason", time), None)
            case "tombstone":
                one.tombstone(tx, Tombstone(customer_id, NOW + time), NOW + moment)
            case "gone":
                one.gone(tx, customer_id, "gone", NOW + moment)
            case "missed":
                one.missed(tx, customer_id.encode())
            case "scope":
                one.set_scope("", {"key": str(moment)})
            case _:
                one.save(tx)
                policy += what == "policy"
                one = detector(tx, privacy={f"field{policy}": "drop"})
    return tx, one


@given(steps)
def test_events_are_numbered_without_gap_and_counts_are_right(history: list[tuple[str, str, str, int]]) -> None:
    """Over any history, restarts included: sequences, the live count, and the count of what is set aside."""
    tx, one = play(history)
    for customer_id in IDS:
        numbers = [int(headers["ce_sequence"]) for key, _, headers in sent(tx, EVENTS) if key == f"crm/{customer_id}"]
        assert numbers == list(range(1, len(numbers) + 1))
    assert one.checkpoint.live == sum(Entry.unpack(raw).live for _, raw in tx.scan(b"c/crm/"))
    assert one.checkpoint.set_aside == len(list(tx.scan(b"b/crm/")))
    lives = [data["live"] for _, data, _ in sent(tx, EVENTS) if data["customer"] is None]
    assert all(live >= 0 for live in lives)


def test_a_lost_note_is_an_error() -> None:
    """Nobody seems to be missing because of it."""
    tx, one = MemoryPollTx(), detector()
    one.begin(tx, b"m/")
    one.row(tx, row(7), NOW, b"m/")
    assert one.notes(tx, b"m/") == 1
    tx.unmark(b"\0m/")
    with pytest.raises(StateError, match="not in the local store"):
        one.count(tx, b"m/", 0)


records = st.one_of(
    st.builds(row, st.integers(1, 3), contents, st.sampled_from([NOW, NOW + 1])),
    st.builds(row, st.just(4), odd=st.just(orjson.loads(b"[" * 300 + b"]" * 300))),
    st.just(Row("5" * 500, {"id": "5" * 500})),
)


@given(steps, st.lists(st.lists(records, max_size=5), max_size=5), st.sampled_from([b"m/", None]))
def test_a_page_of_records_is_taken_in_as_one_after_the_other(
    history: list[tuple[str, str, str, int]], pages: list[list[Row]], mark: bytes | None
) -> None:
    """What is published, remembered and noted is the same, whatever was before and whichever cannot be read."""
    (tx, one), (other_tx, other) = play(history), play(history)
    for page in pages:
        one.rows(tx, page, NOW, mark)
        for record in page:
            other.row(other_tx, record, NOW, mark)
    mark_shown(one, tx, b"m/")
    mark_shown(other, other_tx, b"m/")
    assert sorted(tx.sent, key=repr) == sorted(other_tx.sent, key=repr)
    assert (tx.data, tx.marks) == (other_tx.data, other_tx.marks)
    assert (one.checkpoint, one.counts, one.shown) == (other.checkpoint, other.counts, other.shown)


Table = dict[str, tuple[int, Any]]


def table(records: list[tuple[str, Any, dict[str, str]]]) -> Table:
    """Return the newest (sequence, customer) by key."""
    return {key: (int(headers["ce_sequence"]), customer) for key, customer, headers in records}


@given(steps, st.integers(0, 100))
def test_events_replayed_over_any_older_table_give_the_table(
    history: list[tuple[str, str, str, int]], percent: int
) -> None:
    """Subscribers that have lost some time apply the events whose sequence is above what they have."""
    tx, _ = play(history)
    rows, replayed = sent(tx, LATEST), sent(tx, EVENTS)
    older = table(rows[: len(rows) * percent // 100])
    for key, data, headers in replayed:
        sequence = int(headers["ce_sequence"])
        if sequence > older.get(key, (0, None))[0]:
            older[key] = (sequence, data["customer"])
    assert older == table(rows)


def canaries(policy: Mapping[str, str]) -> dict[str, str]:
    """Return a record's worth of values that can be found again."""
    return {field: f"canary-{number}-{field}" for number, field in enumerate(policy)}


def test_what_the_policy_hashes_or_drops_is_nowhere() -> None:
    """Not in an event, a table, a dead letter, a header, a key or the state, whatever is wrong with the record."""
    own = {"consumerVehicles": "drop", "address.street": "drop", "address.card": "hash", "email": "keep"}
    policy = {**Drivly.privacy, **own}
    record = canaries(policy)
    address = {"street": record.pop("address.street"), "card": record.pop("address.card"), "city": "Townsville"}
    secret = [*(value for name, value in record.items() if name != "email"), address["street"], address["card"]]
    tx, one = MemoryPollTx(max_bytes=20_000), detector(privacy=own)
    body = {"id": 7, **record, "address": [address]}
    changes: list[dict[str, Any]] = [
        {},
        {"consumerFirstName": "Ann"},
        {"consumerLastName": "x" * 30_000},
        {"odd": [[[]]]},
    ]
    for change in changes:
        one.row(tx, Row("7", {**body, **change}, NOW), NOW, b"m/")
    one.gone(tx, "7", "gone", NOW)
    one.save(tx)
    parts = [part for pair in tx.data.items() for part in pair]
    for _, key, value, headers, _ in tx.sent:
        parts += [key, value or b"", *(raw for _, raw in headers)]
    everything = b"\0".join(parts)
    assert record["email"].encode() in everything
    assert b"Townsville" in everything
    assert not [value for value in secret if value.encode() in everything]


def test_the_state_holds_nothing_of_a_record() -> None:
    """Only hashes, counts and times: a store on a lost disk tells nothing."""
    tx, one = MemoryPollTx(), detector()
    fields = canaries(dict.fromkeys(["consumerFirstName", "email", "phone", "companyName", "other"], ""))
    one.row(tx, Row("7", {"id": 7, **fields}, NOW), NOW, None)
    one.save(tx)
    assert all(b"canary" not in raw for _, raw in tx.scan(b""))
    assert len(tx.get(b"c/crm/7") or b"") < 150


def test_a_checkpoint_comes_back_as_it_was_saved() -> None:
    """Every part of it."""
    checkpoint = Checkpoint(
        "p", "t", {"head": {"id": 1}}, {"sweep": 2}, ["head"], 3, 4, {"plan": "x"}, "y", [1, 2], "z"
    )
    assert Checkpoint.unpack(checkpoint.pack()) == checkpoint


def test_a_header_of_the_table_says_how_many_are_left() -> None:
    """For those who read only the table."""
    tx, one = MemoryPollTx(), detector()
    one.row(tx, row(7), NOW, None)
    one.gone(tx, "7", "gone", NOW)
    assert header(tx.sent[-1][3], "ce_live") == "0"

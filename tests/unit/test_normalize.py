"""Normalization: one form for what can be compared, everything else as it came, and nothing that raises."""

import math
from typing import Any

import orjson
import phonenumbers
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from worker import contacts, countries
from worker.errors import ConfigError
from worker.events import PostalAddress
from worker.normalize import Hasher, Normalizer, canonical, text
from worker.times import rfc3339

HASHER = Hasher(b"a pepper for tests")
EMPTY_ADDRESS: PostalAddress = {
    "line1": None,
    "line2": None,
    "city": None,
    "region": None,
    "postcode": None,
    "country": None,
}
# Whatever a JSON parser can give, and some more: half a surrogate pair, endless numbers.
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(), max_size=40)
    | st.text(st.characters(categories=["Cs", "Nd", "Po"]), max_size=8)
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
REGIONS = st.sampled_from(["US", "CA", "BS", "GB", "NO", "SE", "IT", "AR", "MX", "AU", "XX"])


def normalizer(region: str = "US", **privacy: Any) -> Normalizer:
    """Return a normalizer with a privacy policy by field."""
    return Normalizer(region, HASHER, privacy)


class TestEmail:
    """E-mail addresses."""

    @pytest.mark.parametrize(
        ("came", "normalized"),
        [
            ("Jane.Doe@Example.COM", "jane.doe@example.com"),
            ("  jane@example.com\n", "jane@example.com"),
            ("jane+news@mail.example.co.uk", "jane+news@mail.example.co.uk"),
            ("STRASSE@EXAMPLE.COM", "strasse@example.com"),
            ("Gro\N{LATIN SMALL LETTER SHARP S}@example.com", "gross@example.com"),
            ("jane@xn--bcher-kva.example", "jane@b\N{LATIN SMALL LETTER U WITH DIAERESIS}cher.example"),
            ("jane@shop.test", "jane@shop.test"),
            ("jane@localhost", None),
            ("jane@printer.local", None),
            ("jane@example", None),
            ("jane@@example.com", None),
            ("jane doe@example.com", None),
            ("n/a", None),
            ("jane@" + "a" * 300 + ".com", None),
        ],
    )
    def test_a_valid_address_is_case_folded(self, came: str, normalized: str | None) -> None:
        """A valid address is folded; another stays as it came, marked by null."""
        expected = {"value": came, "normalized": normalized, "label": "work", "preferred": True}
        assert normalizer().email(came, "work", preferred=True) == expected

    @given(
        st.emails()
        | st.from_regex(r"[A-Za-z0-9_+.\-]{1,12}@([A-Za-z0-9-]{1,8}\.){0,3}[A-Za-z0-9-]{1,10}", fullmatch=True)
        | st.from_regex(
            r"[a-z]{1,3}@([a-z0-9]{1,60}\.)?(arpa|invalid|local|localhost|onion|test|com)\n?", fullmatch=True
        )
        | st.text(max_size=300)
    )
    @example("a@" + "b" * 63 + ".com")
    @example("a@" + "b" * 64 + ".com")
    @example("\N{KELVIN SIGN}@example.com")
    @example("a@ex--ample.com")
    @example("a@xn--a.com")
    @example("<a@example.com>")
    @example("a" * 64 + "@example.com")
    def test_the_short_way_is_the_librarys(self, came: str) -> None:
        """The short way through gives the library's own answer, whatever the address."""
        assert contacts.email(came) == contacts.slow_email.__wrapped__(came)


class TestPhone:
    """Phone numbers."""

    @pytest.mark.parametrize(
        ("came", "region", "normalized"),
        [
            ("+12025550143", "US", "+12025550143"),
            ("(202) 555-0143", "US", "+12025550143"),
            ("1-202-555-0143", "CA", "+12025550143"),
            (" 202.555.0143 ", "US", "+12025550143"),
            ("1-800-FLOWERS", "US", "+18003569377"),
            ("202-555-0143 ext. 12", "US", "+12025550143"),
            ("+1 555 010 0123", "US", "+15550100123"),
            ("99 99 99 99", "NO", "+4799999999"),
            ("0047 99 99 99 99", "NO", "+4799999999"),
            ("020 7946 0018", "GB", "+442079460018"),
            ("+39 06 1234 5678", "US", "+390612345678"),
            ("555-0143", "US", None),
            ("0000000000", "US", None),
            ("1234567890", "US", None),
            ("unknown", "US", None),
            ("+999123456789", "US", None),
            ("202-555-0143", "XX", None),
        ],
    )
    def test_a_valid_number_is_e164(self, came: str, region: str, normalized: str | None) -> None:
        """A number that its country's plan allows becomes E.164; another stays as it came."""
        assert normalizer(region).phone(came) == {
            "value": came,
            "normalized": normalized,
            "label": None,
            "preferred": False,
        }

    def test_a_number_may_come_as_a_number(self) -> None:
        """A JSON number is read like its figures."""
        phone = normalizer().phone(2025550143)
        assert phone is not None
        assert (phone["value"], phone["normalized"]) == ("2025550143", "+12025550143")

    @given(
        st.builds(
            "+{}{}".format, st.sampled_from(sorted(phonenumbers.supported_calling_codes())), st.integers(0, 10**11)
        )
        | st.from_regex(r"\+?1?[ .-]?\(?[0-9]{3}\)?[ .-]?[0-9]{3}[ .-]?[0-9]{4}\n?", fullmatch=True)
        | st.from_regex(r"[+0-9A-Fx() ./;=-]{0,20}", fullmatch=True)
        | st.text(max_size=300),
        REGIONS,
    )
    @example("2025550143", "GB")
    @example("+5590582088466", "US")  # begins as a collect call does in Brazil
    @example("+3758114369326", "US")
    @example("+", "US")
    @example("+\N{ARABIC-INDIC DIGIT ONE}2025550143", "US")
    @example("+12025550143\n", "US")
    def test_the_short_way_is_the_librarys(self, came: str, region: str) -> None:
        """The short ways through give the library's own answer, whatever the number and the region."""
        assert contacts.phone(came, region) == contacts.slow_phone.__wrapped__(came, region)

    def test_every_countrys_example_is_valid(self) -> None:
        """The library's example of each kind of number of each country is taken by either way, if it can be dialled."""
        for region in phonenumbers.SUPPORTED_REGIONS:
            for kind in phonenumbers.PhoneNumberType.values():
                number = phonenumbers.example_number_for_type(region, kind)
                if number is not None:
                    e164 = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
                    possible = phonenumbers.is_possible_number_with_reason(number)
                    expected = e164 if possible == phonenumbers.ValidationResult.IS_POSSIBLE else None
                    assert contacts.phone(e164, "XX") == contacts.slow_phone(e164, "XX") == expected


class TestTimes:
    """Dates and times."""

    @pytest.mark.parametrize(
        ("came", "region", "date"),
        [
            ("1990-09-20", "US", "1990-09-20"),
            (" 1990-09-20 ", "US", "1990-09-20"),
            ("1990-09-20T00:00:00.000Z", "US", "1990-09-20"),
            ("1990-09-19T22:00:00.000Z", "NO", "1990-09-19"),
            ("19900920", "US", "1990-09-20"),
            ("9/20/1990", "US", "1990-09-20"),
            ("09/20/1990", "NO", "09/20/1990"),
            ("20.09.1990", "NO", "1990-09-20"),
            ("1990-02-30", "US", "1990-02-30"),
            ("2/30/1990", "US", "2/30/1990"),
            ("about 1990", "US", "about 1990"),
            (1990, "US", "1990"),
            ("", "US", None),
            (None, "US", None),
            ([], "US", None),
        ],
    )
    def test_a_date_is_iso(self, came: object, region: str, date: str | None) -> None:
        """A date in a form that says which part is which becomes ISO 8601; another stays as it came."""
        assert normalizer(region).date(came) == date

    @pytest.mark.parametrize(
        ("came", "stamp"),
        [
            ("2024-05-06T07:08:09.123Z", "2024-05-06T07:08:09.123Z"),
            ("2024-05-06T07:08:09Z", "2024-05-06T07:08:09.000Z"),
            ("2024-05-06T07:08:09.123456+02:00", "2024-05-06T05:08:09.123Z"),
            ("2024-05-06 07:08:09", "2024-05-06T07:08:09.000Z"),
            ("2024-05-06", "2024-05-06T00:00:00.000Z"),
            ("1969-12-31T23:59:59.999Z", "1969-12-31T23:59:59.999Z"),
            ("0001-01-01T00:00:00+10:00", "0001-01-01T00:00:00+10:00"),
            ("2024-13-06T07:08:09.123Z", "2024-13-06T07:08:09.123Z"),
            ("yesterday", "yesterday"),
            (None, None),
        ],
    )
    def test_a_time_is_rfc_3339_in_utc(self, came: object, stamp: str | None) -> None:
        """A time becomes RFC 3339 in UTC with milliseconds; what is none stays as it came."""
        assert normalizer().timestamp(came) == stamp

    @given(st.integers(-62_135_596_800_000, 253_402_300_799_999))
    def test_a_time_that_is_rfc_3339_stays_as_it_is(self, moment: int) -> None:
        """To normalize twice is to normalize once."""
        assert normalizer().timestamp(rfc3339(moment)) == rfc3339(moment)


class TestName:
    """Names."""

    def test_a_name_is_put_together(self) -> None:
        """The parts lose the space around and within them, and make up the full name."""
        assert normalizer().name(" Ada", None, "King  Noel ", "") == {
            "given": "Ada",
            "middle": None,
            "family": "King Noel",
            "suffix": None,
            "full": "Ada King Noel",
        }

    def test_nothing_is_no_name(self) -> None:
        """Parts that are all empty make no name."""
        assert normalizer().name(None, "", "  ", []) is None

    def test_a_full_name_is_taken_apart(self) -> None:
        """A name in one piece is split; its title is kept where it stood."""
        assert normalizer().full_name("Dr. Ada  M. Byron Jr.") == {
            "given": "Ada",
            "middle": "M.",
            "family": "Byron",
            "suffix": "Jr.",
            "full": "Dr. Ada M. Byron Jr.",
        }

    def test_a_split_name_is_nobody_elses(self) -> None:
        """What is done to one customer's name does not show in the next one's."""
        first = normalizer().full_name("Ada Byron")
        assert first is not None
        first["given"] = "Eve"
        second = normalizer().full_name("Ada Byron")
        assert second is not None
        assert second["given"] == "Ada"

    def test_an_endless_name_is_not_taken_apart(self) -> None:
        """A name that is longer than names are stays in one piece."""
        name = normalizer().full_name("ab " * 5000)
        assert name is not None
        assert (name["given"], name["family"]) == (None, None)


class TestAddress:
    """Postal addresses."""

    def test_an_address_keeps_what_came(self) -> None:
        """The value is as it came; the normalized one has codes in capitals and the country by its ISO code."""
        came = {"line1": " 1  Main St", "city": "natick", "region": "ma", "postcode": "sw1a  1aa", "country": "U.S.A."}
        assert normalizer().address(came, "home", preferred=True) == {
            "value": {**EMPTY_ADDRESS, **came},
            "normalized": {
                "line1": "1 Main St",
                "line2": None,
                "city": "natick",
                "region": "MA",
                "postcode": "SW1A 1AA",
                "country": "US",
            },
            "label": "home",
            "preferred": True,
        }

    def test_a_country_alone_is_not_normalized(self) -> None:
        """An address that leads nowhere is kept and marked so."""
        address = normalizer().address({"country": "NO"})
        assert address is not None
        assert address["value"]["country"] == "NO"
        assert address["normalized"] is None

    def test_an_empty_address_is_none(self) -> None:
        """Parts that are all empty make no address."""
        assert normalizer().address({"line1": "", "city": None, "postcode": "  "}) is None

    @pytest.mark.parametrize(
        ("came", "code"),
        [
            ("NO", "NO"),
            ("no", "NO"),
            ("NOR", "NO"),
            ("Norge", "NO"),
            ("Norway", "NO"),
            ("United States of America", "US"),
            ("USA", "US"),
            ("uk", "GB"),
            ("ZZ", None),
            ("Atlantis", None),
            ("x" * 1000, None),
        ],
    )
    def test_a_country_goes_by_codes_and_names(self, came: str, code: str | None) -> None:
        """A country is known by both codes of ISO 3166-1 and by its names."""
        assert countries.alpha2(came) == code


class TestIdentifier:
    """Official identifiers."""

    def test_punctuation_makes_no_difference(self) -> None:
        """One number written in two ways has one hash; the issuer is in capitals."""
        first = normalizer().identifier("ssn", "123-45-6789")
        second = normalizer().identifier("ssn", " 123456789 ", "tx")
        assert first is not None
        assert second is not None
        assert first["hash"] == second["hash"]
        assert (first["issuer"], second["issuer"]) == (None, "TX")

    def test_the_value_is_nowhere(self) -> None:
        """Of an identifier only the hash is left."""
        assert b"6789" not in orjson.dumps(normalizer().identifier("ssn", "123-45-6789"))

    @pytest.mark.parametrize(
        ("type_", "came", "canonical_type"),
        [
            ("ssn", "123-45-6789", "ssn"),
            ("ssn", "***-**-6789", "ssn_malformed"),
            ("ssn", "on file", "ssn_malformed"),
            ("drivers_licence", "d123-456", "drivers_licence"),
            ("drivers_licence", "yes", "drivers_licence_malformed"),
            ("card", "4111 1111 1111 1111", "card"),
            ("card", "1111", "card_malformed"),
            ("anything", "yes", "anything"),
        ],
    )
    def test_what_cannot_be_one_is_of_another_type(self, type_: str, came: str, canonical_type: str) -> None:
        """A masked number or a remark is never taken for the identifier: it would make two customers one."""
        identifier = normalizer().identifier(type_, came)
        assert identifier is not None
        assert identifier["type"] == canonical_type == canonical(type_, came)[0]

    @pytest.mark.parametrize("came", [None, "", "  ", [], {}, "---"])
    def test_nothing_is_no_identifier(self, came: object) -> None:
        """An identifier has a letter or a figure."""
        assert normalizer().identifier("ssn", came) is None


class TestPrivacy:
    """The privacy policy and the hashes."""

    def test_the_policy_goes_by_field(self) -> None:
        """A dropped field is nowhere, a hashed one only among the secrets, the rest is seen."""
        rules = normalizer(income="drop", ssn="hash", name="keep")
        assert rules.screen({"income": 1, "ssn": "1", "name": "Ada"}) == ({"name": "Ada"}, [("ssn", "1")])
        assert [rules.treatment(field) for field in ("income", "ssn", "name", "other")] == [
            "drop",
            "hash",
            "keep",
            "keep",
        ]

    def test_a_field_of_a_field_is_named_with_dots(self) -> None:
        """The policy reaches into dictionaries and through lists, and leaves the record as it was."""
        rules = Normalizer("US", HASHER, {"orders.card": "hash", "orders.bank.iban": "drop", "orders": "keep"})
        body = {"orders": [{"card": "1", "bank": {"iban": "2", "name": "B"}}, [{"card": "3"}], 4]}
        before = orjson.dumps(body)
        seen, secret = rules.screen(body)
        assert seen == {"orders": [{"bank": {"name": "B"}}, [{}], 4]}
        assert secret == [("orders.card", "1"), ("orders.card", "3")]
        assert orjson.dumps(body) == before

    def test_what_is_nested_beyond_reason_is_not_seen(self) -> None:
        """Lists deeper than the policy looks are dropped, not let through."""
        rules = Normalizer("US", HASHER, {"orders.card": "drop"})
        deep: Any = {"card": "1"}
        for _ in range(2000):
            deep = [deep]
        seen, _ = rules.screen({"orders": deep})
        assert b"card" not in orjson.dumps(seen)

    def test_attributes_are_what_is_left(self) -> None:
        """What was used, is private or is empty is no attribute; false and zero are something."""
        body = {
            "a": 1,
            "b": "used",
            "c": None,
            "d": "",
            "e": [],
            "f": {},
            "g": False,
            "h": 0,
            "i": "private",
            "j": [None, 1],
        }
        assert normalizer(i="drop").attributes(body, frozenset({"b"})) == {"a": 1, "g": False, "h": 0, "j": [None, 1]}

    def test_attributes_are_pruned(self) -> None:
        """The empty fields of a field are left out too."""
        assert normalizer().attributes({"a": {"b": None, "c": {"d": "", "e": 0}}}) == {"a": {"c": {"e": 0}}}

    def test_a_hash_of_one_use_says_nothing_of_another(self) -> None:
        """The same data hashes differently for each use, and under another pepper."""
        hashes = [HASHER.fingerprints(b"")(b"x")[:4], HASHER.field(b"x"), bytes.fromhex(HASHER.identifier("", "x"))[:4]]
        assert len(set(hashes)) == len(hashes)
        assert HASHER.fingerprints(b"")(b"x") != Hasher(b"another").fingerprints(b"")(b"x")
        assert HASHER.identifier("ssn", "1") != HASHER.identifier("card", "1")

    def test_the_hashes_have_their_lengths(self) -> None:
        """A fingerprint has 16 bytes, a field's hash 4, an identifier's 32 hexadecimal digits."""
        assert len(HASHER.fingerprints(b"")(b"")) == 16
        assert len(HASHER.field(b"")) == 4
        assert len(bytes.fromhex(HASHER.identifier("ssn", "123456789"))) == 16

    def test_another_pepper_is_told(self) -> None:
        """The check is the same for the same pepper only, and a pepper may have any length."""
        peppers = [b"a", b"b", b"a" * 64, b"a" * 65, b"a" * 1000]
        assert len({Hasher(pepper).check() for pepper in peppers}) == len(peppers)
        assert Hasher(b"a").check() == Hasher(b"a").check()

    def test_an_empty_pepper_is_refused(self) -> None:
        """Without a pepper the hashes would be nobody's secret."""
        with pytest.raises(ConfigError, match="pepper"):
            Hasher(b"")


class TestBadData:
    """Whatever stands in a field."""

    @given(JSON, REGIONS)
    @example("\ud800", "US")
    @example("a\udfff@example.com", "US")
    @example("+1202\ud8005550143", "US")
    @example(math.nan, "US")
    @example(10**400, "US")
    @example("9" * 100_000, "US")
    @example("+" + "1" * 100_000, "US")
    @example("@" * 100_000, "US")
    def test_nothing_raises(self, value: Any, region: str) -> None:
        """Any JSON may stand in any field: it is normalized, or stays as it came."""
        rules = Normalizer(region, HASHER, {"hashed": "hash", "below.dropped": "drop"})
        for contact in (rules.email(value), rules.phone(value)):
            assert contact is None or contact["value"] == text(value)
        rules.date(value)
        rules.timestamp(value)
        rules.name(value, value, value, value)
        rules.full_name(value)
        rules.address(dict.fromkeys(EMPTY_ADDRESS, value))
        rules.identifier("ssn", value, value)
        rules.attributes({"field": value, "hashed": value})
        seen, _ = rules.screen({"hashed": value, "below": value, "kept": value})
        assert set(seen) == {"below", "kept"}

    def test_depth_is_no_danger(self) -> None:
        """A field that is nested a thousand deep is passed through."""
        deep: Any = 1
        for level in range(100_000):
            deep = [deep] if level % 2 else {"a": deep}
        rules = normalizer()
        rules.attributes({"field": deep})
        rules.email(deep)
        rules.name(deep)

"""What tells that two identifiers are a typing error apart, without telling what they are."""

import string

from hypothesis import given
from hypothesis import strategies as st
from rapidfuzz.distance import Indel

from handlers.dedupe.profile import near
from worker.normalize import Normalizer
from worker.privacy import Hasher

NORMALIZER = Normalizer("US", Hasher(b"a pepper for tests"), {})
numbers = st.text(string.digits, min_size=9, max_size=9)


def published(value: str, type_: str = "ssn") -> str:
    """Return what is published beside the hash."""
    found = NORMALIZER.identifier(type_, value)
    assert found is not None
    return found.get("near", "")


@given(numbers, st.integers(0, 7), st.sampled_from(string.digits))
def test_a_digit_typed_wrongly_is_near(value: str, place: int, digit: str) -> None:
    """Wherever it is, but for the last one."""
    assert near(published(value), published(value[:place] + digit + value[place + 1 :]))


@given(numbers, st.integers(0, 6))
def test_two_digits_swapped_are_near(value: str, place: int) -> None:
    """Two neighbours in the wrong order."""
    swapped = value[:place] + value[place + 1] + value[place] + value[place + 2 :]
    assert near(published(value), published(swapped))


def test_numbers_given_out_in_a_row_are_not_near() -> None:
    """The last digit is what tells twins apart who got theirs on one day."""
    assert not near(published("234-56-7891"), published("234-56-7892"))


@given(numbers, numbers)
def test_near_is_symmetric_and_means_one_error(one: str, other: str) -> None:
    """Near numbers are one another but for a digit that was left out and a digit that came in."""
    forth, back = near(published(one), published(other)), near(published(other), published(one))
    assert forth == back
    assert not forth or Indel.distance(one, other) <= 2


@given(numbers)
def test_nothing_shows_of_the_digits(value: str) -> None:
    """There are as many hashes whatever is doubled, no two alike, in an order that says nothing."""
    hashes = [published(value)[at : at + 8] for at in range(0, 72, 8)]
    assert len(published(value)) == 72
    assert len(set(hashes)) == 9
    assert hashes == sorted(hashes)


def test_words_and_short_numbers_have_none() -> None:
    """What is close by chance, or no number, or malformed, is compared as a whole."""
    assert not published("12345", "member")
    assert not published("EXAMPLEWORKS", "companyName")
    assert not published("***-**-6789")
    assert not near("", "")

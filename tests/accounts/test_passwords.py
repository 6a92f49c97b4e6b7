"""Passwords: what fits what, and that nothing raises where nothing may."""

from __future__ import annotations

import re

import pytest

from mailserver.accounts.passwords import (
    DUMMY_HASH,
    LONGEST,
    hash_password,
    normalised,
    random_password,
    verify_password,
)

PARAMETERS = "$argon2id$v=19$m=19456,t=2,p=1$"


def test_a_hash_fits_its_password_alone() -> None:
    made = hash_password("correct horse")
    assert made.startswith(PARAMETERS)
    assert verify_password(made, "correct horse")
    assert not verify_password(made, "Correct horse")
    assert made != hash_password("correct horse")


def test_the_dummy_costs_what_the_others_cost() -> None:
    assert DUMMY_HASH.startswith(PARAMETERS)
    assert len(DUMMY_HASH) == len(hash_password("x"))
    assert not verify_password(DUMMY_HASH, "x")


@pytest.mark.parametrize(
    "junk", ["", "x", "$argon2id$", "$argon2id$v=19$m=8,t=1,p=1$YQ$YQ", "пароль", "$2b$12$abc"]
)
def test_junk_for_a_hash_fits_nothing(junk: str) -> None:
    assert verify_password(junk, "secret") is False


@pytest.mark.parametrize("junk", ["", "a\x00b", "\ud800", "a\nb", "x" * (LONGEST + 1), "\u0378"])
def test_junk_for_a_password_is_refused(junk: str) -> None:
    assert verify_password(DUMMY_HASH, junk) is False
    with pytest.raises(ValueError, match="password"):
        hash_password(junk)


def test_one_password_typed_in_two_ways() -> None:
    assert normalised("e\u0301té\u00a0şifre گذرواژه") == "été şifre گذرواژه"
    assert normalised("İıiI") == "İıiI"
    assert normalised("ﬁ") == "ﬁ"


def test_random_passwords() -> None:
    made = {random_password() for _ in range(100)}
    assert len(made) == 100
    assert all(re.fullmatch(r"([2-9b-df-hj-km-np-tv-xz]{5}-){3}[2-9b-df-hj-km-np-tv-xz]{5}", p) for p in made)

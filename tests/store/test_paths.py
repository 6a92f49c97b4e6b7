"""Names of mailboxes: safe, readable, distinct."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailserver.store.paths import mailbox_path, segment
from mailserver.values.address import Address


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ada", "ada"),
        ("Ada.Lovelace+Lists", "ada.lovelace+lists"),
        ("müşteri", "müşteri"),
        ("mu\u0308s\u0327teri", "müşteri"),
        ("київ", "київ"),
        ("می\u200cخواهم", "می\u200cخواهم"),
        ("..", "%2e."),
        (".hidden", "%2ehidden"),
        ("../../etc/passwd", "%2e.%2f..%2fetc%2fpasswd"),
        ("a\0b\nc", "a%00b%0ac"),
        ("100%", "100%25"),
        ("a\u202eb", "a%e2%80%aeb"),
        ("", "%"),
        ("ada.mbox", "ada%2embox"),
        ("ada.mbox.lock", "ada.mbox%2elock"),
        ("ada.MBOX.Maildrop", "ada.mbox%2emaildrop"),
    ],
)
def test_segment(name: str, expected: str) -> None:
    assert segment(name) == expected


@pytest.mark.parametrize("name", ["a" * 1000, "ж" * 500, "/" * 300])
def test_long_names_are_cut_and_stay_distinct(name: str) -> None:
    assert len(segment(name).encode()) <= 180
    assert segment(name) != segment(name + "b")


@given(st.text())
def test_a_segment_never_leaves_its_folder(name: str) -> None:
    safe = segment(name)
    assert safe
    assert not safe.startswith(".")
    assert "/" not in safe
    assert "\0" not in safe
    assert len(safe.encode()) <= 255


def test_both_spellings_of_a_domain_are_one_folder() -> None:
    expected = "/mail/xn--80a1acn3a.xn--j1amh/ada"
    assert mailbox_path("/mail", Address("Ada", "пошта.укр")) == expected
    assert mailbox_path("/mail", Address("ada", "XN--80A1ACN3A.xn--j1amh")) == expected

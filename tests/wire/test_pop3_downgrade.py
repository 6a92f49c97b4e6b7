"""Headers in UTF-8, told in ASCII."""

from email import message_from_bytes, policy

import pytest

from mailserver.wire.pop3_downgrade import downgraded


def told(message: str, size: int = 10_000) -> bytes:
    octets = message.replace("\n", "\r\n").encode()
    return b"".join(downgraded(iter([octets[n : n + size] for n in range(0, len(octets), size)])))


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_what_a_reader_understands(size: int) -> None:
    text = (
        'From: "Öz, İnci" <inci@example.test>, bob@example.test\n'
        "To: зоя@приклад.test, Ann <ann@example.test>\n"
        "Subject: Grüße aus " + "Київ " * 30 + "\n"
        "\nböse\n"
    )
    octets = told(text, size)
    header, _, body = octets.partition(b"\r\n\r\n")
    assert header.isascii()
    assert max(map(len, header.split(b"\r\n"))) <= 998
    assert body == "böse\r\n".encode()
    parsed = message_from_bytes(octets, policy=policy.default)
    assert [a.addr_spec for a in parsed["from"].addresses] == ["inci@example.test", "bob@example.test"]
    assert parsed["from"].addresses[0].display_name == "Öz, İnci"
    assert [a.addr_spec for a in parsed["to"].addresses] == ["ann@example.test"]
    assert parsed["subject"].replace("\n", "").strip() == ("Grüße aus " + "Київ " * 30).strip()


def test_what_stays() -> None:
    for message in ("Subject: plain\n\nböse\n", "no header end", ""):
        assert told(message) == message.replace("\n", "\r\n").encode()
    latin = b"Subject: caf\xe9\r\n\r\ntext\r\n"
    assert b"".join(downgraded(iter([latin]))) == latin


def test_a_name_outside_ascii_and_a_line_without_a_colon() -> None:
    header = told("Ünlü: value\n\n").partition(b"\r\n\r\n")[0]
    assert header.startswith(b"X-Downgraded: =?utf-8?b?")

"""The key that signs reports: made once, whole or not at all, for its owner alone."""

import stat
from base64 import b64decode
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key

from mailserver.durable import Disk
from mailserver.relay.report_key import ReportKey


def test_it_is_made_at_first_need_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "state" / "reports.key"
    first = ReportKey(path, Disk())
    assert not path.exists()
    signature = first.sign(b"octets")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    second = ReportKey(path, Disk())
    assert second.public() == first.public()
    assert [one.name for one in path.parent.iterdir()] == ["reports.key"]
    public = load_der_public_key(b64decode(second.public()))
    assert isinstance(public, rsa.RSAPublicKey)
    assert public.key_size == 2048
    public.verify(signature, b"octets", padding.PKCS1v15(), hashes.SHA256())


def test_the_record_is_in_strings_that_dns_can_hold(tmp_path: Path) -> None:
    key = ReportKey(tmp_path / "reports.key", Disk())
    strings = key.record().strip('"').split('" "')
    assert all(len(string) <= 255 for string in strings)
    assert "".join(strings) == f"v=DKIM1; k=rsa; p={key.public()}"


def test_of_two_makers_the_first_wins(tmp_path: Path) -> None:
    path = tmp_path / "reports.key"

    class Late(Disk):
        def link(self, old: object, new: object) -> None:
            ReportKey(path, Disk()).public()
            super().link(old, new)  # type: ignore[arg-type]

    late = ReportKey(path, Late())
    assert late.public() == ReportKey(path, Disk()).public()
    assert [one.name for one in tmp_path.iterdir()] == ["reports.key"]


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    class Full(Disk):
        def sync_file(self, path: object) -> None:
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        ReportKey(tmp_path / "reports.key", Full()).public()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "octets", [b"", b"nothing", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"]
)
def test_something_else_is_told(tmp_path: Path, octets: bytes) -> None:
    path = tmp_path / "reports.key"
    path.write_bytes(octets)
    with pytest.raises(OSError, match=r"holds no key.*restore it, or remove it"):
        ReportKey(path, Disk()).sign(b"")
    assert path.read_bytes() == octets

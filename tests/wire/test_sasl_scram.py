"""SCRAM: the vectors of the RFCs, channel binding, and what is refused (RFC 5802, 7677, 5929, 9266)."""

import base64
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailserver.wire import sasl_mechanisms
from mailserver.wire.sasl import AuthorizationRefused, Challenge, SaslError
from mailserver.wire.sasl_client import ScramClient
from mailserver.wire.sasl_mechanisms import Surroundings
from mailserver.wire.sasl_scram import Scram, ScramProof, ScramVerifier

VECTORS = {
    # RFC 5802 §5, RFC 7677 §3
    "SCRAM-SHA-1": (
        "QSXCR+Q6sek8bf92",
        b"n,,n=user,r=fyko+d2lbbFgONRv9qkxdawL",
        "fyko+d2lbbFgONRv9qkxdawL",
        "3rfcNHYJY1ZVvWVs7j",
        b"c=biws,r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=",
        b"v=rmF9pqV8S7suAoZWja4dJRkFsKQ=",
    ),
    "SCRAM-SHA-256": (
        "W22ZaJ0SNY7soEsUEjb6gQ==",
        b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO",
        "rOprNGfwEbeRWgbNEkqO",
        "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0",
        b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,"
        b"p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
        b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
    ),
}
BINDINGS = {"tls-exporter": b"exported", "tls-server-end-point": b"hashed"}


def verifier(name: str = "SCRAM-SHA-256", password: str = "pencil") -> ScramVerifier:
    return ScramVerifier.of(password, base64.b64decode(VECTORS[name][0]), 4096, name)


def server(
    name: str = "SCRAM-SHA-256",
    plus_offered: bool = False,
    of: Callable[[str, str], ScramVerifier] = lambda user, name: verifier(name),
) -> Scram:
    return Scram(name, of, BINDINGS.get, plus_offered, lambda: "server")


@pytest.mark.parametrize("name", VECTORS)
def test_the_vectors(name: str) -> None:
    salt, first, _, nonce, final, last = VECTORS[name]
    scram = Scram(name, lambda user, name: verifier(name), BINDINGS.get, False, lambda: nonce)
    challenge = scram.step(first)
    assert isinstance(challenge, Challenge)
    assert challenge.octets.endswith(f",s={salt},i=4096".encode())
    proof = scram.step(final)
    assert isinstance(proof, ScramProof)
    assert proof.username == "user"
    assert proof.fits(verifier(name))
    assert not proof.fits(verifier(name, "Pencil"))
    assert scram.accepted() == Challenge(last)


@pytest.mark.parametrize("name", VECTORS)
def test_the_client_s_side_of_the_vectors(name: str) -> None:
    salt, first, nonce, more, final, last = VECTORS[name]
    client = ScramClient(name, "user", "pencil", nonce=lambda: nonce)
    assert client.first() == first
    assert client.final(f"r={nonce}{more},s={salt},i=4096".encode()) == final
    assert client.verify(last) == b""
    with pytest.raises(SaslError):
        client.verify(b"v=" + base64.b64encode(b"another server"))


def test_a_verifier_is_written_and_read() -> None:
    text = verifier().text("SCRAM-SHA-256")
    assert text.startswith("SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$")
    assert ScramVerifier.read(text) == verifier()
    assert "stored_key" not in repr(verifier())


def log_in(name: str, scram: Scram, client: ScramClient) -> bool:
    """Whether the proof fits; the client checks the server's in turn."""
    challenge = scram.step(client.first())
    assert isinstance(challenge, Challenge)
    proof = scram.step(client.final(challenge.octets))
    assert isinstance(proof, ScramProof)
    client.verify(scram.accepted().octets)
    return proof.fits(verifier(name.removesuffix("-PLUS")))


@pytest.mark.parametrize("kind", BINDINGS)
def test_channel_binding(kind: str) -> None:
    name = "SCRAM-SHA-256-PLUS"
    assert log_in(name, server(name), ScramClient(name, "ada", "pencil", (kind, BINDINGS[kind])))


def test_another_channel() -> None:
    name = "SCRAM-SHA-256-PLUS"
    client, scram = (
        ScramClient(name, "ada", "pencil", ("tls-exporter", b"of a man in the middle")),
        server(name),
    )
    challenge = scram.step(client.first())
    assert isinstance(challenge, Challenge)
    with pytest.raises(SaslError, match="channel binding"):
        scram.step(client.final(challenge.octets))


@pytest.mark.parametrize("first", [b"p=tls-unique,,n=a,r=x", b"p=,,n=a,r=x", b"n,,n=a,r=x", b"y,,n=a,r=x"])
def test_plus_wants_a_binding_that_is_known(first: bytes) -> None:
    with pytest.raises(SaslError):
        server("SCRAM-SHA-256-PLUS").step(first)


def test_a_list_of_mechanisms_that_was_changed() -> None:
    with pytest.raises(SaslError, match="changed"):
        server(plus_offered=True).step(b"y,,n=a,r=x")
    assert isinstance(server(plus_offered=False).step(b"y,,n=a,r=x"), Challenge)
    assert isinstance(server(plus_offered=True).step(b"n,,n=a,r=x"), Challenge)


def test_without_an_initial_response() -> None:
    scram = server()
    assert scram.step(None) == Challenge(b"")
    assert isinstance(scram.step(b"n,,n=a,r=x"), Challenge)


def test_names() -> None:
    asked: list[str] = []

    def of(user: str, name: str) -> ScramVerifier:
        asked.append(user)
        return verifier(name)

    server(of=of).step("n,a=оля=2C=3D,n=оля=2C=3D,r=x".encode())
    server(of=of).step(b"n,a=,n=ada,r=x")
    assert asked == ["оля,=", "ada"]
    with pytest.raises(AuthorizationRefused):
        server(of=of).step(b"n,a=bob,n=ada,r=x")


@pytest.mark.parametrize(
    "first",
    [
        b"",
        b"n",
        b"n,,n=a",
        b"n,,r=x,n=a",
        b"n,,n=,r=x",
        b"n,,n=a,r=",
        b"n,,n=a,r=\xc3\xa9",
        b"n,,n=a=2Cb=,r=x",
        b"n,,n=a\0,r=x",
        b"n,,m=ext,n=a,r=x",
        b"n,b=c,n=a,r=x",
        b"z,,n=a,r=x",
        b"p=tls-exporter,,n=a,r=x",
        b"n,,n=\xff,r=x",
        b"n,,n=" + b"a" * 600 + b",r=x",
        b"n,,n=a,r=" + b"x" * 5000,
    ],
)
def test_first_messages_that_are_refused(first: bytes) -> None:
    with pytest.raises(SaslError):
        server().step(first)


@pytest.mark.parametrize(
    "final",
    [
        b"",
        b"c=biws,r=xserver",
        b"c=biws,r=x,p=AAAA",
        b"c=biws,r=xanother,p=AAAA",
        b"c=eSws,r=xserver,p=AAAA",
        b"c=!,r=xserver,p=AAAA",
        b"r=xserver,c=biws,p=AAAA",
        b"c=biws,r=xserver,p=!",
    ],
)
def test_final_messages_that_are_refused(final: bytes) -> None:
    scram = server()
    scram.step(b"n,,n=a,r=x")
    with pytest.raises(SaslError):
        scram.step(final)


def test_a_proof_of_another_length_fits_nothing() -> None:
    scram = server()
    scram.step(b"n,,n=a,r=x")
    proof = scram.step(b"c=biws,r=xserver,p=AAAA")
    assert isinstance(proof, ScramProof)
    assert not proof.fits(verifier())
    with pytest.raises(SaslError):
        scram.step(b"again")


@pytest.mark.parametrize(
    "challenge", [b"", b"r=other,s=AAAA,i=4096", b"r=n,s=AAAA,i=4096", b"r=nm,s=AAAA,i=1", b"r=nm,s=,i=4096"]
)
def test_a_server_that_the_client_does_not_trust(challenge: bytes) -> None:
    with pytest.raises(SaslError):
        ScramClient("SCRAM-SHA-1", "ada", "x", nonce=lambda: "n").final(challenge)


AROUND = Surroundings("mx.test", lambda user, name: verifier(name), sasl_mechanisms.offered(True, True))


@given(
    st.sampled_from(AROUND.mechanisms),
    st.lists(st.none() | st.binary(max_size=40) | st.sampled_from([b"n,,n=a,r=x", b"\0a\0b"]), max_size=4),
)
def test_any_responses_to_any_mechanism(name: str, responses: list[bytes | None]) -> None:
    mechanism = sasl_mechanisms.begin(name, AROUND)
    results: list[object] = []
    try:
        for response in responses:
            results.append(mechanism.step(response))
    except SaslError:
        pass
    assert sum(not isinstance(result, Challenge) for result in results) <= 1


def test_what_is_offered() -> None:
    assert sasl_mechanisms.offered() == (
        "SCRAM-SHA-256-PLUS",
        "SCRAM-SHA-256",
        "SCRAM-SHA-1",
        "PLAIN",
        "LOGIN",
    )
    assert set(sasl_mechanisms.offered(True, True)) - set(sasl_mechanisms.offered()) == {
        "OAUTHBEARER",
        "XOAUTH2",
        "CRAM-MD5",
    }
    assert "SCRAM-SHA-256-PLUS" not in sasl_mechanisms.usable(sasl_mechanisms.offered(), tls=False)

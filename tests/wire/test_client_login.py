"""AUTH from the client's side: which mechanism, and what is said."""

from base64 import b64decode, b64encode

import pytest

from mailserver.values.reply import Reply, reply
from mailserver.wire.client_login import ClientLogin
from mailserver.wire.sasl import SaslError


def challenge(octets: bytes) -> Reply:
    return reply(334, "", b64encode(octets).decode())


def test_plain_goes_before_login() -> None:
    login = ClientLogin("LOGIN PLAIN", "ada", "söke")
    verb, _, response = login.first().rpartition(" ")
    assert verb == "AUTH PLAIN"
    assert b64decode(response) == b"\0ada\0" + "söke".encode()


def test_login_answers_two_questions_and_gives_up_at_a_third() -> None:
    login = ClientLogin("login", "ada", "secret")
    assert login.first() == "AUTH LOGIN"
    assert b64decode(login.next(challenge(b"Username:"))) == b"ada"
    assert b64decode(login.next(challenge(b"Password:"))) == b"secret"
    assert login.next(challenge(b"Really?")) == "*"


def test_scram_goes_before_all_and_needs_the_servers_proof() -> None:
    login = ClientLogin("PLAIN SCRAM-SHA-256 LOGIN", "ada", "secret")
    assert login.first().startswith("AUTH SCRAM-SHA-256 ")
    with pytest.raises(SaslError, match="without proving"):
        login.accepted(reply(235, "2.7.0", "ok"))
    with pytest.raises(SaslError):
        login.next(challenge(b"r=other,s=QSXCR,i=4096"))


def test_no_mechanism_of_ours() -> None:
    with pytest.raises(SaslError, match="no mechanism"):
        ClientLogin("GSSAPI NTLM", "ada", "secret")


def test_a_challenge_that_is_not_base64() -> None:
    login = ClientLogin("SCRAM-SHA-1", "ada", "secret")
    with pytest.raises(SaslError, match="base64"):
        login.next(reply(334, "", "***"))

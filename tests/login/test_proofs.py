"""Log-in by proofs and tokens: who gets in, and that nobody learns who exists."""

import re
import sys
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from mailserver.accounts.directory import SqliteDirectory
from mailserver.accounts.login_key import LoginKey
from mailserver.accounts.passwords import DUMMY_HASH, verify_password
from mailserver.accounts.secrets import secrets_of
from mailserver.interfaces import ISubmitter, LoggedIn, LoginRefused
from mailserver.login import (
    Authenticator,
    CheckerUnusable,
    LoginPenalty,
    Verifiers,
    load_checker,
    make_portal,
)
from mailserver.login.tokens import TOKEN_SECONDS
from mailserver.values.address import address_from
from mailserver.wire.sasl import Challenge
from mailserver.wire.sasl_client import ScramClient
from mailserver.wire.sasl_cram import CramResponse
from mailserver.wire.sasl_mechanisms import Surroundings, offered
from tests.dialogues.logins import stored
from tests.dialogues.smtp_talk import AtOnce
from tests.scratch import scratch_path

HOST = "192.0.2.1"


class Tokens:
    """An administrator's checker: the token is the name."""

    failure = {"scope": "mail"}  # noqa: RUF012

    def __init__(self) -> None:
        self.answer: Any = None

    def user_of(self, token: str, username: str) -> Any:
        return token if self.answer is None else self.answer


class Broken:
    def user_of(self, token: str, username: str) -> str:
        raise OSError("the token server is down")


class Case(SynchronousTestCase):
    def setUp(self) -> None:
        folder = scratch_path(self)
        self.clock, self.tokens = Clock(), Tokens()
        self.key = LoginKey(folder / "login.key")
        self.directory = SqliteDirectory(folder / "accounts.sqlite", ["a.test", "b.test"])
        self.directory.open()
        self.addCleanup(self.directory.close)
        self.directory.add_user(address_from("ada@a.test"), stored("secret"))
        self.directory.add_user(address_from("bob@a.test"), stored("x").password_hash)
        self.directory.add_user(address_from("cy@a.test"), secrets_of("zürich", self.key, 4096))
        self.authenticator = self.made(self.tokens)

    def made(self, tokens: Any) -> Authenticator:
        verifiers = Verifiers(self.directory, lambda: self.key.derive("scram"))
        workers: Any = AtOnce()
        portal = make_portal(
            self.directory,
            workers,
            lambda account, locked: None,  # type: ignore[arg-type, return-value]
            verify=verify_password,
            dummy_hash=DUMMY_HASH,
            clock=self.clock,
            verifiers=verifiers,
            unseal=self.key.unseal,
            token_checker=tokens,
        )
        around = Surroundings("mx.test", verifiers.verifier, offered(True, True))
        self.penalty = LoginPenalty(self.clock)
        return Authenticator(portal, self.penalty, self.clock, "smtp", ISubmitter, around)

    def begin(self, mechanism: str) -> Any:
        return self.authenticator.begin(mechanism, HOST, None, lambda: False)

    def step(self, exchange: Any, response: bytes | None) -> Any:
        result = exchange.step(response)
        return self.successResultOf(result) if isinstance(result, Deferred) else result

    def scram(self, name: str, password: str, mechanism: str = "SCRAM-SHA-256") -> Any:
        """What the exchange comes to; the client has checked the server's proof."""
        exchange, client = self.begin(mechanism), ScramClient(mechanism, name, password)
        result = self.step(exchange, client.final(self.step(exchange, client.first()).octets))
        if isinstance(result, Challenge):
            return self.step(exchange, client.verify(result.octets))
        return result


class ProofTests(Case):
    def test_scram(self) -> None:
        for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-1"):
            for name in ("ada@a.test", "ada", "ADA@A.test"):
                result = self.scram(name, "secret", mechanism)
                assert isinstance(result, LoggedIn)
                assert str(result.avatar.account.address) == "ada@a.test"
                assert result.username == name

    def test_scram_refuses(self) -> None:
        # A wrong password, nobody, a domain of nobody's, a password from before SCRAM: no difference.
        for name in ("ada@a.test", "nobody@a.test", "ada@elsewhere.test", "bob@a.test"):
            assert self.scram(name, "Secret") == LoginRefused("wrong")
            self.clock.advance(60)  # what a failure costs

    def test_nobody_has_a_salt_that_stays(self) -> None:
        def asked(name: str) -> str:
            challenge = self.step(self.begin("SCRAM-SHA-256"), f"n,,n={name},r=x".encode()).octets.decode()
            return re.sub("^r=[^,]*,", "", challenge)

        nobodys = asked("nobody@a.test")
        assert nobodys == asked("nobody@a.test")
        assert nobodys != asked("other@a.test")
        self.authenticator = self.made(None)  # a restart
        assert nobodys == asked("nobody@a.test")
        assert len(nobodys) == len("s=") + 24 + len(",i=100000")

    def test_a_failure_costs_the_next_time_before_anything_is_told(self) -> None:
        assert self.scram("ada", "x") == LoginRefused("wrong")
        exchange, client = self.begin("SCRAM-SHA-256"), ScramClient("SCRAM-SHA-256", "ada", "secret")
        waiting = exchange.step(client.final(exchange.step(client.first()).octets))
        self.assertNoResult(waiting)
        self.clock.advance(2)
        assert client.verify(self.successResultOf(waiting).octets) == b""

    def test_a_password_changed_meanwhile(self) -> None:
        exchange, client = self.begin("SCRAM-SHA-256"), ScramClient("SCRAM-SHA-256", "ada", "secret")
        final = client.final(exchange.step(client.first()).octets)
        self.directory.set_password(address_from("ada@a.test"), stored("other"))
        assert self.step(exchange, final) == LoginRefused("wrong")

    def test_a_directory_that_cannot_be_read(self) -> None:
        self.directory.close()
        assert self.step(self.begin("SCRAM-SHA-256"), b"n,,n=ada,r=x") == LoginRefused("unavailable")
        assert self.flushLoggedErrors()

    def test_cram_md5(self) -> None:
        for name, password, right in (
            ("cy@a.test", "zürich", True),
            ("cy@a.test", "x", False),
            ("ada", "secret", False),
            ("nobody", "", False),
        ):
            exchange = self.begin("CRAM-MD5")
            challenge = self.step(exchange, None).octets
            digest = _digest(challenge, password)
            result = self.step(exchange, f"{name} {digest}".encode())
            assert isinstance(result, LoggedIn) is right, name
            self.clock.advance(60)  # what a failure costs

    def test_what_is_stored_logs_nobody_in(self) -> None:
        _, kept = self.directory.secrets("cy@a.test") or (None, None)
        assert kept is not None
        for text in (kept.password_hash, *kept.scram.values(), kept.cram_md5):
            assert "zürich" not in text
            assert isinstance(self.scram("cy@a.test", text), LoginRefused)
            self.clock.advance(60)  # what a failure costs
        other = LoginKey(scratch_path(self))
        assert other.unseal(kept.cram_md5) is None
        assert self.key.unseal(kept.cram_md5) == "zürich"


def _digest(challenge: bytes, password: str) -> str:
    import hmac

    response = CramResponse("", challenge, "")
    return hmac.new(password.encode(), response.challenge, "md5").hexdigest()


class TokenTests(Case):
    def bearer(self, token: str, user: str = "") -> Any:
        exchange = self.begin("OAUTHBEARER")
        name = f"a={user}" if user else ""
        result = self.step(exchange, f"n,{name},\x01auth=Bearer {token}\x01\x01".encode())
        if isinstance(result, Challenge):
            assert b'"invalid_token"' in result.octets
            return self.step(exchange, b"\x01")
        return result

    def test_a_token(self) -> None:
        result = self.bearer("ada")
        assert isinstance(result, LoggedIn)
        assert result.username == "ada@a.test"

    def test_xoauth2(self) -> None:
        exchange = self.begin("XOAUTH2")
        assert isinstance(self.step(exchange, b"user=ada@a.test\x01auth=Bearer ada\x01\x01"), LoggedIn)

    def test_tokens_of_nobody_and_of_somebody_else(self) -> None:
        for token, user in (("nobody", ""), ("ada", "bob@a.test"), ("ada", "nobody@a.test")):
            assert self.bearer(token, user) == LoginRefused("wrong")
            self.clock.advance(60)  # what a failure costs

    def test_an_answer_that_comes_later(self) -> None:
        self.tokens.answer = succeed("ada@a.test")
        assert isinstance(self.bearer("t"), LoggedIn)

    def test_an_answer_that_never_comes(self) -> None:
        self.tokens.answer = Deferred()
        waiting = self.begin("XOAUTH2").step(b"user=ada\x01auth=Bearer t\x01\x01")
        self.clock.advance(TOKEN_SECONDS + 1)
        assert self.successResultOf(waiting) == LoginRefused("unavailable")
        assert self.flushLoggedErrors()

    def test_a_checker_that_fails(self) -> None:
        self.authenticator = self.made(Broken())
        assert self.bearer("ada") == LoginRefused("unavailable")
        assert self.flushLoggedErrors(OSError)


def test_a_checker_is_found_by_its_name() -> None:
    assert isinstance(load_checker(f"{__name__}:Tokens"), Tokens)


@pytest.mark.parametrize("name", ["no_such_module:x", f"{__name__}:nothing", f"{__name__}:HOST", "sys:exit"])
def test_a_checker_that_cannot_be_used(name: str) -> None:
    with pytest.raises(CheckerUnusable, match=re.escape(name)):
        load_checker(name)
    assert sys.modules


def test_the_key_is_made_once(tmp_path: Path) -> None:
    path = tmp_path / "state" / "login.key"
    first = LoginKey(path).derive("scram")
    assert LoginKey(path).derive("scram") == first
    assert LoginKey(path).derive("other") != first
    assert path.stat().st_mode & 0o777 == 0o600
    assert [p.name for p in path.parent.iterdir()] == ["login.key"]
    path.write_bytes(b"short")
    with pytest.raises(OSError, match="has 5 octets"):
        LoginKey(path).open()

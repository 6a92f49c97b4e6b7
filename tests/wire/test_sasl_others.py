"""OAUTHBEARER, XOAUTH2 and CRAM-MD5: responses and refusals (RFC 7628, RFC 2195)."""

import hmac
import json

import pytest

from mailserver.wire.sasl import AuthorizationRefused, Challenge, Plain, SaslError
from mailserver.wire.sasl_cram import CramMD5, CramResponse
from mailserver.wire.sasl_tokens import OAuthBearer, TokenCredentials, XOAuth2


def test_oauthbearer() -> None:
    # RFC 7628 §4.1, with a comma in the name
    text = b"n,a=ada=2Cb@a.test,\x01host=mx.test\x01port=587\x01auth=Bearer vF9dft4qmTc2Nvb3Rlcg==\x01\x01"
    assert OAuthBearer().step(text) == TokenCredentials("ada,b@a.test", "vF9dft4qmTc2Nvb3Rlcg==")
    assert OAuthBearer().step(b"n,,\x01auth=bearer t\x01\x01") == TokenCredentials("", "t")


def test_xoauth2() -> None:
    text = "user=оля@пошта.укр\x01auth=Bearer ya29.x-y_z\x01\x01".encode()
    assert XOAuth2().step(text) == TokenCredentials("оля@пошта.укр", "ya29.x-y_z")


def test_asked_without_an_initial_response() -> None:
    bearer = OAuthBearer()
    assert bearer.step(None) == Challenge(b"")
    assert bearer.step(b"n,,\x01auth=Bearer t\x01\x01") == TokenCredentials("", "t")
    with pytest.raises(SaslError):
        bearer.step(b"n,,\x01auth=Bearer t\x01\x01")


def test_the_refusal_is_json() -> None:
    assert json.loads(OAuthBearer({"scope": "mail"}).refused().octets) == {
        "status": "invalid_token",
        "scope": "mail",
    }
    assert json.loads(XOAuth2().refused().octets) == {"status": "400", "schemes": "bearer"}
    assert OAuthBearer().accepted() is None
    assert Plain().refused() is None


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"n,,\x01",
        b"n,,\x01\x01",
        b"n,,auth=Bearer t\x01\x01",
        b"n,,\x01auth=Bearer t\x01",
        b"n,,\x01auth=Basic t\x01\x01",
        b"n,,\x01auth=Bearer t t\x01\x01",
        b"n,,\x01auth=Bearer t\x01auth=Bearer u\x01\x01",
        b"p=tls-exporter,,\x01auth=Bearer t\x01\x01",
        b"n,x=ada,\x01auth=Bearer t\x01\x01",
        b"n,,\x01auth=Bearer \xff\x01\x01",
        b"n,,\x01auth=Bearer " + b"t" * 9000 + b"\x01\x01",
    ],
)
def test_oauthbearer_refuses(text: bytes) -> None:
    with pytest.raises(SaslError):
        OAuthBearer().step(text)


@pytest.mark.parametrize(
    "text", [b"", b"auth=Bearer t\x01\x01", b"user=\x01auth=Bearer t\x01\x01", b"user=a\x01\x01", b"user=a"]
)
def test_xoauth2_refuses(text: bytes) -> None:
    with pytest.raises(SaslError):
        XOAuth2().step(text)


def test_a_name_that_cannot_be_a_user_s() -> None:
    with pytest.raises(AuthorizationRefused):
        XOAuth2().step(b"user=a\r\nb\x01auth=Bearer t\x01\x01")


def test_a_token_is_not_shown() -> None:
    assert "ya29" not in repr(TokenCredentials("ada", "ya29"))


def test_cram_md5() -> None:
    cram = CramMD5("mx.test")
    challenge = cram.step(None)
    assert isinstance(challenge, Challenge)
    assert challenge.octets.endswith(b"@mx.test>")
    digest = hmac.new(b"tanstaaftanstaaf", challenge.octets, "md5").hexdigest()
    response = cram.step(f"tim smith {digest}".encode())
    assert isinstance(response, CramResponse)
    assert response.username == "tim smith"
    assert response.fits("tanstaaftanstaaf")
    assert not response.fits("other")


def test_cram_md5_is_rfc_2195_s() -> None:
    response = CramResponse(
        "tim", b"<1896.697170952@postoffice.reston.mci.net>", "b913a602c7eda7a495b4e6e7334d3890"
    )
    assert response.fits("tanstaaftanstaaf")


@pytest.mark.parametrize("response", [b"", b"ada", b"ada x", b" " + b"0" * 32, b"\xff " + b"0" * 32, None])
def test_cram_md5_refuses(response: bytes | None) -> None:
    cram = CramMD5("mx.test")
    cram.step(None)
    with pytest.raises(SaslError):
        cram.step(response)


def test_cram_md5_has_no_initial_response() -> None:
    with pytest.raises(SaslError):
        CramMD5("mx.test").step(b"ada " + b"0" * 32)

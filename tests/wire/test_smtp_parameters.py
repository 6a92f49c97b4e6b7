"""Parameters of MAIL and RCPT: each keyword's values, and what is no parameter at all."""

import pytest

from mailserver.wire.smtp_parameters import MAIL_PARAMETERS, RCPT_PARAMETERS, Field, Unacceptable, parse

BOTH = {**MAIL_PARAMETERS, **RCPT_PARAMETERS}


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        (b"", {}),
        (b"SIZE=0", {"size": 0}),
        (b"size=00012", {"size": 12}),
        (b"SIZE=99999999999999999999", {"size": 99999999999999999999}),
        (b"BODY=7bit", {"body": "7BIT"}),
        (b"BODY=8BITMIME  SMTPUTF8", {"body": "8BITMIME", "smtputf8": True}),
        (b"RET=full", {"ret": "FULL"}),
        (b"ENVID=" + b"x" * 100, {"envid": "x" * 100}),
        (b"AUTH=<>", {"auth": "<>"}),
        (b"AUTH=a+2Bb@c.test", {"auth": "a+b@c.test"}),
        (b"NOTIFY=never", {"notify": frozenset({"NEVER"})}),
        (b"NOTIFY=SUCCESS,FAILURE,DELAY", {"notify": frozenset({"SUCCESS", "FAILURE", "DELAY"})}),
        (b"ORCPT=rfc822;a+2Bb@c.test", {"orcpt": "rfc822;a+2Bb@c.test"}),
        (b"ORCPT=x-local;" + b"x" * 492, {"orcpt": "x-local;" + "x" * 492}),
        ("ORCPT=UTF-8;ü@c.test".encode(), {"orcpt": "UTF-8;ü@c.test"}),
        (b"ORCPT=utf-8;\\x{FC}@c.test", {"orcpt": "utf-8;\\x{FC}@c.test"}),
    ],
)
def test_read(text: bytes, fields: dict[str, Field]) -> None:
    assert parse(text, BOTH) == fields


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (b"FOO", 555),
        (b"FOO=1", 555),
        (b"X-" + b"y" * 30, 555),
        (b"=1", 501),
        (b"-A=1", 501),
        (b"x" * 33, 501),
        (b"F\xc3\xb6=1", 501),
        (b"SIZE=1 SIZE=1", 501),
        (b"SIZE", 501),
        (b"SIZE=", 501),
        (b"SIZE=+1", 501),
        (b"SIZE=0x1", 501),
        (b"SIZE=1=2", 501),
        ("SIZE=²".encode(), 501),
        (b"BODY=BINARY", 501),
        (b"BY=", 501),
        (b"BY=120", 501),
        (b"BY=0;R", 501),
        (b"BY=-1;R", 501),
        (b"BY=1;X", 501),
        (b"BY=1;NTT", 501),
        (b"BY=1234567890;N", 501),
        (b"HOLDFOR=0", 501),
        (b"HOLDFOR=-1", 501),
        (b"HOLDFOR=1234567890", 501),
        (b"HOLDUNTIL=2026-13-01T00:00:00Z", 501),
        (b"HOLDUNTIL=2026-12-01", 501),
        (b"HOLDUNTIL=2026-12-01T00:00:00", 501),
        (b"MT-PRIORITY=10", 501),
        (b"MT-PRIORITY=+1", 501),
        (b"REQUIRETLS=yes", 501),
        (b"BODY", 501),
        (b"SMTPUTF8=1", 501),
        (b"RET=NONE", 501),
        (b"ENVID=" + b"x" * 101, 501),
        (b"ENVID=a+0D+0ABcc:x", 501),
        (b"ENVID=a=b", 501),
        (b"AUTH=a", 501),
        (b"AUTH=a@b.test+0D+0ABcc:x", 501),
        (b"AUTH=a@b.test+20x", 501),
        (b"NOTIFY=", 501),
        (b"NOTIFY=NEVER,SUCCESS", 501),
        (b"NOTIFY=SUCCESS,,DELAY", 501),
        (b"NOTIFY=SUCCESS,SUCCESS,SUCCESS,SUCCESS", 501),
        (b"NOTIFY=OFTEN", 501),
        (b"ORCPT=a@b.test", 501),
        (b"ORCPT=;a@b.test", 501),
        (b"ORCPT=rfc822;", 501),
        (b"ORCPT=rfc822;a+0Ab", 501),
        (b"ORCPT=rfc822;a+b", 501),
        ("ORCPT=rfc822;ü@b.test".encode(), 501),
        (b"ORCPT=utf-8;\xff", 501),
        (b"ORCPT=rfc822;" + b"x" * 494, 501),
    ],
)
def test_unacceptable(text: bytes, code: int) -> None:
    with pytest.raises(Unacceptable) as caught:
        parse(text, BOTH)
    assert (caught.value.reply.code, caught.value.reply.enhanced) == (code, "5.5.4")


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        (b"BODY=binarymime", "body", "BINARYMIME"),
        (b"BY=120;r", "by", (120, "R")),
        (b"BY=-5;NT", "by", (-5, "NT")),
        (b"BY=+000000001;RT", "by", (1, "RT")),
        (b"HOLDFOR=60", "hold_for", 60),
        (b"HOLDUNTIL=2026-10-02T07:06:40Z", "hold_until", 1790924800.0),
        (b"HOLDUNTIL=2026-10-02T10:06:40+03:00", "hold_until", 1790924800.0),
        (b"MT-PRIORITY=-9", "priority", -9),
        (b"REQUIRETLS", "require_tls", True),
    ],
)
def test_what_the_extensions_say(text: bytes, field: str, value: Field) -> None:
    assert parse(text, BOTH) == {field: value}


@pytest.mark.parametrize(
    "text", [b"HOLDFOR=60", b"HOLDUNTIL=2026-10-02T07:06:40Z", b"MT-PRIORITY=1", b"REQUIRETLS"]
)
def test_what_is_not_offered_now_is_not_known(text: bytes) -> None:
    with pytest.raises(Unacceptable) as caught:
        parse(text, BOTH, 0)
    assert caught.value.reply.code == 555

"""Words that strangers' octets are made of: with them a fuzzer comes further than with chance alone."""

from __future__ import annotations

_SMTP = (
    *(b"EHLO x\r\n", b"LHLO x\r\n", b"HELO x\n", b"STARTTLS\r\n", b"RSET\r\n", b"NOOP\r\n", b"QUIT\r\n"),
    *(b"MAIL FROM:<a@b.test>", b"MAIL FROM:<>", b"RCPT TO:<c@d.test>", b"RCPT TO:<postmaster>", b"\r\n"),
    *(b" BODY=BINARYMIME", b" SMTPUTF8", b" SIZE=99", b" NOTIFY=NEVER", b" ORCPT=rfc822;x", b" BY=9;R"),
    *(b"DATA\r\n", b"\r\n.\r\n", b"\n.\n", b".\r\n", b"BDAT 3\r\nabc", b"BDAT 0 LAST\r\n", b"BDAT 99\r\n"),
    *(b"AUTH PLAIN\r\n", b"AUTH LOGIN YWRh\r\n", b"AUTH SCRAM-SHA-256 =\r\n", b"YWRh\r\n", b"*\r\n"),
    *(b"VRFY a\r\n", b"EXPN a\r\n", b"HELP\r\n", b"HELP RCPT\r\n", b"ETRN d.test\r\n", b"TURN\r\n"),
    *(b"SEND FROM:<a@b.test>\r\n", b"SOML FROM:<a@b.test>\r\n", b"SAML FROM:<a@b.test>\r\n"),
    *(b"\r", b"\n", b"\0", b" ", b"\xff", b"\xe2\x80\xa8", b"x" * 2100, b"AUTH " + b"y" * 13000),
)
_REPLIES = (
    *(b"%d x\r\n" % code for code in (220, 221, 250, 334, 354, 421, 450, 550, 999)),
    *(b"250-mx.b.test\r\n", b"250-PIPELINING\r\n", b"250-SIZE 1000\r\n", b"250-STARTTLS\r\n"),
    *(b"250-SMTPUTF8\r\n", b"250-LIMITS RCPTMAX=1\r\n", b"250-CHUNKING\r\n", b"250 DSN\r\n", b"25", b"\r\n"),
    *(b"250-8BITMIME\r\n", b"250 2.1.5 ok\r\n", b"550 5.1.1 no\r\n", b"\xff", b"\n", b"x" * 3000),
)
_POP3 = (
    *(b"USER ada\r\n", b"PASS right\r\n", b"PASS wrong\r\n", b"APOP a b\r\n", b"AUTH PLAIN\r\n", b"STLS\r\n"),
    *(b"AUTH PLAIN AGFkYQByaWdodA==\r\n", b"AUTH LOGIN\r\n", b"YWRh\r\n", b"*\r\n", b"AUTH\r\n", b"CAPA\r\n"),
    *(b"STAT\r\n", b"LIST\r\n", b"LIST 2\r\n", b"UIDL\r\n", b"RETR 1\r\n", b"RETR 3\r\n", b"TOP 2 1\r\n"),
    *(b"DELE 1\r\n", b"DELE 3\r\n", b"RSET\r\n", b"NOOP\r\n", b"LAST\r\n", b"UTF8\r\n", b"LANG *\r\n"),
    *(b"QUIT\r\n", b"RETR 0x1\r\n", b"RETR -1\r\n", b"x" * 1100, b"\0", b"\r", b"\n", b"\xff"),
)
_ADDRESSES = (
    *(b"<", b">", b"@", b'"', b"\\", b".", b",", b":", b"[", b"]", b"(", b")", b" ", b"<>", b"-", b"_"),
    *(b"a", b"ada", b"b.test", b"@a,@b:", b"[192.0.2.1]", b"[IPv6:::1]", b"[IPv6:fe80::1%lo]", b"xn--"),
    *("ü".encode(), "пошта".encode(), "\u0308".encode(), "\u200b".encode(), "。".encode(), b"\xff", b"\xc3"),
    *(b"postmaster", b"xn--bcher-kva.test", b"%", b"!", b"a" * 64, b"a" * 63 + b".", "ß".encode()),
)
_PARAMETERS = (
    *(b"SIZE=", b"BODY=8BITMIME", b"BODY=", b"SMTPUTF8", b"RET=FULL", b"ENVID=", b"AUTH=", b"AUTH=<>"),
    *(b"BY=", b"60;R", b"-5;N", b"HOLDFOR=", b"HOLDUNTIL=", b"2026-12-31T23:59:59Z", b"MT-PRIORITY=-9"),
    *(b"9999-12-31T23:59:59-23:59", b"0001-01-01T00:00:00+23:59", b"REQUIRETLS", b"NOTIFY=", b"SUCCESS,"),
    *(b"FAILURE", b"NEVER", b"ORCPT=rfc822;", b"ORCPT=utf-8;", b"+2B", b"+0A", b"\\x{20AC}", b" ", b"="),
    *(b"0", b"99999999999999999999", b" LAST", "ü".encode(), b"\xff", b"x" * 600),
)
_TEXT = (
    *(b"\r\n", b"\r", b"\n", b".", b"..", b"\r\n.\r\n", b"\n.\n", b"\r\n.\r", b"\r\r\n", b"\0", b"x"),
    *(b"x" * 998, b"x" * 999, b".\r\n", b"Subject: x\r\n", b"\r\n\r\n", b" folded\r\n", b"\xff"),
)
_FIELDS = (
    *(b"Received: x\r\n", b"Delivered-To: a@b\r\n", b"TLS-Required: No\r\n", b"From: ", b"Sender: "),
    *(b"ada@example.test", b"<ada@example.test>", b'"', b"(", b")", b"\\", b",", b";", b"group: "),
    *(b"Date: x\r\n", b"Message-ID: <x>\r\n", b" : ", b"=?utf-8?q?=C3?=", b"bob@example.test"),
    *(b"\r\n", b"\r\n ", b"\r\n\r\n", "ü".encode(), b"\xff", b"\0", b"\n", b"\r"),
)
_MIME = (
    *(b"Content-Type: multipart/mixed; boundary=x\r\n", b"Content-Type: message/rfc822\r\n"),
    *(b'Content-Type: multipart/mixed;\r\n boundary="a\\"b"\r\n', b"Content-Transfer-Encoding: binary\r\n"),
    *(b"Content-Transfer-Encoding: 8bit\r\n", b"Content-Transfer-Encoding: base64\r\n", b"\r\n--x\r\n"),
    *(b"\r\n--x--\r\n", b"--", b"\r\n", b"\r\n\r\n", b"\0", b"\r", b"\n", b"\xff", b"x" * 1200, b"(", b";"),
)
_PROXY = (
    *(b"PROXY ", b"TCP4 ", b"TCP6 ", b"UNKNOWN", b"192.0.2.1 ", b"::1 ", b"1 ", b"65536", b"25", b"\r\n"),
    *(b"\r\n\r\n\0\r\nQUIT\n", b"\x21\x11\x00\x0c", b"\x20\x00\x00\x00", b"\x21\x21\x00\x24", b"\0" * 12),
)
_SASL = (
    *(b"n,,", b"y,,", b"p=tls-exporter,,", b"n=ada,", b"r=abc", b"a=bob,", b"m=x,", b"c=biws,", b"p=AAAA"),
    *(b"\0ada\0secret", b"ada\0ada\0secret", b"\x01auth=Bearer t\x01\x01", b"user=ada\x01", b"host=x\x01"),
    *(b"n=a=2Cb,", b"=3D", b"\xff", b"\0", b",", b"ada", b"ada 0123456789abcdef0123456789abcdef", b"\x01"),
)

WORDS: dict[str, tuple[bytes, ...]] = {
    "smtp_server": _SMTP,
    "smtp_client": _REPLIES,
    "pop3_server": _POP3,
    "addresses": _ADDRESSES,
    "parameters": _PARAMETERS,
    "dots": _TEXT,
    "chunks": _TEXT + _MIME,
    "binary_mime": _MIME,
    "header": _FIELDS,
    "author_fields": _FIELDS + _ADDRESSES + _MIME,
    "proxy_header": _PROXY,
    "sasl": _SASL,
}
"""By target."""

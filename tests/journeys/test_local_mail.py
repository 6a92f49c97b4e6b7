"""Mail from local programs: sendmail and deliver, with the server up and down."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

from mailserver.deliver.drop import put
from mailserver.values.address import Address
from tests.journeys.server import Server
from tests.journeys.tools import eventually, lacking

LETTER = "To: ada@a.test\nBcc: bob@a.test\nSubject: from cron\n\nhello\n.\nbehind the dot\n"


ADA = Address("ada", "a.test")
NOBODY = 65534


def as_nobody(action: Callable[[], object]) -> int:
    """Do something as another user, in a child; 0, or the errno."""
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            action()
            os._exit(0)
        except OSError as error:
            os._exit(error.errno or 255)
        finally:
            os._exit(254)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def sendmail(server: Server, *options: str, stdin: str = LETTER) -> str:
    return server.cli("sendmail", *options, stdin=stdin)


def test_sendmail_up_and_down(make_server: Callable[..., Server]) -> None:
    server = make_server("a", "mx.a.test", ["a.test"])
    server.add_user("ada@a.test")
    server.add_user("bob@a.test")
    server.start()
    sendmail(server, "-t", "-oi", "-f", "carol@far.test", "-F", "Carol")
    eventually(lambda: len(server.mail("bob@a.test")) == 1, "the copy for Bcc")
    eventually(lambda: len(server.mail("ada@a.test")) == 1, "the message for To")
    message = server.mail("ada@a.test")[0]
    assert message["Return-Path"] == "<carol@far.test>"
    assert message["From"] == '"Carol" <carol@far.test>' or message["From"] == "Carol <carol@far.test>"
    assert message["Bcc"] is None
    assert message["Date"]
    assert message["Message-ID"]
    assert "behind the dot" in message.get_content()
    server.stop()

    sendmail(server, "ada", stdin="Subject: while down\n\nhello\n.\nnot this\n")
    server.cli("deliver", "ada@a.test", "-f", "<>", stdin="Subject: delivered\n\nhello\n")
    talk = "HELO x\nMAIL FROM:<a@far.test>\nRCPT TO:<ada@a.test>\nDATA\nSubject: bs\n\nhi\n.\nQUIT\n"
    assert "250 2.0.0 Ok" in sendmail(server, "-bs", stdin=talk)
    assert "ada@a.test: a user here" in sendmail(server, "-bv", "ada", stdin="")
    assert sendmail(server, "-bp", stdin="") == ""  # nothing waits in the queue
    assert server.cli("queue", "list", "--json").strip() == "[]"
    server.start()
    sendmail(server, "-q", stdin="")  # everything that waits is tried now
    eventually(lambda: len(server.mail("ada@a.test")) == 4, "what was sent while the server was down")
    by_subject = {one["Subject"]: one for one in server.mail("ada@a.test")}
    assert set(by_subject) == {"from cron", "while down", "delivered", "bs"}
    assert "not this" not in by_subject["while down"].get_content()
    assert os.listdir(server.folder / "state" / "drop") == []


def test_any_local_user_may_write_and_nobody_may_look(make_server: Callable[..., Server]) -> None:
    if os.geteuid() != 0:
        lacking("only root can become another user")
    server = make_server("a", "mx.a.test", ["a.test"])
    server.add_user("ada@a.test")
    server.start()
    drop = server.folder / "state" / "drop"
    eventually(drop.exists, "the drop folder")
    eventually(lambda: drop.stat().st_mode & 0o7777 == 0o1733, "its mode")
    for folder in (server.folder / "state", server.folder, *server.folder.parents):
        if folder != folder.parent and folder.stat().st_uid == 0 and folder.stat().st_mode & 0o011 == 0:
            folder.chmod(folder.stat().st_mode | 0o011)
    assert as_nobody(lambda: put(drop, ADA, [ADA], b"Subject: other\n\nhi\n")) == 0
    eventually(lambda: len(server.mail("ada@a.test")) == 1, "another user's message")
    assert "(local user 65534)" in server.mail("ada@a.test")[0]["Received"]
    assert as_nobody(lambda: os.listdir(drop)) == errno.EACCES

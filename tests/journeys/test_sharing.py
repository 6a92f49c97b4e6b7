"""mutt and Dovecot (Debian's) read and write a mailbox while we deliver into it and serve it by POP3."""

from __future__ import annotations

import os
import poplib
import pty
import smtplib
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.journeys.server import PASSWORD, Server
from tests.journeys.tools import PATIENCE, eventually, lacking, run, tool

FEW = 60
MANY = 10_000


class Dovecot:
    """Its storage library, driven by doveadm: the code that its IMAP and POP3 servers run."""

    def __init__(self, folder: Path, mailbox: Path) -> None:
        self._doveadm = tool("doveadm", "dovecot-core")
        folder.mkdir()
        location = f"maildir:{mailbox}"
        if mailbox.suffix == ".mbox":
            location = f"mbox:{folder}/folders:INBOX={mailbox}"
        self._settings = folder / "dovecot.conf"
        self._settings.write_text(
            f"protocols =\nbase_dir = {folder}/run\nlog_path = /dev/stderr\nssl = no\n"
            f"mail_location = {location}\nfirst_valid_uid = 1\n"
            # Debian's order for the locks of an mbox.
            "mbox_read_locks = fcntl\nmbox_write_locks = dotlock fcntl\nmbox_lock_timeout = 60 secs\n"
        )
        self._environment = {**os.environ, "HOME": str(folder), "USER": "ada"}
        # Dovecot lets root open no mailbox: in a namespace, root's files are a user's.
        self._as_user: list[str] = []
        if os.geteuid() == 0:
            self._as_user = [tool("unshare", "util-linux"), "--user", "--map-user=1000", "--map-group=1000"]
            if run([*self._as_user, "true"]).returncode != 0:
                lacking("user namespaces are not allowed here, and Dovecot opens no mailbox for root")

    def _run(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        command = [*self._as_user, self._doveadm, "-c", str(self._settings), *arguments]
        return subprocess.run(
            command,
            env=self._environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=150,
            check=False,
        )

    def __call__(self, *arguments: str) -> str:
        done = self._run(*arguments)
        assert done.returncode in (0, 68), (
            f"doveadm {arguments}: {done.stdout}{done.stderr}"
        )  # 68: none found
        return done.stdout

    def save(self, message: str) -> bool:
        """Whether the message is in the mailbox; 75: it was locked for too long, and the user is told."""
        done = self._run("save", stdin=message)
        assert done.returncode in (0, 75), done.stderr
        return done.returncode == 0

    def subjects(self) -> list[str]:
        lines = self("fetch", "hdr.subject", "mailbox", "INBOX", "all").splitlines()
        return [line.partition(": ")[2] for line in lines if line.startswith("hdr.subject: ")]


class Mutt:
    """mutt with nobody at its terminal."""

    def __init__(self, folder: Path, mailbox: Path) -> None:
        self._mutt = tool("mutt")
        folder.mkdir()
        self._mailbox = mailbox
        self._settings = folder / "muttrc"
        self._settings.write_text(
            f"set mbox_type={'mbox' if mailbox.suffix == '.mbox' else 'Maildir'}\nset folder={folder}\n"
            f"set record={mailbox}\nset spoolfile={mailbox}\nset sendmail=/bin/true\nset from=mutt@far.test\n"
            "set quit=yes delete=yes move=no mark_old=no confirmappend=no wait_key=no\n"
            "set read_inc=0 write_inc=0 sleep_time=0\n"
            "set header_cache='' certificate_file='' mail_check=0 beep=no\n"
        )
        self._environment = {**os.environ, "HOME": str(folder), "TERM": "xterm", "MAIL": str(mailbox)}

    def append(self, subject: str) -> bool:
        """Whether its own copy of a sent message is in the mailbox.

        mutt tries a lock five times in four seconds, then tells the user on stderr, and exits with 0.
        """
        command = [self._mutt, "-F", str(self._settings), "-s", subject, "--", "c@far.test"]
        done = run(command, env=self._environment, input="by mutt\nFrom here\n")
        assert done.returncode == 0, done.stderr
        return "Warning: Fcc" not in done.stdout + done.stderr

    def delete(self, subject: str) -> None:
        """Open the mailbox, remove what has that in its subject, flag the rest, and leave."""
        keys = (
            f"<delete-pattern>~s '{subject}'<enter><tag-pattern>~A<enter>"
            "<tag-prefix-cond><set-flag>!<end-cond><sync-mailbox><quit>"
        )
        command = [self._mutt, "-F", str(self._settings), "-f", str(self._mailbox), "-e", f'push "{keys}"']
        ours, theirs = pty.openpty()
        with subprocess.Popen(
            command, stdin=theirs, stdout=theirs, stderr=theirs, env=self._environment, start_new_session=True
        ) as process:
            os.close(theirs)
            reader = threading.Thread(target=_read_to_end, args=(ours,), daemon=True)
            reader.start()
            try:
                self._wait(process, ours)
            finally:
                process.kill()
                reader.join(PATIENCE)
                os.close(ours)

    @staticmethod
    def _wait(process: subprocess.Popen[bytes], terminal: int) -> None:
        """mutt drops what it was told when it has something to say; then somebody has to press q."""
        for _ in range(40):
            try:
                process.wait(3)
                return
            except subprocess.TimeoutExpired:
                os.write(terminal, b"\x07q")
        pytest.fail("mutt does not end")


def _read_to_end(terminal: int) -> None:
    try:
        while os.read(terminal, 65536):
            pass
    except OSError:
        pass  # Linux says EIO when nobody has the other side open any more


class Reader:
    """A POP3 client that removes what is meant for it, once it has it whole."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.fetched: Counter[str] = Counter()

    @contextmanager
    def session(self) -> Iterator[poplib.POP3_SSL]:
        client = poplib.POP3_SSL(self._server.host, self._server.ports["pop3s"], timeout=PATIENCE * 4)
        client.user("ada@a.test")
        client.pass_(PASSWORD)
        try:
            yield client
        finally:
            client.quit()

    def remove(self, kind: str) -> None:
        """Fetch and delete the messages of one kind; one that another program has just changed can wait."""
        with self.session() as client:
            gone = []
            for n in range(1, client.stat()[0] + 1):
                try:
                    subject = subject_of(client.top(n, 0)[1])
                    if subject.startswith(f"{kind} "):
                        assert_whole(client.retr(n)[1])
                        client.dele(n)
                        gone.append(subject)
                except poplib.error_proto:
                    continue
        self.fetched.update(gone)

    def subjects(self) -> list[str]:
        with self.session() as client:
            return [subject_of(client.top(n, 0)[1]) for n in range(1, client.stat()[0] + 1)]


def subject_of(lines: list[bytes]) -> str:
    found = [line[9:].decode() for line in lines if line.lower().startswith(b"subject: ")]
    assert len(found) == 1, lines
    return found[0]


def assert_whole(lines: list[bytes]) -> None:
    assert lines[-1] == b"the end", lines[-3:]
    assert lines.count(b"From here") == 1


@pytest.mark.parametrize("count", [FEW, pytest.param(MANY, marks=pytest.mark.long)])
@pytest.mark.parametrize("format", ["maildir", "mbox"])
def test_a_mailbox_is_shared(
    make_server: Callable[..., Server], format: str, count: int, tmp_path: Path
) -> None:
    # A delivery that meets a lock comes again soon, not after minutes.
    settings = {"store": {"format": format}, "relay": {"retry": ["1s"]}}
    server = make_server("a", "mx.a.test", ["a.test"], settings)
    server.add_user("ada@a.test")
    server.start()
    mailbox = server.folder / "maildirs" / "a.test" / ("ada" if format == "maildir" else "ada.mbox")
    dovecot, mutt = Dovecot(tmp_path / "dovecot", mailbox), Mutt(tmp_path / "mutt", mailbox)
    reader = Reader(server)
    # What each program is to remove, and what stays.
    kinds = ("pop", "dovecot-removes", "mutt-removes", "stays")
    # One that stays comes first: in an empty mailbox mutt forgets what it is to do.
    ours = ["stays first", *(f"{kinds[n % 4]} {n}" for n in range(count))]
    stays = [subject for subject in ours if subject.startswith("stays")]
    deliver(server, ours[:1])
    eventually(mailbox.exists, "the first message")

    done = threading.Event()
    with ThreadPoolExecutor(4) as pool:
        sending = pool.submit(deliver, server, ours[1:])
        sending.add_done_callback(lambda _: done.set())
        actions = (by_dovecot(dovecot), by_mutt(mutt), by_pop3(reader))
        others = [pool.submit(while_it_goes_on, done, action) for action in actions]
        sending.result()
        saved = [subject for other in others for subject in other.result()]
    eventually(lambda: not server.queue(), "deliveries that waited for a lock", PATIENCE * 4)

    # What came after a program's last look is still to be removed by it.
    dovecot("expunge", "mailbox", "INBOX", "header", "subject", "dovecot-removes")
    mutt.delete("mutt-removes")
    wait_until_unlocked(mailbox)
    reader.remove("pop")
    expected = Counter([*stays, *saved])
    assert Counter(reader.subjects()) == expected
    assert Counter(dovecot.subjects()) == expected
    assert reader.fetched == Counter(subject for subject in ours if subject.startswith("pop"))
    assert {subject.split()[2] for subject in saved} == {"dovecot", "mutt"}


def deliver(server: Server, subjects: list[str]) -> None:
    with smtplib.SMTP(server.host, server.ports["smtp"], timeout=PATIENCE * 4) as client:
        for number, subject in enumerate(subjects):
            text = f"From: c@far.test\r\nTo: ada@a.test\r\nSubject: {subject}\r\n\r\nFrom here\r\nthe end\r\n"
            client.sendmail("c@far.test", ["ada@a.test"], text)
            if len(subjects) < 1000:
                time.sleep(0.01 * (number % 3))  # so that the others meet a mailbox that changes


def while_it_goes_on(done: threading.Event, action: Callable[[int], list[str]]) -> list[str]:
    """What an action has added to the mailbox, again and again."""
    added: list[str] = []
    number = 0
    while not done.is_set() or number < 2:
        added += action(number)
        number += 1
    return added


def by_dovecot(dovecot: Dovecot) -> Callable[[int], list[str]]:
    def act(number: int) -> list[str]:
        subject = f"saved by dovecot {number}"
        is_saved = dovecot.save(f"Subject: {subject}\n\nFrom here\nthe end\n")
        dovecot("flags", "add", "\\Seen", "mailbox", "INBOX", "all")
        dovecot("expunge", "mailbox", "INBOX", "header", "subject", "dovecot-removes")
        return [subject] if is_saved else []

    return act


def by_mutt(mutt: Mutt) -> Callable[[int], list[str]]:
    def act(number: int) -> list[str]:
        subject = f"saved by mutt {number}"
        is_saved = mutt.append(subject)
        mutt.delete("mutt-removes")
        return [subject] if is_saved else []

    return act


def by_pop3(reader: Reader) -> Callable[[int], list[str]]:
    def act(number: int) -> list[str]:
        reader.remove("pop")
        return []

    return act


def wait_until_unlocked(mailbox: Path) -> None:
    eventually(lambda: not Path(f"{mailbox}.lock").exists(), "the dotlock's end")

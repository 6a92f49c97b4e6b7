"""Two servers and what leads to many: lists, forwards, commands, people who are away; and kill -9."""

from __future__ import annotations

import os
import poplib
import re
import smtplib
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from mailserver.accounts.directory import SqliteDirectory
from mailserver.values.address import Address, address_from
from mailserver.values.deliveries import as_target
from tests.journeys.server import PASSWORD, Server
from tests.journeys.tools import eventually, free_port


class Pair(NamedTuple):
    a: Server
    b: Server


@pytest.fixture
def pair(make_server: Callable[..., Server]) -> Pair:
    """a.test here; b.test and c.test there. Not started."""
    ports = {"a": free_port(), "b": free_port()}
    to_a, to_b = (f"smtp://127.0.0.1:{ports[name]}" for name in ("a", "b"))
    relay = {"allow_loopback": True, "retry": ["1s"]}
    a = make_server(
        "a",
        "mx.a.test",
        ["a.test"],
        {
            "relay": relay,
            "relay.routes": {"b.test": to_b, "c.test": to_b},
            "delivery": {"command_time": "60s"},
        },
        ports={"smtp": ports["a"]},
    )
    b = make_server(
        "b",
        "mx.b.test",
        ["b.test", "c.test"],
        {"relay": relay, "relay.routes": {"a.test": to_a}},
        ports={"smtp": ports["b"]},
    )
    people(a, "ada@a.test")
    people(b, "bob@b.test", "carol@c.test")
    return Pair(a, b)


@contextmanager
def directory_of(server: Server) -> Iterator[SqliteDirectory]:
    """What commands would do, without a process for each."""
    directory = SqliteDirectory(server.folder / "state" / "accounts.sqlite", server.domains)
    directory.open()
    yield directory
    directory.close()


def people(server: Server, *names: str) -> None:
    with directory_of(server) as directory:
        for name in names:
            directory.add_user(address_from(name), "$argon2id$x")


def send(server: Server, sender: str, to: list[str], text: str = "Subject: hello\r\n\r\nHello.\r\n") -> None:
    with smtplib.SMTP(server.host, server.ports["smtp"], timeout=30) as client:
        client.sendmail(sender, to, text)


def waits_for(server: Server, login: str, count: int) -> list[bytes]:
    """The messages of a mailbox in the order of their arrival, once there are so many."""
    local, _, domain = login.partition("@")
    new = server.folder / "maildirs" / domain / local / "new"

    def files() -> list[Path]:
        return sorted(new.glob("*"), key=lambda path: path.stat().st_mtime_ns) if new.exists() else []

    eventually(lambda: len(files()) >= count, f"{count} messages for {login}")
    return [path.read_bytes().replace(b"\n", b"\r\n") for path in files()]


def header(raw: bytes, name: str) -> str:
    found = re.search(rb"(?im)^%s: *(.*(?:\r\n[ \t].*)*)" % name.encode(), raw.partition(b"\r\n\r\n")[0])
    return found[1].decode().strip() if found else ""


@pytest.mark.journey
def test_forwards_lists_and_answers(pair: Pair) -> None:
    a, b = pair
    ada, fwd, news = map(address_from, ("ada@a.test", "fwd@a.test", "news@a.test"))
    with directory_of(a) as directory:
        directory.add_alias(fwd, [address_from("bob@b.test")])
        directory.add_list(news, [ada], title="The news", open=True)
        directory.add_members(news, [ada, address_from("bob@b.test")])
    a.start()
    b.start()

    # A forward has a reverse-path of ours, and what comes back to it reaches the sender.
    send(a, "carol@c.test", ["fwd@a.test"])
    (forwarded,) = waits_for(b, "bob@b.test", 1)
    path = header(forwarded, "Return-Path").strip("<>")
    assert re.fullmatch(r"SRS0=[A-Z2-7]{6}=[A-Z2-7]{2}=c\.test=carol@a\.test", path), path
    assert "fwd@a.test" in header(forwarded, "Delivered-To") + str(forwarded)
    send(a, "", [path], "Subject: came back\r\n\r\nNo.\r\n")
    (back,) = waits_for(b, "carol@c.test", 1)
    assert header(back, "Subject") == "came back"
    with pytest.raises(smtplib.SMTPRecipientsRefused):
        send(a, "", [path.replace("carol", "eve")])

    # A command adds a domain and an alias while the server runs.
    with directory_of(a) as directory:
        directory.add_domain("late.test")
        directory.add_alias(address_from("x@late.test"), [ada])
    time.sleep(0.6)
    send(a, "bob@b.test", ["x@late.test"])
    waits_for(a, "ada@a.test", 1)

    # Only members write to the list; each gets one copy however many ways lead there.
    with pytest.raises(smtplib.SMTPRecipientsRefused, match="only members"):
        send(a, "carol@c.test", ["news@a.test"])
    send(a, "ada@a.test", ["news@a.test", "ada@a.test", "fwd@a.test"], "Subject: one\r\n\r\nOne.\r\n")
    copy = waits_for(b, "bob@b.test", 2)[1]
    assert header(copy, "List-Id") == '"The news" <news.a.test>'
    assert header(copy, "List-Unsubscribe") == "<mailto:news-request@a.test?subject=unsubscribe>"
    assert re.fullmatch(r"<news-bounces\+[a-z2-7]{12}@a\.test>", header(copy, "Return-Path"))
    waits_for(a, "ada@a.test", 2)
    # Whose copy bounces is known by its reverse-path.
    send(a, "", [header(copy, "Return-Path").strip("<>")], "Subject: no\r\n\r\nAction: failed\r\n")
    with directory_of(a) as directory:
        eventually(lambda: {m.bounces for m in directory.members(news)} == {0, 1}, "a bounce that counts")
    # A list's own copy that comes back to it is a loop.
    with pytest.raises(smtplib.SMTPDataError, match="loop"):
        send(a, "ada@a.test", ["news@a.test"], copy.decode())

    # Carol joins by mail, once she has confirmed; then leaves in the same way.
    send(a, "carol@c.test", ["news-request@a.test"], "Subject: subscribe\r\nTo: news-request@a.test\r\n\r\n")
    asked = waits_for(b, "carol@c.test", 2)[1]
    confirm = re.sub(r"\r\n\s+", " ", header(asked, "Subject"))
    assert re.fullmatch(r"confirm [a-z2-7]{12} subscribe carol@c\.test", confirm)
    send(a, "carol@c.test", ["news-request@a.test"], f"Subject: Re: {confirm}\r\n\r\n")
    waits_for(b, "carol@c.test", 3)
    assert "carol@c.test" in a.cli("lists", "members", "news@a.test")

    # Ada is away: each sender hears it once, and reports and lists never.
    a.cli("user", "away", "ada@a.test", "--until", "7d")
    time.sleep(0.6)
    asked_for = "Subject: lunch?\r\nTo: ada@a.test\r\nMessage-ID: <1@b.test>\r\n\r\nToday?\r\n"
    for _ in range(2):
        send(a, "bob@b.test", ["ada@a.test"], asked_for)
    answer = waits_for(b, "bob@b.test", 3)[2]
    assert header(answer, "Auto-Submitted") == "auto-replied"
    assert header(answer, "In-Reply-To") == "<1@b.test>"
    assert header(answer, "Return-Path") == "<>"
    send(a, "bob@b.test", ["fwd@a.test"], "Subject: last\r\n\r\n.\r\n")
    assert header(waits_for(b, "bob@b.test", 4)[3], "Subject") == "last"
    eventually(lambda: a.queue() == [], "an empty queue")
    assert "Traceback" not in a.console() + b.console()


def many_users(server: Server, count: int) -> None:
    """As so many `user add` would leave them, without waiting for so many hashes and syncs."""
    with sqlite3.connect(server.folder / "state" / "accounts.sqlite") as db:
        db.executemany(
            "INSERT INTO account (local, domain, local_key, domain_key, password) VALUES (?, ?, ?, ?, ?)",
            [(f"u{n}", "a.test", f"u{n}", "a.test", "$argon2id$x") for n in range(count)],
        )
    db.close()
    with directory_of(server) as directory:
        directory.add_members(address_from("all@a.test"), [Address(f"u{n}", "a.test") for n in range(count)])


def kept(server: Server) -> Counter[str]:
    """How many messages each member has."""
    found: Counter[str] = Counter()
    for box in (server.folder / "maildirs" / "a.test").glob("u*"):
        found[box.name] = sum(
            len(list((box / part).iterdir())) for part in ("new", "cur") if (box / part).is_dir()
        )
    return found


@pytest.mark.journey
@pytest.mark.parametrize("members", [200, pytest.param(5000, marks=pytest.mark.long)])
def test_kill_in_the_middle_of_an_expansion(make_server: Callable[..., Server], members: int) -> None:
    """A message to a list: killed twice on its way, each member has it once."""
    server = make_server("a", "mx.a.test", ["a.test"])
    people(server, "ada@a.test")
    with directory_of(server) as directory:
        directory.add_list(address_from("all@a.test"), [address_from("ada@a.test")], "anybody")
    many_users(server, members)
    server.start()
    send(server, "x@out.test", ["all@a.test"])
    counts = []
    for share in (0.0, 0.4):
        eventually(
            lambda least=share: sum(kept(server).values()) >= members * least, "some of the copies", 300
        )
        server.kill()
        counts.append(sum(kept(server).values()))
        server.start()
    assert counts[0] < members, "it was not killed in the middle"
    assert counts[1] < members
    eventually(lambda: server.queue() == [], "an empty queue", patience=300)
    server.stop()
    found = kept(server)
    assert len(found) == members
    assert set(found.values()) == {1}


@pytest.mark.journey
def test_a_command_that_hangs_stops_nobody_and_is_ended_with_its_server(
    make_server: Callable[..., Server],
) -> None:
    server = make_server("a", "mx.a.test", ["a.test"], {"relay": {"retry": ["1s"]}})
    people(server, "ada@a.test")
    script = server.folder / "tickets"
    log = server.folder / "tickets.log"
    script.write_text(
        "#!/bin/sh\n"
        f'echo "$$ $*" >> {log}\n'
        f"if [ -e {server.folder}/hang ]; then sleep 600 & wait; fi\n"
        f"cat >> {server.folder}/tickets.mail\n"
    )
    script.chmod(0o755)
    with directory_of(server) as directory:
        targets = [as_target(f"|{script} --new 'two words'"), address_from("ada@a.test")]
        directory.add_alias(address_from("tickets@a.test"), targets)
    hang = server.folder / "hang"
    hang.touch()
    server.start()
    for n in range(15):  # more than may run at once
        send(server, "$(x)`y`@out.test", ["tickets@a.test"], f"Subject: number {n}\r\n\r\nx\r\n")
    waits_for(server, "ada@a.test", 15)
    eventually(lambda: log.exists() and len(log.read_text().splitlines()) == 10, "ten commands")
    pids = [int(line.split()[0]) for line in log.read_text().splitlines()]
    assert {line.partition(" ")[2] for line in log.read_text().splitlines()} == {"--new two words"}
    os.kill(server.pid, 9)
    assert server.process is not None
    server.process.wait()
    assert all(Path(f"/proc/{pid}").exists() for pid in pids), "they should outlive it"
    hang.unlink()
    server.start()
    eventually(lambda: not any(_runs(pid) for pid in pids), "the end of what was left")
    eventually(lambda: server.queue() == [], "an empty queue", patience=60)
    mail = (server.folder / "tickets.mail").read_text()
    assert sorted(re.findall(r"Subject: number (\d+)", mail), key=int) == [str(n) for n in range(15)]
    assert mail.count("Delivered-To: tickets@a.test") == 15
    assert len(waits_for(server, "ada@a.test", 15)) == 15


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.long
@pytest.mark.journey
def test_passwords_that_twisted_s_checkers_know(make_server: Callable[..., Server]) -> None:
    """`twistd mailserver --auth`, as users of `twistd` know it; with workers, which are told of it too, and
    run commands as one process does."""
    server = make_server("a", "mx.a.test", ["a.test"], {"": {"workers": 2}})
    server.add_user("ada@a.test")
    passwords = server.folder / "passwords"
    passwords.write_text(f"ada@a.test:{PASSWORD} of the file\n")
    server.more = ["--auth", f"file:{passwords}"]
    server.start()
    client = poplib.POP3_SSL(server.host, server.ports["pop3s"], timeout=30)
    client.user("ada@a.test")
    with pytest.raises(poplib.error_proto):
        client.pass_(PASSWORD)
    client.user("ada@a.test")
    assert client.pass_(f"{PASSWORD} of the file").startswith(b"+OK")
    assert b"SCRAM-SHA-256" not in client.capa().get("SASL", [])
    client.quit()
    kept = server.folder / "kept"
    with directory_of(server) as directory:
        command = as_target(f"|/usr/bin/tee {kept}")
        directory.add_alias(address_from("bot@a.test"), [command])
    time.sleep(0.6)
    send(server, "bob@b.test", ["bot@a.test"])
    eventually(lambda: kept.exists() and b"Hello." in kept.read_bytes(), "what the command got")
    eventually(lambda: server.queue() == [], "an empty queue")

"""Strangers at the door of a real server: crowds, load balancers, lists, rules, and hidden messages."""

from __future__ import annotations

import os
import poplib
import re
import resource
import smtplib
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.journeys.names import NameServer
from tests.journeys.server import PASSWORD, Server
from tests.journeys.tools import PATIENCE, eventually, free_port, tool
from tests.receive.smuggling import VARIANTS, message

LETTER = b"Subject: hello\r\n\r\nhello\r\n"
RULES = """
import time
from zope.interface import provider
from mailserver.interfaces import IRule
from mailserver.values.reply import reply

@provider(IRule)
def office_hours(facts):
    local = facts.transaction.reverse_path.local
    if local == "refused":
        return reply(550, "5.7.1", "Not from you")
    if local == "stuck":
        time.sleep(3600)
    if local == "broken":
        raise ValueError("broken")
"""


def resident_kib(pid: int) -> int:
    with open(f"/proc/{pid}/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS:"))


def processor_seconds(pid: int) -> float:
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def idle(server: Server, port: str, count: int, crowd: ExitStack) -> None:
    """``count`` clients that wait for the greeting and say nothing."""
    for _ in range(count):
        client = socket.create_connection((server.host, server.ports[port]), timeout=PATIENCE)
        crowd.callback(client.close)
        assert client.recv(200)[:3] in (b"220", b"+OK")


def delivery_works(server: Server, login: str) -> None:
    before = len(server.raw_mail(login))
    with smtplib.SMTP(server.host, server.ports["smtp"], timeout=PATIENCE) as client:
        client.sendmail("carol@far.test", [login], LETTER)
    eventually(lambda: len(server.raw_mail(login)) == before + 1, "the message, among idle clients")


def crowded(server: Server, each: int) -> float:
    """Deliver and read among ``each`` idle clients of SMTP and of POP3; KiB that one of them costs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 2 * each + 200:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(2 * each + 200, hard), hard))
    delivery_works(server, "ada@a.test")
    before = resident_kib(server.pid)
    with ExitStack() as crowd:
        idle(server, "smtp", each, crowd)
        idle(server, "pop3", each, crowd)
        grown = resident_kib(server.pid) - before
        delivery_works(server, "ada@a.test")
    return grown / (2 * each)


def test_three_hundred_idle_clients_of_one_machine(server: Server) -> None:
    assert crowded(server, 150) < 20


@pytest.mark.long
def test_two_thousand_idle_clients(server: Server) -> None:
    assert crowded(server, 1000) < 20


class Few(Server):
    """A server with 240 file descriptors and no way to more."""

    @property
    def command(self) -> list[str]:
        return [tool("prlimit", "util-linux"), "--nofile=240:240", *super().command]


def test_more_clients_than_file_descriptors_are_told_and_cost_nothing(tmp_path: Path) -> None:
    server = Few(tmp_path / "few", "mx.a.test", ["a.test"])
    server.add_user("ada@a.test")
    server.start()
    try:
        with ExitStack() as crowd:
            greetings = []
            for _ in range(200):
                client = socket.create_connection((server.host, server.ports["smtp"]), timeout=PATIENCE)
                crowd.callback(client.close)
                greetings.append(client.recv(200)[:3])
            assert greetings.count(b"220") == 120
            assert greetings.count(b"421") == 80
            before = processor_seconds(server.pid)
            time.sleep(0.5)
            assert processor_seconds(server.pid) - before < 0.25  # it does not spin

        def has_room() -> bool:
            """The crowd has gone, and the server has met that."""
            with socket.create_connection((server.host, server.ports["smtp"]), timeout=PATIENCE) as client:
                return client.recv(200).startswith(b"220")

        eventually(has_room, "room for others")
        delivery_works(server, "ada@a.test")
        console = server.console()
        assert "EMFILE" not in console
        assert console.count("turned away") == 1
        assert console.count("limits tightened") == 1
    finally:
        server.stop()


def test_browsers_and_tls_hellos_are_sent_away_with_one_line(server: Server) -> None:
    for port in ("smtp", "pop3"):
        for sent in (
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
            b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03\r\n",
        ):
            with socket.create_connection((server.host, server.ports[port]), timeout=PATIENCE) as client:
                client.recv(200)
                client.sendall(sent)
                assert client.recv(200) == b""
    eventually(lambda: server.console().count("turned away") == 4, "one line for each")


# -- behind a load balancer, so that every client can be any ---------------------------------------


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "rules").mkdir()
    (folder / "rules" / "office.py").write_text(RULES)
    names = NameServer(
        folder / "dns",
        {
            "bl.test": "7.2.0.192 60 A 127.0.0.2",
            "2.0.192.in-addr.arpa": "8 60 PTR mail.far.test.",
            "far.test": "mail 60 A 192.0.2.8",
        },
    ).start()
    server = Server(
        folder / "a",
        "mx.a.test",
        ["a.test"],
        {
            "relay": {"nameservers": [names.address]},
            "proxy": {"networks": ["127.0.0.0/8"]},
            "policy": {
                "rules": ["office:office_hours"],
                "rules_folder": str(folder / "rules"),
                "rule_time": "1s",
            },
            "policy.block_lists": {"bl.test": 5},
        },
    )
    server.add_user("ada@a.test")
    server.start()
    yield server
    names.stop()
    server.stop()
    assert "Unhandled" not in server.console(), server.console()


def client_at(server: Server, host: str, port: str = "smtp") -> socket.socket:
    client = socket.create_connection((server.host, server.ports[port]), timeout=PATIENCE)
    client.sendall(f"PROXY TCP4 {host} 127.0.0.1 4321 25\r\n".encode())
    return client


def said(client: socket.socket, *lines: str) -> list[str]:
    reader = client.makefile("r", newline="\r\n")
    replies = [reader.readline().strip()]
    for line in lines:
        client.sendall(f"{line}\r\n".encode())
        while (reply := reader.readline()) and reply[3:4] == "-":
            pass
        replies.append(reply.strip())
    return replies


def received(client: socket.socket) -> bytes:
    """Everything until the end of the connection, or until it is reset."""
    octets = b""
    try:
        while more := client.recv(65536):
            octets += more
    except ConnectionResetError:
        pass
    return octets


def sent_from(server: Server, host: str, sender: str = "carol") -> str:
    with client_at(server, host) as client:
        return said(client, "EHLO far.test", f"MAIL FROM:<{sender}@far.test>", "RCPT TO:<ada@a.test>")[-1]


def test_a_listed_client_is_refused_by_name_of_the_list(guarded: Server) -> None:
    assert sent_from(guarded, "192.0.2.7").startswith(
        "554 5.7.1 [192.0.2.7] is listed by bl.test; ask there, or write to our postmaster ("
    )
    assert sent_from(guarded, "192.0.2.8").startswith("250 ")


def test_the_name_and_address_of_the_client_stand_in_received(guarded: Server) -> None:
    with client_at(guarded, "192.0.2.8") as client:
        sent_from(guarded, "192.0.2.8")  # its name is known from now on
        replies = said(
            client,
            "EHLO far.test",
            "MAIL FROM:<carol@far.test>",
            "RCPT TO:<ada@a.test>",
            "DATA",
            LETTER.decode() + ".",
        )
        assert replies[-1].startswith("250 "), replies
    eventually(lambda: len(read(guarded)) == 1, "the message")
    assert b"from far.test (mail.far.test [192.0.2.8])" in read(guarded)[0]


def read(server: Server) -> list[bytes]:
    """Ada's mail by POP3 through the load balancer."""
    with client_at(server, "192.0.2.9", "pop3s") as plain:
        import ssl

        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        client = poplib.POP3.__new__(poplib.POP3)
        client.sock = context.wrap_socket(plain)
        client.file = client.sock.makefile("rb")
        client._debugging, client._tls_established = 0, True
        client.welcome = client._getresp()
        client.user("ada@a.test")
        client.pass_(PASSWORD)
        mail = [b"\r\n".join(client.retr(n + 1)[1]) for n in range(client.stat()[0])]
        client.quit()
        return mail


def test_a_rule_of_ones_own_decides_and_one_that_hangs_or_fails_delays(guarded: Server) -> None:
    assert sent_from(guarded, "192.0.2.20", "refused").startswith("550 5.7.1 Not from you (")
    for sender in ("stuck", "broken"):
        assert sent_from(guarded, "192.0.2.20", sender).startswith("451 4.3.0"), sender
    assert sent_from(guarded, "192.0.2.20").startswith("250 ")
    assert "the rule office:office_hours" in guarded.console()


def test_what_is_no_header_from_a_load_balancer_is_no_session(guarded: Server) -> None:
    with socket.create_connection((guarded.host, guarded.ports["smtp"]), timeout=PATIENCE) as client:
        client.sendall(b"EHLO far.test\r\n")
        assert received(client) == b""


# -- onward ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mends", [False, True], ids=["reject", "normalize"])
def test_nothing_smuggled_reaches_postfix(
    make_server: Callable[..., Server], tmp_path: Path, mends: bool
) -> None:
    sink, port = tool("smtp-sink", "postfix"), free_port()
    dumps = tmp_path / "sink"
    dumps.mkdir()
    user = ("-u", "root") if os.getuid() == 0 else ()
    settings: dict[str, dict[str, Any]] = {
        "relay": {"trusted_networks": ["127.0.0.0/8"], "allow_loopback": True},
        "relay.routes": {"*": f"smtp://127.0.0.1:{port}"},
    }
    if mends:
        settings["limits"] = {"normalize": ["127.0.0.0/8"]}
    server = make_server("a", "mx.a.test", ["a.test"], settings).start()
    process = subprocess.Popen([sink, *user, "-d", f"{dumps}/%M.", f"127.0.0.1:{port}", "100"])
    try:
        accepted = 0
        variants = VARIANTS[::3]
        for number, variant in enumerate(variants):
            with socket.create_connection((server.host, server.ports["smtp"]), timeout=PATIENCE) as client:
                begin = (
                    b"HELO far.test\r\nMAIL FROM:<carol@far.test>\r\nRCPT TO:<%d@out.test>\r\nDATA\r\n"
                    % number
                )
                client.sendall(begin + message(variant) + b"QUIT\r\n")
                accepted += received(client).count(b": queued as ")
        eventually(lambda: server.queue() == [], "all has left")
        eventually(lambda: len(list(dumps.iterdir())) >= accepted, "all has arrived")
    finally:
        process.terminate()
        process.wait(PATIENCE)
    arrived = [path.read_bytes() for path in dumps.iterdir()]
    assert len(arrived) == accepted
    assert 0 < accepted <= len(variants)
    for text in arrived:
        assert re.findall(rb"X-Mail-Args: <(.*?)>", text) == [b"carol@far.test"], text
        assert len(re.findall(rb"X-Rcpt-Args", text)) == 1

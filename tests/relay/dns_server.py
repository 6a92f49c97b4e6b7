"""A small DNS server for tests: a dictionary of answers, UDP and TCP on one loopback port."""

import socket
import struct
from typing import Any

import dns.flags
import dns.message
import dns.rcode
import dns.rdata
import dns.rrset
from twisted.internet import reactor
from twisted.internet.defer import maybeDeferred
from twisted.internet.protocol import DatagramProtocol, Factory, Protocol

SILENT, SERVFAIL, WRONG_ID, GARBAGE = "silent", "servfail", "wrong id", "garbage"


class FakeDNS(DatagramProtocol):
    """``records[(name, type)]`` is a list of record texts, the octets of one record, or one of the words
    above; a name of which nothing is known does not exist. ``asked`` counts the questions.
    ``authentic`` sets AD in every answer to a question that asks for it."""

    def __init__(
        self, records: dict[tuple[str, str], Any], truncate: bool = False, authentic: bool = False
    ) -> None:
        self.records = records
        self.authentic = authentic
        self.truncate = truncate
        self.asked: list[tuple[str, str]] = []
        self.insecure: set[tuple[str, str]] = set()
        """Questions whose answers are never authentic."""

    def start(self) -> str:
        """Both on the same port, which must be free for both."""
        factory = Factory.forProtocol(_OverTCP)
        factory.server = self
        stream, datagrams = _both_on_one_port()
        with stream, datagrams:
            number = stream.getsockname()[1]
            self.tcp = reactor.adoptStreamPort(stream.fileno(), socket.AF_INET, factory)
            self.udp = reactor.adoptDatagramPort(datagrams.fileno(), socket.AF_INET, self)
        return f"127.0.0.1:{number}"

    async def stop(self) -> None:
        await maybeDeferred(self.udp.stopListening)
        await maybeDeferred(self.tcp.stopListening)

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        answer = self.answer(datagram)
        if answer is None:
            return
        if self.truncate:
            cut = dns.message.make_response(dns.message.from_wire(datagram))
            cut.flags |= dns.flags.TC
            answer = cut.to_wire()
        self.transport.write(answer, addr)

    def answer(self, octets: bytes) -> bytes | None:
        query = dns.message.from_wire(octets)
        question = query.question[0]
        name = question.name.to_text(omit_final_dot=True).lower()
        kind = question.rdtype.name
        self.asked.append((name, kind))
        found = self.records.get((name, kind))
        response = dns.message.make_response(query)
        response.flags |= dns.flags.RA
        if self.authentic and query.flags & dns.flags.AD and (name, kind) not in self.insecure:
            response.flags |= dns.flags.AD
        if found == SILENT:
            return None
        if found == GARBAGE:
            return octets[:2] + b"\x81\x80\xff\xff\xff\xff"
        if found == SERVFAIL:
            response.set_rcode(dns.rcode.SERVFAIL)
        elif found == WRONG_ID:
            response.id ^= 1
        elif isinstance(found, bytes):
            raw = dns.rdata.GenericRdata(question.rdclass, question.rdtype, found)
            response.answer.append(dns.rrset.from_rdata(question.name, 60, raw))
        elif isinstance(found, list) and found:
            response.answer.append(dns.rrset.from_text_list(question.name, 60, "IN", kind, found))
        elif ("CNAME", name) in self.records:
            response.answer.append(
                dns.rrset.from_text(question.name, 60, "IN", "CNAME", self.records["CNAME", name])
            )
        elif not any(name == known for known, _ in self.records):
            response.set_rcode(dns.rcode.NXDOMAIN)
        return response.to_wire(max_size=65535)


def _both_on_one_port() -> tuple[socket.socket, socket.socket]:
    """Bound for good when they are given out: a port that was free a moment ago may be a client's now."""
    for _ in range(100):
        stream, datagrams = socket.socket(), socket.socket(type=socket.SOCK_DGRAM)
        try:
            stream.bind(("127.0.0.1", 0))
            datagrams.bind(stream.getsockname())
            stream.listen(50)
        except OSError:
            stream.close()
            datagrams.close()
            continue
        stream.setblocking(False)
        datagrams.setblocking(False)
        return stream, datagrams
    raise AssertionError("no port is free for both TCP and UDP")


class _OverTCP(Protocol):
    octets = b""

    def dataReceived(self, data: bytes) -> None:
        self.octets += data
        if len(self.octets) > 2 and len(self.octets) >= 2 + struct.unpack("!H", self.octets[:2])[0]:
            answer = self.factory.server.answer(self.octets[2:])
            if answer is not None:
                # In two pieces, as a network would.
                framed = struct.pack("!H", len(answer)) + answer
                self.transport.write(framed[:1])
                reactor.callLater(0, self.transport.write, framed[1:])

"""A message's life as people read it."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from typing import Any

from mailserver.trace.records import ENDS
from mailserver.values.units import octets_text

Record = dict[str, Any]


def page(told: dict[str, Any]) -> str:
    """One message or refusal, a line for each event."""
    records = told["records"]
    lines = [f"{told['id']}{', made from ' + told['parent'] if told['parent'] else ''}"]
    for record in records:
        for stage, text in _STAGES.get(record["e"], _other)(record, told):
            lines.append(f"{_moment(record['t'])}  {stage:<12}{text}")
    lines += list(_files(told["files"]))
    if any(record["e"] == "accepted" for record in records) and not _is_over(records):
        lines.append(
            f"{'':25}{'now':<12}it waits, or its end was not recorded; `mailserver queue show` tells"
        )
    return "\n".join(lines)


def _is_over(records: list[Record]) -> bool:
    """Whether each recipient has its end."""
    waiting: set[int] = set()
    for record in records:
        if record["e"] == "accepted":
            waiting |= {int(one[0]) for one in record["to"]}
        elif record["e"] == "attempt":
            waiting -= {int(one["n"]) for one in record["to"] if one["what"] in ENDS}
        elif record["e"] == "operator" and record["what"] == "removed":
            waiting -= set(record.get("n", waiting))
    return not waiting


def _moment(seconds: float) -> str:
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return moment.strftime("%Y-%m-%d %H:%M:%S.") + f"{moment.microsecond // 1000:03d}"


Stages = Iterator[tuple[str, str]]


def _session(record: Record) -> Stages:
    if "client" not in record:
        return
    host, port, name = record["client"]
    called = f" ({name})" if name else ""
    hello = f", called itself {record['hello']}" if record.get("hello") else ""
    began = f", since {_moment(record['began'])}" if record.get("began") else ""
    yield "connection", f"{host}:{port}{called} on {record['role']}{hello}{began}"
    yield "TLS", record["tls"] or "none"
    yield "login", record.get("user") or "none"


def _accepted(record: Record, told: dict[str, Any]) -> Stages:
    yield from _session(record)
    if "client" in record:
        for rule in told["rules"]:
            yield "rule", f"{rule}: no objection"
        for rule, found in record.get("notes", ()):
            yield "rule", f"{rule}: {found}"
    identity = f", Message-ID {record['id']}" if record.get("id") else ""
    how = f", {record['how']}" if record.get("how") else ""
    yield "accepted", f"from <{record['from']}>, {octets_text(record['size'])}{identity}{how}"
    yield from _expansion(record["to"])
    if record.get("hold"):
        yield "held", str(record["hold"])
    if record.get("release"):
        yield "kept back", f"until {_moment(record['release'])}"


def _expansion(recipients: list[list[Any]]) -> Stages:
    for one in recipients:
        was = f", which is <{one[2]}>" if len(one) > 2 else ""
        if len(one) > 2:
            yield "expansion", f"<{one[2]}> leads to <{one[1]}>"
        else:
            yield "recipient", f"<{one[1]}>{was}"


def _attempt(record: Record, _: dict[str, Any]) -> Stages:
    for tried in record.get("tries", ()):
        trust = f", verified by {tried['verified']}" if tried["verified"] else ""
        where = f"{tried['host']}[{tried['address']}]:{tried['port']}"
        yield "tried", f"{where}, {tried['tls'] or 'without TLS'}{trust}"
        for seconds, stage, text in tried["steps"]:
            yield "", f"{seconds:7.3f} s  {stage}: {text}"
        if tried["ended"]:
            yield "", str(tried["ended"])
    for one in record["to"]:
        again = f"; again at {_moment(one['retry'])}" if one.get("retry") else ""
        yield one["what"], f"<{one['to']}> by {one['relay']}, {one['status']} {one['said']}{again}"


def _refused(record: Record, told: dict[str, Any]) -> Stages:
    yield from _session(record)
    rule = record.get("rule") or ""
    for name in told["rules"] if rule in told["rules"] else ():
        if name == rule:
            break
        yield "rule", f"{name}: no objection"
    if rule:
        yield "rule", f"{rule}: refused"
    to = f" to <{record['to']}>" if record.get("to") else ""
    sender = f" from <{record['from']}>" if record.get("from") else ""
    yield "refused", f"{record['command']}{sender}{to}: {record['reply']}"


def _child(record: Record, _: dict[str, Any]) -> Stages:
    what = "a copy to others" if record["from"] else "a report or notice"
    yield "made", f"{record['child']}, {what}"


def _held(record: Record, _: dict[str, Any]) -> Stages:
    yield "held", str(record["why"])


def _operator(record: Record, _: dict[str, Any]) -> Stages:
    why = f": {record['why']}" if record.get("why") else ""
    yield record["what"], f"by {record['by']}{why}"


def _other(record: Record, _: dict[str, Any]) -> Stages:
    yield record["e"], ""


_STAGES: dict[str, Any] = {
    "accepted": _accepted,
    "attempt": _attempt,
    "refused": _refused,
    "child": _child,
    "held": _held,
    "operator": _operator,
}


def _files(files: list[dict[str, Any]]) -> Iterator[str]:
    for one in files:
        if one["path"]:
            yield f"{'':25}{'file':<12}{one['path']}"
        elif not any(visit["what"] == "deleted" for visit in one["visits"]):
            yield f"{'':25}{'file':<12}of <{one['to']}> is not in the mailbox; nobody deleted it by POP3"
        for visit in one["visits"]:
            how = f"by POP3 of <{one['to']}> from {visit['client']}{' under TLS' if visit['tls'] else ''}"
            yield f"{_moment(visit['at'])}  {visit['what']:<12}{how}"

"""Attempts and destinations, as ``queue show`` and ``queue why`` tell them to people."""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mailserver.durable import Disk
from mailserver.values.address import domain_key


def attempt_lines(attempt: dict[str, Any]) -> list[str]:
    """One attempt: where, when, under which TLS, and the dialogue with its times."""
    moment = _moment(attempt["at"])
    phases = attempt["phases"]
    times = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in phases.items())
    trust = f", verified by {attempt['verified']}" if attempt["verified"] else ""
    lines = [
        f"tried     {moment}  {attempt['host']}[{attempt['address']}]:{attempt['port']}",
        f"          {attempt['tls'] or 'without TLS'}{trust}; {times}",
    ]
    lines += [f"          {seconds:7.3f} s  {stage}: {text}" for seconds, stage, text in attempt["steps"]]
    return [*lines, f"          {attempt['ended']}"] if attempt["ended"] else lines


def merged(
    domain: str, answers: Sequence[dict[str, Any]], waiting: Sequence[tuple[int, str]]
) -> dict[str, Any]:
    """What the workers tell of a domain, as one: places are added up, the latest dialogue counts."""
    told: dict[str, Any] = {
        "domain": domain,
        "running": bool(answers),
        "waiting": [{"recipients": count, "reason": reason} for count, reason in waiting],
    }
    useful = [one for one in answers if "trouble" not in one]
    if not useful:
        return {**told, **({"trouble": answers[0]["trouble"]} if answers else {})}
    lasts = [one["last"] for one in useful if one["last"]]
    return {
        **told,
        "route": useful[0]["route"],
        "hosts": [
            _host([one["hosts"][n] for one in useful]) for n in range(min(len(o["hosts"]) for o in useful))
        ],
        "destination": _sum([one["destination"] for one in useful if one["destination"]]),
        "policy_trouble": next((one["policy_trouble"] for one in useful if one["policy_trouble"]), ""),
        "last": max(lasts, key=lambda last: float(last["at"]), default=None),
        "workers": len(answers),
    }


def _host(told: Sequence[dict[str, Any]]) -> dict[str, Any]:
    memory = list(dict.fromkeys(one["memory"] for one in told if one["memory"]))
    seen = max(float(one.get("tls_seen", 0.0)) for one in told)
    return {**told[0], "memory": "; ".join(memory), "tls_seen": seen}


def _sum(states: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """One destination as all workers see it; each has a window of its own."""
    if not states:
        return None
    added = {key: sum(one[key] for one in states) for key in ("busy", "waiting", "open", "window", "limit")}
    dead = [one for one in states if one["dead"]]
    soonest = min(dead, key=lambda one: float(one["probe_in"]), default={"dead": "", "probe_in": None})
    return {**states[0], **added, "dead": soonest["dead"], "probe_in": soonest["probe_in"]}


def forget_on_disk(state: Path, host: str) -> list[str]:
    """Strike a host from what stopped workers have kept of TLS; its name when it was there."""
    found: list[str] = []
    disk = Disk()
    for path in sorted(state.glob("tls-hosts-*.json")):
        table = json.loads(path.read_bytes())
        if table.pop(domain_key(host), None) is not None:
            beside = path.with_name(f"{path.name}.new")
            disk.write(beside, [json.dumps(table).encode()])
            disk.sync_file(beside)
            disk.rename(beside, path)
            disk.sync_folder(state)
            found = [domain_key(host)]
    return found


def why_page(told: dict[str, Any]) -> str:
    """All that the server knows of a domain's destination."""
    lines = [f"domain    {told['domain']}"]
    lines += [f"waiting   {one['recipients']}: {one['reason'] or 'not tried yet'}" for one in told["waiting"]]
    if not told["waiting"]:
        lines.append("waiting   nobody")
    if not told["running"]:
        return "\n".join([*lines, "stopped   the server does not run, so nothing is tried"])
    if "trouble" in told:
        return "\n".join([*lines, f"nowhere   {told['trouble']}"])
    if told["route"]:
        lines.append(f"route     {told['route']}")
    if told["policy_trouble"]:
        lines.append(f"policy    {told['policy_trouble']}")
    for host in told["hosts"]:
        lines.append(f"host      {host['host']}, TLS {host['tls']}")
        lines += [f"          policy: {line}" for line in host["policy"]]
        if host["tls_seen"]:
            lines.append(f"          did TLS, noted {_moment(host['tls_seen'])}; `queue forget` forgets it")
        lines += [f"          {host[key]}" for key in ("refused", "memory") if host[key]]
    lines += _destination(told["destination"])
    if told["last"]:
        lines += ["", *attempt_lines(told["last"])]
    return "\n".join(lines)


def _moment(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat(timespec="seconds")


def _destination(state: dict[str, Any] | None) -> list[str]:
    if state is None:
        return ["window    nothing was sent there since the server started"]
    lines = [
        f"window    {state['busy']} of {state['window']} sessions in use (at most {state['limit']}), "
        f"{state['open']} kept open, {state['waiting']} messages in line"
    ]
    if state["seconds_between"]:
        lines.append(f"          {state['seconds_between']:.1f} s between messages")
    if state["dead"]:
        lines.append(f"dead      {state['dead']}; probed in {state['probe_in']:.0f} s")
    return lines

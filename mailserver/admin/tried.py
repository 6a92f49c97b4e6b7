"""Attempts and destinations, as ``queue show`` and ``queue why`` tell them to people."""

from __future__ import annotations

import datetime
from typing import Any


def attempt_lines(attempt: dict[str, Any]) -> list[str]:
    """One attempt: where, when, under which TLS, and the dialogue with its times."""
    moment = datetime.datetime.fromtimestamp(attempt["at"], datetime.UTC).isoformat(timespec="seconds")
    phases = attempt["phases"]
    times = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in phases.items())
    trust = f", verified by {attempt['verified']}" if attempt["verified"] else ""
    lines = [
        f"tried     {moment}  {attempt['host']}[{attempt['address']}]:{attempt['port']}",
        f"          {attempt['tls'] or 'without TLS'}{trust}; {times}",
    ]
    lines += [f"          {seconds:7.3f} s  {stage}: {text}" for seconds, stage, text in attempt["steps"]]
    return [*lines, f"          {attempt['ended']}"] if attempt["ended"] else lines


def why_page(told: dict[str, Any]) -> str:
    """All that the server knows of a domain's destination."""
    lines = [f"domain    {told['domain']}"]
    if "trouble" in told:
        return "\n".join([*lines, f"nowhere   {told['trouble']}"])
    if told["route"]:
        lines.append(f"route     {told['route']}")
    for host in told["hosts"]:
        lines.append(f"host      {host['host']}, TLS {host['tls']}")
        lines += [f"          policy: {line}" for line in host["policy"]]
        lines += [f"          {host[key]}" for key in ("refused", "memory") if host[key]]
    lines += _destination(told["destination"])
    if told["last"]:
        lines += ["", *attempt_lines(told["last"])]
    return "\n".join(lines)


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

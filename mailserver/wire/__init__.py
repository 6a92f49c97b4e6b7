"""Bytes <-> events: protocol grammar and state, without sockets and without Twisted."""

"""Journeys: a real ``twistd``, a real DNS server, a second server, real clients, all on loopback."""

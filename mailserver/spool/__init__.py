"""Accepted and unfinished: the durable queue."""

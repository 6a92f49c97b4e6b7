"""The comparisons run to their end and leave nothing behind."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from pathlib import Path

import pytest

from tests.journeys.tools import run, tool

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(os.geteuid() != 0, reason="Postfix starts as root only")
def test_the_comparison_with_postfix_prints_a_ratio() -> None:
    tool("smtp-source", "postfix")
    command = [sys.executable, "-m", "benchmarks.local_delivery", "--rounds", "1", "--sessions", "4"]
    with tempfile.TemporaryDirectory(prefix="local-") as folder:  # a path short enough for sockets
        os.chmod(folder, 0o755)  # Postfix delivers as nobody
        done = run([*command, "--messages", "60", "--folder", folder], cwd=ROOT)
        assert done.returncode == 0, done.stdout + done.stderr
        assert re.search(r"^ratio .*: \d+\.\d\d$", done.stdout, re.M), done.stdout
        assert os.listdir(folder) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="Dovecot starts as root only")
def test_idle_connections_are_counted_beside_dovecot() -> None:
    tool("dovecot", "dovecot-pop3d")
    command = [sys.executable, "-m", "benchmarks.idle", "--kind", "POP3 in TLS", "--connections", "40"]
    with tempfile.TemporaryDirectory(prefix="idle-") as folder:  # a path short enough for sockets
        os.chmod(folder, 0o755)
        done = run([*command, "--peer-connections", "10", "--folder", folder], cwd=ROOT)
        assert done.returncode == 0, done.stdout + done.stderr
        assert len(re.findall(r"^POP3 in TLS .* KiB each$", done.stdout, re.M)) == 2, done.stdout
        assert os.listdir(folder) == []

"""Instructions for one message, counted by valgrind: a figure that does not know the machine's mood.

``python -m benchmarks.instructions`` runs this server under callgrind, lets it warm up, and counts what it
executes in user space for each further message of 4 KiB to a mailbox here.  ``--record WHAT`` adds a line to
``benchmarks/history.csv``, so that a change that costs a tenth is seen.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import platform
import re
import subprocess
import sys
from pathlib import Path

from benchmarks.local_delivery import Load, Lost, _send, _wait_for_last
from benchmarks.peers import OurServer, PeerFailed, PeerMissing, _Daemon, find_program
from benchmarks.places import fresh

HISTORY = Path(__file__).parent / "history.csv"
COLUMNS = ("date", "commit", "what", "python", "instructions a message")
WARM, COUNTED, SESSIONS = 100, 200, 10


class _Slowly(_Daemon):
    """Under valgrind everything takes fifty times as long, also the start and the end."""

    start_seconds = stop_seconds = 300.0


class Counted(OurServer):
    """This server under callgrind, which begins to count when it is told to."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, 1)
        out = f"--callgrind-out-file={folder}/callgrind.%p"
        command = [find_program("valgrind", "valgrind"), "--tool=callgrind", "--instr-atstart=no", out]
        program = [sys.executable, self._program("twistd"), *self._daemon._command[1:]]
        self._daemon = _Slowly([*command, *program], folder, self.port)

    def counts(self, on: bool) -> None:
        """Begin to count, or end it."""
        control = [find_program("callgrind_control", "valgrind"), f"--instr={'on' if on else 'off'}"]
        subprocess.run([*control, str(self.pid)], check=True, capture_output=True, cwd=self._folder)

    def instructions(self) -> int:
        """All that were counted, after the end of the process."""
        return sum(
            int(found[1])
            for file in self._folder.glob("callgrind.*")
            if (found := re.search(r"^totals: (\d+)", file.read_text(), re.MULTILINE))
        )


def instructions_a_message(folder: Path) -> float:
    """Counted over ``COUNTED`` messages after ``WARM`` others.

    Raises:
        PeerMissing, PeerFailed, Lost: valgrind is missing, or the server did not do what it should.
    """
    place = fresh(folder)
    server = Counted(place)
    server.start()
    try:
        _send(server.port, Load(WARM, SESSIONS, 4096))
        _wait_for_last(server.new, WARM)
        server.counts(True)
        _send(server.port, Load(COUNTED, SESSIONS, 4096))
        _wait_for_last(server.new, WARM + COUNTED)
        server.counts(False)
    finally:
        server.stop()
    return server.instructions() / COUNTED


def commit() -> str:
    """The commit that is measured, ``+`` where the tree has changes of its own; ``""`` outside of git."""
    git = ["git", "-C", str(HISTORY.parent)]
    head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    changed = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", "../mailserver"], check=False)
    return head.stdout.strip() + ("+" if changed.returncode == 1 else "")


def record(what: str, instructions: float) -> None:
    """Add a line to the history."""
    is_new = not HISTORY.exists()
    with HISTORY.open("a", newline="") as file:
        lines = csv.writer(file, lineterminator="\n")
        if is_new:
            lines.writerow(COLUMNS)
        today = datetime.datetime.now(datetime.UTC).date().isoformat()
        lines.writerow([today, commit(), what, platform.python_version(), round(instructions)])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.instructions", description=__doc__)
    parser.add_argument("--record", metavar="WHAT", help="add a line to benchmarks/history.csv")
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp"), help="for the server's files")
    options = parser.parse_args()
    try:
        counted = instructions_a_message(options.folder)
    except (PeerMissing, PeerFailed, Lost) as error:
        print(f"instructions: {error}", file=sys.stderr)
        return 1
    print(f"{counted:,.0f} instructions for one message of 4 KiB to a mailbox here")
    if options.record:
        record(options.record, counted)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What one RCPT costs with 10,000 users and 20,000 aliases: ``python -m benchmarks.recipients``.

Processor time of the whole way from the parsed command to its reply: the directory, the rules, the
transaction; once for addresses that are met for the first time and once for those met before.
"""

from __future__ import annotations

import random
import sqlite3
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from mailserver.accounts.directory import SqliteDirectory
from mailserver.policy.chains import receiving
from mailserver.policy.posting import posting
from mailserver.values.address import Address
from mailserver.values.session import RecipientFacts, SessionFacts, TransactionFacts

USERS, ALIASES = 10_000, 20_000
ASKED = 5_000
_HASH = "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHQ$aGFzaA"


def fill(folder: Path) -> SqliteDirectory:
    """A directory of that size, as so many commands would leave it."""
    directory = SqliteDirectory(folder / "accounts.sqlite", ["a.test", "b.test"])
    directory.open()
    db = sqlite3.connect(folder / "accounts.sqlite")
    with db:
        db.executemany(
            "INSERT INTO account (local, domain, local_key, domain_key, password) VALUES (?, ?, ?, ?, ?)",
            [(f"user{n}", "a.test", f"user{n}", "a.test", _HASH) for n in range(USERS)],
        )
        db.executemany(
            "INSERT INTO alias (id, local, domain, local_key, domain_key) VALUES (?, ?, ?, ?, ?)",
            [(n, f"alias{n}", "b.test", f"alias{n}", "b.test") for n in range(1, ALIASES + 1)],
        )
        db.executemany(
            "INSERT INTO target VALUES (?, ?, ?, ?)",
            [(n, k, f"user{(n + k) % USERS}", "a.test") for n in range(1, ALIASES + 1) for k in range(2)],
        )
    db.close()
    return directory


def addresses(seed: int = 5321) -> list[Address]:
    """Users, details, aliases and strangers' guesses, in a mixed order."""
    chosen = random.Random(seed)
    kinds = ("user{}@a.test", "user{}+x@a.test", "alias{}@b.test", "alias{}@b.test", "guess{}@a.test")
    texts = [kinds[n % len(kinds)].format(chosen.randrange(1, USERS)) for n in range(ASKED)]
    chosen.shuffle(texts)
    return [Address(*text.split("@")) for text in texts]


def ask(directory: SqliteDirectory, asked: Sequence[Address]) -> float:
    """Seconds of processor time for one RCPT."""
    decide = receiving(posting(directory.resolve))
    transaction = TransactionFacts(SessionFacts("smtp", "192.0.2.1", 4321), Address("bob", "out.test"))
    began = time.process_time()
    for address in asked:
        decide(RecipientFacts(transaction, address, directory.resolve(address)))
    return (time.process_time() - began) / len(asked)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        directory = fill(Path(folder))
        asked = addresses()
        print(f"{USERS} users, {ALIASES} aliases; processor time of one RCPT")
        print(f"  met for the first time: {ask(directory, asked) * 1e6:6.1f} µs")
        print(f"  met before:             {ask(directory, asked) * 1e6:6.1f} µs")
        directory.close()


if __name__ == "__main__":
    main()

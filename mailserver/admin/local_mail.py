"""What ``mailserver deliver`` and ``mailserver sendmail`` share: who writes, and the drop folder."""

from __future__ import annotations

import os
import pwd
from collections.abc import Sequence

from mailserver.admin.operator import Operator, Refusal
from mailserver.deliver import drop
from mailserver.values.address import Address


def sender_of(operator: Operator) -> Address:
    """Whoever runs the command, at the first domain."""
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        name = f"uid{os.getuid()}"
    return Address(name, operator.settings.domains[0])


def drop_into(operator: Operator, sender: Address, recipients: Sequence[Address], content: bytes) -> None:
    """Put a message where the server takes it from.

    Raises:
        Refusal: 75 there is no such folder or no room now, 77 it may not be written, 65 too long.
    """
    most = operator.settings.limits.message_size
    if len(content) > most:
        raise Refusal(os.EX_DATAERR, f"the message is longer than {most} octets")
    folder = operator.settings.state / drop.FOLDER
    try:
        drop.put(folder, sender, recipients, content)
    except FileNotFoundError:
        raise Refusal(
            os.EX_TEMPFAIL, f"{folder} is not there; the server makes it at its first start"
        ) from None
    except PermissionError as error:
        remedy = f"`chmod o+x {folder.parent}` lets local users reach it"
        raise Refusal(os.EX_NOPERM, f"{folder}: {error.strerror}; {remedy}") from error
    except OSError as error:
        raise Refusal(os.EX_TEMPFAIL, f"{folder}: {error.strerror or error}") from error

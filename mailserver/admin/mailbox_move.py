"""``mailserver mailbox convert``, ``export`` and ``import``: mail goes to another place or format."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from mailserver.admin.operator import ADDRESS, PATIENCE, Operator, Refusal, become_owner
from mailserver.admin.output import Output, json_option
from mailserver.admin.progress import Progress
from mailserver.interfaces import MailboxUnavailable, MaildropInUse
from mailserver.store.conversion import Conversion, ConversionRefused
from mailserver.store.exporting import ExportRefused
from mailserver.store.exporting import export as export_mailbox
from mailserver.store.foreign_ids import DOVECOT_FORMAT, SOURCES, ForeignIdsError
from mailserver.store.importing import ImportRefused, import_into, source_at
from mailserver.store.mailboxes import Mailboxes
from mailserver.store.paths import MBOX, mailbox_path
from mailserver.values.account import Account, LocalUser
from mailserver.values.address import Address

FORMATS = ("maildir", "mbox")


@click.command(epilog="Example: mailserver mailbox convert ada@example.test --to mbox")
@click.argument("address", type=ADDRESS)
@click.option("--to", "format_", type=click.Choice(FORMATS), required=True, help="The format to come.")
@json_option
@click.pass_obj
def convert(operator: Operator, address: Address, format_: str, as_json: bool) -> None:
    """Keep the mailbox of ADDRESS in another format from now on. Works while the server runs.

    Unique ids and flags stay: no client fetches a message twice. Whoever kills it loses nothing; the same
    command goes on. Mail that lies in the other format though the account has this one is brought over too.
    """
    output = Output(as_json)
    account = account_of(operator, address)
    with mailboxes_of(operator, account) as mailboxes:
        conversion = Conversion(mailboxes, format_)
        with operator.directory() as directory, Progress("converting", conversion.total()) as progress:
            done = conversion.run(
                effective_format(operator, account),
                lambda: directory.set_format(account.address, format_),
                progress.add,
            )
            directory.set_format(account.address, format_)
    stays = f"; its folders {', '.join(done.folders)} stay in the Maildir" if done.folders else ""
    output.done(
        f"{address} is kept as {format_}: {done.messages} messages brought over{stays}",
        address=str(address),
        format=format_,
        messages=done.messages,
        folders_left=list(done.folders),
    )


@click.command(epilog="Example: mailserver mailbox export ada@example.test --to /backup/ada.mbox")
@click.argument("address", type=ADDRESS)
@click.option(
    "--to",
    "target",
    metavar="PATH",
    required=True,
    type=click.Path(path_type=Path),
    help="A new mbox if it ends in .mbox, else the folder of a new Maildir.",
)
@json_option
@click.pass_obj
def export(operator: Operator, address: Address, target: Path, as_json: bool) -> None:
    """Copy the mailbox of ADDRESS to an mbox or a Maildir elsewhere, with its unique ids.

    Works while the server runs. mailserver mailbox import reads either back.
    """
    output = Output(as_json)
    account = account_of(operator, address)
    target = target.absolute()
    with mailboxes_of(operator, account) as mailboxes, _reachable(target):
        format_ = effective_format(operator, account)
        total = _octets_at(mailboxes.path(format_))
        with Progress("exporting", total) as progress:
            messages, in_folders = export_mailbox(mailboxes, format_, str(target), progress.add)
    more = f", and {in_folders} in folders" if in_folders else ""
    output.done(
        f"{messages} messages of {address}{more} are in {target}",
        address=str(address),
        to=str(target),
        format="mbox" if target.name.endswith(MBOX) else "maildir",
        messages=messages,
        in_folders=in_folders,
    )


@click.command("import", epilog="Example: mailserver mailbox import ada@example.test /var/vmail/ada/Maildir")
@click.argument("address", type=ADDRESS)
@click.argument("source", metavar="FROM", type=click.Path(path_type=Path))
@click.option(
    "--ids",
    metavar="SOURCE",
    default="",
    help="Where the unique ids of a Maildir come from: dovecot, courier, names (qmail), or a file whose "
    "lines are a unique id, a blank and a file's name. Else what is found beside the messages.",
)
@click.option(
    "--uidl-format",
    metavar="FORMAT",
    default=DOVECOT_FORMAT,
    show_default=True,
    help="Dovecot's pop3_uidl_format, if the old server had another than this one.",
)
@json_option
@click.pass_obj
def import_(
    operator: Operator, address: Address, source: Path, ids: str, uidl_format: str, as_json: bool
) -> None:
    """Bring the mail in FROM, a Maildir or an mbox, into the mailbox of ADDRESS. Works while the server runs.

    A Maildir may be Dovecot's, Courier's or qmail's: clients see the unique ids that the old server gave, and
    fetch nothing twice. The same import again brings only what has come meanwhile. A quota keeps nothing
    out, but what came counts.
    """
    output = Output(as_json)
    account = account_of(operator, address)
    ids = str(Path(ids).absolute()) if ids and ids not in SOURCES else ids
    source = source.absolute()
    with mailboxes_of(operator, account) as mailboxes, _reachable(source):
        found = source_at(source, ids, uidl_format)
        with Progress("importing", found.octets) as progress:
            done = import_into(mailboxes, effective_format(operator, account), found, progress.add)
    text = f"{done.messages} messages came to {address}, {done.present} had come before"
    text += f"; ids from {found.ids_from}"
    if count := sum(done.folders.values()):
        text += f"; {count} in folders"
    if done.left:
        text += f"; left out, since an mbox has no folders: {', '.join(done.left)}"
    if done.renamed:
        text += f"; {done.renamed} had an id that another message has, and got one of their own"
    output.done(
        text,
        address=str(address),
        messages=done.messages,
        present=done.present,
        ids_from=found.ids_from,
        folders=done.folders,
        folders_left=list(done.left),
        renamed=done.renamed,
    )


def account_of(operator: Operator, address: Address) -> Account:
    """Whose mailbox it is; a ``Refusal`` when nobody has it."""
    with operator.directory() as directory:
        found = directory.resolve(address)
    if not isinstance(found, LocalUser):
        raise Refusal(os.EX_NOUSER, f"there is no user {address}; see mailserver user list")
    return found.account


def effective_format(operator: Operator, account: Account) -> str:
    """``"maildir"`` or ``"mbox"``."""
    return account.format or operator.settings.store.format


@contextmanager
def mailboxes_of(operator: Operator, account: Account) -> Iterator[Mailboxes]:
    """The account's mailbox, used as the mail server's user; what fails becomes a ``Refusal``."""
    from mailserver.durable import Disk

    root = operator.settings.store.path
    become_owner(root)
    disk = Disk()
    path = mailbox_path(os.path.abspath(root), account.address)
    try:
        yield Mailboxes(disk, path, operator.settings.hostname, PATIENCE)
    except (ConversionRefused, ExportRefused) as error:
        raise Refusal(os.EX_CANTCREAT, str(error)) from error
    except (ImportRefused, ForeignIdsError) as error:
        raise Refusal(os.EX_DATAERR, str(error)) from error
    except MaildropInUse as error:
        text = f"a POP3 session has the mailbox of {account.address}; try again when it has ended"
        raise Refusal(os.EX_TEMPFAIL, text) from error
    except MailboxUnavailable as error:
        raise Refusal(os.EX_TEMPFAIL, str(error)) from error
    finally:
        disk.close()


@contextmanager
def _reachable(path: Path) -> Iterator[None]:
    """Say who must be able to reach a path outside the store."""
    try:
        yield
    except FileNotFoundError as error:
        if error.filename and Path(error.filename) in (path, path.parent):
            raise Refusal(os.EX_NOINPUT, f"{error.filename}: {error.strerror}") from error
        raise
    except PermissionError as error:
        whom = f"the mail server's user (uid {os.geteuid()}) must be allowed to use it"
        raise Refusal(os.EX_NOPERM, f"{error.filename}: {error.strerror}; {whom}") from error


def _octets_at(path: str) -> int:
    """About how much a mailbox holds, for a progress bar."""
    from mailserver.store.stored import stored_in

    return os.path.getsize(path) if os.path.isfile(path) else sum(stored.size for stored in stored_in(path))

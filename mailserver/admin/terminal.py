"""``mailserver terminal``: shows what SEND, SOML and SAML send to a user."""

from __future__ import annotations

import os

import click

from mailserver.admin.operator import ADDRESS, Operator, Refusal, become_owner
from mailserver.values.address import Address


@click.command(epilog="Example: mailserver terminal ada@example.test")
@click.argument("address", type=ADDRESS)
@click.pass_obj
def terminal(operator: Operator, address: Address) -> None:
    """Attach this terminal to the user ADDRESS: what is sent to it by SEND, SOML or SAML appears here.

    Ctrl-C ends it. While it runs, the server tells senders that they reach the user; where the server is
    started again, or has several workers, it attaches itself again by itself.
    """
    from mailserver.control_client import NoServer, Refused
    from mailserver.control_streams import Streams

    state = operator.settings.state
    become_owner(state)
    streams = Streams(state, "terminal", address=str(address))
    try:
        streams.connect()
        click.echo(f"attached to {address}; Ctrl-C ends", err=True)
        for message in streams.messages():
            for line in message.body.get("show", ()):
                click.echo(line.encode("utf-8", "replace"))
            message.reply(shown=message.body.get("number"))
    except NoServer as error:
        raise Refusal(os.EX_UNAVAILABLE, f"the server does not answer ({error}); is it running?") from error
    except Refused as error:
        raise Refusal(os.EX_UNAVAILABLE, str(error)) from error
    except KeyboardInterrupt:
        pass
    finally:
        streams.close()

"""A relay that stops begins nothing new: no look-up is waited for, and its message waits."""

from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase
from zope.interface import implementer

from mailserver.interfaces import IMailExchanges
from mailserver.relay.agent import RelayAgent
from mailserver.values.outcome import Delayed

from .test_agent import entry


@implementer(IMailExchanges)
class _Silent:
    """A name server that never answers."""

    def exchanges(self, domain: str) -> Deferred[Any]:
        return Deferred()


class StoppingTests(TestCase):
    async def test_a_look_up_without_end_is_given_up(self) -> None:
        agent = RelayAgent(reactor, _Silent(), "mx.a.test")
        agent.start()
        one = entry("bob@b.test")
        attempt = agent.attempt(one, one.envelope.recipients)
        assert not attempt.called
        await agent.stop()
        (outcome,) = await attempt
        assert isinstance(outcome, Delayed)
        assert outcome.status == "4.3.2"

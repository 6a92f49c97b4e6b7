"""What DNS says of a client: its confirmed name, and its score on block lists; never waited for long."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from ipaddress import ip_address
from typing import Any, Protocol

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IReactorTime

from mailserver.interfaces import LookupDelayed
from mailserver.values.reply import Reply
from mailserver.values.session import RecipientFacts, SessionFacts

REMEMBERED_SECONDS = 300.0
"""How long what was found is used for the same client's next session."""

FAILED_SECONDS = 60.0
"""How long what found no answer is not asked again, whoever comes: a dead list delays nobody twice."""

MOST_INQUIRIES = 5000
MOST_NAMES = 5
"""PTR records of one address that are looked at."""

_NAME = re.compile(r"(?=.{1,253}$)[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})+", re.IGNORECASE | re.ASCII)


class Resolver(Protocol):
    """``relay.resolver.Resolver``: records as text, ``()`` where there are none."""

    def texts(self, name: str, record: str) -> Awaitable[Sequence[str]]:
        """Raises ``LookupDelayed``."""


class BlockList(Protocol):
    """``policy.reputation.BlockList``."""

    @property
    def zone(self) -> str: ...

    @property
    def score(self) -> int: ...

    def counts(self, addresses: Sequence[str], /) -> bool: ...


class Inquiry:
    """One client: what is known so far, and who waits for the rest."""

    __slots__ = ("began", "done", "name", "score", "waiting", "zones")

    def __init__(self, began: float) -> None:
        self.began = began
        self.done = False
        self.name = ""
        self.score = 0
        self.zones: list[str] = []
        self.waiting: list[Deferred[None]] = []


class ClientLookups:
    """Asks DNS about strangers, from EHLO on, while they go on talking.

    Only a RCPT waits for the block lists, and ``seconds`` at most; a name is used if it is there when
    the message begins.  What cannot be found out counts for nothing.
    """

    def __init__(
        self,
        resolver: Resolver,
        clock: IReactorTime,
        lists: Sequence[BlockList],
        query_name: Callable[[str, str], str],
        refusal: Callable[[RecipientFacts, int, Sequence[str]], Reply | None],
        reverse_dns: bool,
        seconds: float,
    ) -> None:
        self._resolver = resolver
        self._clock = clock
        self._lists = lists
        self._query_name = query_name
        self._refusal = refusal
        self._reverse_dns = reverse_dns
        self._seconds = seconds
        self._inquiries: OrderedDict[str, Inquiry] = OrderedDict()
        self._failed: dict[str, float] = {}
        self._under_way: set[Deferred[None]] = set()

    def stop(self) -> None:
        """Wait for no answer any more."""
        for question in list(self._under_way):
            question.cancel()

    def begin(self, facts: SessionFacts) -> None:
        """Ask about a session's client, if it is a stranger and was not asked about just now."""
        if facts.role != "smtp" or facts.trusted or facts.exempt:
            return
        inquiry = self._inquiry(facts.client_host)
        if inquiry is not None:
            facts.client_name = inquiry.name

    def name_of(self, facts: SessionFacts) -> str:
        """The client's name, if a look-up has confirmed it by now; ``""`` otherwise."""
        inquiry = self._inquiries.get(facts.client_host)
        return inquiry.name if inquiry is not None else ""

    def __call__(self, facts: RecipientFacts) -> Reply | Awaitable[Reply | None] | None:
        """The rule: waits for the lists, but only if there are any."""
        session = facts.transaction.session
        if not self._lists or session.account is not None:
            return None
        inquiry = self._inquiries.get(session.client_host)
        if inquiry is None:
            return None
        if inquiry.done:
            return self._refusal(facts, inquiry.score, inquiry.zones)
        return self._later(facts, inquiry)

    async def _later(self, facts: RecipientFacts, inquiry: Inquiry) -> Reply | None:
        waiting: Deferred[None] = Deferred()
        inquiry.waiting.append(waiting)
        await waiting
        return self._refusal(facts, inquiry.score, inquiry.zones)

    def _inquiry(self, host: str) -> Inquiry | None:
        now = self._clock.seconds()
        known = self._inquiries.get(host)
        if known is not None and (not known.done or now - known.began < REMEMBERED_SECONDS):
            return known
        try:
            ip_address(host)
        except ValueError:
            return None
        inquiry = self._inquiries[host] = Inquiry(now)
        self._inquiries.move_to_end(host)
        if len(self._inquiries) > MOST_INQUIRIES:
            self._inquiries.popitem(last=False)
        self._ask(host, inquiry)
        return inquiry

    def _ask(self, host: str, inquiry: Inquiry) -> None:
        questions: list[tuple[str, Any]] = [
            (each.zone, self._listed(host, inquiry, each)) for each in self._lists if self._may_ask(each.zone)
        ]
        if self._reverse_dns and self._may_ask("name"):
            questions.append(("name", self._named(host, inquiry)))
        asked = [self._begun(what, question) for what, question in questions]
        # Only the lists are waited for: a name is a nicety.
        lists = asked[: len(asked) - (bool(questions) and questions[-1][0] == "name")]
        DeferredList(lists).addCallback(lambda _: self._finish(inquiry))

    def _may_ask(self, what: str) -> bool:
        return self._clock.seconds() - self._failed.get(what, -FAILED_SECONDS) >= FAILED_SECONDS

    def _no_answer(self, what: str, _: object) -> None:
        self._failed[what] = self._clock.seconds()

    def _finish(self, inquiry: Inquiry) -> None:
        inquiry.done = True
        waiting, inquiry.waiting = inquiry.waiting, []
        for each in waiting:
            each.callback(None)

    def _begun(self, what: str, question: Any) -> Deferred[None]:
        asking: Deferred[None] = Deferred.fromCoroutine(question)
        self._under_way.add(asking)

        def ended(result: object) -> object:
            self._under_way.discard(asking)
            return result

        asking.addTimeout(self._seconds, self._clock).addBoth(ended)
        return asking.addErrback(partial(self._no_answer, what))

    async def _listed(self, host: str, inquiry: Inquiry, each: BlockList) -> None:
        if each.counts(await self._resolver.texts(self._query_name(host, each.zone), "A")):
            inquiry.score += each.score
            if each.score > 0:
                inquiry.zones.append(each.zone)

    async def _named(self, host: str, inquiry: Inquiry) -> None:
        """A name counts only when it leads back to the address (RFC 8601 §3, "iprev")."""
        try:
            names = await self._resolver.texts(ip_address(host).reverse_pointer, "PTR")
            for name in names[:MOST_NAMES]:
                plain = name.rstrip(".").lower()
                record = "AAAA" if ":" in host else "A"
                if _NAME.fullmatch(plain) and host in await self._resolver.texts(plain, record):
                    inquiry.name = plain
                    return
        except LookupDelayed:
            # One network's broken reverse zone says nothing about the resolver.
            return

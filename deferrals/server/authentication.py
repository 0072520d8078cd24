"""
Finds out where a message comes from: SPF, DKIM, ARC and DMARC, once for each message,
whoever asks: the stages of all policies, what seals what is forwarded, what lets in
senders that are proved.

All questions to DNS of one message are asked side by side, and have L{DNS_SECONDS}
together.  What has no answer by then is I{temperror}.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

import attrs
from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from deferrals.deferreds import SharedResult, together, withDeadline
from deferrals.interfaces import IMessage
from deferrals.logger import Logger
from deferrals.model import dmarc
from deferrals.model.authentication import DMARC, DNS_SECONDS, Authentication
from deferrals.model.dkim import fieldsIn
from deferrals.model.envelope import Envelope
from deferrals.model.networks import mayHaveName
from deferrals.model.spf import Finding, LookupFailed, Resolver, checkedDomain
from deferrals.model.spfrecord import SPFResult
from deferrals.model.status import Status
from deferrals.server.spf import SPF
from deferrals.server.verifying import Verified, Verifier
from deferrals.stages.foreign import original
from deferrals.threads import InThread

_log = Logger(namespace="deferrals.authentication")

#: What DNS has of authors' domains.
_Records = Sequence[dmarc.DMARCRecord | LookupFailed | None]


@attrs.define
class _SideBySide:
    """
    What is found out side by side.
    """

    verified: Verified = Verified()
    spf: Finding | None = None
    records: _Records = ()


class Authentications:
    """
    @param inThread: runs a function outside the reactor thread.
    @param names: DNS.
    @param spf: asks it about clients.
    @param clock: timers.
    @param status: counts what was judged.
    """

    def __init__(
        self,
        inThread: InThread,
        names: Resolver,
        spf: SPF,
        clock: IReactorTime,
        status: Status,
    ) -> None:
        self._names = names
        self._clock = clock
        self._status = status
        self._spf = spf
        self._verifier = Verifier(inThread, names, clock)
        self._inThread = inThread
        self._suffixes: SharedResult[dmarc.Suffixes] | None = None

    def ofMessage(self, message: IMessage, envelope: Envelope) -> Deferred[Authentication]:
        """
        See L{IServices.authentication<deferrals.interfaces.IServices.authentication>}.
        """

        async def find(whole: IMessage) -> Authentication:
            self._status.count("scans", "authenticate")
            found = await self._find(whole, envelope)
            words = "; ".join(found.words("")[1:])
            _log.info("{transaction}: {found}", transaction=envelope.id, found=words)
            return found

        found: Deferred[Authentication] = original(message).shared(__name__, find)
        return found

    async def _find(self, message: IMessage, envelope: Envelope) -> Authentication:
        """
        @raise OSError: the message cannot be read.
        """
        fields = fieldsIn(message.header)
        isOutside = envelope.client.user is None and mayHaveName(envelope.client.address)
        mayJudge = isOutside and _mayJudge()
        authors = dmarc.authorsOf(fields) if mayJudge else dmarc.Authors()
        found = _SideBySide()

        async def verify() -> None:
            found.verified = await self._verifier.check(message, fields)

        async def prove() -> None:
            found.spf = await self._spfOf(envelope) if isOutside else None

        async def ask() -> None:
            found.records = await self._recordsOf(authors.domains)

        await together([Deferred.fromCoroutine(one()) for one in (verify, prove, ask)])
        judged = await self._judge(authors, found) if mayJudge else None
        verified = found.verified
        return Authentication(found.spf, verified.dkim, verified.arc, judged, verified.unchecked)

    def _spfOf(self, envelope: Envelope) -> Deferred[Finding | None]:
        client, sender = envelope.client, envelope.sender

        def late(failure: Failure) -> Finding:
            failure.trap(TimeoutError)
            domain = checkedDomain(client.helo, sender)
            return Finding(SPFResult.TEMPERROR, domain, "there is no result in time")

        found: Deferred[Finding | None] = withDeadline(
            self._clock, DNS_SECONDS, self._spf.check, client.address, client.helo, sender
        )
        return found.addErrback(late)

    async def _recordsOf(self, domains: Sequence[str]) -> _Records:
        """
        What DNS has of authors' domains.
        """
        if not domains:
            return []
        suffixes = await self._readSuffixes()

        async def find(domain: str) -> dmarc.DMARCRecord | LookupFailed | None:
            try:
                return await withDeadline(
                    self._clock, DNS_SECONDS, dmarc.findRecord, self._names, domain, suffixes
                )
            except LookupFailed as error:
                return error
            except TimeoutError:
                return LookupFailed("there is no answer in time")

        return await together([Deferred.fromCoroutine(find(one)) for one in domains])

    async def _judge(self, authors: dmarc.Authors, found: _SideBySide) -> DMARC:
        if not authors.domains:
            return dmarc.together(authors, [])
        suffixes = await self._readSuffixes()
        judged = [
            dmarc.judge(one, record, found.spf, found.verified.dkim, suffixes)
            for one, record in zip(authors.domains, found.records, strict=True)
        ]
        return dmarc.together(authors, judged)

    async def _readSuffixes(self) -> dmarc.Suffixes:
        """
        Read once, in a thread: it takes as long as ten messages.
        """
        shared = self._suffixes
        if shared is None:
            shared = self._suffixes = SharedResult(self._inThread(_suffixes))
            # This one waits to the end, so that nothing is cancelled.
            shared.wait().addErrback(self._notRead)
        return await shared.wait()

    def _notRead(self, failure: Failure) -> None:
        self._suffixes = None  # another message tries again


def _mayJudge() -> bool:
    """
    Whether what judges is installed: the extra C{authentication}.
    """
    return all(importlib.util.find_spec(name) for name in ("dmarc", "publicsuffixlist"))


def _suffixes() -> dmarc.Suffixes:
    """
    Blocks: for a thread.
    """
    import publicsuffixlist

    return dmarc.Suffixes(publicsuffixlist.PublicSuffixList().privatesuffix)

"""
What a message proves of its sender: the domains that DKIM and SPF prove.
"""

from __future__ import annotations

from collections.abc import Callable
from email.utils import getaddresses

from twisted.internet.defer import Deferred

from deferrals.interfaces import IMessage
from deferrals.model.admission import Proofs
from deferrals.model.authentication import Authentication
from deferrals.model.envelope import Envelope
from deferrals.model.spfrecord import SPFResult
from deferrals.server.spf import SPF

#: So much of a From field is looked at.
FROM_CHARACTERS = 8 * 1024


class Prover:
    """
    @param spf: checks whether a client may send for a domain.
    @param authentication: see
        L{IServices.authentication<deferrals.interfaces.IServices.authentication>}.
    """

    def __init__(
        self,
        spf: SPF,
        authentication: Callable[[IMessage, Envelope], Deferred[Authentication]],
    ) -> None:
        self._spf = spf
        self._authentication = authentication

    async def proofs(self, envelope: Envelope, message: IMessage | None = None) -> Proofs:
        """
        @param message: C{None} before the data: then no signature is known.
        """
        if message is None:
            domain = await self._spf.proved(envelope)
            return Proofs(spf=(domain or "").lower())
        try:
            found = await self._authentication(message, envelope)
        except OSError:  # a large one that is gone already
            return await self.proofs(envelope)
        signers = {one.domain.lower() for one in found.dkim if one.result == "pass"}
        own = domainsOf(message, envelope)
        spf = found.spf
        isProved = spf is not None and spf.result is SPFResult.PASS
        return Proofs(
            frozenset(one for one in signers if one and any(_isIn(name, one) for name in own)),
            spf.domain.lower() if spf is not None and isProved else "",
        )


def domainsOf(message: IMessage, envelope: Envelope) -> set[str]:
    """
    The domains that a message says it comes from: its author's and its sender's.
    """
    values = [value for name, value in message.fields() if name.lower() == "from"]
    text = [value[:FROM_CHARACTERS] for value in values[:1]]
    found = {address.rpartition("@")[2].lower() for _, address in getaddresses(text)}
    if envelope.sender is not None:
        found.add(envelope.sender.domain)
    return found - {""}


def _isIn(name: str, domain: str) -> bool:
    return f".{name}".endswith(f".{domain}")

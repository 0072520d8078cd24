"""
What the stages that ask a scanner have in common: one scan per message however
many cohorts and policies want it, a deadline, a circuit breaker, and what a
failure means.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, Literal

from twisted.internet.defer import CancelledError, inlineCallbacks
from twisted.logger import Logger

from deferrals.model.envelope import Envelope
from deferrals.model.reply import R451_STAGE_FAILED
from deferrals.model.verdict import ACCEPT, Accept, ContentVerdict, Marks, Refuse
from deferrals.stages.remote import RemoteService

_log = Logger(namespace="deferrals.stages.scanner")

#: What a scanner's failure means for the recipients concerned:
#: C{"refuse-temporarily"}: 451, the sender tries again;
#: C{"accept"}: they accept here, and their copies say that they were not scanned;
#: C{"skip"}: as if the policy did not have the stage.
OnError = Literal["refuse-temporarily", "accept", "skip"]

#: The field of a copy that a scanner should have seen and has not.
UNSCANNED = "Deferrals-Unscanned"


class Scanner:
    """
    One scanner as one stage asks it.

    @param name: the stage's name in the configuration.
    @param place: the scanner's URL or endpoint; with C{name}, its identity.
    @param settings: the stage's, with C{timeout}, C{on_error}, C{concurrency}.
    @param services: L{IServices<deferrals.interfaces.IServices>}.
    """

    def __init__(self, name: str, place: str, settings: Any, services: Any) -> None:
        self.identity = (name, place)
        self._name = name
        self._settings = settings
        self._status = services.status
        self._remote: RemoteService = services.common(
            ("scanner", name, place, settings.concurrency),
            lambda: RemoteService(f"{name} {place}", services, settings.concurrency),
        )

    @inlineCallbacks
    def judge(
        self,
        message: Any,
        envelope: Envelope,
        key: Hashable,
        scan: Callable[[], Any],
        decide: Callable[[Any], ContentVerdict],
    ) -> Any:
        """
        @param key: scans of this message with equal keys are one.
        @param scan: makes the scan; returns a Deferred of its result.
        @param decide: what this cohort makes of the result.
        @return: a Deferred of a verdict; may be cancelled.
        """

        def asked(_: Any) -> Any:
            self._status.count("scans", self._name)
            return self._remote.ask(self._settings.timeout, scan)

        self._status.count("judgements", self._name)
        try:
            result = yield message.shared((*self.identity, key), asked)
        except CancelledError:
            raise
        except Exception as error:
            return self._unscanned(envelope, error)
        return decide(result)

    def _unscanned(self, envelope: Envelope, error: Exception) -> ContentVerdict:
        onError = self._settings.on_error
        _log.warn(
            "{transaction}: not scanned by {name}, so {on_error}: {error}",
            transaction=envelope.id,
            name=" ".join(self.identity),
            on_error=onError,
            error=f"{type(error).__name__}: {error}",
        )
        self._status.count("unscanned", f"{self._name} {onError}")
        if onError == "refuse-temporarily":
            return Refuse(R451_STAGE_FAILED)
        return Accept(Marks(((UNSCANNED, self._name),))) if onError == "accept" else ACCEPT

"""
What the stages that ask a scanner have in common: one scan per message however
many cohorts and policies want it, a deadline, a circuit breaker, and what a
failure means.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable
from typing import Literal, Protocol, TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import LogLevel

from deferrals.interfaces import IMessage, IServices
from deferrals.logger import Logger
from deferrals.model.envelope import Envelope
from deferrals.model.reply import R451_STAGE_FAILED, Reply
from deferrals.model.settings import Seconds
from deferrals.model.verdict import Accept, ContentVerdict, Marks, Refuse
from deferrals.stages.remote import RemoteService
from deferrals.stages.web import shownURL

_T = TypeVar("_T")

_log = Logger(namespace="deferrals.stages.scanner")

#: What a scanner's failure means for the recipients concerned:
#: C{"refuse-temporarily"}: 451, the sender tries again;
#: C{"accept"}: they accept here, and their copies say that they were not scanned;
#: C{"skip"}: as if the policy did not have the stage.
OnError = Literal["refuse-temporarily", "accept", "skip"]

#: What it means that a message is larger than a scanner takes.
TooLargeMeans = Literal["accept", "mark", "refuse"]

#: The field of a copy that a scanner should have seen and has not.
UNSCANNED = "Deferrals-Unscanned"

#: What the log is told of a message that a scanner has not seen, behind its name.
_TOO_LARGE, _NOT_SCANNED = "too large", "not scanned"


def isUnscanned(verdict: ContentVerdict) -> bool:
    """
    Whether it is no scanner's that has accepted the message.
    """
    if isinstance(verdict, Refuse):
        return False
    isMarked = any(name == UNSCANNED for name, _ in verdict.marks.headers)
    return isMarked or verdict.why.partition(": ")[2].startswith((_TOO_LARGE, _NOT_SCANNED))


def notScanned(name: str, onError: OnError) -> str:
    """
    What has decided where there was no scan by C{name}.
    """
    return f"{name}: {_NOT_SCANNED}, on_error {onError}"


def tooLarge(
    name: str, means: TooLargeMeans, text: str = "too large to be scanned"
) -> ContentVerdict:
    """
    What it means that a message is too large for the scanner C{name}.

    @param text: what a sender is told that is refused.
    """
    why = f"{name}: {_TOO_LARGE}, {means}"
    if means == "refuse":
        return Refuse(Reply(552, "5.3.4", text), why=why)
    if means == "accept":
        return Accept(why=why)
    return Accept(Marks(((UNSCANNED, f"{name} (too large)"),)), why=why)


class ScannerSettings(Protocol):
    """
    What the settings of each stage with a scanner have.
    """

    @property
    def timeout(self) -> Seconds:
        """For the whole scan."""

    @property
    def on_error(self) -> OnError:
        """What it means that there is no scan."""

    @property
    def concurrency(self) -> int:
        """Scans at once."""


class Scanner:
    """
    One scanner as one stage asks it.

    @param address: the scanner's URL or endpoint.
    @ivar name: the stage's name in the configuration.
    @ivar identity: name and address: stages of equal identity share scans.
    """

    def __init__(
        self, name: str, address: str, settings: ScannerSettings, services: IServices
    ) -> None:
        self.name = name
        self.identity = (name, address)
        self._settings = settings
        self._status = services.status
        self._remote = services.common(
            ("scanner", name, address, settings.concurrency),
            lambda: RemoteService(f"{name} {shownURL(address)}", services, settings.concurrency),
        )

    def judge(
        self,
        message: IMessage,
        envelope: Envelope,
        key: Hashable,
        scan: Callable[[], Awaitable[_T]],
        decide: Callable[[_T], ContentVerdict],
    ) -> Deferred[ContentVerdict]:
        """
        @param key: scans of this message with equal keys are one.
        @param scan: makes the scan.
        @param decide: what this cohort makes of the scan's result.
        @return: a Deferred of a verdict; may be cancelled.
        """

        def asked(_: IMessage) -> Deferred[_T]:
            self._status.count("scans", self.name)
            return self._remote.ask(self._settings.timeout, scan)

        async def judged() -> ContentVerdict:
            try:
                result: _T = await message.shared((*self.identity, key), asked)
            except CancelledError:
                raise
            except Exception as error:
                return self._unscanned(envelope, error)
            return decide(result)

        return Deferred.fromCoroutine(judged())

    def _unscanned(self, envelope: Envelope, error: Exception) -> ContentVerdict:
        onError = self._settings.on_error
        _log.tell(
            self._status,
            "{transaction}: not scanned by {name}, so {on_error}: {error}",
            event="unscanned",
            level=LogLevel.warn,
            transaction=envelope.id,
            stage=self.name,
            name=" ".join(self.identity),
            on_error=onError,
            error=f"{type(error).__name__}: {error}",
        )
        why = notScanned(self.name, onError)
        if onError == "refuse-temporarily":
            return Refuse(R451_STAGE_FAILED, why=why)
        if onError == "skip":
            return Accept(why=why)
        return Accept(Marks(((UNSCANNED, self.name),)), why=why)

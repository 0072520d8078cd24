"""
One copy for each recipient, written in threads: each has an outcome of its own,
whatever becomes of the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from deferrals.deferreds import InThread, errorText, together
from deferrals.logger import Logger
from deferrals.model.delivery import Addressee
from deferrals.model.reply import R451_LOCAL_ERROR
from deferrals.model.verdict import Details, Outcome, Retry

_log = Logger(namespace="deferrals.delivery")


def writeEach(
    inThread: InThread, write: Callable[[Addressee], Outcome], recipients: Sequence[Addressee]
) -> Deferred[dict[Addressee, Outcome]]:
    """
    @param inThread: runs C{write}.
    @param write: writes the copy of one recipient.
    @return: a Deferred of all outcomes; where C{write} raises, that recipient
        is to be tried again.
    """

    def failed(failure: Failure, addressee: Addressee) -> Outcome:
        _log.failure("writing for {recipient}", failure, recipient=str(addressee))
        return Retry(R451_LOCAL_ERROR, details=Details(errorText(failure)))

    writing = [inThread(write, addressee).addErrback(failed, addressee) for addressee in recipients]
    done = together(writing)
    return done.addCallback(lambda outcomes: dict(zip(recipients, outcomes, strict=True)))

"""
The stages that want to know how transactions end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from twisted.python.failure import Failure

from deferrals.deferreds import atOnce
from deferrals.interfaces import ITransactionObserver
from deferrals.logger import Logger
from deferrals.model.envelope import Envelope, Recipient
from deferrals.model.reply import Reply

_log = Logger(namespace="deferrals.transaction")


def tellEnd(
    observers: Sequence[ITransactionObserver],
    envelope: Envelope,
    answers: Sequence[tuple[Recipient, Reply]],
    final: Reply | None,
) -> None:
    """
    Tell each of them; what one of them does wrong concerns no other.
    """
    for observer in observers:
        source = f"{type(observer).__name__}.ended"
        ended: Callable[..., object] = observer.ended  # what others wrote may return anything
        try:
            atOnce(ended(envelope, answers, final), source)
        except BaseException:  # as with what the other stages raise
            text = "{transaction}: {stage} failed: {error}"
            _log.raised(Failure(), text, stage=source, transaction=envelope.id)

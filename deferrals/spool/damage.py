"""
What operators read of messages that cannot be read.
"""

from __future__ import annotations

from deferrals.logger import Logger
from deferrals.model.ids import formatId
from deferrals.spool.claims import Claims

_log = Logger(namespace="deferrals.spool")


def logDamaged(number: int, why: str) -> None:
    """
    A message has been moved aside.

    @param why: what is wrong with it.
    """
    _log.critical(
        "{transaction} is damaged, and was moved aside: {why}",
        event="damaged",
        transaction=formatId(number),
        why=why,
    )


def logUnread(claims: Claims) -> None:
    """
    What a claim could not read: for good, or this time.
    """
    for number, why in claims.damaged:
        logDamaged(number, why)
    for number, why in claims.later:
        _log.error("{transaction} cannot be read now: {why}", transaction=formatId(number), why=why)

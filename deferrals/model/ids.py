"""
Transaction ids: short, in order of time, unique on one spool.

Two servers may make the same one at the same moment: both are process 1 of their
containers.  What must be another's nowhere has the spool's own number beside it.
"""

from __future__ import annotations

import itertools
import re
import secrets

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = [first + second for first in _ALPHABET for second in _ALPHABET]
_VALUES = {letter: value for value, letter in enumerate(_ALPHABET)}
_LENGTH = 13

#: What can be a spool's own number.
_SPOOL = re.compile(r"[0-9A-Za-z]{1,64}")


class TransactionIds:
    """
    Hands out 63-bit numbers: 43 bits of milliseconds, 12 of a counter, 8 of
    the worker's own.

    @param worker: 0 to 255; two processes on one spool must differ.
    @ivar spool: the own number of the spool that the messages are for (L{use});
        until that is known, a random one.
    """

    def __init__(self, worker: int = 0) -> None:
        self.spool = newSpoolNumber()
        self._worker = worker & 0xFF
        self._counter = itertools.count()

    def use(self, spool: str) -> None:
        """
        The messages are for this spool.

        @raise ValueError: it cannot be the number of a spool.
        """
        checkSpoolNumber(spool)
        self.spool = spool

    def number(self, worker: int) -> None:
        """
        Be another worker than was thought.
        """
        self._worker = worker & 0xFF

    def next(self, now: float) -> int:
        """
        @param now: seconds since the epoch.
        """
        milliseconds = int(now * 1000) & ((1 << 43) - 1)
        return milliseconds << 20 | (next(self._counter) & 0xFFF) << 8 | self._worker


def newSpoolNumber() -> str:
    """
    A number that no other spool has.
    """
    return secrets.token_hex(8)


def checkSpoolNumber(text: str) -> None:
    """
    It becomes a part of file names.

    @raise ValueError: it cannot be the number of a spool.
    """
    if not _SPOOL.fullmatch(text):
        raise ValueError("the number of a spool has 1 to 64 letters and digits")


def formatId(number: int) -> str:
    """
    The thirteen letters that people see: Crockford's base 32.
    """
    pairs = _PAIRS
    return (
        f"{_ALPHABET[number >> 60]}{pairs[number >> 50 & 1023]}{pairs[number >> 40 & 1023]}"
        f"{pairs[number >> 30 & 1023]}{pairs[number >> 20 & 1023]}{pairs[number >> 10 & 1023]}"
        f"{pairs[number & 1023]}"
    )


def parseId(text: str) -> int:
    """
    @raise ValueError: this is no transaction id.
    """
    if len(text) != _LENGTH:
        raise ValueError("a transaction id has 13 letters and digits")
    number = 0
    for letter in text.upper():
        if letter not in _VALUES:
            raise ValueError("a transaction id has 13 letters and digits")
        number = number << 5 | _VALUES[letter]
    if number >= 1 << 63:
        raise ValueError("no transaction id begins like this")
    return number

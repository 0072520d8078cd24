"""
Transaction ids: short, in order of time, unique on one spool.
"""

from __future__ import annotations

import itertools

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = [first + second for first in _ALPHABET for second in _ALPHABET]
_VALUES = {letter: value for value, letter in enumerate(_ALPHABET)}
_LENGTH = 13


class TransactionIds:
    """
    Hands out 63-bit numbers: 43 bits of milliseconds, 12 of a counter, 8 of
    the worker's own.

    @param worker: 0 to 255; two processes on one spool must differ.
    """

    def __init__(self, worker: int = 0) -> None:
        self._worker = worker & 0xFF
        self._counter = itertools.count()

    def next(self, now: float) -> int:
        """
        @param now: seconds since the epoch.
        """
        milliseconds = int(now * 1000) & ((1 << 43) - 1)
        return milliseconds << 20 | (next(self._counter) & 0xFFF) << 8 | self._worker


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

"""
What the fuzz targets check, for what they begin with, and for what it is when
some of it is lost, repeated or changed.
"""

from __future__ import annotations

import random
from unittest import skipIf

from twisted.internet.interfaces import IReactorPluggableNameResolver
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from tests.fuzz.corpus import corpus
from tests.fuzz.targets import TARGETS, check

_NO_NAMES = not IReactorPluggableNameResolver.implementedBy(MemoryReactorClock)


class TargetTests(SynchronousTestCase):
    """
    Each target.
    """

    def run_(self, *names: str) -> None:
        chance = random.Random(25)
        mine = [one for one in corpus() if one[0] in names]
        self.assertEqual({name for name, _ in mine}, set(names))
        for name, data in mine:
            for changed in (data, *(self.changed(chance, data) for _ in range(10))):
                check(name, changed)

    def changed(self, chance: random.Random, data: bytes) -> bytes:
        place, size = chance.randrange(len(data)), chance.randrange(20)
        middle = chance.choice((b"", data[place : place + size] * 2, chance.randbytes(size)))
        return data[:place] + middle + data[place + size :]

    def test_session(self) -> None:
        """Commands, data and chunks: those of the dialogues."""
        for name, data in corpus():
            if name == "session":
                check(name, data[:2000])

    def test_pure(self) -> None:
        """Replies, DNS answers, PROXY headers, MIME, spamd's answers, where mail comes from."""
        self.run_("replies", "names", "proxy", "mime", "spamd", "origin")

    @skipIf(_NO_NAMES, "the test reactor of this version of Twisted resolves no names")
    def test_http(self) -> None:
        """The answers of services."""
        self.run_("http")

    def test_all(self) -> None:
        """Each target has something to begin with."""
        self.assertEqual({name for name, _ in corpus()}, set(TARGETS))

"""
Real sessions and the model server come to the same: so what is proved of one
(L{tests.mixed.test_properties}), and measured of it (C{benchmarks.mixed}), is true
of the other.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.mixed import Mixed, Rules
from tests.harness import Bench
from tests.mixed.procedures import Procedure
from tests.mixed.senders import Exim, OneThing, Queue, Repeats, Sender, Silent, Single, shuffled
from tests.mixed.sessions import Sessions
from tests.mixed.world import Client, Message, Server
from tests.rigs import examples

PROVED = (Client("192.0.2.1", "honest.example"), Client("198.51.100.7", "honest.example"))
UNPROVED = (Client("192.0.2.1"),)


def senderOf(number: int) -> Sender:
    """One of any kind."""
    rng = random.Random(number)
    kind = rng.choice([Exim, OneThing, Queue, Repeats, Silent, Single])
    keys = [f"r{n}@example.net" for n in range(rng.randrange(2, 6))]
    proved = rng.random() < 0.5
    options: dict[str, Any] = {
        "path": lambda attempt: f"{'aligned' if proved else 'friend'}@honest.example",
        "clients": PROVED if proved else UNPROVED,
        "pipelined": rng.random() < 0.5,
        "declares": rng.random() < 0.5,
        "order": shuffled(rng),
    }
    if kind is Exim:
        bdat = rng.random() < 0.5
        options |= {"bdat": bdat, "received": rng.random() < 0.5}
        options["pipelined"] = bdat or options["pipelined"]
    elif kind is OneThing:
        options |= {"how": rng.choice(["rset", "quit", "close"]), "namesAll": rng.random() < 0.5}
    if kind in (OneThing, Repeats, Silent):
        options["newIdent"] = rng.random() < 0.5
    return kind(keys, Message("<1@honest.example>", "text"), **options)


def judge(number: int) -> Callable[[str, Message, float], str]:
    """
    Verdicts that change with each hour, for some recipients.
    """
    kinds = random.Random(number).choice(["A", "AR", "ART", "AT", "R"])

    def say(key: str, message: Message, now: float) -> str:
        hour = min(int(now // 3600), 3) if int(key[1]) % 2 else 0
        return random.Random(f"{number} {key} {hour}").choice(kinds)

    return say


def brought(server: Server, number: int) -> list[object]:
    """
    @return: what becomes of a message at this server.
    """
    sender = senderOf(number)
    for attempt in range(14):
        if isinstance(server, Sessions):
            server.at(1000.0 + attempt * 1200)
            server.text = sender.message
        server.now = 1000.0 + attempt * 1200
        if sender.pending:
            sender.come(server)
    return [sender.told, sender.ended, sender.named, +server.copies, sorted(server.filed)]


class SessionsTests(SynchronousTestCase):
    """
    One message of any sender, at both.
    """

    def same(self, number: int, choice: Mixed, fallback: Mixed) -> None:
        """The same choice."""
        rules = Rules.of(choice, fallback, 2)
        assert rules is not None
        bench = Bench(mixed=choice, mixed_fallback=fallback)
        model = Server(Procedure(rules), judge(number))
        real = Sessions(Procedure(rules), judge(number), bench=bench)
        with patch("deferrals.smtp.server.mixed.random.randrange", return_value=0):
            found = brought(real, number)
        self.assertEqual(brought(model, number), found)

    @settings(max_examples=examples(60), deadline=None)
    @given(st.integers(0, 2**32))
    def test_retry(self, number: int) -> None:
        """The default."""
        self.same(number, Mixed.RETRY, Mixed.SPLIT)

    @settings(max_examples=examples(30), deadline=None)
    @given(st.integers(0, 2**32), st.sampled_from([Mixed.FILE, Mixed.NOTIFY]))
    def test_fallback(self, number: int, fallback: Mixed) -> None:
        """The default with another fallback."""
        self.same(number, Mixed.RETRY, fallback)

    @settings(max_examples=examples(30), deadline=None)
    @given(st.integers(0, 2**32))
    def test_split(self, number: int) -> None:
        """All come in parts."""
        self.same(number, Mixed.SPLIT, Mixed.SPLIT)

    @settings(max_examples=examples(30), deadline=None)
    @given(st.integers(0, 2**32), st.sampled_from([Mixed.FILE, Mixed.NOTIFY]))
    def test_together(self, number: int, choice: Mixed) -> None:
        """None come apart."""
        self.same(number, choice, Mixed.SPLIT)

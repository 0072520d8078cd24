"""
Whatever a next hop does, at whatever step: each recipient ends in one outcome that
the peer's words justify, none is sent twice to a peer that took it, nothing is
raised, and no flood is read without end.

The peer of an example is made up: what it offers, what it answers each recipient,
and some faults.  C{DEFERRALS_HOP_EXAMPLES=10000} is the long form.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.hopfaults import http, smtp
from tests.hopfaults.faults import Fault, faults
from tests.hopfaults.world import Case, World
from tests.rigs import examples

#: More examples by a variable; the long form of the checks sets it.
EXAMPLES = int(os.environ.get("DEFERRALS_HOP_EXAMPLES", examples(100)))

often = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])

KEYWORDS = (
    *("PIPELINING", "SIZE 1000000", "8BITMIME", "CHUNKING", "DSN", "ENHANCEDSTATUSCODES"),
    *("PRDR", "DEFERRALS", "XEXDATA", "LIMITS RCPTMAX=2", "LIMITS MAILMAX=1"),
)

RCPT = ("250 2.1.5 ok", "352 2.1.5 later", "450 4.2.0 later", "452 4.5.3 one", "550 5.1.1 who")
OWN = ("250 2.1.5 ok", "451 4.2.0 later", "552 5.2.2 full", "550 5.6.0 no")


def replies(words: Sequence[str]) -> st.SearchStrategy[Mapping[str, Sequence[str]]]:
    """
    Some for some recipients.
    """
    people = st.sampled_from([f"{name}@x.example" for name in "abcd"])
    return st.dictionaries(people, st.lists(st.sampled_from(words), max_size=2), max_size=3)


def mailCases(use: str) -> st.SearchStrategy[Case]:
    return st.builds(
        Case,
        use=st.just(use),
        keywords=st.lists(st.sampled_from(KEYWORDS), unique=True),
        rcpt=replies(RCPT),
        own=replies(OWN),
        faults=faults(smtp.STEPS),
        recipients=st.integers(1, 4),
        messages=st.integers(1, 3),
        connections=st.sampled_from([1, 5]),
        isLarge=st.booleans(),
        stops=st.none() | st.integers(0, 40),
        octets=st.sampled_from([0, 0, 0, 1, 3]),
        isApart=st.booleans(),
    )


webCases = st.builds(
    Case,
    use=st.just("http"),
    rcpt=replies(http.ANSWERS),
    faults=faults(http.STEPS),
    recipients=st.integers(1, 4),
    messages=st.integers(1, 2),
    isLarge=st.booleans(),
    stops=st.none() | st.integers(0, 40),
)


def one(use: str, step: str, kind: str, code: str = "250", number: int = 0, **more: Any) -> Case:
    """
    One fault.
    """
    return Case(use=use, faults=[Fault(step, more.pop("time", 0), kind, code, number)], **more)


class HopFaultTests(SynchronousTestCase):
    """
    Random peers, and those that were found with them.
    """

    def check(self, case: Case) -> None:
        self.assertEqual(World(case).run(), [])

    @often
    @given(mailCases("lmtp"))
    @example(one("lmtp", "own", "reply", "354"))
    @example(one("lmtp", "own", "silence", time=2, stops=12))
    @example(one("lmtp", "own", "flood", number=2, recipients=2))
    @example(one("lmtp", "own", "silence", rcpt={"a@x.example": ["550 5.1.1 who"]}, stops=1))
    @example(one("lmtp", "own", "hang up", time=3, messages=2, connections=1))
    def test_lmtp(self, case: Case) -> None:
        """Over LMTP."""
        self.check(case)

    @often
    @given(mailCases("smtp"))
    @example(one("smtp", "MAIL", "reply", "353"))
    @example(
        one(
            *("smtp", "BDAT", "reply", "503"),
            keywords=("CHUNKING",),
            rcpt={"c@x.example": ["452 4.5.3 one"]},
        )
    )
    @example(one("smtp", "during", "reply", "552", isLarge=True))
    @example(one("smtp", "final", "hang up", time=1, messages=2, connections=1))
    def test_smtp(self, case: Case) -> None:
        """Over SMTP, with all ways of asking for each recipient's answer."""
        self.check(case)

    @often
    @given(mailCases("mx"))
    @example(one("mx", "final", "hang up"))
    @example(one("mx", "final", "cut", number=2))
    @example(one("mx", "own", "closing", "451 4.3.0", keywords=("PRDR",)))
    @example(one("mx", "final", "hang up", time=1, messages=2, connections=1))
    @example(one("mx", "RCPT", "reply", "451 4.3.0"))
    def test_mx(self, case: Case) -> None:
        """To one of two servers, and to the next one."""
        self.check(case)

    @often
    @given(webCases)
    @example(one("http", "request", "reply", "352", 17, time=1))
    @example(one("http", "request", "reply", "550", 17, time=1))
    def test_http(self, case: Case) -> None:
        """Over HTTP."""
        self.check(case)

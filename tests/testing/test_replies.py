"""
The engine against its contract, and engines that break it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.block import Block
from deferrals.model.envelope import Form
from deferrals.model.reply import Reply
from deferrals.model.transaction import Candidate
from deferrals.testing import RepliesContract
from tests.requirements import requirement


class BlockTests(RepliesContract, SynchronousTestCase):
    """
    L{Block}.
    """

    @requirement("D-10")
    @requirement("D-14")
    @requirement("P-6")
    def test_form(self) -> None:
        super().test_form()

    @requirement("D-17")
    @requirement("D-18")
    @requirement("D-19")
    def test_final(self) -> None:
        super().test_final()


class Early(Block):
    """
    Says a positive end before the message is durable.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.isDurable = True


class Backwards(Block):
    """
    Says the last reply first.
    """

    def take(self) -> list[Reply]:
        return super().take()[::-1]


class Generous(Block):
    """
    Takes the message for all.
    """

    def accepted(self) -> list[int]:
        return list(range(len(self.candidates)))


class BrokenTests(SynchronousTestCase):
    """
    The contract finds what is wrong.
    """

    def failing(self, kind: type[Block]) -> set[str]:
        class Contract(RepliesContract, SynchronousTestCase):
            def makeBlock(self, form: Form, candidates: Sequence[Candidate]) -> Block:
                return kind(form, candidates, "id X")

        found = set()
        for name in dir(Contract):
            if name.startswith("test_"):
                try:
                    getattr(Contract(name), name)()
                except AssertionError:
                    found.add(name)
        return found

    def test_good(self) -> None:
        """In the engine itself nothing is."""
        self.assertEqual(self.failing(Block), set())

    def test_broken(self) -> None:
        """Each broken engine fails a test, or several."""
        for kind, name in (
            (Early, "test_form"),
            (Backwards, "test_own"),
            (Generous, "test_veto"),
        ):
            self.assertIn(name, self.failing(kind), kind)

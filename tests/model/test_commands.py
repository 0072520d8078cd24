"""
What may stand in a command to a server.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.commands import (
    checkLine,
    checkName,
    checkParameter,
    checkPath,
    checkRecipient,
    checkSecret,
)


class CheckTests(SynchronousTestCase):
    """
    Each check, with what passes it and what does not.
    """

    def check(self, function: object, good: tuple[str, ...], bad: tuple[str, ...]) -> None:
        assert callable(function)
        for text in good:
            function(text)
        for text in bad:
            with self.assertRaises(ValueError, msg=repr(text)):
                function(text)

    def test_line(self) -> None:
        """One line has no line end of any kind, and no half of a character."""
        self.check(checkLine, ("a b", "ü"), ("a\r", "a\n", "a\0", "a\x85", "a\u2028", "\ud800"))

    def test_path(self) -> None:
        """A path ends where its brackets do; a quoted local part may hold what others do not."""
        odd = ('"a b"@x.example', '"a\\"b>"@x.example', "a..b@x.example", "ü@bücher.example")
        bad = (
            "a@x.example>",
            "a b@x.example",
            '"a@x.example',
            "<a@x.example",
            "a@x.example\r\nRSET",
        )
        self.check(checkPath, ("", *odd), bad)
        self.check(checkRecipient, odd, ("", *bad))

    def test_parameter(self) -> None:
        """A parameter is one word, with at most one value."""
        self.check(
            checkParameter,
            ("PRDR", "SIZE=5", "ENVID=a+3Db"),
            ("", "-A", "A=", "A=b c", "A=b=c", "A=b\r\n"),
        )

    def test_name(self) -> None:
        """A host's name is one word of ASCII."""
        self.check(checkName, ("mx.example.net", "[192.0.2.1]"), ("", "a b", "a>", "ü", "a\r\n"))

    def test_secret(self) -> None:
        """A password may hold anything but what ends it early."""
        self.check(checkSecret, ("", "päss wörd <>"), ("a\0b", "a\r", "a\n"))

"""
What may stand in a command.
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
from deferrals.model.outgoing import Login, Outgoing


class CommandTests(SynchronousTestCase):
    """
    Nothing ends a line, a path or a word early.
    """

    def test_paths(self) -> None:
        """Brackets and blanks may stand in quotes, control characters nowhere."""
        for good in ("", "a@x", "postmaster", '"a b"@x', '"<>"@x', r'"\""@x', "é@x", "@a,@b:c@x"):
            checkPath(good)
        for bad in ("a b@x", "<a@x", "a@x>", '"a b@x', r"a\>@x", r'"a\"@x', "a\xa0b@x"):
            self.assertRaises(ValueError, checkPath, bad)
        for bad in "\0\t\r\n\x1f\x7f\x85\u2028\u2029\ud800\xad\u200b\u202e\ufeff":
            self.assertRaises(ValueError, checkPath, f"a{bad}@x")
            self.assertRaises(ValueError, checkPath, f'"a{bad}"@x')
            self.assertRaises(ValueError, checkLine, f"NOOP{bad}")
        self.assertRaises(ValueError, checkRecipient, "")

    def test_longPaths(self) -> None:
        """A server that cuts a line somewhere finds no command behind the cut."""
        checkPath("a" * 254 + "@" + "x" * 255)
        for bad in ("a" * 1001, "é" * 501, '"' + " " * 998 + 'RCPT TO:<v@x>"@y'):
            self.assertRaises(ValueError, checkPath, bad)

    def test_parameters(self) -> None:
        """A keyword, and perhaps one value without blanks (RFC 5321 §4.1.2)."""
        for good in ("RET=FULL", "ORCPT=rfc822;a+40b@x", "SMTPUTF8", "AUTH=<>", "X-Y=é"):
            checkParameter(good)
        for bad in ("", "=x", "A B", "A=b c", "A=b=c", "A=", "-A", "A=b\r\nRSET", "É=x"):
            self.assertRaises(ValueError, checkParameter, bad)

    def test_names(self) -> None:
        """A host's name is one word of ASCII."""
        for good in ("mx.example", "[192.0.2.1]", "[IPv6:2001:db8::1]", "my_host"):
            checkName(good)
        for bad in ("", "two words", "a\r\nMAIL", "<a>", "é"):
            self.assertRaises(ValueError, checkName, bad)

    def test_secrets(self) -> None:
        """NUL and line ends are in no password; all else may be."""
        checkSecret("pass word é \t<>")
        for bad in ("a\0b", "a\nb", "a\rb"):
            self.assertRaises(ValueError, checkSecret, bad)

    def test_values(self) -> None:
        """A message on its way out, and a login, are checked where they are made."""
        bad = "a@x>\r\nRCPT TO:<b@x"
        for values in (
            {"sender": bad},
            {"recipients": ["a@x", bad]},
            {"recipients": [""]},
            {"parameters": [("DSN", "ENVID=a b")]},
            {"recipientParameters": {0: [("DSN", "ORCPT=rfc822;a\r\nRSET")]}},
        ):
            whole = {"sender": "", "recipients": ["a@x"], "size": 0, "chunks": lambda: iter(())}
            Outgoing(**whole)
            self.assertRaises(ValueError, Outgoing, **{**whole, **values})
        self.assertRaises(ValueError, Login, "a\0b")

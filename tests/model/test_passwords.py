"""
What is kept of passwords.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.passwords import ScryptHash, Secrets, formatLine, goodName, parseLine
from deferrals.model.sasl import ScramKeys

SCRYPT = ScryptHash.make("secret", b"salt", 4)
SCRAM = ScramKeys.make("secret", b"salt", 4096)


class ScryptTests(SynchronousTestCase):
    """
    L{ScryptHash}.
    """

    def test_vector(self) -> None:
        """RFC 7914 §12, in the form that passlib writes: N=1024, r=8, p=16."""
        text = (
            "$scrypt$ln=10,r=8,p=16$TmFDbA$"
            "/bq+HJ00cgB4VucZDQHp/nxq18vII3gw53N2Y0s3MWIurzDZLiKjiG/xCSedmDDaxyevuUqD7m2DYMvfoswGQA"
        )
        self.assertTrue(ScryptHash.parse(text).check("password"))
        self.assertFalse(ScryptHash.parse(text).check("Password"))

    def test_roundTrip(self) -> None:
        """What is written is read back."""
        self.assertEqual(ScryptHash.parse(str(SCRYPT)), SCRYPT)

    def test_nonsense(self) -> None:
        """What is no such hash says which form it has."""
        for text in ("", "secret", "$scrypt$ln=4,r=8$x$y", "$scrypt$ln=444,r=8,p=1$eA$eA"):
            self.assertRaises(ValueError, ScryptHash.parse, text)

    def test_unprintable(self) -> None:
        """A password that cannot be prepared is wrong, and no error."""
        self.assertFalse(SCRYPT.check("\0"))

    def test_hidden(self) -> None:
        """The hash is not shown."""
        self.assertNotIn("hash=", repr(SCRYPT))


class SecretsTests(SynchronousTestCase):
    """
    L{Secrets}.
    """

    def test_check(self) -> None:
        """Either form is enough; without both nothing is right."""
        for secrets in (Secrets(SCRYPT), Secrets(None, SCRAM), Secrets(SCRYPT, SCRAM)):
            self.assertTrue(secrets.check("secret"))
            self.assertFalse(secrets.check("wrong"))
            self.assertFalse(secrets.check("\0"))
        self.assertFalse(Secrets().check(""))


class LineTests(SynchronousTestCase):
    """
    L{formatLine}, L{parseLine}, L{goodName}.
    """

    def test_roundTrip(self) -> None:
        """A line says the same again."""
        for secrets in (Secrets(), Secrets(SCRYPT), Secrets(None, SCRAM), Secrets(SCRYPT, SCRAM)):
            self.assertEqual(parseLine(formatLine("alice", secrets) + "\n"), ("alice", secrets))

    def test_nothing(self) -> None:
        """Empty lines and comments are nothing."""
        for line in ("", "  \n", "# alice::"):
            self.assertIsNone(parseLine(line))

    def test_names(self) -> None:
        """A name that would be another line, or none, is refused."""
        for name in ("", "a:b", "#a", "a\nb", "a\0"):
            self.assertRaises(ValueError, goodName, name)
            self.assertRaises(ValueError, formatLine, name, Secrets())
        self.assertEqual(goodName("\u2168"), "IX")  # SASLprep, RFC 4013 §3

    def test_nonsense(self) -> None:
        """A line without both colons, or with something else between them."""
        for line in ("alice", "alice:", "alice:x:", "alice::x"):
            self.assertRaises(ValueError, parseLine, line)

"""
What is kept of passwords.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.passwords import (
    Argon2Hash,
    ScryptHash,
    Secrets,
    Strangers,
    formatLine,
    goodName,
    indexOf,
    parseLine,
)
from deferrals.model.sasl import ScramKeys

ARGON2 = Argon2Hash.make("secret", b"some salt", 64, 1)
SCRYPT = ScryptHash.make("secret", b"salt", 4)
SCRAM = ScramKeys.make("secret", b"salt", 4096)


class Argon2Tests(SynchronousTestCase):
    """
    L{Argon2Hash}.
    """

    def test_vector(self) -> None:
        """The reference implementation's own test: 64 MiB, two passes."""
        text = (
            "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc"
        )
        self.assertTrue(Argon2Hash.parse(text).check("password"))
        self.assertFalse(Argon2Hash.parse(text).check("Password"))

    def test_roundTrip(self) -> None:
        """What is written is read back."""
        self.assertEqual(Argon2Hash.parse(str(ARGON2)), ARGON2)

    def test_cost(self) -> None:
        """What is made anew costs what OWASP asks for: 19 MiB, two passes."""
        self.assertTrue(
            str(Argon2Hash.make("x", b"some salt")).startswith("$argon2id$v=19$m=19456,t=2,p=1$")
        )

    def test_nonsense(self) -> None:
        """What is no such hash says which form it has; none can take all memory, or all time."""
        for cost in ("m=9999999,t=2,p=1", "m=64,t=999,p=1", "m=64,t=1,p=99", "m=7,t=1,p=1"):
            with self.assertRaises(ValueError):
                Argon2Hash.parse(f"$argon2id$v=19${cost}$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y")
        for text in ("", "secret", "$argon2i$v=19$m=64,t=1,p=1$c29tZXNhbHQ$CTFhFdXP", "$argon2id$"):
            self.assertRaises(ValueError, Argon2Hash.parse, text)
        with self.assertRaises(ValueError):
            Argon2Hash.parse("$argon2id$v=19$m=64,t=1,p=1$c29t$CTFhFdXPJO1aFaMaO6Mm5c8y")

    def test_unprintable(self) -> None:
        """A password that cannot be prepared is wrong, and no error; the hash is not shown."""
        self.assertFalse(ARGON2.check("\0"))
        self.assertNotIn("hash=", repr(ARGON2))


class StrangersTests(SynchronousTestCase):
    """
    L{Strangers}.
    """

    def users(self) -> dict[str, Secrets]:
        """
        Half of them with the old hash, a quarter with other keys for SCRAM.
        """
        found = {}
        for number in range(40):
            salt = b"salt %4d" % number
            hash = Argon2Hash(19, 64, 1, 1, salt, salt * 4)
            old = ScryptHash(4, 8, 1, salt, salt * 4)
            keys = ScramKeys(4096 if number % 4 else 20000, salt, salt, salt)
            found[f"user{number}"] = Secrets(old if number % 2 else hash, keys)
        return {**found, "nobody": Secrets()}

    def test_alike(self) -> None:
        """Strangers have what users have, of each kind as much."""
        strangers = Strangers(self.users())
        costs = [strangers.secrets(b"stranger%d" % one).cost for one in range(2000)]
        old = sum(cost is not None and cost[0] == "scrypt" for cost in costs)
        self.assertTrue(800 < old < 1200, old)
        self.assertEqual(strangers.shapes, [(4096, 9)] * 30 + [(20000, 9)] * 10)

    def test_same(self) -> None:
        """The same one gets the same each time, and nearly all do when one user is new."""
        users = self.users()
        before, again = Strangers(users), Strangers(dict(reversed(users.items())))
        after = Strangers({**users, "new": Secrets(Argon2Hash.make("x", b"z" * 8, 64, 1))})
        names = [b"stranger%d" % one for one in range(200)]
        costs = [before.secrets(name).cost for name in names]
        self.assertEqual(costs, [again.secrets(name).cost for name in names])
        moved = sum(
            after.secrets(name).cost != cost for name, cost in zip(names, costs, strict=True)
        )
        self.assertLess(moved, 20)

    def test_nobody(self) -> None:
        """Without users there is something to compute, too."""
        cost = Secrets(Argon2Hash.make("x", b"some salt")).cost
        self.assertEqual(Strangers({}).secrets(b"x").cost, cost)

    def test_indexOf(self) -> None:
        """Each number is given to some name."""
        found = {indexOf(b"key", b"%d" % one, 3) for one in range(100)}
        self.assertEqual(found, {0, 1, 2})


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
        for secrets in (
            *(Secrets(ARGON2), Secrets(SCRYPT), Secrets(None, SCRAM)),
            *(Secrets(SCRYPT, SCRAM), Secrets(ARGON2, SCRAM)),
        ):
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
        for secrets in (
            *(Secrets(), Secrets(SCRYPT), Secrets(ARGON2), Secrets(None, SCRAM)),
            *(Secrets(SCRYPT, SCRAM), Secrets(ARGON2, SCRAM)),
        ):
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

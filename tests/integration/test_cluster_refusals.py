"""
What was refused at one of several machines, in a real PostgreSQL: kept once, told once,
and the same everywhere.
"""

from __future__ import annotations

import email
import email.policy
import random
import re
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from deferrals.errors import StoreAway
from deferrals.interfaces import IRefusalStore
from deferrals.server.storekey import StoreKey
from deferrals.server.tellings import SharedTellings, noteName
from deferrals.spool.postgresql import digests
from deferrals.spool.postgresql.connection import Access, opened
from deferrals.spool.postgresql.offline import LazyDatabase
from deferrals.spool.postgresql.owners import Identity
from deferrals.spool.postgresql.refusals import PostgresqlRefusals
from deferrals.spool.postgresql.schema import upgrade
from tests.integration.clusters import primary
from tests.integration.support import Server, spam, until
from tests.integration.test_refusals import CONFIG, FRIEND, RefusalCase
from tests.integration.test_workers import Workers
from tests.model.test_refusal import makeRefusal
from tests.ports import freePort
from tests.spool import refusalcontract

ANNA = refusalcontract.ANNA


class DatabaseCase(SynchronousTestCase):
    """
    Tests that ask the database, and wait.
    """

    def setUp(self) -> None:
        self.server = primary()
        self.schema = self.server.newSchema()
        self.access = Access(self.server.conninfo, None, self.schema)
        db = opened(self.access, "test")
        upgrade(db, self.schema)
        db.close()

    def database(self) -> LazyDatabase:
        """
        One more connection.
        """
        found = LazyDatabase(self.access)
        self.addCleanup(found.close)
        return found

    def sql(self, text: str) -> list[tuple[Any, ...]]:
        return self.server.ask(text.replace("$", f"{self.schema}."))


class PostgresqlRefusalsTests(refusalcontract.Contract, DatabaseCase):
    """
    The contract, for L{PostgresqlRefusals}; and what only a database can have.
    """

    shared: LazyDatabase | None = None

    def make(self) -> IRefusalStore:
        self.shared = self.shared or self.database()
        self.sql("TRUNCATE $refusals")
        return PostgresqlRefusals(self.shared, lambda: 3600.0)

    def test_shared(self) -> None:
        """What one machine keeps, another one finds; both may write the same at once."""
        self.make()
        one, two = (PostgresqlRefusals(self.database(), lambda: 3600.0) for _ in range(2))
        self.the(one.add([(ANNA, makeRefusal(1)), (ANNA, makeRefusal(1))]))
        self.the(two.add([(ANNA, makeRefusal(2))]))
        self.assertEqual(len(self.the(one.find(ANNA, 0.0, 9))), 2)

    def test_expires(self) -> None:
        """What is over goes, whichever machine looks, and however long that one keeps."""
        store = self.make()
        self.the(store.add([(ANNA, makeRefusal(1)), (ANNA, makeRefusal(2))]))
        self.sql("UPDATE $refusals SET expires = now() WHERE at < to_timestamp(1002)")
        self.assertEqual(self.the(store.trim(0.0, 100)), 1)
        self.assertEqual(self.the(store.find(ANNA, 0.0, 9)), [makeRefusal(2)])

    def test_unreadable(self) -> None:
        """A row that cannot be read is as if it were not there."""
        store = self.make()
        self.the(store.add([(ANNA, makeRefusal(1)), (ANNA, makeRefusal(2))]))
        self.sql("UPDATE $refusals SET said = '[' WHERE at < to_timestamp(1002)")
        self.assertEqual(self.the(store.find(ANNA, 0.0, 9)), [makeRefusal(2)])

    def test_indexed(self) -> None:
        """What is of one recipient is found by the index among many."""
        self.make()
        self.sql(
            "INSERT INTO $refusals SELECT 'o' || n %% 1000, n::text, now(), now(), '{}'"
            " FROM generate_series(1, 20000) AS n"
        )
        self.sql("ANALYZE $refusals")
        plan = self.sql(
            "EXPLAIN SELECT said FROM $refusals WHERE owner = 'o7' AND at >= to_timestamp(0)"
            " ORDER BY at DESC, reference LIMIT 1000"
        )
        self.assertNotIn("Seq Scan", str(plan))


class OneMachine:
    """
    A process that tells, and may be killed anywhere.

    @ivar noted: what its own spool has, which outlives it.
    """

    def __init__(self, case: DatabaseCase, name: str) -> None:
        self.case = case
        self.me = Identity(name, 0, "1", 20.0)
        self.noted: dict[str, float] = {}
        self.sent: list[tuple[str, float, float]] = []
        self.clock = Clock()
        self.database = case.database()
        self.restart()

    def restart(self) -> None:
        self.tellings = SharedTellings(self, self.database, self.me, self.clock)

    async def told(self) -> dict[str, float]:
        return dict(self.noted)

    async def take(self, owner: str, until: float) -> float | None:
        raise NotImplementedError

    def isOurs(self, owner: str) -> bool:
        raise NotImplementedError

    async def done(self, owner: str, until: float) -> None:
        """Nothing."""

    async def leave(self, owner: str) -> None:
        raise NotImplementedError

    async def settle(self) -> None:
        raise NotImplementedError

    def tell(self, owner: str, until: float, killedAt: int) -> None:
        """
        @param killedAt: after which step; none is so late.
        """
        if self.now(self.tellings.told()).get(owner, 0.0) >= until:
            return
        since = self.now(self.tellings.take(owner, until))
        if since is None:
            return
        if killedAt == 1:
            return self.restart()
        if killedAt == 3:
            return self.now(self.tellings.leave(owner))
        assert self.tellings.isOurs(owner)
        self.noted[owner] = until
        self.sent.append((owner, since, until))
        if killedAt == 2:
            return self.restart()
        self.now(self.tellings.done(owner, until))

    def now(self, coroutine: Any) -> Any:
        return self.case.successResultOf(Deferred.fromCoroutine(coroutine))


class SharedTellingsTests(DatabaseCase):
    """
    L{SharedTellings}, of two machines.
    """

    def machines(self) -> list[OneMachine]:
        return [OneMachine(self, name) for name in ("mx1", "mx2")]

    def test_once(self) -> None:
        """
        Whoever comes, in whichever order, and is killed wherever, and is back: each recipient
        is told of each time once, by one machine; at the end all are.
        """
        machines, chance = self.machines(), random.Random(36)
        for round_ in range(1, 26):
            owners = ["a", "b", "c"]
            for _ in range(8):
                chance.choice(machines).tell(chance.choice(owners), round_, chance.randrange(5))
            for owner in owners:
                for one in machines:
                    one.tell(owner, round_, 0)
            for owner in owners:
                found = [span for one in machines for span in one.sent if span[0] == owner]
                found.sort(key=lambda span: span[2])
                ends = [0.0, *(span[2] for span in found)]
                self.assertEqual([span[1] for span in found], ends[:-1], owner)
                self.assertEqual(ends[-1], round_)
        self.assertTrue(all(one.sent for one in machines))

    def test_gone(self) -> None:
        """One that has taken a recipient and does not come back is out of it after a while."""
        one, two = self.machines()
        one.tell("a", 1.0, 1)
        two.tell("a", 1.0, 0)
        self.assertEqual(two.sent, [])
        self.sql("UPDATE $digests SET taken = now() - interval '16 minutes'")
        two.tell("a", 1.0, 0)
        self.assertEqual(two.sent, [("a", 0.0, 1.0)])
        one.tell("a", 1.0, 0)
        self.assertEqual(one.sent, [])

    def test_lives(self) -> None:
        """One that lives keeps what it has taken, though the database was away for long."""
        one, two = self.machines()
        one.tell("a", 1.0, 2)
        self.sql(
            "INSERT INTO $owners (slot, machine, worker, pid, version, schema, lease, seen)"
            " VALUES (1, 'mx1', 0, 1, '1', 2, 20, now())"
        )
        self.sql("UPDATE $digests SET taken = now() - interval '16 minutes'")
        two.tell("a", 1.0, 0)
        self.assertEqual(two.sent, [])
        one.tell("a", 1.0, 0)
        self.assertEqual(self.sql("SELECT told, taker FROM $digests"), [(1.0, None)])

    def test_noted(self) -> None:
        """What the note of one that does not come back says is known where it can be seen."""
        one, two = self.machines()
        one.tell("a", 1.0, 1)
        self.sql("UPDATE $digests SET taken = now() - interval '16 minutes'")
        place, item = (f"'\\x{octets.hex()}'" for octets in _placeAndItem(one.me, "a"))
        self.sql(
            "INSERT INTO $notes VALUES"
            f" ({place}, {item}, 'process', 'mx1', 'n', '1.0', 0, now() + interval '1 day')"
        )
        two.tell("a", 1.0, 0)
        self.assertEqual(two.sent, [])

    def test_stopped(self) -> None:
        """One that was stopped for long after it took a recipient tells it no more."""
        one, _ = self.machines()
        self.assertEqual(one.now(one.tellings.take("a", 1.0)), 0.0)
        self.assertTrue(one.tellings.isOurs("a"))
        one.clock.advance(digests.AWAY_SECONDS / 2)
        self.assertFalse(one.tellings.isOurs("a"))

    def test_key(self) -> None:
        """Links are signed with one key at all machines, whoever asks first."""
        keys = [StoreKey(self.database(), Clock()) for _ in range(3)]
        for one in keys:
            one.start()
        self.assertEqual(len({one.get() for one in keys}), 1)
        self.assertEqual(len(keys[0].get()), 32)
        self.sql("UPDATE $info SET value = 'zz' WHERE name = 'link_key'")
        other = StoreKey(self.database(), Clock())
        self.addCleanup(other.stop)
        other.start()
        self.assertRaises(StoreAway, other.get)


def _placeAndItem(me: Identity, owner: str) -> tuple[bytes, bytes]:
    from deferrals.spool.postgresql import ownnotes

    return ownnotes.placeOf(me), ownnotes.itemOf(noteName(owner))


TABLE = """
[spool]
{store} = "postgresql"
conninfo = "{conninfo}"
schema = "{schema}"
machine = "{machine}"
[web]
"""


class SharedRefusalsCase(RefusalCase):
    """
    Two machines, one database.

    @ivar store: what they share.
    """

    store = "use"

    def machine(self, name: str, workers: str = "") -> tuple[Server, int, int]:
        """
        @return: with the ports of SMTP and of the pages.
        """
        smtp, web = freePort(), freePort()
        zone = "{}:{}".format(*self.zone.address)
        text = CONFIG.format(workers=workers, dns=zone, smtp=smtp, web=web)
        shared = TABLE.format(
            store=self.store, conninfo=primary().conninfo, schema=self.schema, machine=name
        )
        kind, options = (Workers, ("--log-format", "json")) if workers else (Server, ())
        server = kind(self.directory(), text.replace("[web]\n", shared, 1), *options)
        self.addCleanup(server.kill)
        return server, smtp, web


class SharedRefusalsTests(SharedRefusalsCase):
    """
    Refused at one, known at all.
    """

    def test_everywhere(self) -> None:
        """
        Refused at one machine, told by the other; its link opens at the first, where the
        sender is let in; it passes at either.  While no server runs commands answer, too.
        """
        for self.store in ("use", "notes"):
            self.everywhere()

    def everywhere(self) -> None:
        self.schema = primary().newSchema()
        one, two = self.machine("mx1"), self.machine("mx2")
        self.mx, self.smtp, self.web = one
        self.assertTrue(self.send(spam(), ANNA).startswith("550"))
        self.kept(ANNA)
        self.mx, self.smtp, self.web = two
        (found,) = self.kept(ANNA)
        self.assertEqual(found["sender"], FRIEND)
        self.assertIn("1 refusals", self.cli("digest"))
        self.mx = one[0]
        self.assertIn("0 recipients", self.cli("digest", status=1))
        texts = until(lambda: one[0].mail("anna") + two[0].mail("anna"), "a digest")
        (digest,) = texts
        told: Any = email.message_from_bytes(digest, policy=email.policy.default)
        text = told.get_body(("plain",)).get_content()
        (path,) = re.findall(r"http://\S+(/mine/\S+)", text)
        url = f"http://127.0.0.1:{one[2]}{path}"
        _, page = until(lambda: _opened(self.page(url)), one[0].log)
        self.assertIn(FRIEND, page)
        (csrf,) = re.findall('name="csrf" value="([^"]+)"', page)
        form = {"csrf": csrf, "n": found["id"], "for": "always"}
        self.assertEqual(self.page(f"{url}/admit", form)[0], 200)
        for _, self.smtp, _ in (one, two):
            self.assertEqual(self.send(spam(), ANNA), "250")
            self.assertTrue(self.send(spam(), "bob@example.net").startswith("550"))
        self.kept("bob@example.net", 2)
        for server in (one[0], two[0]):
            self.assertNotIn("Traceback", server.log)
            server.kill()
        self.mx = two[0]
        (bob, _) = self.kept("bob@example.net", 2)
        self.assertIn("by network", self.cli("admit", bob["id"], "bob@example.net"))
        self.mx = one[0]
        self.assertIn("2 admissions", self.cli("admissions", "list"))
        self.assertIn("1 admissions", self.cli("admissions", "remove", ANNA))
        self.assertIn("1 admissions", self.cli("admissions", "list"))
        key = primary().ask(f"SELECT value FROM {self.schema}.info WHERE name = 'link_key'")[0][0]
        for server in (one[0], two[0]):
            self.assertNotIn(key, server.log)

    def test_workers(self) -> None:
        """So it is where a machine is several processes: its pages are the parent's."""
        self.schema = primary().newSchema()
        one, two = self.machine("mx1", "workers = 2"), self.machine("mx2")
        self.mx, self.smtp, self.web = two
        self.assertTrue(self.send(spam(), ANNA).startswith("550"))
        self.kept(ANNA)
        self.mx = one[0]
        self.assertIn("1 refusals", self.cli("digest"))
        (digest,) = until(lambda: one[0].mail("anna") + two[0].mail("anna"), "a digest")
        text = email.message_from_bytes(digest, policy=email.policy.default)
        body: Any = text
        (path,) = re.findall(r"(/mine/\S+)", body.get_body(("plain",)).get_content())
        for web in (one[2], two[2]):
            _, page = until(
                lambda web=web: _opened(self.page(f"http://127.0.0.1:{web}{path}")), one[0].log
            )
            self.assertIn(FRIEND, page)


def _opened(answer: tuple[int, str]) -> tuple[int, str] | None:
    return answer if answer[0] == 200 else None

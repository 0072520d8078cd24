"""
What several servers share in a real PostgreSQL, which syncs what it commits: its
connections, tables and owners.
"""

from __future__ import annotations

import json
import signal
import time
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from deferrals.errors import OutcomeUnknown, SpoolError, StoreAway
from deferrals.spool.postgresql import schema
from deferrals.spool.postgresql.connection import Access, Presence, StoreConnection
from deferrals.spool.postgresql.owners import Identity, Living, Owner, beat, bury, enroll
from deferrals.spool.postgresql.schema import VERSION, durability, upgrade, versionOf
from deferrals.threads import OwnThread
from tests.integration.clusters import Instance, Wire, primary
from tests.integration.support import cli

SECONDS = 1.0


class ClusterCase(TestCase):
    """
    @ivar server: a real one.
    @ivar schema: tables that no other test has.
    """

    timeout = 120

    def setUp(self) -> None:
        self.server = primary()
        self.schema = self.server.newSchema()
        self.presence = Presence(reactor)

    async def database(self, conninfo: str | None = None, **more: Any) -> StoreConnection:
        """
        A connection that is open, and closed with the test.
        """
        access = Access(conninfo or self.server.conninfo, None, self.schema, SECONDS)
        thread = OwnThread(reactor, "test")
        self.addCleanup(thread.end)
        database = StoreConnection(access, thread, reactor, self.presence, "test", **more)
        self.addCleanup(database.close)
        database.begin.append(lambda db: upgrade(db, self.schema))
        await database.open()
        return database

    def wire(self) -> Wire:
        """
        What can be cut.
        """
        wire = Wire(self.server.port)
        self.addCleanup(wire.close)
        return wire

    async def until(self, condition: Any) -> None:
        """
        Wait, a minute at most, until something is so.
        """
        ends = time.monotonic() + 60
        while not condition():
            if time.monotonic() > ends:
                self.fail("not within a minute")
            await deferLater(reactor, 0.02)


def insert(db: Any, name: str) -> int:
    return int(db.execute("INSERT INTO info VALUES (%s, '')", (name,)).rowcount)


def count(db: Any) -> int:
    return int(
        db.execute("SELECT count(*) FROM info WHERE name IN ('a', 'b', 'c', 'd')").fetchone()[0]
    )


class ConnectionTests(ClusterCase):
    """
    L{StoreConnection}.
    """

    async def test_runs(self) -> None:
        """What has fired is there; what has failed is not, and takes nothing with it."""
        database = await self.database()
        self.assertEqual(await database.run(insert, "a"), 1)
        self.assertEqual(await database.alone(insert, "b"), 1)
        error = await self.assertFailure(database.run(insert, "a"), SpoolError)
        self.assertEqual(type(error), SpoolError)
        self.assertEqual(error.__cause__.sqlstate, "23505")
        self.assertEqual(await database.alone(count), 2)

    async def test_ownErrors(self) -> None:
        """What a function raises reaches its caller, and undoes what it did."""
        database = await self.database()

        def fails(db: Any) -> None:
            insert(db, "a")
            raise KeyError("b")

        await self.assertFailure(database.run(fails), KeyError)
        self.assertEqual(await database.alone(count), 0)

    async def test_killed(self) -> None:
        """A backend that is ended: what was not committed has not been done; it is back."""
        database = await self.database()
        pid = await database.alone(lambda db: db.info.backend_pid)

        def endAtWork(db: Any) -> None:
            insert(db, "a")
            self.server.ask("SELECT pg_terminate_backend(%s, 5000)", pid)
            count(db)

        first = database.run(endAtWork)
        second = database.run(insert, "b")
        await self.assertFailure(first, StoreAway)
        await self.assertFailure(second, StoreAway)
        self.assertFalse(self.presence.isThere)
        await self.until(lambda: self.presence.isThere)
        self.assertEqual(await database.alone(count), 0)

    async def test_swallowed(self) -> None:
        """
        Where a wire swallows everything, who waits is told in the time of a statement:
        what is not known is said to be unknown.
        """
        wire = self.wire()
        database = await self.database(wire.conninfo(self.server))

        def silent(db: Any) -> None:
            insert(db, "a")
            wire.isSilent = True

        running = [database.run(silent), database.run(insert, "b")]
        await self.assertFailure(running[0], OutcomeUnknown)
        await self.assertFailure(running[1], StoreAway)
        await self.assertFailure(database.run(insert, "c"), StoreAway)
        wire.mend()
        await self.until(lambda: self.presence.isThere)
        self.assertEqual(await database.run(insert, "d"), 1)

    async def test_swallowedWhileConnecting(self) -> None:
        """So it is where the wire goes while a connection is made."""
        wire = self.wire()

        def silent(db: Any) -> None:
            wire.isSilent = True
            db.execute("SELECT 1")

        access = Access(wire.conninfo(self.server), None, self.schema, SECONDS)
        thread = OwnThread(reactor, "test")
        self.addCleanup(thread.end)
        database = StoreConnection(access, thread, reactor, self.presence)
        self.addCleanup(database.close)
        database.begin.append(silent)
        await self.assertFailure(database.open(), StoreAway)
        database.begin.clear()
        wire.mend()
        await self.until(lambda: database.isThere)

    async def test_crash(self) -> None:
        """A server that crashes and is started again: what was said to be there is."""
        server = Instance()
        self.addCleanup(server.remove)
        database = await self.database(server.conninfo)
        await database.run(insert, "a")
        server.stop(signal.SIGQUIT)
        await self.assertFailure(database.run(insert, "b"), StoreAway, OutcomeUnknown)
        server.start()
        await self.until(lambda: self.presence.isThere)
        self.assertEqual(await database.alone(count), 1)

    async def test_connectionsUsedUp(self) -> None:
        """Where all connections are taken it is away, and back when one is free."""
        server = Instance("max_connections=4", "superuser_reserved_connections=0")
        self.addCleanup(server.remove)
        import psycopg

        taken = [psycopg.connect(server.conninfo) for _ in range(4)]
        refused = Deferred.fromCoroutine(self.database(server.conninfo))
        await self.assertFailure(refused, StoreAway)
        for one in taken:
            one.close()
        database = await self.database(server.conninfo)
        self.assertEqual(await database.run(insert, "a"), 1)

    async def test_standbyGone(self) -> None:
        """
        What is committed here, and is on no standby, is not said to be safe: neither when
        its time is over nor when the wait is ended by an operator.
        """
        server = Instance()
        self.addCleanup(server.remove)
        standby = Instance(primary=server)
        self.addCleanup(standby.remove)
        database = await self.database(server.conninfo)
        server.ask("ALTER SYSTEM SET synchronous_standby_names = '*'")
        server.ask("SELECT pg_reload_conf()")
        shown = "SHOW synchronous_standby_names"
        await self.until(lambda: server.ask(shown) == [("*",)])
        self.assertEqual(await database.alone(durability), "synchronous: *")
        self.assertEqual(await database.run(insert, "a"), 1)
        standby.stop()
        pid = await database.alone(lambda db: db.info.backend_pid)
        cancelled = database.run(insert, "b")
        waits = "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND wait_event = 'SyncRep'"
        await self.until(lambda: server.ask(waits, pid))
        server.ask("SELECT pg_cancel_backend(%s)", pid)
        await self.assertFailure(cancelled, OutcomeUnknown)
        self.assertTrue(database.isThere)
        await self.assertFailure(database.run(insert, "c"), OutcomeUnknown)


class SchemaTests(ClusterCase):
    """
    L{upgrade} and L{durability}.
    """

    async def test_together(self) -> None:
        """Of several that start at once, one makes the tables, and all find them."""
        for opening in [Deferred.fromCoroutine(self.database()) for _ in range(4)]:
            database = await opening
            self.assertEqual(await database.alone(versionOf), VERSION)

    async def test_next(self) -> None:
        """The next version's tables will do; those after it will not."""
        database = await self.database()
        wanted = f"the schema is version {VERSION + 2}, this is version {VERSION}"
        for version, error in ((VERSION + 1, None), (VERSION + 2, wanted)):
            self.server.ask(f"UPDATE {self.schema}.schema SET version = {version}")
            d = database.run(upgrade, self.schema)
            if error is None:
                self.assertEqual(await d, version)
            else:
                failed = await self.assertFailure(d, SpoolError)
                self.assertIn(error, str(failed))

    async def test_before(self) -> None:
        """Tables of the version before become those of this one; who was there stays."""
        patched = self.patch(schema, "VERSION", VERSION - 1)
        database = await self.database()
        row = await database.run(enroll, Identity("mx1", 0, "0.1", 60))
        patched.restore()
        self.assertEqual(await database.alone(upgrade, self.schema), VERSION)
        self.assertEqual(await database.alone(beat, row.id, 3), Living(1, 1))
        await database.run(enroll, Identity("mx2", 0, "0.1", 60))
        self.assertEqual(await database.alone(beat, row.id), Living(2, 2))

    async def refused(self, make: str, conninfo: str | None = None) -> str:
        """
        @param make: what is done before the tables are to be made.
        @return: why they cannot be.
        """
        for one in make.format(schema=self.schema).split(";"):
            self.server.ask(one)
        error = await self.assertFailure(
            Deferred.fromCoroutine(self.database(conninfo)), SpoolError
        )
        self.assertNotIsInstance(error, StoreAway)
        return str(error)

    async def test_encoding(self) -> None:
        """Tables are not made where some addresses could not be written."""
        name = self.schema
        self.server.ask(f"CREATE DATABASE {name} ENCODING 'LATIN1' TEMPLATE template0")
        conninfo = self.server.conninfo.replace("dbname=postgres", f"dbname={name}")
        self.assertIn("encoding is LATIN1", await self.refused("SELECT 1", conninfo))

    async def test_others(self) -> None:
        """A schema that has tables of another program is left alone, and they are named."""
        why = await self.refused(
            "CREATE SCHEMA {schema};CREATE TABLE {schema}.messages (x integer);"
            "CREATE TABLE {schema}.schema (version integer)"
        )
        self.assertIn("not of deferrals (messages, schema)", why)
        self.assertEqual(
            self.server.ask("SELECT 1 FROM pg_tables WHERE schemaname = %s", self.schema),
            [(1,)] * 2,
        )

    async def test_rights(self) -> None:
        """A role that may not use a schema is told so, and which schema that is."""
        role = f"r{self.schema}"
        conninfo = self.server.conninfo.replace("user=mail", f"user={role}")
        make = f"CREATE ROLE {role} LOGIN;CREATE SCHEMA {{schema}}"
        self.assertIn(f"the role {role} may not use", await self.refused(make, conninfo))

    async def test_unsafe(self) -> None:
        """A server that does not sync confirms nothing; this one does."""
        database = await self.database()
        self.assertEqual(await database.alone(durability), "local on 127.0.0.1")
        for name in ("fsync", "full_page_writes"):
            server = Instance(f"{name}=off")
            self.addCleanup(server.remove)
            unsafe = await self.database(server.conninfo)
            error = await self.assertFailure(unsafe.alone(durability), SpoolError)
            self.assertIn(f"{name} = off", str(error))


class CommandTests(ClusterCase):
    """
    C{deferrals cluster} and C{deferrals spool upgrade}.
    """

    def config(self, server: Instance) -> str:
        """
        The name of a configuration.
        """
        path = self.mktemp()
        with open(path, "w", encoding="utf-8") as file:
            file.write(
                'bounces = "none"\n[[listen]]\nendpoint = "tcp:25"\n[spool]\nnotes = "postgresql"\n'
                f'schema = "{self.schema}"\nconninfo = "{server.conninfo}"\n'
            )
        return path

    async def test_commands(self) -> None:
        """Tables are made on demand; who is dead, and how the database is, is shown."""
        path = self.config(self.server)
        self.assertEqual(cli("cluster", "-c", path).returncode, 2)
        upgrades = [("--check", 1), ("", 0), ("", 0), ("--check", 0)]
        for word, status in upgrades:
            done = cli("spool", "upgrade", *filter(None, [word]), "-c", path)
            self.assertEqual(done.returncode, status, done.stderr)
        database = await self.database()
        await database.run(enroll, Identity("mx1", 0, "0.2", 60))
        done = cli("cluster", "-c", path, "--json")
        found = json.loads(done.stdout)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertEqual(found["store"]["durable"], "local on 127.0.0.1")
        self.assertEqual([one["machine"] for one in found["owners"]], ["mx1"])
        self.server.ask(f"UPDATE {self.schema}.owners SET seen = now() - interval '70 seconds'")
        done = cli("cluster", "-c", path)
        self.assertEqual(done.returncode, 1)
        self.assertRegex(done.stdout, r"^dead: mx1, worker 0: not heard for 7\d s\n")


class OwnerTests(ClusterCase):
    """
    L{Owner}.
    """

    async def owner(self, lease: float = 60.0) -> tuple[Owner, StoreConnection]:
        """
        One that has started.
        """
        database = await self.database()
        owner = Owner(database, reactor, Identity("mx1", 0, "0.2", lease))
        await owner.start()
        self.addCleanup(owner.stop)
        return owner, database

    async def test_slots(self) -> None:
        """Each has a number of its own, up to 256; one that is free is not used at once."""
        database = await self.database()
        identity = Identity("mx1", 0, "0.2", 60)
        rows = [await database.run(enroll, identity) for _ in range(256)]
        self.assertEqual(sorted(row.slot for row in rows), [*range(256)])
        await self.assertFailure(database.run(enroll, identity), SpoolError)
        self.server.ask(f"DELETE FROM {self.schema}.owners WHERE slot IN (3, 9)")
        self.assertEqual((await database.run(enroll, identity)).slot, 3)
        self.server.ask(f"DELETE FROM {self.schema}.owners WHERE slot = 3")
        self.assertEqual((await database.run(enroll, identity)).slot, 9)

    async def test_woken(self) -> None:
        """
        A process that was not heard for its lease is dead: its work is another's.  When it
        wakes it says so, and goes on under another number.
        """
        owner, database = await self.owner(0.8)
        woken: list[Any] = []
        owner.woken = lambda old, new: woken.append((old, new))
        first = owner.row
        assert first is not None
        other = await self.database()
        self.server.ask(
            f"INSERT INTO {self.schema}.recipients (message, seq, status, due, owner, delivery,"
            " recipient, action) VALUES (1, 0, 1, now(), %s, 'd', 'r', NULL),"
            " (1, 1, 1, now(), %s, 'd', 'r', 'hold'), (2, 0, 1, now(), 0, 'd', 'r', NULL)",
            *(first.id, first.id),
        )
        self.assertEqual(await other.run(bury), [])
        self.server.ask(f"UPDATE {self.schema}.owners SET seen = now() - interval '1 hour'")
        self.assertEqual(await other.run(bury), [(first.id, "mx1", 0)])
        self.assertIsNone(await database.alone(beat, first.id))
        rows = f"SELECT message, seq, status, owner FROM {self.schema}.recipients ORDER BY 1, 2"
        wanted = [(1, 0, 0, None), (1, 1, 2, None), (2, 0, 1, 0)]
        self.assertEqual(self.server.ask(rows), wanted)
        turns = self.server.ask(f"SELECT name, ready <= now() FROM {self.schema}.destinations")
        self.assertEqual(turns, [("", True)])
        await self.until(lambda: woken)
        self.assertEqual(woken, [(first, owner.row)])
        self.assertNotEqual(woken[0][1].id, first.id)

    async def test_lives(self) -> None:
        """One whose heart beats is not buried, however short its lease is."""
        owner, _ = await self.owner(0.8)
        other = await self.database()
        for _ in range(20):
            self.assertEqual(await other.run(bury), [])
            await deferLater(reactor, 0.1)
        await owner.stop()
        self.assertEqual(self.server.ask(f"SELECT count(*) FROM {self.schema}.owners"), [(0,)])

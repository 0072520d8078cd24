"""
Two machines with queues of their own that share their notes in a real PostgreSQL, and
senders that turn from one to the other.
"""

from __future__ import annotations

import re
import signal
import smtplib
import time
from collections.abc import Sequence

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from deferrals.deferreds import asDeferred
from deferrals.errors import Changed, StoreAway
from deferrals.model.json import JSON
from deferrals.server.notes import Notes
from deferrals.server.sharednotes import SharedNotes
from deferrals.spool.postgresql import notes as stored
from tests.integration.clusters import Instance, Wire, primary
from tests.integration.daemons import Postfix
from tests.integration.support import IntegrationCase, Server, spam, until
from tests.integration.test_cluster import ClusterCase
from tests.integration.test_mixed import CONFIG
from tests.zone import Zone

MOST = {"k": 100, "secret": 1}


class SharedNotesTests(ClusterCase):
    """
    L{SharedNotes}: what is promised of notes, of two processes.
    """

    async def notes(self, conninfo: str | None = None) -> SharedNotes:
        """
        Those of one more process.
        """
        found = SharedNotes(Notes(reactor), await self.database(conninfo), reactor, MOST)
        self.addCleanup(found.stop)
        found.start()
        return found

    async def found(self, notes: SharedNotes, group: str = "o g") -> list[tuple[str, JSON, int]]:
        """
        What one finds.
        """
        found: Sequence[tuple[str, JSON, int]] = await asDeferred(notes.find, "k", group)
        return list(found)

    async def test_everywhere(self) -> None:
        """What was put is found by all, the last of a key; who put first is first."""
        both = [await self.notes(), await self.notes()]
        one = await both[0].put("k", "o g", "a", {"x": [1]}, 60)
        two = await both[1].put("k", "o g", "b", None, 60)
        for notes in both:
            found = await self.found(notes)
            self.assertEqual(found, [("a", {"x": [1]}, one), ("b", None, two)])
        newer = await both[1].put("k", "o g", "a", "new", 60)
        self.assertEqual(await self.found(both[0]), [("b", None, two), ("a", "new", newer)])
        await both[0].forget("k", "o g", "a")
        await both[0].forget("k", "o g", "a")
        self.assertEqual(await self.found(both[1]), [("b", None, two)])

    async def test_oneWins(self) -> None:
        """Of all that change the same version at once, or note what was not, one can."""
        both = [await self.notes(), await self.notes()]
        for was in (0, await both[0].put("k", "o other", "key", 0, 60)):
            group = "o other" if was else "o g"
            puts = [one.put("k", group, "key", n, 60, was) for n, one in enumerate(both * 8)]
            won = []
            for d in puts:
                try:
                    won.append(await d)
                except Changed as changed:
                    self.assertGreater(changed.version or 0, was)
            self.assertEqual(len(won), 1)
            self.assertEqual((await self.found(both[0], group))[0][2], won[0])
        late = await self.assertFailure(both[1].put("k", "o none", "key", 1, 60, 5), Changed)
        self.assertEqual((late.value, late.version), (None, None))

    async def test_expired(self) -> None:
        """What has expired is not found, and was not there for who wants to be first."""
        notes = await self.notes()
        await notes.put("k", "o g", "key", 1, 0.05)
        await deferLater(reactor, 0.1)
        self.assertEqual(await self.found(notes), [])
        self.assertGreater(await notes.put("k", "o g", "key", 2, 60, 0), 0)

    async def test_strangeNames(self) -> None:
        """Whatever a sender calls itself is found again: it cannot be too long for an index."""
        notes = await self.notes()
        for name in ("\0", "\udc80", "ä" * 3000, "'; --", ""):
            await notes.put("k", name, name, name, 60)
            (found,) = await self.found(notes, name)
            self.assertEqual(found[:2], (name, name))

    async def test_flooded(self) -> None:
        """A flood takes the notes of who makes it, the oldest first."""
        notes = await self.notes()
        await notes.put("k", "honest g", "key", 1, 60)
        for number in range(300):
            await notes.put("k", f"evil g{number}", "key", 1, 60)
        database = await self.database()
        await database.run(stored.trim, MOST, 10**9)
        left = [len(await self.found(notes, f"evil g{n}")) for n in range(300)]
        self.assertEqual(left, [0] * 201 + [1] * 99)
        self.assertEqual(len(await self.found(notes, "honest g")), 1)
        await database.run(stored.trim, MOST, 300)
        count = self.server.ask(
            f"SELECT count(*), sum(length(value) + length(name)) FROM {self.schema}.notes"
        )
        self.assertTrue(0 < count[0][0] < 100 and count[0][1] <= 300, count)

    async def test_own(self) -> None:
        """What is a machine's own is in no database, and there at once."""
        notes = await self.notes()
        await notes.put("secret", "server", "octets", "s", 60)
        ((_, value, _),) = notes.find("secret", "server")
        self.assertEqual(value, "s")
        await notes.forget("secret", "server", "octets")
        self.assertEqual(notes.find("secret", "server"), [])
        self.assertEqual(self.server.ask(f"SELECT count(*) FROM {self.schema}.notes"), [(0,)])

    async def test_together(self) -> None:
        """Look-ups of one turn, and those that come while one is under way, are two statements."""
        notes = await self.notes()
        asked: list[int] = []
        find = stored.find
        self.patch(stored, "find", lambda db, places: asked.append(len(places)) or find(db, places))
        first = [asDeferred(notes.find, "k", f"o {n}") for n in range(5)]
        await deferLater(reactor, 0)
        for d in [*first, *(asDeferred(notes.find, "k", f"o {n}") for n in range(7))]:
            await d
        self.assertEqual(asked, [5, 7])

    async def test_indexed(self) -> None:
        """A look-up among many is by the index."""
        notes = await self.notes()
        database = await self.database()
        await database.alone(
            lambda db: db.execute(
                "INSERT INTO notes SELECT sha256(n::text::bytea), sha256('k'), 'k', n::text,"
                " '\"k\"', '1', n, now() + interval '1 hour' FROM generate_series(1, 20000) AS n"
            )
        )
        await database.alone(lambda db: db.execute("ANALYZE notes"))
        plan = await database.alone(
            lambda db: db.execute(
                "EXPLAIN SELECT value FROM notes WHERE place = ANY(%s)", ([b"x", b"y"],)
            ).fetchall()
        )
        self.assertIn("notes_pkey", str(plan))
        self.assertEqual(await self.found(notes), [])

    async def test_away(self) -> None:
        """While the database is away what was put here is found here; nothing can be put."""
        wire = self.wire()
        notes = await self.notes(wire.conninfo(self.server))
        await notes.put("k", "o g", "key", [1], 60)
        wire.cut()
        for _ in range(2):
            ((_, value, _),) = await self.found(notes)
            self.assertEqual(value, [1])
            assert isinstance(value, list)
            value.clear()
        await self.assertFailure(Deferred.fromCoroutine(self.found(notes, "o other")), StoreAway)
        await self.assertFailure(notes.put("k", "o g", "key", 2, 60), StoreAway)
        wire.mend()
        await self.until(lambda: self.presence.isThere)
        await notes.put("k", "o g", "key", 2, 60)


TABLE = """
[spool]
notes = "postgresql"
conninfo = "{conninfo}"
schema = "{schema}"
timeout = 1

[policies.open]
"""


class TwoMachinesCase(IntegrationCase):
    """
    Two servers with queues of their own, each of which is a host of one domain.
    """

    def machine(self, conninfo: str, schema: str, more: str = "") -> Server:
        """
        One of them.

        @param more: further lines above all tables.
        """
        table = TABLE.format(conninfo=conninfo, schema=schema)
        zone = Zone({})
        self.addCleanup(zone.close)
        config = more + CONFIG.format(mixed="retry", dns="{}:{}".format(*zone.address))
        return self.server(config.replace("[policies.open]", table, 1))

    def bring(self, server: Server, *locals_: str) -> list[int]:
        """
        Bring one message.

        @return: the codes of the replies to the recipients, and to the data.
        """
        mail = b"Message-ID: <1@client.test>\r\nDate: today\r\n" + spam().replace(b"\n", b"\r\n")
        with smtplib.SMTP("127.0.0.1", server.port, timeout=60) as client:
            client.ehlo("client.test")
            client.mail("me@client.test")
            codes = [client.rcpt(f"{local}@example.net")[0] for local in locals_]
            return [*codes, client.data(mail)[0]] if 250 in codes else codes


class TwoMachinesTests(TwoMachinesCase):
    """
    One database, all is well, or it is away.
    """

    def test_turns(self) -> None:
        """What the first has refused for now, the second knows at once; many times."""
        schema = primary().newSchema()
        first, second = (self.machine(primary().conninfo, schema) for _ in range(2))
        self.assertEqual(self.bring(first, "fighter", "lover"), [250, 250, 451])
        self.assertEqual(self.bring(second, "fighter", "lover"), [452, 250, 250])
        self.refused(first)
        self.assertEqual(len(second.arrived("lover")), 1)
        self.assertEqual(first.mail("lover"), [])

    def test_workers(self) -> None:
        """So it is where each machine is several processes."""
        schema = primary().newSchema()
        machines = [self.machine(primary().conninfo, schema, "workers = 2") for _ in range(2)]
        for one in machines:
            until(lambda one=one: one.log.count("is running") == 2, one.log)
        self.assertEqual(self.bring(machines[0], "fighter", "lover"), [250, 250, 451])
        self.assertEqual(self.bring(machines[1], "fighter", "lover"), [452, 250, 250])
        self.refused(machines[0])

    def refused(self, server: Server) -> None:
        """
        Who refuses is next.  That the others have it is noted when they were told so: who
        comes sooner than that comes again.
        """
        until(lambda: self.bring(server, "fighter") == [250, 550], server.log)

    def test_postfix(self) -> None:
        """
        Postfix turns to the second within a millisecond: all recipients have their own
        answer, and those that accept have one copy, whichever machine they came to.
        """
        schema = primary().newSchema()
        machines = [self.machine(primary().conninfo, schema) for _ in range(2)]
        hosts = ", ".join(f"[127.0.0.1]:{one.port}" for one in machines)
        sender = Postfix(self, f"smtp:{hosts}")
        everybody = [f"{local}@example.net" for local in ("lover", "fighter", "boxer")]
        sender.send(spam(), "me@client.test", *everybody)
        second = machines[1].port
        sender.logged(rf"to=<lover@example\.net>, relay=\S+:{second}, .* status=sent")
        self.assertIn("451 4.7.1", machines[0].log)
        self.assertIn("452 4.5.3 <fighter@example.net>", machines[1].log)
        bounced = r"to=<{}@example\.net>.* status=bounced .*550 5\.7\.1"

        def done() -> bool:
            if all(re.search(bounced.format(one), sender.log()) for one in ("fighter", "boxer")):
                return True
            sender.flush()
            time.sleep(0.2)
            return False

        until(done, "bounces")
        self.assertEqual(sum(len(one.mail("lover")) for one in machines), 1)
        refused = [one for one in machines for local in ("fighter", "boxer") if one.mail(local)]
        self.assertEqual(refused, [])

    def test_away(self) -> None:
        """
        While the database is killed, silent, or behind a wire that swallows everything:
        mail whose recipients agree is taken; where they differ, all is refused for now.
        When it is back, all is as before, and no server was started again.
        """
        server = Instance()
        self.addCleanup(server.remove)
        wire = Wire(server.port)
        self.addCleanup(wire.close)
        schema = server.newSchema()
        machines = [self.machine(wire.conninfo(server), schema) for _ in range(2)]

        def works() -> bool:
            return self.bring(machines[0], "fighter", "lover") == [250, 250, 451] and (
                self.bring(machines[1], "fighter", "lover") == [452, 250, 250]
            )

        def away() -> None:
            self.assertEqual(self.bring(machines[1], "lover"), [250, 250])
            self.assertEqual(self.bring(machines[1], "fighter"), [250, 550])
            self.assertEqual(self.bring(machines[0], "boxer", "postmaster"), [250, 250, 451])
            self.assertEqual(self.bring(machines[1], "boxer", "postmaster"), [250, 250, 451])

        def back() -> None:
            until(asBefore, "as before")
            for one in machines:
                until(lambda one=one: one.log.count("is away") == one.log.count("is back"), one.log)

        def asBefore() -> bool:
            # A wire may be cut for its silence when the database answers again already.
            server.ask(f"DELETE FROM {schema}.notes")
            return works()

        self.assertTrue(works())
        server.stop(signal.SIGQUIT)
        away()
        server.start()
        back()
        with server.halted():
            away()
        back()
        wire.isSilent = True
        away()
        wire.mend()
        back()
        for one in machines:
            self.assertNotIn("Traceback", one.log)

    def test_startsWithout(self) -> None:
        """A server starts while the database is away: its queue is its own."""
        server = Instance()
        self.addCleanup(server.remove)
        server.stop()
        machine = self.machine(server.conninfo, "mail")
        self.assertEqual(self.bring(machine, "lover"), [250, 250])
        server.start()
        until(lambda: "the database is back" in machine.log, machine.log)
        self.assertEqual(self.bring(machine, "fighter", "lover"), [250, 250, 451])
        self.assertEqual(len(server.ask("SELECT * FROM mail.notes")), 1)

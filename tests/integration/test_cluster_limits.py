"""
Limits that hold for all machines which share a real PostgreSQL: what each counts there,
and what clients of two servers meet.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import smtplib
import time
from collections import defaultdict
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import gatherResults
from twisted.internet.task import deferLater

from deferrals.model.windows import STEPS, Windows
from deferrals.server.company import Company
from deferrals.server.limits import SharedLimits
from deferrals.server.storelimits import StoreLimits
from deferrals.spool.postgresql import spending
from deferrals.spool.postgresql.owners import Identity, Living, enroll, leave
from tests.integration.clusters import Instance, primary
from tests.integration.support import (
    MAILDIR,
    PATIENCE,
    IntegrationCase,
    Server,
    cli,
    takesAll,
    until,
)
from tests.integration.test_cluster import ClusterCase

HOUR = 3600.0


class SpendingTests(ClusterCase):
    """
    L{deferrals.spool.postgresql.spending}, and L{StoreLimits} over it.
    """

    async def machine(self, name: str, machines: int = 1) -> StoreLimits:
        """
        One more machine.

        @param machines: how many it thinks there are.
        """
        database = await self.database()
        row = await database.run(enroll, Identity(name, 0, "0.2", 60))
        company = Company()
        company.heard(row.id, Living(machines, machines))
        found = StoreLimits(SharedLimits(reactor), database, reactor, company)
        self.companies[found] = company
        return found

    def setUp(self) -> None:
        super().setUp()
        self.companies: dict[StoreLimits, Company] = {}

    async def test_likeWindows(self) -> None:
        """Whatever is asked for, spent and given back: as one process would count it."""
        database, windows = await self.database(), Windows()
        chance = random.Random(7)
        for number in range(300):
            key, amount = chance.choice("ab"), chance.choice([0, 1, 1, 2, 5, 9, -1, -3])
            most = chance.choice([5, 8, 8, 0])
            found = await database.alone(spending.spend, "n", key, amount, most, HOUR)
            wanted = windows.spend(key, amount, most, HOUR, 0.0)
            self.assertEqual(found, wanted, (number, key, amount, most))

    async def test_neverMore(self) -> None:
        """
        Machines come and go, and all spend at once, in any order: never more than there is,
        and no less, if anybody wants it.
        """
        chance = random.Random(11)
        machines = [await self.machine(f"mx{number}") for number in range(3)]
        spent: defaultdict[str, int] = defaultdict(int)
        for number in range(20):
            if not number % 5:
                machines[chance.randrange(3)] = await self.machine(f"new{number}")
            asked = [(chance.choice("ab"), chance.randint(1, 4)) for _ in range(6)]
            tried = [
                chance.choice(machines).spend("n", key, amount, 100, HOUR) for key, amount in asked
            ]
            for (key, amount), isThere in zip(asked, await gatherResults(tried), strict=True):
                spent[key] += amount if isThere else 0
            self.assertTrue(all(one <= 100 for one in spent.values()), spent)
        for key in "ab":
            while await machines[0].spend("n", key, 1, 100, HOUR):
                spent[key] += 1
        self.assertEqual(dict(spent), {"a": 100, "b": 100})

    async def test_slides(self) -> None:
        """What was spent counts for its window, and one of its steps at most, longer."""
        database = await self.database()
        self.assertTrue(await database.alone(spending.spend, "n", "k", 5, 5, HOUR))
        for ago, isThere in ((STEPS - 1, False), (STEPS + 1, True)):
            await database.alone(self._age, ago)
            asked = await database.alone(spending.spend, "n", "k", 0, 5, HOUR)
            self.assertEqual(asked, isThere)
        self.assertTrue(await database.alone(spending.spend, "n", "k", 5, 5, HOUR))
        (steps,) = self.server.ask(f"SELECT steps FROM {self.schema}.spent")[0]
        self.assertEqual([*steps.values()], [5])

    def _age(self, db: Any, steps: int) -> None:
        """
        As if what is spent were so many steps old.
        """
        db.execute(
            "UPDATE spent SET steps = (SELECT jsonb_object_agg((floor(extract(epoch FROM"
            " clock_timestamp()) / %s)::bigint - %s)::text, value) FROM jsonb_each(steps))",
            (HOUR / STEPS, steps),
        )

    async def test_silent(self) -> None:
        """What is given back while the database is silent is, for all, when it answers again."""
        instance = Instance()
        self.addCleanup(instance.remove)
        self.patch(self, "server", instance)
        one, other = await self.machine("mx1"), await self.machine("mx2")
        self.addCleanup(one.stop)
        self.assertTrue(await one.spend("n", "k", 1, 1, HOUR))
        self.assertFalse(await other.spend("n", "k", 0, 1, HOUR))
        with instance.halted():
            self.assertTrue(await one.spend("n", "k", -1, 1, HOUR))
        for _ in range(10 * PATIENCE):
            if await other.spend("n", "k", 0, 1, HOUR):
                return
            await deferLater(reactor, 0.1)
        self.fail("it was not given back")

    async def test_bounded(self) -> None:
        """
        Keys that have spent least go first, those that count no longer in any case, and
        what no living owner has.
        """
        database = await self.database()
        await database.alone(spending.spend, "n", "much", 9, 99, HOUR)
        for number in range(20):
            await database.alone(spending.spend, "n", f"k{number}", 1, 99, HOUR)
        await database.alone(spending.spend, "old", "k", 1, 99, 0.001)
        await database.alone(spending.settle, 12345, "n", "k", 7)
        await database.run(spending.trim, {"n": 5}, 100)
        counted = f"SELECT name, count(*) FROM {self.schema}.spent GROUP BY name"
        self.assertEqual(self.server.ask(counted), [("n", 5)])
        self.assertFalse(await database.alone(spending.spend, "n", "much", 91, 99, HOUR))
        self.assertEqual(self.server.ask(f"SELECT count(*) FROM {self.schema}.entered"), [(0,)])

    async def test_enter(self) -> None:
        """
        One address at once: at one machine it may have most of its limit, at all no more
        than that; what a machine had that is gone is for the others.
        """
        machines = [await self.machine(name, 2) for name in ("mx1", "mx2")]
        entered = [await machines[0].enter("per", "a", 10) for _ in range(12)]
        self.assertEqual(entered.count(True), 9)
        entered = [await machines[1].enter("per", "a", 10) for _ in range(3)]
        self.assertEqual(entered, [True, False, False])
        machines[0].leave("per", "a")
        await machines[0].spend("n", "k", 0, 1, HOUR)  # what was said before is known
        self.assertTrue(await machines[1].enter("per", "a", 10))
        self.assertFalse(await machines[1].enter("per", "a", 10))
        self.assertTrue(await machines[1].enter("per", "b", 10))
        gone = self.companies[machines[0]].me
        await (await self.database()).run(leave, gone)
        entered = [await machines[1].enter("per", "a", 10) for _ in range(12)]
        self.assertEqual(entered.count(True), 7)  # with the two that it has: 1 + 8

    async def test_enterRandomly(self) -> None:
        """Whoever comes and goes where: at all machines together never more than the limit."""
        chance = random.Random(5)
        machines = [await self.machine(f"mx{number}", 3) for number in range(3)]
        there: list[StoreLimits] = []
        for _ in range(150):
            if there and chance.random() < 0.4:
                there.pop(chance.randrange(len(there))).leave("per", "a")
            else:
                one = chance.choice(machines)
                if await one.enter("per", "a", 13):
                    there.append(one)
            self.assertLessEqual(len(there), 13)
        for one in there:
            one.leave("per", "a")
        # Each has its quarter, and nothing is left of the rest in the database.
        for one in machines:
            await one.spend("n", "k", 0, 1, HOUR)
        counts = self.server.ask(f"SELECT counts FROM {self.schema}.entered")
        self.assertEqual(counts, [({},)])

    async def test_odd(self) -> None:
        """Whatever a client calls itself is counted."""
        database = await self.database()
        for key in ("\0", "\udc80", "ä" * 3000, "'; --", "%s"):
            self.assertTrue(await database.alone(spending.spend, "n", key, 5, 5, HOUR))
            self.assertFalse(await database.alone(spending.spend, "n", key, 1, 5, HOUR))


TABLES = """
[spool]
{use} = "postgresql"
conninfo = "{conninfo}"
schema = "{schema}"
machine = "{machine}"
timeout = 1
{more}

[limits]
auth_delay = 0
auth_failures = 100
auth_address_failures = 4
connections_per_address = 8

[submission]
messages = 3
"""

PORT = """
[[listen]]
endpoint = "tcp:0:interface=127.0.0.1"
protocol = "submission"
auth_without_tls = true
"""


class MachinesTests(IntegrationCase):
    """
    Two servers of one database.
    """

    def machine(
        self, schema: str, name: str, use: str = "use", instance: Any = None, top: str = ""
    ) -> Server:
        """
        One of them.
        """
        instance = instance or primary()
        more = "lease = 2" if use == "use" else ""
        values = {"use": use, "schema": schema, "machine": name, "more": more}
        tables = TABLES.format(conninfo=instance.conninfo, **values)
        listen = '\n[[listen]]\nendpoint = "tcp:0:interface=127.0.0.1"\n'
        config = takesAll(MAILDIR, top=top, tables=tables).replace(listen, PORT)
        self.assertIn("submission", config)
        passwords = os.path.join(self.directory(), "passwords")
        cli("passwd", passwords, "fine@example.net", data=b"secret\n")
        server = self.server(config, "--auth", f"passwd:{passwords}")
        until(lambda: "is alive" in server.log, server.log)
        return server

    def login(self, server: Server, password: str, user: str = "fine@example.net") -> int:
        """
        @return: the code of the answer.
        """
        with smtplib.SMTP("127.0.0.1", server.port, "client.test", timeout=60) as client:
            try:
                return client.login(user, password)[0]
            except smtplib.SMTPAuthenticationError as error:
                return error.smtp_code

    def submit(self, server: Server) -> int:
        """
        @return: the first code that refuses a message, or the last one.
        """
        with smtplib.SMTP("127.0.0.1", server.port, "client.test", timeout=60) as client:
            client.login("fine@example.net", "secret")
            replies = [client.mail("fine@example.net"), client.rcpt("lover@example.net")]
            for code, _ in replies:
                if code >= 400:
                    return code
            return client.data(b"From: fine@example.net\r\nSubject: a test\r\n\r\nhello\r\n")[0]

    def test_failures(self) -> None:
        """
        An address that fails its logins at both machines is refused at the sum, by both; it
        is so where they share only their notes, too.
        """
        for use in ("use", "notes"):
            schema = primary().newSchema()
            both = [self.machine(schema, name, use) for name in ("one", "two")]
            codes = [self.login(both[number % 2], f"wrong {number}") for number in range(6)]
            self.assertEqual(codes, [535] * 4 + [codes[-1]] * 2, both[0].log)
            self.assertNotEqual(codes[-1], 535)
            self.assertEqual(self.login(both[0], "secret"), codes[-1])

    def test_workers(self) -> None:
        """So it is where each machine has several processes: they are all owners."""
        schema = primary().newSchema()
        both = [self.machine(schema, name, top="workers = 2") for name in ("one", "two")]
        self.knows(both[0], 2)
        codes = [self.login(both[number % 2], f"wrong {number}") for number in range(6)]
        self.assertEqual(codes[:4], [535] * 4, both[0].log)
        self.assertNotIn(535, codes[4:])
        clients = [self.connect(server) for server in [*both] * 8]
        there = [one for one in clients if one is not None]
        self.assertEqual(len(there), 8)
        there[0].quit()
        until(lambda: self.connect(both[0]) is not None, both[0].log)

    def test_submission(self) -> None:
        """What a user may send it may send in all, at whichever machine."""
        schema = primary().newSchema()
        both = [self.machine(schema, name) for name in ("one", "two")]
        codes = [self.submit(both[number % 2]) for number in range(4)]
        self.assertEqual([code // 100 for code in codes], [2, 2, 2, 4], both[0].log + both[1].log)

    def test_away(self) -> None:
        """
        While the database is away each machine's own count stands, which it has kept; it is
        said once.
        """
        instance = Instance()
        self.addCleanup(instance.remove)
        both = [self.machine("mail", name, "notes", instance) for name in ("one", "two")]
        for number in range(3):
            self.assertEqual(self.login(both[number % 2], f"wrong {number}"), 535)
        instance.stop(signal.SIGQUIT)
        codes = [self.login(both[0], f"more {number}") for number in range(3)]
        self.assertEqual(codes[:2], [535, 535], both[0].log)
        self.assertNotEqual(codes[2], 535)
        self.assertEqual(both[0].log.count("limits are this machine's own for now"), 1)
        self.assertEqual(self.login(both[1], "secret"), 235, both[1].log)
        instance.start()
        until(lambda: "the database is back" in both[1].log, both[1].log)
        self.assertEqual(self.login(both[1], "secret"), 235, both[1].log)
        self.assertIn("limits hold for all machines again", both[1].log)

    def connect(self, server: Server) -> smtplib.SMTP | None:
        """
        @return: a client that is there; C{None} if it was refused.
        """
        client = smtplib.SMTP(timeout=60)
        self.addCleanup(client.close)
        code, _ = client.connect("127.0.0.1", server.port)
        return client if code == 220 else None

    def test_connections(self) -> None:
        """
        An address has so many connections at all machines together; when a machine dies, its
        share comes to the others.  Who is there, and what each has, is shown.
        """
        schema = primary().newSchema()
        first, second = (self.machine(schema, name) for name in ("one", "two"))
        self.knows(first, 2)
        clients = [self.connect(server) for server in [first] * 9 + [second] * 3]
        self.assertEqual([one is not None for one in clients[:9]], [True] * 7 + [False] * 2)
        self.assertEqual([one is not None for one in clients[9:]], [True, False, False])
        done = cli("cluster", "--json", "-c", first.path)
        found = json.loads(done.stdout)
        keys = "owner machine worker pid version schema seen_seconds alive staged leased"
        for one in found["owners"]:
            self.assertEqual(set(one), set(keys.split()))
            self.assertEqual((one["staged"], one["leased"]), (0, 0))
        keys = "server schema durable oldest_xmin_seconds dead_rows octets replicas"
        self.assertEqual(set(found["store"]), set(keys.split()))
        first.kill()
        self.knows(second, 1)
        clients = [self.connect(second) for _ in range(9)]
        self.assertEqual([one is not None for one in clients], [True] * 7 + [False] * 2)

    def knows(self, server: Server, machines: int) -> None:
        """
        Wait until a server has heard that there are so many machines.
        """

        def heard() -> bool:
            done = cli("status", "--json", "-c", server.path)
            owner = json.loads(done.stdout)["parts"].get("owner", {})
            heard = [owner] if "machines" in owner else [*owner.values()]
            return {one["machines"] for one in heard} == {machines}

        until(heard, server.log)

    def test_twins(self) -> None:
        """Two machines of one name are warned of, in their logs and to operators."""
        schema = primary().newSchema()
        both = [self.machine(schema, "same") for _ in range(2)]
        for one in both:
            until(lambda one=one: "another machine is same, too" in one.log, one.log)
        done = cli("cluster", "-c", both[0].path)
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertIn("several machines are same: give each a name of its own", done.stderr)

    def test_restarted(self) -> None:
        """One that was killed, and has started again, is no second machine of its name."""
        schema = primary().newSchema()
        server = self.machine(schema, "one", "notes")
        server.kill()
        again = self.machine(schema, "one", "notes")
        ends = time.monotonic() + 7  # the heart has beaten by then
        until(lambda: time.monotonic() > ends, again.log)
        self.assertNotIn("another machine", again.log)
        done = cli("cluster", "-c", again.path)
        self.assertFalse(re.search("several machines", done.stderr), done.stderr)

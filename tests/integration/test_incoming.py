"""
Large contents that are put into a real PostgreSQL while they are received.
"""

from __future__ import annotations

import glob
import unittest.mock
from typing import Any

import psycopg

from deferrals.errors import OutcomeUnknown, SpoolError
from deferrals.model.disposition import Remove
from deferrals.spool import message as message_
from deferrals.spool.message import BodyWriter
from deferrals.spool.postgresql import contents, order
from deferrals.spool.postgresql import spool as spool_
from deferrals.spool.postgresql.connection import StoreConnection
from deferrals.spool.postgresql.contents import PIECE_OCTETS
from deferrals.spool.postgresql.owners import beat, bury, enroll
from deferrals.spool.postgresql.spool import PostgresqlSpool
from deferrals.testing import makeAddressees, makeEnvelope
from tests.integration import test_store
from tests.integration.clusters import Instance, primary
from tests.integration.support import Dialogue, Server, takesAll, until
from tests.integration.test_store import StoreCase
from tests.integration.test_store_server import StoreServerCase, bring
from tests.operations import SEQUENCES

#: Two pieces and a half.
CONTENT = b"Subject: x\r\n\r\n" + b"0123456789abcde\n" * 163_840


class IncomingContractTests(test_store.PostgresqlSpoolTests):
    """
    L{PostgresqlSpool}, with all contents in pieces, and small ones, while they are received.
    """

    def setUp(self) -> None:
        super().setUp()
        self.patch(message_, "MEMORY_OCTETS", 1)
        self.patch(contents, "PIECE_OCTETS", 8)

    def test_message(self) -> None:
        """How a large content begins is known from more than its first line."""
        self.patch(message_, "MEMORY_OCTETS", 256 * 1024)
        super().test_message()

    def test_claimed(self) -> None:
        """A large content is here when it was checked, and not before."""
        self.patch(message_, "MEMORY_OCTETS", 256 * 1024)
        super().test_claimed()

    def test_large(self) -> None:
        """However large a message is: it comes to an end."""
        self.patch(contents, "PIECE_OCTETS", 64 * 1024)
        super().test_large()


class SameStoreTests(test_store.SameStoreTests):
    """
    The random sequences of L{tests.operations}, with such contents.
    """

    def test_same(self) -> None:
        """What the spool in memory does, the one in PostgreSQL does; some of the sequences."""
        self.patch(test_store, "SEQUENCES", max(1, SEQUENCES // 10))
        self.patch(message_, "MEMORY_OCTETS", 1)
        self.patch(contents, "PIECE_OCTETS", 8)
        super().test_same()


class IncomingCase(StoreCase):
    """
    @ivar reactor: the clock of C{spool}.
    """

    def setUp(self) -> None:
        super().setUp()
        self.reactor = self.anew()
        self.spool = self.opened(self.reactor, self.mktemp())
        self.envelope = makeEnvelope()

    def begun(self, content: bytes = CONTENT) -> BodyWriter:
        """
        A content that is coming in.
        """
        self.envelope = makeEnvelope()
        writer = self.spool.newBody(self.envelope.transaction)
        writer.write(content)
        return writer

    def settle(self, spool: PostgresqlSpool | None = None) -> None:
        """
        What the database was asked for is done.
        """
        for _ in range(4):
            self.reactor.wait((spool or self.spool)._bodies.alone(lambda db: None))

    def pieces(self) -> list[tuple[int, int]]:
        """
        What is in the database: of each its number, and its octets.
        """
        table = f"{self.reactor.schema}.pieces"
        return self.server.ask(f"SELECT seq, length(body) FROM {table} ORDER BY seq")

    def stage(self, writer: BodyWriter) -> Any:
        message = self.reactor.result(writer.finish())
        staging = self.spool.stage(self.envelope, message, makeAddressees("a@b.example"))
        return self.reactor.result(staging)

    def assertNothing(self) -> None:
        """
        No content is in the database, or about to be.
        """
        self.settle()
        self.assertEqual((self.pieces(), self.spool.large.coming), ([], set()))

    def dead(self, other: PostgresqlSpool) -> None:
        """
        This process is not heard, and others find that.
        """
        update = f"UPDATE {self.reactor.schema}.owners SET seen = '-infinity' WHERE id = %s"
        self.server.ask(update, self.spool.owned.id)
        self.reactor.result(other._claims.run(lambda db: beat(db, other.owned.id)))
        self.reactor.result(other._claims.run(bury))


class IncomingTests(IncomingCase):
    """
    Contents that come in.
    """

    WHOLE = [(0, PIECE_OCTETS), (1, PIECE_OCTETS), (2, len(CONTENT) - 2 * PIECE_OCTETS)]

    def test_meanwhile(self) -> None:
        """
        Complete pieces are there while it is received, the last one when it is whole; behind
        the verdicts there is only the row.
        """
        writer = self.begun()
        self.settle()
        self.assertEqual(self.pieces(), self.WHOLE[:2])
        message = self.reactor.result(writer.finish())
        self.settle()
        self.assertEqual(self.pieces(), self.WHOLE)
        asked: list[Any] = []
        alone = StoreConnection.alone

        def counted(connection: StoreConnection, function: Any, *args: Any) -> Any:
            asked.append(function)
            return alone(connection, function, *args)

        with unittest.mock.patch.object(StoreConnection, "alone", counted):
            staging = self.spool.stage(self.envelope, message, makeAddressees("a@b.example"))
            work = self.reactor.result(staging)
        self.assertEqual((asked, self.spool.large.coming), ([spool_.write], set()))
        self.spool.abandon(work)
        self.reactor.wait(self.spool.waiting())
        self.assertNothing()

    def test_small(self) -> None:
        """For what fits into a row nothing is asked before it is taken."""
        with unittest.mock.patch.object(StoreConnection, "_ask") as asked:
            writer = self.begun(b"x" * message_.MEMORY_OCTETS)
            self.reactor.result(writer.finish())
            writer.abort()
        self.assertEqual(asked.mock_calls, [])

    def test_onePiece(self) -> None:
        """A content of less than a piece is written when it is taken, and not if it is not."""
        writer = self.begun(CONTENT[:300_000])
        self.reactor.result(writer.finish())
        self.settle()
        self.assertEqual(self.pieces(), [])
        writer.abort()
        self.stage(self.begun(CONTENT[:300_000]))
        self.assertEqual(self.pieces(), [(0, 300_000)])

    def test_whole(self) -> None:
        """Another process has all of it when this one is dead."""
        other = self.opened(self.reactor, self.mktemp(), "mx2")
        self.stage(self.begun())
        self.dead(other)
        (work,) = self.reactor.result(other.claim(9, {}, 9))
        self.reactor.result(other.check(work))
        with work.message.open() as file:
            self.assertEqual(file.read(), CONTENT)
        self.reactor.result(other.record(work, {work.addressees[0]: Remove()}))
        self.reactor.wait(other.waiting())
        self.assertNothing()

    def test_aborted(self) -> None:
        """What is not wanted leaves nothing, however far it is."""
        writer = self.begun()
        writer.abort()  # while a piece is under way
        self.assertNothing()
        writer = self.begun()
        self.settle()
        self.assertEqual(len(self.pieces()), 2)
        writer.abort()
        self.assertNothing()
        writer = self.begun()
        self.reactor.result(writer.finish())
        writer.abort()  # while it is judged
        self.assertNothing()

    def test_coming(self) -> None:
        """What is coming in is not swept, however long it takes; what could not be removed is."""
        writer = self.begun()
        self.settle()
        self.reactor.result(self.spool._keepUp())
        self.assertEqual(len(self.pieces()), 2)
        with unittest.mock.patch.object(contents, "drop", side_effect=SpoolError("full")):
            writer.abort()
            self.settle()
        self.assertEqual(len(self.pieces()), 2)
        self.reactor.result(self.spool._keepUp())
        self.assertNothing()
        self.flushLoggedErrors()

    def test_slow(self) -> None:
        """
        While the database takes nothing its sender waits, and one piece is in memory; when
        it does, all goes on.
        """
        held: list[int] = []
        piece = contents.piece

        def read(path: str, seq: int) -> bytes:
            held.append(seq)
            return piece(path, seq)

        self.patch(contents, "piece", read)
        self.settle()
        with psycopg.connect(self.server.conninfo) as other:
            other.execute(f"LOCK TABLE {self.reactor.schema}.pieces IN SHARE MODE")
            writer = self.begun(CONTENT[: 2 * PIECE_OCTETS])
            self.assertFalse(writer.congested)
            writer.write(CONTENT)
            self.assertTrue(writer.congested)
            drained = writer.drained()
            while not held:
                self.reactor.advance0()
            self.reactor.advance0()
            self.assertNoResult(drained)
            self.assertEqual(held, [0])
        self.reactor.result(drained)
        self.stage(writer)
        octets = sum(octets for _, octets in self.pieces())
        self.assertEqual(octets, 2 * PIECE_OCTETS + len(CONTENT))

    def test_silent(self) -> None:
        """
        A database that answers nothing keeps up nobody who sends; where it is back in time
        the message is taken, whole.
        """
        self.settle()
        with psycopg.connect(self.server.conninfo) as other:
            other.execute(f"LOCK TABLE {self.reactor.schema}.pieces IN SHARE MODE")
            writer = self.begun()
            writer.write(CONTENT)
            drained = writer.drained()
            while not drained.called:
                self.reactor.advance0()
            self.assertFalse(writer.congested)
            writer.write(CONTENT)
        self.back()
        self.stage(writer)
        seqs = [seq for seq, _ in self.pieces()]
        self.assertEqual(seqs, [*range(len(seqs))])
        self.assertEqual(sum(octets for _, octets in self.pieces()), 3 * len(CONTENT))

    def test_late(self) -> None:
        """What the server is at still when the wire is cut ends before the next connection."""
        busy = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE %s AND state = 'active'"
        self.settle()
        with psycopg.connect(self.server.conninfo) as other:
            other.execute(f"LOCK TABLE {self.reactor.schema}.pieces IN SHARE MODE")
            writer = self.begun()
            while self.spool._bodies.isThere:
                self.reactor.advance0()
            writer.abort()
            self.back()
            self.assertEqual(self.server.ask(busy, "INSERT INTO pieces%"), [(0,)])
        self.back()
        self.assertNothing()

    def back(self) -> None:
        """
        The connections are there.
        """
        while not (self.spool.isThere and self.spool._bodies.isThere):
            self.reactor.advance0()

    def cut(self) -> None:
        """
        The database goes away.
        """
        for connection in (self.spool._writes, self.spool._bodies):
            pid = self.reactor.result(connection.alone(lambda db: db.info.backend_pid))
            self.server.ask("SELECT pg_terminate_backend(%s, 5000)", pid)
            with self.assertRaises(SpoolError):
                self.reactor.result(connection.alone(lambda db: db.execute("SELECT 1")))

    def test_away(self) -> None:
        """
        The database goes away meanwhile: its sender does not wait for that; at the end, if
        it is away still, the message is not taken, and leaves nothing.
        """
        writer = self.begun()
        self.settle()
        self.cut()
        writer.write(CONTENT)
        self.assertFalse(writer.congested)
        with self.assertRaises(SpoolError):
            self.stage(writer)
        writer.abort()
        self.back()
        self.assertNothing()
        self.flushLoggedErrors()

    def test_backInTime(self) -> None:
        """Where it is back when all has come, the message is taken, as it was received."""
        other = self.opened(self.reactor, self.mktemp(), "mx2")
        writer = self.begun()
        self.settle()
        self.cut()
        writer.write(CONTENT)
        self.back()
        writer.write(CONTENT)
        self.stage(writer)
        self.dead(other)
        (work,) = self.reactor.result(other.claim(9, {}, 9))
        self.assertIsNone(self.reactor.result(other.check(work)))  # digest and size are right

    def test_unheard(self) -> None:
        """A piece whose commit was not heard is put there again, once."""
        put = contents.put

        def lost(db: Any, *args: Any) -> None:
            put(db, *args)
            raise OutcomeUnknown("cut")

        with unittest.mock.patch.object(contents, "put", lost):
            writer = self.begun()
            self.settle()
        self.assertEqual(self.pieces(), self.WHOLE[:1])
        self.stage(writer)
        self.assertEqual(self.pieces(), self.WHOLE)

    def test_unknownRow(self) -> None:
        """
        Of a message of which it is not known whether it is there no piece goes before it was
        forgotten, though it is not wanted.
        """
        writer = self.begun()
        message = self.reactor.result(writer.finish())
        written = spool_.write

        def unheard(db: Any, batch: Any) -> None:
            written(db, batch)
            self.server.ask("SELECT pg_terminate_backend(%s, 5000)", db.info.backend_pid)
            db.execute("SELECT 1")

        with unittest.mock.patch.object(spool_, "write", unheard):
            staged = self.spool.stage(self.envelope, message, makeAddressees("a@b.example"))
            with self.assertRaises(OutcomeUnknown):
                self.reactor.result(staged)
        writer.abort()
        self.settle()
        self.assertEqual((self.pieces(), len(self.spool.large.coming)), (self.WHOLE, 1))
        self.back()
        self.assertEqual(self.reactor.result(self.spool.waiting()), (0, 0))
        self.assertNothing()


class WokenTests(IncomingCase):
    """
    A process that was thought dead while a content was coming in.
    """

    def setUp(self) -> None:
        super().setUp()
        self.patch(order, "LEASES_SECONDS", 0.0)
        self.other = self.opened(self.reactor, self.mktemp(), "mx2")

    def test_unaware(self) -> None:
        """What it does not know yet the database does: the message is not taken."""
        for content in (CONTENT, b""):  # more is coming, or nothing is
            writer = self.begun()
            self.settle()
            message = None if content else self.reactor.result(writer.finish())
            self.settle()
            self.dead(self.other)
            self.assertEqual(self.pieces(), [])
            writer.write(content)
            if message is None:
                message = self.reactor.result(writer.finish())
            staged = self.spool.stage(self.envelope, message, makeAddressees("a@b.example"))
            with self.assertRaisesRegex(SpoolError, "was not heard"):
                self.reactor.result(staged)
            writer.abort()
            self.assertNothing()
            self.assertEqual(self.reactor.result(self.spool.waiting()), (0, 0))
            self.awake()

    def awake(self) -> None:
        """
        This process is another owner.
        """
        row = self.reactor.result(self.spool._claims.run(enroll, self.spool.owned.identity))
        self.spool.owned.row = row

    def test_aware(self) -> None:
        """Where it is another owner by then, the message is taken, with all of its content."""
        writer = self.begun()
        self.settle()
        self.dead(self.other)
        self.awake()
        writer.write(CONTENT)
        self.settle()
        self.stage(writer)
        owners = self.server.ask(f"SELECT DISTINCT owner FROM {self.reactor.schema}.pieces")
        self.assertEqual(owners, [(self.spool.owned.id,)])
        self.dead(self.other)
        (work,) = self.reactor.result(self.other.claim(9, {}, 9))
        self.reactor.result(self.other.check(work))
        with work.message.open() as file:
            self.assertEqual(file.read(), 2 * CONTENT)
        self.awake()

    def test_dead(self) -> None:
        """What a process leaves that dies is removed by those that find it dead."""
        self.begun()
        self.settle()
        self.assertEqual(len(self.pieces()), 2)
        self.dead(self.other)
        self.assertEqual(self.pieces(), [])
        self.awake()


TABLES = """
[spool]
use = "postgresql"
conninfo = "{conninfo}"
schema = "{schema}"
lease = 2
timeout = 2
machine = "{machine}"

[limits]
message_size = 4194304

[policies.spam]
content = [ {{ use = "match", rules = [ {{ test = "gtube" }} ] }} ]

[[recipients]]
match = "fighter@example.net"
policy = "spam"
deliver = {{ use = "discard" }}
"""

GTUBE = "XJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"

LINE = 62 * "x" + "\r\n"

#: Lines of two pieces and a half.
LINES = 5 * PIECE_OCTETS // (2 * len(LINE))


class ServerTests(StoreServerCase):
    """
    Servers that receive large mail.
    """

    def setUp(self) -> None:
        self.instance = primary()
        self.schema = self.instance.newSchema()

    def begin(self, machine: str = "one") -> Server:
        """
        One that runs.
        """
        values = {"conninfo": self.instance.conninfo, "schema": self.schema, "machine": machine}
        server = self.server(takesAll(tables=TABLES.format(**values)))
        until(lambda: "accepted mail is kept" in server.log, server.log)
        return server

    def pieces(self) -> int:
        return int(self.instance.ask(f"SELECT count(*) FROM {self.schema}.pieces")[0][0])

    def greeted(self, server: Server, recipient: str = "lover") -> Dialogue:
        """
        A client that is about to send.
        """
        client = self.dialogue(server.port)
        client.reply()
        said = client.say("EHLO client.test", "MAIL FROM:<a@client.test>")
        said += client.say(f"RCPT TO:<{recipient}@example.net>")
        self.assertEqual([one[:3] for one in said], 3 * ["250"], server.log)
        return client

    def data(self, server: Server, recipient: str = "lover") -> Dialogue:
        """
        One that sends: its first pieces are in the database.
        """
        client = self.greeted(server, recipient)
        self.assertEqual(client.say("DATA")[0][:3], "354")
        self.send(client, f"Subject: {GTUBE}\r\n\r\n" + LINES * LINE)
        until(lambda: self.pieces() > 0, server.log)
        return client

    def send(self, client: Dialogue, text: str) -> None:
        client.socket.sendall(text.encode())

    def gone(self, server: Server) -> None:
        """
        Nothing of it is in the database, and its file is not here.
        """
        until(lambda: self.pieces() == 0, server.log)
        until(lambda: not glob.glob(f"{server.directory}/state/**/*.part", recursive=True), "file")

    def test_unwanted(self) -> None:
        """
        A message that is refused for its content, or for its size, leaves nothing, and its
        session goes on.
        """
        server = self.begin()
        for recipient, rest, code in (
            ("fighter", "", "550"),
            ("lover", LINES * LINE, "552"),
        ):
            client = self.data(server, recipient)
            self.send(client, f"{rest}\r\n.\r\n")
            self.assertEqual(client.reply()[:3], code, server.log)
            self.gone(server)
            self.assertEqual(client.say("NOOP")[0][:3], "250")
        self.assertEqual(bring(server, "lover@example.net", body=LINES * LINE), 250, server.log)
        (mail,) = server.arrived("lover")
        self.assertEqual(mail.count(b"x" * 62), LINES)
        self.gone(server)

    def test_left(self) -> None:
        """So does one that its client gives up: by leaving, with RSET, with QUIT."""
        server = self.begin()
        client = self.data(server)
        client.close()
        self.gone(server)
        for verb in ("RSET", "QUIT"):
            client = self.greeted(server)
            text = "Subject: x\r\n\r\n" + LINES * LINE
            self.send(client, f"BDAT {len(text)}\r\n{text}")
            self.assertEqual(client.reply()[:3], "250", server.log)
            until(lambda: self.pieces() > 0, server.log)
            self.assertEqual(client.say(verb)[0][:1], "2")
            self.gone(server)

    def test_killed(self) -> None:
        """What a server leaves that is killed meanwhile is removed by another one."""
        one, two = self.begin(), self.begin("two")
        self.data(one)
        one.kill()
        until(lambda: self.pieces() == 0, two.log)
        self.assertIn("(one, worker 0) is dead", two.log)

    def test_halted(self) -> None:
        """
        A database that answers nothing any longer: the message is 452 4.3.1, its session
        goes on, and when the database is back nothing of it is left.
        """
        self.instance = Instance()
        self.addCleanup(self.instance.remove)
        server = self.begin()
        client = self.data(server)
        with self.instance.halted():
            self.send(client, f"{LINES // 3 * LINE}\r\n.\r\n")
            self.assertEqual(client.reply()[:10], "452 4.3.1 ", server.log)
            self.assertEqual(client.say("NOOP")[0][:3], "250")

        def isBack() -> bool:
            return bring(server, "lover@example.net", body=LINES * LINE) == 250

        until(isBack, server.log)
        self.gone(server)
        self.assertEqual([one.count(b"x" * 62) for one in server.arrived("lover")], [LINES])

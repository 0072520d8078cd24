"""
The queue in PostgreSQL beside the one in SQLite: the same work by turns, in one process.

    python -m benchmarks.stores [--messages 1500] [--rounds 5] [--load 50 10 1]
    python -m benchmarks.stores --rows 1000000 [--minutes 10]
    python -m benchmarks.stores --large 257 1024 10240 [--megabits 100] [--rounds 9]

I{Accepted} is until the message is durable, with 4 KiB for one recipient; a I{life} is
that, and until it is delivered and gone.  Processor time is this process's: what one
server has to do for a message; PostgreSQL's own processes are told beside it.  With
C{--rows}, twenty recipients are claimed and delivered again and again out of so many;
with C{--minutes}, another connection has a transaction open for so long meanwhile.  With
C{--large}, a message of so many KiB comes in, as fast as it is taken or at that rate: what
is told is how long its sender waits behind the last octet, and the whole.  There the
database is asked in two ways: pieces are put there when all has come, and while it comes.
PostgreSQL is started for it, and syncs.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence

import attrs
import psycopg
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater, react

from benchmarks.figures import machine, ratio, said
from benchmarks.load import cpu
from deferrals.interfaces import IReactor, ISpool, Work
from deferrals.model.disposition import DELIVERED
from deferrals.spool.message import BodyWriter
from deferrals.spool.postgresql.connection import Access
from deferrals.spool.postgresql.owners import Identity
from deferrals.spool.postgresql.spool import PostgresqlSpool
from deferrals.spool.sqlite.spool import SqliteSpool
from deferrals.testing import makeAddressees, makeEnvelope
from deferrals.threads import OwnThread
from tests.integration.clusters import Instance

CONTENT = (b"Subject: a message\r\n\r\n" + 60 * (b"x" * 70 + b"\r\n"))[:4096]

#: The two, as the tables name them.
STORES = ("SQLite", "PostgreSQL")

#: How large contents are put there, beside that.
WAYS = ("SQLite", "when all has come", "while it comes")

#: A content comes in chunks like those of a connection.
CHUNK_OCTETS = 64 * 1024

#: So many destinations, where there are rows; and so many are claimed at once.
DESTINATIONS, CLAIMED = 5000, 20

#: Copies of a message that is there, for all destinations, due in the past.
FILL = (
    "INSERT INTO {0}.messages SELECT n, received, since, envelope, size, digest, body"
    " FROM {0}.messages, generate_series(1, %s) AS n WHERE id = %s",
    "INSERT INTO {0}.recipients (message, seq, status, due, delivery, recipient, destination)"
    " SELECT n, 0, 0, now() - interval '1 hour', r.delivery, r.recipient, 'd' || n %% %s"
    " FROM {0}.recipients AS r, generate_series(1, %s) AS n WHERE message = %s",
    "INSERT INTO {0}.destinations (name, ready)"
    " SELECT 'd' || n, now() - interval '1 hour' FROM generate_series(0, %s - 1) AS n",
)

#: What tables are like; the names are those of the schema.
DEAD = (
    "SELECT n_dead_tup, pg_total_relation_size(relid) FROM pg_stat_user_tables"
    " WHERE schemaname = %s AND relname = 'recipients'"
)


@attrs.frozen
class Round:
    """
    One figure of one store.

    @ivar rate: messages per second.
    @ivar micros: of this process's processor time for each message.
    @ivar database: of PostgreSQL's processes, likewise.
    """

    rate: float
    micros: float
    database: float


class Behind(PostgresqlSpool):
    """
    Puts large contents into the database when all has come.
    """

    def newBody(self, transaction: int) -> BodyWriter:
        return BodyWriter(self._contents.path(transaction), self._inThread, lambda: None)


class Stores:
    """
    Both, open; and the second in another way.
    """

    def __init__(self, reactor: IReactor, instance: Instance, directory: str) -> None:
        self.instance = instance
        self.schema = instance.newSchema()
        self._thread = OwnThread(reactor, "files")
        self._reactor = reactor
        self._directory = directory
        self.sqlite = SqliteSpool(f"{directory}/spool", reactor, self._thread)
        self.postgresql = self._shared(PostgresqlSpool, 0)
        self.behind = self._shared(Behind, 1)
        self._all: list[ISpool] = [self.sqlite, self.postgresql, self.behind]
        self.named = dict(zip(STORES, self._all, strict=False))

    def _shared(self, kind: type[PostgresqlSpool], worker: int) -> PostgresqlSpool:
        access = Access(self.instance.conninfo, None, self.schema, 60.0)
        me = Identity("bench", worker, "1", 20.0)
        path = f"{self._directory}/contents-{worker}"
        return kind(access, me, path, self._reactor, self._thread)

    async def open(self) -> None:
        for spool in self._all:
            await spool.open()

    async def close(self) -> None:
        for spool in self._all:
            await spool.close()
        self._thread.end()


async def taken(spool: ISpool) -> Work:
    """
    @return: a message that is durable, and ours.
    """
    envelope = makeEnvelope()
    body = spool.newBody(envelope.transaction)
    body.write(CONTENT)
    message = await body.finish()
    work = await spool.stage(envelope, message, makeAddressees("a@example.net"))
    spool.release(work, {})
    return work


async def gone(spool: ISpool, work: Work) -> None:
    """
    It is delivered.
    """
    await spool.record(work, dict.fromkeys(work.addressees, DELIVERED))


async def round_(stores: Stores, name: str, messages: int, load: int, isLife: bool) -> Round:
    """
    One store has one kind of work.

    @param load: how many senders wait for their answers.
    @param isLife: whether they are delivered within what is measured, or behind it.
    """
    spool, works, left = stores.named[name], list[Work](), iter(range(messages))

    async def sender() -> None:
        for _ in left:
            work = await taken(spool)
            if isLife:
                await gone(spool, work)
            else:
                works.append(work)

    server = stores.instance.process.process.pid
    began, own, theirs = time.perf_counter(), time.process_time(), cpu(server)
    await gatherResults([Deferred.fromCoroutine(sender()) for _ in range(load)])
    if isLife:
        await spool.notes()  # behind what was removed
    seconds, own, theirs = (
        time.perf_counter() - began,
        time.process_time() - own,
        cpu(server) - theirs,
    )
    for work in works:
        await gone(spool, work)
    await spool.notes()
    return Round(messages / seconds, 1e6 * own / messages, 1e6 * theirs / messages)


async def beside(stores: Stores, arguments: argparse.Namespace) -> None:
    """
    Both by turns, in either order.
    """
    print("| work | at once | figure | SQLite | PostgreSQL | ratio |")
    print("| --- | --- | --- | --- | --- | --- |")
    for isLife in (False, True):
        for load in arguments.load:
            found: dict[str, list[Round]] = {name: [] for name in STORES}
            messages = min(arguments.messages, 100 * load)
            for name in STORES:
                await round_(stores, name, load, load, isLife)  # warm
            order = list(STORES)
            for _ in range(arguments.rounds):
                order.reverse()
                for name in order:
                    found[name].append(await round_(stores, name, messages, load, isLife))
            work = "life" if isLife else "accepted"
            for figure in ("rate", "micros", "database"):
                ours, theirs = ([getattr(one, figure) for one in found[name]] for name in STORES)
                if figure == "database":
                    print(f"| {work} | {load} | CPU us of PostgreSQL | | {said(theirs)} | |")
                    continue
                label = "messages/s" if figure == "rate" else "CPU us of the process"
                cells = f"{said(ours)} | {said(theirs)} | {ratio(theirs, ours):.2f}"
                print(f"| {work} | {load} | {label} | {cells} |")


@attrs.frozen
class Received:
    """
    @ivar behind: how long a sender has waited behind the last octet, in milliseconds.
    @ivar whole: the same, from the first one on.
    """

    behind: float
    whole: float


async def received(reactor: IReactor, spool: ISpool, octets: int, megabits: float) -> Received:
    """
    A large message comes in.

    @param megabits: per second; 0 where it comes as fast as it is taken.
    """
    envelope, content = makeEnvelope(), CONTENT * (octets // len(CONTENT) + 1)
    body, began = spool.newBody(envelope.transaction), time.perf_counter()
    for place in range(0, octets, CHUNK_OCTETS):
        body.write(content[place : min(place + CHUNK_OCTETS, octets)])
        due = began + 8e-6 * min(place + CHUNK_OCTETS, octets) / megabits if megabits else 0.0
        await body.drained()
        await deferLater(reactor, max(0.0, due - time.perf_counter()), lambda: None)
    came = time.perf_counter()
    message = await body.finish()
    work = await spool.stage(envelope, message, makeAddressees("a@example.net"))
    ended = time.perf_counter()
    spool.release(work, {})
    await gone(spool, work)
    await spool.notes()
    return Received(1000 * (ended - came), 1000 * (ended - began))


async def large(reactor: IReactor, stores: Stores, arguments: argparse.Namespace) -> None:
    """
    Large messages, one at a time, in each way by turns.
    """
    spools = dict(zip(WAYS, (stores.sqlite, stores.behind, stores.postgresql), strict=True))
    print(f"| KiB | ms | {' | '.join(WAYS)} |\n| --- | --- | --- | --- | --- |")
    for size in arguments.large:
        found: dict[str, list[Received]] = {name: [] for name in WAYS}
        order = list(WAYS)
        for number in range(arguments.rounds + 1):
            order.reverse()
            for name in order:
                one = await received(reactor, spools[name], size << 10, arguments.megabits)
                found[name] += [one] * (number > 0)  # the first one warms
        for figure in ("behind", "whole"):
            cells = (said([getattr(one, figure) for one in found[name]]) for name in WAYS)
            print(f"| {size} | {figure} | {' | '.join(cells)} |", flush=True)


async def claims(stores: Stores, arguments: argparse.Namespace) -> None:
    """
    Recipients are claimed out of very many, and leave.
    """
    spool = stores.postgresql
    work = await taken(spool)
    number = work.envelope.transaction
    fill = [one.format(stores.schema) for one in FILL]
    rows, ask = arguments.rows, stores.instance.ask
    ask(fill[0], rows, number)
    ask(fill[1], DESTINATIONS, rows, number)
    ask(fill[2], DESTINATIONS)
    ask(f"ANALYZE {stores.schema}.recipients, {stores.schema}.destinations")
    await claiming(stores, "alone", 60.0)
    if arguments.minutes:
        with psycopg.connect(stores.instance.conninfo) as held:
            held.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            held.execute(f"SELECT count(*) FROM {stores.schema}.messages")
            for minute in range(arguments.minutes):
                await claiming(stores, f"a transaction is open, minute {minute + 1}", 60.0)
            held.rollback()
    await gone(spool, work)


async def claiming(stores: Stores, what: str, seconds: float) -> None:
    """
    Claim and deliver for some time, while new mail comes and goes.
    """
    spool, took, count, isOver = stores.postgresql, list[float](), 0, False

    async def churn() -> None:
        while not isOver:
            await gone(spool, await taken(spool))

    churning = [Deferred.fromCoroutine(churn()) for _ in range(10)]
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        began = time.perf_counter()
        works = await spool.claim(CLAIMED, {}, 1)
        took.append(1000 * (time.perf_counter() - began))
        count += len(works)
        await gatherResults([Deferred.fromCoroutine(gone(spool, one)) for one in works])
    isOver = True
    await gatherResults(churning)
    (dead, octets), *_ = stores.instance.ask(DEAD, stores.schema)
    print(
        f"{what}: {len(took)} claims, {count / seconds:.0f} recipients/s,"
        f" {statistics.median(took):.1f} ms ({min(took):.1f} to {max(took):.1f}),"
        f" {dead} dead rows, {octets >> 20} MiB",
        flush=True,
    )


async def main(reactor: IReactor, arguments: argparse.Namespace) -> None:
    """
    See the module.
    """
    with contextlib.ExitStack() as stack:
        directory = tempfile.mkdtemp(prefix="deferrals-stores-")
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        instance = Instance()
        atexit.register(instance.remove)  # also where it is interrupted
        stores = Stores(reactor, instance, directory)
        await stores.open()
        print(f"{machine(directory)}; {instance.ask('SHOW server_version')[0][0]}")
        if arguments.large:
            await large(reactor, stores, arguments)
        else:
            await (claims if arguments.rows else beside)(stores, arguments)
        await stores.close()


def options(argv: Sequence[str]) -> argparse.Namespace:
    """
    What is asked for.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stores")
    parser.add_argument("--messages", type=int, default=1500)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--load", type=int, nargs="+", default=[50, 10, 1])
    parser.add_argument("--rows", type=int, default=0)
    parser.add_argument("--minutes", type=int, default=0)
    parser.add_argument("--large", type=int, nargs="+", default=[])
    parser.add_argument("--megabits", type=float, default=0.0)
    return parser.parse_args(argv)


if __name__ == "__main__":
    react(lambda reactor: Deferred.fromCoroutine(main(reactor, options(sys.argv[1:]))))

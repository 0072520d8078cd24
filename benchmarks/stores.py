"""
The queue in PostgreSQL beside the one in SQLite: the same work by turns, in one process.

    python -m benchmarks.stores [--messages 1500] [--rounds 5] [--load 50 10 1]
    python -m benchmarks.stores --rows 1000000 [--minutes 10]

I{Accepted} is until the message is durable, with 4 KiB for one recipient; a I{life} is
that, and until it is delivered and gone.  Processor time is this process's: what one
server has to do for a message; PostgreSQL's own processes are told beside it.  With
C{--rows}, twenty recipients are claimed and delivered again and again out of so many;
with C{--minutes}, another connection has a transaction open for so long meanwhile.
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
from twisted.internet.task import react

from benchmarks.figures import machine, ratio, said
from benchmarks.load import cpu
from deferrals.interfaces import IReactor, ISpool, Work
from deferrals.model.disposition import DELIVERED
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


class Stores:
    """
    Both, open.
    """

    def __init__(self, reactor: IReactor, instance: Instance, directory: str) -> None:
        self.instance = instance
        self.schema = instance.newSchema()
        self._thread = OwnThread(reactor, "files")
        access = Access(instance.conninfo, None, self.schema, 60.0)
        me = Identity("bench", 0, "1", 20.0)
        self.postgresql = PostgresqlSpool(
            access, me, f"{directory}/contents", reactor, self._thread
        )
        self.sqlite = SqliteSpool(f"{directory}/spool", reactor, self._thread)
        self.named: dict[str, ISpool] = dict(
            zip(STORES, (self.sqlite, self.postgresql), strict=True)
        )

    async def open(self) -> None:
        for spool in self.named.values():
            await spool.open()

    async def close(self) -> None:
        for spool in self.named.values():
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
    return parser.parse_args(argv)


if __name__ == "__main__":
    react(lambda reactor: Deferred.fromCoroutine(main(reactor, options(sys.argv[1:]))))

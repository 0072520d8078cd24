"""
Two machines with one queue in a real PostgreSQL that has a synchronous standby, and what
may stand between them, for the rig of several machines.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Collection
from typing import Any

import attrs
from twisted.trial.unittest import SkipTest

from tests.crash.traffic import KINDS, NAPS, Sender
from tests.crash.world import ServerWorld
from tests.integration.clusters import Instance, Wire
from tests.integration.support import PATIENCE, needsRoot, until
from tests.ports import freePort

TABLES = """
[web]
endpoint = "tcp:{web}:interface=127.0.0.1"

[spool]
use = "postgresql"
conninfo = "{conninfo} application_name={name}"
schema = "mail"
lease = {lease}
timeout = 1
machine = "{name}"
"""

#: Of an owner, in seconds.
LEASE_SECONDS = 2

#: A commit is acknowledged when the standby has it, too.
OPTIONS = (
    *("max_connections=40", "superuser_reserved_connections=0", "max_wal_size=48MB"),
    *("min_wal_size=32MB", "wal_retrieve_retry_interval=200ms", "shared_buffers=16MB"),
    *("synchronous_standby_names=*", "hot_standby=on", "wal_keep_size=16MB"),
)

#: Room for a database, in MiB, of which it uses a small part.
DISK_MIB = 400

#: What sees every write that a machine does to what is leased to another one that lives,
#: and when a process begins to be an owner.  It is the rig's own: nothing of the server's
#: is asked.
AUDIT = """
CREATE SCHEMA rig;
CREATE TABLE rig.enrolled (owner bigint, machine text, pid integer, at double precision);
CREATE FUNCTION rig.enroll() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO rig.enrolled VALUES
        (NEW.id, NEW.machine, NEW.pid, extract(epoch FROM clock_timestamp()));
    RETURN NEW;
END $$;
CREATE TRIGGER enroll AFTER INSERT ON mail.owners FOR EACH ROW EXECUTE FUNCTION rig.enroll();
CREATE TABLE rig.foreign_writes (message bigint, seq integer, owner bigint, writer text);
CREATE FUNCTION rig.audit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF OLD.status = 1 AND EXISTS (SELECT 1 FROM mail.owners WHERE id = OLD.owner
        AND machine <> current_setting('application_name')) THEN
        INSERT INTO rig.foreign_writes VALUES
            (OLD.message, OLD.seq, OLD.owner, current_setting('application_name'));
    END IF;
    IF TG_OP = 'DELETE' THEN RETURN OLD; END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER audit BEFORE UPDATE OR DELETE ON mail.recipients
    FOR EACH ROW EXECUTE FUNCTION rig.audit();
"""


def calmly(condition: Callable[[], bool]) -> Callable[[], bool]:
    """
    Ask the database a few times a second only.
    """

    def asked() -> bool:
        found = condition()
        if not found:
            time.sleep(0.1)
        return found

    return asked


class Disk:
    """
    A small one of its own, for a database.
    """

    def __init__(self) -> None:
        needsRoot()
        self.path = tempfile.mkdtemp(prefix="deferrals-disk-")
        options = f"size={DISK_MIB}m,mode=0755"
        words = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", self.path]
        done = subprocess.run(words, capture_output=True, check=False)
        if done.returncode != 0:
            os.rmdir(self.path)
            raise SkipTest(f"cannot mount: {done.stderr!r}")
        self._filler = os.path.join(self.path, "filler")

    def fill(self) -> None:
        """
        Others take all that is left of it.
        """
        with open(self._filler, "ab", buffering=0) as file:
            for size in (65536, 4096):
                with contextlib.suppress(OSError):
                    while True:
                        file.write(b"x" * size)

    def empty(self) -> None:
        """
        There is room again.
        """
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._filler)

    def remove(self) -> None:
        """
        It is not needed any longer.
        """
        subprocess.run(["umount", "-l", self.path], check=False)
        os.rmdir(self.path)


@attrs.define(eq=False)
class Node:
    """
    A PostgreSQL server, its disk, and the wire to it.
    """

    disk: Disk
    instance: Instance
    wire: Wire


class Machine:
    """
    One of our servers.

    @ivar world: its configuration and ports, and what is around it.
    @ivar probe: brings single messages, and writes down what is answered.
    """

    def __init__(self, name: str, world: ServerWorld, web: int, seed: int) -> None:
        self.name, self.world, self._web = name, world, web
        self.probe = Sender(world.books, world.ports, seed, {**KINDS, **NAPS})
        self.process: Any = None

    def start(self) -> None:
        """
        Start it; there is none.
        """
        self.process = self.world.start()

    def processes(self) -> list[int]:
        """
        The parent, and its workers.
        """
        return [self.process.pid, *self.workers()]

    def kill(self) -> None:
        """
        It has no time to say anything, where it runs.
        """
        if self.process is not None and self.process.poll() is None:
            for pid in self.processes():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, 9)

    def workers(self) -> list[int]:
        """
        The processes that take mail, where these are several.
        """
        if self.world.workers == 1:
            return []
        with contextlib.suppress(FileNotFoundError):
            return self.world.children(self.process)
        return []

    def servers(self) -> set[int]:
        """
        The processes that have a queue.
        """
        return {self.process.pid} if self.world.workers == 1 else {*self.workers()}

    def takes(self) -> bool:
        """
        Whether a message is taken now.
        """
        return self.probe.bring("one").startswith("250")

    def ready(self) -> int:
        """
        What it says of itself.
        """
        url = f"http://127.0.0.1:{self._web}/readyz"
        try:
            with urllib.request.urlopen(url, timeout=PATIENCE) as found:
                return int(found.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0


class ClusterWorld:
    """
    @param directory: where configurations, states and mail are.
    @param sabotage: what is wrong with the servers, by its name.
    @ivar nodes: the primary, and its standby.
    @ivar machines: the second has two workers.
    """

    def __init__(self, directory: str, seed: int, sabotage: str = "") -> None:
        self._disks: list[Disk] = []
        self.nodes: list[Node] = []
        self.machines: list[Machine] = []
        try:
            self._make(directory, seed, sabotage)
        except BaseException:
            self.close()
            raise

    def _make(self, directory: str, seed: int, sabotage: str) -> None:
        for _ in range(2):
            self._disks.append(disk := Disk())
            first = self.nodes[0].instance if self.nodes else None
            instance = Instance(*OPTIONS, primary=first, directory=os.path.join(disk.path, "node"))
            self.nodes.append(Node(disk, instance, Wire(instance.port)))
        primary = self.nodes[0].instance
        ports = ",".join(str(node.wire.port) for node in self.nodes)
        conninfo = (
            f"host=127.0.0.1,127.0.0.1 port={ports} user=mail dbname=postgres"
            " target_session_attrs=read-write"
        )
        # a worker is a program of its own, which has no sabotage
        for name, workers in (("one", 1), ("two", 1 if sabotage else 2)):
            web = freePort()
            tables = TABLES.format(web=web, name=name, conninfo=conninfo, lease=LEASE_SECONDS)
            world = ServerWorld(
                directory,
                seed,
                sabotage,
                workers=workers,
                name=name,
                tables=tables,
                top=f'state_dir = "state-{name}"\n',
                beside=self.machines[0].world if self.machines else None,
            )
            self.machines.append(Machine(name, world, web, seed))
        self.replicated()
        for machine in self.machines:
            machine.start()
            self.back([machine])
            if machine is self.machines[0]:
                primary.ask(AUDIT)

    @property
    def primary(self) -> Node:
        """The one that is written to."""
        return self.nodes[0]

    @property
    def standby(self) -> Node:
        """The other one."""
        return self.nodes[1]

    @property
    def world(self) -> ServerWorld:
        """The first machine's, which has what all share."""
        return self.machines[0].world

    def replicated(self) -> None:
        """
        Wait until the standby has what is committed.
        """
        state = "SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'"
        until(lambda: self.primary.instance.ask(state), "the standby follows")

    def back(self, machines: list[Machine] | None = None) -> None:
        """
        Wait until all machines take mail, and say that they do.

        @raise AssertionError: one does not.
        """
        for one in machines or self.machines:
            until(one.takes, f"{one.name} takes mail: {one.world.tail()}")
            whole = calmly(lambda one=one: self.isWhole(one))
            until(whole, f"all of {one.name} is alive: {one.world.tail()}")
            until(lambda one=one: one.ready() == 200, f"{one.name} is ready")

    def isWhole(self, machine: Machine, others: Collection[int] = ()) -> bool:
        """
        Whether all processes of a machine have a row in the database, but for some rows:
        while one starts, its clients are told to come again.
        """
        servers = machine.servers()
        found = {pid for number, pid in self.owners(machine) if number not in others}
        return len(servers) == machine.world.workers and servers <= found

    def owners(self, machine: Machine) -> list[tuple[int, int]]:
        """
        A machine's rows, each with its process: also those that are dead, and nobody knows.
        """
        found = self.primary.instance.ask(
            "SELECT id, pid FROM mail.owners WHERE machine = %s", machine.name
        )
        return [(number, pid) for number, pid in found]

    def enrolled(self, machine: Machine, others: Collection[int]) -> dict[int, float]:
        """
        When processes of a machine became owners behind some others.
        """
        found = self.primary.instance.ask(
            "SELECT pid, min(at) FROM rig.enrolled WHERE machine = %s AND owner > ALL(%s)"
            " GROUP BY pid",
            machine.name,
            [*others],
        )
        ahead = time.time() - time.monotonic()
        return {pid: at - ahead for pid, at in found}

    def foreignWrites(self) -> int:
        """
        How often a machine has changed what was another's.
        """
        return int(self.primary.instance.ask("SELECT count(*) FROM rig.foreign_writes")[0][0])

    def rows(self) -> int:
        """
        How many recipients and messages are left.  A piece of a content that was not taken
        is removed within minutes, by whoever keeps the tables up.
        """
        tables = ("recipients", "messages")
        counts = ", ".join(f"(SELECT count(*) FROM mail.{name})" for name in tables)
        return sum(self.primary.instance.ask(f"SELECT {counts}")[0])

    def leftRows(self) -> list[str]:
        """
        Whose some of what is left is, and where it is.
        """
        ask = self.primary.instance.ask
        rows = ask(
            "SELECT message, seq, status, owner, (due - now())::text, destination, action"
            " FROM mail.recipients LIMIT 5"
        )
        owners = ask("SELECT id, machine, worker, (now() - seen)::text FROM mail.owners")
        turns = ask("SELECT name, (ready - now())::text, gate::text FROM mail.destinations")
        return [f"rows {rows}", f"owners {owners}", f"destinations {turns[:5]}"]

    def stop(self) -> None:
        """
        The servers end in an orderly way.
        """
        for one in self.machines:
            one.world.stop(one.process)

    def close(self) -> None:
        """
        All else ends, too, whatever goes wrong with any of it.
        """
        with contextlib.ExitStack() as stack:  # the last comes first
            for disk in self._disks:
                stack.callback(disk.remove)
            for node in self.nodes:
                stack.callback(node.instance.remove)
                stack.callback(node.disk.empty)
                stack.callback(node.wire.close)
            if self.machines:
                stack.callback(self.world.close)
            for one in self.machines:
                stack.callback(one.kill)

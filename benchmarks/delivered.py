"""
Accept and deliver: how fast mail comes to be in Maildirs, beside Postfix.

    python -m benchmarks.delivered [--messages 5000] [--rounds 5] [--waiting 0]

Senders for several mailboxes give each server the same mail at once.  The clock
stops when all of it is in the Maildirs and the server's queue is empty.  Both sync
their queues and their copies; rounds are interleaved.  C{--waiting} puts so many
messages into our queue beforehand, for a next hop that is not due: they are no part
of the work, and should cost none.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import pwd
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence

import attrs

from benchmarks import load
from benchmarks.figures import Figure, machine, ratio, said
from benchmarks.peers import OURS, Ground, OwnServer
from tests.crash.fill import fill
from tests.integration.daemons import Postfix
from tests.integration.support import program, run, until

#: Mailboxes, the connections of each one's sender, and the size of a message.
BOXES, SESSIONS, OCTETS = 10, 5, 4096

#: How many there are, and who is asked to deliver them.
MESSAGES, SERVERS = 5000, ("deferrals", "postfix")

#: The mail that warms a server up.
WARM = 300

#: When what waits beforehand is due, in the spool's time.
LATER = 1e10

#: What is left of the work: what is under way, and what waits for a Maildir.
_ANY = "SELECT 1 FROM recipients WHERE"
LEFT = ("status = 1", "status = 0 AND destination = 'maildir'")

_VIRTUAL = """default_process_limit = 600
smtpd_client_connection_count_limit = 0
virtual_transport = virtual
virtual_mailbox_domains = bench.test
virtual_mailbox_base = {mail}
virtual_mailbox_maps = regexp:{maps}
virtual_uid_maps = static:{uid}
virtual_gid_maps = static:{gid}
"""


@attrs.frozen
class Mailboxes:
    """
    A server that delivers into Maildirs.

    @ivar directory: where these are, each named by its local part.
    @ivar isEmpty: whether nothing is left in the queue.
    """

    port: int
    pid: int
    directory: str
    isEmpty: Callable[[], bool]

    @property
    def delivered(self) -> int:
        """How many copies are there."""
        found = 0
        for name in os.listdir(self.directory):
            with contextlib.suppress(FileNotFoundError):
                found += len(os.listdir(os.path.join(self.directory, name, "new")))
        return found

    def work(self, messages: int) -> tuple[float, float]:
        """
        @return: messages per second, and milliseconds of processor time for each.
        """
        before, used, began = self.delivered, load.cpu(self.pid), time.perf_counter()
        senders = [_sender(self.port, box, messages // BOXES) for box in range(BOXES)]
        for sender in senders:
            if sender.wait(load.PATIENCE):
                raise AssertionError("smtp-source failed")
        total = messages // BOXES * BOXES
        until(lambda: self.delivered - before >= total, "all delivered", load.PATIENCE)
        until(self.isEmpty, "an empty queue", load.PATIENCE)
        seconds = time.perf_counter() - began
        return total / seconds, 1000 * (load.cpu(self.pid) - used) / total


def _sender(port: int, box: int, messages: int) -> subprocess.Popen[bytes]:
    argv = [program("smtp-source", "/usr/sbin/smtp-source"), "-d", "-s", str(SESSIONS)]
    argv += ["-m", str(messages), "-l", str(OCTETS), "-f", load.SENDER]
    return subprocess.Popen([*argv, "-t", f"user{box}@bench.test", f"inet:127.0.0.1:{port}"])


def ours(ground: Ground, waiting: int) -> Mailboxes:
    """
    @param waiting: how many messages are in the queue beforehand, and stay there.
    """
    deliver = '{ use = "maildir", path = "mail/{local}" }'
    server = ground.serve(
        OwnServer(ground.directory(), OURS.format(deliver=deliver, policy="open"))
    )
    spool = os.path.join(server.directory, "state", "spool")
    if waiting:
        server.stop()
        fill(spool, waiting, "later.test", due=LATER)
        server.start()

    def isEmpty() -> bool:
        with contextlib.closing(
            sqlite3.connect(f"file:{spool}/spool.sqlite?mode=ro", uri=True)
        ) as db:
            return not any(db.execute(f"{_ANY} {one} LIMIT 1").fetchone() for one in LEFT)

    mail = os.path.join(server.directory, "mail")
    os.makedirs(mail, exist_ok=True)
    return Mailboxes(server.port, server.process.process.pid, mail, isEmpty)


def postfix(ground: Ground) -> Mailboxes:
    """
    Postfix with its own delivery agent for virtual mailboxes.
    """
    directory = ground.directory()
    mail, maps = os.path.join(directory, "mail"), os.path.join(directory, "maps")
    os.mkdir(mail)
    owner = pwd.getpwnam("nobody")
    os.chown(mail, owner.pw_uid, owner.pw_gid)
    with open(maps, "w", encoding="ascii") as file:
        file.writelines(f"/^user{box}@/ user{box}/\n" for box in range(BOXES))
    main = _VIRTUAL.format(mail=mail, maps=maps, uid=owner.pw_uid, gid=owner.pw_gid)
    server = Postfix(ground, "discard:", main)
    master = os.path.join(server.conf, "master.cf")
    with open(master, encoding="utf-8") as file:
        text = file.read().replace(" 10 smtpd", " 0 smtpd")
    with open(master, "w", encoding="utf-8") as file:
        file.write(f"{text}virtual unix - n n - - virtual\n")
    run(["/usr/sbin/postfix", "-c", server.conf, "reload"])
    queues = [os.path.join(server.directory, "spool", name) for name in ("active", "incoming")]
    return Mailboxes(
        server.port, server.process.process.pid, mail, lambda: not any(map(os.listdir, queues))
    )


def table(peers: Sequence[str], rounds: int, messages: int, waiting: int = 0) -> str:
    """
    Medians with their ranges, and the ratio to Postfix.
    """
    starts = {"deferrals": lambda ground: ours(ground, waiting), "postfix": postfix}
    found: dict[str, list[Figure]] = {name: [] for name in peers}
    with contextlib.ExitStack() as kept:
        for number in range(rounds):
            for name in peers:
                with contextlib.ExitStack() as stack:
                    server = starts[name](Ground(stack, kept))
                    server.work(WARM)
                    last = Figure(*server.work(messages))
                found[name].append(last)
                words = f"{last.rate:.0f} msg/s, {last.milliseconds:.2f} ms"
                print(f"round {number + 1}: {name}: {words}", file=sys.stderr)
    return _table(found)


def _table(found: Mapping[str, Sequence[Figure]]) -> str:
    lines = ["| server | msg/s | CPU ms |", "| --- | --- | --- |"]
    for name, rounds in found.items():
        cells = []
        for what in ("rate", "milliseconds"):
            ones = [getattr(one, what) for one in rounds]
            base = [getattr(one, what) for one in found.get("postfix", ())]
            more = f", {ratio(ones, base):.2f} x Postfix" if base and name != "postfix" else ""
            cells.append(said(ones) + more)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.delivered", description=__doc__)
    parser.add_argument("--messages", type=int, default=MESSAGES)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--waiting", type=int, default=0)
    parser.add_argument("--peers", default=",".join(SERVERS), help="default: %(default)s")
    arguments = parser.parse_args()
    print(machine(Ground.top()))
    peers = arguments.peers.split(",")
    print(table(peers, arguments.rounds, arguments.messages, arguments.waiting))
    return 0


if __name__ == "__main__":
    sys.exit(main())

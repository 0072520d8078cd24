"""
What it costs that several processes are one server: processor time for each message,
and memory.

    python -m benchmarks.workers [--messages 300] [--rounds 5] [--workers 1 2 4]

The servers are up at once and have each kind of work by turns: I{plain} mail over
connections that stay asks the parent nothing; with a I{connection} for each message it
counts that; I{mixed} mail is noted besides, and all workers know it before the client
reads the 4xx.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import socket
import sys
from collections.abc import Iterator, Sequence

from benchmarks import load
from benchmarks.figures import machine, ratio, said
from benchmarks.peers import OURS, Ground, OwnServer
from deferrals.stages.content.match.stage import GTUBE
from tests.integration.support import until

#: A recipient that refuses what the other one takes.
PICKY = """
[policies.picky]
content = [{ use = "match", rules = [ { test = "gtube", reply = "550 5.7.1 spam" } ] }]

[[recipients]]
match = "picky@bench.test"
policy = "picky"
deliver = { use = "discard" }

[[recipients]]
"""

WORKS = ("plain", "connection", "mixed")

#: So many connections send side by side; and the size of a message.
SESSIONS, OCTETS = 20, 4096

_numbers = itertools.count()


def started(ground: Ground, workers: int) -> OwnServer:
    """
    @return: a server that takes mail in all its processes.
    """
    own = OURS.format(deliver='{ use = "discard" }', policy="open")
    own = own.replace("[[recipients]]\n", PICKY, 1).replace("[limits]", 'mixed = "retry"\n[limits]')
    server = OwnServer(ground.directory(), f"workers = {workers}\n{own}")
    ground.serve(server)
    until(lambda: " mail for " in server.log, "all processes take mail")
    return server


def one(port: int, kind: str) -> None:
    """
    A message over a connection of its own.
    """
    number = next(_numbers)
    mail = f"Message-ID: <{number}@bench.test>\r\nSubject: {number}\r\n\r\n".encode()
    recipients = [load.RECIPIENT]
    if kind == "mixed":
        recipients, mail = [*recipients, "picky@bench.test"], mail + GTUBE.encode() + b"\r\n"
    words = [
        f"MAIL FROM:<s{number}@client.test>",
        *(f"RCPT TO:<{to}>" for to in recipients),
        "DATA",
    ]
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        load.introduce(connection)
        replies = connection.makefile("rb")
        for word in words:
            connection.sendall(word.encode() + b"\r\n")
            replies.readline()
        connection.sendall(mail + b".\r\n")
        answer = replies.readline()
        connection.sendall(b"QUIT\r\n")
        replies.readline()
    if not answer.startswith(b"451" if kind == "mixed" else b"250"):
        raise AssertionError(answer)


def cost(server: OwnServer, kind: str, messages: int) -> float:
    """
    @return: milliseconds of processor time for a message, of all processes together.
    """
    pid = server.process.process.pid
    before = load.cpu(pid)
    if kind == "plain":
        load.source(server.port, messages, SESSIONS, OCTETS)
    else:
        for _ in range(messages):
            one(server.port, kind)
    return 1000 * (load.cpu(pid) - before) / messages


def measured(servers: dict[int, OwnServer], kind: str, messages: int, rounds: int) -> Iterator[str]:
    """
    @return: lines of a table.
    """
    found: dict[int, list[float]] = {workers: [] for workers in servers}
    for _, (workers, server) in itertools.product(range(rounds), servers.items()):
        found[workers].append(cost(server, kind, messages))
    least = found[min(found)]
    for workers, costs in found.items():
        yield f"| {kind} | {workers} | {said(costs)} | {ratio(costs, least):.2f} x |"


def memory(server: OwnServer) -> str:
    """
    What each of its processes has (PSS: what several share counts once), in MiB.
    """
    pids = load.family(server.process.process.pid)
    return ", ".join(f"{load.memory(pid) / 1024:.0f}" for pid in pids)


def main(arguments: Sequence[str]) -> int:
    """
    C{python -m benchmarks.workers}.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.workers", description=__doc__)
    parser.add_argument("--messages", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    chosen = parser.parse_args(arguments)
    with contextlib.ExitStack() as stack:
        ground = Ground(stack)
        servers = {workers: started(ground, workers) for workers in chosen.workers}
        for server in servers.values():  # warm
            load.source(server.port, 300, SESSIONS, OCTETS)
        print(machine(ground.top()))
        print("\n| workers | memory of each process, the parent first, MiB |\n| --- | --- |")
        for workers, server in servers.items():
            print(f"| {workers} | {memory(server)} |")
        print("\n| mail | workers | CPU ms for a message | |\n| --- | --- | --- | --- |")
        for kind in WORKS:
            for line in measured(servers, kind, chosen.messages, chosen.rounds):
                print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""
Fifty recipients in five cohorts, and a service that decides over HTTP: messages per
second, and processor time, beside Exim with C{acl_smtp_data_prdr}, both under PRDR, by
turns in one run.

    python -m benchmarks.verdicts [--messages 60] [--senders 4] [--rounds 5] [--wait 0]

The service is one process; it keeps connections open for those that do.  It answers for
a cohort after C{--wait} milliseconds.  Here it is asked once for each cohort, with the
message; Exim asks it for each recipient, with C{readsocket}, and says no more than which
one.  Cohorts are interleaved, one of the five refuses.  Needs root and Exim.  Prints
Markdown.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import os
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import attrs

from benchmarks import load
from benchmarks.peers import Ground, OwnServer
from tests.integration.daemons import Exim
from tests.integration.support import ROOT, Dialogue, greeting, path, until
from tests.ports import freePort

RECIPIENTS, COHORTS = 50, 5

#: The cohort that refuses.
REFUSING = 1

OURS = """
hostname = "mx.bench.test"
bounces = "none"

[[listen]]
endpoint = "tcp:0:interface=127.0.0.1:backlog=1000"

[limits]
connections_per_address = 1000
transactions = 1000000
commands = 10000000

[deliveries.hole]
use = "discard"
"""

OUR_COHORT = """
[policies.c{cohort}]
content = [{{ use = "http", url = "http://127.0.0.1:{port}/c{cohort}", cohort = "all" }}]

[[recipients]]
match = "*@c{cohort}.bench.test"
policy = "c{cohort}"
deliver = "hole"
"""

EXIM_MAIN = """
queue_only
smtp_accept_max = 0
smtp_accept_max_per_connection = 0
smtp_accept_queue_per_connection = 0
recipients_max = 1000
"""

#: A run for each recipient; the domain says which cohort it is in.
EXIM_ACL = r"""
acl_prdr:
  deny condition = ${{if match{{${{readsocket{{inet:127.0.0.1:{port}}}\
    {{GET /${{extract{{1}}{{.}}{{$domain}}}} HTTP/1.0\r\nHost: service\r\n\r\n}}{{30s}}{{ }}}}}}\
    {{"accept": false}}}}
    message = refused by the service
  accept
"""


def answer(request: bytes) -> bytes:
    """
    What the service says.
    """
    refuses = b" /c%d " % REFUSING in request.partition(b"\r\n")[0]
    verdict = b'{"accept": false, "reply": "550 5.7.1 refused by the service"}'
    body = b'{"default": %s}' % (verdict if refuses else b'{"accept": true}')
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    return head % len(body) + body


async def serve(port: int, seconds: float) -> None:
    """
    The service.
    """

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"(?i)\r\ncontent-length:\s*(\d+)", head)
                await reader.readexactly(int(length[1]) if length else 0)
                if seconds:
                    await asyncio.sleep(seconds)
                writer.write(answer(head))
                await writer.drain()
                if b" HTTP/1.0\r\n" in head:
                    break
        writer.close()

    server = await asyncio.start_server(client, "127.0.0.1", port, backlog=1000)
    await server.serve_forever()


@attrs.frozen
class Subject:
    """
    A server that is measured.
    """

    name: str
    port: int
    pid: int


@contextlib.contextmanager
def subjects(wait: float) -> Iterator[list[Subject]]:
    """
    Both servers, and the service.
    """
    with contextlib.ExitStack() as stack:
        ground, port = Ground(stack), freePort()
        argv = [sys.executable, "-m", "benchmarks.verdicts", "--serve", str(port)]
        env = {**os.environ, "PYTHONPATH": path(ROOT)}
        service = subprocess.Popen([*argv, "--wait", str(wait)], cwd=ROOT, env=env)
        stack.callback(service.wait)
        stack.callback(service.terminate)
        cohorts = "".join(OUR_COHORT.format(cohort=n, port=port) for n in range(COHORTS))
        ours = ground.serve(OwnServer(ground.directory(), OURS + cohorts))
        yield [
            Subject("deferrals", ours.port, ours.process.process.pid),
            _exim(ground, port),
        ]


def _exim(ground: Any, service: int) -> Subject:
    exim = Exim(ground, main=EXIM_MAIN)
    with open(exim.config, encoding="utf-8") as file:
        text = file.read()
    acl = EXIM_ACL.format(port=service)
    text = re.sub(r"\nacl_prdr:\n.*?(?=\nbegin routers)", lambda _: acl, text, flags=re.S)
    with open(exim.config, "w", encoding="utf-8") as file:
        file.write(text)
    argv = [exim.path, "-bdf", "-C", exim.config]
    process = ground.daemon(argv, exim.directory, lambda: greeting(exim.port), "exim")
    return Subject("exim", exim.port, process.process.pid)


def send(port: int, messages: int) -> None:
    """
    One sender, which keeps its connection.
    """
    to = [f"RCPT TO:<u{n}@c{n % COHORTS}.bench.test>" for n in range(RECIPIENTS)]
    expected = ["550" if n % COHORTS == REFUSING else "250" for n in range(RECIPIENTS)]
    dialogue = Dialogue(port, load.PATIENCE)
    dialogue.reply()
    dialogue.say("EHLO client.test")
    for _ in range(messages):
        said = dialogue.say("MAIL FROM:<me@client.test> PRDR", *to, "DATA")
        if not said[-1].startswith("354"):
            raise AssertionError(said)
        dialogue.socket.sendall(load.body(4096) + b".\r\n")
        first = dialogue.reply()
        replies = [dialogue.reply()[:3] for _ in to] if first.startswith("353") else []
        final = dialogue.reply() if replies else first
        if replies != expected or not final.startswith("250"):
            raise AssertionError((first, replies, final))
    dialogue.close()


def measure(subject: Subject, messages: int, senders: int) -> tuple[float, float]:
    """
    @return: messages per second, and milliseconds of processor time for each.
    """
    each = messages // senders
    threads = [threading.Thread(target=send, args=(subject.port, each)) for _ in range(senders)]
    used, began = load.cpu(subject.pid), time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - began
    done = each * senders
    return done / seconds, 1000 * (load.cpu(subject.pid) - used) / done


def _cell(figures: list[float]) -> str:
    return f"{statistics.median(figures):.3g} ({min(figures):.3g} to {max(figures):.3g})"


def main() -> int:
    """
    The table.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.verdicts", description=__doc__)
    parser.add_argument("--messages", type=int, default=60)
    parser.add_argument("--senders", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--wait", type=float, default=0.0, help="of the service, milliseconds")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        asyncio.run(serve(arguments.serve, arguments.wait / 1000))
    found: dict[str, list[tuple[float, float]]] = {}
    with subjects(arguments.wait) as peers:
        for subject in peers:
            until(functools.partial(_warm, subject.port), "the service")
        for _ in range(arguments.rounds):
            for subject in peers:
                figures = measure(subject, arguments.messages, arguments.senders)
                found.setdefault(subject.name, []).append(figures)
            peers.reverse()
    print("| server | msg/s | CPU ms |\n| --- | --- | --- |")
    for name, all_ in found.items():
        rates, used = zip(*all_, strict=True)
        print(f"| {name} | {_cell(list(rates))} | {_cell(list(used))} |")
    ratios = [ours[0] / theirs[0] for ours, theirs in zip(*found.values(), strict=True)]
    print(f"\nmessages per second, deferrals to exim: {_cell(ratios)}")
    return 0


def _warm(port: int) -> bool:
    try:
        send(port, 2)
    except (AssertionError, OSError):
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())

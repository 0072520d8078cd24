"""
The servers, each in a directory of its own: what it has accepted is durable.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import attrs

from tests.integration.daemons import Exim, Postfix
from tests.integration.support import ROOT, Process, Server, greeting, path, run, until
from tests.ports import freePort


class Ground:
    """
    Where servers run, and with whose end they end; what L{Exim} and L{Postfix}
    want of a test.

    @param kept: when its directories go, where that is not at the end: files that were
        deleted a moment ago make those of the next server dearer (ext4).
    """

    def __init__(
        self, stack: contextlib.ExitStack, kept: contextlib.ExitStack | None = None
    ) -> None:
        self._stack = stack
        self._kept = kept or stack

    @staticmethod
    def top() -> str:
        """
        Where the directories are made.
        """
        return os.environ.get("BENCH_DIR") or tempfile.gettempdir()

    def directory(self) -> str:
        made = tempfile.mkdtemp(prefix="deferrals-bench-", dir=self.top())
        os.chmod(made, 0o755)
        self._kept.callback(shutil.rmtree, made, True)
        return made

    def daemon(
        self, argv: Sequence[str], directory: str, condition: Any, what: str, **more: Any
    ) -> Process:
        process = Process(argv, os.path.join(directory, f"{what}.out"), **more)
        self._stack.callback(process.stop)
        process.ready(condition, what)
        return process

    def serve(self, server: Server) -> Server:
        self._stack.callback(server.stop)
        return server


@attrs.frozen
class Peer:
    """
    A server that runs.

    @ivar most: how many idle connections it is asked to hold at most.
    """

    port: int
    pid: int
    most: int = 5000


OURS = """
hostname = "mx.bench.test"
bounces = "none"

[[listen]]
endpoint = "tcp:0:interface=127.0.0.1:backlog=1000"

[limits]
connections = 10000
connections_per_address = 10000
transactions = 1000000
commands = 10000000

[policies.open]
envelope = "accept"

[policies.judged]
envelope = "defer"
content = [{{ use = "match", rules = [
  {{ header = "Subject", words = ["lottery"] }},
  {{ body = true, words = ["casino"] }},
  {{ attachment = ["*.exe"] }},
] }}]

[[recipients]]
match = "*@bench.test"
policy = "{policy}"
deliver = {deliver}
"""


class OwnServer(Server):
    """
    A process of its own from the start on, as it is measured.
    """

    popen = staticmethod(subprocess.Popen)


def _ours(deliver: str, policy: str = "open", workers: int = 1) -> Callable[[Ground], Peer]:
    config = f"workers = {workers}\n" + OURS.format(deliver=deliver, policy=policy)

    def start(ground: Ground) -> Peer:
        server = ground.serve(OwnServer(ground.directory(), config))
        until(lambda: " mail for " in server.log, "all processes take mail")
        return Peer(server.port, server.process.process.pid)

    return start


#: For one domain each: recipients of different ones are in different cohorts.
COHORT = """
[policies.judged{number}]
envelope = "defer"
content = [{{ use = "match", rules = [{{ body = true, words = ["casino{number}"] }}] }}]

[[recipients]]
match = "*@c{number}.bench.test"
policy = "judged{number}"
deliver = {{ use = "discard" }}
"""


def withCohorts(ground: Ground) -> Peer:
    """
    Ours, with thirty domains whose mail is judged by rules of their own.
    """
    config = OURS.format(deliver='{ use = "discard" }', policy="open")
    config += "".join(COHORT.format(number=number) for number in range(30))
    server = ground.serve(OwnServer(ground.directory(), config))
    return Peer(server.port, server.process.process.pid)


def _script(module: str) -> Callable[[Ground], Peer]:
    def start(ground: Ground) -> Peer:
        directory, port = ground.directory(), freePort()
        argv = [sys.executable, "-m", module, str(port), directory]
        env = {**os.environ, "PYTHONPATH": path(ROOT)}
        ready = lambda: greeting(port)  # noqa: E731
        process = ground.daemon(argv, directory, ready, "server", cwd=ROOT, env=env)
        return Peer(port, process.process.pid)

    return start


def _exim(ground: Any) -> Peer:
    main = "queue_only\nsmtp_accept_max = 0\nsmtp_accept_max_per_connection = 0\n"
    main += "smtp_accept_queue_per_connection = 0\nmessage_size_limit = 100M\n"
    exim = Exim(ground, daemon=True, main=main, route="127.0.0.1")
    return Peer(exim.port, _process(exim.directory), 500)


def _postfix(ground: Any) -> Peer:
    main = "default_process_limit = 600\nmessage_size_limit = 104857600\n"
    main += "mailbox_size_limit = 0\nsmtpd_client_connection_count_limit = 0\n"
    postfix = Postfix(ground, "discard:", main)
    master = os.path.join(postfix.conf, "master.cf")
    with open(master, encoding="utf-8") as file:
        text = file.read()
    with open(master, "w", encoding="utf-8") as file:
        file.write(re.sub(r" 10 smtpd$", " 0 smtpd", text, flags=re.M))
    run(["/usr/sbin/postfix", "-c", postfix.conf, "reload"])
    return Peer(postfix.port, postfix.process.process.pid, 50)


def _process(directory: str) -> int:
    with open(os.path.join(directory, "exim.pid"), encoding="ascii") as file:
        return int(file.read())


PEERS: dict[str, Callable[[Ground], Peer]] = {
    "stock": _script("benchmarks.stock"),
    "aiosmtpd": _script("benchmarks.aio"),
    "deferrals": _ours('{ use = "discard" }'),
    "deferrals+match": _ours('{ use = "discard" }', "judged"),
    "deferrals+maildir": _ours('{ use = "maildir", path = "mail/{local}" }'),
    "deferrals*2": _ours('{ use = "discard" }', workers=2),
    "deferrals*4": _ours('{ use = "discard" }', workers=4),
    "exim": _exim,
    "postfix": _postfix,
}

"""
Surroundings that a server meets: in each it starts, takes a mail, delivers it and
ends when it is told; or it says in one line why it cannot.

A log that is full, dead or not read is in L{tests.integration.test_process}, a DNS
that says nothing in L{tests.integration.test_mx}.
"""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Callable

import attrs
from twisted.trial.unittest import SkipTest

from tests.integration.support import (
    PATIENCE,
    ROOT,
    TWISTD,
    IntegrationCase,
    cli,
    freePort,
    needsRoot,
    path,
    run,
    until,
)
from tests.zone import Zone

CONFIG = """
hostname = "{hostname}"
bounces = "none"
{more}
[[listen]]
endpoint = "tcp:{port}:interface=127.0.0.1"
{listeners}
[policies.open]
envelope = "accept"

[[recipients]]
match = "*@example.net"
policy = "open"
deliver = {{ {deliver} }}
"""

MAILDIR = 'use = "maildir", path = "mail/{local}"'

#: What each of two services in one process is made of.
TAC = """
from twisted.application import service
from deferrals import tap

application = service.Application("two")
for name in ("one.toml", "two.toml"):
    options = tap.Options()
    options.parseOptions(["--config", name])
    tap.makeService(options).setServiceParent(application)
"""


@attrs.frozen
class Environment:
    """
    @ivar wrap: a shell's words before the server's; C{exec "$@"} is behind them.
    @ivar needs: a command line that fails where this environment cannot be had.
    @ivar values: of the configuration.
    @ivar environ: further variables.
    @ivar twistd: further options of C{twistd}.
    @ivar fails: what the one line has, where the server cannot start.
    """

    wrap: str = ""
    needs: str = "true"
    values: dict[str, str] = attrs.field(factory=dict)
    environ: dict[str, str] = attrs.field(factory=dict)
    twistd: tuple[str, ...] = ()
    fails: str = ""
    mark: str = ""


ENVIRONMENTS = {
    "plain": Environment(),
    "standard output is ASCII": Environment(
        environ={"PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    ),
    "no HOME, no PATH": Environment("unset HOME PATH"),
    "a byte order mark": Environment(mark="\ufeff"),
    "few files": Environment("ulimit -n 256"),
    "a stale pid file": Environment("echo 1 > twistd.pid"),
    "a long hostname": Environment(values={"hostname": f"{'a' * 56}.example"}),
    "IPv4 and IPv6 on one port": Environment(
        values={"listeners": '[[listen]]\nendpoint = "tcp6:{port}:interface=\\\\:\\\\:1"'},
        needs="test -e /proc/net/if_inet6",
    ),
    "chroot": Environment(twistd=("--chroot=/",), fails="--chroot"),
    "no place for state": Environment(
        values={"more": 'state_dir = "/proc/none"'}, fails="cannot make the spool"
    ),
}


class EnvironmentsTests(IntegrationCase):
    """
    Each of L{ENVIRONMENTS}, and others that need more than a line.
    """

    def setUp(self) -> None:
        self.home = self.directory()
        self.port = freePort()

    def write(self, name: str = "mx.toml", mark: str = "", **values: str) -> None:
        values = {"hostname": "mx.example.net", "more": "", "listeners": "", **values}
        values = {"deliver": MAILDIR, "port": str(self.port), **values}
        values["listeners"] = values["listeners"].format(port=values["port"])
        with open(os.path.join(self.home, name), "w") as file:
            file.write(mark + CONFIG.format(**values))

    def begin(self, wrap: str = "", *words: str, **environ: str) -> subprocess.Popen[bytes]:
        """
        @param words: behind the interpreter's name; the server's, if there are none.
        """
        words = words or (*TWISTD, "--nodaemon", "deferrals", "--config", "mx.toml")
        argv = ["/bin/sh", "-c", f'{wrap or "true"} && exec "$@"', "sh", sys.executable, *words]
        with open(os.path.join(self.home, "log"), "wb") as log:
            process = subprocess.Popen(
                argv,
                cwd=self.home,
                env={**os.environ, "PYTHONPATH": path(ROOT), **environ},
                stdout=log,
                stderr=log,
            )
        self.addCleanup(self.end, process)
        return process

    def end(self, process: subprocess.Popen[bytes]) -> None:
        if process.poll() is None:
            process.kill()
        process.wait()

    def log(self) -> str:
        with open(os.path.join(self.home, "log"), errors="replace") as file:
            return file.read()

    def logged(self, text: str, count: int = 1) -> None:
        until(lambda: self.log().count(text) >= count, f"{text}\n{self.log()}")

    def send(self, to: str = "") -> None:
        done = cli(
            *("send", "--to", to or f"127.0.0.1:{self.port}", "--from", "a@client.test"),
            *("--rcpt", "anna@example.net", "--sample", "plain"),
        )
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr + self.log())

    def stop(self, process: subprocess.Popen[bytes]) -> None:
        process.send_signal(signal.SIGTERM)
        self.assertIn(process.wait(PATIENCE), (0, -signal.SIGTERM), self.log())
        self.assertNotIn("Traceback", self.log())

    def check(self, environment: Environment) -> None:
        if run(["/bin/sh", "-c", environment.needs]).returncode != 0:
            raise SkipTest(f"this cannot be had here: {environment.needs}")
        self.write(mark=environment.mark, **environment.values)
        words = (*TWISTD, "--nodaemon", *environment.twistd, "deferrals", "--config", "mx.toml")
        process = self.begin(environment.wrap, *words, **environment.environ)
        if environment.fails:
            self.assertEqual(process.wait(PATIENCE), 1, self.log())
            line = self.log().splitlines()[-1]
            self.assertTrue(line.startswith("twistd: cannot start: "), line)
            self.assertIn(environment.fails, line)
            self.assertNotIn("Traceback", self.log())
            return
        self.logged(" listening on ")
        self.logged(" mail for ")
        self.send()
        self.logged("> delivered by ")
        self.stop(process)

    def test_twoServices(self) -> None:
        """Two services in one process: both take mail, both are reloaded."""
        ports = self.port, freePort()
        for name, port in zip(("one", "two"), ports, strict=True):
            more = f'state_dir = "{name}"'
            self.write(f"{name}.toml", port=str(port), more=more)
        with open(os.path.join(self.home, "two.tac"), "w") as file:
            file.write(TAC)
        process = self.begin("", *TWISTD, "--nodaemon", "--pidfile=", "--python=two.tac")
        self.logged(" mail for ", 2)
        for port in ports:
            self.send(f"127.0.0.1:{port}")
        process.send_signal(signal.SIGHUP)
        self.logged("configuration reloaded", 2)
        self.stop(process)

    def test_firstNameserver(self) -> None:
        """A nameserver to which nothing can be sent: the next one is asked."""
        hop = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(hop.close)
        hop.settimeout(PATIENCE)
        zone = Zone({("example.net", "MX"): [(10, "hop.test")], ("hop.test", "A"): ["127.0.0.1"]})
        self.addCleanup(zone.close)
        servers = ["2001:db8::1", "255.255.255.255", f"127.0.0.1:{zone.address[1]}"]
        port = hop.getsockname()[1]
        self.write(more=f"dns = {servers}", deliver=f'use = "mx", never = [], port = {port}')
        process = self.begin()
        self.logged(" mail for ")
        self.send()
        hop.accept()[0].close()
        self.stop(process)

    def test_ownNetwork(self) -> None:
        """No route, or no port left on our side: no next hop is blamed, the mail waits."""
        needs = ["unshare", "--net", "true"]
        if run(needs).returncode != 0:
            raise SkipTest(f"this cannot be had here: {needs}")
        ports = "/proc/sys/net/ipv4/ip_local_port_range"
        for make, hop in (
            ("ip link set lo up", "192.0.2.1:25"),
            (f"ip link set lo up && echo 20000 20000 > {ports}", "127.0.0.1:7"),
        ):
            self.lacking(f'exec unshare --net sh -c \'{make} && exec "$@"\' sh "$@"', hop)

    def lacking(self, wrap: str, hop: str) -> None:
        self.port = 20000
        path = os.path.join(self.home, "smtp.sock")
        listeners = f'[[listen]]\nendpoint = "unix:{path}"'
        self.write(listeners=listeners, deliver=f'use = "smtp", endpoint = "tcp:{hop}", retry = 1')
        process = self.begin(wrap)
        self.logged(" mail for ")
        for _ in range(5):
            self.send(f"unix:{path}")
        self.logged("> retry by ", 5)
        self.assertNotIn("left alone", self.log())
        self.stop(process)

    def test_orphans(self) -> None:
        """Process 1 of a container: what a program of a delivery leaves behind is reaped."""
        if run(["unshare", "--pid", "--fork", "--mount-proc", "true"]).returncode != 0:
            raise SkipTest("no PID namespaces may be made here")
        self.pipe("cat > mail; sleep 0.2 & exit 0")
        process = self.begin('exec unshare --pid --fork --mount-proc --kill-child "$@"')
        self.logged(" mail for ")
        for _ in range(3):
            self.send()
        self.logged("> delivered by ", 3)
        server = children(process.pid)[0]
        until(lambda: not children(server), "no child is left")
        os.kill(server, signal.SIGTERM)
        process.wait(PATIENCE)
        self.assertNotIn("Traceback", self.log())

    def test_noProcess(self) -> None:
        """No room for another process is no fault of the mail: it is delivered later."""
        needsRoot()  # a limit of processes is none for root: the server is another user's
        os.chmod(self.home, 0o777)
        self.pipe("cat > mail", 'retry = "1s", ')
        other = "setpriv --reuid=54321 --clear-groups"
        process = self.begin(f'exec {other} "$@"')
        self.logged(" mail for ")
        self.send()
        self.logged("> delivered by ")
        limit = [*shlex.split(other), "prlimit", f"--pid={process.pid}"]
        self.assertEqual(run([*limit, "--nproc=1:"]).returncode, 0)
        self.send()
        self.logged("> retry by ")
        self.assertEqual(run([*limit, "--nproc=1000:"]).returncode, 0)
        self.logged("> delivered by ", 2)
        self.assertNotIn("> failed by ", self.log())
        self.stop(process)

    def pipe(self, script: str, more: str = "") -> None:
        self.write(deliver=f'use = "pipe", {more}command = ["/bin/sh", "-c", "{script}"]')


def children(pid: int) -> list[int]:
    """
    @return: all processes whose parent this is, also those that have ended.
    """
    found = run(["ps", "-o", "pid=", "--ppid", str(pid)]).stdout
    return [int(word) for word in found.split()]


def _method(environment: Environment) -> Callable[[EnvironmentsTests], None]:
    def test(self: EnvironmentsTests) -> None:
        self.check(environment)

    return test


for _name, _environment in ENVIRONMENTS.items():
    _test = _method(_environment)
    _test.__doc__ = f"{_name}."
    setattr(EnvironmentsTests, f"test_{''.join(filter(str.isalnum, _name.title()))}", _test)

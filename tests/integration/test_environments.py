"""
Surroundings that a server meets: in each it starts, takes a mail, delivers it and
ends when it is told; or it says in one line why it cannot.

A log that is full, dead or not read is in L{tests.integration.test_process}, a DNS
that says nothing in L{tests.integration.test_mx}.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable

import attrs
from twisted.trial.unittest import SkipTest

from tests.integration.starts import StartCase
from tests.integration.support import PATIENCE, cli, needsRoot, run, takesAll, until
from tests.ports import freePort
from tests.zone import Zone

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
    @ivar before: a shell's words before the server's.
    @ivar needs: a command line that fails where this environment cannot be had.
    @ivar config: the configuration.
    @ivar environ: further variables.
    @ivar twistd: further options of C{twistd}.
    @ivar fails: what the one line has, where the server cannot start.
    """

    before: str = "true"
    needs: str = "true"
    config: str = takesAll()
    environ: dict[str, str] = attrs.field(factory=dict)
    twistd: tuple[str, ...] = ()
    fails: str = ""


ENVIRONMENTS = {
    "plain": Environment(),
    "standard output is ASCII": Environment(
        environ={"PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    ),
    "no HOME, no PATH": Environment("unset HOME PATH"),
    "a byte order mark": Environment(config="\ufeff" + takesAll()),
    "few files": Environment("ulimit -n 256"),
    "a stale pid file": Environment("echo 1 > twistd.pid"),
    "a long hostname": Environment(config=takesAll(hostname=f"{'a' * 56}.example")),
    "IPv4 and IPv6 on one port": Environment(
        config=takesAll(tables="[[listen]]\nendpoint = 'tcp6:0:interface=\\:\\:1'"),
        needs="test -e /proc/net/if_inet6",
    ),
    "chroot": Environment(twistd=("--chroot=/",), fails="--chroot"),
    "no place for state": Environment(
        config=takesAll(top='state_dir = "/proc/none"'), fails="cannot make the spool"
    ),
}


class EnvironmentsTests(StartCase):
    """
    Each of L{ENVIRONMENTS}, and others that need more than a line.
    """

    def check(self, environment: Environment) -> None:
        if run(["/bin/sh", "-c", environment.needs]).returncode != 0:
            raise SkipTest(f"this cannot be had here: {environment.needs}")
        self.write(environment.config)
        process = self.begin(
            *("--nodaemon", *environment.twistd),
            before=environment.before,
            environ=environment.environ,
        )
        if environment.fails:
            self.assertEqual(process.wait(PATIENCE), 1, self.log())
            line = self.log().splitlines()[-1]
            self.assertTrue(line.startswith("twistd: cannot start: "), line)
            self.assertIn(environment.fails, line)
            self.assertNotIn("Traceback", self.log())
            return
        self.logged(" listening on ")
        self.logged(" mail for ")
        self.sent()
        self.logged("> delivered by ")
        self.stop(process)

    def test_twoServices(self) -> None:
        """Two services in one process: both take mail, both are reloaded."""
        ports = []
        for name in ("one", "two"):
            self.port = freePort()
            self.write(takesAll(top=f'state_dir = "{name}"'), f"{name}.toml")
            ports.append(self.port)
        with open(os.path.join(self.home, "two.tac"), "w") as file:
            file.write(TAC)
        process = self.begin("--nodaemon", "--pidfile=", "--python=two.tac", service=())
        self.logged(" mail for ", 2)
        for port in ports:
            self.sent(f"127.0.0.1:{port}")
        process.send_signal(signal.SIGHUP)
        self.logged("configuration reloaded", 2)
        self.stop(process)

    def test_hangupAtOnce(self) -> None:
        """SIGHUP and SIGUSR1, again and again since its modules are being loaded: it starts."""
        self.write(takesAll())
        process = self.begin("--nodaemon", environ={"PYTHONPROFILEIMPORTTIME": "1"})
        self.logged("deferrals.errors")
        until(lambda: self.hungUp(process), f"it starts\n{self.log()}")
        self.logged("configuration reloaded")
        self.sent()
        self.logged("> delivered by ")
        self.stop(process)

    def test_hangupInPython(self) -> None:
        """Likewise since Python itself is being loaded, where that is ignored until it is heard."""
        self.write(takesAll())
        process = self.begin(
            "--nodaemon", before='exec env --ignore-signal=HUP --ignore-signal=USR1 "$@"'
        )
        python = sys.executable.encode()
        until(lambda: self.command(process).startswith(python), "Python runs")
        until(lambda: self.hungUp(process), f"it starts\n{self.log()}")
        process.send_signal(signal.SIGHUP)
        self.logged("configuration reloaded")
        self.stop(process)

    def hungUp(self, process: subprocess.Popen[bytes]) -> bool:
        """
        Send the signals once more.

        @return: whether mail can be taken.
        """
        self.assertIsNone(process.poll(), self.log())
        for number in (signal.SIGHUP, signal.SIGUSR1):
            process.send_signal(number)
        return " mail for " in self.log()

    def command(self, process: subprocess.Popen[bytes]) -> bytes:
        with open(f"/proc/{process.pid}/cmdline", "rb") as file:
            return file.read()

    def test_noConfiguration(self) -> None:
        """A configuration that cannot be opened: the log has it, and the old one stays."""
        self.write(takesAll())
        process = self.begin("--nodaemon")
        self.logged(" mail for ")
        path = os.path.join(self.home, "mx.toml")
        os.rename(path, f"{path}.away")
        done = cli("reload", "--config", path)
        self.assertEqual(done.returncode, 1, done.stdout + done.stderr)
        why = f"{path}: cannot be read: [Errno 2] No such file or directory: '{path}'"
        self.assertIn(f"not reloaded, the old configuration stays: {why}", done.stderr)
        self.logged(f"configuration not reloaded, the old one stays: {why}")
        self.sent()
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
        deliver = f'{{ use = "mx", never = [], port = {port} }}'
        self.write(takesAll(deliver, top=f"dns = {servers}"))
        process = self.begin("--nodaemon")
        self.logged(" mail for ")
        self.sent()
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

    def lacking(self, before: str, hop: str) -> None:
        self.port = 20000
        path = os.path.join(self.home, "smtp.sock")
        listener = f'[[listen]]\nendpoint = "unix:{path}"'
        deliver = f'{{ use = "smtp", endpoint = "tcp:{hop}", retry = 1 }}'
        self.write(takesAll(deliver, tables=listener))
        process = self.begin("--nodaemon", before=before)
        self.logged(" mail for ")
        for _ in range(5):
            self.sent(f"unix:{path}")
        self.logged("> retry by ", 5)
        self.assertNotIn("left alone", self.log())
        self.stop(process)

    def test_clientVanishes(self) -> None:
        """Clients go while a service is connected to: the service has not failed."""
        service = socket.create_server(("127.0.0.1", 0), backlog=0)
        self.addCleanup(service.close)
        place = service.getsockname()
        full = socket.create_connection(place)  # the next connection is not taken
        self.addCleanup(full.close)
        url = f"http://127.0.0.1:{place[1]}/"
        judged = f'content = [ {{ use = "http", url = "{url}" }} ]'
        self.write(takesAll().replace('envelope = "accept"', judged))
        process = self.begin("--nodaemon")
        self.logged(" mail for ")
        for count in range(1, 8):
            client = self.dialogue(self.port)
            client.say("EHLO c.test", "MAIL FROM:<a@client.test>", "RCPT TO:<anna@example.net>")
            client.say("DATA")
            client.socket.sendall(b"\r\nhello\r\n.\r\n")
            until(lambda: isConnectingTo(place[1]), "the service is connected to")
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
            self.logged("the client was gone before the final reply", count)
        service.accept()[0].close()
        judge = threading.Thread(target=accept, args=(service,))
        judge.start()
        self.addCleanup(judge.join)
        self.sent()
        self.logged("> delivered by ")
        self.assertNotIn("left alone", self.log())
        status = json.loads(cli("status", "--json", "--config", f"{self.home}/mx.toml").stdout)
        (found,) = (one for name, one in status["parts"].items() if str(place[1]) in name)
        self.assertEqual(found["failures"], 0, found)
        self.stop(process)

    def test_orphans(self) -> None:
        """Process 1 of a container: what a program of a delivery leaves behind is reaped."""
        if run(["unshare", "--pid", "--fork", "--mount-proc", "true"]).returncode != 0:
            raise SkipTest("no PID namespaces may be made here")
        self.pipe("cat > mail; sleep 0.2 & exit 0")
        process = self.begin(
            "--nodaemon", before='exec unshare --pid --fork --mount-proc --kill-child "$@"'
        )
        self.logged(" mail for ")
        for _ in range(3):
            self.sent()
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
        process = self.begin("--nodaemon", before=f'exec {other} "$@"')
        self.logged(" mail for ")
        self.sent()
        self.logged("> delivered by ")
        limit = [*shlex.split(other), "prlimit", f"--pid={process.pid}"]
        self.assertEqual(run([*limit, "--nproc=1:"]).returncode, 0)
        self.sent()
        self.logged("> retry by ")
        self.assertEqual(run([*limit, "--nproc=1000:"]).returncode, 0)
        self.logged("> delivered by ", 2)
        self.assertNotIn("> failed by ", self.log())
        self.stop(process)

    def pipe(self, script: str, more: str = "") -> None:
        self.write(takesAll(f'{{ use = "pipe", {more}command = ["/bin/sh", "-c", "{script}"] }}'))


def isConnectingTo(port: int) -> bool:
    """
    @return: whether a connection to this port of loopback waits for being taken.
    """
    with open("/proc/net/tcp") as file:
        return any(f"0100007F:{port:04X} 02 " in line for line in file)


def accept(service: socket.socket) -> None:
    """
    Let one message in, as a service behind C{http}.
    """
    connection, _ = service.accept()
    with connection, connection.makefile("rb") as file:
        size = 0
        while (line := file.readline().lower()).strip():
            if line.startswith(b"content-length:"):
                size = int(line.partition(b":")[2])
        file.read(size)
        body = b'{"default": {"accept": true}}'
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)


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

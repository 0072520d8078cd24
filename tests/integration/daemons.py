"""
Daemons that others wrote, each in a directory of its own on loopback.
"""

from __future__ import annotations

import os
import pwd
import re
import smtplib

from twisted.trial.unittest import SkipTest

from tests.integration.support import (
    IntegrationCase,
    Process,
    greeting,
    needsRoot,
    program,
    run,
    until,
)
from tests.ports import freePort


def _user(name: str) -> int:
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        raise SkipTest(f"there is no user {name}") from None


class Exim:
    """
    Exim 4: a server with C{acl_smtp_data_prdr}, and a sender to where C{route}
    says.

    @param route: host and port pairs of the next hop, as Exim's C{route_list}
        has them; empty for none.
    @param prdr: whether it asks for PRDR.
    @param main, transport: further lines of its configuration.
    """

    def __init__(
        self,
        case: IntegrationCase,
        route: str = "",
        *,
        daemon: bool = False,
        prdr: bool = True,
        main: str = "",
        transport: str = "",
    ) -> None:
        needsRoot()
        self.path = program("exim4")
        self.prdr = "*" if prdr else ""
        uid = _user("Debian-exim")
        self.directory = case.directory()
        self.port = freePort()
        for name in ("spool", "log"):
            path = os.path.join(self.directory, name)
            os.mkdir(path)
            os.chown(path, uid, -1)
        self.config = os.path.join(self.directory, "exim.conf")
        with open(self.config, "w", encoding="utf-8") as file:
            file.write(_EXIM.format(self=self, route=route, main=main, transport=transport))
        if daemon:
            argv = [self.path, "-bdf", "-C", self.config]
            case.daemon(argv, self.directory, lambda: greeting(self.port), "exim")

    def log(self, name: str = "main") -> str:
        try:
            with open(os.path.join(self.directory, "log", f"{name}log"), encoding="utf-8") as file:
                return file.read()
        except FileNotFoundError:
            return ""

    def send(self, data: bytes, sender: str, *recipients: str) -> None:
        """
        Submit a message, and deliver it at once.
        """
        argv = [self.path, "-C", self.config, "-odf", "-oi", "-f", sender, *recipients]
        done = run(argv, data)
        if done.returncode != 0:
            raise AssertionError(done.stderr + self.log() + self.log("panic"))

    def flush(self) -> None:
        """
        Try again what it still has, whatever its retry times say.
        """
        run([self.path, "-C", self.config, "-qff"])

    def bounce(self) -> str:
        """
        The body of the bounce that it wrote to its own directory.
        """
        path = os.path.join(self.directory, "spool", "bounces")
        until(lambda: os.path.exists(path), f"a bounce\n{self.log()}")
        with open(path, encoding="utf-8") as file:
            return file.read()


_EXIM = """
exim_path = {self.path}
primary_hostname = exim.client.test
spool_directory = {self.directory}/spool
log_file_path = {self.directory}/log/%slog
pid_file_path = {self.directory}/exim.pid
daemon_smtp_ports = {self.port}
local_interfaces = 127.0.0.1
tls_advertise_hosts =
host_lookup =
keep_environment =
add_environment = PATH=/usr/bin:/bin
log_selector = +smtp_confirmation +smtp_protocol_error
trusted_users = root
qualify_domain = client.test
prdr_enable = true
acl_smtp_rcpt = acl_rcpt
acl_smtp_data_prdr = acl_prdr
{main}
begin acl
acl_rcpt:
  deny local_parts = unknown
    message = no such user
  accept
acl_prdr:
  defer local_parts = waiter : waiter2
    message = not now for $local_part
  deny local_parts = fighter : fighter2
    message = content refused by $local_part
  accept
begin routers
local:
  driver = accept
  domains = client.test
  transport = bounces
received:
  driver = accept
  domains = exim.example.net
  transport = received
hop:
  driver = manualroute
  route_list = * "{route}" byname
  self = send
  transport = smtp
begin transports
smtp:
  driver = smtp
  hosts_avoid_tls = *
  hosts_try_prdr = {self.prdr}
  {transport}
bounces:
  driver = appendfile
  file = {self.directory}/spool/bounces
  user = Debian-exim
received:
  driver = appendfile
  file = {self.directory}/spool/received
  user = Debian-exim
begin retry
* * F,1h,1s
"""


class Postfix:
    """
    Postfix as a sender (and a smarthost), in an instance of its own.

    @ivar port: where it takes mail.
    @param transport: the next hops, as C{default_transport} has them.
    @param main: further lines of C{main.cf}.
    """

    def __init__(self, case: IntegrationCase, transport: str, main: str = "") -> None:
        needsRoot()
        self.master = program("/usr/lib/postfix/sbin/master")
        uid = _user("postfix")
        self.directory = case.directory()
        self.port = freePort()
        for name in ("conf", "spool", "data", "log"):
            os.mkdir(os.path.join(self.directory, name))
        os.chown(os.path.join(self.directory, "data"), uid, -1)
        os.chmod(os.path.join(self.directory, "data"), 0o700)
        self.conf = os.path.join(self.directory, "conf")
        for name, text in (("main.cf", _POSTFIX_MAIN), ("master.cf", _POSTFIX_MASTER)):
            with open(os.path.join(self.conf, name), "w", encoding="utf-8") as file:
                file.write(text.format(self=self, transport=transport, main=main))
        done = run(["/usr/sbin/postfix", "-c", self.conf, "check"])
        if done.returncode != 0:
            raise AssertionError(done.stderr)
        argv = [self.master, "-c", self.conf, "-d"]
        self.process: Process = case.daemon(
            argv, self.directory, lambda: greeting(self.port).startswith(b"220"), "postfix"
        )

    def log(self) -> str:
        try:
            with open(os.path.join(self.directory, "log", "maillog"), encoding="utf-8") as file:
                return file.read()
        except FileNotFoundError:
            return ""

    def send(self, data: bytes, sender: str, *recipients: str) -> None:
        """
        Submit a message; it is delivered in the background.
        """
        with smtplib.SMTP("127.0.0.1", self.port) as client:
            client.sendmail(sender, recipients, data)

    def logged(self, pattern: str) -> str:
        """
        Wait for a line of the log.
        """
        found = until(lambda: re.search(pattern, self.log()), f"{pattern}\n{self.log()}")
        return str(found[0])

    def flush(self) -> None:
        run(["/usr/sbin/postqueue", "-c", self.conf, "-f"])


_POSTFIX_MAIN = """
compatibility_level = 3.6
queue_directory = {self.directory}/spool
data_directory = {self.directory}/data
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
mail_owner = postfix
setgid_group = postdrop
myhostname = sender.client.test
mydestination =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
alias_maps =
alias_database =
local_recipient_maps =
disable_dns_lookups = yes
smtp_host_lookup = native
default_transport = {transport}
relay_transport = $default_transport
smtpd_peername_lookup = no
smtpd_relay_restrictions = permit_mynetworks, reject
smtp_tls_security_level = none
maillog_file = {self.directory}/log/maillog
maillog_file_prefixes = {self.directory}
{main}
"""

_POSTFIX_MASTER = """
127.0.0.1:{self.port} inet n - n - 10 smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - - verify
flush unix - - n - - flush
proxymap unix - - n - - proxymap
smtp unix - - n - - smtp
lmtp unix - - n - - lmtp
relay unix - - n - - smtp
showq unix - - n - - showq
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
anvil unix - - n - - anvil
scache unix - - n - - scache
tlsmgr unix - - n 1000? 1 tlsmgr
postlog unix-dgram n - n - 1 postlogd
"""


class OpenSMTPD:
    """
    OpenSMTPD as a sender, with one relay host.  Its paths are compiled in, so it
    lives in a mount namespace in which they are a directory of ours.

    @param port: the next hop, on loopback.
    """

    def __init__(self, case: IntegrationCase, port: int) -> None:
        needsRoot()
        self.path = program("opensmtpd")
        unshare = program("unshare")
        queue = _user("opensmtpq")
        self.directory = case.directory()
        self.port = freePort()
        conf = os.path.join(self.directory, "smtpd.conf")
        with open(conf, "w", encoding="utf-8") as file:
            file.write(_OPENSMTPD.format(own=self.port, hop=port))
        os.chmod(conf, 0o600)
        spool = os.path.join(self.directory, "spool")
        os.mkdir(spool)
        os.chmod(spool, 0o711)
        for name in ("incoming", "purge", "queue", "temporary"):
            os.mkdir(os.path.join(spool, name), 0o700)
            os.chown(os.path.join(spool, name), queue, -1)
        os.mkdir(os.path.join(spool, "offline"))
        os.chown(os.path.join(spool, "offline"), 0, pwd.getpwnam("opensmtpq").pw_gid)
        os.chmod(os.path.join(spool, "offline"), 0o770)
        os.mkdir(os.path.join(self.directory, "run"))
        script = (
            f"mount --bind {self.directory}/spool /var/spool/smtpd"
            f" && mount --bind {self.directory}/run /run"
            f" && exec {self.path} -d -v -f {conf}"
        )
        if run([unshare, "--mount", "true"]).returncode != 0:
            raise SkipTest("may not make a mount namespace")
        self.process: Process = case.daemon(
            [unshare, "--mount", "sh", "-c", script],
            self.directory,
            lambda: greeting(self.port).startswith(b"220"),
            "opensmtpd",
        )

    def log(self) -> str:
        return self.process.output()

    def send(self, data: bytes, sender: str, *recipients: str) -> None:
        """
        Submit a message; it is delivered in the background.
        """
        with smtplib.SMTP("127.0.0.1", self.port) as client:
            client.sendmail(sender, recipients, data)

    def flush(self) -> None:
        """
        Try what waits.
        """
        control = os.path.join(os.path.dirname(self.path), "smtpctl")
        pid = str(self.process.process.pid)
        run(["nsenter", "-t", pid, "-m", control, "schedule", "all"])


_OPENSMTPD = """
listen on 127.0.0.1 port {own}
action "relay" relay host smtp://127.0.0.1:{hop}
match from any for any action "relay"
"""

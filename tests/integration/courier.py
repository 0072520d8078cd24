"""
Courier: a sender and a next hop that knows EXDATA, each in a directory of its own.
"""

from __future__ import annotations

import glob
import os
import pwd
import re
import shutil
import smtplib
from collections.abc import Iterable, Mapping

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

#: The domain whose accounts a L{Courier} has itself, unless it has another one.
DOMAIN = "courier.example.net"


class Courier:
    """
    Courier's server, queue and client.  Its paths are compiled in, so it lives in
    a mount namespace in which they are directories of ours; the processes are in
    a process namespace, and end with its first.

    @ivar port: where it takes mail.
    @param hop: the port on loopback that mail for other domains goes to.
    @param filters: for accounts that look into the content, the
        shell script that does it: it prints the account's reply and exits with
        something other than 0 where it refuses the message.
    @param accounts: further accounts, which take everything.
    @param domain: theirs.
    """

    def __init__(
        self,
        case: IntegrationCase,
        hop: int | None = None,
        *,
        filters: Mapping[str, str] | None = None,
        accounts: Iterable[str] = (),
        domain: str = DOMAIN,
    ) -> None:
        needsRoot()
        self.tree = os.path.dirname(os.path.dirname(os.path.dirname(program("couriertcpd"))))
        if run(["unshare", "--mount", "--pid", "--fork", "true"]).returncode != 0:
            raise SkipTest("may not make namespaces")
        try:
            self.user = pwd.getpwnam("courier")
        except KeyError:
            raise SkipTest("there is no user courier") from None
        self.directory = case.directory()
        self.port = freePort()
        self._configure(hop, domain)
        for local, text in {**dict.fromkeys(accounts, ""), **(filters or {})}.items():
            self._account(local, text)
        self._own("etc", "var", "run", "home")
        script = os.path.join(self.directory, "start")
        with open(script, "w", encoding="utf-8") as file:
            file.write(_START.format(self=self))
        # Its first process is killed, and the kernel ends the others with it.
        argv = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        self.process = Process([*argv, "sh", "-e", script], f"{self.directory}/out")
        case.addCleanup(self.process.kill)
        self.process.ready(lambda: greeting(self.port).startswith(b"220"), "courier")

    def _configure(self, hop: int | None, domain: str) -> None:
        for name in ("etc", "var"):
            source = {"etc": "etc", "var": "var/lib"}[name]
            shutil.copytree(f"{self.tree}/{source}/courier", f"{self.directory}/{name}")
        for name in ("run", "home"):
            os.mkdir(os.path.join(self.directory, name))
        self._write("etc/me", "courier.client.test\n")
        self._write("etc/defaultdomain", "courier.client.test\n")
        self._write("etc/locals", f"localhost\ncourier.client.test\n{domain}\n")
        self._write("etc/esmtpacceptmailfor", f"courier.client.test\n{domain}\n")
        self._write("etc/esmtproutes", f":[127.0.0.1],{hop or 9}\n")
        self._write("filter", _FILTER)
        os.chmod(f"{self.directory}/filter", 0o755)
        self._write("etc/maildropfilter", f"{self.directory}/filter\n")
        self._write("etc/authdaemonrc", _AUTHDAEMON)
        # It comes again at once, and always: the tests wait for that.
        for name in ("retryalpha", "retrybeta", "retrygamma", "esmtpdelay"):
            self._write(f"etc/{name}", "1\n")
        self._write("etc/userdb", "")
        os.chmod(f"{self.directory}/etc/userdb", 0o600)

    def _account(self, local: str, text: str) -> None:
        home = f"{self.directory}/home/{local}"
        os.mkdir(home)
        for name in ("", "/cur", "/new", "/tmp"):
            os.mkdir(f"{home}/Maildir{name}")
        if text:
            self._write(f"home/{local}/smtpfilter", text)
        line = f"uid={self.user.pw_uid}|gid={self.user.pw_gid}|home={home}|mail={home}/Maildir"
        with open(f"{self.directory}/etc/userdb", "a", encoding="utf-8") as file:
            file.write(f"{local}\t{line}\n")

    def _write(self, name: str, text: str) -> None:
        with open(os.path.join(self.directory, name), "w", encoding="utf-8") as file:
            file.write(text)

    def _own(self, *names: str) -> None:
        for name in names:
            for path, directories, files in os.walk(f"{self.directory}/{name}"):
                for entry in (path, *(os.path.join(path, f) for f in (*directories, *files))):
                    os.chown(entry, self.user.pw_uid, self.user.pw_gid)

    def log(self) -> str:
        return self.process.output()

    def send(self, data: bytes, sender: str, *recipients: str) -> None:
        """
        Submit a message; it is delivered in the background.
        """
        with smtplib.SMTP("127.0.0.1", self.port) as client:
            client.sendmail(sender, recipients, data)

    def arrived(self, local: str, count: int = 1) -> list[bytes]:
        """
        Wait for an account's mail.
        """
        until(lambda: len(self.mail(local)) >= count, f"{count} for {local}\n{self.log()}")
        return self.mail(local)

    def fates(self) -> dict[str, str]:
        """
        What became of the recipients of messages that are still in its queue, at
        the last attempt: C{S} delivered, C{F} failed, C{D} deferred.
        """
        found: dict[str, str] = {}
        for path in glob.glob(f"{self.directory}/var/msgs/*/C*"):
            with open(path, encoding="utf-8") as file:
                text = file.read()
            recipients = re.findall(r"^r(.+)$", text, re.M)
            for fate, number in re.findall(r"^([SFD])(\d+) ", text, re.M):
                found[recipients[int(number)]] = fate
        return found

    def mail(self, local: str) -> list[bytes]:
        """
        What is in an account's new mail.
        """
        directory = f"{self.directory}/home/{local}/Maildir/new"
        found = []
        for name in sorted(os.listdir(directory)):
            with open(os.path.join(directory, name), "rb") as file:
                found.append(file.read())
        return found


# The interface of localmailfilter(7): HOME is the account's; -D uid/gid -M stage.
_FILTER = """#!/bin/sh
[ -f "$HOME/smtpfilter" ] || exit 0
[ "$4" = rcptfilter ] && exit 99
exec sh "$HOME/smtpfilter"
"""

_AUTHDAEMON = """
authmodulelist="authuserdb"
daemons=1
authdaemonvar=/run/courier/authdaemon
DEBUG_LOGIN=0
"""

_START = """
mount --bind {self.tree}/usr/lib/courier /usr/lib/courier
mount --bind {self.tree}/usr/lib/courier-authlib /usr/lib/courier-authlib
mount --bind {self.directory}/etc /etc/courier
mount --bind {self.directory}/var /var/lib/courier
mount --bind {self.directory}/run /run
mkdir -p /run/courier/authdaemon
chown -R courier:courier /run/courier
export PATH={self.tree}/usr/sbin:{self.tree}/usr/bin:/usr/sbin:/usr/bin:/sbin:/bin
# Not by the environment: some of its programs begin with an empty one.
ldconfig -X -C {self.directory}/ld.so.cache {self.tree}/usr/lib
mount --bind {self.directory}/ld.so.cache /etc/ld.so.cache
makeuserdb
makealiases
/usr/lib/courier/courier-authlib/authdaemond &
(set -a; . /etc/courier/courierd; exec /usr/lib/courier/courier/courierd) &
set -a
. /etc/courier/esmtpd
BOFHCHECKDNS=0
TARPIT=0
RELAYCLIENT=
{self.tree}/usr/sbin/couriertcpd -address=127.0.0.1 -user=courier -group=courier \\
  -noidentlookup -nodnslookup -maxperip=100 -maxperc=100 {self.port} \\
  {self.tree}/usr/sbin/courieresmtpd &
wait
"""

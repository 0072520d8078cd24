"""
Mail stores behind LMTP, each in a directory of its own: Dovecot, which also checks
passwords for Postfix; and Cyrus.
"""

from __future__ import annotations

import glob
import os
import pwd
import socket
import time
from collections.abc import Sequence

from tests.integration.support import IntegrationCase, needsRoot, program, until

NOBODY = 65534


def greets(path: str) -> bool:
    """
    Whether a store speaks LMTP at a socket.
    """
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5)
            connection.connect(path)
            return connection.recv(100).startswith(b"220")
    except OSError:
        return False


class Dovecot:
    """
    A mail store with the users C{fine}, C{other} and C{small}, whose quota is
    a thousand octets, at example.net.

    @ivar socket: where it speaks LMTP.
    @ivar auth: where it checks passwords: that of everybody is C{secret}.
    @param main: further lines of its configuration; C{$DIR} is its directory.
    @param users: further users, with their domains.
    """

    def __init__(self, case: IntegrationCase, main: str = "", users: Sequence[str] = ()) -> None:
        needsRoot()
        self._more = users
        self.directory = case.directory()
        self.socket = os.path.join(self.directory, "lmtp.sock")
        self.auth = os.path.join(self.directory, "auth.sock")
        self.mailDirectory = os.path.join(self.directory, "mail")
        os.mkdir(self.mailDirectory)
        os.chown(self.mailDirectory, NOBODY, NOBODY)
        self.setQuota(1000)
        self.config = os.path.join(self.directory, "dovecot.conf")
        with open(self.config, "w", encoding="utf-8") as file:
            file.write((_CONFIG + main).replace("$DIR", self.directory))
        self._case = case
        self.start()

    def start(self) -> None:
        """
        Start it, or start it again.
        """
        argv = [program("dovecot", "/usr/sbin/dovecot"), "-F", "-c", self.config]
        self.process = self._case.daemon(
            argv, self.directory, lambda: greets(self.socket), "dovecot"
        )

    def stop(self) -> None:
        self.process.stop()

    def setQuota(self, octets: int) -> None:
        """
        Let the user C{small} have so much; seen within two seconds.
        """
        with open(os.path.join(self.directory, "users"), "w", encoding="utf-8") as file:
            for user, more in (
                ("fine", ""),
                ("other", ""),
                ("small", f"userdb_quota_rule=*:bytes={octets}"),
            ):
                file.write(f"{user}@example.net:::::{self.mailDirectory}/{user}::{more}\n")
            for user in self._more:
                file.write(f"{user}:::::{self.mailDirectory}/{user}::\n")
        if hasattr(self, "process"):
            time.sleep(2.1)  # it looks at the file once a second

    def mail(self, user: str) -> list[bytes]:
        """
        What is in somebody's mailbox: C{"fine"}, or a folder: C{"fine/Maildir/.Junk"}.
        """
        box = user if "/" in user else f"{user}/Maildir"
        found = []
        for name in sorted(glob.glob(f"{self.mailDirectory}/{box}/new/*")):
            with open(name, "rb") as file:
                found.append(file.read())
        return found

    def arrived(self, user: str, count: int = 1) -> list[bytes]:
        """
        Wait for somebody's mail.
        """
        until(lambda: len(self.mail(user)) >= count, f"{count} for {user}\n{self.log()}")
        return self.mail(user)

    def log(self) -> str:
        with open(os.path.join(self.directory, "dovecot.log"), encoding="utf-8") as file:
            return file.read()


_CONFIG = """
base_dir = $DIR/run
state_dir = $DIR/state
log_path = $DIR/dovecot.log
protocols = lmtp
listen = 127.0.0.1
ssl = no
default_internal_user = dovecot
default_internal_group = dovecot
default_login_user = dovenull
mail_uid = 65534
mail_gid = 65534
first_valid_uid = 1
first_valid_gid = 1
mail_location = maildir:~/Maildir
postmaster_address = postmaster@example.net
hostname = lmtp.example.net
auth_mechanisms = plain login scram-sha-256
disable_plaintext_auth = no
passdb {
  driver = static
  args = password=secret
}
userdb {
  driver = passwd-file
  args = username_format=%u $DIR/users
}
mail_plugins = quota
plugin {
  quota = count:User quota
  quota_vsizes = yes
  quota_rule = *:storage=10M
  quota_grace = 0
}
protocol lmtp {
  mail_plugins = quota
}
service lmtp {
  unix_listener $DIR/lmtp.sock {
    mode = 0666
  }
}
service auth {
  unix_listener $DIR/auth.sock {
    mode = 0666
  }
}
"""


class Cyrus:
    """
    Cyrus IMAP as a mail store; mailboxes are made when mail comes for them.

    @ivar socket: where it speaks LMTP.
    """

    def __init__(self, case: IntegrationCase) -> None:
        needsRoot()
        master = program("cyrus-master")
        tree = master.partition("/usr/")[0]
        uid = pwd.getpwnam("cyrus").pw_uid
        self.directory = case.directory()
        self.socket = os.path.join(self.directory, "lmtp.sock")
        for name in ("conf", "spool"):
            os.mkdir(os.path.join(self.directory, name))
            os.chown(os.path.join(self.directory, name), uid, -1)
        for name, text in (("imapd.conf", _CYRUS), ("cyrus.conf", _CYRUS_SERVICES)):
            with open(os.path.join(self.directory, name), "w", encoding="utf-8") as file:
                file.write(text.replace("$DIR", self.directory).replace("$TREE", tree))
        libraries = ":".join([*glob.glob(f"{tree}/usr/lib/*-linux-gnu"), f"{tree}/usr/lib"])
        config, services = (f"{self.directory}/{name}.conf" for name in ("imapd", "cyrus"))
        argv = [master, "-C", config, "-M", services, "-p", f"{self.directory}/pid"]
        environ = {**os.environ, "LD_LIBRARY_PATH": libraries}
        case.daemon(argv, self.directory, lambda: greets(self.socket), "cyrus", env=environ)

    def mail(self) -> list[bytes]:
        """
        What is in all mailboxes.
        """
        found = []
        for name in glob.glob(f"{self.directory}/spool/**/[0-9]*.", recursive=True):
            with open(name, "rb") as file:
                found.append(file.read())
        return found


_CYRUS = """
configdirectory: $DIR/conf
defaultpartition: default
partition-default: $DIR/spool
cyrus_user: cyrus
cyrus_group: cyrus
admins: cyrus
lmtpsocket: $DIR/lmtp.sock
autocreate_post: yes
autocreate_quota: 1000
munge8bit: no
maxmessagesize: 20000
virtdomains: userid
defaultdomain: example.net
"""

_CYRUS_SERVICES = """
START {
  recover cmd="$TREE/usr/lib/cyrus/bin/ctl_cyrusdb -r -C $DIR/imapd.conf"
}
SERVICES {
  lmtp cmd="$TREE/usr/lib/cyrus/bin/lmtpd -C $DIR/imapd.conf" listen="$DIR/lmtp.sock" prefork=0
}
EVENTS {
}
"""

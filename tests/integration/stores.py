"""
Dovecot, in a directory of its own on loopback: a mail store behind LMTP, and
who checks passwords for Postfix.
"""

from __future__ import annotations

import glob
import os
import socket
import time
from collections.abc import Sequence

from tests.integration.support import IntegrationCase, needsRoot, program, until

NOBODY = 65534


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
        self.process = self._case.daemon(argv, self.directory, self._greets, "dovecot")

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

    def _greets(self) -> bool:
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(5)
                connection.connect(self.socket)
                return connection.recv(100).startswith(b"220")
        except OSError:
            return False

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

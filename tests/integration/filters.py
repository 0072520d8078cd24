"""
Filters of the milter protocol that operators run, each in a directory of its own on
loopback.
"""

from __future__ import annotations

import os
import subprocess

from tests.integration.scanners import Daemon
from tests.integration.support import IntegrationCase, needsRoot, program


class FilterDaemon(Daemon):
    """
    A filter.

    @ivar endpoint: where it is reached.
    """

    @property
    def endpoint(self) -> str:
        return f"tcp:127.0.0.1:{self.port}"

    @property
    def socket(self) -> str:
        """
        The same in the words of their library.
        """
        return f"inet:{self.port}@127.0.0.1"

    def answers(self) -> bool:
        return self.listens()


class OpenDKIMFilter(FilterDaemon):
    """
    opendkim, which signs for C{client.test}, with its header section as it is.

    @ivar key: the private key, as PEM.
    """

    what = "opendkim"

    def prepare(self) -> None:
        self.program = program("opendkim", "/usr/sbin/opendkim")
        made = subprocess.run(
            ["openssl", "genrsa", "-traditional", "2048"], capture_output=True, check=True
        )
        self.key = made.stdout
        path = self.write("s.private", made.stdout.decode())
        os.chmod(path, 0o600)
        self.config = self.write(
            "opendkim.conf",
            f"Mode s\nDomain client.test\nSelector s\nKeyFile {path}\nSocket {self.socket}\n"
            "Canonicalization simple/simple\nBackground no\nSyslog no\nRequireSafeKeys no\n",
        )

    def argv(self) -> list[str]:
        return [self.program, "-f", "-x", self.config]


class VerifyingOpenDKIM(FilterDaemon):
    """
    opendkim, which verifies.

    @param record: what DNS has for the selector C{s} of C{client.test}.
    """

    what = "opendkim"

    def __init__(self, case: IntegrationCase, record: str) -> None:
        self.record = record
        super().__init__(case)

    def prepare(self) -> None:
        self.program = program("opendkim", "/usr/sbin/opendkim")
        keys = self.write("keys", f"s._domainkey.client.test {self.record}\n")
        self.config = self.write(
            "opendkim.conf",
            f"Mode v\nSocket {self.socket}\nBackground no\nSyslog no\nAuthservID mx.example.net\n"
            f"InternalHosts 192.0.2.1\nAlwaysAddARHeader yes\nTestDNSData file:{keys}\n",
        )

    def argv(self) -> list[str]:
        return [self.program, "-f", "-x", self.config]


class OpenDMARC(FilterDaemon):
    """
    opendmarc, which refuses what fails, and believes an opendkim of this host.
    """

    what = "opendmarc"

    def prepare(self) -> None:
        self.program = program("opendmarc", "/usr/sbin/opendmarc")
        ignored = self.write("ignored", "192.0.2.1\n")
        self.write("records", "_dmarc.client.test v=DMARC1; p=reject\n")
        self.config = self.write(
            "opendmarc.conf",
            f"Socket {self.socket}\nAuthservID mx.example.net\nBackground false\nSyslog false\n"
            f"TrustedAuthservIDs mx.example.net\nRejectFailures true\nIgnoreHosts {ignored}\n"
            f"TestDNSData {self.directory}/records\n",
        )

    def argv(self) -> list[str]:
        return [self.program, "-f", "-c", self.config]


class ClamavMilter(FilterDaemon):
    """
    clamav-milter.

    @param clamd: the port of the daemon that it asks.
    """

    what = "clamav-milter"

    def __init__(self, case: IntegrationCase, clamd: int, infected: str = "Reject") -> None:
        self.clamd = clamd
        self.infected = infected
        super().__init__(case)

    def prepare(self) -> None:
        needsRoot()
        self.program = program("clamav-milter", "/usr/sbin/clamav-milter")
        self.config = self.write(
            "clamav-milter.conf",
            f"MilterSocket {self.socket}\nClamdSocket tcp:127.0.0.1:{self.clamd}\n"
            f"Foreground yes\nOnInfected {self.infected}\nAddHeader Replace\n"
            f"LogFile {self.directory}/clamav-milter.log\nLogInfected Basic\n"
            + ("RejectMsg it carries %v\n" if self.infected == "Reject" else ""),
        )

    def argv(self) -> list[str]:
        return [self.program, "-c", self.config]


class SpamassMilter(FilterDaemon):
    """
    spamass-milter, which refuses from 15 points on, and changes no body.

    @param spamd: the port of the daemon that it asks.
    @param isMeek: whether it leaves the body alone.
    """

    what = "spamass-milter"

    def __init__(self, case: IntegrationCase, spamd: int, isMeek: bool = True) -> None:
        self.spamd = spamd
        self.isMeek = isMeek
        super().__init__(case)

    def prepare(self) -> None:
        self.program = program("spamass-milter", "/usr/sbin/spamass-milter")

    def argv(self) -> list[str]:
        meek = ["-m"] if self.isMeek else []
        asked = ["--", "-d", "127.0.0.1", "-p", str(self.spamd)]
        return [self.program, "-p", self.socket, *meek, "-r", "15", *asked]

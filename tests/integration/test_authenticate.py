"""
Where mail comes from, judged for each recipient: behind a stock Exim that asks for PRDR,
beside opendmarc and rspamd, and with DNS that dies.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import threading
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SkipTest, TestCase

from deferrals.model.address import Mailbox
from deferrals.model.authentication import Authentication
from deferrals.model.envelope import Client
from deferrals.model.status import Status
from deferrals.server.authentication import Authentications
from deferrals.server.dnsnames import DNSNames
from deferrals.server.network import makeResolver
from deferrals.server.spf import SPF
from deferrals.testing import makeEnvelope, makeMessage
from tests import signatures
from tests.integration.daemons import Exim
from tests.integration.milter import Milter
from tests.integration.scanners import Daemon, Rspamd
from tests.integration.support import (
    IntegrationCase,
    Server,
    needsRoot,
    program,
    run,
    until,
)
from tests.model.test_dmarc import MISSING
from tests.ports import freePort
from tests.server.test_verifying import SignedMail, quiet
from tests.zone import Zone

#: A list's server, and one that nobody knows.
LIST, STRANGER = "203.0.113.7", "203.0.113.99"

MAIL = (
    b"From: Boss <boss@client.example>\r\nTo: all@x.example\r\nSubject: money\r\n"
    b"Date: Mon, 23 Nov 2026 12:00:00 +0000\r\nMessage-ID: <1@client.example>\r\n"
    b"\r\nBody of some lines\r\n\r\nand more\r\n"
)

RECORDS: dict[tuple[str, str], list[Any]] = {
    ("client.example", "TXT"): ["v=spf1 ip4:198.51.100.1 -all"],
    ("_dmarc.client.example", "TXT"): ["v=DMARC1; p=reject"],
    ("mail.client.example", "TXT"): ["v=spf1 ip4:198.51.100.1 -all"],
    ("list0.example", "TXT"): [f"v=spf1 ip4:{LIST} -all"],
    ("list1.example", "TXT"): [f"v=spf1 ip4:{LIST} ~all"],
}

CONFIG = """
hostname = "mx.example.net"
bounces = "none"
dns = ["{dns}"]

[[listen]]
endpoint = "haproxy:tcp:0:interface=127.0.0.1"

[policies.colleague]
content = [ {{ use = "authenticate", dmarc = "enforce", {more} }} ]
[policies.careful]
content = [ {{ use = "authenticate", {more} }} ]
[policies.careless]
content = [ {{ use = "authenticate", dmarc = "ignore", {more} }} ]
[policies.subscriber]
content = [
  {{ use = "authenticate", dmarc = "enforce", trusted_forwarders = ["list0.example"], {more} }},
]
[policies.reader]
content = [
  {{ use = "authenticate", dmarc = "enforce", trusted_sealers = ["list0.example"], {more} }},
]
[policies.impatient]
content = [ {{ use = "authenticate", dmarc = "enforce", on_error = "refuse-temporarily", {more} }} ]

{rules}
"""

POLICIES = ("colleague", "careful", "careless", "subscriber", "reader")


def config(zone: Zone, timeout: str = "15s", policies: Sequence[str] = POLICIES) -> str:
    rules = "\n".join(
        f'[[recipients]]\nmatch = "{name}@example.net"\npolicy = "{name}"\n'
        'deliver = { use = "maildir", path = "mail/{local}" }\n'
        for name in policies
    )
    more = f'timeout = "{timeout}"'
    return CONFIG.format(dns="{}:{}".format(*zone.address), more=more, rules=rules)


class Introducer:
    """
    Goes in front of a server, and says from which address a client comes.

    @ivar source: that address.
    @ivar port: where it listens.
    """

    def __init__(self, case: IntegrationCase, target: int) -> None:
        self.source = LIST
        self.port = freePort()
        self._target = target
        self._listening = socket.create_server(("127.0.0.1", self.port))
        case.addCleanup(self._close)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listening.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
                server.sendall(f"PROXY TCP4 {self.source} 192.0.2.9 1025 25\r\n".encode())
                for one, other in ((client, server), (server, client)):
                    threading.Thread(target=_pass, args=(one, other), daemon=True).start()


def _pass(one: socket.socket, other: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while octets := one.recv(65536):
            other.sendall(octets)
        other.shutdown(socket.SHUT_WR)


class AuthenticateCase(IntegrationCase):
    """
    A zone with the keys, and mail that has gone through a list.
    """

    if signatures.MISSING or MISSING:
        skip = signatures.MISSING or MISSING

    def setUp(self) -> None:
        super().setUp()
        self.mail = SignedMail()
        self.mail.resolver.records.update(
            {key: [(text.encode(),) for text in texts] for key, texts in RECORDS.items()}
        )
        self.zone = Zone(records(self.mail))
        self.addCleanup(self.zone.close)

    def begin(self, **more: Any) -> tuple[Server, Introducer]:
        server = self.server(config(self.zone, **more))
        return server, Introducer(self, server.port)

    def listed(self) -> bytes:
        """
        As a list has changed it, and sealed what it has found.
        """
        signed = self.mail.signed(MAIL)
        return self.mail.sealedAs(signed, signed.replace(b"Body", b"[list] Body"))


def records(mail: SignedMail, more: Mapping[tuple[str, str], list[Any]] | None = None) -> Any:
    """
    What the zone has: texts.
    """
    keys = {
        key: [b"".join(one).decode() for one in values]
        for key, values in mail.resolver.records.items()
    }
    return {**keys, **RECORDS, **(more or {})}


def results(copy: bytes) -> str:
    """
    The one C{Authentication-Results} of a copy, unfolded.
    """
    head = copy.partition(b"\r\n\r\n")[0].decode()
    found = re.findall(r"(?mi)^Authentication-Results:(.*(?:\n[ \t].*)*)", head)
    assert len(found) == 1, head
    return " ".join(found[0].split())


class EximTests(AuthenticateCase):
    """
    Exim 4, as Debian builds it, with PRDR.
    """

    def test_fates(self) -> None:
        """
        One message to five recipients with five policies, in one transaction: the list's
        subscriber takes it, the colleague refuses it, and the sender knows both.
        """
        server, front = self.begin()
        exim = Exim(self, f"127.0.0.1::{front.port}")
        forged = b"Authentication-Results: (x) MX.example.NET 1;\r\n dmarc=pass\r\n"
        other = b"Authentication-Results: mx.elsewhere.example; dmarc=pass\r\n"
        data = (forged + other + self.listed()).replace(b"\r\n", b"\n")
        exim.send(data, "list@list0.example", *(f"{name}@example.net" for name in POLICIES))
        refusal = "550 5.7.1 <colleague@example.net> refused: not sent by client.example (DMARC)"
        log = until(lambda: refusal in exim.log() and exim.log(), exim.log())
        for name in POLICIES:
            said = [line for line in log.splitlines() if f"{name}@example.net" in line]
            isRefused = any(refusal in line for line in said)
            self.assertEqual(isRefused, name == "colleague", said)
            self.assertEqual(any("=> " in line or "-> " in line for line in said), not isRefused)
        lines = [line for line in log.splitlines() if "@example.net R=hop" in line]
        self.assertEqual(len(lines), len(POLICIES))
        self.assertTrue(all("PRDR" in line for line in lines), lines)
        self.assertEqual(len({re.findall(r"id (\w{13})", line)[-1] for line in lines}), 1)
        self.copies(server)
        self.assertEqual(self.judged(server), 1)
        asked = self.zone.asked
        self.assertEqual(len(asked), len(set(asked)), asked)

    def copies(self, server: Server) -> None:
        """
        Each copy says what was found, and on whose word it was taken; forged results have
        gone, those of others stay.
        """
        found = (
            "mx.example.net; spf=pass smtp.mailfrom=list0.example; dkim=fail"
            " header.d=client.example header.s=rsa; arc=pass; dmarc=fail"
            " header.from=client.example"
        )
        for name, box, trusted in (
            ("careful", "careful/.Junk", ""),
            ("careless", "careless", ""),
            ("subscriber", "subscriber", " (trusted forwarder list0.example)"),
            ("reader", "reader", " (trusted sealer list0.example)"),
        ):
            until(lambda box=box: server.mail(box), name)
            (copy,) = server.mail(box)
            elsewhere = b"Authentication-Results: mx.elsewhere.example; dmarc=pass\r\n"
            self.assertEqual(copy.count(elsewhere), 1)
            self.assertEqual(results(copy.replace(elsewhere, b"")), found + trusted)
        self.assertEqual(server.mail("colleague"), [])

    def judged(self, server: Server) -> int:
        """
        How often it was found out where the message comes from.
        """
        return len(re.findall(r"spf=pass smtp\.mailfrom=list0\.example; dkim=", server.log))

    def test_stranger(self) -> None:
        """The same message from another server, and with a word changed behind the seal."""
        server, front = self.begin()
        exim = Exim(self, f"127.0.0.1::{front.port}")
        front.source = STRANGER
        changed = self.listed().replace(b"[list]", b"[lisp]").replace(b"\r\n", b"\n")
        exim.send(changed, "list@list0.example", "subscriber@example.net", "reader@example.net")
        for name in ("subscriber", "reader"):
            until(lambda name=name: f"** {name}@example.net" in exim.log(), exim.log())
        self.assertIn("arc=fail", server.log)


class DNSTests(AuthenticateCase):
    """
    DNS that is not there.
    """

    def send(self, front: Introducer, *names: str) -> dict[str, str]:
        dialogue = self.dialogue(front.port)
        dialogue.reply()
        dialogue.say("EHLO mail.list0.example")
        dialogue.say("MAIL FROM:<list@list0.example> PRDR")
        for name in names:
            dialogue.say(f"RCPT TO:<{name}@example.net>")
        dialogue.say("DATA")
        dialogue.socket.sendall(self.listed() + b".\r\n")
        reply = dialogue.reply()
        if not reply.startswith("353"):
            return dict.fromkeys(names, reply)
        return {name: dialogue.reply() for name in names}

    def test_dies(self) -> None:
        """
        A name server that falls silent between two messages: by default the next one is
        accepted and says so, who wants to be sure refuses for now, and all goes on.
        """
        names = ("careful", "impatient")
        server, front = self.begin(timeout="11s", policies=names)
        self.assertEqual([reply[:3] for reply in self.send(front, *names).values()], ["250", "550"])
        before = len(server.mail("careful"))
        self.zone.isSilent = True
        server.kill()
        server.start()
        front = Introducer(self, server.port)
        found = self.send(front, *names)
        self.assertEqual([reply[:3] for reply in found.values()], ["250", "451"], found)
        until(lambda: len(server.mail("careful")) > before, "a copy")
        (copy,) = server.mail("careful")
        self.assertIn("dmarc=temperror", results(copy))
        self.assertIn("not known whose it is", server.log)
        self.zone.isSilent = False
        again = until(lambda: self.answered(front, names), "it knows again")
        self.assertEqual([reply[:3] for reply in again.values()], ["250", "550"])

    def answered(self, front: Introducer, names: Sequence[str]) -> dict[str, str]:
        found = self.send(front, *names)
        return {} if "451" in {reply[:3] for reply in found.values()} else found


@attrs.frozen
class Case:
    """
    A message, and who sends it.

    @ivar author: the domain of C{From}.
    @ivar sender: the domain of the return path; empty for C{<>}.
    @ivar isSigned: whether client.example has signed it.
    @ivar changed: whether it was changed behind that.
    @ivar seals: which lists have sealed it.
    @ivar spoilt: whether it was changed behind the seals.
    """

    author: str = "client.example"
    sender: str = "client.example"
    source: str = "198.51.100.1"
    isSigned: bool = True
    changed: bool = False
    seals: tuple[int, ...] = ()
    spoilt: bool = False

    @property
    def path(self) -> str:
        """
        The return path without brackets.
        """
        return f"a@{self.sender}" if self.sender else ""


#: Policies of authors' domains: below and beside client.example, which signs.
POLICY_RECORDS: dict[tuple[str, str], list[Any]] = {
    ("_dmarc.strict.client.example", "TXT"): ["v=DMARC1; p=reject; adkim=s; aspf=s"],
    ("_dmarc.quarantine.example", "TXT"): ["v=DMARC1; p=quarantine; sp=reject"],
    ("_dmarc.none.example", "TXT"): ["v=DMARC1; p=none; sp=quarantine"],
    ("quarantine.example", "TXT"): ["v=spf1 ip4:198.51.100.1 -all"],
    ("none.example", "TXT"): ["v=spf1 ip4:198.51.100.1 ?all"],
    ("plain.example", "TXT"): ["v=spf1 ip4:198.51.100.1 ~all"],
    ("mail.quarantine.example", "TXT"): ["v=spf1 ip4:198.51.100.1 -all"],
}


def cases() -> Iterator[Case]:
    """
    Some of all that can be.
    """
    yield Case()
    yield Case(changed=True)
    yield Case(isSigned=False, source=STRANGER)
    yield Case(sender="", isSigned=False)
    yield Case(sender="", isSigned=False, source=STRANGER)
    yield Case(sender="list0.example", source=LIST, changed=True)
    yield Case(sender="list0.example", source=LIST, seals=(0,))
    yield Case(sender="list0.example", source=LIST, seals=(0, 1), changed=True)
    yield Case(sender="list0.example", source=LIST, seals=(0, 1), spoilt=True)
    for author in (
        "sub.client.example",
        "strict.client.example",
        "x.strict.client.example",
        "quarantine.example",
        "a.quarantine.example",
        "none.example",
        "a.none.example",
        "plain.example",
        "nothing.example",
    ):
        for sender, source in ((author, "198.51.100.1"), ("list1.example", STRANGER)):
            yield Case(author, sender, source, isSigned=True)
            yield Case(author, sender, source, isSigned=False)
    yield Case("quarantine.example", "mail.quarantine.example", isSigned=False)
    yield Case("quarantine.example", "quarantine.example", STRANGER, isSigned=False)


def octets(case: Case, mail: SignedMail) -> bytes:
    """
    The message as it comes in.
    """
    data = MAIL.replace(b"@client.example>\r\nTo", b"@" + case.author.encode() + b">\r\nTo")
    if case.isSigned:
        data = mail.signed(data)
    if case.changed:
        data = data.replace(b"Body", b"Bodies")
    if case.seals:
        data = mail.sealed(data, *case.seals)
    if case.spoilt:
        data = data.replace(b"and more", b"and less")
    return data


class DifferentialCase(TestCase):
    """
    What others find.
    """

    timeout = 120
    if signatures.MISSING or MISSING:
        skip = signatures.MISSING or MISSING

    #: Where the zone is asked.
    address = ("127.0.0.1", 0)

    def setUp(self) -> None:
        self.mail = SignedMail()
        self.mail.resolver.records.update(
            {key: [(text.encode(),) for text in texts] for key, texts in RECORDS.items()}
        )
        self.zone = Zone(records(self.mail, POLICY_RECORDS), self.address)
        self.addCleanup(self.zone.close)
        resolver = makeResolver(reactor, [self.zone.address])
        names = DNSNames(lambda: resolver, reactor)
        self.checks = Authentications(deferToThread, names, SPF(names, reactor), reactor, Status())

    def find(self, case: Case, data: bytes) -> Deferred[Authentication]:
        envelope = attrs.evolve(
            makeEnvelope(), client=Client(case.source, 25, "mail.client.example")
        )
        sender = Mailbox("a", case.sender) if case.sender else None
        return self.checks.ofMessage(makeMessage(data), attrs.evolve(envelope, sender=sender))


class DMARCRspamd(Rspamd):
    """
    rspamd with all that judges where mail comes from.
    """

    filters = "dkim"
    modules = ("arc", "spf", "dmarc")
    further = ()
    domains = "example\n"
    inOptions = 'local_addrs = ["192.0.2.255/32"];'
    own = """
actions { reject = 1000; add_header = null; greylist = null; }
dkim { check_local = true; check_authed = true; }
spf { check_local = true; check_authed = true; }
arc { check_local = true; check_authed = true; sign_inbound = false; sign_local = false; }
dmarc { }
"""

    def symbols(self, case: Case, data: bytes) -> set[str]:
        """
        What it finds.
        """
        headers = {"IP": case.source, "Helo": "mail.client.example", "From": case.path}
        request = urllib.request.Request(f"{self.url}/checkv2", data, headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return set(json.load(answer)["symbols"])


#: What rspamd calls what we call otherwise.
_SPF = {
    "pass": "R_SPF_ALLOW",
    "fail": "R_SPF_FAIL",
    "softfail": "R_SPF_SOFTFAIL",
    "neutral": "R_SPF_NEUTRAL",
    "none": "R_SPF_NA",
}
_DKIM = {"pass": "R_DKIM_ALLOW", "fail": "R_DKIM_REJECT", "none": "R_DKIM_NA"}
_ARC = {"pass": "ARC_ALLOW", "fail": "ARC_REJECT", "none": "ARC_NA"}
_DMARC = {
    ("pass", "none"): "DMARC_POLICY_ALLOW",
    ("none", "none"): "DMARC_NA",
    ("fail", "none"): "DMARC_POLICY_SOFTFAIL",
    ("fail", "quarantine"): "DMARC_POLICY_QUARANTINE",
    ("fail", "reject"): "DMARC_POLICY_REJECT",
}


class RspamdTests(DifferentialCase):
    """
    rspamd finds the same of the same mail.
    """

    async def test_same(self) -> None:
        """SPF, DKIM, ARC and DMARC of every case."""
        rspamd = await deferToThread(self.rspamd)
        for case in cases():
            data = octets(case, self.mail)
            with quiet():
                found = await self.find(case, data)
            theirs = await deferToThread(rspamd.symbols, case, data)
            assert found.spf is not None and found.dmarc is not None
            wanted = {
                _SPF[found.spf.result.value],
                _DKIM[found.dkim[0].result if found.dkim else "none"],
                _ARC[found.arc.result],
                _DMARC[found.dmarc.result, found.dmarc.policy],
            }
            self.assertEqual(wanted - theirs, set(), (case, theirs))

    def rspamd(self) -> DMARCRspamd:
        return DMARCRspamd(_Keeper(self), "{}:{}".format(*self.zone.address))


class _Keeper(IntegrationCase):
    """
    What a daemon is started by, for another kind of test.
    """

    def __init__(self, case: TestCase) -> None:
        super().__init__()
        self.addCleanup = case.addCleanup

    def runTest(self) -> None:
        """
        Nothing: it is no test.
        """


class OpenDMARC(Daemon):
    """
    opendmarc as Debian builds it, with the zone for its DNS.  It believes the results of
    SPF and DKIM that the message has.
    """

    what = "opendmarc"

    def __init__(self, case: Any, nameserver: str) -> None:
        self._nameserver = nameserver
        super().__init__(case)

    def prepare(self) -> None:
        needsRoot()
        self.program = program("opendmarc")
        if run(["unshare", "--mount", "true"]).returncode != 0:
            raise SkipTest("may not make namespaces")
        resolv = self.write("resolv.conf", f"nameserver {self._nameserver}\n")
        hosts = self.write("hosts", "192.0.2.255\n")
        suffixes = self.write("suffixes", "example\n")
        self.config = self.write(
            "opendmarc.conf",
            f"Socket inet:{self.port}@127.0.0.1\nBackground false\nSyslog false\n"
            f"AuthservID mx.example.net\nTrustedAuthservIDs mx.example.net\n"
            f"IgnoreHosts {hosts}\nPublicSuffixList {suffixes}\nRejectFailures false\n"
            f"PidFile {self.directory}/pid\nDNSTimeout 5\n",
        )
        self.script = self.write(
            "start",
            f"mount --bind {resolv} /etc/resolv.conf\nexec {self.program} -f -c {self.config}\n",
        )

    def argv(self) -> list[str]:
        return ["unshare", "--mount", "sh", "-e", self.script]

    def answers(self) -> bool:
        return self.listens()


class OpenDMARCTests(DifferentialCase):
    """
    opendmarc judges the same.
    """

    def setUp(self) -> None:
        needsRoot()
        number = os.getpid()
        self.address = (f"127.53.{number >> 8 & 255}.{number & 255}", 53)
        super().setUp()

    async def test_same(self) -> None:
        """
        The result, and what is wanted, of every case; but of the null path, for which
        opendmarc believes no field.
        """
        daemon = await deferToThread(OpenDMARC, _Keeper(self), self.zone.address[0])
        for case in (one for one in cases() if one.sender):
            data = octets(case, self.mail)
            with quiet():
                found = await self.find(case, data)
            assert found.dmarc is not None
            said = "; ".join(found.words("mx.example.net")[:-2])
            told = f"Authentication-Results: {said}\r\n".encode() + data
            answer = await deferToThread(self.ask, daemon, case, told)
            field = dict(answer.added).get("Authentication-Results", "")
            match = re.search(r"dmarc=(\w+)(?: \(p=(\w+))?", field)
            assert match is not None, (case, answer)
            self.assertEqual(found.dmarc.result, match[1], (case, field))
            if found.dmarc.result == "fail":
                self.assertEqual(found.dmarc.policy, match[2], (case, field))

    def ask(self, daemon: OpenDMARC, case: Case, data: bytes) -> Any:
        return Milter(daemon.port).judge(data, case.path, ["b@example.net"])

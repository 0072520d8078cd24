"""
The stage C{milter} against the filters that operators run.
"""

from __future__ import annotations

import random
import re
import smtplib
import struct
from collections.abc import Iterable

import dkim

from deferrals.model.dkim import recordOf
from deferrals.model.dkimkeys import newKey, pemOf, privateKey, publicOctets
from deferrals.stages.content.match.findings import EICAR, GTUBE
from tests.integration.daemons import Exim, Postfix
from tests.integration.filters import (
    ClamavMilter,
    OpenDKIMFilter,
    OpenDMARC,
    SpamassMilter,
    VerifyingOpenDKIM,
)
from tests.integration.scanners import Clamd, Spamd, StockRspamd
from tests.integration.scriptedfilter import EditingFilter
from tests.integration.support import crlf, message, takesAll
from tests.integration.test_scanners import ScannerCase, config
from tests.ports import freePort

#: What filters want that could file a message.
MAY = ', may = ["headers", "quarantine"]'


PEOPLE = ("lover", "virus", "fighter", "held")

HELD = '{ use = "maildir", path = "mail/{local}/quarantine" }'


def milter(endpoint: str, more: str = "") -> str:
    """
    The stage, in TOML.
    """
    return f'{{ use = "milter", socket = "{endpoint}"{more} }}'


#: A message with fields of one name, folded ones, and odd ones.
HEAD_OF_CASE = """X-Case: {0}
From: sender@client.test
X-Same: one
Subject: case {0}
x-same: two
 folded\t twice
To: everybody@example.net
X-Same:three
Date: Mon, 23 Nov 2026 12:00:00 +0000
Message-ID: <{0}@client.test>

text
"""


def _cases(chance: random.Random, count: int) -> list[list[bytes]]:
    """
    Changes of header sections, at random.
    """
    names = ("X-Same", "x-same", "X-New", "To")

    def one() -> bytes:
        name = chance.choice(names).encode()
        value = chance.choice((b"a", b"b;\n\tc", b""))
        kind = chance.choice("hiimm")
        if kind == "h":
            return b"h" + name + b"\0" + (value or b"d") + b"\0"
        index = chance.randrange(12) if kind == "i" else chance.randrange(1, 6)
        value = value or (b"d" if kind == "i" else b"")
        return kind.encode() + struct.pack(">L", index) + name + b"\0" + value + b"\0"

    return [[one() for _ in range(chance.randrange(1, 6))] for _ in range(count)]


def _sections(copies: Iterable[bytes]) -> dict[int, list[bytes]]:
    """
    The fields of copies, by their numbers, without what servers put in front.
    """
    found = {}
    for copy in copies:
        fields = re.split(rb"\r\n(?![ \t])", copy.partition(b"\r\n\r\n")[0])
        trace = (b"received:", b"return-path:", b"delivered-to:")
        left = [one for one in fields if not one.lower().startswith(trace)]
        number = re.search(rb"^X-Case: (\d+)\r$", copy, re.M)
        assert number is not None, copy
        found[int(number[1])] = left
    return found


class TellingSpamd(Spamd):
    """
    spamd with the fields that SpamAssassin has by default.
    """

    def prepare(self) -> None:
        super().prepare()
        with open(f"{self.directory}/rules/10_own.cf", "a", encoding="utf-8") as file:
            file.write(
                "add_header all Status _YESNO_, score=_SCORE_ required=_REQD_\n"
                "add_header spam Flag _YESNOCAPS_\n"
            )


class FilterTests(ScannerCase):
    """
    One instance of each filter.
    """

    def test_fates(self) -> None:
        """
        Stock Exim with PRDR: by this stage one recipient refuses, one refuses for now, one
        has its copy, with what the filter adds to it.
        """
        rspamd = StockRspamd(self)
        clamd = Clamd(self)
        clamav, keeping = (
            ClamavMilter(self, clamd.port),
            ClamavMilter(self, clamd.port, "Quarantine"),
        )
        server = self.server(
            config(
                {
                    "fighter": milter(f"tcp:127.0.0.1:{rspamd.milter}"),
                    "waiter": milter(f"tcp:127.0.0.1:{freePort()}"),
                    "lover": milter(clamav.endpoint, MAY),
                    "virus": milter(clamav.endpoint, f'{MAY}, reply = "550 5.7.1 no"'),
                    "held": milter(keeping.endpoint, MAY),
                }
            ).replace("content", f"quarantine = {HELD}\ncontent")
        )
        exim = Exim(self, f"127.0.0.1::{server.port}")
        names = [f"{one}@example.net" for one in ("fighter", "waiter", "lover")]
        exim.send(message("hello", "score-twenty"), "sender@client.test", *names)
        log = exim.log() + server.log
        self.assertRegex(log, r"\*\* fighter@example\.net .*PRDR.*: 550 5\.7\.1 ")
        self.assertRegex(log, r"== waiter@example\.net .*451 4\.3\.0 ")
        self.assertRegex(log, r"[=-]> lover@example\.net .*PRDR")
        (copy,) = server.arrived("lover")
        self.assertIn(b"\r\nX-Virus-Status: Clean\r\n", copy)
        found = self.ask(server, message(EICAR.decode(), "a virus"), *PEOPLE)
        self.assertIn("it carries Test.Eicar", found["lover"], server.log + clamav.log())
        self.assertEqual(found["virus"], found["lover"])
        self.assertEqual(found["fighter"][:3], "250")
        self.assertEqual(found["held"][:3], "250")
        (copy,) = server.arrived("held/quarantine")
        self.assertIn(EICAR, copy)
        self.assertEqual(server.mail("held"), [])
        # It dies in the middle; as soon as it is back, its word counts.
        clamav.kill()
        self.assertEqual(self.ask(server, message("x", "a"), "lover")["lover"][:3], "451")
        clamav.start()
        found = self.ask(server, message(EICAR.decode(), "a virus"), "lover")
        self.assertEqual(found["lover"][:3], "550", server.log)

    def test_signed(self) -> None:
        """opendkim signs a header section as it is: the copy's signature is right."""
        signer = OpenDKIMFilter(self)
        server = self.server(config({"plain": milter(signer.endpoint)}))
        data = message("hello", "folded  and\n\tfolded".replace("\n\t", " "))
        self.assertEqual(self.ask(server, data, "plain")["plain"][:3], "250")
        (copy,) = server.arrived("plain")
        head = copy.partition(b"\r\n\r\n")[0]
        self.assertEqual(head.count(b"\r\nDKIM-Signature:"), 1)
        self.assertIn(b"c=simple/simple", head)
        record = recordOf("rsa", publicOctets(privateKey(signer.key))).encode()
        self.assertTrue(dkim.verify(copy, dnsfunc=lambda name, timeout=5: record))

    def test_chain(self) -> None:
        """
        opendmarc finds what an opendkim in front of it has found: what is signed is taken,
        what is forged is refused, and by nobody else.
        """
        key = newKey("rsa")
        verifier = VerifyingOpenDKIM(self, recordOf("rsa", publicOctets(key)))
        judge = OpenDMARC(self)
        both = f"{milter(verifier.endpoint)}, {milter(judge.endpoint, MAY)}"
        text = config({"judged": both, "trusting": milter(verifier.endpoint)})
        server = self.server(text.replace("content", 'quarantine = "box"\ncontent'))
        forged = message("hello", "forged")
        found = self.ask(server, forged, "judged", "trusting")
        self.assertRegex(found["judged"], r"^550 5\.7\.1 .*DMARC", server.log)
        self.assertEqual(found["trusting"][:3], "250")
        (copy,) = server.arrived("trusting")
        self.assertIn(b"Authentication-Results: mx.example.net; dkim=none", copy)
        data = crlf(forged)
        signature = dkim.sign(data, b"s", b"client.test", pemOf(key))
        signed = (signature + data).replace(b"\r\n", b"\n")
        self.assertEqual(self.ask(server, signed, "judged")["judged"][:3], "250", server.log)
        (copy,) = server.arrived("judged")
        self.assertRegex(copy, rb"Authentication-Results: mx.example.net;\s+dkim=pass")
        self.assertIn(b"dmarc=pass", copy)

    def test_postfix(self) -> None:
        """
        What becomes of a header section is what Postfix makes of it, for the same changes of
        the same filter, which is told the same of it.  A recipient that it refuses at RCPT
        is refused there, or behind the data, and the other one of the conversation is not.
        """
        cases = _cases(random.Random(7), 60)
        filter = EditingFilter(cases)
        self.addCleanup(filter.stop)
        plain = self.server(takesAll())
        milters = f"smtpd_milters = inet:127.0.0.1:{filter.port}"
        postfix = Postfix(self, f"smtp:[127.0.0.1]:{plain.port}", milters)
        stage = milter(f"tcp:127.0.0.1:{filter.port}")
        ours, check = self.server(config({"plain": stage, "bad": stage})), f"check = [{stage}]"
        told: list[dict[int, list[bytes]]] = []
        for port, server, local in ((postfix.port, plain, "all"), (ours.port, ours, "plain")):
            filter.heard = {}
            with smtplib.SMTP("127.0.0.1", port, "client.test") as client:
                for number in range(len(cases)):
                    data = HEAD_OF_CASE.format(number).encode().replace(b"\n", b"\r\n")
                    client.sendmail("a@client.test", [f"{local}@example.net"], data)
            server.arrived(local, len(cases))
            told.append(filter.heard)
        self.assertEqual(told[0], told[1])
        checked = self.server(takesAll().replace("deliver =", f"{check}\ndeliver ="))
        for port in (postfix.port, ours.port, checked.port):
            with smtplib.SMTP("127.0.0.1", port, "client.test") as client:
                client.ehlo()
                client.mail("a@client.test")
                isContent = port == ours.port
                for name, code in (("plain", 250), ("bad", 250 if isContent else 550)):
                    self.assertEqual(client.rcpt(f"{name}@example.net")[0], code)
        self.assertEqual(
            self.ask(ours, message("x", "case 0"), "plain", "bad"),
            {
                "plain": "250 2.1.5 accepts the content",
                "bad": "550 5.7.1 not bad",
            },
        )
        theirs, here = _sections(plain.mail("all")), _sections(ours.mail("plain"))
        for number, edits in enumerate(cases):
            self.assertEqual(theirs[number], here[number], edits)

    def test_spam(self) -> None:
        """spamass-milter, and what it insists on unless it is told not to."""
        spamd = TellingSpamd(self)
        meek, rude = SpamassMilter(self, spamd.port), SpamassMilter(self, spamd.port, False)
        server = self.server(config({"meek": milter(meek.endpoint), "rude": milter(rude.endpoint)}))
        found = self.ask(server, message(GTUBE), "meek", "rude")
        self.assertEqual(found["meek"][:3], "550")
        self.assertEqual(found["rude"][:3], "451")
        self.assertIn("insists on changing more than it may: the body", server.log)
        self.assertEqual(self.ask(server, message("x", "score-five"), "meek")["meek"][:3], "250")
        (copy,) = server.arrived("meek")
        self.assertIn(b"\r\nX-Spam-", copy)

    def test_stopped(self) -> None:
        """
        A filter under SIGSTOP, from the beginning or in the middle of a body that it does
        not read any longer: on_error in its time; when it goes on, its word counts.
        """
        signer = OpenDKIMFilter(self)
        stages = {
            "waiter": milter(signer.endpoint, ", timeout = 1"),
            "skipper": milter(signer.endpoint, ', timeout = 1, on_error = "skip"'),
        }
        server = self.server(config(stages))
        dialogue = self.dialogue(server.port)
        dialogue.reply()
        dialogue.say("EHLO client.test")
        for text, code in (("x\n", "250"), ("y" * 70 * 9 + "\n", "451"), ("z\n", "451")):
            dialogue.say("MAIL FROM:<sender@client.test> PRDR")
            dialogue.say(*[f"RCPT TO:<{local}@example.net>" for local in stages], "DATA")
            dialogue.socket.sendall(crlf(message(text * 5000)) + b"\r\n.\r\n")
            reply = dialogue.reply()
            if reply.startswith("353"):
                reply, _, _ = (dialogue.reply() for _ in range(3))
            self.assertEqual(reply[:3], code, server.log)
            signer.freeze()
        dialogue.close()
        self.assertEqual(len(server.arrived("skipper", 3)), 3)
        self.assertIn("not scanned by milter", server.log)
        signer.thaw()
        found = self.ask(server, message("back"), *stages)
        self.assertEqual({reply[:3] for reply in found.values()}, {"250"})
        (copy,) = [one for one in server.arrived("waiter", 2) if b"back" in one]
        self.assertIn(b"\r\nDKIM-Signature: ", copy)
        self.assertNotIn("Traceback", server.log)

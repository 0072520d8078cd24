"""
The configurations of the documentation's recipes are good, and do what the
pages say.
"""

from __future__ import annotations

import contextlib
import csv
import os
import re
import sqlite3
from typing import Any

import attrs
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from deferrals.app.service import checkConfig
from deferrals.app.stages import StageSet
from deferrals.config.tables import Config, load
from deferrals.interfaces import IDeliveryStage
from deferrals.model.address import Mailbox
from deferrals.model.alias import Alias, Member
from deferrals.model.envelope import Client, Recipient
from deferrals.model.verdict import Accept, Defer, Expand, Refuse
from deferrals.plugins.finding import stagePlugins
from deferrals.smtp.server.expansion import Expansion
from deferrals.testing import FakeServices, makeEnvelope

DOCS = os.path.join(os.path.dirname(os.path.dirname(__file__)), "docs")

PLACES = {
    "content =": '[[listen]]\nendpoint = "tcp:25"\n[policies.a]\n%s',
    "[policies.": '[[listen]]\nendpoint = "tcp:25"\n%s',
    "check =": '[[listen]]\nendpoint = "tcp:25"\n[policies.a]\n[[recipients]]\nmatch = "*"\n'
    'policy = "a"\ndeliver = { use = "discard" }\n%s',
    "[[recipients]]": '[[listen]]\nendpoint = "tcp:25"\n[policies.normal]\n[policies.strict]\n'
    '[deliveries.box]\nuse = "discard"\n%s',
}


@attrs.frozen
class AnyLMTP:
    """
    As much of the delivery C{lmtp} as the recipes use.
    """

    endpoint: str


@attrs.frozen
class LMTPPlugin:
    """
    Stands in for it where it is not there.
    """

    name: str = "lmtp"
    stage: Any = IDeliveryStage
    settings: Any = AnyLMTP

    def build(self, settings: AnyLMTP, services: Any) -> Any:
        return object()


def page(*path: str) -> str:
    with open(os.path.join(DOCS, *path), encoding="utf-8") as file:
        return file.read()


def blocks(text: str, kind: str) -> list[str]:
    """
    The parts of a page in this language.
    """
    return re.findall(rf"```{kind}\n(.*?)```", text, re.S)


class RecipeCase(SynchronousTestCase):
    """
    Configurations from pages, in a directory of their own.
    """

    def setUp(self) -> None:
        self.directory = self.mktemp()
        os.mkdir(self.directory)
        path = os.path.join(self.directory, "srs.secret")
        with open(path, "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            file.write("a secret of the recipes\n")
        self.plugins = {(IDeliveryStage, "lmtp"): LMTPPlugin(), **stagePlugins()}

    def load(self, text: str) -> Config:
        path = os.path.join(self.directory, "mx.toml")
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        config = load(path, self.plugins)
        checkConfig(config, Clock())
        return config


class PagesTests(RecipeCase):
    """
    Every example loads.
    """

    def test_recipes(self) -> None:
        """Each recipe begins with a configuration that is complete."""
        names = sorted(os.listdir(os.path.join(DOCS, "recipes")))
        known = [
            "authors",
            "company",
            "consent",
            "family",
            "filters",
            "let-in",
            "lists",
            "mailing-lists",
            "own-scripts",
            "refuse-or-junk",
            "tenants",
            "thresholds",
        ]
        self.assertEqual(names, [f"{name}.md" for name in known])
        for name in names:
            whole, *others = blocks(page("recipes", name), "toml")
            self.load(whole)
            for other in others:
                self.load(PLACES["check ="] % other)

    def test_named(self) -> None:
        """Each is named where all of them are."""
        there = {f"recipes/{name}" for name in os.listdir(os.path.join(DOCS, "recipes"))}
        named = set(re.findall(r"\((recipes/[a-z-]+\.md)", page("configuration.md")))
        self.assertEqual(named, there)

    def test_stages(self) -> None:
        """So do the examples on the pages of the stages."""
        scanners = ("rspamd", "spamassassin", "clamav", "authenticate", "milter", "match", "sieve")
        for name in (*scanners, "users", "aliases", "dnsbl"):
            for block in blocks(page("stages", f"{name}.md"), "toml"):
                (place,) = [text for start, text in PLACES.items() if block.startswith(start)]
                self.load(place % block)


class TablesTests(RecipeCase):
    """
    The recipes' tables of users.
    """

    def prepare(self, name: str) -> str:
        """
        A recipe's configuration and its tables.
        """
        text = page("recipes", name)
        config = self.load(blocks(text, "toml")[0].replace("/etc/mail/", ""))
        self.services = services = FakeServices(self.directory)
        services.connect = lambda text: None  # type: ignore[method-assign]
        self.house = StageSet(config, services)
        self.house.show()
        return text

    def fill(self, name: str, script: str) -> None:
        with contextlib.closing(sqlite3.connect(os.path.join(self.directory, name))) as database:
            database.executescript(script)

    def judge(self, address: str, sender: str = "a@client.example") -> Any:
        recipient = Recipient(Mailbox.parse(address))
        said = self.house.envelope.judgeRecipient(makeEnvelope(sender), recipient)
        return self.successResultOf(said) if isinstance(said, Deferred) else said

    def own(self, address: str) -> dict[str, Any]:
        verdict = self.judge(address)
        self.assertIsInstance(verdict, Defer)
        return dict(verdict.route.overrides)

    def write(self, name: str, text: str) -> None:
        with open(os.path.join(self.directory, name), "w", encoding="utf-8") as file:
            file.write(text)

    def members(self, address: str) -> dict[str, str]:
        """
        Whom an address stands for, each with the delivery, or the refusal.
        """
        envelope, named = makeEnvelope(), Recipient(Mailbox.parse(address))
        verdict = self.judge(address)
        if isinstance(verdict, Expand):
            expansion = Expansion(self.house.envelope, envelope, named, verdict)
            verdict = self.successResultOf(Deferred.fromCoroutine(expansion.find()))
        found = {}
        for one in verdict.members if isinstance(verdict, Alias) else [Member(named, verdict)]:
            said = one.verdict
            refused = isinstance(said, Refuse)
            found[str(one.recipient)] = said.reply.enhanced if refused else said.route.delivery
        return found

    def test_family(self) -> None:
        """Names that stand for several, another domain, who has moved, who is not there."""
        text = self.prepare("family.md")
        self.write("family", blocks(text, "text")[0])
        people = ("anna", "carl", "ben", "dora")
        self.write("people", "".join(f"{name}@example.net: {{}}\n" for name in people))
        family = self.members("family@example.net")
        self.assertEqual(list(family), [f"{name}@example.net" for name in people])
        self.assertEqual(self.members("family@family.example"), family)
        self.assertEqual(set(family.values()), {"home"})
        anna = {"anna+school@example.net": "home"}
        self.assertEqual(self.members("anna+school@example.net"), anna)
        self.assertEqual(self.members("anna+school@family.example"), anna)
        self.assertEqual(self.members("eve@example.net"), {"eve@university.example": "onwards"})
        self.assertEqual(self.members("nobody@example.net"), {"nobody@example.net": "5.1.1"})
        self.assertEqual(self.members("x@elsewhere.example"), {"x@elsewhere.example": "5.7.1"})

    def test_company(self) -> None:
        """Groups from a file, people and what they forward from SQL."""
        self.fill("people.db", blocks(self.prepare("company.md"), "sql")[0])
        self.write("groups", "sales: anna, carl, agency@example.org, nobody\nall: sales, anna\n")
        found = {
            "anna@example.net": "dovecot",
            "agency@example.org": "onwards",
            "nobody@example.net": "5.1.1",
            "carl@home.example": "onwards",
            "carl@example.net": "dovecot",
        }
        self.assertEqual(self.members("sales@example.net"), found)
        self.assertEqual(self.members("all@example.net"), found)
        self.assertEqual(self.judge("anna@example.net").route.policy, "careful")

    def test_mailingLists(self) -> None:
        """Lists, people elsewhere, and what the lists' host sends."""
        self.write("people", blocks(self.prepare("mailing-lists.md"), "text")[0])
        self.assertEqual(self.members("office@example.net"), {"anna@company.example": "onwards"})
        self.assertEqual(self.members("x@elsewhere.example"), {"x@elsewhere.example": "5.7.1"})
        host = makeEnvelope("news-bounces@lists.example.net", client=Client("10.0.0.7"))
        recipient = Recipient(Mailbox.parse("x@elsewhere.example"))
        verdict = self.house.envelope.judgeRecipient(host, recipient)
        assert isinstance(verdict, Accept)
        self.assertEqual(verdict.route and verdict.route.delivery, "senders")
        own = Mailbox.parse("news-bounces@lists.example.net")
        self.assertEqual(self.house.reversePath(own), own)
        other = self.house.reversePath(Mailbox.parse("a@client.example"))
        self.assertEqual(other.domain, "example.net")

    def test_thresholds(self) -> None:
        """Thresholds from SQL, and none where there are none."""
        text = self.prepare("thresholds.md")
        self.fill("users.db", blocks(text, "sql")[0])
        self.check()

    def check(self) -> None:
        self.assertEqual(self.own("Strict@example.net"), {"refuse_score": 4.0, "mark_score": 2.0})
        self.assertEqual(self.own("normal@example.net"), {})
        self.assertEqual(self.own("everything@example.net"), {"spam_filter": 0.0})
        self.assertEqual(self.judge("nobody@example.net").reply.enhanced, "5.1.1")

    def test_thresholdsFromFile(self) -> None:
        """The file with commas, as sqlite3 imports it: text in every column."""
        text = self.prepare("thresholds.md")
        lines = text.partition("## From a file")[2].partition("```text\n")[2].partition("```")[0]
        head, *rows = csv.reader(lines.splitlines())
        self.fill("users.db", f"CREATE TABLE users ({', '.join(f'{name} TEXT' for name in head)})")
        with sqlite3.connect(os.path.join(self.directory, "users.db")) as database:
            database.executemany("INSERT INTO users VALUES (?, ?, ?, ?)", rows)
        database.close()
        self.check()

    def test_tenants(self) -> None:
        """A tenant's policy, a mailbox's threshold, and nobody from anywhere else."""
        self.fill("mailboxes.db", blocks(self.prepare("tenants.md"), "sql")[0])
        anna, boss = self.judge("anna@law.example"), self.judge("boss@law.example")
        self.assertEqual((anna.route.policy, anna.route.overrides), ("careful", ()))
        self.assertEqual(boss.route.overrides, (("refuse_score", 4.0),))
        info = self.judge("info@shop.example")
        self.assertEqual(
            (info.route.policy, info.route.overrides), ("normal", (("refuse_score", 10.0),))
        )
        friend = self.judge("info@shop.example", "x@supplier.example").route.overrides
        self.assertIn(("spam_filter", 0.0), friend)
        foe = self.judge("boss@law.example", "x@ads.example")
        self.assertEqual((type(foe), foe.reply.enhanced), (Refuse, "5.7.1"))
        self.assertEqual(self.judge("old@gone.example").reply.enhanced, "5.1.6")
        for address in ("nobody@law.example", "anna@elsewhere.example"):
            self.assertEqual(self.judge(address).reply.code, 550)
        postmaster = self.successResultOf(
            maybeDeferred(
                self.house.envelope.judgeRecipient,
                makeEnvelope(),
                Recipient(Mailbox("postmaster", "")),
            )
        )
        self.assertIsInstance(postmaster, Accept)

    def test_authors(self) -> None:
        """Whom each recipient trusts."""
        self.fill("authors.db", blocks(self.prepare("authors.md"), "sql")[0])
        self.assertEqual(
            self.own("anna@example.net"), {"trusted_forwarders": "lists.example.com 192.0.2.0/24"}
        )
        self.assertEqual(self.own("carl@example.net"), {})
        self.assertEqual(self.judge("info@example.net").route.policy, "careful")
        self.assertEqual(self.own("abuse@example.net"), {"dmarc": "ignore"})

    def test_letIn(self) -> None:
        """Whose filter a recipient may let a sender past, and how often it is told."""
        self.fill("people.db", blocks(self.prepare("let-in.md"), "sql")[0])
        for name, digest, admits in (
            ("anna", {"digest": "daily"}, True),
            ("boris", {"digest": "weekly"}, True),
            ("chief", {}, False),
            ("c", {}, True),
        ):
            address = f"{name}@example.net"
            self.assertEqual(self.own(address), digest)
            lifted = self.services.admissions.lifted[self.judge(address).route.policy]
            self.assertEqual("rspamd" in lifted, admits)
            self.assertNotIn("clamav", lifted)

    def test_consent(self) -> None:
        """A recipient that has agreed, and has not withdrawn, is under another policy."""
        self.fill("consent.db", blocks(self.prepare("consent.md"), "sql")[0])
        for name, policy in (("anna", "agreed"), ("boris", "everything"), ("c", "everything")):
            self.assertEqual(self.judge(f"{name}@example.net").route.policy, policy, name)
        self.assertEqual(self.own("anna@example.net"), {"refuse_score": 5.0})

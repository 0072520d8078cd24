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
from twisted.internet.defer import maybeDeferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from deferrals.app.service import checkConfig
from deferrals.app.stages import StageSet
from deferrals.config.tables import Config, load
from deferrals.interfaces import IDeliveryStage
from deferrals.model.address import Mailbox
from deferrals.model.envelope import Recipient
from deferrals.model.verdict import Accept, Defer, Refuse
from deferrals.plugins.finding import stagePlugins
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
        self.assertEqual(names, ["consent.md", "refuse-or-junk.md", "tenants.md", "thresholds.md"])
        for name in names:
            whole, *others = blocks(page("recipes", name), "toml")
            self.load(whole)
            for other in others:
                self.load(PLACES["check ="] % other)

    def test_stages(self) -> None:
        """So do the examples on the pages of the stages."""
        for name in ("rspamd", "spamassassin", "clamav", "match", "users"):
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
        config = self.load(blocks(text, "toml")[0])
        services = FakeServices(self.directory)
        services.connect = lambda text: None  # type: ignore[method-assign]
        self.house = StageSet(config, services)
        return text

    def fill(self, name: str, script: str) -> None:
        with contextlib.closing(sqlite3.connect(os.path.join(self.directory, name))) as database:
            database.executescript(script)

    def judge(self, address: str, sender: str = "a@client.example") -> Any:
        recipient = Recipient(Mailbox.parse(address))
        return self.successResultOf(
            self.house.envelope.judgeRecipient(makeEnvelope(sender), recipient)
        )

    def own(self, address: str) -> dict[str, Any]:
        verdict = self.judge(address)
        self.assertIsInstance(verdict, Defer)
        return dict(verdict.route.overrides)

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

    def test_consent(self) -> None:
        """A recipient that has agreed, and has not withdrawn, is under another policy."""
        self.fill("consent.db", blocks(self.prepare("consent.md"), "sql")[0])
        for name, policy in (("anna", "agreed"), ("boris", "everything"), ("c", "everything")):
            self.assertEqual(self.judge(f"{name}@example.net").route.policy, policy, name)
        self.assertEqual(self.own("anna@example.net"), {"refuse_score": 5.0})

# ruff: noqa: E501
"""
The configuration, and what it says when it is wrong.
"""

from __future__ import annotations

import os
import tomllib
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from deferrals.app.service import checkConfig
from deferrals.app.services import Services
from deferrals.app.stages import StageSet, deliveryNames
from deferrals.config.tables import DEFAULT, Config, load
from deferrals.errors import ConfigError
from deferrals.interfaces import IContentStage, IDeliveryStage
from deferrals.model.address import Mailbox
from deferrals.model.envelope import Recipient
from deferrals.model.settings import parseOctets, parseSeconds
from deferrals.model.verdict import Accept, Defer, Refuse
from deferrals.plugins.finding import stagePlugins
from deferrals.testing import FakeServices, makeEnvelope

LISTEN = '[[listen]]\nendpoint = "tcp:2525"\n'


class ConfigCase(SynchronousTestCase):
    """
    Reads configurations.
    """

    def load(self, text: str) -> Config:
        self.path = self.mktemp()
        with open(self.path, "w", encoding="utf-8") as file:
            file.write(text)
        return load(self.path, stagePlugins())

    def problems(self, text: str) -> list[str]:
        error = self.assertRaises(ConfigError, self.load, text)
        for line in str(error).splitlines():
            self.assertTrue(line.startswith(f"{self.path}: "), line)
        return [f"{key}: {expected}" for key, expected in error.problems]


class LoadTests(ConfigCase):
    """
    L{load}.
    """

    def test_documented(self) -> None:
        """The example of the reference is good, and means what it says."""
        path = os.path.join(os.path.dirname(__file__), "..", "docs", "configuration.md")
        with open(path, encoding="utf-8") as file:
            text = file.read().partition("```toml\n")[2].partition("```")[0]
        config = self.load(text)
        self.assertEqual(config.hostname, "mx.example.net")
        self.assertEqual(
            [s.plugin.name for s in config.policies["strict"].content], ["match", "http"]
        )
        self.assertEqual(config.recipients[0].match, "postmaster@example.net")

    def test_default(self) -> None:
        """The built-in default is good, safe, and relays nothing."""
        config = load(None, stagePlugins())
        (listener,) = config.listen
        self.assertIn("interface=127.0.0.1", listener.endpoint)
        self.assertEqual(config.stateDir, os.path.abspath("deferrals-state"))
        house = StageSet(config, Services(Clock(), "mx", "", ""))

        def judge(address: str) -> Any:
            return house.envelope.judge(makeEnvelope(), Recipient(Mailbox.parse(address)))

        self.assertIsInstance(judge("postmaster@localhost"), Accept)
        self.assertIsInstance(judge("you@localhost"), Defer)
        self.assertEqual(judge("a@example.org").reply.enhanced, "5.7.1")
        tomllib.loads(DEFAULT)

    def test_paths(self) -> None:
        """Paths are relative to the file."""
        config = self.load(LISTEN)
        self.assertEqual(
            config.stateDir, os.path.join(os.path.dirname(os.path.abspath(self.path)), "state")
        )

    def test_wrong(self) -> None:
        """File, key and expectation of whatever is wrong."""
        for text, wanted in (
            ("", "listen: is missing"),
            ("listen = []", "listen: at least one [[listen]] table"),
            ("listen = 3", "listen: a table or a list: not what stands there"),
            (
                f"{LISTEN}protocol = 'pop3'",
                'listen[0].protocol: expected one of "smtp", "submission", "lmtp"',
            ),
            (
                f"{LISTEN}colour = 1",
                "listen[0].colour: no such key here; there are: auth, auth_without_tls, bare_lf,"
                " certificate, delivery_deadline, endpoint, enumerate, greet_delay, key, mixed, mixed_fallback,"
                " protocol, proxies, retry_limit, tls, withhold, xclient",
            ),
            (
                f"{LISTEN}withhold = ['PIPELINING']",
                "listen[0].withhold: expected some of 8BITMIME, BINARYMIME, CHUNKING,",
            ),
            (
                f"reply_deadline = 60\n{LISTEN}",
                "reply_deadline: expected more than 0 and at most 55 seconds",
            ),
            (f"reply_deadline = 'soon'\n{LISTEN}", "reply_deadline: expected a time span"),
            (
                f"consolidation_window = 50\n{LISTEN}",
                "consolidation_window: less than reply_deadline",
            ),
            (f"max_judging = 1.5\n{LISTEN}", "max_judging: expected a whole number"),
            (f"max_judging = true\n{LISTEN}", "max_judging: expected a whole number"),
            (f"hostname = 'not a name'\n{LISTEN}", "hostname: expected bad domain"),
            (f"{LISTEN}[limits]\nmessage_size = '10X'", "limits.message_size: expected a size"),
            (
                f"{LISTEN}[limits]\nheader_size = '1M'",
                "limits.header_size: expected more than 0 and at most 256K",
            ),
            (f"{LISTEN}[policies]\na = 1", "policies.a: a table or a list: not what stands there"),
            (
                f"{LISTEN}[policies.a]\nreply = '550 no'",
                "policies.a.reply: expected no reply, unless",
            ),
            (
                f"{LISTEN}[policies.a]\nenvelope = 'refuse'\nreply = '250 ok'",
                "policies.a.reply: expected a reply that refuses",
            ),
            (
                f"{LISTEN}[policies.a]\nenvelope = 'accept'\ncontent = [{{use = 'match', rules = [{{test = 'gtube'}}]}}]",
                "policies.a.content: expected no content stages",
            ),
            (
                f"{LISTEN}[policies.a]\ncontent = [{{use = 'magic'}}]",
                'policies.a.content[0]: expected a table whose "use" is one of:',
            ),
            (
                f"{LISTEN}[policies.a]\ncontent = [{{url = 'x'}}]",
                "policies.a.content[0]: expected a table such as",
            ),
            (
                f"{LISTEN}[policies.a]\ncontent = [{{use = 'http'}}]",
                "policies.a.content[0].url: is missing",
            ),
            (
                f"{LISTEN}[policies.a]\ncontent = [{{use = 'http', url = 'ftp://x'}}]",
                "policies.a.content[0].url: expected an http:// or https:// URL",
            ),
            (
                f"{LISTEN}[policies.a]\ncontent = [{{use = 'match', rules = []}}]",
                "policies.a.content[0].rules: expected at least one rule",
            ),
            (
                f"{LISTEN}[policies.a]\ncontent = [{{use = 'match', rules = [{{test = 'gtube', reply = 'no'}}]}}]",
                "policies.a.content[0].rules[0].reply: expected a reply such as",
            ),
            (
                f"{LISTEN}[policies.a]\n[[recipients]]\nmatch = 'x'\npolicy = 'a'",
                "recipients[0].match: expected user@domain",
            ),
            (
                f"{LISTEN}[[recipients]]\nmatch = '*@x.y'\npolicy = 'a'",
                "recipients[0].policy: the name of a policy (none there)",
            ),
            (
                f"{LISTEN}[policies.a]\n[[recipients]]\nmatch = '*@x.y'\npolicy = 'a'",
                "recipients[0].deliver: a delivery, since its policy may accept",
            ),
            (
                f"{LISTEN}[policies.a]\n[[recipients]]\nmatch = '*@x.y'\npolicy = 'a'\ndeliver = {{use = 'match'}}",
                'recipients[0].deliver: expected a table whose "use" is one of:',
            ),
            (
                f"{LISTEN}[policies.a]\n[[recipients]]\nmatch = '*@x.y'\npolicy = 'a'\ndeliver = {{use = 'maildir', path = '{{user}}'}}",
                "recipients[0].deliver.path: expected a path",
            ),
            (
                f"{LISTEN}[policies.a]\n[[recipients]]\nmatch = '*@x.y'\npolicy = 'a'\ndeliver = 'b'",
                "recipients[0].deliver: the name of a delivery (none there)",
            ),
            (
                f"{LISTEN}[deliveries.'a b']\nuse = 'discard'",
                "deliveries: expected names of letters",
            ),
            (
                f"{LISTEN}protocol = 'submission'\nmixed = 'split'",
                "listen[0].mixed: never split for submission",
            ),
            (
                f"{LISTEN}protocol = 'submission'",
                "listen[0].tls: TLS, or auth_without_tls: no client could log in",
            ),
            (
                f"{LISTEN}protocol = 'submission'\nmixed = 'retry'",
                "listen[0].mixed: never retry for submission",
            ),
            (
                f"{LISTEN}mixed = 'file'\n[policies.p]\n",
                'policies.p.quarantine: a delivery: listen[0].mixed = "file" may have to file',
            ),
            (
                f"{LISTEN}[policies.p]\nquarantine = 'q'",
                "policies.p.quarantine: the name of a delivery (none there)",
            ),
            (
                f"{LISTEN}[policies.p]\nenvelope = 'accept'\nquarantine = {{ use = 'discard' }}",
                "policies.p.quarantine: expected no quarantine, unless",
            ),
            (f"dns = ['here']\n{LISTEN}", "dns: expected addresses of DNS servers"),
            (f"{LISTEN}retry_limit = 0", "listen[0].retry_limit: expected more than 0"),
        ):
            found = self.problems(text)
            self.assertTrue(found[0].startswith(wanted), f"{text!r}\n{found[0]!r}\n{wanted!r}")

    def test_all(self) -> None:
        """All problems are told at once."""
        self.assertEqual(len(self.problems("a = 1\nmax_judging = 0\nhostname = 3\n")), 3)

    def test_openRelay(self) -> None:
        """An open relay is not to be had by accident (design, section 8)."""
        head = LISTEN + '[policies.open]\nenvelope = "accept"\n[deliveries.out]\nuse = "mx"\n'
        rule = '[[recipients]]\nmatch = "*"\npolicy = "open"\n'
        for lines in (
            'deliver = "out"',
            'deliver = { use = "smtp", endpoint = "tcp:hub.example:25" }',
            'deliver = "out"\nallow = ["10.0.0.0/8", "0.0.0.0/0"]',
        ):
            (problem,) = self.problems(head + rule + lines)
            self.assertTrue(problem.startswith("recipients[0].allow: the clients"), problem)
            self.assertIn("open relay", problem)
        self.assertEqual(
            self.problems(head + rule + 'deliver = "out"\nallow = []'),
            [
                'recipients[0].allow: expected "authenticated", addresses, networks;'
                " without any, no client is meant"
            ],
        )
        for lines in (
            'deliver = "out"\nallow = ["authenticated"]',
            'deliver = { use = "discard" }',
        ):
            self.load(head + rule + lines)
        self.load(head + rule.replace('"*"', '"*@example.net"') + 'deliver = "out"')

    def test_submission(self) -> None:
        """The set-ups of docs/submission.md: through a smarthost, and to MX hosts."""
        path = os.path.join(os.path.dirname(__file__), "..", "docs", "submission.md")
        with open(path, encoding="utf-8") as file:
            blocks = [b.partition("```")[0] for b in file.read().split("```toml\n")[1:]]
        for block, name in zip(blocks[1:3], ("smtp", "mx"), strict=True):
            config = self.load(blocks[0] + block)
            outward = config.recipients[-1]
            assert not isinstance(outward.deliver, str) and outward.deliver is not None
            self.assertEqual(outward.deliver.plugin.name, name)
            self.assertEqual(outward.allow, ("authenticated", "192.0.2.0/24"))

    def test_unreadable(self) -> None:
        """A file that is not there, or no TOML, is said so."""
        error = self.assertRaises(ConfigError, load, "/nonexistent/file", stagePlugins())
        self.assertIn("/nonexistent/file: cannot be read", str(error))
        self.assertIn("not TOML", self.problems("a = ")[0])

    def test_endpoint(self) -> None:
        """An endpoint that is none is found before anything listens."""
        from twisted.internet import reactor

        config = self.load('[[listen]]\nendpoint = "nonsense:25"\n')
        error = self.assertRaises(ConfigError, checkConfig, config, reactor)
        self.assertIn("listen[0].endpoint: expected a server endpoint", str(error))

    def test_hostname(self) -> None:
        """A name that was given is taken as it is."""
        self.assertEqual(
            self.load(f"hostname = 'MX.example.net'\n{LISTEN}").hostname, "MX.example.net"
        )


class UnitTests(SynchronousTestCase):
    """
    Numbers with a unit.
    """

    def test_seconds(self) -> None:
        """Time spans."""
        for text, seconds in (
            (5, 5),
            (0.5, 0.5),
            ("5m", 300),
            ("1h 30m", 5400),
            ("5d", 432000),
            ("1.5s", 1.5),
        ):
            self.assertEqual(parseSeconds(text), seconds)
        for bad in ("", "5", "m", -1, True, None, "5 m", [5]):
            self.assertRaises(ValueError, parseSeconds, bad)

    def test_octets(self) -> None:
        """Sizes."""
        for text, octets in ((5, 5), ("5", 5), ("5K", 5120), ("1M", 1 << 20), ("2G", 2 << 30)):
            self.assertEqual(parseOctets(text), octets)
        for bad in ("", "K", -1, True, None, "5k", 1.5):
            self.assertRaises(ValueError, parseOctets, bad)


class HouseTests(ConfigCase):
    """
    What is built from a configuration.
    """

    RULES = """
[policies.a]
content = [ { use = "match", rules = [ { test = "gtube" } ] } ]
[policies.b]
content = [ { use = "match", rules = [ { test = "gtube" } ] } ]
[policies.no]
envelope = "refuse"
reply = "550 5.1.1 moved away"
[[recipients]]
match = "a@x.example"
policy = "a"
deliver = { use = "discard" }
[[recipients]]
match = "b@x.example"
policy = "b"
deliver = { use = "discard" }
[[recipients]]
match = "*@x.example"
policy = "no"
"""

    def house(self, former: StageSet | None = None) -> StageSet:
        return StageSet(self.load(LISTEN + self.RULES), Services(Clock(), "mx", "", ""), former)

    def judge(self, house: StageSet, address: str) -> Any:
        recipient = Recipient(Mailbox.parse(address))
        verdict = house.envelope.judge(makeEnvelope(), recipient)
        if isinstance(verdict, Refuse):
            return verdict
        routed = Recipient(recipient.address, route=verdict.route)
        return house.content.cohort(routed, verdict)

    def test_sameSettings(self) -> None:
        """Two policies that say the same are one cohort, whatever their names."""
        house = self.house()
        self.assertEqual(self.judge(house, "a@x.example"), self.judge(house, "b@x.example"))
        self.assertEqual(len({id(d) for d in house.deliveries.values()}), 1)

    def test_refuse(self) -> None:
        """A policy that refuses has its own reply."""
        verdict = self.judge(self.house(), "c@x.example")
        self.assertEqual(str(verdict.reply), "550 5.1.1 moved away")

    def test_namedDelivery(self) -> None:
        """Several rules share a delivery by its name."""
        config = self.load(
            LISTEN + "[policies.a]\n[deliveries.store]\nuse = 'discard'\n"
            "[[recipients]]\nmatch = '*@x.y'\npolicy = 'a'\ndeliver = 'store'\n"
            "[[recipients]]\nmatch = '*@z.y'\npolicy = 'a'\ndeliver = 'store'\n"
        )
        house = StageSet(config, Services(Clock(), "mx", "", ""))
        self.assertEqual(list(house.deliveries), ["store"])

    def test_reload(self) -> None:
        """A reload takes over the stages whose settings are the same."""
        first = self.house()
        second = self.house(first)
        self.assertEqual(self.judge(first, "a@x.example"), self.judge(second, "a@x.example"))

    def test_deliveryJudges(self) -> None:
        """A delivery that can judge at RCPT TO is asked there: here, a mailbox that is not there."""
        os.mkdir("boxes")
        config = self.load(
            LISTEN + '[policies.open]\nenvelope = "accept"\n[[recipients]]\n'
            'match = "*@example.net"\npolicy = "open"\n'
            'deliver = { use = "maildir", path = "boxes/{local}", create = false }\n'
        )
        services = FakeServices(os.getcwd())
        house = StageSet(config, services)
        verdict = self.successResultOf(
            house.envelope.judge(makeEnvelope(), Recipient(Mailbox.parse("a@example.net")))
        )
        self.assertEqual((verdict.reply.code, verdict.reply.enhanced), (550, "5.1.1"))

    def test_names(self) -> None:
        """The spool remembers a delivery by what its rule matches."""
        again = '[[recipients]]\nmatch = "a@x.example"\npolicy = "no"\n'
        config = self.load(LISTEN + self.RULES + again)
        self.assertEqual(
            deliveryNames(config.recipients),
            ["a@x.example", "b@x.example", "*@x.example", "a@x.example#2"],
        )


class PluginTests(SynchronousTestCase):
    """
    The stages that come with the server.
    """

    def test_builtin(self) -> None:
        """They are found by interface and name, and their settings are attrs classes."""
        found = stagePlugins()
        self.assertIn((IContentStage, "match"), found)
        self.assertIn((IDeliveryStage, "maildir"), found)
        for plugin in found.values():
            self.assertTrue(hasattr(plugin.settings, "__attrs_attrs__"), plugin.name)

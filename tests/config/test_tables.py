# ruff: noqa: E501
"""
The configuration, and what it says when it is wrong.
"""

from __future__ import annotations

import os
import re
import tomllib
from typing import Any

import attrs
from twisted.internet.task import Clock

from deferrals.app.service import checkConfig
from deferrals.app.stages import StageSet
from deferrals.config.tables import DEFAULT, load
from deferrals.errors import ConfigError
from deferrals.interfaces import IContentStage
from deferrals.model.address import Mailbox
from deferrals.model.envelope import Recipient
from deferrals.model.verdict import Accept, Defer
from deferrals.plugins.finding import StagePlugin, stagePlugins
from deferrals.server.services import Services
from deferrals.stages.envelope.ownsenders import OWN, Senders
from deferrals.testing import makeEnvelope
from tests.configs import DOCS, LISTEN, RULES, ConfigCase


class LoadTests(ConfigCase):
    """
    L{load}.
    """

    def test_documented(self) -> None:
        """The example of the reference is good, and means what it says."""
        path = os.path.join(DOCS, "configuration.md")
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
        house = StageSet(config, Services(Clock(), hostname="mx"))

        def judge(address: str) -> Any:
            return house.envelope.judgeRecipient(makeEnvelope(), Recipient(Mailbox.parse(address)))

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

    def test_mark(self) -> None:
        """A byte order mark is no part of the text."""
        self.assertEqual(self.load(f"\ufeff{LISTEN}").listen[0].endpoint, "tcp:2525")

    def test_wrong(self) -> None:
        """File, key and expectation of whatever is wrong."""
        for text, wanted in (
            ("", "listen: is missing"),
            ("listen = []", "listen: at least one [[listen]] table"),
            ("listen = 3", "listen: expected a list"),
            (
                f"{LISTEN}protocol = 'pop3'",
                'listen[0].protocol: expected one of "smtp", "submission", "lmtp"',
            ),
            (
                f"{LISTEN}colour = 1",
                "listen[0].colour: no such key here; there are: auth, auth_without_tls, bare_lf,"
                " certificate, delivery_deadline, endpoint, enumerate, exdata, greet_delay, key, mixed,"
                " mixed_fallback, protocol, proxies, retry_limit, strict, tls, withhold, xclient",
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
            (
                f"hostname = 'not a name'\n{LISTEN}",
                "hostname: expected a host's name, such as mx.example.net",
            ),
            (f"{LISTEN}[limits]\nmessage_size = '10X'", "limits.message_size: expected a size"),
            (
                f"{LISTEN}[limits]\nheader_size = '1M'",
                "limits.header_size: expected more than 0 and at most 256K",
            ),
            (
                f"{LISTEN}[policies]\na = 1",
                "policies.a: expected a table, [ ] in place of [[ ]]",
            ),
            (
                f"{LISTEN}[policies.a]\nreply = '550 no'",
                "policies.a.reply: expected no reply, unless",
            ),
            (
                f"{LISTEN}[policies.a]\nenvelope = 'refuse'\nreply = '250 ok'",
                "policies.a.reply: expected a reply that refuses",
            ),
            (
                f"{LISTEN}[policies.a]\nenvelope = 'refuse'\ncontent = [{{use = 'match', rules = [{{test = 'gtube'}}]}}]",
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
                "recipients[0].deliver.path: expected text",
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
                f"{LISTEN}[policies.p]\nenvelope = 'refuse'\nquarantine = {{ use = 'discard' }}",
                "policies.p.quarantine: expected no quarantine with",
            ),
            (f"dns = ['here']\n{LISTEN}", "dns: expected addresses of DNS servers"),
            (f"{LISTEN}retry_limit = 0", "listen[0].retry_limit: expected more than 0"),
        ):
            found = self.problems(text)
            self.assertTrue(found[0].startswith(wanted), f"{text!r}\n{found[0]!r}\n{wanted!r}")

    def test_all(self) -> None:
        """All problems are told at once."""
        self.assertEqual(len(self.problems("a = 1\nmax_judging = 0\nhostname = 3\n")), 3)

    def test_bounces(self) -> None:
        """
        Mail that can fail, and senders who could not be told, are refused; unless
        the configuration says that it means that (D11).
        """
        listen = '[[listen]]\nendpoint = "tcp:2525"\n'
        rule = '[policies.open]\nenvelope = "accept"\n[[recipients]]\nmatch = "*@x.example"\npolicy = "open"\n'
        way = '[deliveries.out]\nuse = "mx"\n[deliveries.away]\nuse = "discard"\n'
        for deliver in (
            '{ use = "maildir", path = "mail" }',
            '{ use = "lmtp", endpoint = "tcp:a:24" }',
            '{ use = "pipe", command = ["/bin/true"] }',
            '"out"',
        ):
            text = f"{listen}{way}{rule}deliver = {deliver}\n"
            (problem,) = self.problems(text)
            self.assertTrue(
                problem.startswith("bounces: the name of a delivery (out) that"), problem
            )
            self.assertIn('or "none"', problem)
            for word in ("out", "none"):
                self.assertEqual(self.load(f'bounces = "{word}"\n{text}').bounces, word)
            self.assertEqual(
                self.problems(f'bounces = "away"\n{text}'),
                ['bounces: a delivery that leads to senders, or "none"'],
            )
            (problem,) = self.problems(f'bounces = "there"\n{text}')
            self.assertIn("(out, away)", problem)
        for text in (
            f'{listen}{way}{rule}deliver = "away"\n',
            f"{listen}{rule.replace('accept', 'refuse')}",
            listen,
        ):
            self.assertIsNone(self.load(text).bounces)
        named = f'bounces = "none"\n{listen}[deliveries.none]\nuse = "mx"\n'
        self.assertEqual(
            self.problems(named),
            ["deliveries.none: another name: this word means that there is none"],
        )

    def test_openRelay(self) -> None:
        """An open relay is not to be had by accident (design, section 8)."""
        head = LISTEN + '[policies.open]\nenvelope = "accept"\n[deliveries.out]\nuse = "mx"\n'
        rule = '[[recipients]]\nmatch = "*"\npolicy = "open"\n'
        for lines in (
            'deliver = "out"',
            'deliver = { use = "smtp", endpoint = "tcp:hub.example:25" }',
            'deliver = "out"\nallow = ["10.0.0.0/8", "0.0.0.0/0"]',
            'deliver = "out"\nallow = ["0.0.0.0/1", "128.0.0.0/1"]',
            'deliver = "out"\nallow = ["authenticated", "::ffff:0:0/96"]',
        ):
            (problem,) = self.problems(head + rule + lines)
            self.assertTrue(problem.startswith("recipients[0].allow: the clients"), problem)
            self.assertIn("open relay", problem)
        sixteenths = [f"{16 * number}.0.0.0/4" for number in range(3)]
        rules = [f'{rule}deliver = "out"\nallow = ["{one}"]\n' for one in sixteenths]
        self.load(head + rules[0])
        (problem,) = self.problems(head + "".join(rules))  # in several rules together
        self.assertTrue(problem.startswith("recipients[1].allow: the clients"), problem)
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
        path = os.path.join(DOCS, "submission.md")
        with open(path, encoding="utf-8") as file:
            blocks = [b.partition("```")[0] for b in file.read().split("```toml\n")[1:]]
        for block, name in zip(blocks[1:3], ("smtp", "mx"), strict=True):
            config = self.load(blocks[0] + block)
            outward = config.recipients[-1]
            self.assertEqual((outward.deliver, config.bounces), ("out", "out"))
            self.assertEqual(config.deliveries["out"].plugin.name, name)
            self.assertEqual(outward.allow, ("authenticated", "192.0.2.0/24"))

    def test_submissionTable(self) -> None:
        """What users may send, and what is no such thing."""
        head = f"{LISTEN}[submission]\n"
        lines = "senders = ['{user}@a.example']\noctets = '10M'\nover = 'hold'"
        found = self.load(f"{head}{lines}").submission
        self.assertEqual(found.senders, Senders(("{user}@a.example",)))
        self.assertEqual((found.messages, found.octets, found.over), (500, 10 << 20, "hold"))
        self.assertEqual(self.load(LISTEN).submission.senders, OWN)
        for line, wanted in (
            ("senders = 'all'", 'submission.senders: expected "own", "any", or a list of patterns'),
            ("senders = ['ceo']", "submission.senders: expected"),
            ("messages = 0", "submission.messages: expected more than 0"),
            ("over = 'drop'", 'submission.over: expected one of "refuse", "hold"'),
            ("sqlite = 'a'\nurl = 'http://a/'", "submission.sqlite: expected one of table"),
        ):
            with self.assertRaisesRegex(ConfigError, re.escape(wanted)):
                self.load(head + line)

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


@attrs.define
class NotFrozen:
    """Settings that change have no hash."""

    words: str = ""


@attrs.frozen
class Lists:
    """Nor has a list."""

    words: list[str] = attrs.field(factory=list)


@attrs.frozen
class Unknown:
    """Nothing in TOML is an interface."""

    words: IContentStage


class Plain:
    """Not even an attrs class."""


class PluginTests(ConfigCase):
    """
    Plugins with settings that cannot work (P10).
    """

    def problem(self, settings: type) -> str:
        plugin = StagePlugin("odd", IContentStage, settings.__module__, settings.__name__, "none")
        table = '[policies.a]\ncontent = [ { use = "odd", words = %s } ]\n'
        words = '["a"]' if settings is Lists else '"a"'
        (found,) = self.problems(LISTEN + table % words, plugin)
        self.assertTrue(found.startswith("policies.a.content[0]: expected a stage with settings"))
        self.assertIn(settings.__qualname__, found)
        return found

    def test_hash(self) -> None:
        """They have to be hashable, since equal settings share a stage."""
        for settings in (NotFrozen, Lists):
            self.assertIn("has to be frozen, with tuples in place of lists", self.problem(settings))

    def test_class(self) -> None:
        """They have to be an attrs class, of types that a configuration can say."""
        self.assertIn("is no attrs class", self.problem(Plain))
        self.assertIn("cannot be filled in", self.problem(Unknown))


class LookUpTableTests(ConfigCase):
    """
    C{[tables.NAME]}.
    """

    def test_read(self) -> None:
        """Keys of the kind, and those of all tables."""
        text = (
            f'{LISTEN}[tables.people]\nuse = "sqlite"\npath = "a"\nstale = "4h"\n'
            '[submission]\ntable = "people"\n'
        )
        config = self.load(text)
        table = config.tables["people"]
        self.assertEqual((table.plugin.name, table.frame.stale), ("sqlite", 4 * 3600.0))
        self.assertEqual(table.frame.cache_entries, 100_000)
        self.assertEqual(config.submission.table, "people")

    def test_problems(self) -> None:
        """What cannot be is said by its place."""
        for lines, wanted in (
            (
                'use = "ldap"',
                'tables.people: expected a table whose "use" is one of: dovecot, file',
            ),
            ('use = "sqlite"', "tables.people.path: is missing"),
            (
                'use = "sqlite"\npath = "a"\nquery = "DROP x"',
                "tables.people.query: expected one SELECT",
            ),
            (
                'use = "file"\npath = "a"\nquery = "SELECT 1"',
                "tables.people.query: no such key here",
            ),
            ('use = "file"\npath = "a"\nstale = "x"', "tables.people.stale: expected a time span"),
            (
                'use = "file"\npath = "a"\ntimeout = 0',
                "tables.people.timeout: expected more than 0",
            ),
            ('use = "http"\nurl = "x"', "tables.people.url: expected an http:// or"),
        ):
            (problem,) = self.problems(f"{LISTEN}[tables.people]\n{lines}\n")
            self.assertTrue(problem.startswith(wanted), problem)
        (problem,) = self.problems(f'{LISTEN}[tables."a b"]\nuse = "file"\npath = "a"\n')
        self.assertTrue(problem.startswith("tables: expected names of letters"), problem)

    def test_named(self) -> None:
        """A table that is named has to be there."""
        table = '[tables.people]\nuse = "file"\npath = "a"\n'
        (problem,) = self.problems(f'{LISTEN}[submission]\ntable = "folk"\n{table}')
        self.assertEqual(problem, "submission.table: the name of a table (people)")
        (problem,) = self.problems(f'{LISTEN}[submission]\ntable = "people"\ncache = 1\n{table}')
        wanted = "submission.cache: expected this key in [tables.people], and not here"
        self.assertEqual(problem, wanted)
        check = 'check = [{ use = "users", table = "folk" }]\n'
        (problem,) = self.problems(f"{LISTEN}{RULES}{check}")
        self.assertEqual(problem, "recipients[0].check[0].table: the name of a table (none there)")

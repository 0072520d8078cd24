# ruff: noqa: E501
"""
The stages that a configuration comes to.
"""

from __future__ import annotations

import os
from typing import Any

from twisted.internet.defer import maybeDeferred
from twisted.internet.task import Clock

from deferrals.app.stages import StageSet, deliveryNames
from deferrals.errors import ConfigError, TableError
from deferrals.model.address import Mailbox
from deferrals.model.envelope import Recipient
from deferrals.model.reply import R550_SENDER_ROUTING, R550_UNKNOWN_RECIPIENT
from deferrals.model.verdict import Accept, Refuse, Route
from deferrals.server.services import Services
from deferrals.stages.content.judge import ContentJudge
from deferrals.testing import FakeServices, makeEnvelope, makeRecipient, tableKeys
from tests.configs import LISTEN, ConfigCase


class StageSetTests(ConfigCase):
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

    def stages(self, former: StageSet | None = None) -> StageSet:
        return StageSet(self.load(LISTEN + self.RULES), Services(Clock(), hostname="mx"), former)

    def judge(self, stages: StageSet, address: str) -> Any:
        recipient = Recipient(Mailbox.parse(address))
        verdict = stages.envelope.judgeRecipient(makeEnvelope(), recipient)
        if isinstance(verdict, Refuse):
            return verdict
        routed = Recipient(recipient.address, route=verdict.route)
        return ContentJudge(stages.policies, 1).cohort(routed, verdict)

    ONWARD = """
[policies.open]
envelope = "accept"
[policies.a]
quarantine = {{ use = "lmtp", endpoint = "unix:/run/q" }}
[[recipients]]
match = "*@x.example"
policy = "{policy}"
{more}
deliver = {{ use = {deliver} }}
"""

    def test_senderRouting(self) -> None:
        """
        Where a delivery leads on to another mail server, senders do not say where
        that one sends it; unless the rule lets them.
        """
        for deliver, policy, leadsOn in (
            ('"smtp", endpoint = "tcp:a:25"', "open", True),
            ('"lmtp", endpoint = "tcp:a:24"', "open", True),
            ('"mx"', "open", True),
            ('"discard"', "open", False),
            ('"maildir", path = "{{local}}"', "open", False),
            ('"discard"', "a", True),
        ):
            for more, refused in (("", leadsOn), ("sender_routing = true", False)):
                text = self.ONWARD.format(policy=policy, more=more, deliver=deliver)
                stages = StageSet(self.load(LISTEN + text), Services(Clock(), hostname="mx"))
                recipient = Recipient(Mailbox.parse("a%b.example@x.example"))
                verdict = self.successResultOf(
                    maybeDeferred(stages.envelope.judgeRecipient, makeEnvelope(), recipient)
                )
                wanted = Refuse(R550_SENDER_ROUTING)
                self.assertEqual(verdict == wanted, refused, (deliver, more))
                self.assertEqual(stages.routeBack(recipient.address) is None, refused)

    def test_sameSettings(self) -> None:
        """Two policies that say the same are one cohort, whatever their names."""
        stages = self.stages()
        self.assertEqual(self.judge(stages, "a@x.example"), self.judge(stages, "b@x.example"))
        self.assertEqual(len({id(d) for d in stages.deliveries.values()}), 1)

    def test_refuse(self) -> None:
        """A policy that refuses has its own reply."""
        verdict = self.judge(self.stages(), "c@x.example")
        self.assertEqual(str(verdict.reply), "550 5.1.1 moved away")

    def test_namedDelivery(self) -> None:
        """Several rules share a delivery by its name."""
        config = self.load(
            LISTEN + "[policies.a]\n[deliveries.store]\nuse = 'discard'\n"
            "[[recipients]]\nmatch = '*@x.y'\npolicy = 'a'\ndeliver = 'store'\n"
            "[[recipients]]\nmatch = '*@z.y'\npolicy = 'a'\ndeliver = 'store'\n"
        )
        stages = StageSet(config, Services(Clock(), hostname="mx"))
        self.assertEqual(list(stages.deliveries), ["store"])

    def test_reload(self) -> None:
        """A reload takes over the stages whose settings are the same."""
        first = self.stages()
        second = self.stages(first)
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
        stages = StageSet(config, services)
        verdict = self.successResultOf(
            stages.envelope.judgeRecipient(
                makeEnvelope(), Recipient(Mailbox.parse("a@example.net"))
            )
        )
        self.assertEqual((verdict.reply.code, verdict.reply.enhanced), (550, "5.1.1"))

    def test_deliveryForesees(self) -> None:
        """A delivery that can never take a recipient is asked, whatever the rule asks besides."""
        config = self.load(
            LISTEN + '[policies.open]\nenvelope = "accept"\n[[recipients]]\n'
            'match = "*@example.net"\npolicy = "open"\n'
            'deliver = { use = "maildir", path = "boxes/{local}" }\n'
        )
        stages = StageSet(config, FakeServices(os.getcwd()))
        for local, isRefused in (("a", False), ("\u00e9" * 60, True)):
            recipient = Recipient(Mailbox.parse(f"{local}@example.net"))
            verdict = stages.envelope.judgeRecipient(makeEnvelope(), recipient)
            self.assertEqual(isinstance(verdict, Refuse), isRefused)

    def test_names(self) -> None:
        """The spool remembers a delivery by what its rule matches."""
        again = '[[recipients]]\nmatch = "a@x.example"\npolicy = "no"\n'
        config = self.load(LISTEN + self.RULES + again)
        self.assertEqual(
            deliveryNames(config.recipients),
            ["a@x.example", "b@x.example", "*@x.example", "a@x.example#2"],
        )


class ForwardTests(ConfigCase):
    """
    C{[srs]} and C{forward}.
    """

    TEXT = """
        hostname = "mx.example.net"
        bounces = "out"
        subaddress = "+"
        [[listen]]
        endpoint = "tcp:2525"
        [deliveries.out]
        use = "mx"
        expire = "2d"
        [deliveries.fwd]
        use = "forward"
        through = "out"
        [srs]
        domain = "example.net"
        secret_file = "srs.secret"
        [policies.open]
        envelope = "accept"
        [[recipients]]
        match = "*@example.net"
        policy = "open"
        deliver = { use = "discard" }
        [[recipients]]
        match = "*@x.example"
        policy = "open"
        deliver = "fwd"
        """

    def stages(self, secret: str = "secret", text: str = TEXT, mode: int = 0o600) -> StageSet:
        config = self.load(text)
        path = os.path.join(config.baseDir, "srs.secret")
        with open(path, "w") as file:
            file.write(f"{secret}\n")
        os.chmod(path, mode)
        return StageSet(config, Services(Clock(), hostname="mx.example.net"))

    def judge(self, stages: StageSet, address: str, sender: str = "") -> Any:
        return stages.envelope.judgeRecipient(makeEnvelope(sender), makeRecipient(address))

    def test_paths(self) -> None:
        """A stranger's path is rewritten, and known again, with a + in its hash, too."""
        stages = self.stages()
        for number in range(200):
            sender = Mailbox.parse(f"me{number}@client.example")
            path = stages.reversePath(sender)
            self.assertEqual(path.domain, "example.net")
            if "+" in path.local:
                break
        verdict = self.judge(stages, str(path))
        self.assertEqual(verdict, Accept(route=Route("", "[srs]")))
        self.assertIn("[srs]", stages.deliveries)
        self.assertEqual(stages.schedules["[srs]"].expire, 2 * 86400)
        self.assertTrue(stages.envelope.isOurs(path))
        self.assertEqual(stages.routeBack(path), Route("", "[srs]"))
        self.assertEqual(stages.routeBack(sender), Route("", "out"))

    def test_own(self) -> None:
        """Our own senders keep theirs."""
        stages = self.stages()
        for own in ("me@example.net", "you@x.example"):
            self.assertEqual(str(stages.reversePath(Mailbox.parse(own))), own)

    def test_refused(self) -> None:
        """A bad hash is no recipient, whatever rule there is for its domain."""
        verdict = self.judge(self.stages(), "SRS0=aaaa=AA=client.example=me@example.net")
        self.assertEqual(verdict, Refuse(R550_UNKNOWN_RECIPIENT))
        verdict = self.judge(self.stages(), "srs0-team@example.net")
        self.assertIsInstance(verdict, Accept)

    def test_hostname(self) -> None:
        """Without a rule for the domain, where that is the server's name."""
        text = self.TEXT.replace('domain = "example.net"', 'domain = "mx.example.net"')
        stages = self.stages(text=text)
        path = stages.reversePath(Mailbox.parse("me@client.example"))
        self.assertIsInstance(self.judge(stages, str(path)), Accept)
        self.assertTrue(stages.envelope.isOurs(path))

    def test_secret(self) -> None:
        """The place of the error is the key."""
        error = self.assertRaises(ConfigError, self.stages, mode=0o644)
        self.assertIn("srs.secret_file: expected a file that only its owner can read", str(error))
        other = self.stages("other\nsecret")
        path = self.stages().reversePath(Mailbox.parse("me@client.example"))
        self.assertIsInstance(self.judge(other, str(path)), Accept)
        self.assertNotEqual(other.reversePath(Mailbox.parse("me@client.example")), path)

    def test_without(self) -> None:
        """Without C{[srs]} all senders keep theirs."""
        stages = StageSet(self.load(LISTEN), Services(Clock(), hostname="mx"))
        sender = Mailbox.parse("me@client.example")
        self.assertIs(stages.reversePath(sender), sender)


class SubaddressTests(ConfigCase):
    """
    C{subaddress}.
    """

    def house(self, text: str) -> StageSet:
        return StageSet(self.load(text), Services(Clock(), hostname="mx.example.net"))

    def test_inherited(self) -> None:
        """The file's, in place of it the rule's, in place of that the table's own."""
        maildir = 'deliver = { use = "maildir", path = "mail/{local}" }'
        text = f"""
            subaddress = "+"
            {LISTEN}
            [policies.open]
            envelope = "accept"
            [[recipients]]
            match = "anna@example.net"
            policy = "open"
            {maildir}
            [[recipients]]
            match = "bob@example.net"
            policy = "open"
            subaddress = "-"
            {maildir}
            [[recipients]]
            match = "carl@example.net"
            policy = "open"
            deliver = {{ use = "maildir", path = "mail/{{local}}", subaddress = "" }}
            """
        house = self.house(text)
        for address, rule, mailbox in (
            ("anna+x@example.net", "anna@example.net", "anna"),
            ("bob-x@example.net", "bob@example.net", "bob"),
            ("bob+x@example.net", None, None),
            ("carl+x@example.net", "carl@example.net", "carl+x"),
        ):
            recipient = makeRecipient(address)
            verdict = house.envelope.judgeRecipient(makeEnvelope(), recipient)
            if rule is None or mailbox is None:
                self.assertIsInstance(verdict, Refuse)
                continue
            assert isinstance(verdict, Accept)
            assert verdict.route is not None
            self.assertEqual(verdict.route.delivery, rule)
            delivery: Any = house.deliveries[rule]
            self.assertEqual(
                os.path.basename(delivery.mailbox(recipient.routed(verdict.route))), mailbox
            )

    def test_shared(self) -> None:
        """A delivery that several rules name goes by the rule of each recipient."""
        rules = "".join(
            f'[[recipients]]\nmatch = "{name}@example.net"\npolicy = "open"\n'
            f'subaddress = "{mark}"\ndeliver = "box"\n'
            for name, mark in (("anna", "+"), ("bob", "-"))
        )
        box = '[deliveries.box]\nuse = "maildir"\npath = "mail/{local}"\n'
        house = self.house(f'{LISTEN}[policies.open]\nenvelope = "accept"\n{box}{rules}')
        delivery: Any = house.deliveries["box"]
        for local, mailbox, detail in (("anna+a-b", "anna", "a-b"), ("bob-a+b", "bob", "a+b")):
            recipient = makeRecipient(f"{local}@example.net")
            verdict = house.envelope.judgeRecipient(makeEnvelope(), recipient)
            assert isinstance(verdict, Accept) and verdict.route is not None
            routed = recipient.routed(verdict.route)
            self.assertEqual(routed.detail, detail)
            self.assertEqual(os.path.basename(delivery.mailbox(routed)), mailbox)
            self.assertEqual(str(routed), f"{local}@example.net")

    def test_wrong(self) -> None:
        """What cannot be a separator is said."""
        for value in ("++", "/", "@", "\u00fc"):
            text = f'subaddress = "{value}"\n{LISTEN}'
            error = self.assertRaises(ConfigError, self.load, text)
            self.assertIn('subaddress: expected one character such as "+"', str(error))


class LookUpTableTests(ConfigCase):
    """
    C{[tables.NAME]} over a reload.
    """

    TABLE = '[tables.people]\nuse = "file"\npath = "people"\n'

    def test_kept(self) -> None:
        """A table that says the same is kept, and asked anew; another one is another."""
        services = Services(Clock(), hostname="mx.example.net", baseDir=self.mktemp())
        os.mkdir(services.baseDir)
        first = StageSet(self.load(LISTEN + self.TABLE), services)
        named, keys = services.table("people"), tableKeys("a@example.net")
        self.failureResultOf(named.lookUp(keys), TableError)
        first.show()
        for value, text, isKept in (
            ("one", self.TABLE, True),
            ("two", self.TABLE, True),
            ("three", self.TABLE + "stale = 5\n", False),
        ):
            with open(os.path.join(services.baseDir, "people"), "w", encoding="utf-8") as file:
                file.write(f"a@example.net: {value}\n")
            following = StageSet(self.load(LISTEN + text), services, first)
            self.assertEqual(following.tables["people"] is first.tables["people"], isKept)
            following.show()
            found = self.successResultOf(named.lookUp(keys))
            self.assertEqual(found, {"value": value})

    def test_notBuilt(self) -> None:
        """What a kind does not want is said by its place."""
        table = '[tables.people]\nuse = "dovecot"\nsocket = "nonsense:x"\n'
        services = Services(Clock(), hostname="mx.example.net")
        error = self.assertRaises(ConfigError, StageSet, self.load(LISTEN + table), services)
        self.assertEqual([key for key, _ in error.problems], ["tables.people.socket"])

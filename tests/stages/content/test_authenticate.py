"""
The content stage C{authenticate}, with a resolver without sockets.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from deferrals.interfaces import IMessage
from deferrals.model.authentication import DNS_SECONDS
from deferrals.model.envelope import Client, Envelope, Recipient
from deferrals.model.reply import R451_STAGE_FAILED
from deferrals.model.settings import BadSetting
from deferrals.model.verdict import Accept, ContentVerdict, Refuse, Route
from deferrals.server import authentication
from deferrals.stages.content.authenticate import AuthenticateSettings, AuthenticateStage
from deferrals.stages.content.scanner import isUnscanned
from deferrals.testing import (
    ContentStageContract,
    FakeServices,
    makeEnvelope,
    makeMessage,
    makeRecipient,
)
from tests import signatures
from tests.model.test_dmarc import MISSING, suffixes
from tests.server.test_verifying import MAIL, SignedMail, quiet

OUTSIDE = Client("192.0.2.1", 25, "mail.list.example")
REFUSAL = "550 5.7.1 refused: not sent by client.example (DMARC)"


class StageCase(SynchronousTestCase):
    """
    Mail of client.example, which wants refused what is not its own, through a list.
    """

    if signatures.MISSING or MISSING:
        skip = signatures.MISSING or MISSING

    def setUp(self) -> None:
        self.mail = SignedMail()
        self.clock, self.resolver = self.mail.clock, self.mail.resolver
        self.records = self.resolver.records
        self.records["client.example", "TXT"] = [(b"v=spf1 ip4:198.51.100.1 -all",)]
        self.records["list0.example", "TXT"] = [(b"v=spf1 ip4:192.0.2.0/24 -all",)]
        self.records["_dmarc.client.example", "TXT"] = [(b"v=DMARC1; p=reject",)]
        self.patch(authentication, "_suffixes", suffixes)
        self.services = FakeServices(reactor=self.clock, resolver=self.resolver)

    def stage(self, **settings: Any) -> AuthenticateStage:
        return AuthenticateStage(AuthenticateSettings(**settings), self.services)

    def begin(
        self,
        stage: AuthenticateStage,
        message: IMessage,
        recipient: Recipient | None = None,
        **more: Any,
    ) -> Deferred[ContentVerdict]:
        known = {"sender": "list@list0.example", "client": OUTSIDE}
        envelope = makeEnvelope(**{**known, **more})
        with quiet():
            return stage.judge(message, envelope, [recipient or makeRecipient("a@x.example")])

    def verdict(
        self, stage: AuthenticateStage, mail: bytes = MAIL, *rest: Any, **more: Any
    ) -> ContentVerdict:
        found: ContentVerdict = self.successResultOf(
            self.begin(stage, makeMessage(mail), *rest, **more)
        )
        return found


def said(verdict: ContentVerdict) -> str:
    """
    What becomes of the copy.
    """
    if isinstance(verdict, Refuse):
        return str(verdict.reply)
    return "junk" if verdict.marks.junk else "accept"


def field(verdict: ContentVerdict) -> str:
    """
    What the copy says; empty where it says nothing.
    """
    assert isinstance(verdict, Accept)
    headers = dict(verdict.marks.headers)
    assert len(headers) == len(verdict.marks.headers)
    return headers.get("Authentication-Results", "")


class ContractTests(StageCase, ContentStageContract):
    """
    What every content stage does.
    """

    def makeStage(self) -> AuthenticateStage:
        return self.stage()

    def makeMessage(self) -> IMessage:
        return makeMessage(MAIL)

    def makeEnvelope(self) -> Envelope:
        return makeEnvelope("list@list0.example", client=OUTSIDE)


class AuthenticateTests(StageCase):
    """
    L{AuthenticateStage}.
    """

    def test_field(self) -> None:
        """One field with everything, whatever the recipient makes of it."""
        mail = self.mail.sealed(self.mail.signed())
        wanted = (
            "mx.example.net; spf=pass smtp.mailfrom=list0.example;"
            " dkim=pass header.d=client.example header.s=rsa; arc=pass;"
            " dmarc=pass header.from=client.example"
        )
        for means in ("enforce", "mark", "ignore"):
            self.assertEqual(field(self.verdict(self.stage(dmarc=means), mail)), wanted)

    def test_policies(self) -> None:
        """
        One message, by a list that has changed it: each recipient's answer is its own, and
        the message is judged once, and DNS asked once.
        """
        mail = self.mail.sealed(self.mail.signed()).replace(b"Body", b"[list] Body")
        sealed = self.mail.sealed(self.mail.signed(), 1)
        changed = makeMessage(mail)
        stages = {
            "enforce": self.stage(dmarc="enforce"),
            "mark": self.stage(),
            "ignore": self.stage(dmarc="ignore"),
            "forwarder": self.stage(dmarc="enforce", trusted_forwarders=("list0.example",)),
            "network": self.stage(dmarc="enforce", trusted_forwarders=("192.0.2.0/24",)),
            "sealer": self.stage(dmarc="enforce", trusted_sealers=("list0.example",)),
        }
        self.resolver.asked.clear()
        self.services.status.kinds("scans")
        before = self.services.status.counted("scans", "authenticate")
        found = {
            name: said(self.successResultOf(self.begin(stage, changed)))
            for name, stage in stages.items()
        }
        self.assertEqual(
            found,
            {
                "enforce": REFUSAL,
                "mark": "junk",
                "ignore": "accept",
                "forwarder": "accept",
                "network": "accept",
                "sealer": REFUSAL,  # the list has changed it behind its own seal
            },
        )
        self.assertEqual(self.services.status.counted("scans", "authenticate"), before + 1)
        self.assertEqual(len(self.resolver.asked), len(set(self.resolver.asked)))
        self.assertEqual(said(self.verdict(stages["sealer"], sealed)), "accept")

    def test_sealed(self) -> None:
        """
        A list that changes and then seals: its subscriber believes what it has found; the
        copy says on whose word.
        """
        mail = self.listed()
        trusting = self.stage(dmarc="enforce", trusted_sealers=("list0.example",))
        verdict = self.verdict(trusting, mail)
        self.assertEqual(said(verdict), "accept")
        self.assertTrue(
            field(verdict).endswith(
                "; arc=pass; dmarc=fail header.from=client.example (trusted sealer list0.example)"
            )
        )
        self.assertEqual(said(self.verdict(self.stage(dmarc="enforce"), mail)), REFUSAL)
        other = self.stage(dmarc="enforce", trusted_sealers=("list1.example",))
        self.assertEqual(said(self.verdict(other, mail)), REFUSAL)
        self.assertEqual(said(self.verdict(trusting, mail.replace(b"[list]", b"[ spam]"))), REFUSAL)

    def listed(self) -> bytes:
        """
        As a list has changed it, behind what it had found, and sealed that.
        """
        signed = self.mail.signed()
        changed = signed.replace(b"Body", b"[list] Body")
        return self.mail.sealedAs(signed, changed)

    def test_broken(self) -> None:
        """DNS that says nothing: accept and say so; or refuse for now; or as if not there."""
        self.resolver.broken = {"_dmarc.client.example"}
        for onError, wanted in (
            ("accept", "accept"),
            ("refuse-temporarily", None),
            ("skip", "accept"),
        ):
            verdict = self.verdict(self.stage(dmarc="enforce", on_error=onError))
            self.assertEqual(said(verdict), wanted or str(R451_STAGE_FAILED))
            if onError == "accept":
                self.assertIn("dmarc=temperror header.from=client.example", field(verdict))
            elif onError == "skip":
                self.assertEqual(field(verdict), "")
            counted = self.services.status.counted("unscanned", f"authenticate {onError}")
            self.assertEqual(counted, 1)
            self.assertEqual(isUnscanned(verdict), onError != "refuse-temporarily")

    def test_late(self) -> None:
        """What takes longer than the stage waits is not known."""
        self.patch(self.services, "authentication", lambda *_: Deferred())
        stage = self.stage(timeout=11.0, dmarc="enforce", spf="enforce")
        d = self.begin(stage, makeMessage(MAIL))
        self.assertNoResult(d)
        self.clock.advance(11)
        verdict = self.successResultOf(d)
        self.assertEqual(
            field(verdict),
            "mx.example.net; spf=temperror; dkim=temperror; arc=temperror; dmarc=temperror",
        )
        self.clock.advance(30)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_silentKey(self) -> None:
        """A sender that names a key whose server is silent is refused all the same."""
        self.resolver.silent = {"s._domainkey.stranger.example"}
        forged = b"DKIM-Signature: v=1; a=rsa-sha256; d=stranger.example; s=s; h=from; bh=x; b=x"
        d = self.begin(self.stage(dmarc="enforce"), makeMessage(forged + b"\r\n" + MAIL))
        self.assertNoResult(d)
        with quiet():
            self.clock.advance(DNS_SECONDS)
        self.assertEqual(said(self.successResultOf(d)), REFUSAL)

    def test_unreadable(self) -> None:
        """A message that cannot be read is as one that DNS says nothing of."""

        class Broken:
            header = b"From: a@client.example"
            size = 10

            def shared(self, key: Any, function: Any) -> Any:
                raise OSError("disk")

        message: Any = Broken()
        verdict = self.successResultOf(self.begin(self.stage(), message))
        self.assertIn("dmarc=temperror", field(verdict))

    def test_inside(self) -> None:
        """Mail from inside is not held against anyone."""
        strict = self.stage(dmarc="enforce", spf="enforce")
        for client in (Client("127.0.0.1"), Client("local"), Client("192.0.2.1", user="a")):
            verdict = self.verdict(strict, client=client)
            self.assertEqual(
                (said(verdict), field(verdict)), ("accept", "mx.example.net; dkim=none; arc=none")
            )

    def test_spf(self) -> None:
        """SPF alone, where it is wanted."""
        verdict = self.verdict(self.stage(spf="enforce"), sender="a@client.example")
        self.assertEqual(
            said(verdict), "550 5.7.23 refused: 192.0.2.1 may not send for client.example (SPF)"
        )

    def test_sealedOnce(self) -> None:
        """What is forwarded afterwards is sealed with the same finding."""
        message = makeMessage(self.mail.signed())
        verdict = self.successResultOf(self.begin(self.stage(), message))
        asked, envelope = len(self.resolver.asked), makeEnvelope("list@list0.example")
        self.services.sealer.use([self.mail.sealers[1]])
        with quiet():
            seal = self.successResultOf(self.services.sealer.seal(message, message, envelope))
        self.assertEqual(len(self.resolver.asked), asked)
        self.assertEqual(self.services.status.counted("scans", "authenticate"), 1)
        self.assertIn(field(verdict), " ".join(seal.decode().split()))

    def test_cancelled(self) -> None:
        """It may be cancelled; another cohort still gets its answer."""
        self.resolver.silent = {"_dmarc.client.example"}
        message = makeMessage(MAIL)
        first = self.begin(self.stage(dmarc="enforce"), message)
        second = self.begin(self.stage(dmarc="mark"), message)
        first.cancel()
        self.failureResultOf(first, CancelledError)
        self.assertNoResult(second)
        self.clock.advance(10)
        self.assertIn("dmarc=temperror", field(self.successResultOf(second)))


class CohortTests(StageCase):
    """
    Recipients' own settings.
    """

    def recipient(self, **own: str) -> Recipient:
        names = {name.replace("__", "."): value for name, value in own.items()}
        return makeRecipient("a@x.example").routed(Route("p", "d", tuple(sorted(names.items()))))

    def test_cohorts(self) -> None:
        """Recipients that want the same are one cohort, however many there are."""
        stage = self.stage(trusted_forwarders=("list.example",))

        def cohorts(recipients: Sequence[Recipient]) -> int:
            return len({stage.cohort(one) for one in recipients})

        same = [makeRecipient(f"r{n}@x.example") for n in range(100)]
        self.assertEqual(cohorts(same), 1)
        self.assertEqual(cohorts([*same, self.recipient(dmarc="mark")]), 1)
        self.assertEqual(cohorts([*same, self.recipient(trusted_forwarders="list.example")]), 1)
        self.assertEqual(cohorts([*same, self.recipient(dmarc="enforce")]), 2)
        self.assertEqual(cohorts([*same, self.recipient(settings_id="x", mark_score="1")]), 1)

    def test_overrides(self) -> None:
        """Each setting of a policy may be a recipient's own."""
        stage = self.stage()
        for own, wanted in (
            ({}, "junk"),
            ({"dmarc": "enforce"}, REFUSAL),
            ({"dmarc": "ignore"}, "accept"),
            ({"authenticate__dmarc": "enforce", "dmarc": "ignore"}, REFUSAL),
            (
                {"dmarc": "enforce", "authenticate__reply": "550 5.7.1 no, {domain}"},
                "550 5.7.1 no, client.example",
            ),
            ({"trusted_forwarders": "192.0.2.0/24 b.example"}, "accept"),
            ({"trusted_forwarders": "list0.example"}, "accept"),
            ({"trusted_sealers": "list0.example"}, "junk"),
            ({"spf": "enforce"}, "junk"),
        ):
            self.assertEqual(said(self.verdict(stage, MAIL, self.recipient(**own))), wanted, own)
        trusting = self.stage(dmarc="enforce", trusted_forwarders=("list0.example",))
        self.assertEqual(said(self.verdict(trusting)), "accept")
        self.assertEqual(
            said(self.verdict(trusting, MAIL, self.recipient(trusted_forwarders=""))), REFUSAL
        )

    def test_wrong(self) -> None:
        """A value that cannot be is an error of this recipient's alone."""
        stage = self.stage()
        for own in ({"trusted_forwarders": "*"}, {"trusted_sealers": "192.0.2.1"}):
            self.assertRaises(ValueError, stage.cohort, self.recipient(**own))
        stage.cohort(self.recipient())


class SettingsTests(SynchronousTestCase):
    """
    L{AuthenticateSettings}.
    """

    def test_installed(self) -> None:
        """Without what it needs it is an error of the configuration that says what to do."""
        find = importlib.util.find_spec
        for missing in ("dkim", "nacl", "dmarc", "publicsuffixlist"):
            self.patch(
                importlib.util,
                "find_spec",
                lambda name, missing=missing: name != missing and find(name),
            )
            error = self.assertRaises(BadSetting, AuthenticateSettings)
            self.assertEqual(error.key, "use")
            self.assertIn('pip install "deferrals[authentication]"', str(error))

    def test_wrong(self) -> None:
        """What cannot be is an error at the start."""
        for wrong in (
            {"trusted_forwarders": ("0.0.0.0/0",)},
            {"trusted_forwarders": ("*",)},
            {"trusted_sealers": ("192.0.2.0/24",)},
            {"reply": "250 ok"},
            {"reply": "550 {sender}"},
            {"timeout": 0.0},
            {"timeout": DNS_SECONDS},
        ):
            self.assertRaises(BadSetting, AuthenticateSettings, **wrong)
        if not MISSING and not signatures.MISSING:
            self.assertEqual(AuthenticateSettings().dmarc, "mark")

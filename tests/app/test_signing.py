"""
The keys that a configuration names.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Any
from unittest import mock

import attrs
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock

from deferrals.app import service as module
from deferrals.app.permissions import User, problems
from deferrals.app.service import MailService, checkConfig
from deferrals.app.signing import (
    LOOKUP_SECONDS,
    keyRemarks,
    published,
    sealWith,
    signingKeys,
    signWith,
)
from deferrals.config.tables import Config
from deferrals.errors import ConfigError
from deferrals.model.envelope import Client
from deferrals.model.spf import LookupFailed
from deferrals.model.srs import SRSSettings
from deferrals.model.status import Status
from deferrals.server.dnsnames import DNSNames
from deferrals.server.services import Services
from deferrals.server.signing import Signer
from deferrals.testing import makeEnvelope, makeMessage
from tests import signatures
from tests.configs import LISTEN, RULES, ConfigCase

MAIL = b"From: a@example.net\r\n\r\nx\r\n"

FORWARD = """
[srs]
domain = "example.net"
secret_file = "srs.secret"
[policies.open]
envelope = "accept"
[[recipients]]
match = "*@example.net"
policy = "open"
deliver = "fwd"
[deliveries.out]
use = "mx"
[deliveries.fwd]
use = "forward"
through = "out"
"""


class KeyTests(ConfigCase):
    """
    L{signingKeys}.
    """

    if signatures.MISSING:
        skip = signatures.MISSING

    def setUp(self) -> None:
        self.directory = os.path.abspath(self.mktemp())
        os.mkdir(self.directory)

    def keyFile(self, pem: bytes | None = None, name: str = "key.pem", mode: int = 0o600) -> str:
        path = os.path.join(self.directory, name)
        with open(path, "wb") as file:
            file.write(signatures.pem("rsa") if pem is None else pem)
        os.chmod(path, mode)
        return path

    def config(self, *paths: str, more: str = RULES, listen: str = LISTEN) -> Config:
        tables = "".join(
            f'[[dkim]]\ndomain = "Example.NET"\nselector = "s{number}"\nkey = "{path}"\n'
            for number, path in enumerate(paths)
        )
        return self.load(f"{listen}{tables}{more}")

    def refused(self, *paths: str) -> list[str]:
        return self.problemsOf(self.config(*paths))

    def problemsOf(self, config: Config) -> list[str]:
        error = self.assertRaises(ConfigError, signingKeys, config)
        again = self.assertRaises(ConfigError, checkConfig, config, Clock())
        self.assertLessEqual(set(error.problems), set(again.problems))
        return [f"{key}: {text}" for key, text in error.problems]

    def test_kinds(self) -> None:
        """Two keys of one domain, of two kinds, which the keys themselves tell."""
        paths = self.keyFile(), self.keyFile(signatures.pem("ed25519"), "other.pem")
        found = signingKeys(self.config(*paths))
        self.assertEqual(
            [(one.domain, one.selector, one.kind) for one in found],
            [
                ("example.net", "s0", "rsa"),
                ("example.net", "s1", "ed25519"),
            ],
        )

    def test_wrong(self) -> None:
        """Each key that cannot be used is named, with its file and what was expected."""
        short, none = self.keyFile(signatures.pem("1024")), self.keyFile(b"x", "none.pem")
        gone = os.path.join(self.directory, "gone.pem")
        self.assertEqual(
            self.refused(short, gone, none),
            [
                f"dkim[0].key: expected 2048 bits or more of an RSA key, not 1024: {short}",
                f"dkim[1].key: expected a file with a private key: {gone}: No such file or"
                " directory",
                f"dkim[2].key: expected a private key in PEM: {none}",
            ],
        )

    def test_noExtra(self) -> None:
        """What signs has to be installed: that is said once, however many keys there are."""
        paths = self.keyFile(), self.keyFile(name="other.pem")
        with mock.patch.dict(sys.modules, {"dkim": None}):
            self.assertEqual(
                self.refused(*paths), ["dkim: expected the extra deferrals[dkim] to be installed"]
            )

    def test_samePlace(self) -> None:
        """Two keys cannot be in one place of DNS; nor is what is no table a table."""
        path = self.keyFile()
        text = f'[[dkim]]\ndomain = "x.example"\nselector = "S"\nkey = "{path}"\n'
        self.assertEqual(
            self.problems(LISTEN + text + text.replace('"S"', '"s"') + RULES),
            [
                "dkim[1].selector: another one than that of dkim[0], which has"
                " s._domainkey.x.example"
            ],
        )
        (problem,) = self.problems(f'{LISTEN}{text}sign = ["all"]\n{RULES}')
        self.assertIn(
            'dkim[0].sign[0]: expected one of "submission", "notices", "forward"', problem
        )

    def test_permissions(self) -> None:
        """The server's user must be able to read it at a reload; others should not."""
        path = self.keyFile(mode=0o600)
        config = self.config(path)
        stranger = User("mail", 4242, frozenset({4242}))
        self.assertIn("dkim[0].key", [key for key, _ in problems(config, stranger)])
        for mode, count in ((0o600, 0), (0o640, 0), (0o644, 1), (0o660, 1)):
            os.chmod(path, mode)
            self.assertEqual(len(keyRemarks(config)), count, oct(mode))

    def test_alone(self) -> None:
        """An Ed25519 key without an RSA key beside it is remarked on."""
        ed25519 = self.keyFile(signatures.pem("ed25519"))
        ((key, what),) = keyRemarks(self.config(ed25519))
        self.assertEqual(key, "dkim")
        self.assertIn("example.net has only an Ed25519 key", what)
        self.assertEqual(keyRemarks(self.config(ed25519, self.keyFile(name="rsa.pem"))), [])

    def signed(self, signer: Signer, client: Client) -> list[bool]:
        def chunks() -> Iterator[bytes]:
            yield MAIL

        envelope = makeEnvelope("a@example.net", client=client)
        d = signer.sign(makeMessage(MAIL), envelope, "", chunks)
        keys = signer.keysFor("submission", "example.net")
        return signatures.verified(self.successResultOf(d) + MAIL, keys)

    def forwarding(self, *paths: str, arc: str = "arc = true", srs: str = "example.net") -> Config:
        more = FORWARD.replace("example.net", srs) + arc
        return self.config(*paths, more=more, listen=LISTEN.replace('"none"', '"out"'))

    def test_mustSeal(self) -> None:
        """Where mail has to be sealed, no key that can is an error, wherever keys are read."""
        wanted = "deliveries.fwd.arc: expected an RSA key in [[dkim]] for {}, to seal with"
        rsa, ed25519 = self.keyFile(), self.keyFile(signatures.pem("ed25519"), "ed25519.pem")
        for config in (self.forwarding(), self.forwarding(ed25519)):
            self.assertEqual(self.problemsOf(config), [wanted.format("example.net")])
            with self.assertRaises(ConfigError) as caught:
                MailService(config, Clock(), mock.Mock())  # type: ignore[arg-type]
            ((key, _),) = caught.exception.problems
            self.assertEqual(key, "deliveries.fwd.arc")
        self.assertEqual(
            self.problemsOf(self.forwarding(rsa, srs="other.example")),
            [wanted.format("other.example")],
        )
        signingKeys(self.forwarding(ed25519, rsa))
        signingKeys(self.forwarding(ed25519, arc=""))

    def test_seals(self) -> None:
        """What is forwarded is sealed with the keys of the domain of C{[srs]}."""
        sealer = Services(Clock(), hostname="mx.example.net").sealer
        config = self.config(self.keyFile())
        keys = signingKeys(config)
        sealWith(sealer, config, keys)
        self.assertFalse(sealer.hasKeys)
        for domain, hasKeys in (("Example.NET", True), ("other.example", False)):
            srs = SRSSettings(domain=domain, secret_file="x")
            sealWith(sealer, attrs.evolve(config, srs=srs), keys)
            self.assertIs(sealer.hasKeys, hasKeys)

    def test_whose(self) -> None:
        """Logins are signed for, and those that the allow of a rule lets in."""
        more = f'{RULES}allow = ["10.0.0.0/8", "authenticated"]\n'
        config = self.config(self.keyFile(), more=more)
        signer = Signer(maybeDeferred, "mx.example.net", Status())
        signWith(signer, config, signingKeys(config))
        self.assertEqual(self.signed(signer, Client("10.1.2.3")), [True])
        self.assertEqual(self.signed(signer, Client("192.0.2.1", user="a@example.net")), [True])
        self.assertEqual(self.signed(signer, Client("192.0.2.1")), [])

    def test_reload(self) -> None:
        """A reload signs with other keys; one that cannot be keeps the old ones."""

        class Replacement:
            def __init__(self, *_: Any) -> None:
                pass

            async def prepare(self) -> None:
                pass

            async def commit(self, graceSeconds: float) -> None:
                pass

        self.patch(module, "Replacement", Replacement)
        following = self.config(self.keyFile())
        service = MailService(following, Clock(), lambda: following)  # type: ignore[arg-type]
        signer = service._services.signer
        (old,) = signer.keysFor("submission", "example.net")
        following = self.config(self.keyFile(b"x"))
        self.failureResultOf(service.reload(), ConfigError)
        self.assertEqual(signer.keysFor("submission", "example.net"), [old])
        following = self.config(self.keyFile(signatures.pem("ed25519")))
        self.successResultOf(service.reload())
        (new,) = signer.keysFor("submission", "example.net")
        self.assertEqual(new.kind, "ed25519")


class PublishedTests(ConfigCase):
    """
    L{published}.
    """

    def test_each(self) -> None:
        """Each name's texts, none where there is no name, and why they are not known."""
        clock = Clock()
        texts: dict[str, Any] = {
            "a.example": [b"one"],
            "b.example": LookupFailed("SERVFAIL"),
            "c.example": Deferred(),
        }

        async def find(names: DNSNames, place: str) -> Any:
            found = texts[place]
            if isinstance(found, Exception):
                raise found
            return await found if isinstance(found, Deferred) else found

        self.patch(DNSNames, "texts", find)
        d = Deferred.fromCoroutine(published(self.load(LISTEN + RULES), clock, texts))
        clock.advance(LOOKUP_SECONDS)
        one, two, three = self.successResultOf(d)
        self.assertEqual(one, [b"one"])
        self.assertEqual((str(two), str(three)), ("SERVFAIL", "no answer within 20 seconds"))

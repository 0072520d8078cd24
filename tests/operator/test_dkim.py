"""
Keys are made, and compared with DNS.
"""

from __future__ import annotations

import argparse
import errno
import io
import os
import sys
import tomllib
from collections.abc import Sequence
from unittest import mock

from deferrals import durable
from deferrals.config.tables import Config
from deferrals.model.dkim import SigningSettings, recordOf, recordProblem
from deferrals.model.dkimkeys import kindOf, privateKey, publicOctets
from deferrals.operator.dkim import addCommand
from tests import signatures
from tests.configs import LISTEN, RULES, ConfigCase


class DkimCase(ConfigCase):
    """
    Runs the command; DNS is a dictionary.
    """

    def setUp(self) -> None:
        self.texts: dict[str, list[bytes] | Exception] = {}
        self.directory = os.path.abspath(self.mktemp())
        os.mkdir(self.directory)

    def published(
        self, config: Config, places: Sequence[str]
    ) -> Sequence[Sequence[bytes] | Exception]:
        return [self.texts.get(place, []) for place in places]

    def run_(self, *words: str) -> tuple[int, str, str]:
        """
        @return: exit status, what is said, and the complaints.
        """
        out, err = io.StringIO(), io.StringIO()
        self.patch(sys, "stdout", out)
        self.patch(sys, "stderr", err)
        top = argparse.ArgumentParser()
        addCommand(top.add_subparsers(), self.published)
        arguments = top.parse_args(["dkim", *words])
        status: int = arguments.run(arguments)
        return status, out.getvalue(), err.getvalue()


class NewTests(DkimCase):
    """
    C{deferrals dkim new}.
    """

    def new(self, *words: str) -> tuple[str, str, str]:
        """
        @return: the key's file, the selector, and what goes into DNS.
        """
        status, said, _ = self.run_("new", *words, "--directory", self.directory)
        self.assertEqual(status, 0)
        table, _, line = said.partition("\n\n")
        (settings,) = tomllib.loads(table)["dkim"]
        self.assertEqual(SigningSettings(**settings).domain, "example.net")
        return settings["key"], settings["selector"], line

    def test_both(self) -> None:
        """What it writes is a key, and what it shows is right for that key."""
        for words, kind in (((), "rsa"), (("--ed25519",), "ed25519")):
            path, selector, line = self.new("Example.NET", *words)
            self.assertEqual(os.stat(path).st_mode & 0o777, 0o600)
            with open(path, "rb") as file:
                key = privateKey(file.read())
            self.assertEqual(kindOf(key), kind)
            place, _, texts = line.partition(" IN TXT ")
            self.assertEqual(place, f"{selector}._domainkey.example.net.")
            record = texts.strip("()\n ").replace('" "', "").strip('"').encode()
            self.assertEqual(recordProblem([record], kind, publicOctets(key)), "")

    def test_selector(self) -> None:
        """The operator's selector is in the file's name; it can be several labels."""
        path, _, line = self.new("example.net", "--selector", "a.b", "--ed25519")
        self.assertEqual(os.path.basename(path), "example.net.a.b.pem")
        self.assertTrue(line.startswith("a.b._domainkey.example.net. "))

    def test_group(self) -> None:
        """A directory that hands down its group lets that group read the key."""
        os.chmod(self.directory, 0o2750)
        path, _, _ = self.new("example.net", "--ed25519")
        self.assertEqual(os.stat(path).st_mode & 0o777, 0o640)

    def test_refused(self) -> None:
        """No key is overwritten, and nothing is written for what is no domain."""
        path, _, _ = self.new("example.net", "--ed25519")
        with open(path, "rb") as file:
            before = file.read()
        words = ("--ed25519", "--directory", self.directory)
        status, said, why = self.run_("new", "example.net", *words)
        self.assertEqual((status, said, why), (2, "", f"deferrals: {path}: File exists\n"))
        with open(path, "rb") as file:
            self.assertEqual(file.read(), before)
        self.assertEqual(self.run_("new", "a b", *words)[0], 2)
        self.assertEqual(self.run_("new", "[192.0.2.1]", *words)[0], 2)
        self.assertEqual(self.run_("new", "example.net", "--selector", "a/b", *words)[0], 2)
        status, _, why = self.run_("new", "example.net", "--directory", f"{self.directory}/none")
        self.assertIn("No such file or directory", why)
        self.assertEqual((status, os.listdir(self.directory)), (2, [os.path.basename(path)]))

    def test_full(self) -> None:
        """Where the disk is full no half of a key is left."""

        def full(path: str) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        with mock.patch.object(durable, "syncWithName", full):
            status, said, why = self.run_("new", "example.net", "--directory", self.directory)
        self.assertEqual((status, said, os.listdir(self.directory)), (2, "", []))
        self.assertIn("No space left on device", why)


class CheckTests(DkimCase):
    """
    C{deferrals dkim check}.
    """

    def setUp(self) -> None:
        super().setUp()
        self.records = {}
        tables = ""
        for domain, kind in (("a.example", "rsa"), ("b.example", "ed25519")):
            path = os.path.join(self.directory, f"{domain}.pem")
            with open(path, "wb") as file:
                file.write(signatures.pem(kind))
            key = privateKey(signatures.pem(kind))
            self.records[domain] = recordOf(kindOf(key), publicOctets(key))
            self.texts[f"s._domainkey.{domain}"] = [self.records[domain].encode()]
            tables += f'[[dkim]]\ndomain = "{domain}"\nselector = "s"\nkey = "{path}"\n'
        self.load(f"{LISTEN}{tables}{RULES}")

    def check(self, *words: str) -> tuple[int, str, str]:
        return self.run_("check", *words, "--config", self.path)

    def test_good(self) -> None:
        """All that DNS has is right."""
        said = "s._domainkey.a.example: good\ns._domainkey.b.example: good\n"
        self.assertEqual(self.check(), (0, said, ""))
        self.assertEqual(self.check("A.Example"), (0, said.partition("\n")[0] + "\n", ""))

    def test_differs(self) -> None:
        """What is wrong is named, with what has to be published."""
        self.texts["s._domainkey.a.example"] = [b"v=DKIM1; p="]
        del self.texts["s._domainkey.b.example"]
        status, said, _ = self.check()
        self.assertEqual(status, 1)
        self.assertIn("s._domainkey.a.example: the TXT record says that the key is revoked", said)
        self.assertIn("s._domainkey.b.example: there is no TXT record", said)
        self.assertIn(f's._domainkey.b.example. IN TXT ( "{self.records["b.example"]}" )', said)

    def test_unknown(self) -> None:
        """What DNS does not say is no difference; what else is wrong still is said."""
        self.texts["s._domainkey.a.example"] = OSError("no answer within 20 seconds")
        self.texts["s._domainkey.b.example"] = []
        status, said, why = self.check()
        self.assertEqual(
            (status, why), (2, "deferrals: s._domainkey.a.example: no answer within 20 seconds\n")
        )
        self.assertIn("s._domainkey.b.example: there is no TXT record", said)

    def test_configuration(self) -> None:
        """A domain or a key that is not there, and a configuration that is none."""
        status, _, why = self.check("c.example")
        self.assertEqual(status, 2)
        self.assertIn("dkim: no [[dkim]] table for c.example", why)
        os.unlink(os.path.join(self.directory, "a.example.pem"))
        status, _, why = self.check()
        self.assertEqual(status, 2)
        self.assertIn("dkim[0].key: expected a file with a private key", why)
        self.assertEqual(self.check("b.example")[0], 0)
        self.path = "/nowhere.toml"
        self.assertEqual(self.check()[0], 2)

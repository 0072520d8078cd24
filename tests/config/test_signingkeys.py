"""
The files with private keys.
"""

from __future__ import annotations

import os

from deferrals.config.signingkeys import keyPath, readKey, readKeys
from deferrals.errors import ConfigError
from deferrals.model.dkimkeys import pemOf
from tests import signatures
from tests.configs import LISTEN, RULES, ConfigCase


class FileTests(ConfigCase):
    """
    L{readKey} and L{readKeys}.
    """

    def test_all(self) -> None:
        """Those of all tables, or of a domain alone; each that cannot be used is named."""
        directory = os.path.abspath(self.mktemp())
        os.mkdir(directory)
        tables = ""
        for domain in ("A.example", "b.example", "gone.example"):
            path = os.path.join(directory, domain)
            tables += f'[[dkim]]\ndomain = "{domain}"\nselector = "s"\nkey = "{path}"\n'
            if domain != "gone.example":
                with open(path, "wb") as file:
                    file.write(signatures.pem("ed25519", len(domain)))
        config = self.load(f"{LISTEN}{tables}{RULES}")
        ((table, secret),) = readKeys(config, "a.example")
        self.assertIs(table, config.dkim[0])
        self.assertEqual(pemOf(secret), signatures.pem("ed25519", len("A.example")))
        self.assertEqual(readKeys(config, "c.example"), [])
        error = self.assertRaises(ConfigError, readKeys, config)
        ((key, what),) = error.problems
        self.assertEqual(key, "dkim[2].key")
        self.assertTrue(what.startswith("expected a file with a private key: "), what)

    def test_relative(self) -> None:
        """A path begins at the configuration's directory; a file that is none is named."""
        table = '[[dkim]]\ndomain = "x.example"\nselector = "s"\nkey = "x.pem"\n'
        config = self.load(f"{LISTEN}{table}{RULES}")
        path = keyPath(config, config.dkim[0])
        self.assertEqual(path, os.path.join(config.baseDir, "x.pem"))
        self.addCleanup(os.unlink, path)
        error = self.assertRaises(ValueError, readKey, config, config.dkim[0])
        self.assertIn(f"a file with a private key: {path}: No such file", str(error))
        with open(path, "wb") as file:
            file.write(signatures.pem("ed25519"))
        self.assertEqual(pemOf(readKey(config, config.dkim[0])), signatures.pem("ed25519"))
        with open(path, "wb") as file:
            file.write(b"x")
        error = self.assertRaises(ValueError, readKey, config, config.dkim[0])
        self.assertEqual(str(error), f"a private key in PEM: {path}")

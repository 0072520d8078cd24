"""
What a configuration makes of refusals.
"""

from __future__ import annotations

import os
from typing import Any

from twisted.internet.task import Clock

from deferrals.app.refusals import templatesOf
from deferrals.app.service import MailService
from deferrals.config.tables import Config
from deferrals.errors import ConfigError
from deferrals.model.digest import Templates
from deferrals.testing import makeEnvelope, makeRecipient
from tests.configs import LISTEN, RULES, ConfigCase
from tests.server.test_admissions import SPAM


class RefusalKeepingTests(ConfigCase):
    """
    L{RefusalKeeping<deferrals.app.refusals.RefusalKeeping>}, in a server that is not
    started.
    """

    def config(self, refusals: str = "", web: str = "") -> Config:
        return self.load(f"{LISTEN}{RULES}\n[refusals]\n{refusals}\n{web}\n")

    def service(self, config: Config) -> MailService:
        clock: Any = Clock()
        return MailService(config, clock, lambda: config)

    def test_off(self) -> None:
        """By default nothing is kept, and there is no file."""
        service = self.service(self.config())
        self.assertIsNotNone(service.server.refused)
        assert service.server.refused is not None
        recipient = makeRecipient("user@example.net", "strict")
        service.server.refused(makeEnvelope(), recipient, "content", SPAM, None)
        self.assertEqual(service.reactor.getDelayedCalls(), [])  # type: ignore[attr-defined]
        self.assertFalse(os.path.exists(service.config.refusalsPath))
        self.assertNotIn("refusals", service.server.status.parts())

    def test_on(self) -> None:
        """How many there are is shown."""
        service = self.service(self.config('keep = "14d"'))
        self.assertEqual(service.server.status.parts()["refusals"], {"kept": 0})

    def test_templates(self) -> None:
        """Texts of digests that cannot be used are said at the start."""
        self.assertEqual(templatesOf(self.config()), Templates())
        directory = os.path.abspath(self.mktemp())
        wrong = self.config(f'digest_template = "{directory}"')
        error = self.assertRaises(ConfigError, templatesOf, wrong)
        self.assertIn("refusals.digest_template", str(error))
        os.makedirs(directory)
        for name, text in (("digest.txt", "$count"), ("digest.html", "<p>$entries</p>")):
            with open(os.path.join(directory, name), "w", encoding="utf-8") as file:
                file.write(text)
        self.assertEqual(templatesOf(wrong).text.template, "$count")

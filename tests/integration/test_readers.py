"""
C{match} beside Dovecot, rspamd, Python, unzip and bsdtar: see L{tests.readers}.
"""

from __future__ import annotations

import os
from collections import Counter

from tests.integration.support import ROOT, IntegrationCase, program
from tests.readers import imap
from tests.readers.archives import archives
from tests.readers.compare import Exempted, archived, differences, made
from tests.readers.dump import AT_ONCE
from tests.readers.exemptions import EXEMPTIONS
from tests.readers.mails import messages
from tests.readers.shown import archive
from tests.rigs import rig

SEED = 26


class ReadersTests(IntegrationCase):
    """
    What one of them shows is seen.
    """

    def test_messages(self) -> None:
        """Each file name and each decoded content of generated messages."""
        program(imap.PROGRAM)
        program("rspamadm")
        count = rig(100, 500)
        exempted: Exempted = Counter()
        for number, start in enumerate(range(0, count, AT_ONCE)):
            found = made(messages(), min(AT_ONCE, count - start), SEED + number)
            self.assertEqual(differences(found, exempted), [])
        print(f"{count} messages; differences that may be: {dict(exempted)}")

    def test_reasons(self) -> None:
        """The documentation names each difference that may be, and no other."""
        with open(os.path.join(ROOT, "docs", "stages", "match.md"), encoding="utf-8") as file:
            text = file.read().partition("counted by each run:")[2].partition("Not looked")[0]
        found = [line.removeprefix("- ") for line in text.splitlines() if line]
        self.assertEqual(found, [one.reason for one in EXEMPTIONS])

    def test_archives(self) -> None:
        """Each member of generated archives."""
        program("unzip")
        program("bsdtar")
        for data, name in made(archives(), rig(30, 100), SEED):
            self.assertEqual(archived(data, name, archive(data, name)), set(), data)

"""
What rules want to know of a message.
"""

from __future__ import annotations

from collections.abc import Iterator

from twisted.trial.unittest import SynchronousTestCase

from deferrals.stages.content.match import findings
from deferrals.stages.content.match.contents import File, files
from deferrals.stages.content.match.findings import EICAR, Finding, Findings
from deferrals.stages.content.match.mime import Buffer
from tests.mails import mail, zipped

_ALL: frozenset[Finding] = frozenset(
    ("texts", "names", "mimeTypes", "kinds", "archived", "isEicar")
)


class FindingsTests(SynchronousTestCase):
    """
    L{Findings}.
    """

    def setUp(self) -> None:
        self.passes = 0
        self.patch(findings, "files", self._counted)
        archive = zipped({"a.exe": b"MZ"})
        attached = [("x.zip", "application/zip", archive), ("e.com", "a/b", EICAR)]
        self.data = mail(text="hello", attachments=attached).as_bytes()

    def _counted(self, data: Buffer) -> Iterator[File]:
        self.passes += 1
        return files(data)

    def test_onePass(self) -> None:
        """All that is wanted is found in one pass, and not sought again."""
        found = Findings()
        for wanted in (_ALL, _ALL, {"names"}):
            found.look(self.data, frozenset(wanted))
        self.assertEqual(self.passes, 1)
        self.assertIn("hello\n", [text.replace("\r", "") for text in found.texts])
        self.assertEqual(found.names, {"x.zip", "e.com"})
        self.assertIn("application/zip", found.mimeTypes)
        self.assertIn("zip", found.kinds)
        self.assertEqual(
            (found.archived, found.isUnreadable, found.isEicar), ({"a.exe"}, False, True)
        )

    def test_asked(self) -> None:
        """What is not asked for is not looked for, and found when it is."""
        found = Findings()
        found.look(self.data, {"names"})
        self.assertEqual((found.texts, found.kinds, found.isEicar), ([], set(), False))
        found.look(self.data, {"isEicar", "names"})
        self.assertEqual((found.isEicar, self.passes), (True, 2))
        found.look(self.data, frozenset())
        self.assertEqual(self.passes, 2)

    def test_unreadable(self) -> None:
        """An archive that is cut off."""
        found = Findings()
        cut = zipped({"a.exe": b"MZ" * 100})[:-30]
        data = mail(attachments=[("x.zip", "application/zip", cut)]).as_bytes()
        found.look(data, {"archived"})
        self.assertEqual((found.archived, found.isUnreadable), ({"a.exe"}, True))

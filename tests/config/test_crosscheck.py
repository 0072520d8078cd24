"""
What no single table of a configuration can know.
"""

from __future__ import annotations

import os

from deferrals.config.crosscheck import remarks
from tests.configs import LISTEN, ConfigCase


def listening(*endpoints: str) -> str:
    """Listeners at these endpoints."""
    return "".join(f"[[listen]]\nendpoint = '{one}'\n" for one in endpoints)


class EndpointTests(ConfigCase):
    """
    Endpoints that can never be.
    """

    def test_ports(self) -> None:
        """A port has a number up to 65535."""
        for good in ("tcp:65535", "tcp:port=25", "tcp:0", "unix:/run/99999", "tcp6:25"):
            self.load(listening(good))
        for bad in ("tcp:65536", "tcp:port=99999", "haproxy:tcp:99999", "ssl:70000:x=y"):
            self.assertEqual(
                self.problems(listening(bad)), ["listen[0].endpoint: a port up to 65535"]
            )

    def test_interface(self) -> None:
        """An interface is an address: a name would be found out when listening."""
        for good in (
            "tcp:25:interface=127.0.0.1",
            r"tcp6:25:interface=\\:\\:1",
            "tcp:25:interface=",
        ):
            self.load(listening(good.replace("\\\\", "\\")))
        for bad in ("tcp:25:interface=mx.example.net", "haproxy:tcp:25:interface=eth0"):
            (problem,) = self.problems(listening(bad))
            self.assertIn("an address of this machine", problem)

    def test_twice(self) -> None:
        """Two listeners are not in one place."""
        here, six = "tcp:25:interface=127.0.0.1", "tcp6:25:interface=\\:\\:1"
        for one, two, isOne in (
            ("tcp:25", "tcp:25", True),
            ("tcp:25", here, True),
            (here, here, True),
            (here, "tcp:25:interface=127.0.0.2", False),
            (here, "tcp:26:interface=127.0.0.1", False),
            ("tcp:25", "tcp6:25", True),
            ("tcp6:25", here, True),
            ("tcp6:25", six, True),
            ("tcp:25", six, False),
            (here, six, False),
            ("tcp:0", "tcp:0", False),
            ("unix:/run/a", "unix:/run/a", True),
            ("unix:/run/a", "unix:/run/b", False),
            ("haproxy:tcp:25", "tcp:25", True),
        ):
            for first, second in ((one, two), (two, one)):
                text = listening(first, second)
                if isOne:
                    (problem,) = self.problems(text)
                    what = "listen[1].endpoint: another place than that of listen[0]"
                    self.assertTrue(problem.startswith(what), problem)
                else:
                    self.load(text)


class RemarkTests(ConfigCase):
    """
    What is allowed, and hardly meant.
    """

    def remarks(self, *matches: str, more: str = "") -> list[tuple[str, str]]:
        """Of rules for these, in order."""
        rules = "".join(
            f"[[recipients]]\nmatch = '{match.removesuffix(' home')}'\npolicy = 'gone'\n"
            + ("allow = ['192.0.2.0/24']\n" if match.endswith(" home") else "")
            for match in matches
        )
        return remarks(self.load(f"{LISTEN}{more}[policies.gone]\nenvelope = 'refuse'\n{rules}"))

    def test_unreachable(self) -> None:
        """A rule behind one that is for all of its recipients is never asked."""
        for before, behind in (
            ("a@x.example", "A@X.example"),
            ("*@x.example", "a@x.example"),
            ("*@*.example", "*@x.example"),
            ("*@*.example", "*@*.x.example"),
            ("*", "*@*.example"),
        ):
            ((key, what),) = self.remarks("*@other.example", before, behind)
            self.assertEqual(key, "recipients[2].match")
            self.assertIn("recipients[1] is for all of these already", what)

    def test_reachable(self) -> None:
        """One that is for others as well, or stands behind a rule for some clients, is."""
        for before, behind in (
            ("a@x.example", "*@x.example"),
            ("*@x.example", "*@*.x.example"),
            ("*@*.x.example", "*@x.example"),
            ("*@*.x.example", "*@y-x.example"),
            ("*@x.example home", "*@x.example"),
        ):
            self.assertEqual(self.remarks(before, behind), [])

    def stageRemarks(self, content: str, deliver: str, check: str = "") -> list[tuple[str, str]]:
        """Of one policy's content, and one rule's delivery and check."""
        rule = f"match = '*@x.example'\npolicy = 'a'\ndeliver = {deliver}\ncheck = [{check}]\n"
        text = f"{LISTEN}[policies.a]\ncontent = [{content}]\n[[recipients]]\n{rule}"
        return remarks(self.load(text))

    def test_stages(self) -> None:
        """Files that are not there, marks that no mail gets, one mailbox for many."""
        here = os.path.abspath(__file__)
        good = "{ use = 'maildir', path = 'mail/{local}' }"
        for content, deliver, check, keys in (
            ("{ use = 'rspamd', refuse_score = 6, mark_score = 3 }", good, "", []),
            (
                "{ use = 'rspamd', refuse_score = 6, mark_score = 6 }",
                *(good, "", ["policies.a.content[0].mark_score"]),
            ),
            ("", "{ use = 'maildir', path = 'mail' }", "", ["recipients[0].deliver.path"]),
            ("", "{ use = 'pipe', command = ['/bin/sh'] }", "", []),
            (
                *("", "{ use = 'pipe', command = ['/no/where'] }", ""),
                ["recipients[0].deliver.command"],
            ),
            ("", good, f"{{ use = 'users', sqlite = '{here}' }}", []),
            ("", good, "{ use = 'users', sqlite = 'no.db' }", ["recipients[0].check[0].sqlite"]),
        ):
            found = self.stageRemarks(content, deliver, check)
            self.assertEqual([key for key, _ in found], keys)

    def test_unused(self) -> None:
        """A policy that no rule has."""
        found = self.remarks("*@x.example", more="[policies.other]\n")
        self.assertEqual(found, [("policies.other", "no rule has it")])

"""
What a policy does.
"""

from __future__ import annotations

from typing import Any

from deferrals.model.recent import STEPS, stepOf
from deferrals.web.policypage import Scoring
from tests.web.rig import HOSTILE, ID, SiteCase


class PolicyTests(SiteCase):
    """
    C{/policy}, and C{/policy/NAME}.
    """

    def seen(self, *scores: float, limits: Any = ()) -> None:
        counts = [0] * STEPS
        for one in scores:
            counts[stepOf(one)] += 1
        found = {"counts": counts, "limits": list(limits)}
        self.answers["policy"] = {"lately": [], "scores": {"rspamd": found}}

    def test_all(self) -> None:
        """All of the configuration, with what they have answered."""
        self.status.count("verdicts", ("content", "strict", "550"), 1234)
        self.status.count("verdicts", ("content", "gone", "550"))
        self.status.count("verdicts", "other")
        text = self.get("/policy").text
        self.assertIn("1,234", text)
        self.assertIn('href="/policy/open"', text)
        self.assertNotIn("gone", text)

    def test_unknown(self) -> None:
        """Another one is not there."""
        for path in (
            "/policy/gone",
            "/policy/",
            "/policy/strict/x",
            "/policy/%2e%2e",
            "/policy/%ff",
        ):
            self.assertEqual(self.get(path).code, 404, path)

    def test_anyName(self) -> None:
        """A name may have whatever TOML takes: its links lead to it."""
        self.policies = {"a/b?c#d %": [Scoring("rspamd", 15, 6)]}
        self.build()
        self.seen(1)
        path = "/policy/a%2Fb%3Fc%23d%20%25"
        self.assertIn(f'href="{path}"', self.get("/policy").text)
        answer = self.get(path)
        self.assertEqual(answer.code, 200)
        self.assertIn(f'action="{path}"', answer.text)

    def test_scores(self) -> None:
        """Its limits over the scores, and what another one would do."""
        self.seen(1, 2, 7, 8, 16, limits=[[15.0, 6.0, 4], [None, None, 1], [20.0, None, 1]])
        answer = self.get("/policy/strict?at=7.5")
        for text in ("refuse 15", "mark 6", "refuse 20", "at 7.5"):
            self.assertIn(text, answer.text)

        def row(label: str, count: int, share: str) -> str:
            cells = (("Limit", label), ("Recipients", str(count)), ("Share", share))
            made = (
                f'<td role="cell" data-label="{name}"><div>{text}</div></td>'
                for name, text in cells
            )
            return "".join(made)

        for label, count, share in (
            ("refuse 15", 1, "20.0 %"),
            ("mark 6", 3, "60.0 %"),
            ("at 7.5", 2, "40.0 %"),
        ):
            self.assertIn(row(label, count, share), answer.text)

    def test_none(self) -> None:
        """A policy that has seen no score, and one whose scanner decides."""
        self.assertIn("None since the server began", self.get("/policy/strict").text)
        self.policies["strict"] = [Scoring("rspamd")]
        self.build()
        self.seen()
        self.assertIn("itself says", self.get("/policy/strict").text)
        self.seen(3, limits=[[float("inf"), None, 1]])
        self.assertEqual(self.get("/policy/strict").code, 200)

    def test_at(self) -> None:
        """A limit is a number, wherever it lies."""
        self.seen(3)
        for at in ("x", "nan", "inf", "1e999", "--1"):
            self.assertEqual(self.get(f"/policy/strict?at={at}").code, 400, at)
        for at in ("-1e300", "1e300", "0", "-10", "40"):
            self.assertEqual(self.get(f"/policy/strict?at={at}").code, 200, at)

    def test_lately(self) -> None:
        """What it has refused and marked, whatever anybody has said."""
        one = dict.fromkeys(("sender", "recipient", "why"), HOSTILE)
        self.answers["policy"]["lately"] = [
            {"time": 1e9, "transaction": ID, "reply": f"{code} {HOSTILE}", **one}
            for code in ("550", "451", "250")
        ]
        answer = self.harmless(self.get("/policy/strict"))
        for text in ("refused</span>", "refused for now</span>", "marked</span>"):
            self.assertIn(text, answer.text)

"""
A configuration in sentences.
"""

from __future__ import annotations

from deferrals.config.explaining import explained
from tests.configs import LISTEN, ConfigCase

TEXT = f"""
hostname = "mx.example.net"
{LISTEN.replace("none", "out")}[deliveries.out]
use = "mx"
[policies.open]
envelope = "accept"
[policies.strict]
content = [ {{ use = "match", rules = [ {{ test = "gtube" }} ] }} ]
[policies.gone]
envelope = "refuse"
[[recipients]]
match = "old@example.net"
policy = "gone"
[[recipients]]
match = "*@example.net"
policy = "strict"
deliver = {{ use = "maildir", path = "mail/{{local}}" }}
[[recipients]]
match = "*"
policy = "open"
allow = ["192.0.2.0/24"]
deliver = "out"
"""


class ExplainedTests(ConfigCase):
    """
    L{explained}.
    """

    def test_lines(self) -> None:
        """Listeners, rules in their order, and who is told of what fails."""
        found = list(explained(self.load(TEXT)))
        self.assertTrue(found[0].startswith("mx.example.net, state in /"))
        self.assertEqual(
            found[1:],
            [
                "listens on tcp:2525: smtp, without TLS, logins: no, recipients that differ: retry",
                "rule 0: old@example.net: policy gone: refused",
                "rule 1: *@example.net: policy strict: decided after the data by match;"
                " delivered by maildir",
                "rule 2: *: only from 192.0.2.0/24; policy open: accepted in the envelope, without"
                " a look at the content; delivered by out (mx)",
                "any other recipient: 550 5.1.1 in a domain that a rule names, 550 5.7.1 elsewhere",
                "mail that was accepted for *@example.net, * may fail later: senders are told,"
                " elsewhere by out",
            ],
        )

    def test_failing(self) -> None:
        """What becomes of mail that fails."""
        last = [*explained(self.load(LISTEN))][-1]
        self.assertEqual(last, "no accepted mail can fail")
        text = TEXT.replace('bounces = "out"', 'bounces = "none"')
        self.assertIn("senders elsewhere are not told", [*explained(self.load(text))][-1])

    def test_left(self) -> None:
        """A policy that accepts in the envelope, unless a check leaves it to the content."""
        content = 'content = [ { use = "match", rules = [ { test = "gtube" } ] } ]'
        text = TEXT.replace('envelope = "accept"', f'envelope = "accept"\n{content}')
        wanted = "at the content; where a check leaves it to the content: decided by match; "
        self.assertIn(wanted, next(one for one in explained(self.load(text)) if "rule 2" in one))

    def test_forwarding(self) -> None:
        """Where reports go that come to rewritten reverse paths."""
        srs = '[srs]\ndomain = "example.net"\nsecret_file = "srs.secret"\n[deliveries.out]'
        found = list(explained(self.load(TEXT.replace("[deliveries.out]", srs))))
        wanted = "reports to reverse paths rewritten at example.net: back to their senders by out"
        self.assertIn(wanted, found)

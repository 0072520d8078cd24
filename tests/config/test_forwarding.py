"""
What forwarding needs of a configuration.
"""

from __future__ import annotations

from deferrals.config.forwarding import sealed
from tests.configs import ConfigCase

BASE = """
hostname = "mx.example.net"
bounces = "out"
[[listen]]
endpoint = "tcp:2525"
[deliveries.out]
use = "mx"
[deliveries.box]
use = "discard"
[deliveries.fwd]
use = "forward"
through = "out"
[srs]
domain = "example.net"
secret_file = "srs.secret"
[policies.open]
envelope = "accept"
[policies.checked]
[[recipients]]
match = "*@example.net"
policy = "checked"
deliver = "fwd"
"""


class ForwardingTests(ConfigCase):
    """
    L{forwardProblems<deferrals.config.forwarding.forwardProblems>}.
    """

    def found(self, *changes: tuple[str, str]) -> list[str]:
        text = BASE
        for before, after in changes:
            self.assertIn(before, text)
            text = text.replace(before, after)
        return self.problems(text)

    def test_good(self) -> None:
        """What is there is enough; the domain may be the server's own name, or below one."""
        self.load(BASE)
        self.load(BASE.replace('domain = "example.net"', 'domain = "MX.example.net"'))
        below = BASE.replace('domain = "example.net"', 'domain = "srs.example.net"')
        self.load(below.replace("*@example.net", "*@*.example.net"))

    def test_through(self) -> None:
        """Only what leads out, and does not itself forward."""
        for name in ("box", "fwd", "gone"):
            self.assertEqual(
                self.found(('through = "out"', f'through = "{name}"')),
                ["deliveries.fwd.through: the name of a delivery that leads out (out)"],
            )

    def test_inline(self) -> None:
        """The table of a rule, and that of a policy."""
        table = '{ use = "forward", through = "no" }'
        expected = "through: the name of a delivery that leads out (out)"
        self.assertEqual(
            self.found(('deliver = "fwd"', f"deliver = {table}")),
            [f"recipients[0].deliver.{expected}"],
        )
        self.assertEqual(
            self.found(("[policies.checked]", f"[policies.checked]\nquarantine = {table}")),
            [f"policies.checked.quarantine.{expected}"],
        )

    def test_callout(self) -> None:
        """Whose servers can be asked: what leads out, forwarding, a mail store."""
        check = 'deliver = "fwd"\ncheck = [ { use = "callout", through = "fwd" } ]'
        store = '[deliveries.store]\nuse = "lmtp"\nendpoint = "unix:/x"\n[deliveries.out]'
        text = BASE.replace('deliver = "fwd"', check).replace("[deliveries.out]", store)
        for name in ("fwd", "out", "store"):
            self.load(text.replace('through = "fwd" }', f'through = "{name}" }}'))
        wanted = "the name of a delivery whose servers can be asked (store, out, fwd)"
        self.assertEqual(
            self.problems(text.replace('through = "fwd" }', 'through = "box" }')),
            [f"recipients[0].check[0].through: {wanted}"],
        )

    def test_noSRS(self) -> None:
        """No forwarding without it."""
        srs = BASE[BASE.index("[srs]") : BASE.index("[policies.open]")]
        self.assertEqual(
            self.found((srs, "")), ["srs: a table: deliveries.fwd rewrites reverse paths by it"]
        )

    def test_sealed(self) -> None:
        """Which deliveries have to seal: those that say so."""
        self.assertEqual(sealed(self.load(BASE)), [])
        self.assertEqual(
            sealed(self.load(BASE.replace('through = "out"', 'through = "out"\narc = true'))),
            ["deliveries.fwd.arc"],
        )
        self.assertEqual(
            sealed(self.load(BASE.replace('through = "out"', 'through = "out"\narc = false'))), []
        )

    def test_domain(self) -> None:
        """Its mail has to come here: a rule for some clients only is none."""
        wanted = (
            "srs.domain: a domain that a rule for all names, or hostname: mail for it comes here"
        )
        self.assertEqual(
            self.found(('domain = "example.net"', 'domain = "other.example"')), [wanted]
        )
        self.assertEqual(
            self.found(('deliver = "fwd"', 'deliver = "fwd"\nallow = ["authenticated"]')), [wanted]
        )
        (problem,) = self.found(('domain = "example.net"', 'domain = "no domain"'))
        self.assertTrue(problem.startswith("srs.domain: expected a domain, such as"), problem)

    def test_bounces(self) -> None:
        """Senders elsewhere are told by a delivery."""
        (problem,) = self.found(('bounces = "out"', 'bounces = "none"'))
        self.assertTrue(problem.startswith("bounces: the name of a delivery, since there is"))

    def test_file(self) -> None:
        """Marked mail is filed where its policy says."""
        marked = ('through = "out"', 'through = "out"\nmarked = "file"')
        (problem,) = self.found(marked)
        self.assertTrue(problem.startswith("policies.checked.quarantine: a delivery"), problem)
        text = BASE.replace(*marked)
        self.load(text.replace("[policies.checked]", '[policies.checked]\nquarantine = "box"'))
        self.load(text.replace('policy = "checked"', 'policy = "open"'))

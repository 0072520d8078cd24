"""
What no single table of a configuration can know.
"""

from __future__ import annotations

import os

from deferrals.config.crosscheck import aliasRemarks, remarks
from tests.configs import LISTEN, RULES, ConfigCase
from tests.work import linesRun


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

    def test_unsigned(self) -> None:
        """Notices are from the server itself: a key of another domain does not sign them."""
        out = "[deliveries.out]\nuse = 'mx'\n"
        for domain, sign, bounces, count in (
            ("example.net", "", "out", 1),
            ("MX.example.net", "", "out", 0),
            ("example.net", "sign = ['submission']\n", "out", 0),
            ("example.net", "", "none", 0),
        ):
            key = f"[[dkim]]\ndomain = '{domain}'\nselector = 's'\nkey = 'k'\n{sign}"
            top = f"hostname = 'mx.example.net'\n{LISTEN.replace('none', bounces)}"
            found = [one for one in remarks(self.load(top + key + out + RULES)) if one[0] == "dkim"]
            self.assertEqual(len(found), count, (domain, sign, bounces))

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

    def test_manyRules(self) -> None:
        """What is said of four times as many rules takes four times as long: a reload says it."""
        few, many = (
            self.load(
                f"{LISTEN}[policies.gone]\nenvelope = 'refuse'\n"
                + "".join(
                    f"[[recipients]]\nmatch = 'u{n}@d{n}.x.example'\npolicy = 'gone'\n"
                    for n in range(count)
                )
            )
            for count in (50, 200)
        )
        remarks(few)
        self.assertLess(linesRun(remarks, many), 5 * linesRun(remarks, few))

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
                "",
                "{ use = 'smtp', endpoint = 'tls:x:465', user = 'a', password_file = 'no' }",
                *("", ["recipients[0].deliver.password_file"]),
            ),
            (
                *("", "{ use = 'pipe', command = ['/no/where'] }", ""),
                ["recipients[0].deliver.command"],
            ),
            ("", good, f"{{ use = 'users', sqlite = '{here}' }}", []),
            ("", good, "{ use = 'users', sqlite = 'no.db' }", ["recipients[0].check[0].sqlite"]),
            *(
                ("", good, f"{{ use = 'aliases', file = '{file}', refusers = 'drop' }}", keys)
                for file, keys in ((here, []), ("none", ["recipients[0].check[0].file"]))
            ),
        ):
            found = self.stageRemarks(content, deliver, check)
            self.assertEqual([key for key, _ in found], keys)

    def test_tables(self) -> None:
        """Files of tables that are not there."""
        for path, keys in ((os.path.abspath(__file__), []), ("no.db", ["tables.people.path"])):
            table = f"[tables.people]\nuse = 'file'\npath = '{path}'\n"
            self.assertEqual([key for key, _ in remarks(self.load(LISTEN + table))], keys)

    def test_aliases(self) -> None:
        """Where what members refuse is filed, each policy that may refuse says where."""
        rule = (
            "[[recipients]]\nmatch = '*@x.example'\npolicy = 'open'\n"
            "deliver = { use = 'discard' }\ncheck = [ { use = 'aliases', file = 'a'%s } ]\n"
        )
        policies = "[policies.open]\nenvelope = 'accept'\n[policies.strict]\n%s"
        filed = "quarantine = { use = 'discard' }\n"
        self.load(LISTEN + policies % filed + rule % "")
        dropped = rule % ", refusers = 'drop'"
        self.load(LISTEN + policies % "" + dropped)
        (problem,) = self.problems(LISTEN + policies % "" + rule % "")
        self.assertIn("policies.strict.quarantine: a delivery: recipients[0].check[0] may", problem)

    def test_aliasFaults(self) -> None:
        """Lines of a file of aliases that cannot be read, each with its number."""
        rule = "[[recipients]]\nmatch = '*@x.example'\npolicy = 'open'\ndeliver = 'box'\n"
        rule += "check = [ { use = 'aliases', file = '%s', refusers = 'drop' } ]\n"
        rule += "[policies.open]\nenvelope = 'accept'\n[deliveries.box]\nuse = 'discard'\n"
        path = os.path.abspath(self.mktemp())
        for text, expected in (
            ("a: b\n", []),
            ("a: |b\nc: d\ne\n", [f"{path}, line 1: a program", f"{path}, line 3: expected"]),
            ("a: /b\n" * 30, [f"{path}, line 1: a file", *[f"{path}, line"] * 19, f"{path}: 10"]),
        ):
            with open(path, "w", encoding="ascii") as file:
                file.write(text)
            found = list(aliasRemarks(self.load(LISTEN + rule % path)))
            self.assertEqual(len(found), len(expected), found)
            for (key, problem), words in zip(found, expected, strict=True):
                self.assertEqual(key, "recipients[0].check[0].file")
                self.assertTrue(problem.startswith(words), problem)
        os.unlink(path)
        self.assertEqual(list(aliasRemarks(self.load(LISTEN + rule % path))), [])
        os.mkdir(path)
        ((_, problem),) = aliasRemarks(self.load(LISTEN + rule % path))
        self.assertIn("cannot be read", problem)

    def test_score(self) -> None:
        """A script goes by the score of a stage before it."""
        sieve, rspamd = "{ use = 'sieve', path = 'x', score = 'rspamd' }", "{ use = 'rspamd' }"
        policy = "[policies.a]\ncontent = [%s]\n"
        self.load(LISTEN + policy % f"{rspamd}, {sieve}")
        for content, there in (
            (f"{sieve}, {rspamd}", "none there"),
            (f"{{ use = 'spamassassin', socket = 'tcp:x:1' }}, {sieve}", "spamassassin"),
        ):
            problems = str(self.problems(LISTEN + policy % content))
            self.assertIn(f"the use of a stage before this one ({there})", problems)

    def test_program(self) -> None:
        """What runs users' scripts, where it is not there."""
        policy = "[policies.a]\ncontent = [{ use = 'sieve', path = 'x', program = '%s' }]\n"
        for program, keys in (("sh", []), ("/no/where", ["policies.a.content[0].program"])):
            found = [key for key, _ in remarks(self.load(LISTEN + policy % program))]
            self.assertEqual([key for key in found if "content" in key], keys)

    def test_unjudged(self) -> None:
        """Content stages of a policy that accepts, where no check leaves anything to them."""
        policy = "[policies.a]\nenvelope = 'accept'\ncontent = [{ use = 'rspamd' }]\n"
        rule = "[[recipients]]\nmatch = '*@x.example'\npolicy = 'a'\n"
        rule += "deliver = { use = 'maildir', path = 'mail/{local}' }\n"
        check = "check = [{ use = 'dnsbl', lists = [{ zone = 'zen.example' }] }]\n"
        found = [key for key, _ in remarks(self.load(LISTEN + policy + rule))]
        self.assertEqual(found, ["policies.a.content"])
        self.assertEqual(remarks(self.load(LISTEN + policy + rule + check)), [])

    def test_accepting(self) -> None:
        """A policy that accepts may refuse by its content, and then needs a quarantine."""
        listen = LISTEN.replace("[[listen]]", "[[listen]]\nmixed = 'file'")
        policy = "[policies.a]\nenvelope = 'accept'\n"
        self.load(listen + policy)
        problems = self.problems(f"{listen}{policy}content = [{{ use = 'rspamd' }}]\n")
        self.assertIn("policies.a.quarantine", str(problems))

    def test_quarantine(self) -> None:
        """A filter that may quarantine needs a place for that."""
        content = "content = [{ use = 'milter', socket = 'unix:/a', may = ['quarantine'] }]\n"
        problems = self.problems(f"{LISTEN}[policies.a]\n{content}")
        wanted = "policies.a.content[0]: expected a quarantine for this policy: milter may"
        self.assertIn(f"{wanted} quarantine", str(problems))
        self.load(f"{LISTEN}[policies.a]\nquarantine = {{ use = 'discard' }}\n{content}")
        bad = content.replace("'quarantine'", "'header'")
        problems = self.problems(f"{LISTEN}[policies.a]\n{bad}")
        wanted = 'policies.a.content[0].may: expected headers or quarantine, not "header"'
        self.assertIn(wanted, str(problems))

    def test_unused(self) -> None:
        """A policy that no rule has."""
        found = self.remarks("*@x.example", more="[policies.other]\n")
        self.assertEqual(found, [("policies.other", "no rule has it")])

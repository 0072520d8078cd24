"""
The work of every parser of outside octets grows with its input, not faster.

Each parser in L{tests.growth.parsers} is fed with hostile inputs of the sizes
n/4, n and 4n, made by hand and by hypothesis, in a process of its own in which
the package's operations are counted (L{tests.growth.instrument}): calls,
iterations, octets and items that are copied or searched, steps of regular
expressions; in libraries that parse for us, too.  No clock is asked.

What it can see: a loop in a loop; octets, text or a list made anew for each
piece; C{in} and C{find} that begin anew; patterns that go back; work done for
each recipient again.  What it cannot see: quadratic steps within C code of
libraries beyond copying and searching, which counts as linear; a step that only
input shows which no shape in the table is like; one so small that it does not
count beside the rest at the sizes of the table; what is bounded below them.
"""

from __future__ import annotations

import ast
import functools
import json
import os
import re
import subprocess
import sys
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from deferrals.model import address, extensions, proxyprotocol, sasl, spfmacro, spfrecord, trace
from deferrals.model import reply as replies
from deferrals.smtp.client import replies as hopReplies
from deferrals.stages.content import spamassassin
from deferrals.stages.content.match import fields
from tests.growth import samples
from tests.growth.parsers import PARSERS
from tests.growth.regex import Matcher
from tests.rigs import rig
from tests.test_layout import modules

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

#: Four times as much costs four times as much, and something for rounding; a
#: quadratic step would cost sixteen times as much.
MOST = 6.5

#: Shapes of hypothesis's for each parser.
EXAMPLES = int(os.environ.get("DEFERRALS_GROWTH_EXAMPLES", rig(0, 1)))

#: Modules that take text apart, and are not in the table.
ELSEWHERE = {
    **dict.fromkeys(
        (
            "adapters.py",
            "app/log.py",
            "app/output.py",
            "app/permissions.py",
            "cli.py",
            "config/crosscheck.py",
            "config/places.py",
            "config/structuring.py",
            "config/workers.py",
            "model/passwords.py",
            "model/schedule.py",
            "model/settings.py",
            "model/store.py",
            "model/web.py",
            "operator/commands.py",
            "operator/control.py",
            "operator/explain.py",
            "operator/init.py",
            "operator/output.py",
            "operator/refusals.py",
            "operator/restingnotes.py",
            "operator/reload.py",
            "operatorfiles.py",
            "plugins/editable.py",
            "plugins/finding.py",
            "server/network.py",
            "stages/envelope/aliasbook.py",
            "stages/tables/query.py",
            "stages/tables/sqlite.py",
            "smtp/client/connections.py",
            "spool/postgresql/connection.py",
            "spool/postgresql/entrance.py",
            "stages/envelope/aliasbook.py",
            "stages/envelope/rules.py",
            "stages/envelope/submission.py",
            "stages/envelope/users.py",
            "stages/content/authenticate.py",
            "tap.py",
            "tls.py",
        ),
        "the operator's own text",
    ),
    **dict.fromkeys(
        (
            "logger.py",
            "model/events.py",
            "model/ids.py",
            "model/admission.py",
            "operator/merging.py",
            "server/digests.py",
            "server/tellings.py",
            "server/linkkey.py",
            "server/refusaldesk.py",
            "spool/refusals.py",
            "spool/sqlite/files.py",
            "server/sharednotes.py",
            "spool/postgresql/contents.py",
            "spool/postgresql/directory.py",
            "spool/postgresql/notes.py",
            "spool/rows.py",
            "spool/shown.py",
            "spool/sqlite/rescue.py",
            "server/limits.py",
            "server/notes.py",
            "server/queue.py",
            "server/secret.py",
        ),
        "what was written by this server",
    ),
    "model/store.py": "the operator's own text",
    "server/sealing.py": "names of fields, which the parser of signing.py has read",
    "stages/milter/link.py": "messages, each looked at once; what comes is read in wire.py",
    "stages/milter/macros.py": "a dozen names, and those of the configuration",
    "web/mine.py": "a path, which has a bound; links are read in model/link.py",
    **dict.fromkeys(
        (
            "web/answers.py",
            "web/messagepage.py",
            "web/policypage.py",
            "web/streaming.py",
        ),
        "a path and parameters, which Twisted has taken apart; a request has 16 KiB",
    ),
    "model/recent.py": "words of events, each within its bound",
    "stages/tables/frame.py": "columns by name; a source's answer has a bound",
    "smtp/client/pool.py": "finds by key; what is found was read in replies.py",
    "auth/dovecot.py": "lines of 8 KiB, each split once",
    "auth/throttle.py": "a name of a login, whose line has a bound",
    **dict.fromkeys(
        ("testing/servers.py", "testing/spoolcontract.py"),
        "for tests",
    ),
    **dict.fromkeys(
        (
            "auth/authenticator.py",
            "auth/checker.py",
            "model/disposition.py",
            "model/mixedgroup.py",
            "smtp/server/greetings.py",
            "model/verdict.py",
            "relay/destinations.py",
            "relay/notices.py",
            "server/sealing.py",
            "server/admissions.py",
            "smtp/client/describing.py",
            "smtp/client/transfer.py",
            "stages/content/rspamd.py",
            "stages/content/scanner.py",
            "stages/delivery/maildir.py",
            "stages/delivery/pipe.py",
            "stages/processgroup.py",
            "stages/content/sieveprogram.py",
            "stages/delivery/quota.py",
            "stages/envelope/callout.py",
            "stages/envelope/listzone.py",
        ),
        "names and addresses that others have parsed, each within its bound",
    ),
}

#: What takes text apart.
_READS = re.compile(
    r"re2?\.compile|\.r?split\(|\.r?partition\(|\.r?find\(|\.decode\(|json\.loads"
    r"|def dataReceived|struct\.unpack|b64decode|a2b_"
)


def measured() -> dict[str, Any]:
    """
    What parsers cost, by their names.
    """
    command = [sys.executable, "-m", "tests.growth", str(EXAMPLES)]
    environment = {**os.environ, "PYTHONPATH": ROOT}
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    if done.returncode or done.stderr:
        raise RuntimeError(done.stderr.decode("utf-8", "replace")[-2000:])
    return {found[0]: found for found in map(json.loads, done.stdout.splitlines())}


class GrowthTests(SynchronousTestCase):
    """
    The table.  One test alone measures, which takes a while: in each of several
    processes that share the tests, it would take that again.
    """

    def test_linear(self) -> None:
        """
        No parser's work grows faster than its input, but where the table says why.
        What is quadratic is seen, and what is not is not taken for it.
        """
        found = measured()
        for function in samples.QUADRATIC:
            self.assertGreater(found[f"sample {function.__name__}"][2], 2 * MOST)
        for function in samples.LINEAR:
            self.assertLess(found[f"sample {function.__name__}"][2], MOST)
        wrong = [
            f"{name}: {units} units, {ratio:.1f} times as much, with {shape}"
            for name, _, ratio, shape, units, known in found.values()
            if ratio > MOST and not known and not name.startswith("sample")
        ]
        self.assertEqual(wrong, [])
        self.assertEqual({parser.name for parser in PARSERS} - found.keys(), set())

    def test_every(self) -> None:
        """Each module that takes text apart is in the table, or has a reason why not."""
        listed = {module for parser in PARSERS for module in parser.modules}
        reading = {path for _, path, tree in modules() if _READS.search(ast.unparse(tree))}
        self.assertEqual(reading - listed - ELSEWHERE.keys(), set())
        self.assertEqual(ELSEWHERE.keys() & listed, set(), "they are in the table")
        everything = {path for _, path, _ in modules()}
        self.assertEqual((listed | ELSEWHERE.keys()) - everything, set(), "they are gone")


def patterns() -> list[re.Pattern[Any]]:
    """
    Those of some modules.
    """
    sources = (
        *(address, extensions, proxyprotocol, sasl, spfmacro, spfrecord, trace, replies),
        *(hopReplies, spamassassin, fields),
    )
    values = (value for source in sources for value in vars(source).values())
    return [value for value in values if isinstance(value, re.Pattern)]


matcherOf = functools.cache(Matcher)

_PIECES = st.lists(
    st.sampled_from('a 1.;:"\\=?<>@*%{}[]/-+\r\n\0é').map(str)
    | st.sampled_from(
        ["=?utf-8?q?a?=", "PROXY TCP4 ", "content-length: 1", "+41", "5.1.1 ", "250-"]
    ),
    max_size=12,
).map("".join)


class MatcherTests(SynchronousTestCase):
    """
    L{Matcher}.
    """

    @given(_PIECES)
    def test_same(self, text: str) -> None:
        """It finds what the library finds, for the patterns that there are."""
        for pattern in patterns():
            data: Any = text if isinstance(pattern.pattern, str) else text.encode("utf-8")
            for mode in ("match", "fullmatch", "search"):
                match = getattr(pattern, mode)(data)
                found = matcherOf(pattern).find(data, 0, len(data), mode)
                self.assertEqual(found, None if match is None else match.span(), pattern.pattern)
            spans = [match.span() for match in pattern.finditer(data)]
            self.assertEqual(list(matcherOf(pattern).all(data, 0, len(data))), spans)

"""
What a sender reads when something goes wrong inside: each stage that comes with
the server is made to fail in each way that is known, and nothing of the inside is
in the reply, the result line or the notice; it is in what the log is told (D4, D10).
"""

from __future__ import annotations

import ast
import errno
import os
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import attrs
from OpenSSL import SSL
from treq.testing import RequestTraversalAgent
from twisted.internet import error as network
from twisted.internet.defer import Deferred, fail, maybeDeferred
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource

import deferrals
from deferrals.config.structuring import makeConverter, structured
from deferrals.errors import HopError, PeerError, StageError
from deferrals.interfaces import IContentStage, IDeliveryStage, IStagePlugin
from deferrals.model.answers import Answer
from deferrals.model.deliveryreport import resultLine, resultReply
from deferrals.model.dsn import Notification
from deferrals.model.outgoing import Sent
from deferrals.model.reply import Reply
from deferrals.model.verdict import Accept, Delivered, Details, Failed, Refuse, Retry
from deferrals.plugins import builtin
from deferrals.plugins.finding import build
from deferrals.smtp.client.pool import NextHops
from deferrals.stages import web
from deferrals.stages.delivery.pipe import outcomeOf
from deferrals.testing import (
    FakeNextHops,
    FakeServices,
    makeAddressees,
    makeEnvelope,
    makeMessage,
)
from deferrals.tls import WrongServer
from tests.peer import Network, Peer
from tests.source import nodes, parsed

#: What no sender may read.
INSIDE = re.compile(
    r"SECRET|10\.9\.8\.7|/srv|https?:|tcp:|unix:|Traceback|\[Errno|status \d"
    r"|\b[A-Z]\w*(?:Error|Exception|Refused|Cancelled|Server)\b"
)

#: Each stage with settings that are secret; a stage that is new needs them, too.
SETTINGS: dict[tuple[str, str], dict[str, Any]] = {
    ("delivery", "maildir"): {"path": "/srv/SECRET/{local}"},
    ("delivery", "file"): {"path": "/srv/SECRET"},
    ("delivery", "pipe"): {"command": ["/srv/SECRET/program"]},
    ("delivery", "http"): {"url": "http://10.9.8.7:81/mail?token=SECRET"},
    ("delivery", "lmtp"): {"endpoint": "unix:/srv/SECRET"},
    ("delivery", "smtp"): {"endpoint": "tcp:10.9.8.7:25"},
    ("delivery", "mx"): {},
    ("delivery", "discard"): {},
    ("delivery", "forward"): {"through": "SECRET"},
    ("content", "match"): {"rules": [{"test": "gtube"}]},
    ("content", "http"): {"url": "http://10.9.8.7:81/judge?token=SECRET"},
    ("content", "rspamd"): {"url": "http://10.9.8.7:11333"},
    ("content", "spamassassin"): {"socket": "tcp:10.9.8.7:783"},
    ("content", "clamav"): {"socket": "unix:/srv/SECRET"},
    ("content", "authenticate"): {"dmarc": "enforce", "on_error": "refuse-temporarily"},
    ("content", "sieve"): {"path": "/srv/SECRET/{local}"},
    ("content", "milter"): {"socket": "unix:/srv/SECRET"},
    ("envelope", "milter"): {"socket": "unix:/srv/SECRET"},
    ("envelope", "users"): {"sqlite": "/srv/SECRET"},
    ("envelope", "aliases"): {"file": "/srv/SECRET"},
    ("envelope", "dnsbl"): {
        "lists": [{"zone": "SECRET.test", "name": "list"}],
        "on_error": "refuse-temporarily",
    },
    ("envelope", "callout"): {"endpoint": "unix:/srv/SECRET"},
}


def errors() -> list[Exception]:
    """
    What the parts of the outside world fail with.
    """
    numbers = (
        *("EACCES", "ENOENT", "ENOSPC", "EDQUOT", "EROFS", "EIO", "ENOTDIR", "ENAMETOOLONG"),
        *("EAGAIN", "ENOMEM", "EMFILE", "ENETUNREACH", "ECONNREFUSED", "EADDRNOTAVAIL"),
    )
    system = [
        OSError(n, os.strerror(n), "/srv/SECRET") for n in (getattr(errno, x) for x in numbers)
    ]
    words = "SECRET at 10.9.8.7:24"
    return [
        *system,
        network.ConnectionRefusedError(words),
        network.ConnectError(111, words),
        network.DNSLookupError(words),
        network.ConnectionLost(words),
        network.TimeoutError(60, words),
        SSL.Error([("SSL routines", "", words)]),
        WrongServer(words),
        *(HopError(words, code) for code in ("4.4.1", "4.4.2", "4.4.6", "4.7.5", "4.3.5", "4.9.9")),
        PeerError(words, Reply(554, "5.7.1", words)),
        StageError(words),
        TimeoutError(words),
        ValueError(words),
        RuntimeError(words),
        UnicodeDecodeError("utf-8", b"SECRET", 0, 1, words),
        KeyError("SECRET"),
    ]


def plugins() -> dict[tuple[str, str], IStagePlugin]:
    """
    The stages that come with the server.
    """
    kinds = {IDeliveryStage: "delivery", IContentStage: "content"}
    found = [one for one in vars(builtin).values() if IStagePlugin.providedBy(one)]
    return {(kinds.get(one.stage, "envelope"), one.name): one for one in found}


class Broken(FakeServices):
    """
    Services of which each part fails.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__("/srv/SECRET", Spawning(error))
        self.error = error
        self.nextHops = NextHops(self.reactor, "mx.example.net", self.connect, maybeDeferred)

    def connect(self, endpoint: str) -> Any:
        return self

    def resolver(self, servers: Any = ()) -> Any:
        return self

    def inThread(self, *words: Any, **more: Any) -> Deferred[Any]:
        """Whatever blocks fails."""
        return fail(self.error)

    def query(self, *words: Any) -> Deferred[Any]:
        """DNS does."""
        return fail(self.error)

    def request(self, *words: Any) -> Deferred[Any]:
        """The web does."""
        return fail(self.error)


class Spawning(Clock):
    """
    A clock that starts no programs.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def spawnProcess(self, *words: Any) -> None:
        """Nothing is started."""
        raise self.error


class Endpoint:
    """
    Connecting fails.
    """

    def __init__(self, error: Exception) -> None:
        self.error = error

    def connect(self, factory: Any) -> Deferred[Any]:
        """See C{IStreamClientEndpoint}."""
        return fail(self.error)


class Moved(Resource):
    """
    A web service with a status, that says more than it should.
    """

    isLeaf = True

    def __init__(self, status: int) -> None:
        super().__init__()
        self.status = status

    def render(self, request: Any) -> bytes:
        """Whatever is asked."""
        request.setResponseCode(self.status, b"SECRET")
        request.setHeader("Location", "http://10.9.8.7:81/login?token=SECRET")
        request.setHeader("Retry-After", "SECRET")
        return b"Traceback: RuntimeError at http://10.9.8.7/SECRET"


CONVERTER = makeConverter()


class LeakCase(SynchronousTestCase):
    """
    Stages, and what a sender reads of them.
    """

    def stage(self, key: tuple[str, str], services: Any) -> Any:
        plugin = plugins()[key]
        settings = structured(CONVERTER, SETTINGS[key], plugin.settings)
        return build(plugin, settings, services)

    def answers(self, key: tuple[str, str], services: Any, agent: Any) -> list[Any]:
        """
        What a stage answers for one recipient, as far as it does.
        """
        self.patch(web, "makeAgent", lambda reactor, connections: agent)
        people = makeAddressees("a@x.example")
        with capturedLogs():
            stage = self.stage(key, services)
            message, envelope, recipient = makeMessage(), makeEnvelope(), people[0].recipient
            if key[0] == "delivery":
                d = maybeDeferred(stage.deliver, message, envelope, people)
                d.addCallback(lambda found: found[people[0]])
            elif key[0] == "content":
                d = maybeDeferred(stage.judge, message, envelope, [recipient])
            else:
                d = maybeDeferred(stage.judgeRecipient, envelope, recipient)
            found: list[Any] = []
            d.addCallbacks(found.append, lambda failure: None)  # an exception is the frame's
            for _ in range(30):
                services.reactor.advance(10)
                getattr(agent, "flush", lambda: None)()
        self.flushLoggedErrors()
        self.assertTrue(d.called, key)
        return found

    def assertQuiet(self, outcome: Any, about: Any = "") -> None:
        """
        Nothing of the inside is in what is said of an outcome, wherever that is.
        """
        for text in said(outcome):
            match = INSIDE.search(text)
            self.assertIsNone(match, f"{about}: {text}")


def said(outcome: Any) -> Iterator[str]:
    """
    All that a sender can read of a stage's answer.
    """
    if isinstance(outcome, Refuse):
        yield str(outcome.reply)
    elif isinstance(outcome, Accept):
        yield repr(outcome.marks)
    elif isinstance(outcome, Delivered | Failed | Retry):
        yield str(resultReply(outcome))
        yield resultLine("a@x.example", outcome, None, True)
        (addressee,) = makeAddressees("a@x.example")
        for action in ("failed", "expired", "delayed", "delivered", "relayed"):
            told = attrs.evolve(addressee, action=action, reply=outcome.reply, host=outcome.host)
            envelope = makeEnvelope()
            notice = Notification(envelope, [told], b"", None, "mx.example.net", "0ABC", 1e9)
            yield notice.build()[0].decode("utf-8")


class InsideTests(LeakCase):
    """
    Every stage, and every way in which it fails.
    """

    def test_each(self) -> None:
        """There is a case for each stage that comes with the server."""
        self.assertEqual(set(SETTINGS), set(plugins()))

    def test_broken(self) -> None:
        """Whatever a part of the outside fails with: the log knows, the sender does not."""
        failed = set()
        for key in SETTINGS:
            for error in errors():
                services = Broken(error)
                services.connect = lambda endpoint, error=error: Endpoint(error)  # type: ignore[method-assign]
                services.nextHops = NextHops(
                    services.reactor, "mx.example.net", services.connect, maybeDeferred
                )
                for outcome in self.answers(key, services, services):
                    self.assertQuiet(outcome, (key, error))
                    if isinstance(outcome, Failed | Retry):
                        failed.add(key)
                        self.assertNotEqual(outcome.details.cause, "", (key, error))
        everyDelivery = {key for key in SETTINGS if key[0] == "delivery"}
        self.assertEqual(failed, everyDelivery - {("delivery", "discard")})

    def test_noSession(self) -> None:
        """A next hop with which there is no session, in the words of whatever layer."""
        for name in ("lmtp", "smtp"):
            for error in errors():
                if isinstance(error, HopError):
                    services = FakeServices("/srv", Clock(), nextHops=FakeNextHops())
                    services.connect = lambda endpoint: Endpoint(StageError())  # type: ignore[method-assign]
                    services.nextHops.send = lambda *words, error=error: fail(error)  # type: ignore[method-assign]
                    (outcome,) = self.answers(("delivery", name), services, services)
                    self.assertQuiet(outcome)
                    self.assertIn("SECRET", outcome.details.cause)

    def test_statuses(self) -> None:
        """Whatever a web service answers."""
        for name in (("delivery", "http"), ("content", "http"), ("content", "rspamd")):
            for status in (200, 204, 301, 302, 303, 307, 308, 400, 401, 404, 429, 500, 503):
                agent = RequestTraversalAgent(Moved(status))
                for outcome in self.answers(name, FakeServices("/srv", Clock()), agent):
                    self.assertQuiet(outcome, (name, status))

    def test_programs(self) -> None:
        """Whatever a program ends with, and says."""
        for status in (*range(128), None):
            for words in (b"", b"Traceback ...\n  /srv/SECRET\nRuntimeError", b"/srv: Cannot fork"):
                outcome = outcomeOf(status, words)
                self.assertQuiet(outcome, status)
                self.assertIn(words[:6].decode("ascii"), outcome.details.cause)

    def test_servers(self) -> None:
        """
        A server's own words are told as its own, with its own name, never with ours
        for it; those of a session that came to nothing are told to no sender.
        """
        for name, endpoint in (("lmtp", "unix:/srv/SECRET"), ("smtp", "tcp:10.9.8.7:25")):
            for verb in ("", "MAIL", "RCPT", "DATA", "EHLO", "LHLO"):
                for reply in ("554 5.7.1 not you", "421 4.3.2 later", "hang up", "what?"):
                    clock = Clock()
                    wires = Network(clock)
                    peer = wires.peers[endpoint] = Peer("PIPELINING", lmtp=name == "lmtp")
                    peer.override = {verb: reply} if verb else {}
                    peer.greeting = peer.greeting if verb else reply
                    services = FakeServices("/srv", clock)
                    services.connect = wires.connect  # type: ignore[method-assign]
                    services.nextHops = NextHops(
                        clock, "mx.example.net", wires.connect, maybeDeferred
                    )
                    for outcome in self.answers(("delivery", name), services, services):
                        self.assertQuiet(outcome, (name, verb, reply))
                        isTheirs = outcome.host != ""
                        self.assertEqual(isTheirs, outcome.reply.byServer)
                        self.assertIn(outcome.host, ("", "peer.example"))
                        notice = "".join(said(outcome))
                        self.assertEqual(isTheirs, "Diagnostic-Code: smtp;" in notice)
                        self.assertEqual(isTheirs, "Remote-MTA:" in notice)
                        self.assertEqual(not isTheirs, "Diagnostic-Code: x-deferrals;" in notice)

    def test_ours(self) -> None:
        """What we say because of what a server has said is not said to be its words."""
        hops = FakeNextHops()
        ours = Reply(554, "5.6.3", "the next server does not offer 8BITMIME")
        answer = Answer("a@x.example", ours, "envelope")
        details = Details("SECRET", address="10.9.8.7", port=25)
        hops.send = lambda *words: maybeDeferred(  # type: ignore[method-assign]
            Sent, (answer,), "mx.there.example", False, (details,)
        )
        services = FakeServices("/srv", Clock(), nextHops=hops)
        services.connect = lambda endpoint: Endpoint(StageError())  # type: ignore[method-assign]
        (outcome,) = self.answers(("delivery", "smtp"), services, services)
        self.assertQuiet(outcome)
        self.assertEqual((outcome.reply, outcome.host), (ours, ""))
        self.assertEqual(outcome.details, details)


#: Who makes a reply's text of something else than words that stand in the source,
#: and of what: each is one that was looked at.
MADE = {
    "adapters.py": "what another's stage says on purpose",
    "model/authpolicy.py": "the sender's domain and the client's address; the author's domain",
    "model/block.py": "the recipients' own replies",
    "model/exdata.py": "the recipients' own replies",
    "model/httpanswer.py": "",
    "model/reply.py": "what was a reply before",
    "model/sending.py": "an octet count; a table of fixed words",
    "smtp/server/auth.py": "a challenge",
    "smtp/server/data.py": "an octet count",
    "smtp/server/pipeline.py": "Twisted's own replies",
    "smtp/server/proxy.py": "the greeting",
    "smtp/server/greetings.py": "the extensions",
    "smtp/server/session.py": "the greeting",
    "stages/content/scanner.py": "a table of fixed words",
    "stages/milter/dialogue.py": "what a filter says for the sender",
    "stages/delivery/pipe.py": "a table; the line that a program says for the sender",
    "stages/envelope/callout.py": "what the mail store has answered to RCPT",
}


class SourceTests(SynchronousTestCase):
    """
    Where texts of replies come from.
    """

    def test_texts(self) -> None:
        """
        A reply's text stands in the source, or its module is named here with what
        it is made of: not of an exception, a path or an address.
        """
        found = set()
        root = pathlib.Path(deferrals.__file__).parent
        for path in root.rglob("*.py"):
            relative = path.relative_to(root).as_posix()
            if relative.startswith("testing/"):
                continue
            for node in nodes(parsed(path.read_text(encoding="utf-8")), ast.Call):
                if getattr(node.func, "id", "") == "Reply":
                    texts = [*node.args[2:3], *(k.value for k in node.keywords if k.arg == "text")]
                    if any(not isinstance(text, ast.Constant) for text in texts):
                        found.add(relative)
        self.assertEqual(found, {path for path, what in MADE.items() if what})

    def test_errors(self) -> None:
        """No reply is made in the words of an exception."""
        wrong = []
        for path in pathlib.Path(deferrals.__file__).parent.rglob("*.py"):
            for node in nodes(parsed(path.read_text(encoding="utf-8")), ast.Call):
                if getattr(node.func, "id", "") == "Reply":
                    names = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
                    if names & {"error", "failure", "reason", "lost", "exception"}:
                        wrong.append(f"{path.name}: {ast.unparse(node)}")
        self.assertEqual(wrong, [])

"""
The server as a program embeds it, without sockets.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from typing import Any

import attrs
from twisted.cred.checkers import InMemoryUsernamePasswordDatabaseDontUse
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, fail, maybeDeferred, succeed
from twisted.internet.error import CannotListenError, ConnectionDone
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from deferrals.auth.checker import PasswordFile
from deferrals.errors import SpoolError
from deferrals.interfaces import IContentStage, IDeliveryStage, IEnvelopeStage
from deferrals.model.address import Mailbox
from deferrals.model.delivery import Addressee
from deferrals.model.passwords import ScryptHash, Secrets, formatLine
from deferrals.model.reply import Reply
from deferrals.model.schedule import Schedule
from deferrals.model.verdict import ACCEPT, Accept, Defer, Delivered, Failed, Refuse, Route
from deferrals.server import (
    Limits,
    ListenerSettings,
    MailServer,
    Mixed,
    Senders,
    SubmissionSettings,
    limits,
)
from deferrals.spool.memory import MemorySpool
from tests.harness import Transport
from tests.reactors import PumpedReactor


@implementer(IEnvelopeStage)
class Everyone:
    """
    Lets all recipients in, to be judged by their content.
    """

    def __init__(self, verdict: Any = None) -> None:
        self.verdict = Defer() if verdict is None else verdict

    async def judgeRecipient(self, envelope: Any, recipient: Any) -> Any:
        return self.verdict


@implementer(IContentStage)
class Words:
    """
    Refuses a word to all who do not like it.
    """

    def __init__(self, word: bytes = b"spam") -> None:
        self.word = word

    def cohort(self, recipient: Any) -> Any:
        return recipient.address.local

    async def judge(self, message: Any, envelope: Any, recipients: Sequence[Any]) -> Any:
        likes = recipients[0].address.local == "lover"
        with message.open() as file:
            bad = self.word in file.read()
        return Refuse(Reply(550, "5.7.1", "no")) if bad and not likes else ACCEPT


@implementer(IDeliveryStage)
class Box:
    """
    Remembers what was delivered.
    """

    def __init__(self, outcome: Any = None) -> None:
        self.outcome = outcome or Delivered()
        self.found: list[str] = []
        self.bodies: list[bytes] = []

    def destination(self, recipient: Any) -> str:
        return "box"

    async def deliver(self, message: Any, envelope: Any, addressees: Sequence[Addressee]) -> Any:
        self.found += map(str, addressees)
        with message.open() as file:
            self.bodies.append(file.read())
        return dict.fromkeys(addressees, self.outcome)


@implementer(IListeningPort)
class Port:
    """
    A port that is none.
    """

    isOpen = True

    def startListening(self) -> None:
        """Nothing."""

    def stopListening(self) -> Deferred[None]:
        self.isOpen = False
        return succeed(None)

    def getHost(self) -> IPv4Address:
        return IPv4Address("TCP", "127.0.0.1", 25)


@implementer(IStreamServerEndpoint)
class Endpoint:
    """
    Listens, or fails to.
    """

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.port = Port()

    def listen(self, factory: Any) -> Any:
        return fail(self.error) if self.error else succeed(self.port)


TAKEN = CannotListenError("127.0.0.1", 25, OSError(98, "in use"))


class Client:
    """
    A connection to a server.
    """

    def __init__(self, server: MailServer, clock: Clock, **settings: Any) -> None:
        self.clock = clock
        self.transport = Transport()
        factory = server.factory(ListenerSettings(**settings))
        self.session: Any = factory.buildProtocol(IPv4Address("TCP", "192.0.2.1", 1))
        self.transport.protocol = self.session
        self.session.makeConnection(self.transport)

    def say(self, *lines: str) -> list[str]:
        """
        What is answered.
        """
        self.session.dataReceived("".join(f"{line}\r\n" for line in lines).encode())
        for _ in range(5):
            self.clock.advance(0)
        said = self.transport.value().decode().splitlines()
        self.transport.clear()
        return said

    def begin(self, *locals: str, parameters: str = " DEFERRALS") -> list[str]:
        """
        Everything up to the data.
        """
        said = self.say(
            "EHLO client.test",
            f"MAIL FROM:<me@client.test>{parameters}",
            *[f"RCPT TO:<{local}@x.test>" for local in locals],
        )
        return said[-len(locals) :]

    def send(self, text: str = "spam") -> list[str]:
        """
        The data.
        """
        return [line[:3] for line in self.say("DATA", f"Subject: x\r\n\r\n{text}\r\n.")[1:]]


class ServerCase(SynchronousTestCase):
    """
    Makes servers.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1_000_000_000)
        self.box = Box()

    def server(self, **more: Any) -> MailServer:
        stages: dict[str, Any] = {
            "envelope": Everyone(),
            "content": [Words()],
            "delivery": self.box,
        }
        return MailServer(self.clock, **{"hostname": "mx.test", **stages, **more})

    def started(self, **more: Any) -> MailServer:
        server = self.server(**more)
        self.assertIs(self.successResultOf(server.start()), server)
        self.addCleanup(lambda: self.stop(server))
        return server

    def stop(self, server: MailServer) -> None:
        done = server.stop(0)
        for _ in range(5):
            self.clock.advance(1)
        self.successResultOf(done)

    def client(self, server: MailServer, **settings: Any) -> Client:
        client = Client(server, self.clock, **settings)
        self.assertEqual(client.say()[0][:12], "220 mx.test ")
        self.addCleanup(client.session.connectionLost, Failure(ConnectionDone()))
        return client


class DialogueTests(ServerCase):
    """
    Mail in memory.
    """

    def test_block(self) -> None:
        """Each recipient has its own answer, and its mail is delivered."""
        client = self.client(self.started())
        self.assertEqual([line[:3] for line in client.begin("lover", "hater")], ["352", "352"])
        self.assertEqual(client.send(), ["353", "250", "550", "250"])
        self.clock.advance(1)
        self.assertEqual(self.box.found, ["lover@x.test"])
        self.assertIn(b"spam", self.box.bodies[0])

    def test_nobody(self) -> None:
        """A recipient that no stage lets in is refused."""

        @implementer(IEnvelopeStage)
        class NoOpinion(Everyone):
            async def judgeRecipient(self, envelope: Any, recipient: Any) -> None:
                return None

        client = self.client(self.started(envelope=[NoOpinion(), NoOpinion()]))
        self.assertEqual(client.begin("a")[0][:9], "550 5.7.1")

    def test_status(self) -> None:
        """What happens is counted, and there is no view of a queue in memory."""
        server = self.started()
        client = self.client(server)
        client.begin("lover")
        client.send()
        self.assertEqual(server.status.snapshot()["counters"]["transactions"], {"single": 1})
        self.assertIsNone(server.queue)

    def test_notices(self) -> None:
        """A sender is told of a failure by the delivery that notices leave by."""
        out = Box()
        deliveries = {"box": Box(Failed(Reply(550, "5.2.2", "full"))), "out": out}
        route = Everyone(Defer(Route("content", "box")))
        server = self.started(envelope=route, delivery=deliveries, notices="out")
        client = self.client(server)
        client.begin("lover")
        client.send()
        self.clock.pump([1] * 5)
        self.assertEqual(out.found, ["me@client.test"])
        self.assertIn(b"5.2.2", out.bodies[0])

    def test_noticesByFunction(self) -> None:
        """The delivery of a notice may depend on the sender."""
        out, senders = Box(), list[Mailbox]()
        deliveries = {"box": Box(Failed(Reply(550, "5.2.2", "full"))), "out": out}

        def find(sender: Mailbox) -> Route:
            senders.append(sender)
            return Route("", "out")

        server = self.started(
            envelope=Everyone(Defer(Route("content", "box"))), delivery=deliveries, notices=find
        )
        client = self.client(server)
        client.begin("lover")
        client.send()
        self.clock.pump([1] * 5)
        self.assertEqual(out.found, ["me@client.test"])
        self.assertEqual(set(map(str, senders)), {"me@client.test"})

    def test_quarantine(self) -> None:
        """What is refused of a message that had to be accepted is filed."""
        aside = Box()
        server = self.started(
            envelope=Everyone(Defer(Route("content", "box"))),
            delivery={"box": self.box, "aside": aside},
            quarantines={"content": "aside"},
        )
        client = self.client(server, mixed=Mixed.FILE)
        client.begin("lover", "hater", parameters="")
        self.assertEqual(client.send(), ["250"])
        self.clock.pump([1] * 5)
        self.assertEqual((self.box.found, aside.found), (["lover@x.test"], ["hater@x.test"]))

    def test_login(self) -> None:
        """Checkers check passwords."""
        checkers = [InMemoryUsernamePasswordDatabaseDontUse(alice=b"secret")]
        server = self.started(checkers=checkers)
        client = self.client(server, protocol="submission", auth_without_tls=True)
        client.say("EHLO client.test")
        (said,) = client.say("AUTH PLAIN AGFsaWNlAHNlY3JldA==")
        self.assertEqual(said[:3], "235")

    def users(self, **settings: Any) -> tuple[MailServer, Client]:
        """
        A server with two users, and one of them.
        """
        checkers = [InMemoryUsernamePasswordDatabaseDontUse(alice=b"secret", bob=b"secret")]
        server = self.started(checkers=checkers, submission=SubmissionSettings(**settings))
        return server, self.loggedIn(server)

    def loggedIn(self, server: MailServer, **settings: Any) -> Client:
        client = self.client(server, protocol="submission", auth_without_tls=True, **settings)
        client.say("EHLO client.test", "AUTH PLAIN AGFsaWNlAHNlY3JldA==")
        return client

    def test_senders(self) -> None:
        """A login sends as itself, on whichever listener; XCLIENT's login, too."""
        server, client = self.users()
        other = self.client(server, auth="offered", auth_without_tls=True)
        other.say("EHLO client.test", "AUTH PLAIN AGFsaWNlAHNlY3JldA==")
        front = self.client(server, xclient=("192.0.2.1",))
        front.say("EHLO client.test", "XCLIENT LOGIN=alice", "EHLO client.test")
        for one in (client, other, front):
            self.assertEqual(one.say("MAIL FROM:<ceo@mx.test>")[0][:9], "553 5.7.1")
            self.assertEqual(one.say("MAIL FROM:<alice@mx.test>")[0][:9], "250 2.1.0")
        server.replace(submission=SubmissionSettings(senders=Senders("any")))
        self.assertEqual(client.say("RSET", "MAIL FROM:<ceo@mx.test>")[1][:3], "250")

    def test_overLimit(self) -> None:
        """What a login may send is what it may send over all listeners and connections."""
        server, client = self.users(recipients=3, octets=2000)
        other = self.loggedIn(server)
        client.say("MAIL FROM:<alice@mx.test>")
        other.say("MAIL FROM:<alice@mx.test>")
        for one, wanted in ((client, "250"), (other, "250"), (client, "250"), (other, "450")):
            self.assertEqual(one.say("RCPT TO:<lover@x.test>")[0][:3], wanted)
        self.assertEqual(client.say("DATA", "x" * 900 + "\r\n.")[-1][:3], "250")
        self.assertEqual(other.say("DATA", "x" * 1900 + "\r\n.")[-1][:9], "450 4.7.1")
        self.assertEqual(self.box.found, ["lover@x.test"])
        shown = server.status.snapshot()["parts"]["submission"]["most_used"]
        self.assertEqual(shown["alice"]["recipients"], [3, 3])

    def test_held(self) -> None:
        """With C{hold} it is taken, and stays until an operator releases it."""
        for listener in ({}, {"enumerate": "delivery"}):
            server, _ = self.users(messages=1, over="hold")
            client = self.loggedIn(server, **listener)
            for _ in range(2):
                client.say("MAIL FROM:<alice@mx.test>", "RCPT TO:<lover@x.test>")
                self.assertEqual(client.say("DATA", "text\r\n.")[-1][:3], "250")
            self.clock.pump([60] * 100)
            self.assertEqual(self.box.found, ["lover@x.test"], listener)
            self.box.found.clear()

    def test_guessing(self) -> None:
        """Guesses count over listeners; the user is served elsewhere (S8)."""
        server, _ = self.users()
        looked = 0
        for number in range(30):
            protocol = ("smtp", "submission")[number % 2]
            client = self.client(server, protocol=protocol, auth="offered", auth_without_tls=True)
            client.say("EHLO client.test")
            guess = base64.b64encode(b"\0alice\0guess %d" % number).decode()
            looked += not client.say(f"AUTH PLAIN {guess}")
            client.session.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(looked, 10)

    def test_restarted(self) -> None:
        """Guesses, what was sent, and a stranger's salt are what they were before a restart."""
        self.patch(limits, "SAVE_SECONDS", 100.0)  # what is not noted yet is at the stop
        spool, said = MemorySpool(self.clock), []
        path = self.mktemp()
        with open(path, "w") as file:
            file.write(formatLine("alice", Secrets(ScryptHash.make("secret", b"s", 4))) + "\n")
        for _ in range(2):
            server = self.server(
                spool=spool,
                checkers=[PasswordFile(path, maybeDeferred)],
                submission=SubmissionSettings(messages=1),
            )
            self.successResultOf(server.start())
            guesser = self.client(server, auth="offered", auth_without_tls=True)
            guesser.transport.clear()
            guesser.say("EHLO client.test")
            (salt,) = guesser.say("AUTH SCRAM-SHA-256 " + base64.b64encode(b"n,,n=x,r=y").decode())
            guesser.say("*")
            client = self.loggedIn(server)
            mail = client.say("MAIL FROM:<alice@mx.test>")
            known = base64.b64decode(salt[4:]).partition(b",")[2]
            said.append((known, mail[0][:3], server._services.limits.used("auth-address")))
            guesser.say("AUTH PLAIN AGFsaWNlAGd1ZXNz")
            for one in (guesser, client):
                one.session.connectionLost(Failure(ConnectionDone()))
            self.stop(server)
        self.assertEqual(said[0][0], said[1][0])
        self.assertEqual([mail for _, mail, _ in said], ["250", "450"])
        self.assertEqual([used for _, _, used in said], [{}, {"192.0.2.1 alice": 1}])

    def test_connections(self) -> None:
        """The limits on connections are those of all listeners together."""
        server = self.started(settings=ListenerSettings(limits=Limits(connections=1)))
        self.client(server)
        refused = Client(server, self.clock)
        self.assertEqual(refused.say()[0][:3], "421")
        refused.session.connectionLost(Failure(ConnectionDone()))

    def test_route(self) -> None:
        """A verdict names the delivery where there are several of them."""
        client = self.client(self.started(delivery={"one": Box(), "two": Box()}))
        self.assertEqual(client.begin("lover")[0][:3], "451")

    def test_accept(self) -> None:
        """A recipient that is accepted in the envelope is not judged (S-2)."""
        client = self.client(self.started(envelope=Everyone(Accept())))
        client.begin("hater")
        self.assertEqual(client.send(), ["250"])

    def test_two(self) -> None:
        """Two servers in one process have nothing in common."""
        boxes = Box(), Box()
        servers = [self.started(delivery=box) for box in boxes]
        client = self.client(servers[1])
        client.begin("lover")
        client.send()
        self.clock.advance(1)
        self.assertEqual([box.found for box in boxes], [[], ["lover@x.test"]])
        self.assertEqual(servers[0].status.snapshot()["counters"], {})


class ArgumentTests(ServerCase):
    """
    What cannot be is said by the constructor.
    """

    def refused(self, kind: type[Exception], **arguments: Any) -> str:
        return str(self.assertRaises(kind, self.server, **arguments))

    def test_interfaces(self) -> None:
        """Each object has to provide its interface."""
        for arguments in (
            {"envelope": object()},
            {"envelope": [Everyone(), Words()]},
            {"content": [object()]},
            {"content": {"a": [Everyone()]}},
            {"delivery": object()},
            {"delivery": {"a": Words()}},
            {"checkers": [object()]},
            {"spool": object()},
        ):
            self.refused(TypeError, **arguments)

    def test_unhashable(self) -> None:
        """Stages are compared by identity."""

        @attrs.define
        class Values(Words):
            other: str = ""

        self.assertIn("hashed", self.refused(TypeError, content=[Values()]))

    def test_names(self) -> None:
        """Names have to be names of something."""
        for arguments in (
            {"notices": "nowhere"},
            {"quarantines": {"content": "nowhere"}},
            {"quarantines": {"no policy": "delivery"}},
            {"schedule": {"nowhere": Schedule()}},
            {"delivery": {}},
            {"envelope": []},
            {"hostname": "not a name"},
        ):
            self.refused(ValueError, **arguments)

    def test_values(self) -> None:
        """What cannot work is said by the constructor, not by the first message."""
        wrong: list[tuple[type[Exception], dict[str, Any]]] = [
            *((ValueError, {name: 0}) for name in ("maxJudging", "maxDelivering")),
            *((ValueError, {"maxDelivering": one}) for one in (None, "5", True, -1)),
            *((ValueError, {"returnOctets": one}) for one in (-1, "x", 2.5)),
            *((ValueError, {"delivery": {name: Box()}}) for name in ("", "a\nb", "a\x85b")),
            (TypeError, {"delivery": {1: Box()}}),
            (TypeError, {"content": {1: [Words()]}}),
            (TypeError, {"content": Words()}),
            (TypeError, {"content": {"a": Words()}}),
            (TypeError, {"schedule": 5}),
            (TypeError, {"schedule": {"delivery": 5}}),
            (TypeError, {"quarantines": ["content"]}),
            (TypeError, {"settings": Limits()}),
            (TypeError, {"services": 5}),
        ]
        for error, more in wrong:
            given = {"envelope": Everyone(), "delivery": Box(), **more}
            with self.assertRaises(error, msg=str(more)):
                MailServer(Clock(), hostname="mx.example.net", **given)
        server = MailServer(Clock(), hostname="mx.test", envelope=Everyone(), delivery=Box())
        for endpoint in (None, 25):
            self.assertRaises(TypeError, server.listenOn, endpoint)
        self.assertRaises(TypeError, server.factory, 5)

    def test_filing(self) -> None:
        """A listener that may have to file mail has a place for it, after C{replace}, too."""
        server = MailServer(
            Clock(),
            hostname="mx.test",
            envelope=Everyone(),
            content=[Words()],
            delivery=Box(),
            quarantines={"content": "delivery"},
        )
        server.factory(ListenerSettings(mixed=Mixed.FILE))
        self.assertRaises(ValueError, server.replace, quarantines={})
        self.assertRaises(ValueError, server.replace, content={"x": [Words()]}, quarantines={})
        server.replace(content=[], quarantines={})

    def test_listen(self) -> None:
        """So does what a listener is to do."""
        server = self.server()
        for endpoint, settings in (
            ("nonsense", ListenerSettings()),
            ("tcp:25", ListenerSettings(protocol="submission")),
            ("tcp:25", ListenerSettings(mixed=Mixed.FILE)),
        ):
            self.assertRaises(ValueError, server.listenOn, endpoint, settings)
        self.assertEqual(server.addresses, [])


class LifeTests(ServerCase):
    """
    Starting and stopping.
    """

    def test_addresses(self) -> None:
        """It listens when it starts; what comes later is listened on at once."""
        server = self.server()
        server.listenOn(Endpoint())
        self.assertEqual(server.addresses, [])
        self.successResultOf(server.start())
        self.assertEqual([one.port for one in server.addresses], [25])  # type: ignore[attr-defined]
        server.listenOn(Endpoint())
        self.assertEqual(len(server.addresses), 2)
        self.stop(server)
        self.assertEqual(server.addresses, [])

    def test_cannotListen(self) -> None:
        """A port that cannot be had is the start's failure, and no other stays open."""
        server, other = self.server(), Endpoint()
        server.listenOn(other)
        server.listenOn(Endpoint(TAKEN))
        self.failureResultOf(server.start(), CannotListenError)
        self.assertFalse(other.port.isOpen)
        self.stop(server)

    def test_cannotListenLater(self) -> None:
        """Once it runs, listenOn raises."""
        server = self.started()
        self.assertRaises(CannotListenError, server.listenOn, Endpoint(TAKEN))

    def test_service(self) -> None:
        """As a service it binds while it has its privileges, and raises."""
        server = self.server()
        server.listenOn(Endpoint())
        server.privilegedStartService()
        self.assertEqual(len(server.addresses), 1)
        server.startService()
        self.assertEqual(len(server.addresses), 1)
        done = server.stopService()
        self.clock.pump([1] * 5)
        self.successResultOf(done)
        refused = self.server()
        refused.listenOn(Endpoint(TAKEN))
        self.assertRaises(CannotListenError, refused.privilegedStartService)

    def test_once(self) -> None:
        """It starts once, and may be stopped again and again."""
        server = self.started()
        self.assertRaises(RuntimeError, server.start)
        self.stop(server)
        self.stop(server)

    def test_startedAfterItsEnd(self) -> None:
        """What has been stopped does not start: no one would stop it again."""
        server = MailServer(Clock(), hostname="mx.test", envelope=Everyone(), delivery=Box())
        self.successResultOf(server.stop())
        self.assertRaises(RuntimeError, server.start)

    def test_neverStarted(self) -> None:
        """One that has not started stops at once."""
        self.stop(self.server())

    def test_noSpool(self) -> None:
        """Without a spool nothing listens; a service says so in the log."""

        class Broken(MemorySpool):
            def open(self) -> Deferred[None]:
                return fail(SpoolError("no"))

        endpoint = Endpoint()
        server = self.server(spool=Broken(self.clock))
        server.listenOn(endpoint)
        server.privilegedStartService()
        server.startService()
        self.assertFalse(endpoint.port.isOpen)
        self.stop(server)

    def test_late(self) -> None:
        """A port of the program's own has a factory, with settings of its own or the server's."""
        server = self.started(settings=ListenerSettings(protocol="lmtp"))
        factory: Any = server.factory()
        self.assertEqual(factory.settings.protocol, "lmtp")
        self.assertEqual(factory.settings.hostname, "mx.test")


class ReplaceTests(ServerCase):
    """
    L{MailServer.replace}.
    """

    def test_underWay(self) -> None:
        """A transaction that has begun ends with its stages; the next one meets others."""
        server, other = self.started(), Box()
        client = self.client(server)
        client.begin("lover", "hater")
        server.replace(content=[Words(b"ham")])
        self.assertEqual(client.send(), ["353", "250", "550", "250"])
        client.begin("lover", "hater")
        self.assertEqual(client.send(), ["250"])
        client.begin("lover", "hater")
        self.assertEqual(client.send("ham")[2], "550")
        server.replace(envelope=Everyone(Accept()), delivery=other)
        self.assertEqual(client.begin("hater")[0][:3], "250")
        client.send("ham")
        self.clock.advance(1)
        self.assertEqual(other.found[-1], "hater@x.test")

    def test_wrong(self) -> None:
        """What cannot be changes nothing."""
        server = self.started()
        self.assertRaises(TypeError, server.replace, content=[object()])
        self.assertRaises(ValueError, server.replace, notices="nowhere")
        client = self.client(server)
        client.begin("lover", "hater")
        self.assertEqual(client.send()[2], "550")

    def test_gone(self) -> None:
        """What is queued for a delivery that is there no longer waits."""
        one = Everyone(Defer(Route("content", "one")))
        server = self.started(envelope=one, delivery={"one": Box(), "two": self.box})
        client = self.client(server)
        client.begin("lover")
        two = Everyone(Defer(Route("content", "two")))
        server.replace(envelope=two, delivery={"two": self.box})
        self.assertEqual(client.send(), ["250"])
        self.clock.advance(1)
        self.assertEqual(self.box.found, [])


class RestartTests(SynchronousTestCase):
    """
    With a spool on a disk.
    """

    def setUp(self) -> None:
        self.reactor = PumpedReactor()
        self.reactor.advance(1_000_000_000)
        self.directory = self.mktemp()

    def server(self, box: Box) -> MailServer:
        return MailServer(
            self.reactor,
            hostname="mx.test",
            envelope=Everyone(),
            delivery=box,
            spool=self.directory,
        )

    def until(self, condition: Callable[[], bool]) -> None:
        self.reactor.advance(0)
        while not condition():
            function, args = self.reactor.fromThread.get(timeout=30)
            function(*args)
            self.reactor.advance(0)

    def stop(self, server: MailServer) -> None:
        done = server.stop(0)
        self.until(lambda: bool(done.called))

    def test_restart(self) -> None:
        """What one server has taken, the next one on its spool delivers."""
        first = self.server(Box(Failed(Reply(451, "4.3.0", "later"))))
        held: list[Any] = []
        self.patch(first._queue, "release", held.append)
        self.reactor.wait(first.start())
        client = Client(first, self.reactor)
        client.begin("lover")
        client.say("DATA", "Subject: x\r\n\r\nstaged\r\n.")
        self.until(lambda: bool(held))
        client.session.connectionLost(Failure(ConnectionDone()))
        self.stop(first)
        box = Box()
        second = self.server(box)
        self.reactor.wait(second.start())
        self.until(lambda: bool(box.found))
        self.assertEqual(box.found, ["lover@x.test"])
        self.assertIn(b"staged", box.bodies[0])
        queue = second.queue
        assert queue is not None
        while self.reactor.wait(queue.numbers())["messages"]:
            self.reactor.advance(0.01)
        self.stop(second)

    def test_locked(self) -> None:
        """A second server on one spool does not start."""
        first, second = self.server(Box()), self.server(Box())
        self.reactor.wait(first.start())
        failure = self.reactor.wait(second.start())
        self.assertIsInstance(failure.value, SpoolError)
        self.stop(second)
        self.stop(first)

    def test_unwritable(self) -> None:
        """A directory that cannot be is the start's failure."""
        with open(self.directory, "w"):
            pass
        failure = self.reactor.wait(self.server(Box()).start())
        self.assertIsInstance(failure.value, SpoolError)

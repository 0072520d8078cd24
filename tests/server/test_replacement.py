"""
Listeners that replace others: all of them, or nothing changes.  With real ports.
"""

from __future__ import annotations

import gc
import os
import random
import shutil
import socket
import tempfile

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.trial.unittest import TestCase

from deferrals.errors import ListenError
from deferrals.model.listener import ListenerSettings
from deferrals.server.listeners import Listeners
from deferrals.server.replacement import Replacement
from deferrals.smtp.server.session import SessionFactory
from tests.ports import freePort

_HOSTS = ("127.0.0.1", "127.0.0.2", "", "::1")


def accepts(where: str) -> bool:
    """
    Whether some socket listens there: a port, or the path of a socket.

    @param where: as C{127.0.0.1 25}, or a path.
    """
    host, _, port = where.partition(" ")
    family = socket.AF_UNIX if not port else socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as client:
        client.settimeout(5)
        try:
            client.connect((host, int(port)) if port else host)
        except OSError:
            return False
    return True


def endpoint(host: str, port: int) -> str:
    """Its description."""
    if ":" in host:
        return f"tcp6:{port}:interface={host.replace(':', chr(92) + ':')}"
    return f"tcp:{port}:interface={host}" if host else f"tcp:{port}"


class ReplacementTests(TestCase):
    """
    L{Replacement}.
    """

    def setUp(self) -> None:
        self.directory = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.directory)
        self.ports = [freePort() for _ in range(3)]
        self.patch(SessionFactory, "buildProtocol", lambda factory, addr: None)
        self.start()
        self.addCleanup(self.forgetTwisteds)
        self.addCleanup(lambda: Deferred.fromCoroutine(self.listeners.close()))

    def forgetTwisteds(self) -> None:
        """A Unix socket that cannot be bound is left to the garbage collector."""
        gc.collect()
        self.flushWarnings()

    def start(self) -> None:
        self.listeners = Listeners(reactor, lambda settings: None)  # type: ignore[arg-type, return-value]

    async def replacement(self, *endpoints: str) -> None:
        """
        @raise ListenError: nothing has changed.
        """
        wanted = {name: ListenerSettings(name=name) for name in endpoints}
        replacement = Replacement(self.listeners, wanted)
        await replacement.prepare()
        await replacement.commit(0.0)

    def listening(self) -> set[str]:
        """
        What accepts, of all that a test could have opened.
        """
        hosts = [host for host in _HOSTS if host]
        places = [f"{host} {port}" for host in hosts for port in self.ports]
        places += [os.path.join(self.directory, name) for name in "ab"]
        return {place for place in places if accepts(place)}

    async def test_interface(self) -> None:
        """The same port on another interface: the former socket is in the way, and leaves."""
        one, *_ = self.ports
        await self.replacement(endpoint("127.0.0.1", one))
        await self.replacement(endpoint("", one))
        self.assertEqual(self.listening(), {f"127.0.0.1 {one}", f"127.0.0.2 {one}"})
        await self.replacement(endpoint("127.0.0.2", one))
        self.assertEqual(self.listening(), {f"127.0.0.2 {one}"})

    async def test_wayBack(self) -> None:
        """Where a later one cannot be had, the one that stepped aside listens as before."""
        one, two, _ = self.ports
        await self.replacement(endpoint("127.0.0.1", one))
        taken = socket.create_server(("127.0.0.1", two))
        self.addCleanup(taken.close)
        with self.assertRaisesRegex(ListenError, f"cannot listen on tcp:{two}:interface=127.0.0.1"):
            await self.replacement(endpoint("", one), endpoint("127.0.0.1", two))
        self.assertEqual(self.listening(), {f"127.0.0.1 {one}", f"127.0.0.1 {two}"})
        self.assertFalse(accepts(f"127.0.0.2 {one}"))
        self.assertEqual(list(self.listeners.named), [endpoint("127.0.0.1", one)])

    async def test_lowPort(self) -> None:
        """A socket that steps aside is bound all the time: the way back needs no rights."""
        one, *_ = self.ports
        await self.replacement(endpoint("127.0.0.1", one))
        (port,) = [listener.port for listener in self.listeners.named.values()]
        before = port.socket.fileno()  # type: ignore[union-attr]

        def forbidden(*args: object, **more: object) -> None:
            raise CannotListenError("", one, PermissionError(13, "Permission denied"))

        self.patch(reactor, "listenTCP", forbidden)
        with self.assertRaises(ListenError):
            await self.replacement(endpoint("", one))
        self.assertEqual(port.socket.fileno(), before)  # type: ignore[union-attr]
        self.assertEqual(self.listening(), {f"127.0.0.1 {one}"})

    async def test_unix(self) -> None:
        """The same path with other options."""
        path = os.path.join(self.directory, "a")
        await self.replacement(f"unix:{path}")
        await self.replacement(f"unix:{path}:mode=600")
        self.assertEqual(os.stat(path).st_mode & 0o777, 0o600)
        self.assertEqual(self.listening(), {path})
        os.mkdir(os.path.join(self.directory, "b"))
        with self.assertRaises(ListenError):
            await self.replacement(f"unix:{path}", f"unix:{self.directory}/b")
        self.assertEqual(self.listening(), {path})

    async def test_anyOrder(self) -> None:
        """
        After any number of replacements, what listens is what the last one that succeeded
        wanted; another one has changed nothing.
        """
        places = {
            endpoint(host, port): {f"{host or one} {port}" for one in ("127.0.0.1", "127.0.0.2")}
            for host in _HOSTS
            for port in self.ports[:2]
        }
        for name in "ab":
            path = os.path.join(self.directory, name)
            places[f"unix:{path}"] = places[f"unix:{path}:mode=600"] = {path}
        some = [*places, "unix:/proc/none", f"tcp:{self.ports[2]}:interface=192.0.2.1"]
        for seed in range(int(os.environ.get("DEFERRALS_RELOADS", "25"))):
            chance = random.Random(seed)
            await self.listeners.close()
            self.start()
            before: set[str] = set()
            for _ in range(chance.randrange(1, 6)):
                chosen = chance.sample(some, chance.randrange(4))
                try:
                    await self.replacement(*chosen)
                except ListenError:
                    self.assertEqual(self.listening(), before, (seed, chosen))
                else:
                    before = {place for name in chosen for place in places[name]}
                    self.assertEqual(self.listening(), before, (seed, chosen))
                    self.assertEqual(set(self.listeners.named), set(chosen))

"""
Authentication as a client (RFC 4954): SCRAM-SHA-256 (RFC 5802, RFC 7677),
PLAIN (RFC 4616), LOGIN.

A mechanism is asked for the argument of AUTH, then for an answer to each 334,
and in the end whether it is content: a server that knows the password proves it
in SCRAM, and one that cannot is not believed.  What is wrong is a C{ValueError}.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from abc import ABC, abstractmethod
from collections.abc import Sequence

from deferrals.model.commands import checkSecret
from deferrals.model.sasl import saslprep
from deferrals.threads import InThread

#: More rounds than this are an attempt to keep us busy.
MAX_ITERATIONS = 1_000_000


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _decode(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        raise ValueError("the server's challenge is not base64") from None


class Mechanism(ABC):
    """
    One way to authenticate.

    @cvar name: its name in SASL.
    @cvar revealsPassword: whether it is for protected connections only.
    @raise ValueError: a NUL or a line end in the user's name or the password.
    """

    name: str
    revealsPassword = True

    def __init__(self, user: str, password: str) -> None:
        checkSecret(user)
        checkSecret(password)
        self._user = user
        self._password = password

    @abstractmethod
    def start(self) -> str:
        """
        @return: the argument of AUTH.
        """

    async def respond(self, challenge: str) -> str:
        """
        @param challenge: behind 334, as it came.
        @return: the next line.
        @raise ValueError: it is no challenge that there can be.
        """
        raise ValueError("a challenge that there cannot be")

    def finish(self) -> None:  # noqa: B027 (a password is all there is)
        """
        The server is content.

        @raise ValueError: we are not.
        """


class Plain(Mechanism):
    """
    The password as it is: for protected connections.
    """

    name = "PLAIN"

    def start(self) -> str:
        return "PLAIN " + _encode("\0".join(["", self._user, self._password]).encode())


class LoginMechanism(Mechanism):
    """
    The same in two pieces, for servers that know nothing else.
    """

    name = "LOGIN"

    def start(self) -> str:
        self._answers = [self._password, self._user]
        return "LOGIN"

    async def respond(self, challenge: str) -> str:
        if not self._answers:
            raise ValueError("a challenge that there cannot be")
        return _encode(self._answers.pop().encode())


class ScramSHA256(Mechanism):
    """
    Both sides prove that they know the password, which is never sent.

    @param nonce: random text, without commas.
    @param inThread: runs what takes long.
    """

    name = "SCRAM-SHA-256"
    revealsPassword = False

    def __init__(self, user: str, password: str, nonce: str, inThread: InThread) -> None:
        super().__init__(saslprep(user), saslprep(password))
        self._nonce = nonce
        self._inThread = inThread
        self._signature: bytes | None = None
        self._proven = False

    def start(self) -> str:
        name = self._user.replace("=", "=3D").replace(",", "=2C")
        self._first = f"n={name},r={self._nonce}"
        return "SCRAM-SHA-256 " + _encode(f"n,,{self._first}".encode())

    async def respond(self, challenge: str) -> str:
        message = _decode(challenge).decode("utf-8")
        words = dict(word.partition("=")[::2] for word in message.split(","))
        if "e" in words:
            raise ValueError(f"the server says {words['e'][:80]}")
        if self._signature is None:
            return await self._prove(message, words)
        if not hmac.compare_digest(_decode(words.get("v", "")), self._signature):
            raise ValueError("the server does not know the password")
        self._proven = True
        return ""

    async def _prove(self, message: str, words: dict[str, str]) -> str:
        nonce, rounds = words.get("r", ""), words.get("i", "")
        salt = _decode(words.get("s", ""))
        if not nonce.startswith(self._nonce) or len(nonce) == len(self._nonce) or not salt:
            raise ValueError("the server's first message is malformed")
        if not (rounds.isascii() and rounds.isdigit() and 0 < int(rounds) <= MAX_ITERATIONS):
            raise ValueError("a number of iterations that there should not be")
        final = f"c={_encode(b'n,,')},r={nonce}"
        signed = f"{self._first},{message},{final}".encode()

        salted = await self._inThread(
            hashlib.pbkdf2_hmac, "sha256", self._password.encode(), salt, int(rounds)
        )
        key = _hmac(salted, b"Client Key")
        stored = hashlib.sha256(key).digest()
        proof = bytes(a ^ b for a, b in zip(key, _hmac(stored, signed), strict=True))
        self._signature = _hmac(_hmac(salted, b"Server Key"), signed)
        return _encode(f"{final},p={_encode(proof)}".encode())

    def finish(self) -> None:
        if not self._proven:
            raise ValueError("the server has not proved that it knows the password")


def _hmac(key: bytes, data: bytes) -> bytes:
    return hmac.digest(key, data, "sha256")


def choose(
    offered: Sequence[str],
    user: str,
    password: str,
    nonce: str,
    inThread: InThread,
) -> Mechanism:
    """
    The best mechanism that a server offers.

    @param offered: the words behind AUTH in its answer to EHLO.
    @raise ValueError: there is none that we know.
    """
    names = {name.upper() for name in offered}
    if "SCRAM-SHA-256" in names:
        return ScramSHA256(user, password, nonce, inThread)
    if "PLAIN" in names:
        return Plain(user, password)
    if "LOGIN" in names:
        return LoginMechanism(user, password)
    shown = " ".join(sorted(names)) or "none"
    raise ValueError(f"no way to authenticate that both sides know (offered: {shown})")

"""
What SASL mechanisms say: PLAIN (RFC 4616), and SCRAM-SHA-256 (RFC 5802,
RFC 7677) without channel binding, seen from the server.

Octets in, values out.  Nonces and keys are given, nothing is stored.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import stringprep
import unicodedata

import attrs

#: RFC 7677 §4 asks for at least 4,096.
SCRAM_ITERATIONS = 20000

_FORBIDDEN = (
    stringprep.in_table_c12,
    stringprep.in_table_c21_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
)
# RFC 5802 §7: what a client says behind its nonce may be ignored.
_FIRST = re.compile(r"(?:n|y),(?:a=([^,]*))?,n=([^,]+),r=([!-+\--~]{1,200})(?:,[A-Za-z]=[^,\0]+)*")
_FINAL = re.compile(r"(c=([^,]+),r=([!-+\--~]+)(?:,[A-Za-oq-z]=[^,\0]+)*),p=([A-Za-z0-9+/=]+)")


class SaslError(ValueError):
    """
    The client says what its mechanism does not allow.
    """


def decode(line: bytes) -> bytes:
    """
    Base 64, and nothing but that.

    @raise SaslError: it is something else.
    """
    try:
        return base64.b64decode(line, validate=True)
    except binascii.Error:
        raise SaslError("not base 64") from None


def saslprep(text: str) -> str:
    """
    One form for one name or password (RFC 4013).

    @raise SaslError: it has characters that must not be there.
    """
    if text.isascii() and text.isprintable():
        return text
    mapped = "".join(
        " " if stringprep.in_table_c12(c) else c for c in text if not stringprep.in_table_b1(c)
    )
    text = unicodedata.normalize("NFKC", mapped)
    if any(forbidden(c) for c in text for forbidden in _FORBIDDEN):
        raise SaslError("a character that no name or password may have")
    if any(map(stringprep.in_table_d1, text)) and (
        any(map(stringprep.in_table_d2, text))
        or not (stringprep.in_table_d1(text[0]) and stringprep.in_table_d1(text[-1]))
    ):
        raise SaslError("text of both directions")
    return text


@attrs.frozen
class SASLCredentials:
    """
    @ivar authorization: whom the client wants to be; empty for the user.
    @ivar user: whose password it is.
    @ivar password: as the client sent it.
    """

    authorization: str
    user: str
    password: str = attrs.field(repr=False)


def parsePlain(message: bytes) -> SASLCredentials:
    """
    RFC 4616 §2.

    @raise SaslError: it is no such message.
    """
    try:
        parts = message.decode("utf-8").split("\0")
    except UnicodeDecodeError:
        raise SaslError("not UTF-8") from None
    if len(parts) != 3 or not parts[1] or not parts[2]:
        raise SaslError("not authorization, user and password")
    return SASLCredentials(*parts)


@attrs.frozen
class ScramKeys:
    """
    What a server keeps instead of a password (RFC 5802 §3).

    @ivar stored: StoredKey.
    @ivar server: ServerKey.
    """

    iterations: int
    salt: bytes
    stored: bytes = attrs.field(repr=False)
    server: bytes = attrs.field(repr=False)

    @classmethod
    def make(cls, password: str, salt: bytes, iterations: int = SCRAM_ITERATIONS) -> ScramKeys:
        """
        Slow on purpose: call it in a thread.

        @raise SaslError: the password has a character that none may have.
        """
        secret = saslprep(password).encode("utf-8")
        salted = hashlib.pbkdf2_hmac("sha256", secret, salt, iterations)
        stored = hashlib.sha256(_hmac(salted, b"Client Key")).digest()
        return cls(iterations, salt, stored, _hmac(salted, b"Server Key"))

    @classmethod
    def parse(cls, text: str) -> ScramKeys:
        """
        RFC 5803: C{SCRAM-SHA-256$ITERATIONS:SALT$STORED:SERVER}.

        @raise ValueError: it is none.
        """
        match = re.fullmatch(r"SCRAM-SHA-256\$(\d{1,9}):([^$]+)\$([^:]+):(.+)", text, re.A)
        if match is None:
            raise ValueError("SCRAM-SHA-256$ITERATIONS:SALT$STORED:SERVER")
        return cls(int(match[1]), *(decode(match[part].encode("ascii")) for part in (2, 3, 4)))

    def __str__(self) -> str:
        salt, stored, server = (_text(part) for part in (self.salt, self.stored, self.server))
        return f"SCRAM-SHA-256${self.iterations}:{salt}${stored}:{server}"

    def prove(self, message: bytes, proof: bytes) -> bool:
        """
        Whether the maker of C{proof} over C{message} knows the password.
        """
        signature = _hmac(self.stored, message)
        if len(proof) != len(signature):
            return False
        key = bytes(a ^ b for a, b in zip(proof, signature, strict=True))
        return hmac.compare_digest(hashlib.sha256(key).digest(), self.stored)


class ScramExchange:
    """
    One exchange, from the client's first message to its proof.

    @ivar user: the name that the client gives; SASLprepped.
    @ivar authorization: whom the client wants to be; empty for the user.
    @param first: the client's first message.
    @raise SaslError: it is no such message, or wants channel binding.
    """

    def __init__(self, first: bytes) -> None:
        text = _decoded(first)
        match = _FIRST.fullmatch(text)
        if match is None:
            raise SaslError("no first message of SCRAM without channel binding")
        self.authorization = _name(match[1] or "")
        self.user = saslprep(_name(match[2]))
        self._clientNonce = match[3]
        header = text[: text.index(",", 2) + 1]
        self._binding = base64.b64encode(header.encode("utf-8")).decode("ascii")
        self._transcript = text[len(header) :]
        self._nonce = ""

    def challenge(self, keys: ScramKeys, nonce: str) -> bytes:
        """
        The server's first message.

        @param nonce: fresh, printable, without commas.
        """
        self._nonce = self._clientNonce + nonce
        message = f"r={self._nonce},s={_text(keys.salt)},i={keys.iterations}"
        self._transcript += f",{message}"
        return message.encode("ascii")

    def proof(self, final: bytes) -> tuple[bytes, bytes]:
        """
        The client's last message.

        @return: what its proof is over, and the proof.
        @raise SaslError: it is no such message, or belongs to another exchange.
        """
        match = _FINAL.fullmatch(_decoded(final))
        if match is None or match[2] != self._binding or match[3] != self._nonce:
            raise SaslError("no last message of this exchange")
        return f"{self._transcript},{match[1]}".encode(), decode(match[4].encode("ascii"))


def signature(keys: ScramKeys, message: bytes) -> bytes:
    """
    The server's last message: it knows the user's keys, too.
    """
    return b"v=" + base64.b64encode(_hmac(keys.server, message))


def _hmac(key: bytes, message: bytes) -> bytes:
    return hmac.digest(key, message, "sha256")


def _text(octets: bytes) -> str:
    return base64.b64encode(octets).decode("ascii")


def _decoded(message: bytes) -> str:
    try:
        return message.decode("utf-8")
    except UnicodeDecodeError:
        raise SaslError("not UTF-8") from None


def _name(text: str) -> str:
    """
    RFC 5802 §5.1: C{=2C} and C{=3D} stand for a comma and an equals sign.
    """
    if re.search("=(?!2C|3D)", text):
        raise SaslError("a bad name")
    return text.replace("=2C", ",").replace("=3D", "=")

"""
Whether a signature (RFC 6376, relaxed/relaxed) is right: what a receiver finds out.
"""

from __future__ import annotations

import base64
import hashlib
import re

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

_FIELDS = re.compile(rb"\r\n(?![ \t])")


def _relaxed(name: bytes, value: bytes) -> bytes:
    value = re.sub(rb"[ \t]+", b" ", value.replace(b"\r\n", b"")).strip()
    return name.lower().strip() + b":" + value


def _body(body: bytes) -> bytes:
    lines = [re.sub(rb"[ \t]+", b" ", line).rstrip() for line in body.split(b"\r\n")]
    text = b"\r\n".join(lines).rstrip(b"\r\n")
    return text + b"\r\n" if text else b""


def isRight(message: bytes, key: bytes) -> bool:
    """
    Whether the first signature of a message fits it.

    @param message: with CRLF line ends.
    @param key: the private key that it was made with, as PEM.
    """
    head, _, body = message.partition(b"\r\n\r\n")
    fields = [field.partition(b":")[::2] for field in _FIELDS.split(head)]
    signature = next(value for name, value in fields if name.lower() == b"dkim-signature")
    tags = dict(re.findall(rb"([a-z]+)=([^;]*)", re.sub(rb"\s+", b"", signature)))
    if base64.b64decode(tags[b"bh"]) != hashlib.sha256(_body(body)).digest():
        return False
    left = list(fields)
    signed = []
    for name in tags[b"h"].split(b":"):
        found = [one for one in left if one[0].lower() == name.lower()]
        if found:
            left.reverse()
            left.remove(found[-1])
            left.reverse()
            signed.append(_relaxed(*found[-1]) + b"\r\n")
    unsigned = re.sub(rb"(\bb=)[^;]*", rb"\1", signature)
    signed.append(_relaxed(b"DKIM-Signature", unsigned))
    private = serialization.load_pem_private_key(key, None)
    assert isinstance(private, rsa.RSAPrivateKey)
    try:
        private.public_key().verify(
            base64.b64decode(tags[b"b"]),
            b"".join(signed),
            padding.PKCS1v15(),
            hashes.SHA256(),
        )
    except InvalidSignature:
        return False
    return True

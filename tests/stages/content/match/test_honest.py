"""
Ordinary mail of many kinds, in which nothing is found: no false alarms.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from deferrals.stages.content.match.stage import MatchRule
from tests.mails import mail, zipped
from tests.stages.content.match.test_shown import matches

_PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 4
_PDF = b"%PDF-1.4\n" + bytes(range(256)) * 40
_TOP = "From: a@example.com\r\nTo: b@example.net\r\nSubject: x\r\nMIME-Version: 1.0\r\n"

#: What is refused; none of it is in these messages.
RULES: tuple[dict[str, Any], ...] = (
    {"attachment": ("*.exe", "*.scr", "*.js", "*.vbs", "*.com", "*.bat")},
    {"mime_type": ("application/x-msdownload", "application/octet-stream")},
    {"file_type": ("exe", "dll", "rar", "7z", "gz", "bz2", "class", "swf")},
    {"archive": ("*.exe", "*.js")},
    {"test": "unreadable-archive"},
    {"test": "gtube"},
    {"test": "eicar"},
    {"body": True, "words": ("casino", "free money")},
    {"header": "Subject", "words": ("casino",)},
)


def _plain(text: str, encoding: str = "8bit", charset: str = "utf-8") -> bytes:
    fields = f"Content-Type: text/plain; charset={charset}\r\n"
    return (_TOP + fields + f"Content-Transfer-Encoding: {encoding}\r\n\r\n").encode() + (
        text.replace("\n", "\r\n").encode(charset)
    )


def _with(name: str, kind: str, data: bytes) -> Callable[[], bytes]:
    return lambda: mail(text="see there", attachments=[(name, kind, data)]).as_bytes()


def _related() -> bytes:
    message = mail(text="hello", html='<p>hello <img src="cid:1"></p>')
    message.get_payload()[1].add_related(_PNG, "image", "png", cid="<1>")
    return message.as_bytes()


def _forwarded() -> bytes:
    message = mail(text="see below")
    message.add_attachment(mail(subject="inner", attachments=[("a.pdf", "application/pdf", _PDF)]))
    return message.as_bytes()


def _calendar() -> bytes:
    message = mail(text="an invitation")
    message.add_alternative("BEGIN:VCALENDAR\r\nEND:VCALENDAR\r\n", subtype="calendar")
    return message.as_bytes()


def _report() -> bytes:
    return (
        _TOP + "Content-Type: multipart/report; report-type=delivery-status; boundary=r\r\n\r\n"
        "--r\r\n\r\nIt was not delivered.\r\n--r\r\nContent-Type: message/delivery-status\r\n\r\n"
        "Reporting-MTA: dns; mx.example.net\r\n\r\nAction: failed\r\nStatus: 5.1.1\r\n\r\n"
        "--r\r\nContent-Type: text/rfc822-headers\r\n\r\nSubject: inner\r\n"
        "Content-Type: multipart/mixed; boundary=x\r\n\r\n--r--\r\n"
    ).encode()


def _signed() -> bytes:
    return (
        _TOP + "Content-Type: multipart/signed; micalg=pgp-sha256;\r\n"
        ' protocol="application/pgp-signature"; boundary="s"\r\n\r\n--s\r\n'
        "Content-Type: text/plain\r\n\r\nhello\r\n--s\r\n"
        'Content-Type: application/pgp-signature; name="signature.asc"\r\n\r\n'
        "-----BEGIN PGP SIGNATURE-----\r\n\r\niQEz\r\n-----END PGP SIGNATURE-----\r\n--s--\r\n"
    ).encode()


def _digest() -> bytes:
    inner = "Subject: one\r\n\r\nhello\r\n"
    top = _TOP + "Content-Type: multipart/digest; boundary=d\r\n\r\n"
    return (top + f"--d\r\n\r\n{inner}--d\r\n\r\n{inner}--d--\r\n").encode()


def _footer() -> bytes:
    """
    A list's footer behind a text in base 64.
    """
    return (
        _plain("", "base64") + base64.encodebytes(b"Hello all, how are you?") + b"-- \r\nlist\r\n"
    )


#: One of each kind.
HONEST: dict[str, Callable[[], bytes]] = {
    "plain": lambda: _plain("Hello,\n\nhow are you?\n\nAnna\n"),
    "a signature": lambda: _plain("Hello\n\n-- \nAnna\n--\nBob\n"),
    "one word": lambda: _plain("Thanks"),
    "a line of letters": lambda: _plain("AAAABBBBCCCCDDDD\n"),
    "German": lambda: _plain("Grüße aus Köln\n"),
    "Latin-1": lambda: _plain("Grüße aus Köln\n", "8bit", "iso-8859-1"),
    "Japanese": lambda: _plain("こんにちは\n", "7bit", "iso-2022-jp"),
    "quoted-printable": lambda: mail(
        text="Grüße aus Köln " * 20, cte="quoted-printable"
    ).as_bytes(),
    "base 64": lambda: mail(text="Grüße aus Köln " * 20, cte="base64").as_bytes(),
    "HTML": lambda: mail(html="<p>hello</p>").as_bytes(),
    "an image in HTML": _related,
    "a PDF": _with("invoice.pdf", "application/pdf", _PDF),
    "a long name": _with("ein sehr langer Name " * 6 + ".pdf", "application/pdf", _PDF),
    "a name that is not ASCII": _with("résumé, größer.pdf", "application/pdf", _PDF),
    "a picture": _with("photo.png", "image/png", _PNG),
    "a zip": _with("x.zip", "application/zip", zipped({"a.txt": b"x", "b/c.pdf": _PDF})),
    "a zip in a zip": _with("x.zip", "application/zip", zipped({"y.zip": zipped({"a.txt": b""})})),
    "a document": _with(
        "x.docx", "application/vnd.ms-word", zipped({"word/document.xml": b"<a/>"})
    ),
    "a text attached": _with("notes.txt", "text/plain", b"begin at the end\n" * 30),
    "a forwarded message": _forwarded,
    "an invitation": _calendar,
    "a bounce": _report,
    "signed": _signed,
    "a digest": _digest,
    "a list's footer": _footer,
    "a quoted header": lambda: _plain(
        "He wrote:\n\n> From: x@example.com\n> Content-Type: x/y; name=a.exe\n\nwhat is that?\n"
    ),
    "a forwarded text": lambda: _plain(
        "----- Original Message -----\nFrom: x@example.com\nTo: y\nSubject: z\n\nhello\n"
    ),
    "a list of files": lambda: _plain("The files are a.exe and b.scr; begin 644 times.\n"),
    "a patch": lambda: _plain("--- a/x.py\n+++ b/x.py\n@@ -1 +1 @@\n-a = 1\n+a = 2\n--\n2.39\n"),
    "without MIME": lambda: b"From: a@example.com\r\nSubject: x\r\n\r\nhello\r\n",
    "without a header section": lambda: b"Alarm: door 3 open\r\nTime: 10:00\r\n",
    "text alone": lambda: b"hello world\r\n",
    "empty": lambda: b"From: a@example.com\r\n\r\n",
    "LF": lambda: _plain("hello\n").replace(b"\r\n", b"\n"),
}


class HonestTests(SynchronousTestCase):
    """
    Nothing is found in it.
    """

    def test_honest(self) -> None:
        """None of the rules matches any of them."""
        for kind, make in HONEST.items():
            data = make()
            for rule in RULES:
                self.assertFalse(matches(data, **rule), (kind, rule, data))

    def test_rulesWork(self) -> None:
        """Each of the rules can match."""
        self.assertEqual(len({MatchRule(**rule).subject for rule in RULES}), len(RULES))

    def test_wellFormed(self) -> None:
        """They are what they say: the standard library finds no fault with them."""
        for kind, make in HONEST.items():
            if kind != "text alone":
                message = message_from_bytes(make(), policy=policy.default)
                assert isinstance(message, EmailMessage)
                self.assertEqual(message.defects, [], kind)

"""
Messages for tests: with a structure, and with archives in them.
"""

from __future__ import annotations

import email.message
import email.policy
import io
import zipfile
from collections.abc import Mapping
from typing import Any


def zipped(contents: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in contents.items():
            archive.writestr(name, data)
    return file.getvalue()


def mail(**content: Any) -> email.message.EmailMessage:
    message = email.message.EmailMessage(email.policy.SMTP)
    message["Subject"] = content.get("subject", "test")
    message.set_content(content.get("text", "hello"), cte=content.get("cte"))
    if "html" in content:
        message.add_alternative(content["html"], subtype="html")
    for name, kind, data in content.get("attachments", ()):
        maintype, subtype = kind.split("/")
        message.add_attachment(data, maintype, subtype, filename=name)
    return message


def many(count: int) -> bytes:
    part = b"--b\r\nContent-Type: text/plain; name=a.txt\r\n\r\nhello\r\n"
    return b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + part * count + b"--b--\r\n"

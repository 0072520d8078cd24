"""
A delivery for rigs that keeps every copy: each is a line in a file that is only
ever appended to, C{copies.jsonl} beside the configuration.  What becomes of a
recipient is in its name: C{gone-…} is refused for good; C{later-…} is refused for
now at its first attempt in this process; C{slow-…} takes a while; of C{b…} and of
these more is told than that it was delivered, which the spool records in another way.
All at C{nap.example} take longer.  Each line says when its delivery began, and in which
process.
"""

import hashlib
import json
import os
import re
import time
from typing import Any

import attrs
from twisted.internet.task import deferLater
from twisted.plugin import IPlugin
from zope.interface import implementer

from deferrals.interfaces import IDeliveryStage, IStagePlugin
from deferrals.model.reply import Reply
from deferrals.model.verdict import Delivered, Failed, Retry

GONE = Failed(Reply(550, "5.1.1", "gone"), "mx.gone.example")
LATER = Retry(Reply(451, "4.2.0", "later"), "mx.later.example")
TAKEN = Delivered(Reply(250, "2.0.0", "taken"), "mx.live.example", "relayed")

SLOW_SECONDS = 0.4

#: How long C{nap.example} takes.
NAP_SECONDS = 1.0

_TRACE = re.compile(rb"^X-Number: (\d+)\r?\nX-Digest: (\w+)", re.M)


@attrs.frozen
class Settings:
    """
    @ivar unfit: the number of a worker that cannot make this delivery.
    """

    unfit: int = -1


@implementer(IDeliveryStage)
class Copies:
    def __init__(self, services: Any) -> None:
        self._reactor = services.reactor
        self._path = os.path.join(services.baseDir, "copies.jsonl")
        self._tried: set[tuple[int, str]] = set()

    def destination(self, recipient: Any) -> str:
        return f"copies {recipient.address.domain}"

    def deliver(self, message: Any, envelope: Any, recipients: Any) -> Any:
        asked = time.monotonic(), message, envelope, recipients
        names = [str(recipient) for recipient in recipients]
        if any(name.endswith("@nap.example") for name in names):
            return deferLater(self._reactor, NAP_SECONDS, self._take, *asked)
        if any(name.startswith("slow-") for name in names):
            return deferLater(self._reactor, SLOW_SECONDS, self._take, *asked)
        return self._take(*asked)

    def _take(self, began: float, message: Any, envelope: Any, recipients: Any) -> Any:
        with message.open() as file:
            content = file.read()
        found = _TRACE.search(content)
        number, digest = (int(found[1]), found[2].decode()) if found else (-1, "")
        body = content[found.end() :].partition(b"\r\n\r\n")[2] if found else b""
        isNotice = envelope.sender is None and b"report-type=delivery-status" in content
        entry = {
            "number": number,
            "notice": isNotice,
            "whole": isNotice or hashlib.sha256(body).hexdigest() == digest,
            "began": began,
            "by": os.getpid(),
        }
        return {one: self._outcome(entry, str(one)) for one in recipients}

    def _outcome(self, entry: dict[str, Any], address: str) -> Any:
        if address.startswith("gone-"):
            return GONE
        key = entry["number"], address
        if address.startswith("later-") and key not in self._tried:
            self._tried.add(key)
            return LATER
        line = json.dumps({**entry, "to": address, "at": time.monotonic()}) + "\n"
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            os.write(descriptor, line.encode())
        finally:
            os.close(descriptor)
        self._tried.discard(key)
        return TAKEN if address.startswith(("b", "later-", "slow-")) else Delivered()


@implementer(IPlugin, IStagePlugin)
class CopiesPlugin:
    name = "copies"
    stage = IDeliveryStage
    settings = Settings

    def build(self, settings: Any, services: Any) -> Any:
        with open("/proc/self/environ", "rb") as file:
            if b"DEFERRALS_WORKER=%d" % settings.unfit in file.read().split(b"\0"):
                raise ValueError("this worker is unfit")
        return Copies(services)


copies = CopiesPlugin()

"""
Our server with a delivery that fails as an address says.
"""

from __future__ import annotations

import os
from typing import Any

from tests.integration.support import PATIENCE, ROOT, IntegrationCase, cli, until

STAGE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "stage")

CONFIG = """
hostname = "mx.example.net"
bounces = "senders"

[[listen]]
endpoint = "tcp:0:interface=127.0.0.1"

[policies.open]
envelope = "accept"

[policies.virus]
content = [ { use = "match", rules = [ { test = "eicar" } ] } ]

[policies.spam]
content = [ { use = "match", rules = [
  { test = "gtube", reply = "550 5.7.1 spam is not wanted" },
] } ]

[deliveries.senders]
use = "maildir"
path = "mail/{local}"

[[recipients]]
match = "*@example.net"
policy = "virus"
deliver = { use = "maildir", path = "mail/{local}" }

[[recipients]]
match = "*@picky.example"
policy = "spam"
deliver = { use = "maildir", path = "mail/{local}" }

[[recipients]]
match = "*"
policy = "open"
deliver = { use = "unreliable", retry = "1h", expire = "5d", warn = "4h" }
"""


class CrashCase(IntegrationCase):
    """
    Tests with that server.
    """

    def setUp(self) -> None:
        before = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [STAGE, before]))
        self.addCleanup(
            lambda: (
                os.environ.pop("PYTHONPATH")
                if before is None
                else os.environ.update(PYTHONPATH=before)
            )
        )

    def run_(self, server: Any, *arguments: str, data: bytes = b"") -> Any:
        """
        C{deferrals …} for a server's configuration.
        """
        words = list(arguments)
        place = 2 if words[0] == "queue" else 1
        return cli(*words[:place], "--config", server.path, *words[place:], data=data)

    def send(self, server: Any, *recipients: str, sender: str = "me@client.test") -> str:
        """
        Send a message.

        @return: its id.
        """
        dialogue = self.dialogue(server.port)
        dialogue.reply()
        dialogue.say("EHLO client.test", f"MAIL FROM:<{sender}>")
        for recipient in recipients:
            self.assertIn("250", dialogue.say(f"RCPT TO:{recipient}")[0])
        dialogue.say("DATA")
        (reply,) = dialogue.say("Subject: a test\r\n\r\nhello\r\n.")
        self.assertTrue(reply.startswith("250 2.6.0"), reply)
        dialogue.close()
        return reply.rsplit(" ", 1)[1]

    def logged(self, server: Any, text: str) -> None:
        until(lambda: text in server.log, f"{text}\n{server.log[-3000:]}", PATIENCE)


__all__ = ["CONFIG", "PATIENCE", "ROOT", "CrashCase", "until"]

"""
Tests that are dialogues: C{tests/dialogues/*.smtp}.

::

    # a comment; the first ones are the test's description
    # requirement: D-19    what the dialogue proves, see tests/requirements.py
    @ NAME VALUE            a setting of the listener, or of its limits
    @ user NAME PASSWORD    who may log in
    @ submission KEY=VALUE  what a login may send
    @ binary yes            all deliveries take BINARYMIME
    @ greeted no            without this, greeting and EHLO have happened
    @ pieces matter         it does not run byte by byte
    C: a line of the client's
    C+: the same, in one segment with the line before
    S: a line of the server's, exactly; " ..." at its end matches the rest;
       "(id)" is the reference that a refusal ends with
    T: 55 s                 time passes
    X: lost                 the connection is lost
    X: half-close           the client closes its sending side
    X: closed               the server has closed the connection
    ! content WHO accept | refuse REPLY | discard | raise | nonsense
    ! cohort WHO WHO …      these are one cohort
    ! envelope WHO accept | defer | refuse REPLY | raise | pending
    ! alias WHO WHO …       it stands for these
    ! delivery WHO refuse REPLY     it can never carry the message
    ! spool full | slow | go
    = delivered WHO …       whom the server has taken responsibility for
    = body TEXT             the last message, with \\r\\n for CRLF

At the end the server must be silent.  Every dialogue runs three times: as it
stands; with the client's octets one by one; with stage Deferreds that fire
later.
"""

from __future__ import annotations

import os
import re
from typing import Any, get_origin, get_type_hints

import attrs

from deferrals.config.structuring import makeConverter
from deferrals.errors import StageError
from deferrals.model.address import Mailbox
from deferrals.model.limits import Limits
from deferrals.model.listener import ListenerSettings
from deferrals.model.reply import Reply
from deferrals.model.verdict import ACCEPT, NOWHERE, Expand, Refuse
from deferrals.stages.envelope.submission import SubmissionSettings
from tests.harness import Bench, gate

DIRECTORY = os.path.join(os.path.dirname(__file__), "dialogues")
_LIMITS = {field.name for field in attrs.fields(Limits)}
_KINDS = get_type_hints(ListenerSettings) | get_type_hints(Limits)
_CONVERTER = makeConverter()

_REFERENCE = re.compile(r"\(id [0-9A-HJKMNP-TV-Z]{13}\)\Z")

#: The names that dialogues have for some of the settings.
_NAMES_HERE = {
    "authWithoutTLS": "auth_without_tls",
    "commandSeconds": "command_timeout",
    "dataRate": "data_rate",
    "dataSeconds": "data_timeout",
    "envelopeSeconds": "envelope_timeout",
    "extensionRecipients": "extension_recipients",
    "greetSeconds": "greet_delay",
    "idleSeconds": "idle_timeout",
    "messageOctets": "message_size",
    "replyDeadlineSeconds": "reply_deadline",
    "withheld": "withhold",
}


@attrs.frozen
class Step:
    """One line of a dialogue."""

    number: int
    kind: str
    text: str


def read(path: str) -> tuple[str, list[Step]]:
    """
    @return: the description, and the steps.
    """
    comments, steps = [], []
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            line = line.rstrip("\n")
            match = re.fullmatch(r"(C\+?:|S:|T:|X:|!|@|=) ?(.*)", line)
            if line.startswith("#"):
                if not steps and not line.startswith("# requirement:"):
                    comments.append(line[1:].strip())
            elif match:
                steps.append(Step(number, match[1].rstrip(":"), match[2]))
            elif line.strip():
                raise ValueError(f"{path}:{number}: {line!r}")
    return " ".join(comments), steps


def _setting(name: str, value: str) -> Any:
    """
    A setting of the listener, or of its limits, in the type that it has there.
    """
    kind = _KINDS[name]
    if kind is bool:
        return value == "yes"
    if get_origin(kind) is tuple:
        return tuple(value.split())
    return _CONVERTER.structure(int(value) if value.isdigit() else value, kind)


class Dialogue:
    """
    One run of a dialogue.

    @param mode: C{"whole"}, C{"bytes"} or C{"late"}.
    """

    def __init__(self, case: Any, path: str, mode: str) -> None:
        self.case = case
        self.path = path
        self.mode = mode
        _, self.steps = read(path)
        self.lines: list[str] = []
        self.pending = b""
        self.bench = self._bench()

    def _bench(self) -> Bench:
        limits: dict[str, Any] = {}
        settings: dict[str, Any] = {}
        backend: dict[str, Any] = {}
        for step in self.steps:
            name, _, value = step.text.partition(" ")
            if step.kind != "@" or name in ("greeted", "pieces"):
                continue
            name = _NAMES_HERE.get(name, name)
            if name == "user":
                user, _, password = value.partition(" ")
                backend["authenticator"] = gate(**{user: password.encode()})
            elif name == "submission":
                words = dict(word.split("=") for word in value.split())
                settings[name] = _CONVERTER.structure(
                    {key: int(one) if one.isdigit() else one for key, one in words.items()},
                    SubmissionSettings,
                )
            elif name == "binary":
                backend["binary"] = value == "yes"
            elif name in _LIMITS:
                limits[name] = _setting(name, value)
            else:
                settings[name] = _setting(name, value)
                if name == "tls":
                    settings["certificates"] = "none that a dialogue would need"
        bench = Bench(limits, backend, **settings)
        bench.content.late = self.mode == "late"
        return bench

    def run(self) -> None:
        if not any(step.text == "greeted no" for step in self.steps):
            lmtp = self.bench.settings.protocol == "lmtp"
            self.bench.say("LHLO client.example.com" if lmtp else "EHLO client.example.com")
            self.bench.take()
        for place, step in enumerate(self.steps):
            following = self.steps[place + 1].kind if place + 1 < len(self.steps) else ""
            getattr(self, f"_{_NAMES[step.kind]}")(step, following)
        self._listen()
        self.case.assertEqual(self.lines, [], f"{self.path}: the server should be silent")

    def _fail(self, step: Step, text: str) -> None:
        self.case.fail(f"{os.path.basename(self.path)}:{step.number} ({self.mode}): {text}")

    def _listen(self) -> None:
        said = self.bench.take().decode("utf-8")
        if said and not said.endswith("\r\n"):
            self.case.fail(f"{self.path}: half a line: {said!r}")
        self.lines += [_REFERENCE.sub("(id)", line) for line in said.split("\r\n")[:-1]]

    def _setting(self, step: Step, following: str) -> None:
        pass

    def _client(self, step: Step, following: str) -> None:
        self.pending += step.text.encode("utf-8").replace(b"\\0", b"\0") + b"\r\n"
        if following == "C+":
            return
        data, self.pending = self.pending, b""
        self._send(data)

    def _send(self, data: bytes) -> None:
        if self.mode == "bytes":
            for place in range(len(data)):
                self.bench.send(data[place : place + 1])
        else:
            self.bench.send(data)

    def _server(self, step: Step, following: str) -> None:
        if not self.lines:
            self._listen()
        if not self.lines and self.mode == "late":
            self.bench.content.decideKnown()
            self._listen()
        if not self.lines:
            self._fail(step, f"expected {step.text!r}, the server is silent")
        said = self.lines.pop(0)
        wanted = step.text
        good = said.startswith(wanted[:-3]) if wanted.endswith(" ...") else said == wanted
        if not good and not (wanted.endswith(" ...") and said == wanted[:-4]):
            self._fail(step, f"expected {wanted!r}, got {said!r}")

    def _time(self, step: Step, following: str) -> None:
        self._listen()
        if self.lines:
            self._fail(step, f"unexpected: {self.lines[0]!r}")
        if self.mode == "late":
            self.bench.content.decideKnown()
        self.bench.clock.advance(float(step.text.removesuffix("s")))

    def _event(self, step: Step, following: str) -> None:
        if step.text == "lost":
            self.bench.lose()
        elif step.text == "half-close":
            self.bench.session.readConnectionLost()
        elif step.text == "closed":
            if not self.bench.closed:
                self._fail(step, "the connection is still open")
        else:
            self._fail(step, "no such event")

    def _order(self, step: Step, following: str) -> None:
        what, who, *rest = step.text.split(" ", 2)
        getattr(self, f"_order_{what}")(who, rest[0] if rest else "")

    def _order_content(self, who: str, what: str) -> None:
        verdict: Any = ACCEPT
        if what.startswith("refuse "):
            verdict = Refuse(Reply.parse(what.removeprefix("refuse ")))
        elif what == "discard":
            verdict = NOWHERE
        elif what == "raise":
            verdict = StageError("broken on purpose")
        elif what == "nonsense":
            verdict = "yes"
        self.bench.content.verdicts[who] = verdict
        if self.mode != "late":
            self.bench.content.decide(who, verdict)

    def _order_cohort(self, who: str, others: str) -> None:
        for other in [who, *others.split()]:
            self.bench.content.cohorts[other] = who

    def _order_envelope(self, who: str, what: str) -> None:
        verdict: Any = what
        if what.startswith("refuse "):
            verdict = Reply.parse(what.removeprefix("refuse "))
        elif what == "raise":
            verdict = StageError("broken on purpose")
        if who in self.bench.envelope.pending:
            self.bench.envelope.decide(who, verdict)
        else:
            self.bench.envelope.verdicts[who] = verdict

    def _order_alias(self, who: str, members: str) -> None:
        found = tuple(map(Mailbox.parse, members.split()))
        self.bench.envelope.verdicts[who] = Expand(found)

    def _order_delivery(self, who: str, what: str) -> None:
        self.bench.undeliverable[who] = Reply.parse(what.removeprefix("refuse "))

    def _order_spool(self, what: str, _: str) -> None:
        spool = self.bench.spool
        spool.full = what == "full"
        spool.slow = what == "slow"
        if what == "go":
            spool.go()

    def _check(self, step: Step, following: str) -> None:
        what, *who = step.text.split()
        if what == "body":
            text = self.bench.body.decode("utf-8").replace("\r\n", "\\r\\n")
            if text != step.text.partition(" ")[2]:
                self._fail(step, f"the message is {text}")
            return
        assert what == "delivered"
        if self.bench.released != who:
            self._fail(step, f"delivered to {self.bench.released}")


_NAMES = {
    "C": "client",
    "C+": "client",
    "S": "server",
    "T": "time",
    "X": "event",
    "!": "order",
    "@": "setting",
    "=": "check",
}

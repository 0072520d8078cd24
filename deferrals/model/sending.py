"""
One transaction as the client sees it: which commands it takes, what their
replies mean, and whether the server can carry the message at all.  Pure rules;
L{deferrals.smtp.client.session} has the connection.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs

from deferrals.errors import PeerError
from deferrals.model.answers import R451_NO_ANSWER, Answer, Result, weigh
from deferrals.model.envelope import Form
from deferrals.model.exdata import ownReplies
from deferrals.model.outgoing import PREFERENCE, Outgoing
from deferrals.model.reply import Reply

Capabilities = Mapping[str, Sequence[str]]

R451_NOT_ASKED = Reply(451, "4.4.2", "the connection was lost before the recipient was answered")
R553_NO_SMTPUTF8 = Reply(553, "5.6.7", "the next server does not offer SMTPUTF8")
R554_NO_8BITMIME = Reply(
    554, "5.6.3", "the message has 8-bit text, and the next server does not offer 8BITMIME"
)
R554_NO_BINARYMIME = Reply(
    554, "5.6.3", "the message is binary, and the next server does not offer BINARYMIME"
)
R554_BARE_NEWLINE = Reply(554, "5.6.0", "the message has a bare CR or LF, which is not sent")
R554_COMES_BACK = Reply(554, "5.4.6", "mail for this recipient would come back to this server")
R550_NO_REQUIRETLS = Reply(
    550, "5.7.30", "the sender wants REQUIRETLS, and the next server does not offer it safely"
)

#: What is said of a server with which there was no session, by enhanced code: why
#: not, in the words of whatever layer, is for the log (L{HopError}).
_NO_SESSION = {
    "4.4.1": "the next server cannot be reached",
    "4.4.2": "the session with the next server broke off",
    "4.7.4": "there is no protected connection to the next server",
    "4.7.5": "there is no trustworthy connection to the next server",
}
_NOT_USABLE = "this server cannot use the next one now"


def noSession(enhanced: str) -> Reply:
    """
    What a sender is told where there was no session.

    @param enhanced: of the L{HopError}.
    """
    return Reply(451, enhanced, _NO_SESSION.get(enhanced, _NOT_USABLE))


def number(capabilities: Capabilities, keyword: str, name: str = "") -> int | None:
    """
    A number that a server has announced: C{SIZE 1000}, C{LIMITS RCPTMAX=10}
    (RFC 9422).

    @param name: of the limit; empty for a keyword that is followed by nothing
        but the number.
    @return: C{None} where there is none.
    """
    for word in capabilities.get(keyword, ()):
        key, mark, value = word.rpartition("=")
        if (key.upper() == name if mark else not name) and value.isascii() and value.isdigit():
            return int(value) or None
    return None


def unfit(outgoing: Outgoing, capabilities: Capabilities, verified: bool) -> Reply | None:
    """
    Why a server cannot carry a message: what it needs must have been offered,
    nothing is converted.

    @param verified: whether the connection is protected, and the server the
        one that was meant.
    """
    if outgoing.needsUTF8 and not {"SMTPUTF8", "8BITMIME"} <= set(capabilities):
        return R553_NO_SMTPUTF8  # RFC 6531 §3.2
    if outgoing.binary and not {"BINARYMIME", "CHUNKING"} <= set(capabilities):
        return R554_NO_BINARYMIME  # RFC 3030 §3
    if outgoing.eightBit and not outgoing.binary and "8BITMIME" not in capabilities:
        return R554_NO_8BITMIME  # RFC 6152 §3
    if outgoing.requireTLS and not (verified and "REQUIRETLS" in capabilities):
        return R550_NO_REQUIRETLS  # RFC 8689 §4.2.1
    limit = number(capabilities, "SIZE")
    if limit is not None and outgoing.size > limit:
        return _tooLarge(limit)
    return None


def foreseen(addresses: Sequence[str], octets: int, capabilities: Capabilities) -> Reply | None:
    """
    Why a server will not be able to carry a message, as far as its envelope says.

    @param octets: the size that was announced; 0 for none.
    @param capabilities: what the server has offered lately.
    """
    if "SMTPUTF8" not in capabilities and not all(map(str.isascii, addresses)):
        return R553_NO_SMTPUTF8
    limit = number(capabilities, "SIZE")
    return _tooLarge(limit) if limit is not None and octets > limit else None


#: What L{unfit} says, besides the size.
_LACKS = (R553_NO_SMTPUTF8, R554_NO_8BITMIME, R554_NO_BINARYMIME, R550_NO_REQUIRETLS)


def isLack(reply: Reply) -> bool:
    """
    Whether L{unfit} has said this: another server of the same domain may be able to
    carry the message.
    """
    isSize = (reply.code, reply.enhanced) == (552, "5.3.4")
    return not reply.byServer and (isSize or reply in _LACKS)


def _tooLarge(limit: int) -> Reply:
    return Reply(552, "5.3.4", f"the next server takes at most {limit} octets")


def _orTooMany(reply: Reply, isBehindOthers: bool) -> Reply:
    """
    The reply to RCPT TO; that there are too many recipients is said for now, whatever
    the code (RFC 5321 §4.5.3.1.10).

    @param isBehindOthers: whether one has been accepted before it.
    """
    isMeant = reply.enhanced == "5.5.3" or (
        reply.code == 552 and reply.enhanced is None and isBehindOthers
    )
    if not (isMeant and reply.isPermanent):
        return reply
    return attrs.evolve(reply, code=452, enhanced="4.5.3")


class Sending:
    """
    The state of one message on one connection.

    @param capabilities: what EHLO or LHLO said, without what is not to be used.
    @param chunking: whether BDAT may be used.
    """

    def __init__(
        self, outgoing: Outgoing, form: Form, capabilities: Capabilities, chunking: bool
    ) -> None:
        self.outgoing = outgoing
        self.form = form
        self._capabilities = capabilities
        # RFC 2033 does not say what a refused BDAT means for each recipient.
        wanted = chunking and form is not Form.LMTP and "CHUNKING" in capabilities
        self.chunks = wanted or outgoing.binary
        self.begun = False
        self.handedOver = False
        self.block: dict[int, Reply] = {}
        self.final: Reply | None = None
        self.isExtended = False
        self._sender: Reply | None = None
        self._recipients: list[Reply] = []
        self._hasTaken = False
        self._refusal: Reply | None = None

    def refuseAll(self, reply: Reply) -> None:
        """
        Nothing can be sent: this is the answer for every recipient.
        """
        self._refusal = reply

    @property
    def senderAccepted(self) -> bool:
        """
        Whether MAIL FROM was accepted.
        """
        return self._sender is not None and self._sender.isPositive

    @property
    def waiting(self) -> list[int]:
        """
        The recipients that are in (2xx or 352).
        """
        return [i for i, reply in enumerate(self._recipients) if reply.code < 400]

    @property
    def listed(self) -> list[int]:
        """
        The recipients that a 353 has replies for (D-10, P-6).
        """
        if self.form is Form.DEFERRALS:
            return [i for i, reply in enumerate(self._recipients) if reply.code == 352]
        return self.waiting if self.form is Form.PRDR else []

    def commands(self) -> list[str]:
        """
        The envelope as commands, with the parameters that are offered; and
        DATA, where the message does not go in a chunk.
        """
        commands = [self._mail()]
        for index, recipient in enumerate(self.outgoing.recipients):
            more = self.outgoing.recipientParameters.get(index, ())
            words = [text for keyword, text in more if keyword in self._capabilities]
            commands.append(" ".join([f"RCPT TO:<{recipient}>", *words]))
        return commands if self.chunks else [*commands, "DATA"]

    def _mail(self) -> str:
        outgoing, offered = self.outgoing, self._capabilities
        words = [f"MAIL FROM:<{outgoing.sender}>"]
        if "SIZE" in offered:
            words.append(f"SIZE={outgoing.size}")
        if outgoing.binary:
            words.append("BODY=BINARYMIME")
        elif "8BITMIME" in offered and (outgoing.eightBit or outgoing.needsUTF8):
            words.append("BODY=8BITMIME")
        if outgoing.needsUTF8:
            words.append("SMTPUTF8")
        if outgoing.requireTLS:
            words.append("REQUIRETLS")
        words += [text for keyword, text in outgoing.parameters if keyword in offered]
        if self.form in PREFERENCE:
            words.append(self.form.name)
        return " ".join(words)

    def wants(self, command: str) -> bool:
        """
        Whether this command still makes sense, after the replies so far.
        """
        if command.startswith("MAIL"):
            return True
        return self.senderAccepted and (command != "DATA" or bool(self.waiting))

    def answered(self, command: str, reply: Reply) -> None:
        """
        The reply to one of L{commands}.

        @raise PeerError: it is none that there can be.
        """
        if command.startswith("MAIL"):
            if reply.isIntermediate:
                raise PeerError(f"MAIL FROM was answered {reply}")
            self._sender = reply
            if not reply.isPositive:
                self._refusal = reply
        elif command.startswith("RCPT"):
            if reply.isIntermediate and not (reply.code == 352 and self.form is Form.DEFERRALS):
                raise PeerError(f"RCPT TO was answered {reply}")
            self._recipients.append(_orTooMany(reply, self._hasTaken))
            self._hasTaken = self._hasTaken or reply.code < 400
        elif reply.code == 354:
            self.begun = True
        elif self.waiting:
            self.final = reply if reply.code >= 400 else None

    def extended(self, lines: Sequence[str]) -> None:
        """
        What there is of a 558: each recipient's own reply, in their order (X-5,
        X-6).

        @param lines: without C{558-} and C{558} before each.
        @raise PeerError: it is not one reply for each.  Those that it has count
            all the same (X-8), unless there are too many: then nothing says
            which is whose (X-12).
        """
        found, waiting = ownReplies(lines), self.waiting
        self.isExtended = True
        if len(found) > len(waiting):
            raise PeerError("the 558 has more replies than there are recipients")
        self.block = dict(zip(waiting, found, strict=False))
        if len(found) < len(waiting):
            raise PeerError("the 558 has no reply for some of the recipients")

    def result(self, lost: str = "") -> Result:
        """
        What it all comes to.

        @param lost: why the connection was given up, if it was: for the log.
        """
        missing = R451_NO_ANSWER if self.handedOver else R451_NOT_ASKED
        return self._weighed(missing, lost)

    def known(self) -> dict[int, Answer]:
        """
        The answers that are there when no more are waited for, by recipient.
        """
        answers = self._weighed(R451_NOT_ASKED, "").answers
        return {i: one for i, one in enumerate(answers) if one.reply is not R451_NOT_ASKED}

    def _weighed(self, missing: Reply, lost: str) -> Result:
        """
        @param missing: stands for what was not answered.
        """
        recipients = self.outgoing.recipients
        replies = [*self._recipients, *[missing] * (len(recipients) - len(self._recipients))]
        block, final = self.block, self.final
        if self._refusal is not None:
            replies, final = [self._refusal] * len(recipients), self._refusal
        elif self.form is Form.LMTP and final is not None:
            block, final = dict.fromkeys(self.waiting, final), None
        found = weigh(recipients, replies, self.form, block, final, missing, self.isExtended)
        answers = found.answers
        if not self.handedOver:
            answers = tuple(
                attrs.evolve(answer, stage="envelope") if answer.stage == "none" else answer
                for answer in answers
            )
        return Result(
            answers,
            final,
            self.form,
            found.enumerated,
            self._sender,
            self.handedOver,
            lost,
            self.chunks and self.handedOver,
        )

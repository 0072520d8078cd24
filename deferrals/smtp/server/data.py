"""
The content of a message on the wire, with DATA or with BDAT (RFC 3030), up to
the moment when it is complete and L{PostData} takes over.

A message that cannot be taken is read to its end and dropped: what stands in it
is never executed.  With BDAT that includes chunks that come out of sequence, and
those behind a chunk that was refused, since a pipelining client has sent them
already.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import attrs

from deferrals.errors import PeerError
from deferrals.interfaces import IBodyWriter
from deferrals.model.completion import Additions, Completion
from deferrals.model.envelope import Envelope
from deferrals.model.fields import hasEnd, headerEnd, messageIdOf
from deferrals.model.reply import (
    R354_GO_AHEAD,
    R501_SYNTAX,
    R503_NOT_BY_DATA,
    R550_BARE_NEWLINE,
    R552_HEADER_TOO_LARGE,
    R552_TOO_LARGE,
    R554_ROUTING_LOOP,
    Reply,
)
from deferrals.model.trace import rfc5322Date
from deferrals.model.transaction import Phase, Transaction, outOfSequence
from deferrals.smtp.server.base import SessionBase
from deferrals.smtp.server.clientname import ClientName
from deferrals.smtp.server.decoding import BinaryDecoder, ChunkDecoder, DataDecoder
from deferrals.smtp.server.postdata import PostData

#: A client that sends data has at least so long, and then as long as its data
#: are worth at the minimum rate.
PACE_SECONDS = 300.0

_RECEIVED = re.compile(rb"^received[ \t]*:", re.I | re.M)
_CHUNK = re.compile(r"([0-9]{1,20})( +LAST)?", re.I | re.A)


class DataCommands:
    """
    See the module.

    @param session: whose client sends.
    @param name: that client's.
    @ivar postData: what follows the data, until it is answered.
    """

    __slots__ = (
        *("_chunk", "_chunkDecoder", "_clock", "_completion", "_dataDecoder", "_limits"),
        *("_name", "_octets", "_pace", "_session", "_state", "_veto", "postData"),
    )

    def __init__(self, session: SessionBase, name: ClientName) -> None:
        self._session = session
        self._state = session.state
        self._limits = session.limits
        self._clock = session.clock
        self._name = name
        self.postData: PostData | None = None
        self._completion: Completion | None = None
        self._octets = 0
        self._dataDecoder: DataDecoder | None = None
        self._chunkDecoder: ChunkDecoder | BinaryDecoder | None = None
        self._veto: Reply | None = None
        self._chunk: _Chunk | None = None
        self._pace: float | None = None

    def clientGone(self) -> None:
        """
        What was not answered stays the sender's.
        """
        postData, self.postData = self.postData, None
        if postData is not None:
            postData.clientGone()

    # How fast it comes.

    def due(self) -> float | None:
        """
        Data must not only come, but get on.

        @return: by when the next ones must be here; C{None} while none are waited for.
        """
        writer = self._session.writer
        if self._session.reader is None or (writer is not None and writer.congested):
            return None  # a disk, or a database, is behind
        return self._pace

    def decongested(self) -> None:
        """
        It is no longer behind.
        """
        self._pace = self._clock.seconds() + PACE_SECONDS

    def _arrived(self, octets: int) -> None:
        """
        Octets of the data have come: each is worth some time, of which not more
        can be saved up than a client has at the beginning.
        """
        self._session.resetTimeout()
        assert self._pace is not None
        earned = self._pace + octets / self._limits.data_rate
        self._pace = min(self._clock.seconds() + PACE_SECONDS, earned)

    # DATA.

    def do_DATA(self, rest: str) -> None:
        """
        RFC 5321 §4.1.1.4.
        """
        if rest:
            raise PeerError("an argument", R501_SYNTAX)
        assert self._state.transaction is not None
        if self._state.transaction.envelope.parameters.body == "BINARYMIME":
            raise PeerError("binary by DATA", R503_NOT_BY_DATA)
        self._begin()
        self._dataDecoder = DataDecoder(self._session.settings.mendsLineEnds)
        self._session.reader = self._readData
        self._pace = self._clock.seconds() + PACE_SECONDS
        self._session.setTimeout(self._limits.data_timeout)
        self._session.reply(R354_GO_AHEAD)

    def _begin(self) -> None:
        assert self._state.transaction is not None
        self._octets = 0
        envelope = self._state.transaction.envelope
        self._session.writer = self._session.backend.spool.newBody(envelope.transaction)
        isSubmission = self._session.settings.protocol == "submission"
        self._completion = self._newCompletion(envelope) if isSubmission else None

    def _newCompletion(self, envelope: Envelope) -> Completion:
        """
        RFC 6409 §8.
        """
        submitter = self._session.backend.submitter
        additions = Additions(
            rfc5322Date(envelope.received),
            f"<{envelope.id}@{self._session.settings.hostname}>",
            None if submitter is None else submitter(envelope),
        )
        return Completion(additions, self._limits.header_size)

    def _readData(self, octets: bytes) -> bytes:
        """
        @return: what stands behind the end of the message.
        """
        self._arrived(len(octets))
        decoder = self._dataDecoder
        assert decoder is not None
        content, rest = decoder.feed(octets)
        self._receive(content, decoder.bare)
        if rest is None:
            return b""
        self._session.reader = None
        self._endOfMessage()
        return rest

    # BDAT.

    def do_BDAT(self, rest: str) -> None:
        """
        RFC 3030 §2.  Its octets are taken from the wire whatever is wrong with
        it; where it cannot be known how many they are, the connection ends.
        """
        match = _CHUNK.fullmatch(rest)
        if match is None:
            self._session.say(
                attrs.evolve(R501_SYNTAX, text="BDAT needs a size, and then perhaps LAST")
            )
            return self._session.close()
        refusal = outOfSequence("BDAT", self._state.phase)
        if "CHUNKING" not in self._state.offered:
            refusal = outOfSequence("BDAT", Phase.START)
        self._chunk = _Chunk(int(match[1]), bool(match[2]), refusal)
        if self._state.phase is not Phase.CHUNKS:
            self._pace = self._clock.seconds() + PACE_SECONDS
        if refusal is None:
            transaction = self._state.transaction
            isBehind = self._session.replies.hasOctets and self._state.phase is Phase.RECIPIENTS
            if isBehind and transaction is not None:
                transaction.takesRefusalForAll()  # it came in one piece with RCPTs: Exim
            self._beginChunk(self._chunk.left)
        self._session.reader = self._readChunk
        self._session.setTimeout(self._limits.data_timeout)
        self._readChunk(b"")

    def wanted(self) -> int | None:
        """
        How many octets belong to the chunk that is being read; C{None} where there is
        none.
        """
        return None if self._chunk is None else self._chunk.left

    def _beginChunk(self, octets: int) -> None:
        assert self._state.transaction is not None
        if self._state.phase is not Phase.CHUNKS:
            binary = self._state.transaction.envelope.parameters.body == "BINARYMIME"
            self._begin()
            self._chunkDecoder = (
                BinaryDecoder() if binary else ChunkDecoder(self._session.settings.mendsLineEnds)
            )
            self._state.phase = Phase.CHUNKS
        assert self._session.writer is not None
        if self._octets + octets > self._limits.message_size:
            self._forbid(R552_TOO_LARGE, "message_size")

    def _readChunk(self, octets: bytes) -> bytes:
        """
        @param octets: not more than are L{wanted}.
        """
        chunk = self._chunk
        assert chunk is not None
        chunk.left -= len(octets)
        self._arrived(len(octets))
        if chunk.refusal is None and octets:
            assert self._chunkDecoder is not None
            self._receive(self._chunkDecoder.feed(octets), self._chunkDecoder.bare)
        if not chunk.left:
            self._session.reader = self._chunk = None
            self._endOfChunk(chunk)
        return b""

    def _endOfChunk(self, chunk: _Chunk) -> None:
        refusal = chunk.refusal
        if refusal is None and chunk.isLast:
            assert self._chunkDecoder is not None
            self._receive(self._chunkDecoder.end(), self._chunkDecoder.bare)
            return self._endOfMessage()
        self._session.setTimeout(self._limits.command_timeout)
        refusal = refusal or self._veto
        self._session.reply(refusal or Reply(250, "2.0.0", f"{chunk.size} octets received"))

    # Both.

    def _receive(self, content: bytes, isBare: bool) -> None:
        """
        The next octets of the message.  One that cannot be taken is dropped.

        @param isBare: whether a bare CR or LF has been seen, and is refused.
        """
        if isBare:
            self._forbid(R550_BARE_NEWLINE)
        self._octets += len(content)
        if self._octets > self._limits.message_size:
            self._forbid(R552_TOO_LARGE, "message_size")
        if self._veto is None:
            self._store(content if self._completion is None else self._completion.feed(content))

    def _store(self, content: bytes) -> None:
        """
        The next octets of the message as it is judged and kept.
        """
        writer = self._session.writer
        assert writer is not None
        began = writer.size
        writer.write(content)
        most = self._limits.header_size
        if began <= most < writer.size and not hasEnd(writer.head[:most]):
            self._forbid(R552_HEADER_TOO_LARGE, "header_size")

    def _forbid(self, reply: Reply, limit: str = "") -> None:
        if self._veto is None and self._session.writer is not None:
            if limit:
                self._session.overLimit(limit)
            self._veto = reply
            self._discard(self._state.transaction, self._session.writer)

    def _discard(self, transaction: Transaction | None, writer: IBodyWriter) -> None:
        """
        A content is not wanted; the log is told which one it was.
        """
        if transaction is not None and not transaction.messageId:
            transaction.messageId = messageIdOf(writer.head)
        writer.abort()

    def _endOfMessage(self) -> None:
        """
        The data is complete: from here on the client waits for us.
        """
        if self._completion is not None and self._veto is None:
            self._store(self._completion.end())
        transaction, self._state.transaction = self._state.transaction, None
        writer, self._session.writer = self._session.writer, None
        assert transaction is not None and writer is not None
        if self._veto is None:
            transaction.messageId = messageIdOf(writer.head)
        self._state.sentAwayBefore = frozenset(transaction.sentAway)
        self._dataDecoder = self._chunkDecoder = self._completion = None
        veto, self._veto = self._veto, None
        if veto is None and self._loops(writer.head):
            self._session.overLimit("hops")
            veto = R554_ROUTING_LOOP
            writer.abort()
        self._state.phase = Phase.READY
        self.postData = postData = self._newPostData(transaction)
        self._session.hold()
        if veto is not None:
            postData.refuse(veto)
        else:
            postData.start(writer, self._name.known(transaction.envelope))

    def _newPostData(self, transaction: Transaction) -> PostData:
        utf8 = transaction.envelope.parameters.smtputf8

        def send(replies: Sequence[Reply]) -> None:
            for reply in replies:
                self._session.replies.say(reply, utf8)
            self._session.flush()

        session = self._session
        return PostData(
            transaction,
            session.settings,
            session.backend,
            self._clock,
            session.deadline,
            send,
            self._answered,
        )

    def _answered(self) -> None:
        """
        The message has had its last reply.
        """
        self.postData = None
        self._state.idleSince = self._clock.seconds()
        self._session.resume()

    def _loops(self, head: bytes) -> bool:
        header = head.partition(b"\r\n\r\n")[0]
        if len(_RECEIVED.findall(header)) <= self._limits.hops:
            return False
        return len(_RECEIVED.findall(header[: headerEnd(header)])) > self._limits.hops

    def drop(self) -> int:
        """
        What has come of the transaction's message is not wanted.

        @return: how many octets that is.
        """
        self._session.reader = self._dataDecoder = self._chunkDecoder = self._completion = None
        self._veto = self._chunk = None
        writer, self._session.writer = self._session.writer, None
        if writer is None:
            return 0
        self._discard(self._state.transaction, writer)
        return self._octets


@attrs.define(eq=False)
class _Chunk:
    """
    The chunk that is being read.

    @ivar left: octets that are still to come.
    @ivar refusal: why it is only read and dropped.
    """

    left: int
    isLast: bool
    refusal: Reply | None
    size: int = attrs.field(init=False)

    @size.default
    def _size(self) -> int:
        return self.left

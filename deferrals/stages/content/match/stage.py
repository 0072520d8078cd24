"""
The content stage C{match}: refuse by declared rules.

Each rule is about one thing: words or a pattern in a header field or in the
text; names, MIME types or real types of attachments; names of what is in
archives; the size; the test strings GTUBE and EICAR.  The first rule that
matches refuses with its own reply.

The message is taken apart once, in a thread, whatever the number of policies;
a few messages at once, however many come, because others need threads, too.
Patterns are RE2's: time linear in the size of the message, whatever the
pattern.
"""

from __future__ import annotations

import fnmatch
import mmap
import shutil
import tempfile
from collections.abc import Callable, Hashable, Sequence
from typing import Any, BinaryIO, Literal, TypeVar

import attrs
import re2
from twisted.internet.defer import Deferred
from zope.interface import implementer

from deferrals.deferreds import Threads
from deferrals.interfaces import IContentStage, IMessage, IServices
from deferrals.model.envelope import Envelope, Recipient
from deferrals.model.reply import Reply
from deferrals.model.settings import Octets, checked
from deferrals.model.verdict import ACCEPT, ContentVerdict, Refuse
from deferrals.stages.content.match.archives import HEAD_OCTETS as ARCHIVE_HEAD_OCTETS
from deferrals.stages.content.match.archives import Budget, Unreadable, isArchive, members, newFile
from deferrals.stages.content.match.contents import files
from deferrals.stages.content.match.fields import words
from deferrals.stages.content.match.filetypes import HEAD_OCTETS, kindsOf
from deferrals.stages.content.match.mime import Buffer, TooComplex
from deferrals.stages.content.match.names import like

_T = TypeVar("_T")

GTUBE = "XJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"
EICAR = rb"X5O!P%@AP[4\PZX54(P^)7CC)7}$" + rb"EICAR-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"

#: How much of one part's text is searched.
TEXT_OCTETS = 16 * 1024 * 1024

#: Messages taken apart at once.
AT_ONCE = 4

#: EICAR's own definition: at the beginning of the file, with little behind it.
_EICAR_OCTETS = 4096

#: Of a message that is no file, so much is read into memory.
_IN_MEMORY_OCTETS = 1 << 20
_PIECE_OCTETS = 256 * 1024

_DEFAULT_REPLIES = {
    "header": "550 5.7.1 refused because of its header",
    "body": "550 5.7.1 refused because of its text",
    "attachment": "550 5.7.1 refused because of an attachment's name",
    "mime_type": "550 5.7.1 refused because of an attachment's type",
    "file_type": "550 5.7.1 refused because of what an attachment is",
    "archive": "550 5.7.1 refused because of what is in an archive",
    "larger_than": "552 5.3.4 larger than this recipient takes",
    "gtube": "550 5.7.1 refused as spam (GTUBE)",
    "eicar": "550 5.7.1 refused as a virus (EICAR)",
    "unreadable-archive": "550 5.7.1 refused because of an archive that cannot be looked into",
}
_TOO_COMPLEX = Refuse(
    Reply(550, "5.6.0", "a MIME structure that cannot be looked into"), why="match: too complex"
)


def _pattern(value: str) -> None:
    try:
        _compile(value)
    except re2.error as error:
        reason = b" ".join(map(bytes, error.args)).decode("utf-8", "replace")
        raise ValueError(f"a regular expression (RE2 syntax): {reason}") from None


def _compile(pattern: str) -> Any:  # re2 has no types
    options = re2.Options()
    options.log_errors = False
    options.case_sensitive = False
    return re2.compile(pattern, options)


@attrs.frozen
class MatchRule:
    """
    One rule; exactly one of header, body, attachment, mime_type, file_type,
    archive, larger_than and test says what it is about.

    @ivar header: a field's name; its value is searched, MIME words decoded.
    @ivar body: C{true}: the text parts are searched, decoded.
    @ivar words: for header and body: any of these words or phrases, whole,
        without regard to case.
    @ivar pattern: for header and body: a regular expression in RE2's syntax,
        without regard to case.
    @ivar attachment: file names, C{*} and C{?} standing for anything.
    @ivar mime_type: MIME types, likewise.
    @ivar file_type: what an attachment is by its first octets, whatever it is
        called: extensions (C{exe}) or MIME types, likewise.
    @ivar archive: names of what is in zip and tar archives, and in archives in
        them, likewise.
    @ivar larger_than: the size of the whole message.
    @ivar test: C{"gtube"}, C{"eicar"}, or C{"unreadable-archive"}: one that is
        broken, encrypted, or beyond the bounds.
    @ivar reply: what the recipient refuses with: 4xx or 5xx.
    """

    header: str | None = None
    body: bool = False
    words: tuple[str, ...] = ()
    pattern: str | None = attrs.field(default=None, validator=checked(_pattern))
    attachment: tuple[str, ...] = ()
    mime_type: tuple[str, ...] = ()
    file_type: tuple[str, ...] = ()
    archive: tuple[str, ...] = ()
    larger_than: Octets | None = None
    test: Literal["gtube", "eicar", "unreadable-archive"] | None = None
    reply: str | None = attrs.field(default=None, validator=checked(Reply.parseRefusal))

    def __attrs_post_init__(self) -> None:
        subjects = [name for name in _DEFAULT_REPLIES if getattr(self, name, None)]
        if self.test:
            subjects.append(self.test)
        if len(subjects) != 1:
            raise ValueError(
                "exactly one of header, body, attachment, mime_type, file_type, archive,"
                " larger_than, test"
            )
        searches = bool(self.words) + (self.pattern is not None)
        if searches != (1 if subjects[0] in ("header", "body") else 0):
            raise ValueError("either words or a pattern with header and body, and only there")

    @property
    def subject(self) -> str:
        """
        What it is about: a key of the default replies.
        """
        if self.test:
            return self.test
        return next(name for name in _DEFAULT_REPLIES if getattr(self, name, None))


def _some(rules: tuple[MatchRule, ...]) -> None:
    if not rules:
        raise ValueError("at least one rule")


@attrs.frozen
class MatchSettings:
    """
    @ivar rules: the first one that matches refuses.
    """

    rules: tuple[MatchRule, ...] = attrs.field(validator=checked(_some))


class _DissectedMessage:
    """
    One message taken apart, as far as a rule has asked for it (in a thread).

    @ivar threads: one at a time takes a message apart.
    """

    def __init__(self, message: IMessage, threads: Threads) -> None:
        self.message = message
        self.threads = threads
        self._found: dict[str, Any] = {}

    def once(self, data: Buffer, find: Callable[[Buffer], _T]) -> _T:
        """
        What C{find} finds in the message; sought once.
        """
        name = find.__name__
        if name not in self._found:
            self._found[name] = find(data)
        found: _T = self._found[name]
        return found

    def texts(self, data: Buffer) -> list[str]:
        """
        What there is to read.
        """
        return self.once(data, _texts)

    def names(self, data: Buffer) -> set[str]:
        """
        What the attachments are called.
        """
        return self.once(data, _names)

    def mimeTypes(self, data: Buffer) -> set[str]:
        """
        What the parts say they are.
        """
        return self.once(data, _mimeTypes)

    def kinds(self, data: Buffer) -> set[str]:
        """
        What the attachments are.
        """
        return self.once(data, _kinds)

    def archived(self, data: Buffer) -> tuple[set[str], bool]:
        """
        The names of what is in archives, and whether these are not all.
        """
        return self.once(data, _archived)

    def isEicar(self, data: Buffer) -> bool:
        """
        Whether one of the files is the test virus.
        """
        return self.once(data, _isEicar)


def _texts(data: Buffer) -> list[str]:
    found = [file for file in files(data) if "text" in file.header.mainTypes]
    return [text for file in found for text in file.texts(TEXT_OCTETS)]


def _names(data: Buffer) -> set[str]:
    return {name for file in files(data) for name in file.header.names}


def _mimeTypes(data: Buffer) -> set[str]:
    return {kind for file in files(data) for kind in file.header.mimeTypes}


def _kinds(data: Buffer) -> set[str]:
    return set().union(*(kindsOf(file.content(HEAD_OCTETS)) for file in files(data)))


def _isEicar(data: Buffer) -> bool:
    return any(EICAR in file.content(_EICAR_OCTETS) for file in files(data))


def _archived(data: Buffer) -> tuple[set[str], bool]:
    names: set[str] = set()
    unreadable, budget = False, Budget()
    for file in files(data):
        called = file.header.names or ("",)
        if not isArchive(file.content(ARCHIVE_HEAD_OCTETS), called):
            continue
        try:
            with newFile() as copy:
                for piece in file.pieces(_PIECE_OCTETS):
                    copy.write(piece)
                for name in members(copy, called, budget):
                    names.add(name)
        except (Unreadable, OSError):
            unreadable = True
    return names, unreadable


@implementer(IContentStage)
class MatchStage:
    """
    See the module.

    @param services: L{IServices<deferrals.interfaces.IServices>}.
    """

    def __init__(self, settings: MatchSettings, services: IServices) -> None:
        self._rules = [_ReadyRule(rule, index) for index, rule in enumerate(settings.rules)]
        self._threads = services.common(
            (__name__, "threads"), lambda: Threads(services.inThread, AT_ONCE)
        )

    def cohort(self, recipient: Recipient) -> Hashable:
        """
        The rules are the same for all recipients that meet them.
        """
        return None

    def judge(
        self, message: IMessage, envelope: Envelope, recipients: Sequence[Recipient]
    ) -> Deferred[ContentVerdict]:
        def judged(content: _DissectedMessage) -> Deferred[ContentVerdict]:
            return content.threads.run(self._judge, content)

        return message.shared((__name__, "content"), self._dissected).addCallback(judged)

    def _dissected(self, message: IMessage) -> _DissectedMessage:
        return _DissectedMessage(message, self._threads.alone())

    def _judge(self, content: _DissectedMessage) -> ContentVerdict:
        """
        Apply the rules (in a thread).
        """
        with content.message.open() as file:
            data = _buffer(file)
            try:
                for rule in self._rules:
                    if rule.matches(content, data):
                        return rule.verdict
            except TooComplex:
                return _TOO_COMPLEX
            finally:
                if isinstance(data, mmap.mmap):
                    data.close()
        return ACCEPT


def _buffer(file: BinaryIO) -> Buffer:
    """
    A message's octets, without reading a large one into memory.
    """
    try:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError):  # in memory, or another header in front of a file
        start = file.read(_IN_MEMORY_OCTETS)
        if len(start) < _IN_MEMORY_OCTETS:
            return start
    with tempfile.TemporaryFile() as copy:
        copy.write(start)
        shutil.copyfileobj(file, copy)
        copy.flush()
        return mmap.mmap(copy.fileno(), 0, access=mmap.ACCESS_READ)


class _ReadyRule:
    """
    One rule, ready to be applied.
    """

    def __init__(self, rule: MatchRule, index: int) -> None:
        self._rule = rule
        self._matches: Callable[[_DissectedMessage, Buffer], bool]
        self._matches = getattr(self, "_" + rule.subject.replace("-", "_"))
        self._search = _searcher(rule)
        self.verdict = Refuse(
            Reply.parseRefusal(rule.reply or _DEFAULT_REPLIES[rule.subject]),
            why=f"match: rules[{index}], {rule.subject}",
        )

    def matches(self, content: _DissectedMessage, data: Buffer) -> bool:
        return self._matches(content, data)

    def _header(self, content: _DissectedMessage, data: Buffer) -> bool:
        wanted = (self._rule.header or "").lower()
        fields = content.message.fields()
        return any(name.lower() == wanted and self._search(words(value)) for name, value in fields)

    def _body(self, content: _DissectedMessage, data: Buffer) -> bool:
        return any(self._search(text) for text in content.texts(data))

    def _attachment(self, content: _DissectedMessage, data: Buffer) -> bool:
        return like(content.names(data), self._rule.attachment)

    def _mime_type(self, content: _DissectedMessage, data: Buffer) -> bool:
        return any(_like(kind, self._rule.mime_type) for kind in content.mimeTypes(data))

    def _file_type(self, content: _DissectedMessage, data: Buffer) -> bool:
        return any(_like(kind, self._rule.file_type) for kind in content.kinds(data))

    def _archive(self, content: _DissectedMessage, data: Buffer) -> bool:
        return like(content.archived(data)[0], self._rule.archive)

    def _unreadable_archive(self, content: _DissectedMessage, data: Buffer) -> bool:
        return content.archived(data)[1]

    def _larger_than(self, content: _DissectedMessage, data: Buffer) -> bool:
        return content.message.size > (self._rule.larger_than or 0)

    def _gtube(self, content: _DissectedMessage, data: Buffer) -> bool:
        return data.find(GTUBE.encode()) >= 0 or any(GTUBE in text for text in content.texts(data))

    def _eicar(self, content: _DissectedMessage, data: Buffer) -> bool:
        return data.find(EICAR) >= 0 or content.isEicar(data)


def _searcher(rule: MatchRule) -> Callable[[str], bool]:
    pattern = rule.pattern
    if pattern is None:
        words = "|".join(map(re2.escape, rule.words))
        pattern = rf"(?:^|[^\pL\pN])(?:{words})(?:$|[^\pL\pN])"
    search = _compile(pattern).search
    return lambda text: search(text) is not None


def _like(text: str, globs: Sequence[str]) -> bool:
    text = text.strip().lower()
    return any(fnmatch.fnmatchcase(text, glob.lower()) for glob in globs)

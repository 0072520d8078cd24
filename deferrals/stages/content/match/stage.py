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
import functools
import mmap
import shutil
import tempfile
from collections.abc import Callable, Hashable, Sequence
from typing import Any, BinaryIO, Literal

import attrs
import re2
from twisted.internet.defer import Deferred
from zope.interface import implementer

from deferrals.interfaces import IContentStage, IMessage, IServices
from deferrals.model.envelope import Envelope, Recipient
from deferrals.model.reply import Reply
from deferrals.model.settings import Octets, checked
from deferrals.model.verdict import ACCEPT, ContentVerdict, Refuse
from deferrals.stages.content.match.fields import words
from deferrals.stages.content.match.findings import EICAR, GTUBE, Finding, Findings
from deferrals.stages.content.match.mime import Buffer, TooComplex
from deferrals.stages.content.match.names import like
from deferrals.threads import Threads, TogetherInThread

#: What is sought in a message as it is, too.
_LITERAL = {"gtube": GTUBE.encode(), "eicar": EICAR}

#: Messages taken apart at once.
AT_ONCE = 4

#: A small message does not have a thread of its own: so many of them are judged at
#: one go, one after the other, and their verdicts come together.
SMALL_OCTETS, SMALL_AT_ONE_GO = 16 * 1024, 16

#: Rules for which a small message may be much work, that others are not to wait for.
_UNPACKING = {"archive", "unreadable-archive"}

#: Of a message that is no file, so much is read into memory.
_IN_MEMORY_OCTETS = 1 << 20

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


class _SharedFindings(Findings):
    """
    What is known of one message, whatever the number of policies: of those that look
    into archives, and of the others (in a thread).  The message keeps it.
    """

    def __init__(self, threads: Threads) -> None:
        super().__init__()
        self._threads = threads

    @functools.cached_property
    def threads(self) -> Threads:
        """
        One at a time looks into a message.
        """
        return self._threads.alone()


@implementer(IContentStage)
class MatchStage:
    """
    See the module.

    @param services: L{IServices<deferrals.interfaces.IServices>}.
    """

    def __init__(self, settings: MatchSettings, services: IServices) -> None:
        self._rules = [_ReadyRule(rule, index) for index, rule in enumerate(settings.rules)]
        self._wanted = frozenset(rule.wants for rule in self._rules if rule.wants)
        self._unpacks = any(rule.subject in _UNPACKING for rule in settings.rules)
        self._threads = services.common(
            (__name__, "threads"), lambda: Threads(services.inThread, AT_ONCE)
        )
        self._together = services.common(
            (__name__, "together"),
            lambda: TogetherInThread(services.inThread, SMALL_AT_ONE_GO, services.reactor),
        )

    def cohort(self, recipient: Recipient) -> Hashable:
        """
        The rules are the same for all recipients that meet them.
        """
        return None

    def judge(
        self, message: IMessage, envelope: Envelope, recipients: Sequence[Recipient]
    ) -> Deferred[ContentVerdict]:
        def judged(found: _SharedFindings) -> Deferred[ContentVerdict]:
            isQuick = message.size <= SMALL_OCTETS and not self._unpacks
            run = self._together.run if isQuick else found.threads.run
            return run(self._judge, message, found)

        # Each is used by one thread at a time.
        key = (__name__, "content", self._unpacks)
        return message.shared(key, self._findings).addCallback(judged)

    def _findings(self, message: IMessage) -> _SharedFindings:
        return _SharedFindings(self._threads)

    def _judge(self, message: IMessage, found: Findings) -> ContentVerdict:
        """
        Apply the rules (in a thread).
        """
        with message.open() as file:
            data = file.read() if message.inMemory else _buffer(file)
            try:
                for rule in self._rules:
                    if rule.isIn(data):
                        return rule.verdict
                    if rule.wants:
                        found.look(data, self._wanted)
                    if rule.matches(message, found):
                        return rule.verdict
            except TooComplex:
                return _TOO_COMPLEX
            finally:
                if isinstance(data, mmap.mmap):
                    data.close()
        return ACCEPT


def _buffer(file: BinaryIO) -> Buffer:
    """
    The octets of a file, without reading a large one into memory.
    """
    try:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError):  # another header in front of a file
        start = file.read(_IN_MEMORY_OCTETS)
        if len(start) < _IN_MEMORY_OCTETS:
            return start
    with tempfile.TemporaryFile() as copy:
        copy.write(start)
        shutil.copyfileobj(file, copy)
        copy.flush()
        return mmap.mmap(copy.fileno(), 0, access=mmap.ACCESS_READ)


#: What rules about a subject want to know of the files in a message.
_WANTS: dict[str, Finding] = {
    "body": "texts",
    "gtube": "texts",
    "attachment": "names",
    "mime_type": "mimeTypes",
    "file_type": "kinds",
    "archive": "archived",
    "unreadable-archive": "archived",
    "eicar": "isEicar",
}


class _ReadyRule:
    """
    One rule, ready to be applied.

    @ivar wants: what has to be found first.
    """

    def __init__(self, rule: MatchRule, index: int) -> None:
        self._rule = rule
        self._literal = _LITERAL.get(rule.subject)
        self.wants = _WANTS.get(rule.subject)
        self._matches: Callable[[IMessage, Findings], bool]
        self._matches = getattr(self, "_" + rule.subject.replace("-", "_"))
        self._search = _searcher(rule)
        self.verdict = Refuse(
            Reply.parseRefusal(rule.reply or _DEFAULT_REPLIES[rule.subject]),
            why=f"match: rules[{index}], {rule.subject}",
        )

    def isIn(self, data: Buffer) -> bool:
        """
        Whether what it is about is there without looking into the parts.
        """
        return self._literal is not None and data.find(self._literal) >= 0

    def matches(self, message: IMessage, found: Findings) -> bool:
        return self._matches(message, found)

    def _header(self, message: IMessage, found: Findings) -> bool:
        wanted = (self._rule.header or "").lower()
        fields = message.fields()
        return any(name.lower() == wanted and self._search(words(value)) for name, value in fields)

    def _body(self, message: IMessage, found: Findings) -> bool:
        return any(self._search(text) for text in found.texts)

    def _attachment(self, message: IMessage, found: Findings) -> bool:
        return like(found.names, self._rule.attachment)

    def _mime_type(self, message: IMessage, found: Findings) -> bool:
        return any(_like(kind, self._rule.mime_type) for kind in found.mimeTypes)

    def _file_type(self, message: IMessage, found: Findings) -> bool:
        return any(_like(kind, self._rule.file_type) for kind in found.kinds)

    def _archive(self, message: IMessage, found: Findings) -> bool:
        return like(found.archived, self._rule.archive)

    def _unreadable_archive(self, message: IMessage, found: Findings) -> bool:
        return found.isUnreadable

    def _larger_than(self, message: IMessage, found: Findings) -> bool:
        return message.size > (self._rule.larger_than or 0)

    def _gtube(self, message: IMessage, found: Findings) -> bool:
        return any(GTUBE in text for text in found.texts)

    def _eicar(self, message: IMessage, found: Findings) -> bool:
        return found.isEicar


def _searcher(rule: MatchRule) -> Callable[[str], bool]:
    """
    Words are sought as they are first, which takes a third of the time, and whole where
    they are found.
    """
    words = "|".join(map(re2.escape, rule.words))
    patterns = [rule.pattern or words]
    if rule.pattern is None:
        patterns.append(rf"(?:^|[^\pL\pN])(?:{words})(?:$|[^\pL\pN])")
    searches = [_compile(pattern).search for pattern in patterns]

    def has(text: str) -> bool:
        octets = text.encode()  # places are not asked for
        return all(search(octets) is not None for search in searches)

    return has


def _like(text: str, globs: Sequence[str]) -> bool:
    text = text.strip().lower()
    return any(fnmatch.fnmatchcase(text, glob.lower()) for glob in globs)

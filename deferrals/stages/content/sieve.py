"""
The content stage C{sieve}: a user's own script, before the message is accepted.

C{reject} and C{ereject} become that recipient's refusal with the user's text, while the
sender waits; C{discard} accepts, and leads nowhere.  All else stays the store's affair:
the message is accepted, and the store runs the script when it has it.

What a script means is said by Pigeonhole's C{sieve-test}, and so as the store's own
Sieve means it.  Only scripts are run that name one of the three, and each once for a
message, however many recipients have it.  Whatever goes wrong leaves the decision to
the store, and the log says why.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Hashable, Sequence
from typing import Literal

import attrs
from cachetools import LRUCache, TTLCache
from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.logger import LogLevel
from twisted.python.failure import Failure
from zope.interface import implementer

from deferrals.deferreds import together, withDeadline
from deferrals.errors import StageError, TableError
from deferrals.interfaces import IContentStage, IMessage, IServices
from deferrals.logger import Logger
from deferrals.model.envelope import Envelope, Recipient
from deferrals.model.pathpart import pathPart
from deferrals.model.reply import R451_STAGE_FAILED, Reply
from deferrals.model.settings import (
    BadSetting,
    Octets,
    Seconds,
    TableName,
    checked,
    positive,
    template,
)
from deferrals.model.sievescript import STORE, Decision, Script, decisionOf
from deferrals.model.tablekeys import TableKeys
from deferrals.model.verdict import ACCEPT, Accept, ContentVerdict, Refuse
from deferrals.stages.content.scores import scoreFor
from deferrals.stages.content.sievefiles import ScriptFiles, ScriptFound
from deferrals.stages.content.sieveprogram import Printed, Run, SieveTest, TooMuch, identityOf
from deferrals.stages.processgroup import NO_CHILD, NO_PROGRAM
from deferrals.stages.remote import AboutMessage, RemoteService

_log = Logger(namespace="deferrals.stages.sieve")

#: How long a run may wait for others, beside its own time, in seconds.
WAITING_SECONDS = 10.0

#: So many homes are remembered, for the cohorts: each message looks them up again.
MAX_HOMES = 10_000

#: A script that has taken too long is not run for so many seconds; so many are known.
LEFT_SECONDS, MAX_LEFT = 60.0, 10_000

R550_NO_REASON = Reply(550, "5.7.1", "the recipient refuses the message")


def _path(value: str) -> None:
    template(value, "local", "domain", "address", "home")


@attrs.frozen
class SieveSettings:
    """
    @ivar path: the script of a recipient: C{{local}}, C{{domain}} and C{{address}} stand
        for its address without its subaddress, each as in C{maildir}, and C{{home}} for
        what the column C{home} of C{users}, or of C{table}, says.  Where there is no
        file, the recipient accepts.
    @ivar table: the name of one of C{[tables]}, which is asked for C{{home}} where
        C{users} has not said it.
    @ivar program: Pigeonhole's C{sieve-test}, of Dovecot 2.3.
    @ivar score: the C{use} of a stage before this one, whose score C{spamtest} tells.
    @ivar score_max: the score for which C{spamtest} is 10.
    @ivar timeout: for one run.
    @ivar script_size: larger scripts are left to the store.
    @ivar max_size: with larger messages, scripts are.
    @ivar concurrency: runs at once.
    @ivar on_error: what it means that the program cannot be run: the store decides, as
        with every fault of a script; or 451.
    @ivar user: as whom it runs where this server is root.
    """

    path: str = attrs.field(validator=checked(_path))
    table: TableName | None = None
    program: str = "sieve-test"
    score: str | None = None
    score_max: float = attrs.field(default=10.0, validator=checked(positive))
    timeout: Seconds = attrs.field(default=Seconds(1), validator=checked(positive))
    script_size: Octets = attrs.field(default=Octets(64 << 10), validator=checked(positive))
    max_size: Octets = attrs.field(default=Octets(50 << 20), validator=checked(positive))
    concurrency: int = attrs.field(default=4, validator=checked(positive))
    on_error: Literal["skip", "refuse-temporarily"] = "skip"
    user: str = "nobody"

    def __attrs_post_init__(self) -> None:
        if self.table is not None and "{home}" not in self.path:
            raise BadSetting("table", "no table, unless {home} is in path")


class ScriptFault(AboutMessage):
    """
    The program works; this script cannot be judged by.
    """


@implementer(IContentStage)
class SieveStage:
    """
    See the module.

    @param services: L{IServices<deferrals.interfaces.IServices>}.
    """

    def __init__(self, settings: SieveSettings, services: IServices) -> None:
        self._settings = settings
        self._services = services
        try:
            self._identity = identityOf(settings.user)
        except ValueError as error:
            raise BadSetting("user", str(error)) from None
        self._table = None if settings.table is None else services.table(settings.table)
        self._homes: LRUCache[str, str] = LRUCache(MAX_HOMES)
        self._files = services.common(
            (__name__, "files", settings.script_size), lambda: ScriptFiles(settings.script_size)
        )
        self._program = services.common(
            (__name__, settings.program, settings.concurrency),
            lambda: RemoteService(f"sieve {settings.program}", services, settings.concurrency),
        )
        self._slow: TTLCache[bytes, str] = TTLCache(
            MAX_LEFT, LEFT_SECONDS, services.reactor.seconds
        )

    def _knownHome(self, recipient: Recipient) -> str | None:
        """
        A recipient's home, as far as it is known without a look-up; empty where it has
        none.
        """
        home = recipient.own("sieve", "home")
        if home or self._table is None:
            return str(home or "")
        return self._homes.get(recipient.address.key)

    async def _homeOf(self, recipient: Recipient) -> str:
        own = recipient.own("sieve", "home")
        if own or self._table is None:
            return str(own or "")
        row = await self._table.lookUp(TableKeys.of(recipient.address, recipient.parted()[0]))
        found = None if row is None else row.get("home")
        home = self._homes[recipient.address.key] = found if isinstance(found, str) else ""
        return home

    def _pathOf(self, recipient: Recipient, home: str) -> str | None:
        """
        Where a recipient's script is; C{None} where it has none.
        """
        if "{home}" in self._settings.path and not home:
            return None
        address = recipient.parted()[0]
        local, domain = pathPart(address.local), address.domain and pathPart(address.domain)
        path = self._settings.path.format(
            local=local, domain=domain, address=f"{local}@{domain}", home=home
        )
        return os.path.join(self._services.baseDir, path)

    def cohort(self, recipient: Recipient) -> Hashable:
        """
        The script, and the recipient where that makes a difference; the script's path as
        long as it has not been read.
        """
        home = self._knownHome(recipient)
        if home is None:
            return "", recipient.address.key
        path = self._pathOf(recipient, home)
        if path is None:
            return None
        known = self._files.known(path)
        if known is None or known.script is None:
            return path
        script = known.script
        if not script.decides:
            return None
        isOwn = script.asksEnvelope or self._asksScore(script)
        return script.digest, recipient.address.key if isOwn else ""

    def _asksScore(self, script: Script) -> bool:
        return script.asksScore and self._settings.score is not None

    def judge(
        self, message: IMessage, envelope: Envelope, recipients: Sequence[Recipient]
    ) -> Deferred[ContentVerdict]:
        return Deferred.fromCoroutine(self._judge(message, envelope, recipients))

    async def _judge(
        self, message: IMessage, envelope: Envelope, recipients: Sequence[Recipient]
    ) -> ContentVerdict:
        try:
            homes = await together(
                [Deferred.fromCoroutine(self._homeOf(one)) for one in recipients]
            )
        except TableError as error:
            return self._failed(envelope, recipients, error)
        paths = [self._pathOf(*pair) for pair in zip(recipients, homes, strict=True)]
        there = [path for path in paths if path is not None]
        found = await self._services.inThread(self._files.read, there)
        found += [ScriptFound()] * (len(paths) - len(there))  # their home is gone
        script = found[0].script
        why = self._whyLeft(message, envelope, found)
        if script is None or not script.decides:
            if why and found[0].problem:
                self._tell(envelope, recipients, why)
            return ACCEPT
        if why:
            return self._left(envelope, recipients, why)
        return await self._run(script, message, envelope, recipients)

    def _whyLeft(self, message: IMessage, envelope: Envelope, found: Sequence[ScriptFound]) -> str:
        """
        Why a script is left to the store without a run; empty where it is not.
        """
        script = found[0].script
        if len({one.digest for one in found}) > 1:
            return "it has just been changed"
        if script is None:
            return found[0].problem
        if script.asksScore and self._settings.score is None:
            return "it asks for a spam score (spamtest), and there is no score here"
        if script.asksEnvelope and envelope.sender is None:
            return "it asks for the envelope, and the program cannot be told the null path"
        if message.size > self._settings.max_size:
            return f"the message is larger than {self._settings.max_size} octets"
        return script.asksStore or self._slow.get(script.digest, "")

    async def _run(
        self,
        script: Script,
        message: IMessage,
        envelope: Envelope,
        recipients: Sequence[Recipient],
    ) -> ContentVerdict:
        settings, recipient = self._settings, recipients[0]
        isOwn = script.asksEnvelope or self._asksScore(script)
        score = None
        if settings.score is not None and self._asksScore(script):
            score = await scoreFor(message, settings.score, recipient)
        key = (__name__, settings.program, script.digest, str(recipient) if isOwn else "", score)
        run = Run(
            settings.program,
            script.octets,
            self._services.view(message, envelope),
            envelope.senderText,
            str(recipient),
            score,
            settings.score_max,
        )
        try:
            decision: Decision = await message.shared(key, lambda _: self._ask(run, script))
        except CancelledError:
            raise
        except ScriptFault as error:
            return self._left(envelope, recipients, str(error))
        except Exception as error:
            return self._failed(envelope, recipients, error)
        return self._verdict(decision)

    def _verdict(self, decision: Decision) -> ContentVerdict:
        self._services.status.count("sieve", decision.kind)
        if decision.kind == "reject":
            reply = R550_NO_REASON
            if decision.reason:
                reply = attrs.evolve(reply, text=decision.reason)
            return Refuse(reply, why="sieve: the recipient's script rejects it")
        if decision.kind == "discard":
            return Accept(nowhere=True, why="sieve: the recipient's script discards it")
        return ACCEPT

    def _ask(self, run: Run, script: Script) -> Deferred[Decision]:
        seconds = self._settings.timeout + WAITING_SECONDS
        return self._program.ask(seconds, self._made, run, script)

    async def _made(self, run: Run, script: Script) -> Decision:
        """
        A run that has its turn.
        """
        directory, words = await self._prepared(run)
        try:
            said = await withDeadline(
                self._services.reactor, self._settings.timeout, self._said, words, directory
            )
        except TimeoutError:
            # That is the script's own fault, and not the program's: others are run.
            problem = f"it has taken longer than {self._settings.timeout:g} s"
            self._slow[script.digest] = f"{problem}, less than a minute ago"
            raise ScriptFault(problem) from None
        except TooMuch as error:
            raise ScriptFault(str(error)) from None
        finally:
            self._services.inThread(shutil.rmtree, directory, True)
        if said.status in (NO_CHILD, NO_PROGRAM):
            raise StageError(f"the program cannot be run: {said.errors}")
        if said.status is None:
            raise ScriptFault(f"the program was ended by a signal: {said.errors}")
        if said.status != 0:
            raise ScriptFault(f"status {said.status}: {said.errors}")
        return decisionOf(said.out, b"??" in script.octets)

    def _prepared(self, run: Run) -> Deferred[tuple[str, list[str]]]:
        """
        The files of a run.  Where they are not waited for any longer, they go as soon as
        they are there.
        """
        prepared: Deferred[tuple[str, list[str]]] = Deferred()

        def made(found: tuple[str, list[str]]) -> None:
            if prepared.called:
                self._services.inThread(shutil.rmtree, found[0], True)
            else:
                prepared.callback(found)

        def failed(failure: Failure) -> None:
            if not prepared.called:
                prepared.errback(failure)

        self._services.inThread(run.prepare, self._identity).addCallbacks(made, failed)
        return prepared

    def _said(self, words: list[str], directory: str) -> Deferred[Printed]:
        program = SieveTest()
        program.start(self._services.reactor, words, directory, self._identity)
        return program.said

    def _left(
        self, envelope: Envelope, recipients: Sequence[Recipient], why: str
    ) -> ContentVerdict:
        self._tell(envelope, recipients, why)
        return self._verdict(STORE)

    def _failed(
        self, envelope: Envelope, recipients: Sequence[Recipient], error: Exception
    ) -> ContentVerdict:
        """
        The program cannot be run.
        """
        why = f"{type(error).__name__}: {error}"
        if self._settings.on_error == "skip":
            return self._left(envelope, recipients, why)
        self._tell(envelope, recipients, why, "cannot be run, so 451")
        return Refuse(R451_STAGE_FAILED, why=f"sieve: on_error {self._settings.on_error}")

    def _tell(
        self,
        envelope: Envelope,
        recipients: Sequence[Recipient],
        why: str,
        what: str = "is left to the store",
    ) -> None:
        more = f" and {len(recipients) - 1} more" if len(recipients) > 1 else ""
        _log.tell(
            self._services.status,
            "{transaction}: the script of <{recipient}>{more} {what}: {why}",
            event="script-left",
            level=LogLevel.warn,
            transaction=envelope.id,
            recipient=str(recipients[0]),
            more=more,
            what=what,
            why=why,
        )

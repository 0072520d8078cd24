"""
Tells recipients what was refused for them, each day or each week, by mail of our own.

That a recipient has been told is noted in the spool in the same transaction in which the
message becomes ours: after a crash it is neither told twice nor left out.  Of several
processes the first one tells; of several machines with one database whichever takes the
recipient first (L{deferrals.server.tellings}).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection
from typing import Protocol

import attrs
from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.task import LoopingCall

from deferrals.deferreds import timeOfDay
from deferrals.errors import SpoolError
from deferrals.interfaces import IReactor, ISpool, Work
from deferrals.logger import Logger
from deferrals.model.address import Mailbox
from deferrals.model.delivery import Addressee
from deferrals.model.digest import MOST_ENTRIES, Digest, Templates, dueBefore
from deferrals.model.envelope import Envelope, Parameters, Recipient
from deferrals.model.link import SignedLink
from deferrals.model.refusal import DAY_SECONDS, SHOWN, Refusal, RefusalSettings
from deferrals.model.status import Status
from deferrals.model.verdict import Expand, Refuse, Route
from deferrals.relay.notices import NEVER, Author
from deferrals.server.refusals import People, Refusals
from deferrals.server.tellings import NOTE_SECONDS, OwnTellings, Tellings, noteName
from deferrals.stages.envelope.usersettings import DIGEST

_log = Logger(namespace="deferrals.refusals")

#: How often it is looked whether one is due, in seconds.
LOOK_SECONDS = 30.0

#: So long after its time a digest is made: what was refused before it is kept by then.
SETTLE_SECONDS = 60.0

#: How far back the first digest of a recipient goes, in seconds.
_BACK = {"daily": DAY_SECONDS, "weekly": 7 * DAY_SECONDS}


class LinkSecret(Protocol):
    """
    What links are signed with.
    """

    def get(self) -> bytes:
        """
        @raise SpoolError: it is not known now.
        @raise OSError: it cannot be read.
        @raise ValueError: it is none.
        """

    async def known(self) -> None:
        """
        Wait until it can be had.

        @raise SpoolError: that is not now.
        """


@attrs.frozen
class Post:
    """
    How a message of ours goes out.

    @ivar spool: makes it durable.
    @ivar author: makes its envelope.
    @ivar release: called once it is ours.
    """

    spool: ISpool
    author: Author
    release: Callable[[Work], None]


@attrs.frozen
class Telling:
    """
    What a recipient is to be told, and how it goes there.
    """

    digest: Digest
    route: Route


class Digests:
    """
    @param refusals: what is kept.
    @param people: what is known of recipients.
    @param post: how a digest goes out.
    @param key: signs links.
    @param status: counts digests.
    @param tellings: who was told, and by whom; by default as this process alone knows.
    @ivar url: what links begin with; C{None} where there are none.
    @ivar templates: of a digest's texts.
    """

    def __init__(
        self,
        refusals: Refusals,
        reactor: IReactor,
        people: People,
        post: Post,
        key: LinkSecret,
        status: Status,
        tellings: Tellings | None = None,
    ) -> None:
        self.url: str | None = None
        self.templates = Templates()
        self._refusals = refusals
        self._reactor = reactor
        self._people = people
        self._post = post
        self._key = key
        self._status = status
        self._tellings = tellings or OwnTellings(post.spool)
        self._lock = DeferredLock()
        self._done: dict[str, float] = {}
        self._left: dict[str, tuple[float, Collection[str]]] = {}
        self._said = ""
        self._loop = LoopingCall(lambda: Deferred.fromCoroutine(self._look()))
        self._loop.clock = reactor
        self._ended: Deferred[LoopingCall] | None = None

    @property
    def _settings(self) -> RefusalSettings:
        return self._refusals.settings

    def start(self) -> None:
        """
        From now on.
        """
        self._ended = self._loop.start(LOOK_SECONDS)
        self._ended.addErrback(lambda failure: _log.failure("digests", failure))

    async def stop(self) -> None:
        """
        No more; one that is under way is sent.
        """
        if self._loop.running:
            self._loop.stop()
        if self._ended is not None:
            await self._ended

    async def _look(self) -> None:
        """
        Tell those whose digest has become due.
        """
        if not self._settings.keep:
            return
        try:
            await self._tellings.settle()
            for how in ("daily", "weekly"):
                await self._lookFor(how)
        except SpoolError as error:
            if str(error) != self._said:  # until it is another
                _log.error("no digests now: {error}", error=str(error))
            self._said = str(error)
        else:
            self._said = ""

    async def _lookFor(self, how: str) -> None:
        now = timeOfDay(self._reactor) - SETTLE_SECONDS
        due = dueBefore(now, self._settings.digestMinute, how == "weekly")
        if self._done.get(how) == due:
            return
        when, left = self._left.get(how, (due, None))
        found = await self._lock.run(self._all, how, due, left if when == due else None)
        if found:
            self._left[how] = due, found
        else:
            self._left.pop(how, None)
            self._done[how] = due

    async def _all(self, how: str, due: float, owners: Collection[str] | None) -> list[str]:
        """
        @param owners: of whom it is known that others tell them; C{None} for all.
        @return: those of whom that is so now: who takes one may be gone before it has told.
        """
        told, left = await self._tellings.told(), []
        if owners is None:
            owners = await self._refusals.store.owners(due - _BACK[how])
        for owner in owners:
            if not self._loop.running:
                break
            try:
                if not await self._tellIfDue(owner, how, due, told):
                    left.append(owner)
            except SpoolError:
                raise
            except Exception:  # of one recipient: the others are told all the same
                _log.failure("no digest for {owner}", owner=owner)
        return left

    async def _tellIfDue(self, owner: str, how: str, due: float, told: dict[str, float]) -> bool:
        """
        @return: whether there is no more to do.
        """
        before = told.get(owner, 0.0)
        if before >= due:
            return True
        plan = await self._plan(owner, max(before, due - _BACK[how]), due, how)
        return plan is None or await self._tell(owner, plan, how) is not None

    async def _tell(self, owner: str, plan: Telling, how: str | None) -> Envelope | None:
        """
        @return: C{None} where another process tells it, or has.
        @raise SpoolError: it is not told, and is this process's at the next time.
        """
        until = plan.digest.until
        since = await self._tellings.take(owner, until)
        if since is None:
            return None
        try:
            found: Telling | None = plan
            if since > plan.digest.since:
                found = await self._plan(owner, since, until, how)
            sent = None if found is None else await self._send(owner, found)
        except SpoolError:
            raise
        except BaseException:
            with contextlib.suppress(SpoolError):
                await self._tellings.leave(owner)
            raise
        if sent is None:
            await self._tellings.leave(owner)
        else:
            await self._tellings.done(owner, until)
        return sent

    async def _plan(
        self, owner: str, since: float, until: float, how: str | None
    ) -> Telling | None:
        """
        @param how: C{"daily"} or C{"weekly"}; C{None} for whoever wants one at all.
        @return: C{None} where the recipient does not want it so, or there is nothing.
        """
        found = await self._refusals.store.find(owner, since, SHOWN)
        found = [one for one in found if one.time < until]
        if not found:
            return None
        address = _addressOf(owner, found)
        route, wanted = await self._wanted(address)
        if route is None or wanted == "off" or how not in (None, wanted):
            return None
        if self.url is not None:
            await self._key.known()
        return Telling(self._digest(address, found, since, until), route)

    async def _wanted(self, address: Mailbox) -> tuple[Route | None, str]:
        """
        Where mail for a recipient goes, and how often it wants to be told.
        """
        envelope, recipient = self._post.author.newEnvelope(), Recipient(address)
        said = await self._people.askSome(envelope, recipient, lambda stage: stage == "users")
        if said is None or isinstance(said, Refuse):
            return None, "off"
        if isinstance(said, Expand):  # it has its mail elsewhere: it has none of ours either
            return None, "off"
        own = dict(() if said.route is None else said.route.overrides).get(DIGEST)
        return said.route, str(own or self._settings.digest)

    def _digest(self, address: Mailbox, found: list[Refusal], since: float, until: float) -> Digest:
        return Digest(
            address,
            found[:MOST_ENTRIES],
            len(found),
            since,
            until,
            self._post.author.hostname,
            self.linkTo(address),
            self.templates,
        )

    def linkTo(self, address: Mailbox) -> str:
        """
        @return: a link to the page of one recipient; empty where pages have no address.
        """
        if self.url is None:
            return ""
        expires = int(timeOfDay(self._reactor) + self._settings.links)
        token = SignedLink(expires, str(address)).token(self._key.get())
        return f"{self.url.rstrip('/')}/mine/{token}"

    async def _send(self, owner: str, plan: Telling) -> Envelope | None:
        """
        @return: C{None} where it took so long that another process may have told.
        @raise SpoolError: it is not ours; the recipient is told at the next time.
        """
        post, digest = self._post, plan.digest
        envelope = post.author.newEnvelope()
        data = digest.message(self._settings.digest_from, envelope.received, envelope.uniqueId)
        isPlain = data.partition(b"\r\n\r\n")[0].isascii()
        envelope = attrs.evolve(envelope, parameters=Parameters(smtputf8=not isPlain))
        writer = post.spool.newBody(envelope.transaction)
        writer.write(data)
        message = await writer.finish()
        recipient = Recipient(digest.recipient, NEVER, route=plan.route)
        if not self._tellings.isOurs(owner):
            writer.abort()
            return None
        # In one turn of the reactor, and so in one transaction of the spool.
        name = noteName(owner)
        post.spool.note(name, repr(digest.until), NOTE_SECONDS)
        try:
            work = await post.spool.stage(envelope, message, [Addressee(recipient)])
        except SpoolError:
            post.spool.forget(name)
            writer.abort()
            raise
        post.release(work)
        _log.tell(
            self._status,
            "{transaction} tells <{recipient}> of {count} refusals",
            event="digest",
            transaction=envelope.id,
            recipient=str(digest.recipient),
            count=digest.count,
        )
        return envelope

    # For operators.

    async def tellNow(self, owner: str | None, isDry: bool) -> list[dict[str, str | int]]:
        """
        Tell one recipient, or all who want it, what was refused since they were told.

        @param isDry: only say what they would be told.
        """
        return await self._lock.run(self._now, owner, isDry)

    async def _now(self, owner: str | None, isDry: bool) -> list[dict[str, str | int]]:
        until, told = timeOfDay(self._reactor), await self._tellings.told()
        since = until - self._settings.keep
        owners = [owner] if owner is not None else await self._refusals.store.owners(since)
        found: list[dict[str, str | int]] = []
        for one in owners:
            plan = await self._plan(one, max(since, told.get(one, 0.0)), until, None)
            if plan is None:
                continue
            said: dict[str, str | int] = {"recipient": one, "count": plan.digest.count}
            if isDry:
                said["text"] = plan.digest.text
            else:
                sent = await self._tell(one, plan, None)
                if sent is None:
                    continue  # by another machine, this very moment
                said["id"] = sent.id
            found.append(said)
        return found


def _addressOf(owner: str, found: list[Refusal]) -> Mailbox:
    """
    The owner as an address: as one of its refusals has it, where it is that one.
    """
    for one in found:
        address = Mailbox.parse(one.recipient)
        if address.key == owner:
            return address
    local, _, domain = owner.rpartition("@")
    return Mailbox(local, domain)

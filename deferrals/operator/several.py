"""
What operators call where a server is several processes: all are asked, and their
answers are made one.

A worker that does not answer is named: an answer is L{Partial} then.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias

import attrs
from twisted.internet.defer import Deferred, TimeoutError, maybeDeferred
from twisted.python.failure import Failure

from deferrals.deferreds import asDeferred
from deferrals.errors import DeferralsError, LineError
from deferrals.model import recent
from deferrals.model.json import JSON
from deferrals.operator import merging
from deferrals.operator.control import Called, Partial, Result

NO_ANSWER = "does not answer"

#: Those who can be called now, by number; C{None} for one that is away.
Workers: TypeAlias = Mapping[int, Called | None]


class SeveralOperators:
    """
    @param workers: returns who can be called.
    @param isOneQueue: whether they share one queue: then whichever has an ear is asked
        about it.
    """

    def __init__(self, workers: Callable[[], Workers], isOneQueue: bool = False) -> None:
        self._workers = workers
        self._isOneQueue = isOneQueue

    def _queues(self) -> Workers:
        """
        Who can be called, by queue.
        """
        workers = self._workers()
        if not self._isOneQueue:
            return workers
        return {0: next((one for one in workers.values() if one is not None), None)}

    def call(self, name: str, *args: JSON) -> Deferred[Result]:
        """
        See L{Operator.call<deferrals.operator.control.Operator.call>}; the result may
        be L{Partial}.
        """
        method: Callable[..., Awaitable[Result]] | None = getattr(self, f"call_{name}", None)
        if method is None:
            raise ValueError(f"no such call: {name}")
        return asDeferred(method, *args)

    async def ask(
        self, asked: Mapping[int, tuple[str, *tuple[JSON, ...]]], of: Workers | None = None
    ) -> WorkersAnswers:
        """
        @param asked: the arguments of C{call}, by worker.
        @param of: who can be called, where that is not all workers.
        """
        workers = self._workers() if of is None else of
        waiting: dict[int, Deferred[JSON] | None] = {}
        for number, args in asked.items():
            worker = workers.get(number)
            waiting[number] = None if worker is None else maybeDeferred(worker.call, *args)
        return await WorkersAnswers.of(waiting)

    async def askAll(self, name: str, *args: JSON, of: Workers | None = None) -> WorkersAnswers:
        """
        The same of all.
        """
        asked = self._workers() if of is None else of
        return await self.ask(dict.fromkeys(asked, (name, *args)), of)

    # The queue.

    async def call_look(self, selection: JSON, limit: int, after: JSON) -> Result:
        """A page of the recipients that are selected."""
        queues = self._queues()
        places = merging.begun(after, queues)
        asked = {one: ("look", selection, limit, place) for one, place in places.items()}
        answers = await self.ask(asked, queues)
        return answers.whole(merging.merged(answers.found, places, limit))

    async def call_show(self, text: str) -> Result:
        """All that is known of a message."""
        answers = await self.askAll("show", text)
        found = merging.whereItIs(answers.found)
        return found if found is not None else answers.whole(None)

    async def call_change(self, command: str, selection: JSON, after: JSON) -> Result:
        """Retry, hold, release or remove some of those that are selected."""
        queues = self._queues()
        places = merging.begun(after, queues)
        asked = {one: ("change", command, selection, place) for one, place in places.items()}
        answers = await self.ask(asked, queues)
        return answers.whole(merging.counted(answers.found))

    async def call_inspect(self, after: JSON) -> Result:
        """What is damaged in a part of the spools."""
        queues = self._queues()
        places = merging.begun(after, queues)
        answers = await self.ask({one: ("inspect", place) for one, place in places.items()}, queues)
        return answers.whole(merging.inspected(answers.found))

    async def call_aside(self) -> Result:
        """What has been set aside."""
        answers = await self.askAll("aside", of=self._queues())
        return answers.whole(merging.setAside(answers.found))

    async def call_rescue(self, command: str, name: str) -> Result:
        """Show, take back or remove what has been set aside."""
        worker, own = merging.named(name)
        answers = await self.ask({worker: ("rescue", command, own)}, self._queues())
        found = answers.whole(answers.found.get(worker))
        if not isinstance(found, dict):
            raise DeferralsError(f"worker {worker} {answers.missing[worker]}")
        return {**found, "name": name}

    async def call_numbers(self) -> Result:
        """What is in the queues, in numbers."""
        answers = await self.askAll("numbers", of=self._queues())
        return answers.whole(merging.numbers(answers.found))

    # What was refused is in one place for all: whichever has it can be asked.

    async def _askFirst(self, name: str, *args: JSON) -> Result:
        """
        Ask one after the other until one answers.
        """
        answers = WorkersAnswers(missing={0: NO_ANSWER})
        for number in sorted(self._workers()):
            answers = await self.ask({number: (name, *args)})
            if number in answers.found:
                return answers.found[number]
        return answers.whole(None)

    async def call_refusals(self, recipient: str, seconds: JSON, limit: int) -> Result:
        """What was refused for a recipient."""
        return await self._askFirst("refusals", recipient, seconds, limit)

    async def call_about(self, words: str, limit: int) -> Result:
        """What was refused under a Subject with these words."""
        return await self._askFirst("about", words, limit)

    async def call_admit(self, recipient: str, wish: JSON) -> Result:
        """Let in a sender that was refused."""
        return await self._askFirst("admit", recipient, wish)

    async def call_admissions(self, recipient: JSON) -> Result:
        """The senders that recipients have let in."""
        return await self._askFirst("admissions", recipient)

    async def call_removeAdmissions(self, recipient: JSON) -> Result:
        """Let them in no longer."""
        return await self._askFirst("removeAdmissions", recipient)

    async def call_digest(self, recipient: JSON, isDry: JSON) -> Result:
        """Tell recipients what was refused for them: only the first one does."""
        answers = await self.ask({min(self._workers(), default=0): ("digest", recipient, isDry)})
        for found in answers.found.values():
            return found
        return answers.whole(None)

    async def call_status(self) -> Result:
        """What the server says of itself; nothing, where none runs."""
        return {}

    async def call_recent(self, limit: int) -> Result:
        """The last transactions of all, the newest first."""
        answers = await self.askAll("recent", limit)
        return answers.whole(recent.mergedLists([*answers.found.values()], limit))

    async def call_events(self, text: str) -> Result:
        """What has happened lately with one transaction."""
        answers = await self.askAll("events", text)
        return answers.whole(recent.mergedEvents([*answers.found.values()]))

    async def call_find(self, text: str, limit: int) -> Result:
        """The last transactions of all that have to do with something."""
        answers = await self.askAll("find", text, limit)
        return answers.whole(recent.mergedLists([*answers.found.values()], limit))

    async def call_policy(self, name: str) -> Result:
        """What a policy has refused and marked lately, and the scores it has seen."""
        answers = await self.askAll("policy", name)
        return answers.whole(recent.mergedPolicies([*answers.found.values()]))

    async def call_read(self, text: str, offset: int) -> Result:
        """A part of a message's content, in base64; empty at its end."""
        answers = await self.askAll("read", text, offset)
        found = [one for one in answers.found.values() if one is not None]
        return found[0] if found else answers.whole(None)


@attrs.define
class WorkersAnswers:
    """
    What several have said.

    @ivar found: their answers, by worker.
    @ivar missing: of those without an answer why there is none.
    """

    found: dict[int, JSON] = attrs.field(factory=dict)
    missing: dict[int, str] = attrs.field(factory=dict)
    _why: list[Failure] = attrs.field(factory=list)

    @classmethod
    async def of(cls, waiting: Mapping[int, Deferred[JSON] | None]) -> WorkersAnswers:
        """
        Wait for all.

        @param waiting: what they are asked, by worker; C{None} for one that is away.
        """
        answers = cls()
        known = {number: answers._add(number, d) for number, d in waiting.items()}
        for d in known.values():
            await d
        return answers

    def _add(self, worker: int, d: Deferred[JSON] | None) -> Deferred[None]:
        def said(answer: JSON) -> None:
            self.found[worker] = answer

        def failed(failure: Failure) -> None:
            if failure.check(LineError, TimeoutError):
                self.missing[worker] = NO_ANSWER
            else:
                self._why.append(failure)
                self.missing[worker] = f"says: {failure.getErrorMessage()}"

        if d is None:
            d = Deferred()
            d.errback(LineError())
        return d.addCallbacks(said, failed)

    def whole(self, result: JSON) -> Result:
        """
        @return: C{result}, with who is missing.
        @raise DeferralsError: none can say more than why it cannot.
        """
        if self._why and not self.found:
            self._why[0].raiseException()
        return Partial(result, dict(self.missing)) if self.missing else result

"""
C{deferrals refusals}, C{digest}, C{admit} and C{admissions}: through the server's control
socket where it runs, and with what it has left where it does not.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from deferrals.errors import DeferralsError
from deferrals.interfaces import IRefusalStore
from deferrals.model.admission import WAYS, AdmissionWish, admitted, keyOf
from deferrals.model.json import JSON
from deferrals.model.refusal import SHOWN, RefusalSettings
from deferrals.model.settings import parseSeconds
from deferrals.operator.control import QueueConnection
from deferrals.operator.output import complain, moment, say, sayJSON
from deferrals.operator.restingnotes import RestingNotes

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

Run: TypeAlias = "Callable[[QueueConnection, argparse.Namespace], int]"

#: Adds a command that is given the way to the queue.
Verb: TypeAlias = "Callable[[Commands, str, str, Run], argparse.ArgumentParser]"


def addCommands(commands: Commands, verb: Verb) -> None:
    """
    @param commands: the commands of C{deferrals}.
    @param verb: adds one that is given the way to the queue.
    """
    one = verb(commands, "refusals", "what was refused for a recipient", refusals)
    one.add_argument("recipient", metavar="RECIPIENT")
    one.add_argument("--since", metavar="SPAN", help="no older ones, e.g. 14d")
    text = "let in the sender of what was refused for a recipient"
    one = verb(commands, "admit", text, admit)
    one.add_argument("id", metavar="ID", help="the reference in the sender's bounce")
    one.add_argument("recipient", metavar="RECIPIENT")
    many = one.add_mutually_exclusive_group()
    many.add_argument("--once", action="store_true", help="one message")
    many.add_argument("--for", dest="span", metavar="SPAN", help="so long; [refusals] admit_for")
    one.add_argument("--by", choices=WAYS, help="by what the sender is known; what proves most")
    parent = commands.add_parser("admissions", help="the senders that recipients have let in")
    verbs = parent.add_subparsers(dest="verb", required=True, metavar="COMMAND")
    one = verb(verbs, "list", "the senders that recipients have let in", list_)
    one.add_argument("recipient", nargs="?", metavar="RECIPIENT")
    one = verb(verbs, "remove", "let them in no longer", remove)
    one.add_argument("recipient", nargs="?", metavar="RECIPIENT")
    one.add_argument("--all", action="store_true", help="those of all recipients")
    text = "tell recipients now what was refused for them since they were told"
    one = verb(commands, "digest", text, digest)
    one.add_argument("recipient", nargs="?", metavar="RECIPIENT", help="all who want it")
    one.add_argument("--dry-run", action="store_true", help="only show what they would be told")


def refusals(connection: QueueConnection, arguments: argparse.Namespace) -> int:
    """
    C{deferrals refusals}: 0, also if there are none.
    """
    since = None if arguments.since is None else parseSeconds(arguments.since)
    found = connection.call("refusals", arguments.recipient, since, SHOWN)
    if arguments.json:
        sayJSON(found)
        return 0
    for one in found:
        who = f"{one['client']} {one['hostname']}".rstrip()
        say(f"{moment(one['time'])} {one['id']} <{one['sender']}> [{who}] {one['reply']}")
        for name in ("header_from", "subject", "rule"):
            if one[name]:
                say(f"  {name.replace('_', ' ')}: {one[name]}")
        say(f"  can be known by: {', '.join(one['admits']) or 'nothing but its address'}")
    say(f"{len(found)} refusals")
    return 0


def admit(connection: QueueConnection, arguments: argparse.Namespace) -> int:
    """
    C{deferrals admit}: 1 if no such refusal is kept.
    """
    seconds = None if arguments.span is None else parseSeconds(arguments.span)
    wish = AdmissionWish(arguments.id, arguments.once, seconds, arguments.by)
    found = connection.call("admit", arguments.recipient, wish.toJSON())
    if found is None:
        complain(f"no refusal {arguments.id} of {arguments.recipient} is kept")
        return 1
    if found.get("warning"):
        complain(found["warning"])
    sayJSON(found) if arguments.json else say(_line(found))
    return 0


def _line(one: dict[str, JSON]) -> str:
    often = "for one message, " if one["once"] else ""
    until = moment(float(str(one["until"])))
    return f"<{one['recipient']}> lets in <{one['sender']}> by {one['by']}, {often}until {until}"


def list_(connection: QueueConnection, arguments: argparse.Namespace) -> int:
    """
    C{deferrals admissions list}: 0, also if there are none.
    """
    found = connection.call("admissions", arguments.recipient)
    if arguments.json:
        sayJSON(found)
        return 0
    for one in found:
        say(_line(one))
    say(f"{len(found)} admissions")
    return 0


def remove(connection: QueueConnection, arguments: argparse.Namespace) -> int:
    """
    C{deferrals admissions remove}: 1 if there were none.
    """
    if (arguments.recipient is None) != arguments.all:
        raise ValueError("say whose: a recipient, or --all")
    count = connection.call("removeAdmissions", arguments.recipient)
    sayJSON({"removed": count}) if arguments.json else say(f"{count} admissions removed")
    return 0 if count else 1


def digest(connection: QueueConnection, arguments: argparse.Namespace) -> int:
    """
    C{deferrals digest}: 1 if there is no recipient to tell.
    """
    found = connection.call("digest", arguments.recipient, arguments.dry_run)
    if arguments.json:
        sayJSON(found)
    else:
        for one in found:
            said = one.get("id", "would be told")
            say(f"<{one['recipient']}> {one['count']} refusals: {said}")
            for line in str(one.get("text", "")).splitlines():
                say(f"  {line}")
        say(f"{len(found)} recipients")
    return 0 if found else 1


class RestingDesk:
    """
    The same while no server runs.

    @param settings: of the configuration.
    @param store: what is kept.
    @param notes: whom recipients let in.
    """

    def __init__(
        self, settings: RefusalSettings, store: IRefusalStore, notes: RestingNotes
    ) -> None:
        self._settings = settings
        self._store = store
        self._notes = notes

    async def refusals(
        self, recipient: str, seconds: float | None, limit: int
    ) -> list[dict[str, JSON]]:
        """
        See L{Desk<deferrals.operator.control.Desk>}.
        """
        since, owner = self._settings.since(time.time(), seconds), keyOf(recipient)
        return [one.toJSON() for one in await self._store.find(owner, since, min(limit, SHOWN))]

    async def about(self, words: str, limit: int) -> list[dict[str, JSON]]:
        """
        See L{Desk<deferrals.operator.control.Desk>}.
        """
        since = self._settings.since(time.time())
        return [one.toJSON() for one in await self._store.about(words, since, min(limit, SHOWN))]

    async def admit(self, recipient: str, wish: AdmissionWish) -> dict[str, JSON] | None:
        """
        See L{Desk<deferrals.operator.control.Desk>}.
        """
        owner, now = keyOf(recipient), time.time()
        refusal = await self._store.named(wish.reference.upper(), owner)
        if refusal is None or refusal.time < self._settings.since(now):
            return None
        admission = admitted(refusal, wish, now, self._settings.admit_for)
        await self._notes.add(owner, admission, admission.until - now)
        return admission.told(owner)

    async def admissions(self, recipient: str | None) -> list[dict[str, JSON]]:
        """
        See L{Desk<deferrals.operator.control.Desk>}.
        """
        found = await self._notes.found(None if recipient is None else keyOf(recipient))
        return [found[whose, key].shown(whose) for whose, key in sorted(found)]

    async def removeAdmissions(self, recipient: str | None) -> int:
        """
        See L{Desk<deferrals.operator.control.Desk>}.
        """
        return await self._notes.remove(None if recipient is None else keyOf(recipient))

    async def digest(self, recipient: str | None, isDry: bool) -> list[dict[str, JSON]]:
        """
        See L{Desk<deferrals.operator.control.Desk>}.

        @raise DeferralsError: always.
        """
        raise DeferralsError("no server runs, which could send it")

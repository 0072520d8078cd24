"""
C{deferrals queue}, C{explain} and C{status}: through the server's control
socket where it runs, and with the spool itself where it does not.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

import attrs

from deferrals.config.tables import load
from deferrals.errors import DeferralsError, SpoolError
from deferrals.model.ids import parseId
from deferrals.model.json import JSON
from deferrals.model.selection import STATUSES, Selection, SetAside, Shown
from deferrals.model.settings import parseSeconds
from deferrals.operator.connecting import connect, spoolsOf
from deferrals.operator.control import QueueConnection
from deferrals.operator.explain import Id, Story, parseKey, stories
from deferrals.operator.logs import Logs
from deferrals.operator.output import complain, moment, say, sayJSON
from deferrals.operator.refusals import addCommands as addRefusals
from deferrals.operator.status import UNKNOWN, short, status
from deferrals.plugins.finding import stagePlugins
from deferrals.spool.sqlite.backup import backUp
from deferrals.spool.sqlite.files import SpoolFiles

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

#: What a command is: it is given the way to the queue, and what was typed.
Run = Callable[[QueueConnection, argparse.Namespace], int]

#: Recipients shown per call.
_PAGE = 500

#: Message ids per call.
_IDS = 500

_VERBS = {
    "retry": "try again now, whatever the schedule says",
    "hold": "do not deliver until released",
    "release": "deliver what is held",
    "remove": "take out of the queue; the sender is not told",
}

CHECK = (
    "for monitoring: exits with 0, 1 (warning: a service rests, mail is stuck or damaged, or older"
    " than --oldest), 2 (critical: it does not run, or takes no mail) or 3 (cannot tell)"
)

#: The unit that the package installs.
UNIT = "deferrals"

_DONE = {"retry": "due now", "hold": "held", "release": "released", "remove": "removed"}

#: What that is for those that are being delivered.
_ACTIVE = {
    "retry": "they were left alone",
    "hold": "they are held when that ends and has not delivered them",
    "release": "they go on",
    "remove": "they were not removed",
}


def addCommands(commands: Commands) -> None:
    """
    @param commands: the commands of C{deferrals}.
    """
    queue = commands.add_parser("queue", help="show the queue, and change it")
    verbs = queue.add_subparsers(dest="verb", required=True, metavar="COMMAND")
    one = _verb(verbs, "list", "which recipients wait, and for what", list_)
    _addSelection(one)
    one.add_argument("--limit", type=int, default=0, metavar="N", help="no more than that many")
    _verb(verbs, "show", "all that is known of a message", show).add_argument("id", metavar="ID")
    for verb, text in _VERBS.items():
        one = _verb(verbs, verb, text, change)
        _addSelection(one)
        one.add_argument("--all", action="store_true", help="all recipients")
    export = _verb(verbs, "export", "write a message to standard output", export_)
    export.add_argument("id", metavar="ID")
    _verb(verbs, "check", "find what is damaged", check)
    backup = verbs.add_parser("backup", help="copy the queue, also while a server uses it")
    backup.add_argument("directory", metavar="DIRECTORY", help="where to; it must not be there")
    backup.add_argument("--config", "-c", metavar="FILE", help="the server's configuration")
    backup.set_defaults(run=backup_)
    rescue = _verb(verbs, "rescue", "what was set aside: list, show, restore, remove", rescue_)
    rescue.add_argument(
        "what", nargs="?", default="list", choices=("list", "show", "restore", "remove")
    )
    rescue.add_argument("names", nargs="*", metavar="NAME", help="as the list has them")
    _addExplain(commands)
    addRefusals(commands, _verb)
    one = _verb(commands, "status", "what a running server says of itself", status)
    one.add_argument("--check", action="store_true", help=CHECK)
    one.add_argument("--oldest", metavar="SPAN", default="4h", help="with --check: as old as that")


def _addExplain(commands: Commands) -> None:
    text = "what became of a message, and why: from the logs and the spool"
    explain = commands.add_parser("explain", help=text, description=text)
    explain.add_argument(
        "keys",
        nargs="+",
        metavar="KEY",
        help="an id, an address of a sender, recipient or client, a domain, a Message-ID, a login,"
        " or a time: 2h, 2026-11-29, 16:00..16:30; of several all have to be met",
    )
    explain.add_argument(
        "--log",
        action="append",
        default=[],
        metavar="FILE",
        help="a log of the server, plain or JSON, and what was rotated away before it, also"
        " compressed; - is standard input",
    )
    explain.add_argument(
        "--journal",
        nargs="?",
        const=UNIT,
        metavar="UNIT",
        help=f"the journal of a unit ({UNIT}); read where no log is named and no id is known",
    )
    explain.add_argument("--config", "-c", metavar="FILE", help="the server's configuration")
    explain.add_argument("--json", action="store_true", help="for programs")
    explain.set_defaults(run=_explain)


def _verb(commands: Commands, name: str, text: str, run: Run) -> argparse.ArgumentParser:
    found = commands.add_parser(name, help=text, description=text)
    found.add_argument("--config", "-c", metavar="FILE", help="the server's configuration")
    found.add_argument("--json", action="store_true", help="for programs")
    found.set_defaults(run=lambda arguments: _guarded(run, arguments))
    return found


def _addSelection(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("ids", nargs="*", metavar="ID", help="messages")
    parser.add_argument("--from", dest="sender", metavar="PATTERN", help='"" for <>')
    parser.add_argument("--to", dest="recipient", metavar="PATTERN")
    parser.add_argument("--destination", metavar="PATTERN", help="the next hop")
    parser.add_argument("--status", choices=STATUSES)
    parser.add_argument("--older", metavar="SPAN", help="in the queue for longer, e.g. 2h")
    parser.add_argument("--newer", metavar="SPAN", help="in the queue for less")


def _selections(arguments: argparse.Namespace) -> list[Selection]:
    """
    @return: at least one; several where there are more ids than one call takes.
    @raise ValueError: an id or a time span is none.
    """
    for text in arguments.ids:
        parseId(text)
    ids = list(dict.fromkeys(text.upper() for text in arguments.ids))
    one = Selection(
        (),
        arguments.sender,
        arguments.recipient,
        arguments.destination,
        arguments.status,
        *(None if span is None else _span(span) for span in (arguments.older, arguments.newer)),
    )
    return [
        attrs.evolve(one, ids=tuple(ids[start : start + _IDS]))
        for start in range(0, len(ids) or 1, _IDS)
    ]


def _span(text: str) -> float:
    return float(parseSeconds(float(text) if text.isdigit() else text))


def _complete(connection: QueueConnection, status: int) -> int:
    """
    Name those that did not contribute to what was said.

    @return: the exit status: 1 at least, where there are some.
    """
    for worker, why in sorted(connection.missing.items()):
        complain(f"worker {worker} {why}")
    return status or (1 if connection.missing else 0)


def _guarded(run: Run, arguments: argparse.Namespace) -> int:
    """
    2 where something is wrong, and what it is.
    """
    try:
        with contextlib.closing(connect(arguments.config)) as connection:
            return _complete(connection, run(connection, arguments))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (DeferralsError, ValueError, OSError) as error:
        complain(str(error))
        return UNKNOWN if getattr(arguments, "check", False) else 2


def _found(connection: QueueConnection, arguments: argparse.Namespace) -> Iterator[Shown]:
    left = arguments.limit or sys.maxsize
    for selection in _selections(arguments):
        after = None
        while left:
            limit = min(left, _PAGE)
            page, after = connection.call("look", selection.toJSON(), limit, after)
            yield from page
            left -= len(page)
            if after is None:
                break


def _missing(connection: QueueConnection) -> Shown:
    """
    For programs: who did not contribute.
    """
    return {"missing": sorted(connection.missing)} if connection.missing else {}


def list_(connection: QueueConnection, arguments: argparse.Namespace) -> int:
    """
    C{deferrals queue list}: 0, also if there is nothing.
    """
    count = 0
    for one in _found(connection, arguments):
        count += 1
        sayJSON(one) if arguments.json else say(_line(one))
    if not arguments.json:
        say(f"{count} recipients")
    return 0


def _line(one: Shown) -> str:
    state = one["status"]
    if state == "queued":
        state = f"in {short(one['due_seconds'])}" if one["due_seconds"] > 0 else "due"
    said = f" {one['host']}" if one["host"] else ""
    tail = f" --{said} {one['reply']}" if one["reply"] else ""
    return (
        f"{one['id']} {short(one['age_seconds']):>4} {state:<7} {one['attempts']:>3}x"
        f" <{one['sender']}> -> <{one['recipient']}>"
        f" [{one['destination'] or one['delivery']}]{tail}"
    )


def show(connection: QueueConnection, arguments: argparse.Namespace) -> int:
    """
    C{deferrals queue show}: 1 if it is unknown.
    """
    found = connection.call("show", arguments.id)
    if found is None:
        complain(f"{arguments.id} is not in the queue")
        return 1
    if arguments.json:
        sayJSON(found)
        return 0
    if not found["gone"]:
        say(f"{found['id']}  {found['size']} octets, came {moment(found['received'])}")
        for one in found["recipients"]:
            say(f"  {_line(one)}")
            if one["expires_seconds"] is not None:
                say(f"    is given up in {short(one['expires_seconds'])}")
    for entry in found["history"]:
        say(f"  {_entry(entry)}")
    return 0


def _entry(entry: Shown) -> str:
    said = " ".join(filter(None, (entry["host"], entry["reply"])))
    return f"{moment(entry['time'])} recipient {entry['seq']}: {entry['event']} {said}".rstrip()


def change(connection: QueueConnection, arguments: argparse.Namespace) -> int:
    """
    C{deferrals queue retry}, C{hold}, C{release}, C{remove}: 1 if that changed
    nothing, or something could not be removed since it is being delivered.
    """
    selections = _selections(arguments)
    if selections[0].isEverything and not arguments.all:
        raise ValueError("say which: message ids, --to, --from …, or --all")
    count = active = 0
    for selection in selections:
        after, words = None, selection.toJSON()
        while True:
            changed, leased, after = connection.call("change", arguments.verb, words, after)
            count, active = count + changed, active + leased
            if after is None:
                break
    if arguments.json:
        done = {"command": arguments.verb, "recipients": count, "active": active}
        sayJSON({**done, **_missing(connection)})
    else:
        say(f"{count} recipients {_DONE[arguments.verb]}")
        if active:
            say(f"{active} are being delivered at the moment: {_ACTIVE[arguments.verb]}")
    isLeft = arguments.verb == "remove" and active
    return 0 if count and not isLeft else 1


def export_(connection: QueueConnection, arguments: argparse.Namespace) -> int:
    """
    C{deferrals queue export}: the message as it came in; 1 if it is unknown.
    """
    offset = 0
    while True:
        part = connection.call("read", arguments.id, offset)
        if part is None and not offset:
            complain(f"there is no content of {arguments.id}")
            return 1
        if part is None:
            sys.stdout.buffer.flush()
            raise DeferralsError(f"{arguments.id} has left the queue: this is only a part of it")
        data = base64.b64decode(part)
        if not data:
            sys.stdout.buffer.flush()
            return 0
        sys.stdout.buffer.write(data)
        offset += len(data)


def check(connection: QueueConnection, arguments: argparse.Namespace) -> int:
    """
    C{deferrals queue check}: 1 if something is damaged.
    """
    after, messages, wrong = None, 0, 0
    while True:
        found, count, after = connection.call("inspect", after)
        messages += count
        wrong += len(found)
        for one in found:
            sayJSON(one) if arguments.json else say(f"{one['id']} {one['problem']}".strip())
        if after is None:
            break
    aside = connection.call("numbers")["moved_aside"] if not wrong or messages else []
    if arguments.json:
        done = {"messages": messages, "problems": wrong, "moved_aside": aside}
        sayJSON({**done, **_missing(connection)})
    else:
        for name in aside:
            say(f"moved aside: {name}")
        say(f"{messages} messages, {wrong} problems")
    return 1 if wrong else 0


def backup_(arguments: argparse.Namespace) -> int:
    """
    C{deferrals queue backup}: 2 where it cannot be made.
    """
    path = arguments.config
    try:
        config = load(None if path is None else os.path.abspath(path), stagePlugins())
        if config.spool.use == "postgresql":
            raise SpoolError("the queue is in PostgreSQL: back it up with pg_dump, or there")
        count = _backUp(spoolsOf(config), arguments.directory)
    except (DeferralsError, ValueError, OSError) as error:
        complain(str(error))
        return 2
    say(f"{count} messages are in {arguments.directory}")
    return 0


def _backUp(spools: Mapping[int, str], directory: str) -> int:
    """
    One spool becomes the directory; several have the places in it that they have in
    C{state_dir}.
    """
    if len(spools) == 1:
        (spool,) = spools.values()
        return backUp(SpoolFiles(spool), directory)
    os.mkdir(directory, 0o700)
    count = 0
    for worker, spool in spools.items():
        parent = os.path.join(directory, "workers", str(worker)) if worker else directory
        os.makedirs(parent, 0o700, exist_ok=True)
        count += backUp(SpoolFiles(spool), os.path.join(parent, "spool"))
    return count


def rescue_(connection: QueueConnection, arguments: argparse.Namespace) -> int:
    """
    C{deferrals queue rescue}: 1 where something could not be taken back.
    """
    if arguments.what == "list":
        found = connection.call("aside")
        for one in found:
            sayJSON(one) if arguments.json else say(_aside(one))
        if not arguments.json:
            say(f"{len(found)} set aside")
        return 0
    if not arguments.names:
        raise ValueError(f"say which: {arguments.what} NAME, as `deferrals queue rescue` lists it")
    wrong = 0
    for name in arguments.names:
        done = connection.call("rescue", arguments.what, name)
        wrong += len(done.get("skipped", {}))
        if arguments.json:
            sayJSON(done)
        else:
            for line in _RESCUED[arguments.what](done):
                say(line)
    return 1 if wrong else 0


def _aside(one: SetAside) -> str:
    return f"{one['name']}  {one['kind']}, {one['octets']} octets: {one['why']}"


def _shownAside(done: SetAside) -> Iterator[str]:
    yield _aside(done)
    for one in done.get("messages", ()):
        to = ", ".join(f"<{recipient}>" for recipient in one["recipients"])
        yield f"  {one['id']} {one['size']} octets <{one['sender']}> -> {to}"
    if "messages" in done:
        yield f"  {done['count']} messages"
    for line in done.get("header", ()):
        yield f"  {line}"


def _restored(done: SetAside) -> Iterator[str]:
    for text in done["restored"]:
        yield f"{text} was taken back"
    for text, why in done["skipped"].items():
        yield f"{text} was not: {why}"
    yield f"{len(done['restored'])} messages taken back, {done['status']}"
    if done["restored"] and done["status"] == "held":
        yield "`deferrals queue release ID` delivers what was not delivered yet"


def _removedAside(done: SetAside) -> Iterator[str]:
    yield f"{done['name']} was removed"


_RESCUED = {"show": _shownAside, "restore": _restored, "remove": _removedAside}


def _explain(arguments: argparse.Namespace) -> int:
    """
    C{deferrals explain}: 1 if nothing is known of it; 2 where something is wrong.

    What the logs say can be had where the spool cannot.  A log that is named without a
    configuration is read alone: the built-in default's spool is another server's.
    """
    isAlone = bool(arguments.log) and arguments.config is None
    try:
        with contextlib.ExitStack() as stack:
            connection = None
            try:
                if not isAlone:
                    connection = stack.enter_context(contextlib.closing(connect(arguments.config)))
            except (DeferralsError, OSError) as error:
                complain(f"without the spool: {error}")
            status = explain_(connection, arguments)
            return status if connection is None else _complete(connection, status)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (DeferralsError, ValueError, OSError) as error:
        complain(str(error))
        return 2


def explain_(connection: QueueConnection | None, arguments: argparse.Namespace) -> int:
    """
    @param connection: C{None} where the spool cannot be had.
    """
    keys = [parseKey(text, time.time()) for text in arguments.keys]
    unit, isKnown = arguments.journal, any(isinstance(key, Id) for key in keys)
    hasLog = bool(arguments.log) or unit is not None or not isKnown
    if hasLog and not arguments.log:
        unit = unit or UNIT
    call = (lambda *_: None) if connection is None else connection.call
    found = 0
    with contextlib.closing(Logs(arguments.log, unit)) as logs:
        for story in stories(keys, logs, lambda number: call("show", number)):
            found += 1
            if arguments.json:
                sayJSON(_storyJSON(story))
            else:
                _sayStory(story, hasSpool=connection is not None)
    if not found:
        complain(f"nothing is known of {' '.join(arguments.keys)}")
        return 1
    if not (hasLog or arguments.json):
        say("(with --log FILE or --journal: also what the log knows of it)")
    return 0


def _storyJSON(story: Story) -> JSON:
    log: list[JSON] = [{"time": when, "text": text} for when, text in story.lines]
    return {"id": story.id or None, "spool": story.spool, "log": log}


def _sayStory(story: Story, *, hasSpool: bool) -> None:
    """
    What happened, and where its recipients are now, if the spool can be asked.
    """
    for when, text in story.lines:
        for line in f"{when} {text}".split("\n"):
            say(line)
    spool = story.spool
    if spool is not None and not spool["gone"]:
        say("now:")
        for one in spool["recipients"]:
            say(f"  {_line(one)}")
    elif story.id and hasSpool:
        say("now: it is not in the queue")

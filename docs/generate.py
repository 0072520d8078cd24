"""
Writes what the documentation says twice: the tables of settings, from the
docstrings of the settings classes, and the table of requirements, from the
marks of the lines that carry them and of the tests that prove them.  Writes
C{tests/public-api.txt}, too, from what is public (L{docs.api}).

    python docs/generate.py          rewrites the files
    python docs/generate.py --check  says which ones would change, and exits 1

A test runs the second one.
"""

from __future__ import annotations

import ast
import enum
import io
import json
import os
import re
import sys
import tokenize
import typing
from collections.abc import Iterator
from typing import Any

import attrs

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
sys.path.insert(0, ROOT)

from twisted.python.reflect import namedAny  # noqa: E402

from deferrals.config.structuring import choices  # noqa: E402
from deferrals.config.workers import Workers  # noqa: E402
from deferrals.model.httpanswer import MEANINGS  # noqa: E402
from deferrals.model.schedule import Steps  # noqa: E402
from deferrals.model.settings import Octets, Seconds, TableName  # noqa: E402
from deferrals.stages.envelope.ownsenders import OWN, Senders  # noqa: E402
from docs import api, stageapi  # noqa: E402
from tests.source import parsed  # noqa: E402

_MARK = re.compile(r"(<!-- settings: (\S+) -->\n).*?(<!-- end -->)", re.S)
_STATUSES = re.compile(r"(<!-- statuses -->\n).*?(<!-- end -->)", re.S)
#: A comment that is a mark: C{# D-19} or C{# D-18, D-19: why}.
_CODE = re.compile(r"#:? ([DPSX]-\d+(?:, [DPSX]-\d+)*)(?:[:;] |$)")
#: What a module with such a comment has.
_MARKED = re.compile(r"#:? [DPSX]-\d")
_DIALOGUE = re.compile(r"^# requirement: (.*)$", re.M)

REQUIREMENTS = {
    "D-1": "EHLO keyword and MAIL FROM parameter DEFERRALS, without values",
    "D-2": "PIPELINING, and enhanced status codes",
    "D-3": "the client sends the parameter only if the keyword was offered",
    "D-4": "352 answers RCPT TO: decided after the data",
    "D-5": "no 352 unless MAIL FROM carried DEFERRALS",
    "D-6": "a client that got 352 expects a later refusal",
    "D-7": "353 after the data",
    "D-8": "no 353 unless there was a 352",
    "D-9": "one reply instead of the block, where all say the same",
    "D-10": "one reply per 352'd recipient, in their order",
    "D-11": "the client goes by the per-recipient replies",
    "D-12": "codes that are valid for RCPT TO; a 551 carries the path",
    "D-13": "enhanced status codes in per-recipient replies",
    "D-14": "independent replies, then one final reply",
    "D-15": "only the final reply takes responsibility",
    "D-16": "the final reply is about the message, not a recipient",
    "D-17": "accepted for anybody: the final reply is positive",
    "D-18": "refused for all: negative, with a global code",
    "D-19": "refused for all, for some of them for now: 4xx",
    "D-20": "no delivery before the final reply",
    "D-21": "the client owns the message until the final reply",
    "D-22": "no final reply before all recipients are answered",
    "D-23": "after the final reply the server owns the message",
    "D-24": "the client waits ten minutes for each reply",
    "D-25": "each reply within a minute of the one before",
    "D-26": "a client may stop using the extension with a bad server",
    "P-1": "EHLO keyword and MAIL FROM parameter PRDR",
    "P-2": "PIPELINING and enhanced status codes on both ends",
    "P-3": "ordinary RCPT replies; every 2xx'd recipient is enumerated",
    "P-4": "one traditional reply, or the block",
    "P-5": "353 without an enhanced code, as soon as possible",
    "P-6": "per-recipient replies in RCPT order",
    "P-7": "an accepting recipient's reply repeats its RCPT code",
    "P-8": "codes valid for RCPT TO; lack of resources is 452",
    "P-9": "what the final reply says",
    "P-10": "nothing is acted upon before the final reply",
    "P-11": "what the client makes of the replies",
    "P-12": "the end of a connection: 4xx for what is outstanding",
    "P-13": "fewer recipients when the extension is on",
    "S-1": "envelope: rejected, accepted or deferred",
    "S-2": "content: only the deferred are scanned",
    "S-3": "delivery: accepted on envelope or on content",
    "S-4": "no delivery before responsibility is taken",
    "S-5": "SMTP and LMTP: DSNs for whom the mail store refuses",
    "S-6": "pure LMTP: delivery first, its results enumerated",
    "X-1": "EHLO keyword XEXDATA and MAIL FROM parameter EXDATA, without values",
    "X-2": "the client sends the parameter only if the keyword was offered",
    "X-3": "558 to whoever was offered XEXDATA, read from whoever offered it: asked for or not",
    "X-4": "558 only behind the data: each of its lines is one of a reply of its own",
    "X-5": "one own reply for each RCPT TO that got 2xx, and for no other",
    "X-6": "own replies in RCPT order",
    "X-7": "an own reply is the recipient's, 2xx, 4xx or 5xx; 558 is a refusal by nobody",
    "X-8": "a 558 that is not complete: whole replies count, the rest is 451",
    "X-9": "where all say the same, or the message is refused as a whole: an ordinary reply",
    "X-10": "no line of a 558 before the message is durable",
    "X-11": "the client waits ten minutes for each own reply",
    "X-12": "a 558 with more replies than recipients says nothing: 451 for all",
}


_SCOPES = ast.Module | ast.ClassDef

#: Instead of "done": what is not there (yet), and what is not ours to do.
STATUS: dict[str, str] = {}


def typeName(kind: Any) -> str:
    """
    A type as the reader of a configuration knows it.
    """
    if kind is Seconds:
        return "time span"
    if kind is Octets:
        return "size"
    if kind is Workers:
        return 'number or `"auto"`'
    if kind is Senders:
        return '`"own"` or `"any"` or list of text'
    if kind is TableName:
        return "name of one of `[tables]`"
    if kind is Steps:
        return "time spans"
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if choices(kind):
        return " or ".join(f'`"{word}"`' for word in choices(kind))
    if arguments and type(None) in arguments:
        return typeName(next(one for one in arguments if one is not type(None)))
    if origin is tuple:
        return f"list of {typeName(arguments[0])}"
    if origin is dict:
        return f"tables of {typeName(arguments[1])}"
    plain = {str: "text", bool: "true or false", int: "number", float: "number"}
    return plain.get(kind, "table")


def default(field: Any) -> str:
    """
    A field's default as TOML would say it.
    """
    value = field.default
    if value is attrs.NOTHING:
        return "required"
    if isinstance(value, attrs.Factory):
        return "see below" if field.name == "hostname" else "none"
    if value == OWN:
        return '`"own"`'
    if value is None or value == () or attrs.has(type(value)):
        return "none"
    if isinstance(value, tuple) and all(isinstance(one, float) for one in value):
        return '`"' + " ".join(map(span, value)) + '"`'
    if isinstance(value, tuple):
        return f"`{json.dumps(value)}`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, str | enum.Enum):
        return f'`"{getattr(value, "value", value)}"`'
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def span(seconds: float) -> str:
    """
    A time span as a configuration writes it.
    """
    unit, size = next(u for u in (("h", 3600), ("m", 60), ("s", 1)) if seconds % u[1] == 0)
    return f"{seconds / size:g}{unit}"


def described(cls: type) -> dict[str, str]:
    """
    What a class's docstring says of its attributes.
    """
    text = "\n\n".join(one.__doc__ or "" for one in reversed(cls.__mro__[:-1]))
    found = re.findall(r"@ivar (\w+): (.*?)(?=\n\s*@|\n\s*\n|\Z)", text, re.S)
    return {name: plain(" ".join(body.split())) for name, body in found}


def plain(text: str) -> str:
    """
    Epytext as Markdown.
    """
    text = re.sub(r"C\{\{(\w+)\}\}", "`\x01\\1\x02`", text)
    text = text.replace("{{", "\x01").replace("}}", "\x02")
    text = re.sub(r"[CL]\{((?:[^{}]|\x01|\x02)*)\}", r"`\1`", text)
    return text.replace("\x01", "{").replace("\x02", "}").replace("|", "\\|")


def settingsTable(name: str) -> str:
    """
    One class of settings as a table.
    """
    cls = namedAny(name)
    hints = typing.get_type_hints(cls)
    words = described(cls)
    lines = ["| key | type | default | meaning |", "| --- | --- | --- | --- |"]
    for field in sorted(attrs.fields(cls), key=lambda one: one.default is not attrs.NOTHING):
        if field.init:
            kind = typeName(hints[field.name])
            lines.append(f"| `{field.name}` | {kind} | {default(field)} | {words[field.name]} |")
    return "\n".join(lines) + "\n" if len(lines) > 2 else "There is nothing to set.\n"


def statusTable() -> str:
    """
    What a web service's status means.
    """
    lines = ["| status | | the sender is told |", "| --- | --- | --- |"]
    for row in MEANINGS:
        reply = row.reply
        come = "tried again" if reply.isTemporary else "failed: a DSN to the sender"
        come = "delivered" if reply.isPositive else come
        lines.append(f"| {row.shown} | {come} | `{reply}` |")
    return "\n".join(lines) + "\n"


def withTables(text: str) -> str:
    """
    A page with its tables made anew: of settings, of statuses, and of what stages get.
    """
    text = stageapi.withTables(text, described, plain)
    text = _STATUSES.sub(lambda match: match[1] + statusTable() + match[2], text)
    return _MARK.sub(lambda match: match[1] + settingsTable(match[2]) + match[3], text)


def files(directory: str, ending: str) -> Iterator[tuple[str, str]]:
    """
    @return: name, from C{directory}, and text of each file.
    """
    top = os.path.join(ROOT, directory)
    for path, _, names in sorted(os.walk(top)):
        for name in sorted(names):
            if name.endswith(ending):
                full = os.path.join(path, name)
                with open(full, encoding="utf-8") as file:
                    yield os.path.relpath(full, top), file.read()


def names(tree: ast.Module) -> Iterator[tuple[int, int, str]]:
    """
    First line, last line and name of what a module defines, the inner ones last.
    """

    def inside(node: ast.AST, prefix: str) -> Iterator[tuple[int, int, str]]:
        for one in ast.iter_child_nodes(node):
            name = getattr(one, "name", "")
            if isinstance(one, ast.Assign | ast.AnnAssign) and isinstance(node, _SCOPES):
                target = one.targets[0] if isinstance(one, ast.Assign) else one.target
                name = getattr(target, "id", "")
            if name:
                yield one.lineno, one.end_lineno or one.lineno, prefix + name
            if isinstance(one, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                yield from inside(one, f"{prefix}{name}.")

    return inside(tree, "")


def carrying() -> dict[str, list[str]]:
    """
    By requirement: the functions and constants with a line that is marked C{# D-19}.
    """
    found: dict[str, list[str]] = {}
    for path, text in files("deferrals", ".py"):
        if not _MARKED.search(text):
            continue  # tokens take a while
        places = list(names(parsed(text)))
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            match = _CODE.match(token.string) if token.type == tokenize.COMMENT else None
            for name in match[1].split(", ") if match else ():
                line = token.start[0]
                if not token.line[: token.start[1]].strip():
                    line += 1  # a comment of its own is about what comes next
                around = [place for first, last, place in places if first <= line <= last]
                place = f"{path.removesuffix('.py')}.{around[-1]}" if around else path
                if place not in found.setdefault(name, []):
                    found[name].append(place)
    return found


def claims(path: str, tree: ast.Module) -> Iterator[tuple[str, str]]:
    """
    The requirements that tests of a module claim, each with the test.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for one in node.decorator_list:
                if isinstance(one, ast.Call) and getattr(one.func, "id", "") == "requirement":
                    yield ast.literal_eval(one.args[0]), f"{path.removesuffix('.py')}.{node.name}"


def proving() -> dict[str, list[str]]:
    """
    By requirement: the tests that claim it, by a decorator C{@requirement("D-19")} or,
    in a dialogue, by a line C{# requirement: D-19}.
    """
    found: dict[str, list[str]] = {}
    for path, text in files("tests", ".py"):
        if "@requirement(" not in text:
            continue
        for name, test in claims(path, parsed(text)):
            found.setdefault(name, []).append(test)
    for path, text in files("tests", ".smtp"):
        for name in _DIALOGUE.findall(text):
            found.setdefault(name, []).append(path)
    return found


def requirementsPage(text: str) -> str:
    """
    The page of requirements with its table made anew.

    @raise ValueError: a mark names none of them.
    """
    code, tests = carrying(), proving()
    unknown = {*code, *tests} - REQUIREMENTS.keys()
    if unknown:
        raise ValueError(f"no such requirement: {', '.join(sorted(unknown))}")
    lines = ["| id | requirement | status | code | tests |", "| --- | --- | --- | --- | --- |"]
    for name, statement in REQUIREMENTS.items():
        where = [f"`{place}`" for place in code.get(name, [])]
        cited = [f"`{test}`" for test in tests.get(name, [])]
        status = STATUS.get(name, "done" if where and cited else "missing")
        shown = ", ".join(cited[:4]) + (f" and {len(cited) - 4} more" if len(cited) > 4 else "")
        lines.append(f"| {name} | {statement} | {status} | {', '.join(where)} | {shown} |")
    table = "\n".join(lines)
    start, end = "<!-- requirements -->\n", "\n<!-- end -->"
    head, _, rest = text.partition(start)
    return head + start + table + end + rest.partition(end)[2]


def pages() -> list[str]:
    """
    All pages of the documentation.
    """
    found = []
    for path, _, names in os.walk(HERE):
        found += [os.path.join(path, name) for name in names if name.endswith(".md")]
    return sorted(found)


def main(check: bool) -> int:
    """
    @return: the exit status.
    """
    changed = []
    for path in pages():
        with open(path, encoding="utf-8") as file:
            before = file.read()
        after = withTables(before)
        if os.path.basename(path) == "requirements.md":
            after = requirementsPage(after)
        if after != before:
            changed.append(os.path.relpath(path, ROOT))
            if not check:
                with open(path, "w", encoding="utf-8") as file:
                    file.write(after)
    golden = os.path.join(ROOT, "tests", "public-api.txt")
    with open(golden, encoding="utf-8") as file:
        before = file.read()
    after = "".join(f"{line}\n" for line in api.lines())
    if after != before:
        changed.append(os.path.relpath(golden, ROOT))
        if not check:
            with open(golden, "w", encoding="utf-8") as file:
                file.write(after)
    for path in changed:
        print(f"{'differs' if check else 'rewritten'}: {path}")
    return 1 if check and changed else 0


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))

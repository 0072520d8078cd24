"""
The tables of C{docs/stage-api.md}, made from docstrings: what a value has
(C{<!-- value: NAME -->}), how it is made (C{<!-- made: NAME NAME -->}), and what an
interface has (C{<!-- interface: NAME -->}).
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable

import attrs
from twisted.python.reflect import namedAny
from zope.interface.interface import InterfaceClass, Method

_MARK = re.compile(r"(<!-- (value|made|interface): (.*?) -->\n).*?(<!-- end -->)", re.S)

Plain = Callable[[str], str]


def withTables(text: str, described: Callable[[type], dict[str, str]], plain: Plain) -> str:
    """
    A page with these tables made anew.

    @param described: what a class's docstring says of its attributes.
    @param plain: epytext as Markdown.
    """

    def made(match: re.Match[str]) -> str:
        names = match[3].split()
        if match[2] == "value":
            body = _value(namedAny(names[0]), described(namedAny(names[0])), plain)
        elif match[2] == "made":
            body = _constructors(names, plain)
        else:
            body = _interface(namedAny(names[0]), plain)
        return match[1] + body + match[4]

    return _MARK.sub(made, text)


def _value(cls: type, words: dict[str, str], plain: Plain) -> str:
    """
    The attributes and properties of a value.
    """
    lines = ["| attribute | type | meaning |", "| --- | --- | --- |"]
    hints = inspect.get_annotations(cls)
    for field in attrs.fields(cls):
        if not field.name.startswith("_"):
            kind = _cell(str(hints[field.name]))
            lines.append(f"| `{field.name}` | `{kind}` | {words.get(field.name, '')} |")
    for name, one in vars(cls).items():
        if isinstance(one, property) and not name.startswith("_"):
            kind = _cell(str(inspect.get_annotations(one.fget)["return"]))
            lines.append(f"| `{name}` | `{kind}` | {_first(one.__doc__, plain)} |")
    return "\n".join(lines) + "\n"


def _constructors(names: list[str], plain: Plain) -> str:
    """
    How values are made: signatures without types, and the first sentence.
    """
    lines = ["| made by | meaning |", "| --- | --- |"]
    for name in names:
        cls = namedAny(name)
        parameters = inspect.signature(cls).parameters.values()
        shown = ", ".join(map(_parameter, parameters))
        lines.append(f"| `{cls.__name__}({_cell(shown)})` | {_first(cls.__doc__, plain)} |")
    return "\n".join(lines) + "\n"


def _parameter(one: inspect.Parameter) -> str:
    """
    Without its type; a default that is a value of ours is its short name.
    """
    default = f"{type(one.default).__name__}()" if attrs.has(type(one.default)) else one.default
    if one.default is one.empty:
        return one.name
    return f"{one.name}={default if attrs.has(type(one.default)) else repr(default)}"


def _interface(found: InterfaceClass, plain: Plain) -> str:
    """
    The attributes and methods of an interface.
    """
    lines = ["| | meaning |", "| --- | --- |"]
    for name, one in found.namesAndDescriptions(all=False):
        shown = f"{name}{one.getSignatureString()}" if isinstance(one, Method) else name
        lines.append(f"| `{shown}` | {_whole(one.__doc__, plain)} |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _links(text: str) -> str:
    """
    A link of epytext with a text of its own becomes that text.
    """
    return re.sub(r"L\{([^{}<]*)<[^{}<]*>\}", r"C{\1}", text)


def _first(text: str | None, plain: Plain) -> str:
    """
    The first paragraph of a docstring.
    """
    return plain(_links(" ".join(inspect.cleandoc(text or "").split("\n\n")[0].split())))


def _whole(text: str | None, plain: Plain) -> str:
    """
    A docstring without its fields, and what it says of what comes back.
    """
    body, _, fields = inspect.cleandoc(text or "").partition("\n@")
    body = body if not body.startswith("@") else ""
    back = re.search(r"(?:^|@)return: (.*?)(?=\n@|\Z)", fields or text or "", re.S)
    parts = [body, f"Returns {' '.join(back[1].split())}" if back else ""]
    return plain(_links(" ".join(" ".join(parts).split())))

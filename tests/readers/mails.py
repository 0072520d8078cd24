"""
Messages as no program should write them: first a structure, then mutations of its
headers, boundaries, encodings and names.
"""

from __future__ import annotations

import base64
import binascii
import io
import zipfile
from collections.abc import Callable

from hypothesis import strategies as st

Draw = Callable[..., object]

_EICAR = rb"X5O!P%@AP[4\PZX54(P^)7CC)7}$" + rb"EICAR-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"


def _zip() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(zipfile.ZipInfo("inside.exe"), b"MZ")
    return file.getvalue()


_CONTENTS = (
    b"MZ\x90\0\3\0\0\0" + bytes(range(256)),
    _EICAR,
    _zip(),
    b"hello, world\r\nsecond line\r\n\r\nlast line",
    b"<html><body>casino</body></html>",
    "Gr\u00fc\u00dfe aus Köln, und viel Text dazu".encode(),
    b"%PDF-1.4 " + bytes(range(0, 256, 3)) * 4,
    b"x",
    b"",
)
_NAMES = (
    "a.exe",
    "invoice.pdf.exe",
    "b c.scr",
    "r\u00e9sum\u00e9.js",
    "\u0444\u0430\u0439\u043b.exe",
    "semi;colon.exe",
    'quo"te.exe',
    "back\\slash.exe",
    "(paren).exe",
    "trailing.exe. ",
    "per%41cent.exe",
    "a'b'c.exe",
    "x" * 120 + ".exe",
)
_TYPES = (
    "application/octet-stream",
    "text/plain",
    "text/html",
    "image/png",
    "application/zip",
    "application/x-msdownload",
    "TEXT/Plain",
    "application",
    "text",
    "",
)
_MULTIPARTS = ("mixed", "alternative", "related", "digest", "MIXED", "x-own", "report", "signed")
_BOUNDARIES = (
    "b1",
    "----=_Part_1",
    "b",
    "b1x",
    "=_1'()+_,-./:=?",
    "with blank",
    "B1",
    "x" * 70,
    "y" * 90,
    "z" * 201,
    "z" * 203,
)
_ENCODINGS = ("base64", "quoted-printable", "7bit", "8bit", "binary", "uuencode", "", "x-uuencode")
_JUNK = (
    "this line is no field",
    "X-Odd : value",
    "X-Test: (",
    "Content-Type",
    "From me Mon Jan  1 00:00:00 2024",
    ": no name",
    " ",
    "\t",
    " continued",
    "X-Long: " + "y" * 300,
    "--",
    "--b1",
    "X-\u00e4: \u00f6",
)
_SCRATCHES = (
    *(bytes([octet]) for octet in b" \t\"();=\\,:'*%/-?<>@[]\0\r\n\x0b\x0c\x7f\xa0\xff"),
    *(b"", b"\r\n ", b"\r\n", b'\\"', b"; ", b"*0=", b"*=", b"=?", b"?=", b"%2e", b"\xe2\x80\x8b"),
    *(b"\xef\xbb\xbf", b"utf-8''", b"()", b'""', b"--", b"\r\n\r\n"),
)
_COMMENTS = ("(c)", " (c) ", "(a (b) c)", '("x)', "(", ")", "( ;x=y )", "(\\))")


@st.composite
def messages(draw: Draw) -> bytes:
    """
    A message, its lines ending with CRLF.
    """
    fields = ["From: a@example.com", "Subject: a test", "MIME-Version: 1.0"]
    if draw(st.integers(0, 4)) == 0:
        fields.pop()
    body = draw(parts(2))
    whole = "\r\n".join(fields).encode() + b"\r\n" + body
    if draw(st.integers(0, 3)) == 0:
        whole = draw(mangled(whole))
    if draw(st.integers(0, 4)) == 0:
        whole = draw(scratched(whole))
    if draw(st.integers(0, 11)) == 0:
        whole = whole.replace(b"\r\n", draw(st.sampled_from((b"\n", b"\n", b"\r\r\n"))))
    return whole


@st.composite
def scratched(draw: Draw, data: bytes) -> bytes:
    """
    Octets put in, taken out or replaced, mostly in header fields and boundaries.
    """
    lines = data.split(b"\r\n")
    places = [
        number
        for number, line in enumerate(lines)
        if line[:8].lower() == b"content-" or line[:2] == b"--" or line[:1] in (b" ", b"\t")
    ] or [0]
    for _ in range(draw(st.integers(1, 3))):
        number = draw(st.sampled_from(places))
        line = lines[number]
        at = draw(st.integers(0, len(line)))
        added = draw(st.sampled_from(_SCRATCHES))
        lines[number] = line[:at] + added + line[at + draw(st.integers(0, 2)) :]
    return b"\r\n".join(lines)


@st.composite
def mangled(draw: Draw, data: bytes) -> bytes:
    """
    Octets that have suffered: lines lost, doubled, swapped, cut, or with
    something else in them.
    """
    lines = data.split(b"\r\n")
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(lines) - 1))
        kind = draw(st.sampled_from(("lose", "double", "swap", "cut", "blank", "insert", "move")))
        if kind == "lose" and len(lines) > 1:
            del lines[at]
        elif kind == "double":
            lines.insert(at, lines[at])
        elif kind == "swap":
            other = draw(st.integers(0, len(lines) - 1))
            lines[at], lines[other] = lines[other], lines[at]
        elif kind == "cut":
            lines[at] = lines[at][: draw(st.integers(0, len(lines[at])))]
        elif kind == "blank":
            lines[at] = draw(st.sampled_from((b" ", b"\t"))) + lines[at]
        elif kind == "insert":
            junk = draw(st.sampled_from((*_JUNK, "", "--b1--", "--b1", "begin 644 u.exe")))
            lines.insert(at, junk.encode())
        else:
            lines[at] = lines[at] + b" "
    return b"\r\n".join(lines)


@st.composite
def parts(draw: Draw, depth: int) -> bytes:
    """
    A part with its header.
    """
    kind = draw(st.integers(0, 9)) if depth else 9
    if kind <= 4:
        return draw(multiparts(depth))
    if kind == 5:
        return draw(enclosed(depth))
    return draw(leaves())


@st.composite
def multiparts(draw: Draw, depth: int) -> bytes:
    boundary = draw(st.sampled_from(_BOUNDARIES))
    subtype = draw(st.sampled_from(_MULTIPARTS))
    inner = draw(st.lists(parts(depth - 1), min_size=1, max_size=3))
    value = draw(written("multipart", subtype, [("boundary", boundary)]))
    header = draw(headers([("Content-Type", value)]))
    pieces = [header, b"\r\n", draw(st.sampled_from((b"", b"preamble\r\n")))]
    for one in inner:
        pieces += [draw(separators(boundary, "")), one, b"\r\n"]
    if draw(st.integers(0, 5)):
        pieces += [draw(separators(boundary, "--"))]
    pieces.append(draw(st.sampled_from((b"", b"epilogue\r\n"))))
    return b"".join(pieces)


@st.composite
def separators(draw: Draw, boundary: str, end: str) -> bytes:
    """
    The line between two parts.
    """
    if draw(st.integers(0, 7)):
        return f"--{boundary}{end}\r\n".encode()
    form = draw(
        st.sampled_from(
            (
                "--{b}{e} \r\n",
                "--{b}{e}\t\t\r\n",
                "--{b} {e}\r\n",
                "--{b}{e}x\r\n",
                " --{b}{e}\r\n",
                "--{u}{e}\r\n",
                "--{b}{e}\r\n\r\n",
                "--{b}{e}\n",
                "--{b}----\r\n",
                '--"{b}"{e}\r\n',
            )
        )
    )
    return form.format(b=boundary, e=end, u=boundary.upper()).encode()


@st.composite
def enclosed(draw: Draw, depth: int) -> bytes:
    """
    A message in the message; it may be encoded.
    """
    kind = draw(st.sampled_from(("rfc822", "RFC822", "global", "news", "partial")))
    inner = b"Subject: inner\r\n" + draw(parts(depth - 1))
    encoding = draw(st.sampled_from(("", "7bit", "base64", "quoted-printable")))
    fields = [("Content-Type", draw(written("message", kind, [])))]
    if encoding:
        fields.append(("Content-Transfer-Encoding", draw(tokens(encoding))))
    return draw(headers(fields)) + b"\r\n" + draw(encoded(inner, encoding))


@st.composite
def leaves(draw: Draw) -> bytes:
    content = draw(st.sampled_from(_CONTENTS))
    name = draw(st.sampled_from(_NAMES))
    mimeType = draw(st.sampled_from(_TYPES))
    encoding = draw(st.sampled_from(_ENCODINGS))
    main, _, sub = mimeType.partition("/")
    where = draw(st.integers(0, 4))
    other = draw(st.sampled_from(_NAMES))
    fields = []
    if mimeType:
        names = [("name", name if where != 3 else other)] if where in (1, 2, 3) else []
        fields.append(("Content-Type", draw(written(main, sub, names))))
    if where in (0, 2, 3):
        disposition = draw(st.sampled_from(("attachment", "inline", "ATTACHMENT", "", "x")))
        fields.append(("Content-Disposition", draw(written(disposition, "", [("filename", name)]))))
    if encoding:
        fields.append(("Content-Transfer-Encoding", draw(tokens(encoding))))
    fields = draw(st.permutations(fields))
    return draw(headers(list(fields))) + b"\r\n" + draw(encoded(content, encoding))


@st.composite
def tokens(draw: Draw, word: str) -> str:
    """
    A field's value that is one word.
    """
    kind = draw(st.integers(0, 16))
    comment = draw(st.sampled_from(_COMMENTS))
    forms = (
        word.upper(),
        f"{word} {comment}",
        f"{comment} {word}",
        f'"{word}"',
        f"{word};",
        f" {word} ",
        f"{word}\r\n ",
        f"x-{word}",
        f"{word}, 8bit",
        f"7bit {word}",
        f"{word}=",
    )
    return forms[kind] if kind < len(forms) else word


@st.composite
def written(draw: Draw, main: str, sub: str, values: list[tuple[str, str]]) -> str:
    """
    A field's value with parameters.
    """
    odd = draw(st.integers(0, 3)) == 0
    slash = draw(st.sampled_from((" / ", "/ ", " /", "/(c)"))) if odd and sub else "/"
    text = f"{main}{slash}{sub}" if sub else main
    if odd and draw(st.booleans()):
        text = draw(st.sampled_from(_COMMENTS)) + text
    if draw(st.integers(0, 5)) == 0:
        charset = draw(st.sampled_from(("utf-8", "utf-8", "iso-8859-1", "utf-16", "utf-7", "x")))
        values = [("charset", charset), *values]
    for name, value in values:
        text += draw(st.sampled_from(("; ", ";", ";\r\n ", ";\r\n\t", " ; ")))
        text += draw(parameter(name, value, odd))
        if odd and draw(st.integers(0, 3)) == 0:
            text += " " + draw(st.sampled_from(_COMMENTS))
        if draw(st.integers(0, 11)) == 0:
            second = draw(st.sampled_from(_NAMES if name != "boundary" else _BOUNDARIES))
            text += "; " + draw(parameter(name, second, odd))
    return text + draw(st.sampled_from(("", "", "", "", ";", "; x", "; =", "; x=y")))


@st.composite
def parameter(draw: Draw, name: str, value: str, odd: bool) -> str:
    quoted = '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    octets = value.encode()
    percent = "".join(
        f"%{octet:02X}" if not (octet < 128 and chr(octet).isalnum()) else chr(octet)
        for octet in octets
    )
    half = len(value) // 2
    word = f"=?utf-8?b?{base64.b64encode(octets).decode()}?="
    quotedWord = "=?utf-8?q?" + "".join(f"={octet:02X}" for octet in octets) + "?="
    usual = [f"{name}={quoted}", f"{name}*=utf-8''{percent}", f"{name}={quoted}"]
    if name != "boundary":
        usual += [f'{name}="{word}"', f"{name}={word}", f'{name}="{quotedWord}"']
    if not odd:
        return draw(st.sampled_from(usual))
    return draw(
        st.sampled_from(
            (
                f"{name}={value}",
                f"{name.upper()}={quoted}",
                f"{name} = {quoted}",
                f'{name}="{value}',
                f'{name}={value}"',
                f"{name}='{value}'",
                f'{name}*0="{value[:half]}"; {name}*1="{value[half:]}"',
                f'{name}*1="{value[half:]}"; {name}*0="{value[:half]}"',
                f'{name}*0="{value[:half]}"; {name}*2="{value[half:]}"',
                f"{name}*0*=utf-8''{percent}; {name}*1=.exe",
                f"{name}*=iso-8859-1'en'{percent}",
                f"{name}*=''{percent}",
                f"{name}*={percent}",
                f"{name}={quoted}x",
                f"{name}=(c) {quoted}",
                f"{name}={quoted} (c)",
                f'{name}="{value[:half]}\r\n {value[half:]}"',
                f'{name}="{word} {word}"',
                f'{name}=""; {name}={quoted}',
            )
        )
    )


@st.composite
def headers(draw: Draw, fields: list[tuple[str, str]]) -> bytes:
    """
    A header section without its end.
    """
    lines = []
    for name, value in fields:
        odd = draw(st.integers(0, 11))
        colon = {0: " : ", 1: ":", 2: "\t: ", 3: ":\r\n "}.get(odd, ": ")
        shown = {4: name.upper(), 5: name.lower()}.get(odd, name)
        lines.append(f"{shown}{colon}{value}")
        if odd == 6:
            lines.append(f"{shown}: {draw(written('text', 'plain', []))}")
        if odd == 7:
            lines.insert(len(lines) - 1, f"{shown}: {draw(tokens('8bit'))}")
    for _ in range(max(0, draw(st.integers(-6, 2)))):
        lines.insert(draw(st.integers(0, len(lines))), draw(st.sampled_from(_JUNK)))
    return "".join(f"{line}\r\n" for line in lines).encode("utf-8", "surrogateescape")


@st.composite
def encoded(draw: Draw, content: bytes, encoding: str) -> bytes:
    """
    A content in a transfer encoding, mostly in the one that its header says.
    """
    odd = draw(st.integers(0, 11))
    if odd == 0:
        encoding = draw(st.sampled_from(_ENCODINGS))
    if encoding == "base64":
        text = base64.encodebytes(content).replace(b"\n", b"\r\n")
        forms = (
            text.replace(b"\r\n", b""),
            text.replace(b"=", b""),
            text[:3] + b" " + text[3:],
            text[:10] + b"!" + text[10:],
            text + b"--trailer",
            base64.encodebytes(content[:4]) + base64.encodebytes(content[4:]),
            b"\r\n\r\n" + text,
            text.replace(b"\r\n", b" \r\n"),
        )
        return draw(st.sampled_from(forms)) if odd in (1, 2) else text
    if encoding == "quoted-printable":
        text = binascii.b2a_qp(content, istext=False).replace(b"=\n", b"=\r\n")
        forms = (text.lower(), text.replace(b"=\r\n", b"= \r\n"), text + b"=", text + b"=zz")
        return draw(st.sampled_from(forms)) if odd in (1, 2) else text
    if encoding in ("uuencode", "x-uuencode") or odd == 3:
        lines = [binascii.b2a_uu(content[at : at + 45]) for at in range(0, len(content), 45)]
        text = b"begin 644 u\xc3\xbc.exe\n" + b"".join(lines) + b"`\nend\n"
        return text.replace(b"\n", b"\r\n")
    return content + b"\r\n"

"""
Whether a message is its author's domain's own, and what that domain wants done where it
is not: DMARC (RFC 7489, with C{np} and C{psd} of RFC 9091, and C{t} of what follows it).

Which record counts is found here, with a L{Resolver} that waits.  What a record says, and
what is aligned, is the library's affair (C{dmarc}), which knows nothing of DNS.  Which
domains belong together is what the list of public suffixes says.

What a check may ask is bounded: L{MOST_AUTHORS} domains, of each three records, and
whether it exists.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import attrs

from deferrals.model.address import AddressError, normalDomain
from deferrals.model.authentication import DMARC, DMARCPolicy, Signature
from deferrals.model.completion import mailboxes
from deferrals.model.dkim import Field
from deferrals.model.spf import Finding, LookupFailed, Resolver
from deferrals.model.spfmacro import isName

if TYPE_CHECKING:
    import dmarc

#: So many domains may be named as a message's authors.
MOST_AUTHORS = 4

#: No more of C{From} is read; a longer record is none.
MOST_FROM_OCTETS = 16 * 1024
MOST_RECORD_OCTETS = 4096

_RECORD = re.compile(rb"v\s*=\s*DMARC1\s*(?:;|\Z)")
#: One that does not end is all the rest, in which none begins: from each quote in it
#: would be too long.
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*+("?)', re.S)
_TAG = re.compile(r"(?:^|;)\s*(np|psd)\s*=\s*([a-z]+)\s*(?=;|$)", re.I)

_STRICTEST: Sequence[DMARCPolicy] = ("reject", "quarantine", "none")


class Suffixes:
    """
    Which domains belong together.

    @param private: the part of a domain that was registered, or C{None}: see
        C{publicsuffixlist.PublicSuffixList.privatesuffix}.
    """

    def __init__(self, private: Callable[[str], str | None]) -> None:
        self._private = private

    def get_public_suffix(self, domain: str) -> str:  # as the library calls it
        """
        @return: the organizational domain (RFC 7489 §3.2); a public suffix is its own.
        """
        return self._private(domain) or domain

    def areOne(self, one: str, other: str) -> bool:
        """
        Whether two domains have one owner.
        """
        return self.get_public_suffix(one.lower()) == self.get_public_suffix(other.lower())


def _unquoted(text: str) -> str:
    return _QUOTED.sub(lambda quoted: "" if quoted[1] else quoted[0], text)


@attrs.frozen
class Authors:
    """
    Who is shown as a message's author.

    @ivar domains: each once, as L{normalDomain} spells it; address literals are none.
    @ivar problem: why that is not one author that DMARC can judge; empty where it is.
    @ivar atLeast: what such a message is treated as at least.
    """

    domains: tuple[str, ...] = ()
    problem: str = ""
    atLeast: DMARCPolicy = "none"


def authorsOf(fields: Iterable[Field]) -> Authors:
    """
    @param fields: of the message.
    """
    values = [field.value for field in fields if field.name == b"from"]
    if not values:
        return Authors(problem="there is no From")
    if sum(map(len, values)) > MOST_FROM_OCTETS:
        return Authors(problem="From is very long", atLeast="reject")
    found: dict[str, None] = {}
    isReadable = True
    for value in values:
        texts = list(mailboxes(value.decode("utf-8", "replace")))
        isReadable = isReadable and (bool(texts) or b"@" not in value)
        for text in texts:
            local, mark, domain = text.rpartition("@")
            isReadable = isReadable and "@" not in _unquoted(local)
            try:
                found[normalDomain(domain.strip() if mark else "")] = None
            except AddressError:
                isReadable = False
    domains = tuple(one for one in found if not one.startswith("["))
    if len(values) > 1:
        return Authors(domains[:MOST_AUTHORS], f"there are {len(values)} From fields", "reject")
    if len(domains) > MOST_AUTHORS:
        return Authors(domains[:MOST_AUTHORS], "there are too many authors", "reject")
    if not isReadable:
        return Authors(domains, "From cannot be read", "quarantine")
    if len(domains) > 1:
        return Authors(domains, f"there are authors of {len(domains)} domains")
    return Authors(domains)


@attrs.frozen
class DMARCRecord:
    """
    What DNS has.

    @ivar text: the record.
    @ivar place: the domain that has it.
    @ivar isMissing: whether the author's domain does not exist.
    """

    text: str
    place: str
    isMissing: bool = False


async def findRecord(resolver: Resolver, domain: str, suffixes: Suffixes) -> DMARCRecord | None:
    """
    The author's domain's record, else its organization's, else that of the public suffix,
    which says C{psd=y} (RFC 7489 §6.6.3, RFC 9091 §3.3).

    @raise LookupFailed: DNS does not say.
    """
    organization = suffixes.get_public_suffix(domain)
    places = list(dict.fromkeys([domain, organization]))
    above = organization.partition(".")[2]
    for place in [*places, above]:
        text = await _recordOf(resolver, place)
        tags = {name.lower(): value.lower() for name, value in _TAG.findall(text)}
        if text and (place in places or tags.get("psd") == "y"):
            isMissing = place != domain and "np" in tags and await _isMissing(resolver, domain)
            return DMARCRecord(text, place, isMissing)
    return None


async def _recordOf(resolver: Resolver, place: str) -> str:
    """
    @return: empty where there is none, or several: then none counts.
    """
    name = f"_dmarc.{place}"
    if not place or not isName(name):
        return ""
    found = [
        text
        for text in await resolver.texts(name)
        if len(text) <= MOST_RECORD_OCTETS and _RECORD.match(text)
    ]
    return found[0].decode("utf-8", "replace") if len(found) == 1 else ""


async def _isMissing(resolver: Resolver, domain: str) -> bool:
    if not isName(domain):
        return False
    for version in (4, 6):
        if await resolver.addresses(domain, version):
            return False
    return not await resolver.exchanges(domain)


def judge(
    author: str,
    record: DMARCRecord | LookupFailed | None,
    spf: Finding | None,
    signatures: Iterable[Signature],
    suffixes: Suffixes,
) -> DMARC:
    """
    @param author: the domain of the message's author.
    @param record: what DNS has of it.
    """
    import dmarc

    if record is None:
        return DMARC("none", author)
    if isinstance(record, LookupFailed):
        return DMARC("temperror", author, problem=str(record))
    try:
        policy = _policyOf(record, author)
    except (dmarc.Error, ValueError) as error:
        return DMARC("permerror", author, problem=f"its record cannot be read: {error}"[:200])
    aligned = [
        (one, result)
        for one, result, mode in _identities(policy, spf, signatures)
        if one and suffixes.areOne(one, author) and _isAligned(one, author, mode, suffixes)
    ]
    if any(result == "pass" for _, result in aligned):
        return DMARC("pass", author)
    for one, result in aligned:
        if result == "temperror":
            return DMARC("temperror", author, problem=f"DNS has no answer for {one}")
    found = dmarc.DMARC().get_result(policy, allow_policy_test_mode=True)
    return DMARC("fail", author, found.disposition.value or "none")


def _policyOf(record: DMARCRecord, author: str) -> dmarc.Policy:
    """
    @raise dmarc.Error: it says no policy.
    """
    import dmarc

    inherited = record.place if record.place != author else None
    policy = dmarc.DMARC().parse_record(record.text, author, inherited, strict=False)
    if policy.pct == 0:  # how senders said C{t=y}, before there was that; no other counts
        policy.t = dmarc.DMARCTesting.Y
    if record.isMissing:
        tags = {name.lower(): value.lower() for name, value in _TAG.findall(record.text)}
        if tags.get("np") in _STRICTEST:
            policy.sp = dmarc.DMARCDisposition(tags["np"])
    return policy


def _identities(
    policy: dmarc.Policy, spf: Finding | None, signatures: Iterable[Signature]
) -> list[tuple[str, str, dmarc.DMARCAlignment]]:
    """
    @return: domains, what was found of them, and how they have to agree.
    """
    found = [(one.domain, str(one.result), policy.adkim) for one in signatures]
    if spf is not None:
        found.append((spf.domain, spf.result.value, policy.aspf))
    return found


def _isAligned(domain: str, author: str, mode: dmarc.DMARCAlignment, suffixes: Suffixes) -> bool:
    import dmarc

    return bool(dmarc.DMARC().check_alignment(author, domain, mode, suffixes))


def together(authors: Authors, found: Sequence[DMARC]) -> DMARC:
    """
    @param found: what was found of each author.
    @return: what counts: where there is not just one author, the strictest of what those
        want that are not proved (RFC 7489 §6.6.1).
    """
    if not authors.problem:
        return found[0] if found else DMARC()
    unsure = next((one for one in found if one.result == "temperror"), None)
    wanted: set[DMARCPolicy] = {authors.atLeast, *(one.policy for one in found)}
    strictest = next(one for one in _STRICTEST if one in wanted)
    if unsure is not None and strictest == "none":
        return DMARC("temperror", problem=unsure.problem)
    domain = found[0].domain if len(found) == 1 else ""
    return DMARC("permerror", domain, strictest, authors.problem)

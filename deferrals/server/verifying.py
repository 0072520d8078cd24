"""
Checks signatures (DKIM) and chains of seals (ARC, L{deferrals.model.arc}) of messages as
they came in.  What checks is dkimpy, in threads; keys are asked for beforehand, of the
DNS that everything asks.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence

import attrs
from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.interfaces import IReactorTime

from deferrals.deferreds import together, withDeadline
from deferrals.interfaces import IMessage
from deferrals.model import arc
from deferrals.model.authentication import DNS_SECONDS, Chain, Result, Seal, Signature
from deferrals.model.dkim import Field
from deferrals.model.spf import LookupFailed, Resolver
from deferrals.threads import InThread, Threads

#: So many messages are checked at once.
CHECKING = 2

#: A larger message is not checked, nor is one that its signatures and its chain make so
#: often as large.
MOST_OCTETS, MOST_TIMES_OCTETS = 16 << 20, 64 << 20

#: How long DNS has for all keys, in seconds.
KEY_SECONDS = DNS_SECONDS

TOO_MUCH = "there is too much to be checked"

#: What DNS has in the places of keys: the record, nothing, or no answer.
_Records = Mapping[str, bytes | LookupFailed | None]

_SIGNED = (b"dkim-signature", arc.MESSAGE, arc.SEAL)


@attrs.frozen
class Verified:
    """
    @ivar dkim: one for each signature.
    @ivar unchecked: why nothing was checked; empty where it was.
    """

    dkim: tuple[Signature, ...] = ()
    arc: Chain = Chain()
    unchecked: str = ""


class Verifier:
    """
    @param inThread: runs a function outside the reactor thread.
    @param names: are asked for keys.
    @param clock: timers.
    """

    def __init__(self, inThread: InThread, names: Resolver, clock: IReactorTime) -> None:
        self._threads = Threads(inThread, CHECKING)
        self._names = names
        self._clock = clock

    async def check(self, message: IMessage, fields: Sequence[Field]) -> Verified:
        """
        @param fields: of its header section.
        @raise OSError: the message cannot be read.
        """
        signed = [one for one in fields if one.name in _SIGNED]
        if signed and importlib.util.find_spec("dkim") is None:
            return _unchecked(fields, "the extra dkim is not installed")
        octets = message.size * max(1, sum(1 for one in signed if one.name != arc.MESSAGE))
        if message.size > MOST_OCTETS or octets > MOST_TIMES_OCTETS or arc.isSlow(fields):
            return _unchecked(fields, TOO_MUCH)
        places = {place for place in map(arc.placeOf, signed) if place is not None}
        keys = await self._records(sorted(places))
        return await self._threads.run(verified, message, fields, keys)

    async def _records(self, places: Sequence[str]) -> _Records:
        async def find(place: str) -> bytes | LookupFailed | None:
            try:
                texts = await withDeadline(self._clock, KEY_SECONDS, self._names.texts, place)
            except LookupFailed as error:
                return error
            except TimeoutError:
                return LookupFailed("there is no answer in time")
            return texts[0] if len(texts) == 1 else None

        found = await together([Deferred.fromCoroutine(find(place)) for place in places])
        return dict(zip(places, found, strict=True))


def _unchecked(fields: Sequence[Field], why: str) -> Verified:
    """
    What is not checked proves nothing.
    """
    some = arc.signaturesIn(fields)[: arc.MOST_SIGNATURES]
    hasChain = any(one.name in (arc.MESSAGE, arc.SEAL) for one in fields)
    return Verified(
        tuple(_signature("permerror", one) for one in some),
        Chain("permerror" if hasChain else "none"),
        why,
    )


def _signature(result: Result, field: Field) -> Signature:
    return Signature(result, arc.domainOf(field), arc.selectorOf(field))


def verified(message: IMessage, fields: Sequence[Field], keys: _Records) -> Verified:
    """
    Blocks: for a thread.

    @param keys: what DNS has for all signatures.
    """
    with message.open() as file:
        octets = file.read()
    checks = sum(1 for one in fields if one.name in (b"dkim-signature", arc.MESSAGE))
    if arc.isSlowText(octets, checks):
        return _unchecked(fields, TOO_MUCH)

    def record(name: bytes, timeout: float = 5) -> bytes | None:
        found = keys.get(name.decode("ascii", "replace").rstrip(".").lower())
        return found if isinstance(found, bytes) and not _isHugeKey(found) else None

    authors = sum(one.name == b"from" for one in fields)
    results = []
    for index, one in enumerate(arc.signaturesIn(fields)):
        result = _result(octets, index, one, authors, record)
        if isinstance(keys.get(arc.placeOf(one) or ""), LookupFailed):
            result = "temperror"
        results.append(_signature(result, one))
    return Verified(tuple(results), _chain(octets, fields, keys, record))


def _chain(
    octets: bytes, fields: Sequence[Field], keys: _Records, record: Callable[..., bytes | None]
) -> Chain:
    import dkim

    seals = [one for one in fields if one.name in (arc.MESSAGE, arc.SEAL)]
    if not seals:
        return Chain()
    if any(isinstance(keys.get(arc.placeOf(one) or ""), LookupFailed) for one in seals):
        return Chain("temperror")
    try:
        arc.setsIn(fields)
        said, sets, _ = dkim.ARC(octets).verify(dnsfunc=record)
    except arc.NoChain:
        return Chain("fail")
    except Exception:  # whatever it is, dkimpy cannot make sense of it
        return Chain("permerror")
    if said != dkim.CV_Pass:
        return Chain("fail")
    return Chain("pass", tuple(_seal(one) for one in reversed(sets)))


def _seal(found: Mapping[str, bytes]) -> Seal:
    """
    @param found: of one set: what was checked, not what might be read in it otherwise.
    """
    return Seal(found["as-domain"].decode("ascii", "replace").lower(), found["aar-value"])


def _isHugeKey(record: bytes) -> bool:
    """
    Whether a key would keep all of the server busy: Python computes with it in one go.
    """
    import dkim

    bits: int
    try:
        key, bits, kind, _ = dkim.evaluate_pk("", record)
    except Exception:  # dkimpy cannot make sense of it, and says so when it checks
        return False
    if kind != b"rsa":
        return False
    exponent: int = key["publicExponent"]
    return bits > arc.MOST_KEY_BITS or exponent.bit_length() > arc.MOST_EXPONENT_BITS


def _result(
    octets: bytes, index: int, field: Field, authors: int, record: Callable[..., bytes | None]
) -> Result:
    """
    @param authors: how many C{From} fields there are.
    """
    import dkim

    try:
        signer = dkim.DKIM(octets)
        if not signer.verify(index, dnsfunc=record):
            return "fail"
    except dkim.ValidationError:
        return "fail"
    except Exception:  # likewise
        return "permerror"
    names = [name.lower() for name, _ in signer.headers]
    isSound = (
        b"from" in signer.include_headers  # RFC 6376 §5.4
        and signer.signature_fields[b"a"] != b"rsa-sha1"  # RFC 8301 §3.1
        # What was checked is what is shown here.
        and signer.domain.decode("ascii", "replace") == arc.domainOf(field)
        and names.count(b"from") == authors
    )
    return "pass" if isSound else "permerror"

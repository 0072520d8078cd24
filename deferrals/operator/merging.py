"""
What operators see of several processes that are one server, made of what each of them
says.  Nothing is asked here; what they say is as JSON has it.

Where a page of the queue ends is an object: for each worker that has more, its own
place, C{None} where none of its recipients was shown yet.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias, TypeVar

from deferrals.model.ids import parseId
from deferrals.model.json import JSON, asInteger, asList, asNumber, asObject

#: What each worker says, by its number.
Said: TypeAlias = Mapping[int, JSON]

#: The states of a service, the best first.
_STATES = ("working", "probing", "resting")

#: So many destinations are named.
_DESTINATIONS = 50

_Key = TypeVar("_Key")


def begun(after: JSON, workers: Iterable[int]) -> dict[int, JSON]:
    """
    Which workers are to be asked, and from where on.

    @param after: where the page before has ended; C{None} at the beginning.
    """
    if after is None:
        return dict.fromkeys(workers)
    places = asObject(after)
    return {worker: places[str(worker)] for worker in workers if str(worker) in places}


def merged(pages: Said, asked: Said, limit: int) -> JSON:
    """
    One page of the pages of several.

    @param pages: a page of each, and where that ends; C{None}: there is no more.
    @param asked: where each of them began.
    @param limit: so many recipients at most.
    @return: the page, and where it ends.
    """
    found: list[tuple[tuple[int, int], int, JSON]] = []
    last: dict[int, tuple[int, int]] = {}
    ends: dict[int, JSON] = {}
    for worker, said in pages.items():
        page, ends[worker] = asList(said)
        for one in asList(page):
            last[worker] = _placeOf(one)
            found.append((last[worker], worker, one))
    # Behind the end of the shortest there may be more of its own: that goes first.
    horizon = min((_place(end) for end in ends.values() if end is not None), default=None)
    found.sort(key=lambda one: one[:2])
    shown = [one for one in found if horizon is None or one[0] <= horizon][:limit]
    reached = {worker: place for place, worker, _ in shown}
    places: dict[str, JSON] = {}
    for worker, end in ends.items():
        if reached.get(worker) != last.get(worker):
            places[str(worker)] = reached.get(worker, asked[worker])
        elif end is not None:
            places[str(worker)] = end
    return [one for _, _, one in shown], places or None


def _placeOf(one: JSON) -> tuple[int, int]:
    return parseId(str(asObject(one)["id"])), asInteger(asObject(one)["seq"])


def _place(end: JSON) -> tuple[int, int]:
    number, seq = asList(end)
    return asInteger(number), asInteger(seq)


def counted(pages: Said) -> JSON:
    """
    How many were changed by all, how many are under way, and where they go on.
    """
    total = active = 0
    places: dict[str, JSON] = {}
    for worker, said in pages.items():
        count, leased, end = asList(said)
        total += asInteger(count)
        active += asInteger(leased)
        if end is not None:
            places[str(worker)] = end
    return total, active, places or None


def inspected(pages: Said) -> JSON:
    """
    What is damaged with all, of how many, and where they go on.
    """
    problems: list[JSON] = []
    total = 0
    places: dict[str, JSON] = {}
    for worker, said in pages.items():
        found, count, end = asList(said)
        problems += asList(found)
        total += asInteger(count)
        if end is not None:
            places[str(worker)] = end
    problems.sort(key=lambda one: str(asObject(one)["id"]))
    return problems, total, places or None


def whereItIs(said: Said) -> JSON:
    """
    What is known of a message, from whoever has it: where it still waits says more.
    """
    known = [one for one in said.values() if one is not None]
    known.sort(key=lambda one: bool(asObject(one)["gone"]))
    return known[0] if known else None


def nameOf(worker: int, name: str) -> str:
    """
    What was set aside at a worker, by a name that no other one has.
    """
    return f"{worker}/{name}" if worker else name


def named(name: str) -> tuple[int, str]:
    """
    The inverse of L{nameOf}.
    """
    worker, mark, rest = name.partition("/")
    return (int(worker), rest) if mark and worker.isdigit() else (0, name)


def setAside(said: Said) -> JSON:
    """
    What all have set aside.
    """
    found: list[JSON] = []
    for worker, ones in said.items():
        for one in map(asObject, asList(ones)):
            found.append({**one, "name": nameOf(worker, str(one["name"]))})
    return found


def numbers(said: Said) -> JSON:
    """
    What is in the queues, in numbers.
    """
    messages, oldest = 0, 0.0
    recipients: Counter[str] = Counter()
    deliveries: dict[tuple[str, str], dict[str, JSON]] = {}
    destinations: dict[str, dict[str, JSON]] = {}
    aside: list[JSON] = []
    for worker, one in ((worker, asObject(one)) for worker, one in said.items()):
        messages += asInteger(one["messages"])
        oldest = max(oldest, asNumber(one["oldest_seconds"]))
        for status, count in asObject(one["recipients"]).items():
            recipients[status] += asInteger(count)
        for part in map(asObject, asList(one["deliveries"])):
            _addWaiting(deliveries, (str(part["delivery"]), str(part["status"])), part)
        for part in map(asObject, asList(one["destinations"])):
            _addWaiting(destinations, str(part["destination"]), part)
        aside += [nameOf(worker, str(name)) for name in asList(one["moved_aside"])]
    most = sorted(destinations.values(), key=lambda one: -asInteger(one["recipients"]))
    return {
        "messages": messages,
        "recipients": {**recipients},
        "deliveries": [*deliveries.values()],
        "destinations": [*most[:_DESTINATIONS]],
        "oldest_seconds": oldest,
        "moved_aside": aside,
    }


def _addWaiting(found: dict[_Key, dict[str, JSON]], key: _Key, one: dict[str, JSON]) -> None:
    """
    Recipients of one kind, in one more queue.
    """
    before = found.get(key)
    if before is None:
        found[key] = {**one}
        return
    before["recipients"] = asInteger(before["recipients"]) + asInteger(one["recipients"])
    before["oldest_seconds"] = max(
        asNumber(before["oldest_seconds"]), asNumber(one["oldest_seconds"])
    )


def summed(said: Iterable[JSON]) -> dict[str, float]:
    """
    Numbers by name, each added up.
    """
    total: dict[str, float] = {}
    for one in said:
        for name, number in asObject(one).items():
            total[name] = round(total.get(name, 0) + asNumber(number), 1)
    return total


def parts(said: Said) -> dict[str, JSON]:
    """
    What each part of the server says of itself.
    """
    objects = {worker: asObject(one) for worker, one in said.items()}
    names = dict.fromkeys(name for one in objects.values() for name in one)
    return {
        name: _part(name, {worker: one[name] for worker, one in objects.items() if name in one})
        for name in names
    }


def _part(name: str, said: Said) -> JSON:
    ones = [*said.values()]
    objects = {worker: one for worker, one in said.items() if isinstance(one, dict)}
    if len(objects) == len(ones):
        if name == "submission":
            return _submission([*objects.values()])
        if name == "destinations":
            return _destinations(objects.values())
        if name == "next hops":
            return _hops(objects)
        if all(one.get("state") in _STATES for one in objects.values()):
            return _service([*objects.values()])
    if all(one == ones[0] for one in ones):
        return ones[0]
    return {f"worker {worker}": one for worker, one in said.items()}


def _service(ones: Sequence[dict[str, JSON]]) -> JSON:
    """
    As the worker sees it that sees it worst; what is under way is added up.
    """
    worst = {**max(ones, key=lambda one: _STATES.index(str(one["state"])))}
    for name in ("under_way", "waiting"):
        worst[name] = sum(asInteger(one.get(name, 0)) for one in ones)
    return worst


def _destinations(ones: Iterable[dict[str, JSON]]) -> JSON:
    """
    Of each destination what the worker knows that leaves it alone for longest.
    """
    found: dict[str, JSON] = {}
    for one in ones:
        for name, trouble in one.items():
            if _seconds(found.get(name)) <= _seconds(trouble):
                found[name] = trouble
    return found


def _seconds(trouble: JSON) -> float:
    return asNumber(trouble.get("seconds", 0)) if isinstance(trouble, dict) else -1.0


def _hops(said: Mapping[int, dict[str, JSON]]) -> JSON:
    """
    Connections, and what is remembered of servers: each entry with its worker.
    """
    found: dict[str, JSON] = {}
    for name in dict.fromkeys(name for one in said.values() for name in one):
        found[name] = [
            {**asObject(entry), "worker": worker}
            for worker, one in said.items()
            for entry in asList(one.get(name, []))
        ]
    return found


def _submission(ones: Sequence[dict[str, JSON]]) -> JSON:
    """
    What each login has sent within the hour, whichever workers it came to.
    """
    used: dict[str, dict[str, tuple[int, int]]] = {}
    for one in ones:
        for login, amounts in asObject(one["most_used"]).items():
            _addUsed(used.setdefault(login, {}), amounts)
    known = max(asInteger(one["logins"]) for one in ones)
    most: dict[str, JSON] = {}
    for login in sorted(used, key=lambda login: (-_share(used[login]), login)):
        most[login] = {name: [*pair] for name, pair in used[login].items()}
    return {"logins": max(known, len(used)), "most_used": most}


def _addUsed(used: dict[str, tuple[int, int]], amounts: JSON) -> None:
    for name, pair in asObject(amounts).items():
        amount, most = map(asInteger, asList(pair))
        before, known = used.get(name, (0, 0))
        used[name] = before + amount, max(known, most)


def _share(used: Mapping[str, tuple[int, int]]) -> float:
    return max((amount / most for amount, most in used.values() if most), default=0.0)

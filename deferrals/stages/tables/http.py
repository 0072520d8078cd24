"""
The table C{http}: a web service that answers GET with a JSON object.
"""

from __future__ import annotations

import urllib.parse

import attrs
from twisted.internet.defer import Deferred
from twisted.web.http_headers import Headers
from zope.interface import implementer

from deferrals.errors import TableError
from deferrals.interfaces import IServices, ITable
from deferrals.model.settings import checked, template
from deferrals.model.tablekeys import NAMES, TableKeys, TableRow
from deferrals.stages.tables.frame import CONCURRENCY
from deferrals.stages.web import fromJSON, httpURL, webClient

_DOTS = frozenset({".", ".."})


def checkURL(value: str) -> None:
    """
    For L{checked<deferrals.model.settings.checked>}.
    """
    httpURL(value)
    template(value, *NAMES)


@attrs.frozen
class HTTPTableSettings:
    """
    @ivar url: answers GET with a JSON object, or with 404; C{{address}},
        C{{local}}, C{{domain}} and C{{user}} stand in it for the address, quoted.
    """

    url: str = attrs.field(validator=checked(checkURL))


@implementer(ITable)
class HTTPTable:
    """
    See the module.

    @param services: L{IServices<deferrals.interfaces.IServices>}.
    """

    def __init__(self, settings: HTTPTableSettings, services: IServices) -> None:
        self._url = settings.url
        self._web = webClient(services, CONCURRENCY)

    def lookUp(self, keys: TableKeys) -> Deferred[TableRow | None]:
        return Deferred.fromCoroutine(self._lookUp(keys))

    async def _lookUp(self, keys: TableKeys) -> TableRow | None:
        """
        A service that is told the user says itself which row comes first, and is asked
        once.
        """
        for one in [keys] if "{user}" in self._url else keys.inTurn():
            row = await self._find(one)
            if row is not None:
                return row
        return None

    async def _find(self, keys: TableKeys) -> TableRow | None:
        """
        No quoting keeps a name of one or two dots from being another place in the URL.
        """
        if not _DOTS.isdisjoint((keys.local, keys.user)):
            return None
        names = {name: urllib.parse.quote(value, safe="") for name, value in keys.named.items()}
        status, body = await self._web.request("GET", self._url.format(**names), Headers())
        if status == 404:
            return None
        answer = fromJSON(status, body)
        if not isinstance(answer, dict):
            raise TableError("the answer is no object")
        return answer

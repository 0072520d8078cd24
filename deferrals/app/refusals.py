"""
What a configuration makes of refusals: what is kept, whom recipients let in, and what they
are told.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from deferrals.config.tables import Config
from deferrals.errors import ConfigError
from deferrals.model.digest import HTML, TEXT, Templates
from deferrals.model.web import WebSettings
from deferrals.operatorfiles import readText
from deferrals.server.digests import Digests, LinkSecret
from deferrals.server.linkkey import LinkKey
from deferrals.server.mailserver import MailServer
from deferrals.server.refusaldesk import RefusalDesk
from deferrals.server.refusals import Refusals, storeAt
from deferrals.server.services import Services
from deferrals.server.sharedstore import SharedStore, identityOf


def templatesOf(config: Config) -> Templates:
    """
    The texts of digests.

    @raise ConfigError: they cannot be used.
    """
    directory = config.refusals.digest_template
    if directory is None:
        return Templates()
    where = os.path.join(config.baseDir, directory)
    try:
        return Templates.of(*(readText(os.path.join(where, name)) for name in (TEXT, HTML)))
    except (OSError, ValueError) as error:
        problem = ("refusals.digest_template", f"expected {error}")
        raise ConfigError(config.path, [problem]) from None


class RefusalKeeping:
    """
    @param server: whose recipients they are.
    @param pages: what is said of the pages that links lead to, if there are any.
    @param worker: which of several processes this is: the first removes what is old, and
        tells recipients.
    @param shared: what the server shares with others, if it does.
    @ivar desk: what operators, and recipients behind their links, ask.
    """

    def __init__(
        self,
        config: Config,
        server: MailServer,
        services: Services,
        pages: Callable[[], WebSettings | None],
        worker: int | None,
        shared: SharedStore | None = None,
    ) -> None:
        reactor, admissions = services.reactor, services.admissions
        key: LinkSecret = LinkKey(config.linkKeyPath)
        store, tellings = storeAt(config.refusalsPath, services.inThread), None
        if shared is not None:
            store, key = shared.refusals(lambda: self._refusals.settings.keep), shared.key
            me = identityOf(config.spool, config.hostname, worker or 0)
            tellings = shared.tellings(server.post.spool, me)
        self._server, self._pages = server, pages
        self._isFirst = isFirst = not worker
        self._refusals = refusals = Refusals(
            store,
            reactor,
            server,
            services.prover,
            admissions,
            config.refusals,
            isFirst,
            shared is not None,
        )
        self._digests = Digests(
            refusals, reactor, server, server.post, key, server.status, tellings
        )
        self.desk = RefusalDesk(refusals, admissions, self._digests, reactor)
        server.refused = refusals.refused
        self.configure(config, templatesOf(config))

    def configure(self, config: Config, templates: Templates) -> None:
        """
        Go by another configuration.
        """
        self._refusals.settings = config.refusals
        pages = self._pages()
        self._digests.url = None if pages is None else pages.url
        self._digests.templates = templates
        if self._isFirst and config.refusals.keep:
            self._server.status.show("refusals", lambda: {"kept": self._refusals.kept})

    def start(self) -> None:
        """
        The server takes mail.
        """
        self._refusals.start()
        if self._isFirst:
            self._digests.start()

    async def quiet(self) -> None:
        """
        Send no mail any longer.
        """
        await self._digests.stop()

    async def stop(self) -> None:
        """
        The server has stopped: no more.
        """
        await self._refusals.stop()

"""
aiosmtpd with a handler that syncs what it has taken.

    python -m benchmarks.aio PORT DIRECTORY
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from aiosmtpd.smtp import SMTP

from benchmarks.durable import Maildir


class _Handler:
    def __init__(self, maildir: Maildir) -> None:
        self._maildir = maildir

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        self._maildir.store(envelope.content)
        return "250 ok"


async def main(port: int, directory: str) -> None:
    handler = _Handler(Maildir(directory))

    def session() -> Any:
        return SMTP(handler, data_size_limit=100 << 20, hostname="mx.bench.test", loop=loop)

    loop = asyncio.get_running_loop()
    server = await loop.create_server(session, "127.0.0.1", port, backlog=1000)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2]))

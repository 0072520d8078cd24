"""
Client and stages on asyncio's loop: the program of the documentation, as it
stands there.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys

from tests.integration.support import PATIENCE, ROOT, IntegrationCase, path


class AsyncioTests(IntegrationCase):
    """
    docs/from-asyncio.md.
    """

    def program(self) -> tuple[str, str]:
        """
        The program of the page, and what the page says that it prints.
        """
        with open(os.path.join(ROOT, "docs", "from-asyncio.md"), encoding="utf-8") as file:
            page = file.read()
        ((program, output),) = re.findall(
            r"```python\n(.*?)```\n\nIt prints\n\n```text\n(.*?)```", page, re.S
        )
        return program, output

    def printed(self, program: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONPATH": path(ROOT)},
            cwd=self.directory(),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def test_page(self) -> None:
        """It prints what the page says."""
        program, output = self.program()
        self.assertEqual(self.printed(program), output)

    def test_cancelled(self) -> None:
        """asyncio's time limit gives a connection up whose server says nothing."""
        program, _ = self.program()
        late = program.replace("asyncio.timeout(30)", "asyncio.timeout(0.2)")
        late = late.replace("await asyncio.sleep(0.01)", "await asyncio.sleep(20)")
        late = late.replace(
            "    await fromAsyncio(application(server.addresses[0].port))\n",
            "    try:\n"
            "        await fromAsyncio(application(server.addresses[0].port))\n"
            "    except TimeoutError:\n"
            "        print('late', server.status.counted('transactions', 'taken'))\n",
        )
        self.assertEqual(self.printed(late), "late 0\n")

    def test_awaited(self) -> None:
        """A stage that awaits asyncio's future as it is refuses for now."""
        program, _ = self.program()
        wrong = program.replace("await fromAsyncio(wants(", "await asyncio.ensure_future(wants(")
        output = "strict@example.net 451\nlenient@example.net 451\n"
        self.assertEqual(self.printed(wrong), output)

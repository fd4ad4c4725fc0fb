"""A client that sends constant load and checks every answer: `python -m benchmarks.soak.load ADDRESS RATE CONNECTIONS`.

Requests fall due at random moments, RATE a second, and their time begins when they are due, so that waiting for a free
connection counts. A connection is kept until the server announces that it closes it. The client ends once the server
accepts no connections any more. It prints a line for each request:

    moment (of CLOCK_MONOTONIC), seconds, status, lists, lists with a fallback, what was wrong

Status 0 is no answer: `refused` and `not taken`, on a connection that was never answered on, or `broken`, on one that
was. An answer is `mixed` if its lists name several bundles, or if a plain list is not the one that the same bundle gave
the same user before.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

NUM_USERS, K = 400, 20
# One request in so many is for several users, who are answered in a thread.
SEVERAL_EVERY, SEVERAL = 10, 12


@dataclass
class Client:
    """Connections of one address, and what is known of each bundle's lists."""

    host: str
    port: int
    rate: float
    rng: random.Random = field(default_factory=lambda: random.Random(1))
    due: asyncio.Queue[float] = field(default_factory=asyncio.Queue)
    lists: dict[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)

    async def run(self, connections: int) -> None:
        """Sends requests over some connections until none is accepted any more."""
        arriving = asyncio.create_task(self._arrive())
        await asyncio.gather(*(self._connections() for _ in range(connections)))
        arriving.cancel()

    async def _arrive(self) -> None:
        moment = time.monotonic()
        while True:
            moment += self.rng.expovariate(self.rate)
            await asyncio.sleep(max(0.0, moment - time.monotonic()))
            self.due.put_nowait(moment)

    async def _connections(self) -> None:
        """One after the other, as long as the server takes them."""
        while True:
            begun = await self.due.get()
            try:
                reader, writer = await asyncio.open_connection(self.host, self.port)
            except OSError:
                _tell(begun, 0, wrong="refused")
                return
            try:
                await self._connection(reader, writer, begun)
            finally:
                writer.close()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, begun: float) -> None:
        wrong = "not taken"
        while True:
            try:
                writer.write(self._request())
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                content = await reader.readexactly(int(head.split(b"content-length:")[1].split(b"\r\n")[0]))
            except (OSError, asyncio.IncompleteReadError):
                _tell(begun, 0, wrong=wrong)
                return
            self._judge(begun, int(head.split()[1]), content)
            if b"\r\nconnection: close\r\n" in head:
                return
            wrong, begun = "broken", await self.due.get()

    def _request(self) -> bytes:
        several = self.rng.randrange(SEVERAL_EVERY) == 0
        users = [str(user) for user in self.rng.sample(range(1, NUM_USERS + 1), SEVERAL if several else 1)]
        body = json.dumps({"user_ids": users, "k": K}).encode()
        head = f"POST /v1/recommend HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n\r\n"
        return head.encode() + body

    def _judge(self, begun: float, status: int, content: bytes) -> None:
        if status != 200:
            _tell(begun, status, wrong=f"status {status}")
            return
        results: list[dict[str, Any]] = json.loads(content)["results"]
        wrong = "" if len({result["bundle_version"] for result in results}) == 1 else "mixed"
        for result in results:
            ids = tuple(item["item_id"] for item in result["items"])
            if len(ids) != K:
                wrong = wrong or "short"
            if not result["reasons"]:
                known = self.lists.setdefault((result["bundle_version"], result["user_id"]), ids)
                wrong = wrong or ("" if known == ids else "mixed")
        _tell(begun, status, len(results), sum(bool(result["reasons"]) for result in results), wrong)


def _tell(begun: float, status: int, lists: int = 0, not_plain: int = 0, wrong: str = "") -> None:
    print(f"{begun:.6f},{time.monotonic() - begun:.6f},{status},{lists},{not_plain},{wrong}")


def main() -> None:
    address, rate, connections = sys.argv[1:]
    host = urlsplit(address)
    assert host.hostname is not None
    assert host.port is not None
    asyncio.run(Client(host.hostname, host.port, float(rate)).run(int(connections)))


if __name__ == "__main__":
    main()

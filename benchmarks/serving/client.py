"""A client that loads a server over some connections: `python client.py ADDRESS CONNECTIONS SECONDS K RATE`.

Prints JSON. With RATE 0 each connection sends its next request as soon as it is answered. Otherwise requests fall due
at random moments, RATE a second, and their time begins when they are due, so that waiting for a free connection counts.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from urllib.parse import urlsplit


def request_for(user: int, k: int) -> bytes:
    """One HTTP request."""
    body = json.dumps({"user_id": str(user), "k": k}).encode()
    head = "POST /v1/recommend HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, content: bytes) -> None:
    """Sends a request and reads the answer to its end."""
    writer.write(content)
    head = await reader.readuntil(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise SystemExit(f"answered {head[:60]!r}")
    length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
    await reader.readexactly(length)


async def run(address: str, connections: int, seconds: float, k: int, rate: float) -> list[float]:
    """Times of all requests, seconds."""
    host = urlsplit(address)
    rng = random.Random(1)
    times: list[float] = []
    due: asyncio.Queue[float] = asyncio.Queue()
    end = time.perf_counter() + seconds

    async def connection() -> None:
        reader, writer = await asyncio.open_connection(host.hostname, host.port)
        while True:
            begun = await due.get() if rate else time.perf_counter()
            if begun >= end or time.perf_counter() >= end + 5:
                writer.close()
                return
            await ask(reader, writer, request_for(rng.randrange(1, 2400), k))
            times.append(time.perf_counter() - begun)

    async def arrivals() -> None:
        moment = time.perf_counter()
        while moment < end:
            moment += rng.expovariate(rate)
            await asyncio.sleep(max(0.0, moment - time.perf_counter()))
            due.put_nowait(moment)
        for _ in range(connections):
            due.put_nowait(end)

    tasks = [connection() for _ in range(connections)] + ([arrivals()] if rate else [])
    await asyncio.gather(*tasks)
    return times


def main() -> None:
    """Sends the load, and prints the figures."""
    address, connections, seconds, k, rate = sys.argv[1:]
    first = asyncio.run(run(address, 1, 1.0, int(k), 0))
    begun = time.perf_counter()
    times = sorted(asyncio.run(run(address, int(connections), float(seconds), int(k), float(rate))))
    taken = time.perf_counter() - begun
    result = {
        # The server's CPU was paid for the first ones too.
        "requests": len(first) + len(times),
        "per_second": len(times) / taken,
        "p50_ms": times[len(times) // 2] * 1e3,
        "p99_ms": times[int(len(times) * 0.99)] * 1e3,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()

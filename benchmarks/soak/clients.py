"""Clients that misbehave, each kind from an address of its own on the loopback, and the answers they get."""

from __future__ import annotations

import json
import socket
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from urllib.parse import urlsplit

from serving.web.api import MAX_BODY_BYTES

# The load comes from 127.0.0.1.
SLOW, WRONG, GREEDY, HUNGRY = (f"127.0.0.{number}" for number in range(2, 6))
NUM_SLOW, NUM_GREEDY = 20, 16
BROKEN_BODIES = (b"{", b"", b"\xff\xfe", b'{"user_id": ', b"nothing", b"[" * 5_000)
WRONG_BODIES = (b"[]", b'{"user_id": 7}', b'{"user_id": "1", "k": 0}', b'{"user_id": "1", "colour": "blue"}')
CLOSED = "closed"


def slow(address: str, seconds: float) -> Counter[str]:
    """Heads and bodies a byte at a time, and halves of both followed by silence; all at once."""
    found: Counter[str] = Counter()
    body = json.dumps({"user_id": "1"}).encode()
    head = _head(1000)
    # What is sent at once, and what drips after it.
    kinds = [(b"", head), (head, body * 50), (b"POST /v1/rec", b""), (head + body[:5], b"")]
    begun = time.monotonic()
    while time.monotonic() - begun < seconds:
        with ExitStack() as stack:
            dripping = []
            for kind in range(NUM_SLOW):
                connection = stack.enter_context(_connected(address, SLOW))
                at_once, later = kinds[kind % len(kinds)]
                connection.sendall(at_once)
                dripping.append((connection, iter(later)))
            # Ten seconds is what a head may take, and three what a body may.
            end = time.monotonic() + 9.0
            while time.monotonic() < end:
                for connection, later_bytes in dripping:
                    _drip(connection, next(later_bytes, None))
                time.sleep(0.2)
            found.update(_answer(connection) for connection, _ in dripping)
    return found


def wrong(address: str, seconds: float) -> Counter[str]:
    """Bodies that are no JSON, that mean nothing, and that are too large, some without an end in sight."""
    found: Counter[str] = Counter()
    begun = time.monotonic()
    while time.monotonic() - begun < seconds:
        for body in (*BROKEN_BODIES, *WRONG_BODIES, b" " * (MAX_BODY_BYTES + 1)):
            found[_ask(address, WRONG, body)] += 1
        with _connected(address, WRONG) as connection:
            # As many as the server takes.
            try:
                connection.sendall(_head(1 << 30))
                for _ in range(64):
                    connection.sendall(bytes(1 << 16))
            except OSError:
                pass
            found[_answer(connection)] += 1
        time.sleep(0.05)
    return found


def greedy(address: str, number: int) -> Counter[str]:
    """Many requests at once, far above the allowance of one address; they name a retriever, and so are not logged."""
    body = json.dumps({"user_id": "1", "k": 5, "retriever": "popularity"}).encode()

    def ask_often(_: int) -> Counter[str]:
        with _connected(address, GREEDY) as connection:
            connection.sendall((_head(len(body)) + body) * (number // NUM_GREEDY))
            return _answers(connection, number // NUM_GREEDY)

    with ThreadPoolExecutor(NUM_GREEDY) as pool:
        return sum(pool.map(ask_often, range(NUM_GREEDY)), Counter())


def hungry(address: str, *, users: int, k: int) -> tuple[int, str]:
    """One request for many long lists; how many were answered with, and the status."""
    body = json.dumps({"user_ids": [str(user) for user in range(1, users + 1)], "k": k}).encode()
    status = _ask(address, HUNGRY, body)
    return (users if status == "200" else 0), status


def _connected(address: str, source: str) -> socket.socket:
    host = urlsplit(address)
    return socket.create_connection((host.hostname or "", host.port or 0), timeout=60, source_address=(source, 0))


def _head(length: int) -> bytes:
    return f"POST /v1/recommend HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n\r\n".encode()


def _drip(connection: socket.socket, byte: int | None) -> None:
    if byte is not None:
        try:
            connection.sendall(bytes([byte]))
        except OSError:
            return  # Cut off, which is seen when the answer is read.


def _ask(address: str, source: str, body: bytes) -> str:
    with _connected(address, source) as connection:
        connection.sendall(_head(len(body)) + body)
        return _answer(connection)


def _answers(connection: socket.socket, number: int) -> Counter[str]:
    """Statuses of the answers to requests that were sent one behind the other."""
    found: Counter[str] = Counter()
    with connection.makefile("rb") as lines:
        for _ in range(number):
            head = list(iter(lines.readline, b"\r\n"))
            found[head[0].split()[1].decode()] += 1
            lines.read(next(int(line.split(b":")[1]) for line in head if line.lower().startswith(b"content-length:")))
    return found


def _answer(connection: socket.socket) -> str:
    """Status of the first answer, read to its end; `closed` where there is none."""
    content = bytearray()
    try:
        while b"\r\n\r\n" not in content and (part := connection.recv(1 << 16)):
            content += part
        if b"\r\n\r\n" not in content:
            return CLOSED
        head, _, rest = bytes(content).partition(b"\r\n\r\n")
        left = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0]) - len(rest)
        while left > 0 and (part := connection.recv(1 << 20)):
            left -= len(part)
    except OSError:
        return CLOSED
    return head.split()[1].decode()

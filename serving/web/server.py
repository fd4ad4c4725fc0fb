"""The uvicorn server: listening, announcing its address, limits of connections, and a graceful stop.

A connection on which no request is under way is not closed on a client that may just be using it again: it is closed
when it has rested as long as any may, or with the next answer, which announces it.
"""

from __future__ import annotations

import asyncio
import ipaddress
import resource
import signal
import socket
from collections.abc import Callable
from http import HTTPStatus
from types import FrameType

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from artefacts.files import json_text

DRAIN_SECONDS = 10
KEEP_ALIVE_SECONDS = 5
HEAD_SECONDS = 10.0
"""What the head of a request may take to arrive."""
MAX_HEAD_BYTES = 32 << 10
"""Largest head of a request: its line and all headers."""
MAX_HEADERS = 100
READ_SECONDS, READ_BYTES = 10.0, 64 << 10
"""A client that takes less of its answer than so many bytes in so many seconds is disconnected."""
_CLOSE = (b"connection", b"close")


def run(app: ASGIApp, host: str, port: int) -> None:
    """Serves until SIGTERM or SIGINT; requests that are under way are answered first.

    Args:
        app: The application.
        host: Address to listen on.
        port: Port to listen on; 0 picks a free one. The address is printed once the server is ready.

    Raises:
        OSError: The address is in use or not one of this machine.
    """
    with bind(host, port) as listener:
        serve(app, listener, ready=lambda: announce(listener))


def bind(host: str, port: int) -> socket.socket:
    """A socket bound to an address, not listening yet; raises as `run` does."""
    listener = socket.socket(_family(host), socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise OSError(f"cannot listen on {host}:{port}: {error.strerror}; choose another --host or --port") from None
    return listener


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address to listen on; false for a name that cannot be resolved."""
    try:
        found = socket.getaddrinfo(host or None, None, _family(host), flags=socket.AI_PASSIVE)[0][4][0]
    except OSError:
        return False
    return ipaddress.ip_address(found).is_loopback


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def announce(listener: socket.socket) -> None:
    """Prints the address: scripts wait for that line."""
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    print(f"listening on http://{shown}:{port}", flush=True)


def serve(app: ASGIApp, listener: socket.socket, *, ready: Callable[[], None]) -> None:
    """Serves on a socket until SIGTERM or SIGINT.

    Args:
        app: The application.
        listener: Where connections come from.
        ready: Is called when requests are taken, not before.
    """
    _open_as_many_files_as_allowed()
    config = uvicorn.Config(
        app,
        http=_Connection,
        log_level="warning",
        access_log=False,
        # The application decides whose are believed; this server would believe everybody on this machine.
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=DRAIN_SECONDS,
    )
    _Server(config, ready).run(sockets=[listener])


class _Server(uvicorn.Server):
    """Reports when it takes requests, and lets clients finish with their connections before it stops."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready
        self._is_hurried = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # Ctrl-C: a person waits, and no other server takes over.
        self._is_hurried = self._is_hurried or sig == signal.SIGINT
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        for listener in sockets or []:
            listener.close()  # Otherwise the system would keep accepting connections that are never answered.
        state = self.server_state
        state.default_headers = [*state.default_headers, _CLOSE]
        for connection in state.connections:
            cycle = getattr(connection, "cycle", None)
            if cycle is not None and not cycle.response_complete:
                cycle.default_headers = state.default_headers
        loop = asyncio.get_running_loop()
        end = loop.time() + KEEP_ALIVE_SECONDS
        while state.connections and loop.time() < end and not self._is_hurried:
            await asyncio.sleep(0.05)
        await super().shutdown(sockets)


class _TooLargeError(Exception):
    """The head of a request is larger than any may be."""


class _Connection(HttpToolsProtocol):
    """Is closed if the head of a request does not arrive in time or is too large, or if an answer is not taken.

    However slowly bytes come and go: every deadline is of the whole, and neither side's bytes pile up in memory.
    """

    _head_deadline: asyncio.TimerHandle | None = None
    _reader_check: asyncio.TimerHandle | None = None
    _head_bytes = _num_headers = _unread_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        # The parser keeps what is neither a whole header nor a body, however long it gets.
        self._unread_bytes += len(data)
        super().data_received(data)
        if self._unread_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, _head_limits())
        if not getattr(self.cycle, "response_complete", True):
            self._wait_no_more()
        elif self._head_deadline is None and not self.transport.is_closing():
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._wait_no_more()
        if self._reader_check is not None:
            self._reader_check.cancel()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        self._head_bytes = self._num_headers = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        # Trailers of a body, too.
        self._num_headers += 1
        self._count(len(name) + len(value) + len(": \r\n"))
        super().on_header(name, value)

    def on_body(self, body: bytes) -> None:
        self._unread_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._unread_bytes = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._reader_check is not None:
            self._reader_check.cancel()
        self._check_reader(None)

    def send_400_response(self, msg: str) -> None:
        # What the parser reports of an error of its callbacks is that they failed.
        if self._head_bytes > MAX_HEAD_BYTES or self._num_headers > MAX_HEADERS:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, _head_limits())
        else:
            self._refuse(HTTPStatus.BAD_REQUEST, "is not HTTP")

    def _count(self, size: int) -> None:
        self._unread_bytes = 0
        self._head_bytes += size
        if self._head_bytes > MAX_HEAD_BYTES or self._num_headers > MAX_HEADERS:
            raise _TooLargeError

    def _refuse(self, status: HTTPStatus, message: str) -> None:
        body = json_text({"errors": [{"field": "head", "message": message}]})
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write((head + body).encode())
        self.transport.close()

    def _check_reader(self, left_before: int | None) -> None:
        left = self.transport.get_write_buffer_size()
        if not left:
            self._reader_check = None
        elif left_before is not None and left > left_before - READ_BYTES:
            self.transport.abort()
        else:
            self._reader_check = self.loop.call_later(READ_SECONDS, self._check_reader, left)

    def _wait(self) -> None:
        self._head_deadline = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _wait_no_more(self) -> None:
        if self._head_deadline is not None:
            self._head_deadline.cancel()
            self._head_deadline = None


def _head_limits() -> str:
    return f"is too large; expected at most {MAX_HEAD_BYTES:,} bytes and {MAX_HEADERS} headers"


def _open_as_many_files_as_allowed() -> None:
    """A connection is an open file, of which a shell allows few (1,024) until it is asked for more."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

"""The uvicorn server: listening, announcing its address, and a graceful stop.

A connection on which no request is under way is not closed on a client that may just be using it again: it is closed
when it has rested as long as any may, or with the next answer, which announces it.
"""

from __future__ import annotations

import asyncio
import resource
import signal
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.auto import AutoHTTPProtocol

DRAIN_SECONDS = 10
KEEP_ALIVE_SECONDS = 5
HEAD_SECONDS = 10.0
"""What the head of a request may take to arrive."""
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
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise OSError(f"cannot listen on {host}:{port}: {error.strerror}; choose another --host or --port") from None
    return listener


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


class _Connection(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """Is closed if the head of a request does not arrive in time, however slowly its bytes come."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._wait_no_more()
        elif self._deadline is None and not self.transport.is_closing():
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._wait_no_more()
        super().connection_lost(exc)

    def _wait(self) -> None:
        self._deadline = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _wait_no_more(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


def _open_as_many_files_as_allowed() -> None:
    """A connection is an open file, of which a shell allows few (1,024) until it is asked for more."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

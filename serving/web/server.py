"""How does the application listen, tell its address and stop?"""

from __future__ import annotations

import socket

import uvicorn
from starlette.types import ASGIApp

DRAIN_SECONDS = 10


def run(app: ASGIApp, host: str, port: int) -> None:
    """Serves until SIGTERM or SIGINT; requests that are under way are answered first.

    Args:
        app: The application.
        host: Address to listen on.
        port: Port to listen on; 0 picks a free one. The address is printed once the server is ready.

    Raises:
        OSError: The address is in use or not one of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            raise OSError(
                f"cannot listen on {host}:{port}: {error.strerror}; choose another --host or --port"
            ) from None
        config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=DRAIN_SECONDS)
        _AnnouncingServer(config).run(sockets=[listener])


class _AnnouncingServer(uvicorn.Server):
    """Prints its address when it takes requests, not before: scripts wait for that line."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or []:
            host, port = listener.getsockname()[:2]
            shown = f"[{host}]" if ":" in host else host
            print(f"listening on http://{shown}:{port}", flush=True)

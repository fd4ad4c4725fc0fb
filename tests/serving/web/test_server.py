"""The uvicorn server that listens on a socket."""

from __future__ import annotations

import re
import socket

import pytest
from fastapi import FastAPI

from serving.web.server import run


def test_an_address_in_use_is_named_with_the_remedy() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        expected = f"cannot listen on 127.0.0.1:{port}: Address already in use; choose another --host or --port"
        with pytest.raises(OSError, match=re.escape(expected)):
            run(FastAPI(), "127.0.0.1", port)

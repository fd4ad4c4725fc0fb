"""Runs a command that kills itself as it changes the file system for the n-th time below a folder.

    python killed_for_tests.py FOLDER N COUNT daily --config ...

With N at 0 it runs to its end. COUNT is a file that gets how many changes there were. What Python does is seen: names
that come and go, files that are opened to be written. A file that would be opened is left empty, as by a process that
is killed before the first of its bytes is on its way.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
from pathlib import Path
from typing import Any

CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.symlink")
WRITES = os.O_WRONLY | os.O_RDWR


def main() -> None:
    folder, last, count = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    sys.argv = ["twinspire", *sys.argv[4:]]
    seen = 0

    def look(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        is_open = event == "open" and isinstance(arguments[2], int) and bool(arguments[2] & WRITES)
        if not is_open and event not in CHANGES:
            return
        # Trees are removed by names within an open folder.
        names = [str(name) for name in arguments if isinstance(name, str | os.PathLike)]
        if not any(name.startswith(folder) or not name.startswith("/") for name in names):
            return
        seen += 1
        if seen == last:
            if is_open:
                os.close(os.open(arguments[0], arguments[2], 0o644))
            os.kill(os.getpid(), signal.SIGKILL)

    atexit.register(lambda: count.write_text(str(seen)))
    sys.addaudithook(look)
    from twinspire.cli import main as command

    command()


if __name__ == "__main__":
    main()

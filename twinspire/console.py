"""What does a person see while a command runs? Progress on a terminal, silence elsewhere, one line of outcome."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def console() -> Console:
    """Where people's output goes: standard output, so that it can be read and piped."""
    from rich.console import Console

    return Console(highlight=False, soft_wrap=True)


@contextmanager
def progress(title: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """A progress bar on standard error, for terminals only.

    Args:
        title: What is being done.
        total: Number of units; None where nobody knows.

    Yields:
        A function that is told how many more units are done.
    """
    if not sys.stderr.isatty():
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

    shown = [
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    ]
    with Progress(*shown, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=total)
        yield lambda done: bar.advance(task, done)


@contextmanager
def without_chatter() -> Iterator[None]:
    """Keeps what libraries print out of our output; their errors still raise."""

    class _Nowhere:
        def write(self, text: str) -> int:
            return len(text)

        def flush(self) -> None:
            return None

    with redirect_stdout(_Nowhere()):
        yield

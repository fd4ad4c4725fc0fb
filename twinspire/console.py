"""What does a person see while a command runs? Progress on a terminal, silence elsewhere, one line of outcome."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

# Environment variable; any value shows what the libraries say.
VERBOSE = "TWINSPIRE_VERBOSE"


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


def quiet_libraries() -> None:
    """Keeps what libraries log and warn about to themselves; call it before they are imported. Errors still show."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    os.environ.setdefault("GLOG_minloglevel", "2")
    # The root logger is the one that Beam itself warns through.
    for name in (None, "absl", "apache_beam", "feast", "tensorflow"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # What Beam logs there, with its stack, it also raises.
    logging.getLogger("apache_beam.runners.common").setLevel(logging.CRITICAL)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")


@contextmanager
def held_back() -> Iterator[None]:
    """Holds back what is written to standard error, by C++ too, and shows it only if the block raises."""
    if os.environ.get(VERBOSE):
        yield
        return
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as chatter:
        os.dup2(chatter.fileno(), 2)
        try:
            yield
        except BaseException:
            chatter.seek(0)
            os.write(kept, chatter.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)


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

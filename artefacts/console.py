"""Console output: progress bars on a terminal, quiet libraries, and errors about exhausted resources."""

from __future__ import annotations

import errno
import logging
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
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


def columns_that_fit(
    headings: Sequence[str], rows: Sequence[Sequence[str]], *, ranks: Sequence[int], width: int
) -> list[int]:
    """Places of the columns of a table that fit a width, with a space between them.

    Args:
        headings: Of the columns.
        rows: Their cells.
        ranks: The column of the highest rank goes first; one of rank 0 stays.
        width: Of the terminal.
    """

    def needed(place: int) -> int:
        texts = [headings[place], *(row[place] for row in rows)]
        return max(len(line) for text in texts for line in text.splitlines() or [""])

    widths, places = [needed(place) + 1 for place in range(len(headings))], list(range(len(headings)))
    while sum(widths[place] for place in places) - 1 > width and any(ranks[place] for place in places):
        places.remove(max(places, key=lambda place: ranks[place]))
    return places


@contextmanager
def progress(title: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """A progress bar on standard error, for terminals only.

    Args:
        title: What is being done.
        total: Number of units; None if unknown.

    Yields:
        A function to call with the number of further units done.
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


FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# What is left of a cause where a library has made text of it.
FULL_TEXT = re.compile(
    rf"\[errno ({'|'.join(map(str, sorted(FULL)))})\]|no space left on device|file too large|disk is full"
    r"|disk quota exceeded",
    re.IGNORECASE,
)
MEMORY_TEXT = re.compile(
    r"bad_alloc|cannot allocate memory|unable to allocate|malloc of size|out ?of ?memory|can't start new thread"
    # The dynamic linker's words, which arrive as an ImportError.
    r"|cannot map zero-fill pages|failed to map segment from shared object|\bOOM\b",
    re.IGNORECASE,
)


class ExhaustedError(ValueError):
    """A step ran out of disk space or memory; the message names which, where, and what to do."""


def exhausted(error: BaseException) -> str | None:
    """What ran out and what to do, in words; None where the error is about something else."""
    for cause in _causes(error):
        number = cause.errno if isinstance(cause, OSError) else None
        if number in FULL or FULL_TEXT.search(str(cause)):
            return f"there is no room to write ({_short(cause, FULL_TEXT)}); make room (`twinspire bundles prune`)"
        if isinstance(cause, MemoryError) or number == errno.ENOMEM or MEMORY_TEXT.search(str(cause)):
            return f"memory ran out ({_short(cause, MEMORY_TEXT)}); give the process more, or raise beam.shards"
    return None


def exhausted_step(error: BaseException) -> ExhaustedError | None:
    """The error of a step that ran out of something, which this one is, or in whose handling this one came."""
    return next((cause for cause in _causes(error) if isinstance(cause, ExhaustedError)), None)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _short(error: BaseException, telling: re.Pattern[str]) -> str:
    """The line with the cause: libraries add stacks and advice around it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if telling.search(line)), lines[-1] if lines else type(error).__name__)

"""Did a step fail because the machine ran out of something? Libraries say so in many ways, a person needs one."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator

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
    """A step could not go on for want of room or memory; the message says which, where, and what to do."""


def exhausted(error: BaseException) -> str | None:
    """What ran out and what to do, in words; None where the error is about something else."""
    for cause in _causes(error):
        number = cause.errno if isinstance(cause, OSError) else None
        if number in FULL or FULL_TEXT.search(str(cause)):
            return f"there is no room to write ({_short(cause, FULL_TEXT)}); make room (`twinspire bundles prune`)"
        if isinstance(cause, MemoryError) or number == errno.ENOMEM or MEMORY_TEXT.search(str(cause)):
            return f"memory ran out ({_short(cause, MEMORY_TEXT)}); give the process more, or raise beam.shards"
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _short(error: BaseException, telling: re.Pattern[str]) -> str:
    """The line that tells it: libraries quote stacks and give advice around it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if telling.search(line)), lines[-1] if lines else type(error).__name__)

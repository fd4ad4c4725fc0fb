"""The bundles that answer now, and hot swap: a newly published bundle takes over between two requests.

A bundle whose added items have changed is opened again, in the same way.

A published bundle is opened, verified and asked once by every retriever before it answers a request. If it cannot be
opened, the previous bundle stays live, and the reason is reported until another is published. It is tried again with
growing pauses where the fault may pass (no file handles, a store that is locked or does not answer), and where a file
of the bundle has changed since, as while it arrives. A request takes its recommender once, so that all of its answer is
of one bundle.
"""

from __future__ import annotations

import datetime as dt
import logging
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from serving.arms import Arm, Arms
from serving.recommender import Recommender
from serving.retrieval.eligible import DenyList
from serving.user_features import FeaturesLostError

LOOK_SECONDS = 1.0
MAX_PAUSE_SECONDS = 60.0
"""The pauses before a refused bundle is tried again grow from `LOOK_SECONDS` up to this."""
PASSING = "; it is tried again, with growing pauses"
_log = logging.getLogger(__name__)
_log.setLevel(logging.INFO)


@dataclass(frozen=True)
class Refusal:
    """A bundle that was published and does not answer."""

    bundle_version: str
    """Which one."""
    reason: str
    """Why not."""
    moment: dt.datetime
    """When it was found, UTC."""


@dataclass(frozen=True)
class _Retry:
    """When a refused bundle is tried again."""

    is_passing: bool
    """Whether the fault may pass by itself; another one has to be mended in a file."""
    files: object
    """What the bundle's files looked like."""
    pause: float
    """Seconds."""
    due: float
    """Monotonic seconds."""


def may_pass(error: BaseException) -> bool:
    """Whether an error is of the machine or of a store, rather than of the bundle."""
    causes: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in causes:
        causes.append(cause)
        cause = cause.__cause__
    return any(
        isinstance(one, OSError | MemoryError | sqlite3.OperationalError)
        or type(one).__module__.partition(".")[0] == "redis"
        or getattr(one, "may_pass", False)
        for one in causes
    )


class Live:
    """Recommenders of the bundles that answer.

    Args:
        arms: Who answers whom.
        open_bundle: Opens and verifies a bundle by its version.
        published: The version that is published now; raises ValueError or OSError where there is none.
        clock: The moment, for reports.
        files_of: What the files of a bundle look like, by its version; changes whenever they do.
        added_of: What the file of added items looks like; changes whenever it does.
        denied: The list that all bundles keep to; None where there is none.
        monotonic: Seconds; given only by tests.
        warm_up: Whether bundles are asked here, or where they answer: in the processes of `serving.web.workers`.

    Raises:
        ValueError: A bundle that an arm needs cannot be opened.
        OSError: Likewise.
    """

    def __init__(
        self,
        arms: Arms,
        open_bundle: Callable[[str], Recommender],
        published: Callable[[], str],
        *,
        clock: Callable[[], dt.datetime],
        files_of: Callable[[str], object] = lambda version: None,
        added_of: Callable[[], object] = lambda: None,
        denied: DenyList | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        warm_up: bool = True,
    ) -> None:
        """Opens the bundles of all arms, the published one whether an arm needs it or not."""
        self.arms, self.denied = arms, denied
        self._files_of, self._added_of, self._monotonic = files_of, added_of, monotonic
        self._retry: _Retry | None = None
        self._open, self._published, self._clock, self._warms_up = open_bundle, published, clock, warm_up
        self._added = added_of()
        self._fixed: dict[str, Recommender] = {}
        for version in sorted({arm.bundle for arm in arms.arms if arm.bundle is not None}):
            self._fixed[version] = self._ready(version, is_new=False)
        self._current = self._ready(published(), is_new=False)
        self._refusal: Refusal | None = None
        self.num_swaps = 0
        self._stop = threading.Event()
        self._looking = threading.Lock()

    @property
    def current(self) -> Recommender:
        """Of the bundle that was published last and could be opened."""
        return self._current

    @property
    def recommenders(self) -> list[Recommender]:
        """All that answer, the current one first."""
        return list({id(one): one for one in (self._current, *self._fixed.values())}.values())

    @property
    def refusal(self) -> Refusal | None:
        """What is published and does not answer; None where everything is in order."""
        return self._refusal

    def of(self, arm: Arm) -> Recommender:
        """The recommender of an arm."""
        return self._current if arm.bundle is None else self._fixed[arm.bundle]

    def look(self, before: Callable[[Recommender], None] | None = None) -> bool:
        """Takes over what is published, if it is another bundle than the one that answers; whether it did.

        Args:
            before: Is called with a bundle that was opened, before it answers; what it raises refuses the bundle.
        """
        with self._looking:
            if self.denied is not None:
                # Where others answer for this process, nothing else would read it.
                self.denied.look()
            try:
                version = self._published()
            except (OSError, ValueError) as error:
                self._refuse("", str(error))
                return False
            added = self._added_of()
            if version == self._current.bundle.version and added == self._added:
                self._refusal = self._retry = None
                return False
            if self._refusal is None or self._refusal.bundle_version != version:
                self._retry = None
            elif not self._is_due(version):
                return False
            found = (self._files_of(version), added)
            fixed = self._fixed
            try:
                if added != self._added:
                    self._fixed = {name: self._opened(name, is_new=False) for name in fixed}
                new = self._ready(version, is_new=True)
                if before is not None:
                    before(new)
            except Exception as error:  # Whatever the error, the previous bundle stays live.
                self._fixed = fixed
                is_passing = may_pass(error)
                pause = LOOK_SECONDS if self._retry is None else min(2 * self._retry.pause, MAX_PAUSE_SECONDS)
                self._retry = _Retry(is_passing, found, pause, self._monotonic() + pause)
                self._refuse(version, f"{str(error) or type(error).__name__}{PASSING if is_passing else ''}")
                return False
            self._added = added
            self.take(new)
            _log.info("%s is live", version)
            return True

    def _is_due(self, version: str) -> bool:
        """Whether a refused bundle is to be tried again now."""
        retry = self._retry
        if retry is None or self._monotonic() < retry.due:
            return False
        return retry.is_passing or (self._files_of(version), self._added_of()) != retry.files

    def take(self, new: Recommender) -> None:
        """Answers with a bundle from now on."""
        self._current, self._refusal, self._retry = new, None, None
        self.num_swaps += 1

    def adopt_state(self, refusal: Refusal | None, num_swaps: int) -> None:
        """Takes over the state of bundles from another process, which watches them for this one."""
        self._refusal, self.num_swaps = refusal, num_swaps

    def warm_up(self, *, is_new: bool = False) -> None:
        """Asks every retriever of every bundle once.

        Args:
            is_new: Whether the bundle that was taken last may be refused.
        """
        for recommender in self.recommenders:
            _warm_up(recommender, is_new=is_new and recommender is self._current)

    def watch(self, seconds: float = LOOK_SECONDS) -> threading.Thread:
        """Looks again and again, in a thread of its own, until `close`."""

        def run() -> None:
            while not self._stop.wait(seconds):
                self.look()

        thread = threading.Thread(target=run, name="bundle watch", daemon=True)
        thread.start()
        return thread

    def close(self) -> None:
        """Stops watching."""
        self._stop.set()

    def _ready(self, version: str, *, is_new: bool) -> Recommender:
        return self._fixed[version] if version in self._fixed else self._opened(version, is_new=is_new)

    def _opened(self, version: str, *, is_new: bool) -> Recommender:
        recommender = self._open(version)
        if self._warms_up:
            _warm_up(recommender, is_new=is_new)
        return recommender

    def _refuse(self, version: str, reason: str) -> None:
        if self._refusal is None or (self._refusal.bundle_version, self._refusal.reason) != (version, reason):
            self._refusal = Refusal(version, reason, self._clock())
            _log.error(
                "%s is published and cannot be served: %s; the previous bundle %s stays live",
                version,
                reason,
                self._current.bundle.version,
            )


def _warm_up(recommender: Recommender, *, is_new: bool) -> None:
    """Asks a bundle once; a server starts without the users' features, and takes no new bundle over without them."""
    try:
        recommender.warm_up()
    except FeaturesLostError as error:
        if is_new:
            raise
        _log.error("%s; users are answered without them", error)

"""The bundles that answer now, and hot swap: a newly published bundle takes over between two requests.

A published bundle is opened, verified and asked once by every retriever before it answers a request. If it cannot be
opened, the previous bundle stays live, and the reason is reported until another is published. A request takes its
recommender once, so that all of its answer is of one bundle.
"""

from __future__ import annotations

import datetime as dt
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

from serving.arms import Arm, Arms
from serving.recommender import Recommender

LOOK_SECONDS = 1.0
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


class Live:
    """Recommenders of the bundles that answer.

    Args:
        arms: Who answers whom.
        open_bundle: Opens and verifies a bundle by its version.
        published: The version that is published now; raises ValueError or OSError where there is none.
        clock: The moment, for reports.
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
        warm_up: bool = True,
    ) -> None:
        """Opens the bundles of all arms, the published one whether an arm needs it or not."""
        self.arms = arms
        self._open, self._published, self._clock, self._warms_up = open_bundle, published, clock, warm_up
        self._fixed: dict[str, Recommender] = {}
        for version in sorted({arm.bundle for arm in arms.arms if arm.bundle is not None}):
            self._fixed[version] = self._ready(version)
        self._current = self._ready(published())
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
            try:
                version = self._published()
            except (OSError, ValueError) as error:
                self._refuse("", str(error))
                return False
            if version == self._current.bundle.version:
                self._refusal = None
                return False
            if self._refusal is not None and self._refusal.bundle_version == version:
                return False
            try:
                new = self._ready(version)
                if before is not None:
                    before(new)
            except Exception as error:  # Whatever the error, the previous bundle stays live.
                self._refuse(version, str(error) or type(error).__name__)
                return False
            self.take(new)
            _log.info("%s is live", version)
            return True

    def take(self, new: Recommender) -> None:
        """Answers with a bundle from now on."""
        self._current, self._refusal = new, None
        self.num_swaps += 1

    def adopt_state(self, refusal: Refusal | None, num_swaps: int) -> None:
        """Takes over the state of bundles from another process, which watches them for this one."""
        self._refusal, self.num_swaps = refusal, num_swaps

    def warm_up(self) -> None:
        """Asks every retriever of every bundle once."""
        for recommender in self.recommenders:
            recommender.warm_up()

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

    def _ready(self, version: str) -> Recommender:
        if version in self._fixed:
            return self._fixed[version]
        recommender = self._open(version)
        if self._warms_up:
            recommender.warm_up()
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

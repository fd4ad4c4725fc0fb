"""Reads of the online store with a deadline and a circuit breaker.

A read of a store behind a network runs in a thread of its own pool. One that is not done by the deadline is given up:
its thread ends by itself. A store in a file is read in place, because a change of threads costs more than the read; it
waits for a writer no longer than its own limit, which must not exceed the deadline. After a failed read the
circuit breaker is open: until a read has worked again, one is tried at most every `REST_SECONDS`, so that threads and
requests do not pile up before a store that hangs. A store that answers and has lost a version of the features is read
on, as it may have those of another bundle.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from weakref import WeakKeyDictionary

import pyarrow as pa

from serving.asked import ReadUsers, Unavailable
from serving.user_features import FeaturesLostError

NUM_THREADS = 8
REST_SECONDS = 1.0
_log = logging.getLogger(__name__)
_log.setLevel(logging.INFO)


class FeatureReads:
    """Reads of users' features with a deadline.

    Args:
        deadline_seconds: What a read may take.
        in_place: Whether reads keep to a limit of their own, so that no thread is needed.
        clock: Monotonic seconds; given only by tests.
    """

    def __init__(
        self, deadline_seconds: float, *, in_place: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Starts no thread yet."""
        self._deadline, self._in_place, self._clock = deadline_seconds, in_place, clock
        self._pool = ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="features")
        self._failure: str | None = None
        self._lost: WeakKeyDictionary[ReadUsers, str] = WeakKeyDictionary()
        self._rest_until = 0.0
        self._next_look = -math.inf

    @property
    def state(self) -> str:
        """`ok`, or what was wrong with the latest read."""
        return self._failure or next(iter(self._lost.values()), "ok")

    async def look(self, probes: Iterable[tuple[ReadUsers, list[str]]]) -> str:
        """The state after a read of a few users of each bundle, at most once in `REST_SECONDS`."""
        now = self._clock()
        if now >= self._next_look:
            self._next_look = now + REST_SECONDS
            for read_users, user_ids in probes:
                if user_ids:
                    await self.read(read_users, user_ids)
        return self.state

    async def read(self, read_users: ReadUsers, user_ids: list[str]) -> pa.Table | Unavailable:
        """Features of users, or why they are not there."""
        if self._failure is not None:
            now = self._clock()
            if now < self._rest_until:
                return Unavailable(self._failure)
            # One request tries; the others are answered without features until it has worked.
            self._rest_until = now + REST_SECONDS + self._deadline
        try:
            if self._in_place:
                found = read_users(user_ids)
            else:
                reading = asyncio.get_running_loop().run_in_executor(self._pool, read_users, user_ids)
                found = await asyncio.wait_for(reading, self._deadline)
        except FeaturesLostError as error:
            if read_users not in self._lost:
                _log.error("%s; users are answered without them", error)
            self._lost[read_users] = str(error)
            return Unavailable(str(error))
        except TimeoutError:
            return self._failed(f"no answer in {self._deadline * 1000:.0f} ms")
        except Exception as error:  # Stores raise any error of their client's; none may fail a request.
            return self._failed(f"{type(error).__name__}: {error}")
        if self._failure is not None:
            _log.info("the online store answers again")
            self._failure = None
        self._lost.pop(read_users, None)
        return found

    def close(self) -> None:
        """Waits for no read."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _failed(self, why: str) -> Unavailable:
        if self._failure is None:
            _log.error("the online store does not answer (%s); users are answered without it", why)
        self._failure = why.splitlines()[0] if why else "failed"
        self._rest_until = self._clock() + REST_SECONDS
        return Unavailable(self._failure)

"""The phases of a soak test: one fault after the other, each observed until the server has recovered."""

from __future__ import annotations

import datetime as dt
import json
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.soak import clients
from benchmarks.soak.stand import NUM_WORKERS, SoakError, Stand, until
from serving.bundles.publish import publish

MOMENT = dt.datetime(2024, 3, 1, tzinfo=dt.UTC)
NUM_BURST = 3_000
# Of connections, each of which any worker may get.
NUM_LOOKS = 12
# Both together take fifty thousand of a queue's million.
HUNGRY_USERS, HUNGRY_K = 256, 200


@dataclass
class Others:
    """Answers to other clients than the load in a phase.

    Attributes:
        statuses: Number of each.
        lists: How many of their lists are exposures.
        note: What came about, in words.
    """

    statuses: Counter[str] = field(default_factory=Counter)
    lists: int = 0
    note: str = ""


Phase = Callable[[Stand, float], Others]


def plain(stand: Stand, seconds: float) -> Others:
    """The load alone."""
    time.sleep(seconds)
    return Others()


def swaps(stand: Stand, seconds: float) -> Others:
    """Two bundles take turns."""
    end, number = time.monotonic() + seconds, 0
    while time.monotonic() < end or number % 2:
        number += 1
        version = stand.versions[number % 2]
        publish(stand.paths.bundles, version, moment=MOMENT, reason="promote")
        until(lambda version=version: _all_answer(stand, version), f"{version} to answer")  # type: ignore[misc]
        time.sleep(1)
    until(lambda: len(stand.workers()) == NUM_WORKERS, "the old workers to drain")
    return Others(note=f"{number} swaps, to and fro")


def bad_bundles(stand: Stand, seconds: float) -> Others:
    """Damaged bundles are published, and the previous bundle stays live."""
    first = stand.versions[0]
    found = []
    for number, (spoil, reason) in enumerate(((_truncate, " bytes, expected "), (_flip, "SHA-256 is"))):
        version = f"{first[:10]}-0000000{number}"
        folder = stand.paths.bundles / version
        try:
            shutil.copytree(stand.paths.bundles / first, folder)
            spoil(folder / "item_vectors.npy")
            _point(stand, version)
            until(lambda reason=reason: reason in stand.get("/readyz"), f"refusal for {reason!r}")  # type: ignore[misc]
            answer = stand.get("/readyz")
            if not _names(answer, first):
                raise SoakError(f"{version} is damaged, and {first} is not served: {answer}")
            time.sleep(seconds / 2)
            found.append(version)
        finally:
            _point(stand, first)
            shutil.rmtree(folder, ignore_errors=True)
    until(lambda: '"refused":null' in stand.get("/readyz"), "the refusal to end")
    return Others(note=f"{len(found)} refused: a truncated file, a wrong checksum")


def slow_clients(stand: Stand, seconds: float) -> Others:
    """Bytes that drip, and halves of requests."""
    return _expected(Others(clients.slow(stand.address, seconds)), {clients.CLOSED, "408"})


def wrong_bodies(stand: Stand, seconds: float) -> Others:
    """Bodies that are no JSON, invalid or too large."""
    return _expected(Others(clients.wrong(stand.address, seconds)), {"400", "422", "413", clients.CLOSED})


def burst(stand: Stand, seconds: float) -> Others:
    """One address asks far too often."""
    begun = time.monotonic()
    found = Others(clients.greedy(stand.address, NUM_BURST))
    time.sleep(max(0.0, seconds - (time.monotonic() - begun)))
    if not found.statuses["429"]:
        raise SoakError(f"{NUM_BURST} requests at once were all let through: {dict(found.statuses)}")
    return _expected(found, {"200", "429"})


def redis_hangs(stand: Stand, seconds: float) -> Others:
    """The online store takes requests and answers none."""
    stand.redis.process.send_signal(signal.SIGSTOP)
    time.sleep(seconds)
    stand.redis.process.send_signal(signal.SIGCONT)
    _features_are_read(stand)
    return Others(note="stopped, then woken")


def redis_is_killed(stand: Stand, seconds: float) -> Others:
    """The online store is gone, and comes back with what it had saved."""
    stand.redis.end()
    time.sleep(seconds)
    stand.redis.start()
    _features_are_read(stand)
    return Others(note="killed, then started again")


def disk_is_full(stand: Stand, seconds: float) -> Others:
    """Exposures find no room; so many long lists are asked for that the queues are full too."""
    stand.disk.fill()
    begun, found = time.monotonic(), Others()
    while not stand.counted("exposures_dropped_total") or time.monotonic() - begun < seconds:
        if stand.counted("exposures_dropped_total"):
            time.sleep(1)
            continue
        number, status = clients.hungry(stand.address, users=HUNGRY_USERS, k=HUNGRY_K)
        found.lists += number
        found.statuses[status] += 1
    found.note = "a small file system" if stand.disk.is_own else "a limit of file sizes (no file system to be mounted)"
    return _expected(found, {"200", "429"})


def room_again(stand: Stand, seconds: float) -> Others:
    """There is room, and what waited is written."""
    begun = time.monotonic()
    before = stand.counted("exposures_total")
    stand.disk.make_room()
    until(lambda: stand.counted("exposures_total") > before, "exposures to be written again")
    time.sleep(max(3.0, seconds - (time.monotonic() - begun)))
    written, dropped = (int(stand.counted(f"exposures{kind}_total")) for kind in ("", "_dropped"))
    return Others(note=f"{written:,} lists written so far, {dropped:,} dropped")


PHASES: dict[str, Phase] = {
    "load alone": plain,
    "hot swaps": swaps,
    "bad bundles": bad_bundles,
    "slow clients": slow_clients,
    "wrong and large bodies": wrong_bodies,
    "a burst over the rate": burst,
    "Redis hangs": redis_hangs,
    "Redis is killed": redis_is_killed,
    "the disk is full": disk_is_full,
    "room again": room_again,
    "hot swaps again": swaps,
    "load alone again": plain,
}


def _all_answer(stand: Stand, version: str) -> bool:
    """Whether a bundle has taken over: the first of its workers answers before those of the old one leave."""
    return all(_names(stand.get("/readyz"), version) for _ in range(NUM_LOOKS))


def _names(ready: str, version: str) -> bool:
    """Whether a worker reports that it answers from a bundle."""
    return bool(json.loads(ready)["bundle_version"] == version)


def _features_are_read(stand: Stand) -> None:
    until(lambda: '"features":"ok"' in stand.get("/readyz"), "features to be read again")


def _expected(found: Others, statuses: Collection[str]) -> Others:
    others = {status: number for status, number in found.statuses.items() if status not in statuses}
    if others:
        raise SoakError(f"answered with {others}, expected only {', '.join(sorted(statuses))}")
    return found


def _point(stand: Stand, version: str) -> None:
    """Publishes without verifying, as a copy by hand would."""
    pointer = stand.paths.bundles / "next"
    pointer.symlink_to(version)
    pointer.replace(stand.paths.bundles / "current")


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)

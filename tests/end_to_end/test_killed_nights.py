"""A night killed at any moment leaves a bundle to serve, and the next run completes it."""

from __future__ import annotations

import datetime as dt
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from serving.bundles.bundle import Bundle
from tests import forking
from tests.waiting import changes, ends_within

pytestmark = [pytest.mark.end_to_end, pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(900)]

FIRST = dt.date(2024, 2, 4)
NIGHT = FIRST + dt.timedelta(days=1)
KILLED = Path(__file__).with_name("killed_for_tests.py")
SHORT_OF_MEMORY = Path(__file__).with_name("short_of_memory_for_tests.py")
STEPS = ["ingest", "features", "train", "embed", "index", "bundle", "gates", "publish"]
# In the order in which a night comes by; those that write most are killed as they end, too.
ENDS = [
    (event, step)
    for step in STEPS
    for event in ("begins", "ends")
    if event == "begins" or step in ("features", "train", "bundle", "publish")
]
NUM_BY_CHANGE, NUM_BY_CLOCK = 6, 3
SEED = 20240205
KIBIBYTE = 1024


@dataclass(frozen=True)
class Killed:
    """A night that was killed many times, and at last left alone.

    Attributes:
        shop: Its runs.
        served: Kill -> version that the pointer named after it.
        outcomes: The recorded outcome of the night after each kill at a step.
        last: What the last run printed.
    """

    shop: Any
    served: dict[str, str] = field(default_factory=dict)
    outcomes: list[str] = field(default_factory=list)
    last: list[Any] = field(default_factory=list)

    def look(self, kill: str) -> None:
        """Opens what is served, as the server would."""
        bundle = Bundle.open(self.shop.root / "bundles" / "current")
        self.served[kill] = bundle.manifest.bundle_version

    def finish(self) -> None:
        """Runs the night to its end."""
        self.last.append(self.shop.night(NIGHT))


@dataclass(frozen=True)
class Disturbed:
    """Nights of the same day and the same orders.

    Attributes:
        left_alone: An undisturbed night.
        not_begun: The shop before the night.
        at_changes: Killed as it changes the file system, each time from the start.
        at_steps: Killed as a step begins or ends, and then by the clock.
    """

    left_alone: Any
    not_begun: Any
    at_changes: Killed
    at_steps: Killed


@pytest.fixture(scope="module")
def nights(first_night: Any, tmp_path_factory: pytest.TempPathFactory) -> Disturbed:
    """Two threads of killed nights, after the undisturbed one."""
    folder = tmp_path_factory.mktemp("killed")
    shop = first_night.elsewhere(folder / "shop")
    shop.arrive(NIGHT)
    at_changes, at_steps = (Killed(shop.copy_runs(folder / name)) for name in ("at_changes", "at_steps"))
    not_begun = shop.copy_runs(folder / "not_begun")
    begun = time.monotonic()
    num_changes = _run(shop, last=0)
    seconds = time.monotonic() - begun
    with ThreadPoolExecutor(2) as workers:
        others = [
            workers.submit(_kill_at_changes, at_changes, num_changes),
            workers.submit(_kill_at_steps, at_steps, seconds),
        ]
        for other in others:
            other.result()
    return Disturbed(shop, not_begun, at_changes, at_steps)


def _run(shop: Any, *, last: int, flags: Sequence[str] = ()) -> int:
    """Does the night, killed at one of its changes; returns how many there were, of one that was not killed."""
    count = shop.runs.with_name(f"{shop.runs.name}.count")
    night = shop.flags("--date", NIGHT, "--now", "2024-03-01", *flags)
    command = [sys.executable, str(KILLED), str(shop.root), str(last), str(count), "daily", *night]
    ran = forking.run(command, check=False, capture_output=True, text=True)
    assert ran.returncode == (-signal.SIGKILL if last else 0), ran.stderr
    return 0 if last else int(count.read_text())


def _kill_at_changes(killed: Killed, num_changes: int) -> None:
    """One moment of each part of the night, so that all of it has its turn."""
    rng = random.Random(SEED)
    for part in range(NUM_BY_CHANGE):
        last = 1 + int((part + rng.random()) * num_changes / NUM_BY_CHANGE)
        _run(killed.shop, last=last, flags=["--force"])
        killed.look(f"change {last} of {num_changes}")
    killed.finish()


def _kill_at_steps(killed: Killed, seconds: float) -> None:
    for event, step in ENDS:
        if _kill_at(killed.shop, f"step {event}", step):
            killed.look(f"step {step} {event}")
            killed.outcomes.append(_outcome(killed.shop))
    rng = random.Random(SEED)
    for part in range(NUM_BY_CLOCK):
        if _kill_after(killed.shop, seconds * (part + rng.random()) / NUM_BY_CLOCK):
            killed.look(f"{part + 1} of {NUM_BY_CLOCK} by the clock")
    killed.finish()


@contextmanager
def _started(shop: Any, *flags: str) -> Iterator[forking.Popen]:
    """The night under way, in a process group of its own."""
    command = [sys.executable, "-m", "twinspire", "daily", *shop.flags("--date", NIGHT, "--now", "2024-03-01", *flags)]
    with forking.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL) as process:
        yield process


def _kill_at(shop: Any, event: str, step: str) -> bool:
    """Starts the night, and kills it when its log reports an event of a step; returns whether it was still running."""
    log = shop.root / "nights" / f"{NIGHT}.log"
    before = log.stat().st_size if log.exists() else 0
    with _started(shop) as process, changes(log.parent, process) as seen:
        for _ in seen:
            if (event, step) in _events(log, before):
                os.killpg(process.pid, signal.SIGKILL)
                break
    return process.returncode == -signal.SIGKILL


def _kill_after(shop: Any, seconds: float) -> bool:
    """Starts the night, and kills it after some seconds; returns whether it was still running."""
    with _started(shop, "--force") as process:
        if not ends_within(process, seconds):
            os.killpg(process.pid, signal.SIGKILL)
    return process.returncode == -signal.SIGKILL


def _events(log: Path, before: int) -> list[tuple[str, str | None]]:
    """Events and steps of a log since it had a size; a line that is being written is left out."""
    if not log.exists():
        return []
    lines = log.read_bytes()[before:].split(b"\n")[:-1]
    return [(event["event"], event.get("step")) for event in map(json.loads, lines)]


def _outcome(shop: Any) -> str:
    """The outcome in the file of the night."""
    return str(json.loads((shop.root / "nights" / f"{NIGHT}.json").read_text())["outcome"])


def files(root: Path) -> set[str]:
    """Every path below a folder; TensorBoard's carry the time in their names."""
    return {str(path.relative_to(root)) for path in root.rglob("*") if "tfevents" not in path.name}


@pytest.mark.parametrize("name", ["at_changes", "at_steps"])
def test_a_night_killed_at_any_moment_leaves_a_bundle_that_can_be_served(nights: Disturbed, name: str) -> None:
    killed = getattr(nights, name)
    versions = {killed.shop.version(FIRST), nights.left_alone.version(NIGHT)}
    assert len(killed.served) >= NUM_BY_CHANGE
    assert set(killed.served.values()) <= versions, killed.served


@pytest.mark.parametrize("name", ["at_changes", "at_steps"])
def test_after_kills_one_run_publishes_the_bundle_of_an_undisturbed_night(nights: Disturbed, name: str) -> None:
    killed = getattr(nights, name)
    [last] = killed.last
    assert (last.returncode, last.stderr) == (0, ""), last.stderr
    assert killed.shop.version(NIGHT) == nights.left_alone.version(NIGHT)
    pointer = killed.shop.root / "bundles" / "current"
    assert str(pointer.readlink()) == nights.left_alone.version(NIGHT)
    assert _outcome(killed.shop) == "published"


def test_a_killed_night_is_reported_as_unfinished(nights: Disturbed) -> None:
    # The last one may be killed after its outcome was written.
    assert set(nights.at_steps.outcomes[:-1]) == {"unfinished"}


@pytest.mark.parametrize("name", ["at_changes", "at_steps"])
def test_after_kills_one_run_leaves_the_files_of_an_undisturbed_one(nights: Disturbed, name: str) -> None:
    assert files(getattr(nights, name).shop.root) == files(nights.left_alone.root)


DISK_8K, DISK_16K, MEMORY = 8 * KIBIBYTE, 16 * KIBIBYTE, 0
NO_ROOM, NO_MEMORY = "there is no room to write", "memory ran out"


def limited(shop: Any, step: str, limit: int, message: str) -> Any:
    """Runs the night with a limit in bytes: of each file of its process, or of the memory that a step may add."""
    night = ["daily", *shop.flags("--date", NIGHT, "--now", "2024-03-01")]
    if message == NO_MEMORY:
        command, limits = [str(SHORT_OF_MEMORY), step, str(limit)], None
    else:
        command, limits = ["-m", "twinspire"], lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    return subprocess.run(
        [sys.executable, *command, *night], check=False, capture_output=True, text=True, preexec_fn=limits
    )


@pytest.mark.parametrize(
    ("is_done", "attempts"),
    [
        (False, [("ingest", DISK_8K, NO_ROOM), ("features", DISK_8K, NO_ROOM), ("features", MEMORY, NO_MEMORY)]),
        (True, [("bundle", DISK_16K, NO_ROOM), ("train", DISK_16K, NO_ROOM)]),
    ],
    ids=["of a new night", "of a night that is done again"],
)
def test_exhausted_resources_are_reported_in_a_line_and_the_next_run_resumes(
    nights: Disturbed, tmp_path: Path, is_done: bool, attempts: list[tuple[str, int, str]]
) -> None:
    shop = (nights.left_alone if is_done else nights.not_begun).copy_runs(tmp_path / "runs")
    pointer = shop.root / "bundles" / "current"
    served = str(pointer.readlink())
    for step, limit, message in attempts:
        (shop.root / "steps" / str(NIGHT) / f"{step}.json").unlink(missing_ok=True)
        if step == "features":
            assert shop.do("ingest", "--now", "2024-03-01").returncode == 0
        ran = limited(shop, step, limit, message)
        assert ran.returncode == 1
        assert len(ran.stderr.splitlines()) == 1, ran.stderr
        assert ran.stderr.startswith(f"error: step '{step}': {message} (")
        assert ran.stderr.endswith("and run again: finished steps are kept\n")
        assert str(pointer.readlink()) == served
        Bundle.open(pointer)
    again = shop.night(NIGHT)
    assert (again.returncode, again.stderr) == (0, ""), again.stderr
    assert shop.version(NIGHT) == nights.left_alone.version(NIGHT)
    assert files(shop.root) == files(nights.left_alone.root)

"""A server answers while the disk that exposures are logged to is full."""

from __future__ import annotations

import datetime as dt
import errno
import itertools
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from serving.exposures.files import exposure_files, read_exposures
from tests import forking
from tests.waiting import wait_until

HERE = Path(__file__).parent
# Four lists of three items find room in a queue of 18.
K, QUEUE_ITEMS, NUM_KEPT = 3, 18, 4
NAMES = ("exposures", "exposures_dropped")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "twinspire-test", str(folder)]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no command `mount`")
    if ran.returncode:
        pytest.skip(f"no file system can be mounted: {ran.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill(disk: Path) -> Path:
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left") as full:
        file.writelines(itertools.repeat(bytes(1 << 12)))
    assert full.value.errno == errno.ENOSPC
    return filler


def test_requests_are_answered_while_the_disk_is_full_and_waiting_rows_are_written_once_there_is_room(
    written: Path, online_file: Path, disk: Path
) -> None:
    folder = disk / "exposures"
    arguments = [str(part) for part in (written, online_file, folder, 1, 0.05, QUEUE_ITEMS)]
    process = forking.Popen(
        [sys.executable, "-W", "error", str(HERE / "serve_exposures.py"), *arguments],
        env={**os.environ, "PYTHONPATH": str(HERE.parents[2])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        address = process.stdout.readline().split()[-1]
        with httpx.Client(base_url=address, trust_env=False, timeout=30) as client:

            def ask(user: int) -> None:
                answer = client.post("/v1/recommend", json={"user_id": f"v{user}", "k": K})
                assert (answer.status_code, len(answer.json()["results"][0]["items"])) == (200, K)

            def counts() -> tuple[int, int]:
                text = client.get("/metrics").text
                found = [re.search(rf"^twinspire_{name}_total (\S+)$", text, re.MULTILINE) for name in NAMES]
                return tuple(int(float(match[1])) if match else 0 for match in found)  # type: ignore[return-value]

            ask(0)
            wait_until(lambda: counts() == (1, 0))
            filler = fill(disk)
            for user in range(1, 11):
                ask(user)
            assert counts() == (1, 10 - NUM_KEPT)
            filler.unlink()
            wait_until(lambda: counts()[0] == 1 + NUM_KEPT)
            ask(11)
            process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    batches = read_exposures(folder, dt.date.min, dt.date.max)
    users = [user for batch in batches for user in batch.column("user_id").to_pylist()]
    assert users == ["v0", "v1", "v2", "v3", "v4", "v11"]
    assert "No space left on device" in errors
    assert f"exposures are written again; {10 - NUM_KEPT} were dropped" in errors
    assert list(folder.rglob("*.tmp")) == []
    assert len(exposure_files(folder)) == 3

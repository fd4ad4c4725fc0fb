"""The folder of counts: a killed server's goes with the next start, a running server's stays."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from artefacts.locks import locked
from serving.web import metrics as module
from serving.web.metrics import COUNTS_PREFIX, counts_folder, remove_left_over

REPOSITORY = Path(__file__).parents[3]
# Forks once it has a folder; both wait until their standard input ends.
SERVER = """
import os, sys
from pathlib import Path
from serving.web.metrics import counts_folder

with counts_folder(Path(sys.argv[1])) as folder:
    (folder / "counter_0.db").write_bytes(bytes(7))
    child = os.fork()
    if child:
        print(folder, child, flush=True)
    sys.stdin.read()
    if not child:
        os._exit(0)
"""


def start(parent: Path) -> tuple[subprocess.Popen[str], Path]:
    command = [sys.executable, "-W", "error", "-c", SERVER, str(parent)]
    process = subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, Path(process.stdout.readline().split()[0])


def test_a_folder_is_there_for_as_long_as_the_block(tmp_path: Path) -> None:
    with counts_folder(tmp_path) as folder:
        assert folder.parent == tmp_path
        assert list(folder.iterdir()) == []
        (folder / "counter_0.db").write_bytes(bytes(7))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FileNotFoundError, match="bundle"), counts_folder(tmp_path):
        raise FileNotFoundError("bundle")
    assert list(tmp_path.iterdir()) == []


def test_leftovers_of_a_killed_server_are_removed_once_its_workers_have_ended(tmp_path: Path) -> None:
    process, folder = start(tmp_path)
    with process:
        assert remove_left_over(tmp_path) == []
        process.kill()
        process.wait()
        assert remove_left_over(tmp_path) == [], "its worker still counts there"
        assert (folder / "counter_0.db").exists()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        process.stdout.read()  # ends when the worker has
    # Its lock goes a moment after what it wrote to.
    with locked(folder):
        pass
    with counts_folder(tmp_path) as own:
        assert list(tmp_path.iterdir()) == [own]


def test_two_servers_at_the_same_time_keep_their_own(tmp_path: Path) -> None:
    with counts_folder(tmp_path) as first, counts_folder(tmp_path) as second:
        assert remove_left_over(tmp_path) == []
        assert sorted(tmp_path.iterdir()) == sorted([first, second])


def test_a_folder_that_is_taken_for_left_over_before_it_is_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    removed: list[Path] = []

    @contextmanager
    def late(folder: Path, *, wait: bool = True) -> Any:
        if wait and not removed:
            removed.extend(remove_left_over(tmp_path))
        with locked(folder, wait=wait):
            yield

    monkeypatch.setattr(module, "locked", late)
    with counts_folder(tmp_path) as folder:
        assert len(removed) == 1
        assert list(tmp_path.iterdir()) == [folder] != removed


def a_link(path: Path, other: Path) -> None:
    path.symlink_to(other)


def a_file(path: Path, other: Path) -> None:
    path.write_text("kept")


def of_another_name(path: Path, other: Path) -> None:
    (path.parent / "twinspire-abcdefgh").mkdir()


@pytest.mark.parametrize("make", [a_link, a_file, of_another_name])
def test_folders_of_other_programs_are_left_alone(tmp_path: Path, make: Callable[[Path, Path], None]) -> None:
    place, other = tmp_path / "shm", tmp_path / "other"
    place.mkdir()
    other.mkdir()
    (other / "file").write_text("kept")
    make(place / f"{COUNTS_PREFIX}made-up", other)
    assert remove_left_over(place) == []
    assert len(list(place.iterdir())) == 1
    assert (other / "file").read_text() == "kept"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to somebody else")
def test_a_folder_of_another_user_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / f"{COUNTS_PREFIX}theirs"
    folder.mkdir()
    os.chown(folder, 12345, 12345)
    assert remove_left_over(tmp_path) == []
    assert folder.exists()

"""Two processes fit what one fits: losses and weights of both, and what is shared out."""

from __future__ import annotations

import json
import os
import runpy
import socket
import sys
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from tests import forking
from training.distribution import Alone, workers

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
TOGETHER = runpy.run_path(str(HERE / "fit_together_for_tests.py"))


def free_ports(number: int) -> list[int]:
    """Free ports of the loopback."""
    sockets = [socket.socket() for _ in range(number)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


@pytest.fixture(scope="module")
def together(groups_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """What two processes wrote, each into a folder of its own."""
    folders = [tmp_path_factory.mktemp(f"process_{number}") for number in range(2)]
    cluster = {"worker": [f"127.0.0.1:{port}" for port in free_ports(2)]}
    with ExitStack() as stack:
        processes = []
        for number, folder in enumerate(folders):
            processes.append(
                forking.Popen(
                    [sys.executable, str(HERE / "fit_together_for_tests.py"), str(groups_folder), str(folder)],
                    cwd=REPOSITORY,
                    env={
                        **os.environ,
                        "PYTHONPATH": str(REPOSITORY),
                        "CUDA_VISIBLE_DEVICES": "",
                        "TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": "worker", "index": number}}),
                    },
                    stderr=stack.enter_context((folder / "stderr.txt").open("w")),
                )
            )
            stack.callback(processes[-1].wait)
            stack.callback(processes[-1].kill)
        for process, folder in zip(processes, folders, strict=True):
            assert process.wait(timeout=300) == 0, (folder / "stderr.txt").read_text()
    return folders


@pytest.mark.parametrize("name", TOGETHER["FITS"])
def test_two_processes_have_the_losses_and_the_weights_of_one(
    name: str, together: list[Path], groups_folder: Path, tmp_path: Path
) -> None:
    alone = TOGETHER["fit_together"](name, groups_folder, tmp_path, distribute="none")
    assert len(alone["losses"]) == 18
    for folder in together:
        with np.load(folder / f"{name}.npz") as found:
            assert set(found) == set(alone)
            np.testing.assert_allclose(found["losses"], alone["losses"], rtol=1e-4)
            for part, expected in alone.items():
                np.testing.assert_allclose(found[part], expected, rtol=1e-4, atol=1e-5, err_msg=part)


def test_the_weights_have_moved(together: list[Path]) -> None:
    # Else equal ones would say nothing: ids start at zero.
    with np.load(together[0] / "fused.npz") as found:
        for table in ("user_id_table", "item_id_table"):
            moved = next(values for name, values in found.items() if table in name)
            assert (np.abs(moved[1:]).max(axis=1) > 1e-2).all()
        assert abs(float(found["temperature"]) - 0.2) > 1e-3


def test_processes_end_after_the_same_epochs_and_keep_the_best_one_of_the_chief(together: list[Path]) -> None:
    found = [np.load(folder / "stopped.npz") for folder in together]
    for one in found:
        assert one["recalls"].tolist() == [0.1, 0.3, 0.2, 0.25]
        np.testing.assert_array_equal(one["kept"], one["after_epoch"][1])
        assert not np.array_equal(one["kept"], one["after_epoch"][3])
    np.testing.assert_allclose(found[0]["kept"], found[1]["kept"], rtol=1e-4, atol=1e-5)


def test_one_process_takes_whole_batches_and_needs_no_scope() -> None:
    batches = iter([{"weight": np.ones(2)}])
    assert Alone().shares(batches) is batches
    with Alone().scope():
        pass


def test_processes_without_a_description_of_the_others_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(ValueError, match=r"TF_CONFIG is not set.*such as \{.cluster.: \{.worker.: \[.10.0.0.1:2222"):
        workers()

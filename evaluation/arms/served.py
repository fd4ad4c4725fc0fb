"""A running server of one bundle, asked over HTTP like by any client.

U users, k places of a list.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import threadpoolctl

from artefacts.files import json_text
from evaluation import report
from evaluation.arms.bundle_arm import Asked
from evaluation.foreign_tables import rows_of
from evaluation.report import Latency
from serving.retrieval.ranking import Rows

TIMED_USERS = 200

ANSWER_SECONDS = 30.0
START_SECONDS, STOP_SECONDS = 300.0, 30.0


@contextmanager
def server_of(config: str, runs: Path, version: str) -> Iterator[str]:
    """Runs a server of one bundle in a process of its own; yields its address.

    Args:
        config: The configuration as YAML; it serves from this bundle alone, on a free port.
        runs: Folder of all runs.
        version: Of the bundle, for the message.

    Raises:
        ValueError: It does not start; the message has its output.
    """
    with tempfile.TemporaryDirectory(prefix="twinspire-ab-") as folder:
        file = Path(folder) / "config.yaml"
        file.write_text(config, encoding="utf-8")
        command = [sys.executable, "-m", "twinspire", "serve", "--config", str(file), "--runs", str(runs)]
        output = Path(folder) / "output.txt"
        with (
            output.open("w", encoding="utf-8") as errors,
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
        ):
            try:
                assert process.stdout is not None
                late = threading.Timer(START_SECONDS, process.kill)
                late.start()
                line = process.stdout.readline()
                late.cancel()
                if not line.startswith("listening on "):
                    process.wait(STOP_SECONDS)
                    found = f"{line}{output.read_text(encoding='utf-8')}".strip()[-500:]
                    raise ValueError(f"the server of {version} did not start: {found}")
                yield line.split()[-1]
            finally:
                process.terminate()


def ask_server(
    address: str, asked: Asked, user_ids: npt.NDArray[np.object_], item_ids: npt.NDArray[np.object_]
) -> tuple[Rows, Latency]:
    """Asks for one user after the other.

    Args:
        address: Such as `http://127.0.0.1:8100`.
        asked: The question.
        user_ids: [U].
        item_ids: [N] of the comparison's catalogue.

    Returns:
        [U, k] int32, -1 behind the last one, and how long answers took.

    Raises:
        ValueError: A question was refused, or the server does not answer.
    """
    body: dict[str, Any] = {"k": asked.k, "exclude_bought": asked.exclude_known or None}
    if asked.retriever is not None:
        body["retriever"] = asked.retriever
    if asked.weight_exponent is not None:
        body["weight_exponent"] = asked.weight_exponent
    found, taken = [], []
    for user_id in user_ids:
        begun = time.perf_counter()
        items = _post(f"{address}/v1/recommend", {**body, "user_id": str(user_id)})
        taken.append(time.perf_counter() - begun)
        found.append(items)
    lengths = np.array([len(items) for items in found])
    flat = pa.array([item for items in found for item in items], pa.string())
    rows = np.full((len(found), asked.k), -1, np.int32)
    rows[np.arange(asked.k) < lengths[:, None]] = rows_of(flat, pa.array(item_ids, pa.string()))
    return rows, _latency(taken, "HTTP")


def measure(answer: Callable[[str], object], user_ids: npt.NDArray[np.object_], *, seed: int) -> report.Latency:
    """Wall clock of one user's list in this process, asked one by one with one thread."""
    rng = np.random.default_rng(seed)
    some = rng.permutation(user_ids)[:TIMED_USERS]
    taken = []
    with threadpoolctl.threadpool_limits(1, "blas"):
        answer(str(some[0]))
        for user_id in some:
            begun = time.perf_counter()
            answer(str(user_id))
            taken.append(time.perf_counter() - begun)
    median, p99 = np.quantile(np.array(taken) * 1000, [0.5, 0.99])
    return report.Latency(float(median), float(p99), len(taken), "this process")


def _latency(taken: list[float], where: Literal["this process", "HTTP"]) -> Latency:
    median, p99 = np.quantile(np.array(taken) * 1000, [0.5, 0.99])
    return Latency(float(median), float(p99), len(taken), where)


def _post(url: str, body: dict[str, Any]) -> list[str]:
    """Item ids of the answer, best first."""
    request = urllib.request.Request(url, json_text(body).encode(), {"Content-Type": "application/json"}, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as answer:
            found = json.load(answer)
    except urllib.error.HTTPError as error:
        raise ValueError(f"{url}: refused {json_text(body)}: {error.read().decode()[:300]}") from None
    except OSError as error:
        raise ValueError(f"{url}: does not answer: {error}") from None
    return [item["item_id"] for item in found["results"][0]["items"]]

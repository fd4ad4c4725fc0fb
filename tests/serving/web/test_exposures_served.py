"""Exposures are on disk after a server was stopped, with one process and with several."""

from __future__ import annotations

import datetime as dt
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pytest

from serving.exposures.files import exposure_files, read_exposures
from tests import forking

HERE = Path(__file__).parent
ONE_USER = 20


def ask(address: str, **body: Any) -> list[dict[str, Any]]:
    """Results of a request of its own connection, so that any process may answer."""
    with httpx.Client(base_url=address, trust_env=False) as client:
        answer = client.post("/v1/recommend", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()["results"]  # type: ignore[no-any-return]


@pytest.mark.parametrize("num_workers", [1, 2])
def test_answered_lists_are_on_disk_after_sigterm(
    written: Path, online_file: Path, tmp_path: Path, num_workers: int
) -> None:
    folder, begun = tmp_path / "exposures", time.time()
    script = [str(HERE / "serve_exposures.py"), str(written), str(online_file), str(folder), str(num_workers)]
    process = forking.Popen(
        [sys.executable, "-W", "error", *script],
        env={**os.environ, "PYTHONPATH": str(HERE.parents[2])},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    answered: list[tuple[int, dict[str, Any]]] = []
    try:
        address = process.stdout.readline().split()[-1]
        answered += [(7, result) for result in ask(address, user_ids=["u1", "u3", "u4", "stranger"], k=7)]
        for number in range(ONE_USER):
            answered += [(3, result) for result in ask(address, user_id=f"u{number % 6 + 1}", k=3)]
        for named in ({"arm": "towers"}, {"retriever": "popularity"}):
            ask(address, user_id="u1", **named)
        assert exposure_files(folder) == []
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait()
        process.stdout.close()
    ended, day = time.time(), dt.timedelta(days=1)
    first, last = (dt.datetime.fromtimestamp(seconds, dt.UTC).date() for seconds in (begun, ended))
    rows = pa.Table.from_batches(read_exposures(folder, first, last + day)).to_pylist()
    assert {row["arm"] for row in rows} == {"plain", "towers"}
    assert all(begun - 1 <= row["moment"].timestamp() <= ended + 1 for row in rows)
    names = ("user_id", "arm", "bundle_version", "retriever", "reasons")
    kept = [(row["k"], row["item_ids"], *(row[name] for name in names)) for row in rows]
    expected = [
        (k, [item["item_id"] for item in result["items"]], *(result[name] for name in names)) for k, result in answered
    ]
    assert sorted(kept) == sorted(expected)
    if num_workers == 1:
        # Users of one request who are of different arms are answered arm by arm.
        assert kept[-ONE_USER:] == expected[-ONE_USER:]
    assert list(folder.rglob("*.tmp")) == []
    assert all(re.fullmatch(r"[0-9a-f]{16}-\d{6}\.parquet", path.name) for path in exposure_files(folder))

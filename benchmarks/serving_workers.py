"""Memory of each worker of the server, and requests a second, with 1, 2 and 4 workers over a made-up bundle."""

from __future__ import annotations

import argparse
import datetime as dt
import http.client
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
TESTS = ROOT / "tests" / "serving"
DIMENSION = 64
MOMENT = dt.datetime(2017, 12, 1, tzinfo=dt.UTC)


def make_bundle(folder: Path, num_items: int, num_users: int) -> Path:
    """Writes a bundle of random vectors and purchases, 20 for each user, and an online store of 1,000 users."""
    from features.encoding import Encoder
    from features.ids import IdMap
    from features.numbers import numeric_names
    from features.schema import Schema, view_schema
    from serving.bundles.manifest import DataWindow, Facts
    from serving.bundles.publish import Parts, write
    from serving.retrieval.index import HnswIndex, IndexReport
    from serving.retrieval.purchases import Purchases
    from serving.served import DEFAULT, Served

    schema = Schema(user_columns={"age": "categorical"}, item_columns={"aisle": "categorical"}, item_category="aisle")
    users, items = [f"u{n}" for n in range(1, num_users + 1)], [f"i{n}" for n in range(num_items)]
    encoder = Encoder(
        schema=schema,
        user_ids=IdMap(users),
        item_ids=IdMap(items),
        vocabularies={"age": IdMap(["old", "young"]), "aisle": IdMap(["fish", "fruit"])},
        scaling={name: (0.5, 2.0) for tower in ("user", "item") for name in numeric_names(schema, tower)},
        history_length=20,
        text_length=3,
        text_buckets=10,
    )
    encoder.save(folder / "encoder")
    environment = {**os.environ, "TF_USE_LEGACY_KERAS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(TESTS / "export_for_tests.py"), str(folder), str(DIMENSION)]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    generator = np.random.default_rng(1)
    vectors = generator.normal(size=(num_items, DIMENSION)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    rows, seconds = np.repeat(np.arange(1, num_users + 1), 20), int(MOMENT.timestamp())
    purchases = Purchases.from_events(
        rows,
        generator.integers(0, num_items, len(rows)),
        seconds=seconds - generator.integers(0, 10**7, len(rows)),
        num_users=num_users + 1,
        num_items=num_items,
    )
    report = IndexReport(1.0, 10, 50, 1, 1, 1.0, "ip", 0.0, (DIMENSION,))
    facts = Facts(
        dataset="made-up",
        as_of=MOMENT.date(),
        created=MOMENT,
        data_window=DataWindow(first=dt.date(2017, 1, 1), end=MOMENT.date(), num_events=len(rows)),
        feature_services={"user": "user_tower", "item": "item_tower"},
        features_version=f"{MOMENT.date()}-00000000",
        vocabulary_sizes={"user_id": num_users + 1},
        index_report=report,
        business_weight=None,
        sparcode_report=None,
        configuration_digest="0123456789ab",
        code_version="0",
        commit="0" * 40,
        parent=None,
        served=Served(**vars(DEFAULT), why="made up", metric="", num_users=0),
        seed=1,
        package_versions={},
    )
    names = {"item_id": items, "item_name": [f"name {n}" for n in range(num_items)], "category": ["fish"] * num_items}
    parts = Parts(
        config_yaml="name: made-up\n",
        encoder=encoder,
        user_tower=folder / "user_tower.tflite",
        item_tower=folder / "user_tower.tflite",
        item_vectors=vectors,
        item_weights=None,
        sparcode=None,
        index=HnswIndex.build(vectors, m=16, ef_construction=100, seed=1),
        items=pa.table(names),
        purchases=purchases,
        popularity=generator.random(num_items, dtype=np.float32),
        metrics={},
    )
    bundles = folder / "bundles"
    bundles.mkdir()
    (bundles / "current").symlink_to(write(bundles, parts, facts))
    row = {
        "user_as_of_seconds": seconds, "user_num_events": 20, "user_num_items": 20, "user_num_days": 5,
        "user_value": 12.5, "user_last_seconds": seconds - 86400, "user_history": items[:20],
        "user_history_seconds": [seconds - 86400] * 20, "user_history_events": [1] * 20, "age": "young",
    }  # fmt: skip
    online = pa.Table.from_pylist(
        [{"user_id": user, **row} for user in users[:1000]],
        schema=pa.schema([("user_id", pa.string()), *view_schema(schema, "user")]),
    )
    pq.write_table(online, folder / "users.parquet")
    return bundles


def ask(address: str, seconds: float, seed: int, answered: multiprocessing.Queue[int]) -> None:
    """Asks for one user after another over one connection."""
    generator, number = np.random.default_rng(seed), 0
    connection = http.client.HTTPConnection(urlsplit(address).netloc)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        connection.request("POST", "/v1/recommend", json.dumps({"user_id": f"u{generator.integers(1, 1001)}", "k": 10}))
        answer = connection.getresponse()
        content = answer.read()
        assert answer.status == 200, content
        number += 1
    answered.put(number)


def memory(pid: int) -> dict[str, float]:
    """Proportional, private and resident memory of a process, MB of 10^6 bytes."""
    lines = [line.split() for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]]
    found = {name.rstrip(":"): int(size) * 1024 / 1e6 for name, size, *_ in lines}
    private = found["Private_Clean"] + found["Private_Dirty"]
    return {"pss": found["Pss"], "private": private, "rss": found["Rss"]}


def measure(folder: Path, num_workers: int, seconds: float, num_clients: int) -> dict[str, object]:
    """Starts a server, loads it and looks at its memory while it is loaded no more."""
    command = [sys.executable, TESTS / "web" / "serve_folder.py", folder / "bundles", folder / "users.parquet"]
    process = subprocess.Popen(
        [*map(str, command), str(num_workers)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        address = process.stdout.readline().split()[-1]
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        pids = [process.pid, *map(int, children.read_text().split())]
        before = sum(memory(pid)["pss"] for pid in pids)
        answered: multiprocessing.Queue[int] = multiprocessing.Queue()
        clients = [
            multiprocessing.Process(target=ask, args=(address, seconds, seed, answered)) for seed in range(num_clients)
        ]
        for client in clients:
            client.start()
        total = sum(answered.get() for _ in clients)
        for client in clients:
            client.join()
        found = [memory(pid) for pid in pids]
        return {
            "workers": num_workers,
            "requests_a_second": round(total / seconds),
            "total_pss_mb_before_load": round(before, 1),
            "total_pss_mb": round(sum(one["pss"] for one in found), 1),
            "processes": [{name: round(size, 1) for name, size in one.items()} for one in found],
        }
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--users", type=int, default=200_000)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--clients", type=int, default=8)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bundles = make_bundle(folder, arguments.items, arguments.users)
        size = sum(path.stat().st_size for path in (bundles / "current").resolve().rglob("*") if path.is_file())
        print(f"{size / 1e6:.0f} MB of bundle, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}", flush=True)
        for num_workers in (1, 2, 4):
            print(json.dumps(measure(folder, num_workers, arguments.seconds, arguments.clients)), flush=True)


if __name__ == "__main__":
    main()

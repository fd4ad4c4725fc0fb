"""Every request gets an answer of one bundle while bundles change, processes die and clients misbehave."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from features.encoding import Encoder
from features.ids import IdMap
from serving.bundles.manifest import Facts
from serving.bundles.publish import Parts, write
from serving.retrieval.index import HnswIndex
from serving.web.api import MAX_BODY_BYTES
from serving.web.metrics import COUNTS_PREFIX
from serving.web.workers import MAX_DEATHS
from tests import forking
from tests.waiting import wait_until

HERE = Path(__file__).parent
NUM_WORKERS = pytest.mark.parametrize("num_workers", [1, 2])
NUM_SWAPS, NUM_CLIENTS = 20, 3
BODY = {"user_ids": ["u1", "u4", "stranger"], "k": 5}


@dataclasses.dataclass(frozen=True)
class Server:
    """A server in processes of its own."""

    pid: int
    address: str
    bundles: Path
    process: subprocess.Popen[str]

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.address, trust_env=False, timeout=30)

    def get(self, path: str) -> httpx.Response:
        """Over a connection of its own, which any worker may get."""
        with self.client() as client:
            return client.get(path)

    def publish(self, version: str) -> None:
        pointer = self.bundles / "next"
        pointer.symlink_to(version)
        pointer.replace(self.bundles / "current")

    def until(self, holds: Callable[[], bool]) -> None:
        wait_until(holds, process=self.process)

    def told_refusal(self) -> str:
        refused = self.get("/readyz").json()["refused"]
        return "" if refused is None else refused["reason"]

    def workers(self) -> set[int]:
        return {int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()}


@contextmanager
def running(
    bundles: Path, users: Path, num_workers: int, *more: Path, popen: Callable[..., Any] = forking.Popen
) -> Iterator[Server]:
    command = [sys.executable, "-W", "error", HERE / "serve_folder.py", bundles, users, num_workers, *more]
    process = popen(
        [str(part) for part in command],
        env={**os.environ, "PYTHONPATH": str(HERE.parents[2]), "OPENBLAS_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line.startswith("listening on http://127.0.0.1:"), line
        yield Server(process.pid, line.split()[-1], bundles, process)
    finally:
        # Asked to first: killed, it leaves its counts in /dev/shm until the next one starts.
        process.terminate()
        try:
            process.wait(timeout=60)
        finally:
            process.kill()
            process.wait()
        process.stdout.close()


@pytest.fixture(scope="session")
def letters(parts: Parts, facts: Facts, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """Three bundles, the letter of each, with which the ids of all its items begin; no test changes them."""
    folder, letter_of = tmp_path_factory.mktemp("letters"), {}
    for seed, letter in enumerate("abc"):
        encoder: Encoder = dataclasses.replace(parts.encoder, item_ids=IdMap([f"{letter}{n}" for n in range(40)]))
        vectors = np.random.default_rng(seed).normal(size=parts.item_vectors.shape).astype(np.float32)
        items = parts.items.set_column(0, "item_id", [[f"{letter}{n}" for n in range(40)]])
        index = HnswIndex.build(vectors, m=8, ef_construction=50, seed=7)
        own = dataclasses.replace(parts, encoder=encoder, item_vectors=vectors, items=items, index=index)
        letter_of[write(folder, own, facts)] = letter
    return folder, letter_of


@pytest.fixture
def bundles(letters: tuple[Path, dict[str, str]], tmp_path: Path) -> Path:
    folder = Path(shutil.copytree(letters[0], tmp_path / "bundles"))
    (folder / "current").symlink_to(min(letters[1]))
    return folder


class Load:
    """Clients that ask all the time, each over one connection as long as the server keeps it open."""

    def __init__(self, server: Server, *, num_clients: int = NUM_CLIENTS, may_break: int = 0) -> None:
        self.server, self.may_break = server, may_break
        self.answers: list[dict[str, Any]] = []
        self.failures: list[str] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(num_clients)]

    def _ask(self) -> None:
        with self.server.client() as client:
            while not self._stop.is_set():
                try:
                    answer = client.post("/v1/recommend", json=BODY)
                    assert answer.status_code == 200, answer.text
                    self.answers.append(answer.json())
                except (httpx.HTTPError, AssertionError) as error:
                    self.failures.append(repr(error))

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        assert len(self.failures) <= self.may_break, self.failures
        assert self.answers

    def more(self, number: int = 20) -> None:
        """Waits for further answers."""
        least = len(self.answers) + number
        self.server.until(lambda: len(self.answers) >= least or len(self.failures) > self.may_break)


@NUM_WORKERS
@pytest.mark.slow
def test_through_many_swaps_no_request_fails_and_no_answer_mixes_bundles(
    bundles: Path, online_file: Path, letters: tuple[Path, dict[str, str]], num_workers: int
) -> None:
    versions = sorted(letters[1])
    with running(bundles, online_file, num_workers) as server, Load(server) as load:
        for number in range(1, NUM_SWAPS + 1):
            version = versions[number % 3]
            server.publish(version)
            server.until(lambda version=version: server.get("/readyz").json()["bundle_version"] == version)  # type: ignore[misc]
            load.more()
        server.until(lambda: f"twinspire_bundle_swaps {NUM_SWAPS}.0" in server.get("/metrics").text)
    for answer in load.answers:
        (version,) = {result["bundle_version"] for result in answer["results"]}
        ids = [item["item_id"] for result in answer["results"] for item in result["items"]]
        assert {item_id[0] for item_id in ids} == {letters[1][version]}
        assert [len(result["items"]) for result in answer["results"]] == [5, 5, 5]
    assert {answer["results"][0]["bundle_version"] for answer in load.answers} == set(versions)


def truncated(folder: Path, exported: Path, sign: Callable[..., Path]) -> Path:
    path = folder / "item_vectors.npy"
    path.write_bytes(path.read_bytes()[:-3])
    return folder


def flipped(folder: Path, exported: Path, sign: Callable[..., Path]) -> Path:
    path = folder / "popularity.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    return folder


def narrow(folder: Path, exported: Path, sign: Callable[..., Path]) -> Path:
    shutil.copy(exported / "narrow.tflite", folder / "user_tower.tflite")
    return sign(folder)


def answering(ready: dict[str, Any]) -> tuple[str, Any]:
    """Which bundle answers, and which one is refused."""
    return ready["bundle_version"], ready["refused"]


@NUM_WORKERS
def test_a_bad_bundle_is_refused_and_reported_while_the_previous_one_stays_live(
    bundles: Path, online_file: Path, exported: Path, sign: Callable[..., Path], num_workers: int
) -> None:
    first, *others = sorted(path.name for path in bundles.iterdir() if not path.is_symlink())
    bad = {}
    for reason, spoil in (("has 1405 bytes, expected 1408", truncated), ("SHA-256 is", flipped)):
        folder = Path(shutil.copytree(bundles / first, bundles.parent / reason / first))
        bad[spoil(folder, exported, sign)] = reason
    folder = Path(shutil.copytree(bundles / first, bundles.parent / "narrow" / first))
    bad[narrow(folder, exported, sign)] = "dimension is 4, expected 8"
    with running(bundles, online_file, num_workers) as server, Load(server) as load:
        for number, (spoiled, reason) in enumerate(bad.items()):
            # The name is part of what is verified before the dimension is.
            version = spoiled.name if "dimension" in reason else f"2017-12-0{2 + number}-00000000"
            spoiled.rename(bundles / version)
            server.publish(version)
            server.until(lambda reason=reason: reason in server.told_refusal())  # type: ignore[misc]
            ready = server.get("/readyz").json()
            assert (ready["bundle_version"], ready["refused"]["bundle_version"]) == (first, version)
            server.until(lambda: "twinspire_bundle_refused 1.0" in server.get("/metrics").text)
            load.more()
        (bundles / "cold").touch()
        server.publish(others[1])
        server.until(lambda: "the store is cold" in server.told_refusal())
        assert server.told_refusal().startswith("a worker cannot answer: ") == (num_workers > 1)
        load.more()
        (bundles / "cold").unlink()
        server.publish(others[0])
        server.until(lambda: answering(server.get("/readyz").json()) == (others[0], None))
        server.until(lambda: "twinspire_bundle_refused 0.0" in server.get("/metrics").text)


def test_a_first_bundle_that_cannot_be_answered_from_ends_the_server_with_the_reason(
    bundles: Path, tmp_path: Path
) -> None:
    command = [sys.executable, str(HERE / "serve_folder.py"), str(bundles), str(tmp_path), "2"]
    environment = {**os.environ, "PYTHONPATH": str(HERE.parents[2])}
    ran = forking.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert "the online features 2017-12-01-5f3c9a71 are not there or not whole" in ran.stderr


@NUM_WORKERS
def test_sigterm_answers_requests_under_way_and_announces_that_connections_close(
    bundles: Path, online_file: Path, tmp_path: Path, num_workers: int
) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    with (
        running(bundles, online_file, num_workers, gate) as server,
        server.client() as client,
        ThreadPoolExecutor(1) as pool,
    ):
        idle = server.client()
        assert idle.get("/healthz").headers.get("connection") != "close"
        answer = pool.submit(client.post, "/v1/recommend", json={"user_id": "slow"})
        with gate.open("wb"):  # opens when a worker has begun to read
            server.process.send_signal(signal.SIGTERM)
            # The open connection is answered until a response announces that it closes.
            server.until(lambda: idle.get("/healthz").headers.get("connection") == "close")
            server.until(lambda: not accepts(server))
        assert (answer.result().status_code, answer.result().headers["connection"]) == (200, "close")
        assert server.process.wait(timeout=60) in (0, -signal.SIGTERM)
        idle.close()


def test_sigterm_while_a_bundle_is_taken_over_drains_those_that_answer_and_waits_for_no_others(
    bundles: Path, online_file: Path, letters: tuple[Path, dict[str, str]]
) -> None:
    with running(bundles, online_file, 2) as server, server.client() as idle:
        (counts,) = counts_folders(server.pid)
        assert idle.get("/healthz").headers.get("connection") != "close"
        os.mkfifo(bundles / "held")
        server.publish(max(letters[1]))
        with (bundles / "held").open("wb"):  # opens when a new worker asks its retrievers
            server.process.send_signal(signal.SIGTERM)
            server.until(lambda: idle.get("/healthz").headers.get("connection") == "close")
            assert server.process.wait(timeout=60) == 0
    assert not Path(counts).exists()


def accepts(server: Server) -> bool:
    host, port = server.address.removeprefix("http://").split(":")
    try:
        socket.create_connection((host, int(port))).close()
    except ConnectionRefusedError:
        return False
    return True


def test_a_killed_worker_is_replaced_and_requests_are_answered(bundles: Path, online_file: Path) -> None:
    with running(bundles, online_file, 2) as server:
        before = server.workers()
        assert len(before) == 2
        # The connections of the killed one break, each at most once.
        with Load(server, may_break=NUM_CLIENTS) as load:
            load.more()
            os.kill(min(before), signal.SIGKILL)
            server.until(lambda: len(server.workers() - before) == 1 and min(before) not in server.workers())
            server.until(lambda: "twinspire_workers_replaced_total 1.0" in server.get("/metrics").text)
            load.more()
        counted = requests_counted(server.get("/metrics").text)
        assert counted >= len(load.answers), "what a dead one counted stays counted"


@pytest.mark.slow
def test_workers_that_die_again_and_again_get_no_more_successors(bundles: Path, online_file: Path) -> None:
    with running(bundles, online_file, 2) as server:
        for _ in range(MAX_DEATHS):
            before = server.workers()
            os.kill(min(before), signal.SIGKILL)
            server.until(lambda before=before: len(server.workers() - {min(before)}) == 2)  # type: ignore[misc]
        last = min(server.workers())
        os.kill(last, signal.SIGKILL)
        server.until(lambda: last not in server.workers())
        with Load(server) as load:
            load.more(100)
        assert len(server.workers()) == 1, "the other worker still runs"


def test_the_forking_process_has_no_threads_of_ours_and_no_connection_to_a_store(
    bundles: Path, online_file: Path
) -> None:
    with running(bundles, online_file, 2, popen=subprocess.Popen) as server, Load(server) as load:
        load.more()
        names = {(task / "comm").read_text().strip() for task in Path(f"/proc/{server.pid}/task").iterdir()}
        assert names <= {Path(sys.executable).name, "python", "python3", "jemalloc_bg_thd"}
        held = [os.readlink(file) for file in Path(f"/proc/{server.pid}/fd").iterdir()]
        # The one that listens, and one to each worker.
        assert len([name for name in held if name.startswith("socket:")]) == 3


def requests_counted(metrics: str) -> float:
    lines = [
        line for line in metrics.splitlines() if line.startswith('twinspire_requests_total{endpoint="/v1/recommend"')
    ]
    return sum(float(line.split()[-1]) for line in lines)


def counts_folders(pid: int) -> set[str]:
    """Folders of the files that a process counts in."""
    maps = Path(f"/proc/{pid}/maps").read_text()
    return set(re.findall(rf"\S+/{COUNTS_PREFIX}[^/]+(?=/)", maps))


def test_workers_whose_parent_is_killed_stop_and_the_next_server_removes_what_it_counted_in(
    bundles: Path, online_file: Path
) -> None:
    with running(bundles, online_file, 2) as server:
        workers = server.workers()
        (counts,) = counts_folders(server.pid)
        server.process.kill()
        server.process.wait()
        wait_until(lambda: all(is_zombie(pid) for pid in workers))
        assert not accepts(server)
    assert Path(counts).exists()
    with running(bundles, online_file, 2) as server:
        assert not Path(counts).exists()
        (own,) = counts_folders(server.pid)
        assert Path(own).exists()
    assert not Path(own).exists()


def is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.fixture(scope="module")
def steady(
    letters: tuple[Path, dict[str, str]], online_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    folder = Path(shutil.copytree(letters[0], tmp_path_factory.mktemp("steady") / "bundles"))
    (folder / "current").symlink_to(min(letters[1]))
    with running(folder, online_file, 1) as server:
        yield server


def connected(server: Server) -> socket.socket:
    host, port = server.address.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=60)


def head(length: int) -> bytes:
    return f"POST /v1/recommend HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n\r\n".encode()


def test_a_body_that_never_ends_is_given_up(steady: Server) -> None:
    with connected(steady) as slow:
        slow.sendall(head(1000) + b'{"user_id": ')
        answer = rest_of(slow)  # which ends when the connection is closed
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b'"did not arrive within 0.5 seconds"' in answer


def rest_of(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(1 << 16), b""))


@pytest.mark.parametrize("sent", [b"", b"POST /v1/rec", head(20)[:-2]])
def test_many_half_open_connections_block_no_request_and_are_closed(steady: Server, sent: bytes) -> None:
    with ExitStack() as stack:
        halves = [stack.enter_context(connected(steady)) for _ in range(300)]
        for half in halves:
            half.sendall(sent)
        with Load(steady) as load:
            load.more(100)
        assert all(rest_of(half) == b"" for half in halves)


def test_a_client_that_drips_a_second_request_is_cut_off(steady: Server) -> None:
    with connected(steady) as slow:
        slow.sendall(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
        answer = b""
        while b'{"alive":true}' not in answer:
            answer += slow.recv(1 << 16)
        assert answer.startswith(b"HTTP/1.1 200 ")
        slow.sendall(b"G")
        assert rest_of(slow) == b""


TOO_LARGE = [
    b"GET /" + b"a" * 40_000,
    b"GET / HTTP/1.1\r\nhost: localhost\r\nx: " + b"a" * 40_000 + b"\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: localhost\r\n" + b"x: a\r\n" * 101,
    head(10)[:-2] + b"transfer-encoding: chunked\r\n\r\n",
    b"POST /v1/recommend HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n0\r\nx: "
    + b"a" * 40_000
    + b"\r\n\r\n",
]
ENDLESS = [b"GET / HTTP/1.1\r\nhost: localhost\r\nx: ", b"\r\n", head(10) + b"{}", TOO_LARGE[4][:-40_004]]


@pytest.mark.parametrize(
    ("sent", "status"), [*zip(TOO_LARGE, (431, 431, 431, 400, 431), strict=True)], ids=range(len(TOO_LARGE))
)
def test_a_head_that_is_too_large_or_no_http_is_refused(steady: Server, sent: bytes, status: int) -> None:
    with connected(steady) as client:
        client.sendall(sent)
        answer = rest_of(client)
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["errors"][0]["field"] == "head"


@pytest.mark.parametrize("begun", ENDLESS, ids=["header", "line ends", "body", "trailer"])
def test_what_never_ends_is_cut_off_before_it_is_large(steady: Server, begun: bytes) -> None:
    more = b"\r\n" * 5_000 if begun == b"\r\n" else b"a" * 10_000
    with connected(steady) as client, pytest.raises(OSError, match=r"reset|pipe"):
        client.sendall(begun + more * 10_000)


def test_a_head_that_is_just_small_enough_is_read(steady: Server) -> None:
    with connected(steady) as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n" + b"x: a\r\n" * 97)
        client.sendall(b"y: " + b"a" * 31_000 + b"\r\n\r\n")
        assert rest_of(client).startswith(b"HTTP/1.1 200 ")


def test_a_client_that_does_not_read_its_answers_is_cut_off(steady: Server) -> None:
    body = b'{"user_ids": [' + b", ".join([b'"u1"'] * 256) + b'], "k": 40, "retriever": "popularity"}'
    with connected(steady) as client:
        # More than the system's own buffers hold.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.sendall((head(len(body)) + body) * 20)
        own = f":{client.getsockname()[1]} "
        steady.until(lambda: own not in established(steady.pid))
    assert steady.get("/healthz").status_code == 200


def established(pid: int) -> str:
    """Remote ends of the connections that a process holds; in hexadecimal as the kernel has them, made readable."""
    sockets = set()
    for file in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            sockets.add(os.readlink(file))
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return "".join(f":{int(line[2].split(':')[1], 16)} " for line in lines if f"socket:[{line[9]}]" in sockets)


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/", "/docs", "/metrics", "/openapi.json"])
def test_head_is_answered_as_get_without_the_body(steady: Server, path: str) -> None:
    with steady.client() as client:
        found, expected = client.head(path), client.get(path)
    assert (found.status_code, found.content) == (200, b"")
    assert found.headers["content-type"] == expected.headers["content-type"]


@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"context": ' + b"[" * 100_000, b'{"a":' * 20_000])
def test_nested_json_is_an_error_like_others(steady: Server, content: bytes) -> None:
    with steady.client() as client:
        answer = client.post("/v1/recommend", content=content)
        assert answer.status_code in (400, 422)
        assert answer.json()["errors"]
        assert client.post("/v1/recommend", json=BODY).status_code == 200


def test_a_costly_request_leaves_off_when_its_client_has_gone(bundles: Path, online_file: Path, tmp_path: Path) -> None:
    """It would never end: a user of its second part is not read before the gate opens."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    body = json.dumps({"user_ids": ["slow", *["u1"] * 60, "slow"], "k": 5}).encode()
    with running(bundles, online_file, 1, gate) as server:
        with connected(server) as client:
            client.sendall(head(len(body)) + body)
            with gate.open("wb"):  # Opens when the first part is read.
                client.close()
                server.until(lambda: server.get("/healthz").status_code == 200)
        counted = 'endpoint="/v1/recommend",status="400"} 1.0'
        server.until(lambda: counted in server.get("/metrics").text)
        assert "twinspire_lists_total{" not in server.get("/metrics").text


@pytest.mark.parametrize(
    ("content", "status"),
    [(b"{", 400), (b"", 400), (b"\xff", 400), (b"[]", 422), (b" " * (MAX_BODY_BYTES + 1), 413)],
)
def test_a_body_that_cannot_be_read_is_refused_with_its_status(steady: Server, content: bytes, status: int) -> None:
    with steady.client() as client:
        answer = client.post("/v1/recommend", content=content)
        assert answer.status_code == status
        assert answer.json()["errors"][0]["field"] == "body"
        assert client.post("/v1/recommend", json=BODY).status_code == 200

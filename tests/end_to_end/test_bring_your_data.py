"""The page about one's own data: every command of it, from check-ins to a server, on files as it describes them."""

from __future__ import annotations

import csv
import datetime as dt
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests import forking

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(900)]

PAGE = Path(__file__).parents[2] / "docs" / "bring_your_data.md"
SECTION = PAGE.read_text(encoding="utf-8").split("\n## From tables to a server\n")[1].split("\n## ")[0]
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", SECTION, re.DOTALL) for line in block.splitlines()]


def write_check_ins(folder: Path) -> None:
    """Visitors prefer the places of one half of the city."""
    rng = np.random.default_rng(3)
    folder.mkdir()
    popularity = 1 / np.arange(1, 101) ** 0.7
    start, rows = dt.datetime(2024, 1, 1, tzinfo=dt.UTC), []
    for day in range(60):
        for visitor in range(300):
            for _ in range(rng.binomial(2, 0.35)):
                half = visitor % 2 if rng.random() < 0.95 else 1 - visitor % 2
                place = rng.choice(100, p=popularity / popularity.sum()) * 2 + half
                moment = start + dt.timedelta(days=day, seconds=int(rng.integers(86_400)))
                rows.append((f"v{visitor:03}", f"p{place:03}", moment.isoformat()))
    kinds = ["museum", "cafe", "park", "bar"]
    places = [
        (f"p{place:03}", f"Place {place}", kinds[place % 4], ["North", "South"][place % 2]) for place in range(200)
    ]
    for name, heading, lines in (
        ("checkins", ("visitor", "place", "at"), rows),
        ("places", ("place", "name", "kind", "city"), places),
    ):
        with (folder / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([heading, *lines])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("places")
    write_check_ins(folder / "data")
    (folder / "configs").mkdir()
    [block] = re.findall(r"```yaml\n(.*?)```", SECTION, re.DOTALL)
    (folder / "configs" / "places.yaml").write_text(block)
    return folder


def test_every_command_of_the_page_works_in_order(folder: Path) -> None:
    outputs: dict[str, str] = {}
    served: list[subprocess.Popen[str]] = []
    address = ""
    try:
        for line in COMMANDS:
            program, *arguments = shlex.split(line)
            if arguments[0] == "serve":
                command = [sys.executable, "-m", "twinspire", *arguments, "--port", "0"]
                served.append(forking.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True))
                assert served[0].stdout is not None
                address = served[0].stdout.readline().split()[-1].removeprefix("http://")
                continue
            command = [sys.executable, "-m", "twinspire", *arguments]
            if program == "curl":
                command = [program, *(part.replace("127.0.0.1:8100", address) for part in arguments)]
            run = subprocess.run if program == "curl" else forking.run
            environment = {**os.environ, "COLUMNS": "80"}
            ran = run(command, check=False, cwd=folder, capture_output=True, text=True, env=environment)
            assert (ran.returncode, ran.stderr) == (0, ""), line
            outputs[arguments[0] if program == "twinspire" else program] = ran.stdout
    finally:
        for process in served:
            process.send_signal(signal.SIGTERM)
            process.communicate()
    assert len(json.loads(outputs["curl"])["results"][0]["items"]) == 5
    for text in ("all check-ins", "repeat check-in", "last check-ins"):
        assert text in outputs["run"]
    assert "2024-02-21 published" in outputs["status"]
    shown = outputs["run"][outputs["run"].index("all check-ins") : outputs["run"].index("Report:")]
    for text in (shown, outputs["status"], outputs["recommend"]):
        assert max(len(line.rstrip()) for line in text.splitlines()) <= 80
    page = (folder / "runs" / "places" / "reports" / "2024-02-20" / "report.html").read_text()
    assert "purchase" not in re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)

"""The files of deploy/ load in the systems that they are for, and match the command."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import typer

from serving.web.workers import STOP_SECONDS
from twinspire.cli import app
from twinspire.job import BUSY
from twinspire.nightly import REFUSED

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
SETUP = (ROOT / "setup.py").read_text()
AIRFLOW = ROOT / ".venv" / "airflow" / "bin" / "python"

LOAD = """
import json, runpy, sys
from unittest import mock

module = runpy.run_path(sys.argv[1])
dag = module["twinspire_daily"]()
[task] = dag.tasks

import datetime as dt
outcomes = {}
for code in range(5):
    context = {"data_interval_end": dt.datetime(2017, 12, 2, tzinfo=dt.UTC)}
    asked = mock.Mock(return_value=mock.Mock(returncode=code))
    inside = task.python_callable.__globals__
    with mock.patch.dict(inside, {"get_current_context": lambda: context}), mock.patch("subprocess.run", asked):
        try:
            task.python_callable()
            outcomes[code] = "done"
        except Exception as error:
            outcomes[code] = type(error).__name__
command = asked.call_args.args[0]
print(json.dumps({
    "dag": dag.dag_id, "schedule": str(dag.schedule), "catchup": dag.catchup, "active": dag.max_active_runs,
    "tasks": dag.task_ids, "retries": task.retries, "outcomes": outcomes, "command": command[1:],
}))
"""


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.skipif(
    not AIRFLOW.exists(), reason="`make test-all` installs Airflow's SDK separately; pytest alone does not"
)
def test_the_dag_loads_and_distinguishes_the_exit_codes_of_the_command() -> None:
    command = [AIRFLOW, "-c", LOAD, DEPLOY / "airflow" / "twinspire_daily.py"]
    ran = subprocess.run([*map(str, command)], check=False, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout.splitlines()[-1])
    assert (found["dag"], found["tasks"], found["schedule"]) == ("twinspire_daily", ["daily"], "20 0 * * *")
    assert (found["catchup"], found["active"], found["retries"]) == (True, 1, 2)
    assert found["command"][:3] == ["daily", "--date", "2017-12-02"]
    assert found["outcomes"] == {
        "0": "done",
        "1": "RuntimeError",
        "2": "AirflowFailException",
        str(REFUSED): "AirflowFailException",
        str(BUSY): "AirflowSkipException",
    }


def test_units_name_the_exit_codes_of_the_command() -> None:
    service = (DEPLOY / "systemd" / "twinspire-daily.service").read_text()
    assert re.search(rf"^SuccessExitStatus={BUSY} 143$", service, re.M)
    assert re.search(rf"^RestartPreventExitStatus=2 {REFUSED}$", service, re.M)
    assert "twinspire daily" in service
    assert "OnCalendar=" in (DEPLOY / "systemd" / "twinspire-daily.timer").read_text()


def test_systemd_accepts_the_units() -> None:
    units = sorted((DEPLOY / "systemd").iterdir())
    assert [unit.name for unit in units] == [
        "twinspire-daily.service",
        "twinspire-daily.timer",
        "twinspire-serve.service",
    ]
    try:
        ran = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", *map(str, units)], check=False, capture_output=True, text=True
        )
    except FileNotFoundError:
        pytest.skip("systemd-analyze is not here")
    # The program lies elsewhere on this machine; everything else counts.
    complaints = [line for line in ran.stderr.splitlines() if str(DEPLOY) in line and "is not executable" not in line]
    assert complaints == []


def instructions() -> list[tuple[str, str]]:
    """Name and rest of each line of the Containerfile, continuations joined and comments left out."""
    text = (DEPLOY / "Containerfile").read_text()
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("#")).replace("\\\n", " ")
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in lines.splitlines() if line)]


KNOWN = {
    "FROM", "RUN", "COPY", "WORKDIR", "ENV", "USER", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK", "ENTRYPOINT", "CMD",
}  # fmt: skip


def test_the_container_copies_existing_files_and_runs_valid_commands() -> None:
    found = instructions()
    assert {name for name, _ in found} == KNOWN
    copied = [rest.split()[:-1] for name, rest in found if name == "COPY" and "--from=" not in rest]
    assert [path for paths in copied for path in paths if not (ROOT / path).exists()] == []
    packages = {line.strip().strip('",') for line in re.findall(r"^PACKAGES = \((.*)\)$", SETUP, re.M)[0].split(",")}
    assert packages <= {path for paths in copied for path in paths}
    options = json.loads(dict(found)["ENTRYPOINT"]) + json.loads(dict(found)["CMD"])
    asked = {"host": None, "port": None, "workers": None}
    command = typer.main.get_command(app).commands["serve"]  # type: ignore[attr-defined]
    context = command.make_context("serve", options[2:])
    assert {name: context.params[name] for name in asked} == {"host": "0.0.0.0", "port": 8100, "workers": 2}
    compile(json.loads(dict(found)["HEALTHCHECK"].partition("CMD ")[2])[2], "HEALTHCHECK", "exec")


def test_the_container_is_built_with_bash_and_a_target_of_make() -> None:
    commands = [rest for name, rest in instructions() if name == "RUN"]
    for command in commands:
        subprocess.run(["bash", "-n", "-c", command], check=True)
    [setup] = [word for command in commands for word in re.findall(r"make (setup [^&]*)", command)]
    ran = subprocess.run(["make", "-n", *shlex.split(setup)], cwd=ROOT, check=True, capture_output=True, text=True)
    assert "twinspire[redis]" in ran.stdout or "'.[redis]'" in ran.stdout


def test_the_server_has_time_to_drain_before_it_is_killed() -> None:
    service = (DEPLOY / "systemd" / "twinspire-serve.service").read_text()
    assert int(re.findall(r"^TimeoutStopSec=(\d+)s$", service, re.M)[0]) > STOP_SECONDS
    assert re.search(r"^KillMode=mixed$", service, re.M)
    assert re.search(r"--stop-timeout 30 ", (DEPLOY / "Containerfile").read_text())

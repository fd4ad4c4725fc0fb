"""Do the files of deploy/ load in what they are for, and do they say what the command does?"""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from twinspire.command_line import BUSY
from twinspire.daily import REFUSED

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
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


@pytest.mark.slow
@pytest.mark.skipif(not AIRFLOW.exists(), reason="`make test` installs Airflow's SDK beside; pytest alone does not")
def test_the_dag_loads_and_tells_apart_what_the_command_says() -> None:
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
    assert re.search(rf"^SuccessExitStatus={BUSY}$", service, re.M)
    assert re.search(rf"^RestartPreventExitStatus=2 {REFUSED}$", service, re.M)
    assert "twinspire daily" in service
    assert "OnCalendar=" in (DEPLOY / "systemd" / "twinspire-daily.timer").read_text()


def test_systemd_accepts_the_units() -> None:
    units = [DEPLOY / "systemd" / f"twinspire-daily.{kind}" for kind in ("service", "timer")]
    try:
        ran = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", *map(str, units)], check=False, capture_output=True, text=True
        )
    except FileNotFoundError:
        pytest.skip("systemd-analyze is not here")
    # The program lies elsewhere on this machine; everything else counts.
    complaints = [line for line in ran.stderr.splitlines() if str(DEPLOY) in line and "is not executable" not in line]
    assert complaints == []

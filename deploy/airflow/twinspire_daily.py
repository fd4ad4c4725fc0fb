"""Nightly runs as an Airflow DAG: one run a day, in order, of everything before the day's midnight.

Put the file into the folder of DAGs. Variables of the environment that the worker reads:

    TWINSPIRE_HOME      the checkout with its virtual environment; /opt/twinspire
    TWINSPIRE_CONFIG    the configuration, from there; configs/complete_journey.yaml
    TWINSPIRE_RUNS      the folder of runs, from there; runs
"""

from __future__ import annotations

import datetime as dt
import os
import subprocess
from pathlib import Path

from airflow.sdk import dag, get_current_context, task
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

HOME = Path(os.environ.get("TWINSPIRE_HOME", "/opt/twinspire"))
CONFIG = os.environ.get("TWINSPIRE_CONFIG", "configs/complete_journey.yaml")
RUNS = os.environ.get("TWINSPIRE_RUNS", "runs")

# What `twinspire daily` exits with beside 0 and 1.
MISTAKE, REFUSED, BUSY = 2, 3, 4


@dag(
    dag_id="twinspire_daily",
    schedule="20 0 * * *",
    start_date=dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
    # A day goes on from the one before, so that days run one after the other and none is left out.
    catchup=True,
    max_active_runs=1,
    default_args={"depends_on_past": False, "retries": 2, "retry_delay": dt.timedelta(minutes=10)},
    tags=["twinspire"],
    doc_md=__doc__,
)
def twinspire_daily() -> None:
    """One task: the command keeps what is done, so that a retry goes on where the last try stopped."""

    @task(execution_timeout=dt.timedelta(hours=8))
    def daily() -> None:
        # The interval ends at the midnight before which everything is known.
        day = get_current_context()["data_interval_end"].date()
        command = [HOME / ".venv/bin/twinspire", "daily", "--date", day, "--config", CONFIG, "--runs", RUNS]
        code = subprocess.run([*map(str, command)], cwd=HOME, check=False).returncode
        if code == BUSY:
            raise AirflowSkipException(f"another run is at work on {RUNS}")
        if code in (MISTAKE, REFUSED):
            raise AirflowFailException(f"exit code {code}: needs a person; see `twinspire status` and docs/daily.md")
        if code:
            raise RuntimeError(f"exit code {code}; the next try goes on where this one stopped")

    daily()


twinspire_daily()

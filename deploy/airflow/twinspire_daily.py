"""Nightly runs as an Airflow DAG: one run per day, in order, with all events before the day's midnight.

Put the file into the DAGs folder. Environment variables that the worker reads, with their defaults:

    TWINSPIRE_HOME      the checkout with its virtual environment; /opt/twinspire
    TWINSPIRE_CONFIG    the configuration, relative to it; configs/complete_journey.yaml
    TWINSPIRE_RUNS      the folder of runs, relative to it; runs
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

# Exit codes of `twinspire daily` other than 0 and 1.
MISTAKE, REFUSED, BUSY = 2, 3, 4


@dag(
    dag_id="twinspire_daily",
    schedule="20 0 * * *",
    start_date=dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
    # A day warm-starts from the previous one, so days run in order and none is left out.
    catchup=True,
    max_active_runs=1,
    default_args={"depends_on_past": False, "retries": 2, "retry_delay": dt.timedelta(minutes=10)},
    tags=["twinspire"],
    doc_md=__doc__,
)
def twinspire_daily() -> None:
    """One task: the command keeps finished steps, so a retry continues where the last attempt stopped."""

    @task(execution_timeout=dt.timedelta(hours=8))
    def daily() -> None:
        # The interval ends at the midnight that separates known from unknown events.
        day = get_current_context()["data_interval_end"].date()
        command = [HOME / ".venv/bin/twinspire", "daily", "--date", day, "--config", CONFIG, "--runs", RUNS]
        code = subprocess.run([*map(str, command)], cwd=HOME, check=False).returncode
        if code == BUSY:
            raise AirflowSkipException(f"another run is in progress on {RUNS}")
        if code in (MISTAKE, REFUSED):
            raise AirflowFailException(f"exit code {code}: needs a person; see `twinspire status` and docs/daily.md")
        if code:
            raise RuntimeError(f"exit code {code}; the next attempt continues where this one stopped")

    daily()


twinspire_daily()

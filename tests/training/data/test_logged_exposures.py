"""The configuration decides whether a server logs what it shows, and where."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import pytest

from artefacts.config import pick
from artefacts.paths import RunPaths
from serving.config import ServeSections
from serving.exposures.files import Exposure, read_exposures
from serving.open import service_of
from serving.web.metrics import Metrics
from serving.web.service import Service
from twinspire.load_config import load

JOURNEY = Path(__file__).parents[3] / "configs" / "complete_journey.yaml"
DAY = dt.date(2024, 1, 31)
MOMENT = 1_706_745_599.5  # its last second


def service(paths: RunPaths, *overrides: str) -> Service:
    no_live: Any = None
    return service_of(no_live, Metrics(), pick(ServeSections, load(JOURNEY, overrides)), paths)


def test_nothing_is_logged_unless_asked_for(tmp_path: Path) -> None:
    assert service(RunPaths(tmp_path, DAY)).exposures is None


def test_lists_are_logged_below_the_runs_and_counted(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path, DAY)
    overrides = ("serving.log_exposures=true", "serving.exposure_rows=1", "serving.exposure_flush_seconds=5")
    opened = service(paths, *overrides)
    assert opened.exposures is not None
    opened.exposures.add([Exposure(MOMENT, "u1", "a", "v", "fused", 1, (), ["i1"])])
    opened.exposures.close()
    opened.exposures.add([Exposure(MOMENT, "u1", "a", "v", "fused", 1, (), ["i1"])])
    [batch] = read_exposures(tmp_path / "exposures", DAY, DAY + dt.timedelta(days=1))
    assert batch.num_rows == 1
    values = opened.metrics.registry.get_sample_value
    assert (values("twinspire_exposures_total"), values("twinspire_exposures_dropped_total")) == (1, 1)


@pytest.mark.parametrize("key", ["exposure_rows", "exposure_flush_seconds"])
def test_invalid_settings_are_refused(key: str) -> None:
    with pytest.raises(ValueError, match=key):
        load(JOURNEY, [f"serving.{key}=0"])

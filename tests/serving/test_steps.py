"""The configuration that a bundle carries."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from artefacts.config import as_read, nested, pick
from twinspire.config import Config
from twinspire.load_config import load
from twinspire.main_job import STEPS

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))


def read_up_to_the_bundle(config: Config) -> dict[str, object]:
    names = list(STEPS)[: list(STEPS).index("bundle") + 1]
    return nested(*(as_read(pick(STEPS[name].sections, config)) for name in names))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
@pytest.mark.parametrize("overrides", [(), ("sparcode={}", "evaluation.ks=[5]", "serving.fusion_depth=5")])
def test_a_bundle_carries_the_configuration_that_its_steps_read(
    path: Path, overrides: tuple[str, ...], tmp_path: Path
) -> None:
    made_with = read_up_to_the_bundle(load(path, overrides))
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(made_with, sort_keys=False))
    assert read_up_to_the_bundle(load(tmp_path / "config.yaml")) == made_with

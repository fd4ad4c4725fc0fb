"""What does a person meet who calls `twinspire ablate` the wrong way? Nothing is fitted, and the message says why."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests import forking

REPOSITORY = Path(__file__).parents[2]
JOURNEY = REPOSITORY / "configs" / "complete_journey.yaml"
ARMS = f"""
config: {JOURNEY}
cuts: [2017-11-24]
seeds: [1]
reference: default
arms:
  default: {{}}
  longer: {{overrides: {{training.epochs: 3}}}}
"""


def ablate(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Runs the command in a folder with one file in it."""
    (folder / "arms.yaml").write_text(ARMS)
    command = [sys.executable, "-m", "twinspire", "ablate", *map(str, arguments)]
    return forking.run(command, cwd=folder, check=False, capture_output=True, text=True)


def test_it_explains_itself(tmp_path: Path) -> None:
    ran = ablate(tmp_path, "--help")
    assert (ran.returncode, ran.stderr) == (0, "")
    for expected in (" ablate [OPTIONS] ", "FILE", "--only", "--seeds", "--json", "--out", "--runs"):
        assert expected in ran.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["arms.yaml", "--only", "longer,shorter"], "no arm 'shorter'; the arms are: default, longer"),
        (["arms.yaml", "--set", "training.epoch=3"], "unknown key 'training.epoch'; did you mean 'epochs'?"),
        (["arms.yaml", "--seeds", "0"], "Input should be greater than or equal to 1"),
        (["none.yaml"], "'none.yaml' does not exist"),
        ([], "Missing argument 'FILE'"),
    ],
)
def test_a_wrong_command_line_is_told_with_exit_code_2(tmp_path: Path, arguments: list[str], message: str) -> None:
    ran = ablate(tmp_path, *arguments)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "Traceback" not in ran.stderr
    # A frame around the message breaks its lines.
    assert message in " ".join(ran.stderr.replace("│", " ").split())
    assert [path.name for path in tmp_path.iterdir()] == ["arms.yaml"]
